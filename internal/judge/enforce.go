package judge

import (
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Enforcement says what holds an MTA to a demand at delivery to the destination
// that a is of: what the demand asks, or what the destination publishes and the
// demand honors, whichever is more. An MTA takes one mechanism for all mail
// hosts, so of several ways to satisfy a demand it is that of the first host,
// in the MTA's order, that does.
//
// It is false where that takes knowing the destination and a knows nothing:
// anything said then could be too little.
func Enforcement(d policy.Demand, a policy.Assessment) (policy.TLSPolicy, bool) {
	b, ok := mechanism(d, a)
	b.Unnamed = ok && Unnamed(d, a)
	return b, ok
}

// Unnamed reports whether the first host that satisfies a demand does so only where
// the MTA does not name it in its hello (SNI).
func Unnamed(d policy.Demand, a policy.Assessment) bool {
	for _, h := range a.Hosts {
		if Host(d, a, h) != "" {
			continue
		}
		for _, o := range h.Observations {
			if Address(d, a, h, o) == "" {
				return o.Unnamed
			}
		}
	}
	return false
}

// mechanism is Enforcement without what the hello is to name.
func mechanism(d policy.Demand, a policy.Assessment) (policy.TLSPolicy, bool) {
	b := policy.TLSPolicy{Level: d.Level, MinVersion: d.MinVersion, MinBits: d.MinBits}
	if !d.Level.Enforces() || d.Level == policy.LevelDane {
		return b, true
	}
	switch {
	case d.Level == policy.LevelEncrypt && d.Honor == (policy.Honor{}):
		return b, true
	case a.Problem.Permanent():
		// Nothing will be delivered. The MTA finds that out for itself, and if it doesn't, it is held all the same: to the policy,
		// where there is one.
	case a.Problem != "" || len(a.Hosts) == 0 || a.Partial:
		return policy.TLSPolicy{}, false
	}
	if d.Level == policy.LevelEncrypt {
		switch {
		case d.Honor.DANE && onlyDANE(a):
			b.Level = policy.LevelDane
		case d.Honor.MTASTS && a.MTASTS.Enforces():
			matchSTS(&b, a)
		case d.Honor.DANE && secureMX(a) && !reachable(a):
			return policy.TLSPolicy{}, false
		}
		return b, true
	}
	for _, h := range a.Hosts {
		if Host(d, a, h) != "" {
			continue
		}
		for _, o := range h.Observations {
			if Address(d, a, h, o) != "" {
				continue
			}
			switch {
			case h.DANE == policy.DANEUsable && secureMX(a):
				b.Level = policy.LevelDane
			case a.MTASTS.Enforces() && matchesSTS(a, h, o):
				matchSTS(&b, a)
			default:
				matchNames(&b, d, a)
			}
			return b, true
		}
	}
	// No host does, for now. The mail waits for one that does so in the way the destination publishes.
	switch {
	case secureMX(a) && slices.ContainsFunc(a.Hosts, mayHaveDANE):
		b.Level = policy.LevelDane
	case a.MTASTS.Enforces():
		matchSTS(&b, a)
	default:
		matchNames(&b, d, a)
	}
	return b, true
}

// reachable reports whether the addresses of any mail host are known, or that there are none to be known. Of a host without
// nobody knows whether DANE authenticates it.
func reachable(a policy.Assessment) bool {
	return slices.ContainsFunc(a.Hosts, func(h policy.Host) bool { return h.Problem == "" }) ||
		!slices.ContainsFunc(a.Hosts, func(h policy.Host) bool { return h.Problem.Unknown() })
}

// onlyDANE reports whether DANE authenticates every mail host that could be used. Where it does so for some of them only,
// an MTA that is told to use no others would leave those out which the destination wants used. One whose addresses can't be
// looked up for the moment doesn't count: else to hold up that answer would be enough to switch DANE off.
func onlyDANE(a policy.Assessment) bool {
	if !secureMX(a) {
		return false
	}
	usable := false
	for _, h := range a.Hosts {
		switch {
		case h.Problem != "": // can't be used
		case mayHaveDANE(h):
			usable = true
		default:
			return false
		}
	}
	return usable
}

// mayHaveDANE reports whether a host is to be used only as its TLSA records say. Where they could not be asked for, an MTA that
// asks for them itself will not use it either (RFC 7672, section 2.1.2); one that doesn't would.
func mayHaveDANE(h policy.Host) bool {
	return h.DANE == policy.DANEUsable || h.DANE == policy.DANEUnknown
}

// matchSTS binds to the names of the MTA-STS policy. "*." is one label there
// and any number of labels to an MTA: a certificate for more labels is the
// domain's own, too.
func matchSTS(b *policy.TLSPolicy, a policy.Assessment) {
	sts := a.MTASTS // a copy, for what b points to is kept
	b.Level, b.STS = policy.LevelSecure, &sts
	for _, pattern := range a.MTASTS.MX {
		b.Match = append(b.Match, strings.TrimPrefix(pattern, "*"))
	}
}

// matchNames binds to the name of the destination itself, and to those that the rule takes for it.
func matchNames(b *policy.TLSPolicy, d policy.Demand, a policy.Assessment) {
	b.Level = policy.LevelSecure
	if host := a.Destination.Host(); !host.IsLiteral() {
		b.Match = append(b.Match, host.String())
	}
	for _, name := range d.Match {
		b.Match = append(b.Match, name.String())
	}
}

// Admits reports whether mail under a demand may be given to a mail host of a destination that shows a certificate with
// this fingerprint (policy.Certificate.Fingerprint): a look saw it there, and it satisfies the demand.
func Admits(d policy.Demand, a policy.Assessment, host addr.Domain, fingerprint string) bool {
	if fingerprint == "" || a.Problem != "" {
		return false
	}
	for _, h := range a.Hosts {
		if h.Name != host || h.Problem != "" || h.DANE == policy.DANEUnknown {
			continue
		}
		for _, o := range h.Observations {
			if len(o.Chain) > 0 && o.Chain[0].Fingerprint == fingerprint && Address(d, a, h, o) == "" {
				return true
			}
		}
	}
	return false
}
