package rules

import (
	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Judge says why a destination does not satisfy a demand, "" when it does. Permanent problems (null MX, no such
// domain) are said whatever the level, for nobody could deliver there. Levels none and may ask nothing else.
//
// A destination is satisfied when one usable host satisfies the demand: the MTA is bound at delivery to use only
// such. It fails only when every usable host has been seen to fail; a host that could not be looked at leaves the
// answer unknown. A pinned destination that shows no STARTTLS has lost it, which is said where the demand heeds pins.
func Judge(d policy.Demand, a policy.Assessment) policy.Reason {
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
	usable := 0
	for _, h := range a.Hosts {
		if h.Problem == policy.NoSuchDomain {
			continue // no MTA can use it
		}
		usable++
		reason := JudgeHost(d, a, h)
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
	return policy.NoSuchDomain
}

// Reached is the highest level that a destination satisfies, with the version and strength of policy.DefaultDemand; ""
// when that isn't known.
func Reached(a policy.Assessment) policy.Level {
	d := policy.DefaultDemand()
	switch reason := Judge(d, a); {
	case reason.Unknown():
		return ""
	case reason.Permanent():
		return policy.LevelNone
	case reason != "":
		return policy.LevelMay
	}
	for _, d.Level = range []policy.Level{policy.LevelDane, policy.LevelSecure} {
		if Judge(d, a) == "" {
			return d.Level
		}
	}
	return policy.LevelEncrypt
}

// JudgeHost says why one host of the destination that a is of does not satisfy a demand, "" when one of its addresses
// does.
func JudgeHost(d policy.Demand, a policy.Assessment, h policy.Host) policy.Reason {
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
		reason := judgeObservation(d, a, h, o)
		if reason == "" {
			return ""
		}
		worst = policy.Worse(worst, reason)
	}
	return worst
}

func judgeObservation(d policy.Demand, a policy.Assessment, h policy.Host, o policy.Observation) policy.Reason {
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

// Judgement is what a rule makes of a recipient.
type Judgement struct {
	Verdict policy.Verdict
	// Reason is why, "" when every destination satisfies the rule.
	Reason policy.Reason
	// Destination is the one that decided, zero when none did.
	Destination addr.Destination
	Tag         policy.Tag
	// Would is the verdict that mode "enforce" would have given; it differs from Verdict only in mode "observe".
	Would policy.Verdict
}

// Judge gives the verdict for a recipient whose mail goes to all the destinations assessed; none at all means it is
// delivered here. The strictest verdict decides.
func (r *Rule) Judge(as []policy.Assessment) Judgement {
	j := Judgement{Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagPass}
	for _, a := range as {
		reason := Judge(r.Demand(), a)
		verdict, tag := r.act(reason)
		if verdict.Rank() > j.Would.Rank() || j.Reason == "" && reason != "" {
			j.Would, j.Reason, j.Destination, j.Tag = verdict, reason, a.Destination, tag
		}
	}
	j.Verdict = j.Would
	if r.Mode == policy.Observe && j.Reason != "" {
		j.Verdict, j.Tag = policy.Accept, policy.TagObserve
	}
	return j
}

// act is what the rule does about a reason.
func (r *Rule) act(reason policy.Reason) (policy.Verdict, policy.Tag) {
	switch {
	case reason == "":
		return policy.Accept, policy.TagPass
	case reason.Permanent():
		return policy.Reject, policy.TagFail
	case reason == policy.LostTLS:
		return policy.Defer, policy.TagFail // a pin is never undone by one bad day
	case reason.Unknown():
		return r.OnUnknown.Verdict(), policy.TagFail
	}
	return r.OnFail.Verdict(), policy.TagFail
}
