package observe

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

// Summary is what rules that only observe would have done in a time.
type Summary struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Observing are the rules of the file that observe now.
	Observing    []string      `json:"observing"`
	Rules        []Rule        `json:"rules"`
	Destinations []Destination `json:"destinations"`
	// Left is how many more destinations there are, for a caller that shows the
	// first.
	Left  int  `json:"left"`
	Ready bool `json:"ready"`
	// Why says why it is ready, or all that speaks against it.
	Why []string `json:"why"`
}

// Rule is what one rule would have done, in recipients.
type Rule struct {
	Name     string         `json:"rule"`
	State    string         `json:"state"` // "observe", "enforce", or "gone" from the file
	Judged   int64          `json:"judged"`
	Accepted int64          `json:"accepted"`
	Refused  int64          `json:"refused"`
	Deferred int64          `json:"deferred"`
	Held     int64          `json:"held"`
	Fallback int64          `json:"fallback"` // accepted, and encrypted without TLS
	Reasons  []ReasonCount  `json:"reasons"`
	Senders  int            `json:"senders"` // about how many
	First    time.Time      `json:"first"`   // the day
	Last     time.Time      `json:"last"`
	set      uint64         // of senders
	verdicts map[key2]int64 // for Reasons
}

type key2 struct {
	verdict policy.Verdict
	reason  policy.Reason
}

// ReasonCount says how often a rule would have given a verdict for a reason.
type ReasonCount struct {
	Verdict policy.Verdict `json:"verdict"`
	Reason  policy.Reason  `json:"reason"`
	Times   int64          `json:"times"`
}

// Destination is one that mail would not have been accepted for.
type Destination struct {
	Destination addr.Destination `json:"destination"` // zero: one of too many to tell apart
	Rule        string           `json:"rule"`
	Verdict     policy.Verdict   `json:"verdict"`
	Reason      policy.Reason    `json:"reason"`
	Times       int64            `json:"times"`
	Senders     int              `json:"senders"`    // about how many
	Recipients  int              `json:"recipients"` // about how many
	Last        time.Time        `json:"last"`
	// Now says what is so by now: "fails", "satisfied", "excepted" by a rule, or
	// "other" where the rule doesn't observe any more.
	Now string `json:"now"`
	By  string `json:"by,omitempty"` // the rule that excepts it
	// What is known of it: whom to write to, and what for.
	Hosts      []string `json:"hosts,omitempty"`
	Postmaster string   `json:"postmaster,omitempty"`
	Advice     []string `json:"advice,omitempty"`

	senders, recipients uint64
}

// Name returns what to call it.
func (d *Destination) Name() string {
	if d.Destination.IsZero() {
		return "other destinations, too many to tell apart"
	}
	return d.Destination.String()
}

// What Destination.Now can be.
const (
	Fails     = "fails"
	Satisfied = "satisfied"
	Excepted  = "excepted"
	Other     = "other"
)

// Summarize sums up what was observed since a time. known returns what is known
// of a destination, false for nothing.
func Summarize(set *rules.Set, rows []store.Observed, since, now time.Time,
	known func(addr.Destination) (policy.Assessment, bool)) Summary {
	s := Summary{Since: since, Until: now, Observing: []string{}, Rules: []Rule{}, Destinations: []Destination{}, Why: []string{}}
	current := map[string]*rules.Rule{}
	for _, r := range set.Rules() {
		if r.Active(now) {
			current[r.Name] = r
		}
	}
	for _, r := range set.Observing(now) {
		s.Observing = append(s.Observing, r.Name)
	}
	byRule := map[string]*Rule{}
	type place struct {
		rule        string
		destination addr.Destination
		verdict     policy.Verdict
		reason      policy.Reason
	}
	places := map[place]*Destination{}
	for _, o := range rows {
		r := byRule[o.Rule]
		if r == nil {
			r = &Rule{Name: o.Rule, State: state(current[o.Rule]), First: o.Day, verdicts: map[key2]int64{}}
			byRule[o.Rule] = r
		}
		r.add(o)
		if o.Verdict == policy.Accept {
			continue
		}
		p := place{o.Rule, o.Destination, o.Verdict, o.Reason}
		d := places[p]
		if d == nil {
			d = &Destination{Destination: o.Destination, Rule: o.Rule, Verdict: o.Verdict, Reason: o.Reason}
			d.Now, d.By = today(set, current[o.Rule], o.Destination, now, known)
			places[p] = d
		}
		d.Times += o.Times
		d.senders |= o.Senders
		d.recipients |= o.Recipients
		d.Senders, d.Recipients = Estimate(d.senders), Estimate(d.recipients)
		if o.Last.After(d.Last) {
			d.Last = o.Last
		}
	}
	for _, r := range byRule {
		for k, times := range r.verdicts {
			r.Reasons = append(r.Reasons, ReasonCount{k.verdict, k.reason, times})
		}
		slices.SortFunc(r.Reasons, func(a, b ReasonCount) int {
			return cmp.Or(cmp.Compare(b.Times, a.Times), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Reason, b.Reason))
		})
		s.Rules = append(s.Rules, *r)
	}
	slices.SortFunc(s.Rules, func(a, b Rule) int { return cmp.Compare(a.Name, b.Name) })
	for _, d := range places {
		d.address(current[d.Rule], known)
		s.Destinations = append(s.Destinations, *d)
	}
	slices.SortFunc(s.Destinations, func(a, b Destination) int {
		return cmp.Or(cmp.Compare(order(a.Now), order(b.Now)), cmp.Compare(b.Times, a.Times),
			cmp.Compare(a.Destination.String(), b.Destination.String()), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Reason, b.Reason))
	})
	s.judge(set, byRule, now)
	return s
}

