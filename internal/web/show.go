package web

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// bar is a piece of a bar chart that is 100 wide.
type bar struct {
	Class    string
	X, Width float64
}

// levelBar is a row of the chart of levels.
type levelBar struct {
	Level string
	Count int
	Share string // "12 %"
	Bars  []bar
}

func levelBars(s totals) []levelBar {
	var all []levelBar
	for _, l := range levels() {
		n := s.Levels[l]
		if n == 0 && l == string(policy.LevelNone) {
			continue // hardly anybody has such
		}
		row := levelBar{Level: l, Count: n, Share: share(n, s.Known)}
		if n > 0 {
			row.Bars = []bar{{"level-" + l, 0, max(100*float64(n)/float64(s.Known), 0.5)}}
		}
		all = append(all, row)
	}
	return all
}

func share[T int | uint64](n, of T) string {
	switch {
	case n == 0:
		return "0 %"
	case n == of:
		return "100 %"
	case 100*float64(n)/float64(of) < 1:
		return "< 1 %"
	}
	return fmt.Sprintf("%.0f %%", min(100*float64(n)/float64(of), 99))
}

// ruleRow is a rule, and what it decided since the start.
type ruleRow struct {
	*rules.Rule
	Gone  bool // not in the file any more; only the name is known
	Ended bool
	decided
}

// inboundRow is a rule about how mail comes in, likewise.
type inboundRow struct {
	*inbound.Rule
	Gone  bool
	Ended bool
	decided
}

// decided is what a rule decided since the start.
type decided struct {
	Total    uint64
	Verdicts []verdictCount // those of policy, always all
	Reasons  []counted
	Bars     []bar
	Chart    string // the bars in words
}

type verdictCount struct {
	Verdict policy.Verdict
	Count   uint64
}

// verdicts that are decided, in the order of bars.
func verdicts() []policy.Verdict {
	return []policy.Verdict{policy.Accept, policy.Fallback, policy.Hold, policy.Defer, policy.Reject}
}

// ruleRows joins rules with their counts, in the order of the file; rules that are gone and decided something come last.
func ruleRows(rs []*rules.Rule, counts []counted, now time.Time) []ruleRow {
	var rows []ruleRow
	known := map[string]bool{}
	for _, r := range rs {
		known[r.Name] = true
		rows = append(rows, ruleRow{r, false, !r.Active(now), newDecided(r.Name, inMode(r.Mode, counts))})
	}
	for _, o := range others(known, counts) {
		rows = append(rows, ruleRow{&rules.Rule{Name: o.Rule, Mode: o.Mode}, true, false, newDecided(o.Rule, inMode(o.Mode, counts))})
	}
	return rows
}

// inMode returns the counts of what rules decided in a mode: before a rule
// enforces, it only said what it would do.
func inMode(m policy.Mode, counts []counted) []counted {
	return slices.DeleteFunc(slices.Clone(counts), func(c counted) bool { return c.Mode != m })
}

// inboundRows is ruleRows of the others.
func inboundRows(rs []*inbound.Rule, counts []counted, now time.Time) []inboundRow {
	var rows []inboundRow
	known := map[string]bool{}
	for _, r := range rs {
		known[r.Name] = true
		rows = append(rows, inboundRow{r, false, !r.Active(now), newDecided(r.Name, inMode(r.Mode, counts))})
	}
	for _, o := range others(known, counts) {
		rows = append(rows, inboundRow{&inbound.Rule{Name: o.Rule, Mode: o.Mode}, true, false, newDecided(o.Rule, inMode(o.Mode, counts))})
	}
	return rows
}

// others names the rules that decided something and aren't known, each in the
// modes that it had. No other field is set.
func others(known map[string]bool, counts []counted) []Decision {
	var found []Decision
	for _, c := range counts {
		if o := (Decision{Rule: c.Rule, Mode: c.Mode}); !known[c.Rule] && !slices.Contains(found, o) {
			found = append(found, o)
		}
	}
	return found
}

// newDecided picks one rule's counts.
func newDecided(rule string, counts []counted) decided {
	var d decided
	for _, c := range counts {
		if c.Rule == rule {
			d.Total += c.Count
			d.Reasons = append(d.Reasons, c)
		}
	}
	d.chart()
	return d
}

func (r *decided) chart() {
	x := 0.0
	var words []string
	for _, v := range verdicts() {
		n := uint64(0)
		for _, c := range r.Reasons {
			if c.Verdict == v {
				n += c.Count
			}
		}
		r.Verdicts = append(r.Verdicts, verdictCount{v, n})
		if n == 0 {
			continue
		}
		width := 100 * float64(n) / float64(r.Total)
		r.Bars = append(r.Bars, bar{"verdict-" + string(v), x, width})
		x += width
		words = append(words, string(v)+" "+share(n, r.Total))
	}
	// What is rare is what one looks for: it gets a width that can be seen, at the cost of the widest.
	const least = 1.5
	widest, lacking := 0, 0.0
	for i := range r.Bars {
		if r.Bars[i].Width > r.Bars[widest].Width {
			widest = i
		}
	}
	for i := range r.Bars {
		if w := &r.Bars[i].Width; *w < least {
			lacking += least - *w
			*w = least
		}
	}
	if len(r.Bars) > 0 {
		r.Bars[widest].Width -= lacking
	}
	x = 0
	for i := range r.Bars {
		r.Bars[i].X = x
		x += r.Bars[i].Width
	}
	r.Chart = cmp.Or(strings.Join(words, ", "), "nothing decided yet")
}

