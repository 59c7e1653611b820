package milter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/forward"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// The stages of a decision, as a trace names them.
const (
	stagePlan    = "plan"
	stageObserve = "observe"
	stageJudge   = "judge"
	stageProtect = "protect"
	stageSession = "session"
	stageCommit  = "commit"
	stageVerdict = "verdict"
)

func (d *Decision) add(stage, format string, args ...any) { d.late.Add(stage, format, args...) }

// Trace says how the decision came about, one step a line. It is made from what
// the steps returned, so a decision that nobody asks about pays nothing for it.
func (d *Decision) Trace() policy.Trace {
	var t policy.Trace
	d.tracePlan(&t)
	for i := range d.plan.places {
		at := &d.plan.places[i]
		for _, a := range slices.Concat(at.as, at.dead) {
			t.Add(stageObserve, "%s", d.observed(a))
		}
	}
	for i := range d.rulings {
		j := &d.rulings[i]
		t.Add(stageJudge, "%s", d.ruled(j))
	}
	d.traceProtect(&t)
	// What was stored comes before what kept the rest from being stored.
	for i := range d.rulings {
		j := &d.rulings[i]
		if !j.owed {
			continue
		}
		for _, a := range d.plan.places[j.place].owing() {
			demand := j.rule.Demand()
			pinned := ""
			if demand.Pin && judge.Destination(demand, a) == "" {
				pinned = ", and is pinned"
			}
			is := "is"
			if d.plan.dry {
				is = "would be"
			}
			t.Add(stageCommit, "%s %s held to %s by rule %q%s", a.Destination, is, demand.Words(), j.rule.Name, pinned)
		}
	}
	t = append(t, d.late...)
	d.traceVerdict(&t)
	return t
}

func (d *Decision) tracePlan(t *policy.Trace) {
	p := &d.plan
	switch r := p.rule; {
	case p.began.IsZero():
		return // it never came to a plan
	case r == nil && len(p.places) == 0:
		t.Add(stagePlan, "no rule concerns the recipient")
	case r == nil:
		t.Add(stagePlan, "no rule for the sender; rules for who forwards may concern the recipient")
	default:
		t.Add(stagePlan, "%s", named(r.Name, r.Line, r.Former, r.Demand().Words(), string(r.Mode)))
	}
	for i := range p.places {
		at := &p.places[i]
		text := ""
		if at.leaf == nil {
			text = "the recipient's own mail " + d.ownMail(at)
		} else {
			text = forwarded(at)
		}
		if g := at.governing; g != nil {
			text += fmt.Sprintf("; rule %q governs who forwards (line %d)", g.Name, g.Line)
		}
		t.Add(stagePlan, "%s", text)
	}
}

// named says which rule it is.
func named(name string, line int, former bool, asks, mode string) string {
	text := fmt.Sprintf("rule %q", name)
	if line > 0 {
		text += fmt.Sprintf(" (line %d)", line)
	}
	text += fmt.Sprintf(" asks for %s, mode %s", asks, mode)
	if former {
		text += "; it isn't in force any more and still binds"
	}
	return text
}

// ownMail says where the recipient's own mail goes, and who says so.
func (d *Decision) ownMail(at *place) string {
	said := "by [relay] or its domain, because no MTA says where it goes"
	if r := d.plan.route; r != (Route{}) {
		said = fmt.Sprintf("by what the MTA says (mailer %q, next hop %q)", r.Mailer, r.Host)
	}
	switch {
	case at.err != nil:
		return fmt.Sprintf("goes nobody knows where: %v, %s", at.err, said)
	case len(at.hops) == 0:
		return "is delivered here, " + said
	}
	return fmt.Sprintf("goes to %s, %s", joined(at.hops, ", "), said)
}

// forwarded says where a forward leads, and by which files and tables.
func forwarded(at *place) string {
	text := "forward: "
	for _, step := range at.leaf.Path {
		text += fmt.Sprintf("%s (%s) -> ", step.From, step.Origin)
	}
	switch {
	case at.enforced:
		return text + fmt.Sprintf("%s can't be read; what it sends on is held at delivery", cmp.Or(at.leaf.Unread, "a file"))
	case at.leaf.Kind == forward.Unknown, at.err != nil:
		return text + fmt.Sprintf("not known: %v", at.err)
	}
	text += at.leaf.Address.String()
	if len(at.hops) > 0 {
		text += " by " + joined(at.hops, ", ")
	}
	return text
}

// joined writes several names as one text.
func joined[T fmt.Stringer](names []T, between string) string {
	var all []string
	for _, name := range names {
		all = append(all, name.String())
	}
	return strings.Join(all, between)
}

// observed says what is known of a destination, and from when.
func (d *Decision) observed(a policy.Assessment) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", a.Destination)
	switch {
	case a.When.IsZero():
		b.WriteString("not probed")
	case a.When.Before(d.plan.began):
		fmt.Fprintf(&b, "from memory, probed at %s, good until %s", when(a.When), when(a.Until))
	default:
		fmt.Fprintf(&b, "probed at %s", when(a.When))
	}
	if a.Pinned {
		b.WriteString(", pinned")
	}
	if a.Partial {
		b.WriteString(", not all hosts yet")
	}
	if a.Problem != "" {
		fmt.Fprintf(&b, "; %s", a.Problem)
	}
	if a.Detail != "" {
		fmt.Fprintf(&b, ": %s", a.Detail)
	}
	for _, h := range a.Hosts {
		fmt.Fprintf(&b, "; %s", h.Name)
		if h.Problem != "" {
			fmt.Fprintf(&b, " %s %s", h.Problem, h.Detail)
		}
		for _, o := range h.Observations {
			if o.Outcome == policy.SawTLS {
				fmt.Fprintf(&b, " %s", judge.Spoken(o))
			} else {
				fmt.Fprintf(&b, " %s", judge.Fault(o))
			}
		}
	}
	return limited(b.String())
}

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ruled says what one rule makes of one place.
func (d *Decision) ruled(j *ruling) string {
	at := &d.plan.places[j.place]
	what := "the recipient's own mail"
	if at.leaf != nil {
		what = "the forward to " + at.leaf.Address.String()
	}
	if j.Reason == "" {
		return fmt.Sprintf("rule %q lets %s go", j.rule.Name, what)
	}
	text := fmt.Sprintf("rule %q would %s %s: %s", j.rule.Name, j.Would, what, j.Reason)
	if j.Verdict == j.Would {
		text = fmt.Sprintf("rule %q says %s of %s: %s", j.rule.Name, j.Verdict, what, j.Reason)
	}
	if !j.Destination.IsZero() {
		text += " at " + j.Destination.String()
	}
	if words := cause(j.rule.Demand(), j.Judgement, at.as); words != "" {
		text += ": " + words
	}
	return text
}

func (d *Decision) traceVerdict(t *policy.Trace) {
	text := string(d.Verdict)
	if d.Would != d.Verdict {
		text += fmt.Sprintf(" (enforcing would %s)", d.Would)
	}
	if d.Reason != "" {
		text += ": " + string(d.Reason)
	}
	if d.Underlying != d.Reason && d.Underlying != "" {
		text += " (" + string(d.Underlying) + ")"
	}
	if d.Reply.Code != 0 {
		text += ", " + d.Reply.String()
	}
	t.Add(stageVerdict, "%s", text)
}
