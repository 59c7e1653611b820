package milter

import (
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// ruling is what one rule makes of one place.
type ruling struct {
	rule  *rules.Rule
	place int // of plan.places
	rules.Judgement
	owed bool // what it demands is stored

	// Where the rule falls back: the method that encrypts, "" for none; and why
	// there is none.
	method      policy.Method
	unprotected error
}

// rulings are what each rule makes of each place. It is pure.
func (d *Decider) rulings(p plan) []ruling {
	var found []ruling
	for i := range p.places {
		at := &p.places[i]
		for _, r := range [...]*rules.Rule{p.rule, at.governing} {
			if r != nil && !at.enforced {
				found = append(found, ruling{rule: r, place: i, Judgement: r.Judge(at.as)})
			}
		}
	}
	return found
}

// judge says what all rulings together come to. It is pure.
func (d *Decider) judge(p plan, rulings []ruling) Decision {
	out := Decision{Recipient: p.to, Rule: p.rule, plan: p, rulings: rulings,
		Judgement: rules.Judgement{Verdict: policy.Accept, Would: policy.Accept}}
	decides := -1
	for i := range p.places {
		at := &p.places[i]
		switch {
		case at.enforced:
			out.Unread = append(out.Unread, *at.leaf)
			continue
		case at.leaf == nil:
			out.Destinations = append(out.Destinations, at.hops...)
		default:
			out.Forwards = append(out.Forwards, *at.leaf)
		}
		out.Assessments = append(out.Assessments, at.as...)
	}
	for i := range rulings {
		if decides < 0 || stricter(rulings[i].Judgement, rulings[decides].Judgement) {
			decides = i
		}
	}
	switch {
	case decides < 0 && out.Rule == nil:
		return out // a recipient that doesn't forward, or whose forwards nobody governs
	case decides < 0: // delivered here
		out.Judgement = out.Rule.Judge(nil)
		return out
	}
	j := &out.rulings[decides]
	at := &p.places[j.place]
	out.Rule, out.Judgement, out.Underlying = j.rule, j.Judgement, j.Reason
	out.Method, out.Unprotected = j.method, j.unprotected
	out.Cause = cause(out.Rule.Demand(), out.Judgement, at.as)
	if j.unprotected != nil {
		out.Cause = limited(out.Cause + "; no method: " + oneLine(j.unprotected))
	}
	if at.leaf != nil && out.Reason != "" {
		out.Cause = limited(fmt.Sprintf("%s: %s: %s", forwardPath(at.leaf), out.Reason, out.Cause))
		out.Reason = policy.Forward
	}
	if out.Rule.Former && out.Reason != "" {
		out.Cause = limited("the rule is not in force any more but binds mail accepted under it, see tlsonly classes: " + out.Cause)
	}
	out.Reply = d.reply(&out)
	return out
}

// stricter reports whether a counts before b: by what is done first, for a rule
// that only observes takes nothing from one that doesn't, whatever it would do.
func stricter(a, b rules.Judgement) bool {
	switch {
	case a.Verdict != b.Verdict:
		return a.Verdict.Rank() > b.Verdict.Rank()
	case a.Would != b.Would:
		return a.Would.Rank() > b.Would.Rank()
	}
	return a.Reason != "" && b.Reason == ""
}

// promises reports whether mail that is accepted is held to what the rule demands.
func (j *ruling) promises() bool {
	return j.rule.Enforcing() &&
		(j.Reason == "" || j.Reason.Unknown() && j.rule.OnUnknown == policy.ActionAccept)
}

// owing are the hops that may get the mail. Of a forward that leads nobody knows
// where, none is known.
func (p *place) owing() []policy.Assessment {
	switch {
	case p.leaf != nil && p.err != nil:
		return nil
	case len(p.dead) == 0:
		return p.as
	}
	return slices.Concat(p.as, p.dead)
}

// maxCause bounds what one decision puts into the log.
const maxCause = 400

// cause says in words what made the deciding destination fail.
func cause(demand policy.Demand, j rules.Judgement, as []policy.Assessment) string {
	if j.Reason == "" {
		return ""
	}
	var parts []string
	for _, a := range as {
		if a.Destination != j.Destination {
			continue
		}
		if a.Detail != "" {
			parts = append(parts, a.Detail)
		}
		for _, f := range judge.Findings(demand, a) {
			parts = append(parts, f.Host.String()+": "+f.Words)
		}
		break
	}
	return limited(strings.Join(parts, "; "))
}

func limited(text string) string {
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "…"
	}
	return text
}