func state(r *rules.Rule) string {
	if r == nil {
		return "gone"
	}
	return string(r.Mode)
}

func order(now string) int { return slices.Index([]string{Fails, Satisfied, Excepted, Other}, now) }

func (r *Rule) add(o store.Observed) {
	r.Judged += o.Times
	switch o.Verdict {
	case policy.Accept:
		r.Accepted += o.Times
	case policy.Reject:
		r.Refused += o.Times
	case policy.Defer:
		r.Deferred += o.Times
	case policy.Fallback:
		r.Fallback += o.Times
	default:
		r.Held += o.Times
	}
	r.verdicts[key2{o.Verdict, o.Reason}] += o.Times
	r.set |= o.Senders
	r.Senders = Estimate(r.set)
	if o.Day.Before(r.First) {
		r.First = o.Day
	}
	if o.Last.After(r.Last) {
		r.Last = o.Last
	}
}

// today says what would be so today of a destination that would not have been
// accepted.
func today(set *rules.Set, r *rules.Rule, d addr.Destination, now time.Time,
	known func(addr.Destination) (policy.Assessment, bool)) (is, by string) {
	if r == nil || r.Mode != policy.Observe {
		return Other, ""
	}
	if d.IsZero() {
		return Fails, ""
	}
	if other := set.ExceptedFrom(r, d.Host(), now); other != nil && !d.Direct() {
		return Excepted, other.Name
	}
	if a, ok := known(d); ok && judge.Destination(r.Demand(), a) == "" {
		return Satisfied, ""
	}
	return Fails, ""
}

// address fills in whom to write to, and what the rule, nil for one that is gone,
// asks of them.
func (d *Destination) address(r *rules.Rule, known func(addr.Destination) (policy.Assessment, bool)) {
	if d.Destination.IsZero() {
		return
	}
	if host := d.Destination.Host(); !host.IsLiteral() && !d.Destination.Direct() {
		d.Postmaster = "postmaster@" + host.String() // RFC 5321, section 4.5.1
	}
	a, ok := known(d.Destination)
	if !ok {
		return
	}
	for _, h := range a.Hosts {
		d.Hosts = append(d.Hosts, h.Name.String())
	}
	demand := policy.DefaultDemand()
	if r != nil {
		demand = r.Demand()
	}
	for _, m := range judge.MissingFor(demand, a) {
		d.Advice = append(d.Advice, m.String())
	}
}

// judge says whether the rules can be enforced.
func (s *Summary) judge(set *rules.Set, byRule map[string]*Rule, now time.Time) {
	no := func(format string, args ...any) { s.Why = append(s.Why, fmt.Sprintf(format, args...)) }
	if len(s.Observing) == 0 {
		if s.Ready = set.Enforces(now); s.Ready {
			no("no rule only observes: what asks for TLS is enforced")
		} else {
			no("no rule requires TLS")
		}
		return
	}
	for _, name := range s.Observing {
		if r := byRule[name]; r == nil || r.Judged == 0 {
			no("rule %q has judged no mail in this time", name)
		}
	}
	failing, times := map[addr.Destination]bool{}, int64(0)
	for _, d := range s.Destinations {
		if d.Now == Fails {
			failing[d.Destination] = true
			times += d.Times
		}
	}
	if len(failing) > 0 {
		no("mail for %s would not be accepted (%s in this time): make an exception for each, have it mended, or accept the refusals",
			count(len(failing), "destination"), count(int(times), "recipient"))
	}
	if s.Ready = len(s.Why) == 0; s.Ready {
		no("every recipient judged would be accepted today")
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Line says in one sentence what would have been refused; "" where no rule
// observes.
func (s Summary) Line() string {
	if len(s.Observing) == 0 {
		return ""
	}
	var judged, refused, deferred, held int64
	for _, r := range s.Rules {
		if r.State == string(policy.Observe) {
			judged, refused, deferred, held = judged+r.Judged, refused+r.Refused, deferred+r.Deferred, held+r.Held
		}
	}
	text := fmt.Sprintf("%s: of %s since %s, enforcing would have refused %d and deferred %d",
		unprotecting(len(s.Observing)), count(int(judged), "recipient"),
		s.Since.Local().Format("2006-01-02 15:04"), refused, deferred)
	if held > 0 {
		text += fmt.Sprintf(", and held %d", held)
	}
	return text
}

// unprotecting says that rules protect nobody.
func unprotecting(n int) string {
	if n == 1 {
		return "1 rule only observes, so it protects nobody"
	}
	return fmt.Sprintf("%d rules only observe, so they protect nobody", n)
}
