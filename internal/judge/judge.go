// Package judge alone says what an assessment satisfies: whether a destination, a
// mail host or an address meets a demand and why not (Destination, Host,
// Address), which level is reached (Level), what the MTA is held to at delivery
// (Enforcement, Admits), how long a result serves (Outcome, Broken, Final), and
// what is missing for the next level (Missing). Nothing else compares TLS
// versions, bits, certificate names, DANE results or MTA-STS policies.
//
// It is pure: no I/O, no clock, no state. It knows no rules, only the demand
// that they make, so every package that has an assessment can ask it.
package judge

import "tlsonly/internal/policy"

// Destination says why a destination does not satisfy a demand, "" when it
// does. Permanent problems (null MX, no such domain) are said whatever the
// level, because nobody could deliver there. Levels none and may ask nothing else.
//
// A destination is satisfied when one usable host satisfies the demand: the MTA
// is bound at delivery to use only such. It fails only when every usable host
// has been seen to fail; a host that could not be looked at leaves the answer
// unknown. A pinned destination that shows no STARTTLS has lost it, which is
// said where the demand heeds pins.
func Destination(d policy.Demand, a policy.Assessment) policy.Reason {
	if a.Problem.Permanent() {
		return a.Problem
	}
	if !d.Level.Enforces() {
		return ""
	}
	if a.Problem != "" {
		return a.Problem
	}
	var worst policy.Reason
	usable, loops := 0, false
	for _, h := range a.Hosts {
		switch h.Problem {
		case policy.Loop:
			loops = true
			continue
		case policy.NoSuchDomain, policy.NotTried:
			continue // no MTA can use it, or the one that delivers won't
		}
		usable++
		reason := Host(d, a, h)
		if reason == "" {
			return ""
		}
		worst = policy.Worse(worst, reason)
	}
	switch {
	case usable > 0 && worst == policy.NoSTARTTLS && d.Pin && a.Pinned:
		return policy.LostTLS
	case usable > 0:
		return worst
	case a.Partial:
		return policy.Timeout
	case len(a.Hosts) == 0:
		return policy.DNSFailure // no host and no problem: nothing is known, which is never "no such domain"
	}
	if loops {
		return policy.Loop
	}
	return policy.NoMailHost
}

// Host says why one host of the destination that a is of does not satisfy a
// demand, "" when one of its addresses does; to an MTA that tries no address after
// the first that takes the connection that one has to.
func Host(d policy.Demand, a policy.Assessment, h policy.Host) policy.Reason {
	if h.Problem != "" {
		return h.Problem
	}
	if h.DANE == policy.DANEUnknown && (d.Honor.DANE || d.Level.Rank() > policy.LevelEncrypt.Rank()) {
		// RFC 7672, section 2.1.2: a host whose TLSA records could not be asked for must not be used.
		return policy.DNSFailure
	}
	if len(h.Observations) == 0 {
		return policy.Timeout // still being looked at
	}
	var worst policy.Reason
	for _, o := range h.Observations {
		reason := Address(d, a, h, o)
		if reason == "" || a.OneAddress && o.Stage != policy.StageConnect {
			return reason
		}
		worst = policy.Worse(worst, reason)
	}
	return worst
}

// Address says why one address of a host does not satisfy a demand, "" when it
// does. The host itself is judged by Host.
func Address(d policy.Demand, a policy.Assessment, h policy.Host, o policy.Observation) policy.Reason {
	switch o.Outcome {
	case policy.SawTLS:
		if o.Version < d.MinVersion || o.Bits < d.MinBits {
			return policy.WeakTLS
		}
		return authenticate(d, a, h, o)
	case policy.SawNoSTARTTLS:
		return policy.NoSTARTTLS
	case policy.SawRefused, policy.SawBroken:
		return policy.Handshake
	case policy.SawTimeout:
		return policy.Timeout
	}
	return policy.Unreachable
}

// Level is the highest level that a destination satisfies, with what else the
// demand asks: its Level is not read. It is none where nobody can deliver, and
// "" where the level isn't known.
func Level(d policy.Demand, a policy.Assessment) policy.Level {
	d.Level = policy.LevelEncrypt
	switch reason := Destination(d, a); {
	case reason.Unknown():
		return ""
	case reason.Permanent():
		return policy.LevelNone
	case reason != "":
		return policy.LevelMay
	}
	for _, d.Level = range []policy.Level{policy.LevelDane, policy.LevelSecure} {
		if Destination(d, a) == "" {
			return d.Level
		}
	}
	return policy.LevelEncrypt
}

// Reached is Level with the version, the strength and the promises of
// policy.DefaultDemand.
func Reached(a policy.Assessment) policy.Level { return Level(policy.DefaultDemand(), a) }

// Lost reports whether a destination that is pinned offers no STARTTLS any more.
func Lost(a policy.Assessment, pinned bool) bool {
	a.Pinned = pinned
	return Destination(policy.Demand{Level: policy.LevelEncrypt, Pin: true}, a) == policy.LostTLS
}
