package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// state says how much is wrong.
type state string

// The states, the best first.
const (
	stateOK        state = "ok"
	stateAttention state = "attention" // nothing leaves in the clear, but somebody should know
	stateDanger    state = "danger"    // protected mail may leave in the clear, or the daemon doesn't work
)

// Class is the colour of a note.
func (s state) Class() string {
	return map[state]string{stateOK: "good", stateAttention: "warn", stateDanger: "bad"}[s]
}

func (s state) rank() int { return slices.Index([]state{stateOK, stateAttention, stateDanger}, s) }

// verdict answers whether the mail of protected senders is safe.
type verdict struct {
	State state  `json:"state"`   // the worst of Lines
	Text  string `json:"verdict"` // all of Lines
	Lines []line `json:"lines"`   // in the order of reading; never empty
}

// line is one or two sentences of a verdict.
type line struct {
	State  state  `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // a command
	Link   string `json:"link,omitempty"`   // where more stands
}

// situation is all that a verdict depends on.
type situation struct {
	Now   time.Time
	Since time.Time // from when decisions are counted
	// Recipients of rules that enforce, by what was decided, and those accepted by
	// rules that ask for no TLS.
	Accepted, Refused, Deferred, Held, Excepted uint64
	Deferring                                   bool // some of Deferred within two hours
	Enforcing, Observing                        int  // rules in force
	Binding                                     Binding
	Watched                                     bool // Binding says something
	// Astray are recipients whose transport was found not to enforce TLS, so
	// lately that nothing shows that it was mended.
	Astray   uint64
	Failed   []checkState // checks that failed, without that of the binding
	StoreErr string
	Lost     []string // destinations that lost TLS; the first of them
	LostAll  int
	Network  string // what is wrong with our own
	Resolver string // why its word on DNSSEC isn't believed
	Refusal  error  // of the configuration file
}

// namedLost is how many destinations that lost TLS a verdict names.
const namedLost = 3

// judged makes a verdict. What endangers mail comes first, then what there is no
// protection without, then what was decided, then what waits and why.
//
// It says what was decided here, and what the MTA is bound to. What really left
// only the log of the MTA knows.
func (s situation) judged() verdict {
	var v verdict
	add := func(st state, link, remedy, format string, args ...any) {
		v.Lines = append(v.Lines, line{st, fmt.Sprintf(format, args...), remedy, link})
	}
	s.dangers(add)
	s.protection(add)
	s.decisions(add)
	if s.LostAll > 0 {
		names := strings.Join(s.Lost, ", ")
		if more := s.LostAll - len(s.Lost); more > 0 {
			names += fmt.Sprintf(" and %s more", number(more))
		}
		waits := ""
		if s.Enforcing > 0 {
			waits = ", " + map[bool]string{true: "its", false: "their"}[s.LostAll == 1] + " protected mail waits"
		}
		add(stateAttention, "/destinations?lost=true", "", "%s lost TLS%s: %s.", plural(s.LostAll, "destination"), waits, names)
	}
	if s.Network != "" {
		add(stateAttention, "", "", "Your own network may be at fault, so bad results don’t count against destinations: %s.", stop(s.Network))
	}
	if s.Resolver != "" && s.Enforcing > 0 {
		add(stateAttention, "", "tlsonly doctor", "DANE isn’t used, because the resolver isn’t trusted: %s.", stop(s.Resolver))
	}
	if s.Refusal != nil {
		add(stateAttention, "#refused", "tlsonly lint", "The configuration file was refused, and the rules before it stay in force.")
	}
	v.State = stateOK
	texts := make([]string, len(v.Lines))
	for i, l := range v.Lines {
		texts[i] = l.Text
		if l.State.rank() > v.State.rank() {
			v.State = l.State
		}
	}
	v.Text = strings.Join(texts, " ")
	return v
}

type adder func(st state, link, remedy, format string, args ...any)

// dangers says what may let protected mail leave in the clear, or stops it all.
func (s situation) dangers(add adder) {
	b := s.Binding
	switch {
	case s.Watched && b.Known && !b.OK && !mta.Holes(b.Findings):
		add(stateDanger, "#binding", "tlsonly doctor", "Mail waits or is refused: %s isn’t set up as it must be.", b.MTA)
	case s.Watched && b.Known && !b.OK:
		running := ""
		if b.Down() {
			running = " It isn’t running now."
		}
		add(stateDanger, "#binding", "tlsonly doctor", "Protected mail may leave without TLS: %s isn’t bound.%s", b.MTA, running)
	case s.Astray > 0:
		add(stateDanger, "#state", "tlsonly doctor", "Protected mail may leave without TLS: the MTA meant to send that of %s by a transport that isn’t bound.",
			plural(s.Astray, "recipient"))
	}
	failed := s.Failed
	if s.StoreErr != "" && !slices.ContainsFunc(failed, func(c checkState) bool { return c.Name == "store" }) {
		failed = append(slices.Clone(failed), checkState{Name: "store", Error: s.StoreErr})
	}
	if len(failed) == 0 {
		return
	}
	var names []string
	for _, c := range failed {
		names = append(names, c.Name)
	}
	add(stateDanger, "/readyz", "", "tlsonly doesn’t work as it should, and protected mail may wait: %s.", strings.Join(names, ", "))
}

// protection says what there is no protection without.
func (s situation) protection(add adder) {
	b := s.Binding
	switch {
	case s.Enforcing == 0 && s.Observing == 0:
		add(stateAttention, "/rules", "", "Nobody is protected: no rule requires TLS.")
	case s.Enforcing == 0:
		add(stateAttention, "/rules", "tlsonly observe", "Nobody is protected yet: %s.", observing(s.Observing))
	}
	switch {
	case !s.Watched:
		add(stateAttention, "", "tlsonly doctor", "The MTA isn’t watched here, so it isn’t known whether it is bound.")
	case !b.Known && b.Problem != "":
		add(stateAttention, "#binding", "tlsonly doctor", "It isn’t known whether %s is bound: %s.", b.MTA, stop(b.Problem))
	case !b.Known:
		add(stateAttention, "", "", "It isn’t known yet whether %s is bound.", b.MTA)
	case b.OK && b.Down():
		add(stateAttention, "#binding", "", "%s isn’t running: no mail is accepted, and none leaves.", b.MTA)
	case b.OK && b.Problem != "":
		add(stateAttention, "#binding", "tlsonly doctor", "%s was bound, but the last check failed: %s.", b.MTA, stop(b.Problem))
	}
}

// decisions says what was decided, and what of it waits.
func (s situation) decisions(add adder) {
	since := sinceWords(s.Now, s.Since)
	if s.Enforcing == 0 {
		return
	}
	bound := s.Watched && s.Binding.Known && s.Binding.OK && s.Astray == 0
	leaves := ""
	if bound {
		leaves = ", and leaves over TLS or not at all"
	}
	all := s.Accepted + s.Refused + s.Deferred + s.Held
	switch {
	case all == 0 && bound:
		add(stateOK, "", "", "Mail of protected senders leaves over TLS or not at all; %s there was none.", since)
	case all == 0:
		add(stateOK, "", "", "%s there was no mail of protected senders.", upper(since))
	default:
		text := fmt.Sprintf("%s mail of protected senders to %s was accepted%s", upper(since), plural(s.Accepted, "recipient"), leaves)
		if s.Accepted == 0 {
			text = fmt.Sprintf("%s no mail of protected senders was accepted", upper(since))
		}
		if s.Refused > 0 {
			text += fmt.Sprintf("; %s %s refused", number(s.Refused), was(s.Refused))
		}
		add(stateOK, "/rules", "", "%s.", text)
	}
	if s.Deferred+s.Held > 0 {
		var parts []string
		if s.Deferred > 0 {
			parts = append(parts, plural(s.Deferred, "recipient")+" "+was(s.Deferred)+" deferred")
		}
		if s.Held > 0 {
			parts = append(parts, plural(s.Held, "recipient")+" "+was(s.Held)+" held")
		}
		// What was deferred has been sent since, most of it; what is held waits for
		// somebody to release it.
		st, had := stateOK, "had"
		if s.Held > 0 || s.Deferring {
			st, had = stateAttention, "has"
		}
		add(st, "/rules", "", "Because of a rule mail %s to wait: %s.", had, strings.Join(parts, " and "))
	}
	if s.Excepted > 0 {
		add(stateOK, "/rules", "", "By exceptions mail to %s was accepted that may leave without TLS.", plural(s.Excepted, "recipient"))
	}
	if s.Observing > 0 {
		add(stateOK, "/rules", "tlsonly observe", "%s, and %s nobody.", upper(observing(s.Observing)),
			map[bool]string{true: "protects", false: "protect"}[s.Observing == 1])
	}
}

func observing(rules int) string {
	if rules == 1 {
		return "1 rule only observes"
	}
	return number(rules) + " rules only observe"
}

func was(n uint64) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// stop takes a full stop from the end of what a sentence ends with.
func stop(s string) string { return strings.TrimRight(strings.TrimSpace(s), ".") }

// sinceWords says from when on, in the zone of now.
func sinceWords(now, since time.Time) string {
	at := since.In(now.Location())
	switch {
	case now.Sub(since) >= (recentHours-1)*time.Hour:
		return "in the last 24 hours"
	case at.Format(time.DateOnly) == now.Format(time.DateOnly):
		return "since " + at.Format("15:04")
	}
	return "since yesterday " + at.Format("15:04")
}

// mendedAfter is how long after the last recipient with a transport that isn't
// bound a binding that is found well means that it was mended.
const mendedAfter = time.Hour

// astray is how many recipients had a transport that isn't bound, 0 once that
// was mended.
func astray(n Counts, b Binding, watched bool, now time.Time) uint64 {
	if watched && b.Known && b.OK && now.Sub(n.UnattestedAt) >= mendedAfter {
		return 0
	}
	return n.Unattested
}

// situation finds out how things are. The rest of a page knows some of it.
func (s *Server) situation(ctx context.Context, h health, n Counts, found totals) situation {
	c := &s.c
	x := situation{Now: c.Now(), Lost: found.lost, LostAll: found.Lost, Refusal: c.Meter.reload().Err}
	levels := map[string]*rules.Rule{}
	for _, r := range c.Rules().Rules() {
		levels[r.Name] = r
		switch {
		case !r.Active(x.Now):
		case r.Enforcing():
			x.Enforcing++
		case r.Mode == policy.Observe:
			x.Observing++
		}
	}
	recent, since := c.Meter.recent(recentHours)
	x.Since = since
	for d, n := range recent {
		r := levels[d.Rule]
		switch {
		case d.Mode == policy.Observe:
		case d.Verdict == policy.Accept && r != nil && !r.Level.Enforces():
			x.Excepted += n
		case d.Verdict == policy.Accept, d.Verdict == policy.Fallback:
			x.Accepted += n
		case d.Verdict == policy.Reject:
			x.Refused += n
		case d.Verdict == policy.Hold:
			x.Held += n
		case d.Verdict == policy.Defer:
			x.Deferred += n
		}
	}
	lately, _ := c.Meter.recent(2)
	for d := range lately {
		x.Deferring = x.Deferring || d.Verdict == policy.Defer && d.Mode != policy.Observe
	}
	x.Binding, x.Watched = c.binding()
	x.Astray = astray(n, x.Binding, x.Watched, x.Now)
	for _, check := range h.Checks {
		if !check.OK && check.Name != "binding" {
			x.Failed = append(x.Failed, check)
		}
	}
	if _, _, err := c.pingStore(ctx); err != nil {
		x.StoreErr = err.Error()
	}
	if c.Outage != nil {
		x.Network = c.Outage()
	}
	if c.Resolver != nil {
		x.Resolver = c.Resolver()
	}
	return x
}

// statusNow is the answer of GET /v1/status.
type statusNow struct {
	verdict
	Since     time.Time `json:"since"` // of the five counts of recipients
	Accepted  uint64    `json:"accepted"`
	Excepted  uint64    `json:"excepted"` // accepted by rules that ask for no TLS
	Refused   uint64    `json:"refused"`
	Deferred  uint64    `json:"deferred"`
	Held      uint64    `json:"held"`
	LostTLS   int       `json:"lost_tls"` // destinations
	Enforcing int       `json:"enforcing"`
	Observing int       `json:"observing"`
	// Bound is null where that isn't known.
	Bound *bool `json:"bound"`
}

func (s *Server) getStatus(r *http.Request) (any, error) {
	release, err := slot(r.Context(), s.lists)
	if err != nil {
		return nil, err
	}
	defer release()
	short, cancel := context.WithTimeout(r.Context(), overviewTime)
	defer cancel()
	x := s.situation(short, s.checked(short), s.c.Counts(), s.c.totals())
	answer := statusNow{verdict: x.judged(), Since: x.Since, Accepted: x.Accepted, Excepted: x.Excepted, Refused: x.Refused,
		Deferred: x.Deferred, Held: x.Held, LostTLS: x.LostAll, Enforcing: x.Enforcing, Observing: x.Observing}
	if x.Watched && x.Binding.Known {
		ok := x.Binding.OK && x.Astray == 0
		answer.Bound = &ok
	}
	return answer, nil
}

// firstLost keeps the first names of those that lost TLS.
func firstLost(names []string, name string) []string {
	at, _ := slices.BinarySearchFunc(names, name, cmp.Compare[string])
	names = slices.Insert(names, at, name)
	return names[:min(len(names), namedLost)]
}
