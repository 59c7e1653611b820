// Package reassess judges mail once more that the MTA could not deliver over TLS, when
// it comes to the gateway: by the rules now in force and by a probe of its
// destination. An MTA turns to the gateway whenever no mail host has taken a
// message, whatever the cause: so it is first to be known that TLS is it.
//
// What becomes of the message then is what the rule says: a method that can
// encrypt it, or a refusal, where on_lost or fallback_else has one. Everything
// else waits, with the true cause.
//
// It probes nothing and compares no TLS itself: packages milter and judge do.
package reassess

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/milter"
	"tlsonly/rules"
)

// Assessor is a milter.Assessor that can be made to probe.
type Assessor interface {
	milter.Assessor
	// Refresh probes a destination now; what was seen of a mail host within age is
	// taken for it.
	Refresh(ctx context.Context, d addr.Destination, age time.Duration) policy.Assessment
}

// age is how old it may be that a mail host doesn't suffice: many messages to one
// destination come at the same time.
const age = 30 * time.Second

// Fresh returns an Assessor whose answers are made now. What doesn't suffice is
// probed twice, at least confirm apart, as with the Assessor itself.
func Fresh(a Assessor, confirm time.Duration) milter.Assessor { return fresh{a, confirm} }

type fresh struct {
	Assessor
	confirm time.Duration
}

func (f fresh) Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment {
	seen := f.Refresh(ctx, d, age)
	if enough == nil || seen.Partial || ctx.Err() != nil {
		return seen
	}
	if enough(seen) {
		// The MTA has just found that it isn't so, or something else keeps it out.
		if seen = f.Refresh(ctx, d, 0); enough(seen) || seen.Partial {
			return seen
		}
		// What was seen before is another thing than this, and confirms nothing.
		select {
		case <-time.After(f.confirm):
		case <-ctx.Done():
			return seen
		}
		if seen = f.Refresh(ctx, d, 0); enough(seen) || seen.Partial {
			return seen
		}
	}
	return f.Assessor.Assess(ctx, d, enough)
}

// Judge is a fallback.Judge. Its fields don't change while it is in use.
type Judge struct {
	// Decider decides by what is found out; see Fresh. It stores nothing.
	Decider milter.Decider
	// Candidates returns the rules for a sender, those too that are not in force any
	// more and bind its mail. An error says that it can't be told whose mail it is.
	Candidates func(sender addr.Address) (rules.Candidates, error)
	Methods    milter.Protector
	// Bounce returns mail whose destination is known not to have the TLS that is
	// asked: [binding] on_lost = "bounce".
	Bounce bool
}

// Judge decides about a message to one recipient.
func (j *Judge) Judge(ctx context.Context, sender, recipient addr.Address) (fallback.Way, error) {
	candidates, err := j.Candidates(sender)
	if err != nil {
		return fallback.Way{}, fmt.Errorf("sender: %w", err)
	}
	d := j.Decider.Decide(ctx, candidates, recipient, milter.Route{})
	if d.Rule == nil {
		return fallback.Way{Code: "4.4.0", Cause: "no mail host took it, and no rule asks for TLS here"}, nil
	}
	w := fallback.Way{Code: "4.7.10", Reason: d.Reason, Rule: d.Rule.Name}
	for _, m := range d.Rule.Fallback {
		w.Passes = append(w.Passes, string(m))
	}
	switch {
	case d.Reason == "":
		w.Code, w.Cause = "4.4.0", fmt.Sprintf("%s satisfies the rule now, and did not take the message", named(d))
		return w, nil
	case d.Reason.Permanent():
		r := policy.ReplyFor(policy.Reject, d.Reason, d.Destination, "")
		w.Action, w.Code, w.Cause = fallback.Refuse, r.Enhanced, r.Text
		return w, nil
	case d.Reason.Unknown(), d.Reason.Ours(), !proven(d):
		r := policy.ReplyFor(policy.Defer, d.Reason, d.Destination, "")
		w.Code, w.Cause = r.Enhanced, because(r.Text, d)
		return w, nil
	}
	r := policy.ReplyFor(policy.Reject, d.Reason, d.Destination, "").Naming(d.Host, d.Destination)
	w.Cause = r.Text
	judgement := d.Rule.Judge(deciding(d))
	if judgement.Verdict == policy.Fallback {
		method, state, err := j.Methods.First(ctx, d.Rule.Fallback, sender, recipient)
		switch state {
		case fallback.Certain:
			w.Action, w.Method = fallback.Encrypt, method
			return w, nil
		case fallback.None:
			w.Cause = r.Text + ", and no other way to protect it is known"
			judgement = judgement.Without()
		default:
			w.Code, w.Cause = "4.7.5", fmt.Sprintf("%s, and whether there is another way to protect it is not known: %v", r.Text, err)
			return w, nil
		}
	}
	falls := d.Rule.FallsBack() && judgement.Verdict == policy.Reject
	if falls || j.Bounce && d.Rule.Enforcing() {
		w.Action, w.Code = fallback.Refuse, r.Enhanced
	}
	return w, nil
}

// named is the destination that was judged, in words.
func named(d milter.Decision) string {
	if len(d.Destinations) > 0 {
		return d.Destinations[0].String()
	}
	return d.Recipient.Domain.String()
}

func because(text string, d milter.Decision) string {
	if d.Cause != "" {
		return text + ": " + d.Cause
	}
	return text
}

// proven reports whether what was seen of the destination that decides was seen
// twice.
func proven(d milter.Decision) bool {
	as := deciding(d)
	return len(as) > 0 && !slices.ContainsFunc(as, func(a policy.Assessment) bool { return !judge.Confirmed(d.Rule.Demand(), a) })
}

// deciding returns what is known of the destination that decides.
func deciding(d milter.Decision) (found []policy.Assessment) {
	for _, a := range d.Assessments {
		if a.Destination == d.Destination {
			found = append(found, a)
		}
	}
	return found
}