// Ends is the last day of the rule, "" for none.
func (r ruleRow) Ends() string { return lastDay(r.Rule.Until) }

// Ends is the last day of the rule, "" for none.
func (r inboundRow) Ends() string { return lastDay(r.Rule.Until) }

func lastDay(until time.Time) string {
	if until.IsZero() {
		return ""
	}
	return until.Add(-time.Second).Format(time.DateOnly)
}

// Clients says who connects.
func (r inboundRow) Clients() []string { return orAll(asTexts(r.Client)) }

// Senders says whose mail the rule is for.
func (r inboundRow) Senders() []string { return orAll(asTexts(r.From)) }

// Recipients says to whom.
func (r inboundRow) Recipients() []string { return orAll(asTexts(r.To)) }

// orAll is a list where an empty one means all.
func orAll(texts []string) []string {
	if len(texts) == 0 {
		return []string{"*"}
	}
	return texts
}

// Senders says whose mail the rule is for.
func (r ruleRow) Senders() []string {
	all := asTexts(r.From)
	for _, u := range r.User {
		all = append(all, "login "+u)
	}
	return orAll(all)
}

// Forwards says whose forwards the rule governs.
func (r ruleRow) Forwards() []string { return asTexts(r.Forwarder) }

// Recipients says to whom.
func (r ruleRow) Recipients() []string { return orAll(asTexts(r.To)) }

// Honors says which published promises bind the rule's mail.
func (r ruleRow) Honors() string {
	var all []string
	if r.Honor.DANE {
		all = append(all, "dane")
	}
	if r.Honor.MTASTS {
		all = append(all, "mta-sts")
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// Matches says which names of certificates do besides the destination's own.
func (r ruleRow) Matches() []string { return asTexts(r.Match) }

// asTexts writes values as they write themselves.
func asTexts[T fmt.Stringer](values []T) []string {
	var all []string
	for _, v := range values {
		all = append(all, v.String())
	}
	return all
}

// hostView is a mail host and what can be said of it.
type hostView struct {
	policy.Host
	What     string // "MX 10", "host", "the domain itself"
	Reason   policy.Reason
	Problem  string // in words
	Literal  bool
	STS      string // how it stands to the policy, "" where there is none
	Records  []record
	Matching string // what the TLSA records are worth
	Probes   []probeView
}

// record is a TLSA record.
type record struct {
	Text    string
	Matched bool
}

type probeView struct {
	policy.Observation
	Leaf  *policy.Certificate
	Above []policy.Certificate
}

func hostViews(a policy.Assessment) []hostView {
	var all []hostView
	for _, h := range a.Hosts {
		v := hostView{Host: h, Reason: judge.Host(policy.DefaultDemand(), a, h), Literal: h.Name.IsLiteral()}
		switch {
		case a.Destination.Direct():
			v.What = "host"
		case h.Implicit:
			v.What = "no MX, the domain itself"
		default:
			v.What = fmt.Sprintf("MX %d", h.Preference)
		}
		v.Problem = cmp.Or(h.Detail, string(h.Problem))
		if a.MTASTS.Mode == policy.STSEnforce || a.MTASTS.Mode == policy.STSTesting {
			v.STS = "named by the policy"
			if judge.STSFault(a.MTASTS, h) == judge.NotNamed {
				v.STS = "not named by the policy"
			}
		}
		for _, r := range h.TLSA {
			matched := slices.ContainsFunc(h.Observations, func(o policy.Observation) bool { return o.DANERecord == r.String() })
			v.Records = append(v.Records, record{r.String(), matched})
		}
		v.Matching = daneWords(h)
		for _, o := range h.Observations {
			look := probeView{Observation: o}
			if len(o.Chain) > 0 {
				look.Leaf, look.Above = &o.Chain[0], o.Chain[1:]
			}
			v.Probes = append(v.Probes, look)
		}
		all = append(all, v)
	}
	return all
}

// daneWords says what a host's TLSA records are worth.
func daneWords(h policy.Host) string {
	switch {
	case h.Name.IsLiteral():
		return "an address has none"
	case h.DANE == policy.DANEUsable:
		return "TLSA records, usable"
	case h.DANE == policy.DANEUnusable:
		return "TLSA records, none of them usable"
	case h.DANE == policy.DANEUnknown:
		return "not known: " + h.DANEDetail
	case h.Problem == "" && !h.Secure:
		return "none: its addresses are not signed by DNSSEC"
	}
	return "no TLSA records"
}

// describeObservation says in words what an address did.
func describeObservation(o policy.Observation) string {
	switch o.Outcome {
	case policy.SawTLS:
		s := fmt.Sprintf("TLS %s, %s, %d bits", o.Version, o.Cipher, o.Bits)
		if o.Exchange != "" {
			s += ", " + o.Exchange
		}
		return s
	case policy.SawNoSTARTTLS:
		return "does not offer STARTTLS"
	}
	s := fmt.Sprintf("%s at %s", o.Outcome, o.Stage)
	if o.Detail != "" {
		s += ": " + o.Detail
	}
	return s
}

// Titled is the subject of a certificate as people know it.
func (l probeView) Titled() string {
	if l.Leaf == nil {
		return ""
	}
	return cmp.Or(strings.Join(l.Leaf.Names, ", "), l.Leaf.Subject, "nobody named")
}

// AliasOf returns the end of a host's CNAME chain, "" for none.
func (h hostView) AliasOf() string {
	if h.Alias == (addr.Domain{}) {
		return ""
	}
	return h.Alias.String()
}
