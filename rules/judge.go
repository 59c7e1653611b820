package rules

import (
	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// Judgement is what a rule makes of a recipient.
type Judgement struct {
	Verdict policy.Verdict
	// Reason is why, "" when every destination satisfies the rule.
	Reason policy.Reason
	// Destination is the one that decided, zero when none did.
	Destination addr.Destination
	// Host is the mail host of it that the reason is about, zero when it is about none.
	Host addr.Domain
	Tag  policy.Tag
	// Would is the verdict that mode "enforce" would have given; it differs from Verdict only in mode "observe".
	Would policy.Verdict
}

// Judge gives the verdict for a recipient whose mail goes to all the destinations assessed; none at all means it is
// delivered here. The strictest verdict decides.
func (r *Rule) Judge(as []policy.Assessment) Judgement {
	j := Judgement{Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagPass}
	for _, a := range as {
		reason := judge.Destination(r.Demand(), a)
		verdict, tag := r.act(reason)
		if verdict == policy.Reject && !reason.Permanent() && !judge.Confirmed(r.Demand(), a) {
			verdict = policy.Defer // one bad moment is not the truth
		}
		if verdict.Rank() > j.Would.Rank() || j.Reason == "" && reason != "" {
			j.Would, j.Reason, j.Destination, j.Tag = verdict, reason, a.Destination, tag
			j.Host = addr.Domain{}
			if !reason.Unknown() { // of what isn't known no host is to blame
				j.Host = judge.Blamed(r.Demand(), a, reason)
			}
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
