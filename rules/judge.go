package rules

import (
	"time"

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
	// Else is what comes in place of policy.Fallback where no method can be had;
	// "" with any other verdict.
	Else policy.Verdict
}

// Without returns the judgement where no method of the rule can be had: Else
// in place of policy.Fallback.
func (j Judgement) Without() Judgement {
	if j.Would == policy.Fallback {
		if j.Verdict == j.Would {
			j.Verdict = j.Else
		}
		j.Would, j.Else = j.Else, ""
	}
	return j
}

// Judge gives the verdict for a recipient whose mail goes to all the destinations assessed; none at all means it is
// delivered here. The strictest verdict decides.
func (r *Rule) Judge(as []policy.Assessment) Judgement {
	j := Judgement{Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagPass}
	for _, a := range as {
		reason := judge.Destination(r.Demand(), a)
		verdict, tag := r.act(reason, a.LostFor)
		if verdict == policy.Reject && !reason.Permanent() && !judge.Confirmed(r.Demand(), a) {
			verdict = policy.Defer // one bad moment is not the truth
		}
		otherwise := policy.Verdict("")
		if verdict == policy.Fallback {
			otherwise = r.without(reason, judge.Confirmed(r.Demand(), a))
		}
		worse := verdict == policy.Fallback && j.Would == policy.Fallback && otherwise.Rank() > j.Else.Rank()
		if verdict.Rank() > j.Would.Rank() || worse || j.Reason == "" && reason != "" {
			j.Would, j.Reason, j.Destination, j.Tag = verdict, reason, a.Destination, tag
			j.Else = otherwise
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

// without is what the rule does about a reason where no method can be had.
func (r *Rule) without(reason policy.Reason, confirmed bool) policy.Verdict {
	otherwise := r.FallbackElse.Verdict()
	if reason == policy.LostTLS || otherwise == policy.Reject && !confirmed {
		return policy.Defer
	}
	return otherwise
}

// act is what the rule does about a reason. LostFor is for how long a pinned
// destination has been seen without TLS.
func (r *Rule) act(reason policy.Reason, lostFor time.Duration) (policy.Verdict, policy.Tag) {
	switch {
	case reason == "":
		return policy.Accept, policy.TagPass
	case reason.Permanent():
		return policy.Reject, policy.TagFail
	case reason == policy.LostTLS && r.FallsBack() && len(r.Fallback) > 0 &&
		r.FallbackAfter != Never && lostFor >= r.FallbackAfter:
		return policy.Fallback, policy.TagFail
	case reason == policy.LostTLS:
		return policy.Defer, policy.TagFail // a pin is never undone by one bad day
	case reason.Unknown():
		return r.OnUnknown.Verdict(), policy.TagFail
	}
	if r.FallsBack() && len(r.Fallback) == 0 { // the rules of a sender have none in common
		return r.FallbackElse.Verdict(), policy.TagFail
	}
	return r.OnFail.Verdict(), policy.TagFail
}
