package maillog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Violation is how a delivery broke its rule, "" when it kept it.
type Violation string

// The violations.
const (
	InClear          Violation = "clear"             // the text left without TLS
	WeakTLS          Violation = "weak-tls"          // below the rule's min_version or min_bits
	NotAuthenticated Violation = "not-authenticated" // the rule asks for secure or dane, and the certificate wasn't verified
)

// Entry is a delivery of a protected message.
type Entry struct {
	Delivery
	Rule        string    `json:"rule"`
	Destination string    `json:"destination"` // the recipient's domain
	Violation   Violation `json:"violation,omitempty"`
}

// Counts are deliveries by what became of them. Text that left in the clear, or nobody knows how, counts so also where the
// other host refused it afterwards.
type Counts struct {
	Encrypted int64 `json:"tls"`
	Clear     int64 `json:"clear"`
	// ByTransport went by a transport of tlsonly, whose log has no line of TLS.
	ByTransport int64 `json:"by_transport"`
	Content     int64 `json:"content"` // encrypted messages, with TLS or without
	Unknown     int64 `json:"unknown"`
	Here        int64 `json:"here"`
	Deferred    int64 `json:"deferred"`
	Bounced     int64 `json:"bounced"`
	Violations  int64 `json:"violations"`
}

// All is the number of deliveries, whatever became of them.
func (c Counts) All() int64 {
	return c.Encrypted + c.Clear + c.ByTransport + c.Content + c.Unknown + c.Here + c.Deferred + c.Bounced
}

// Limits of what a Report keeps; what is more is only counted.
const (
	maxListed       = 1000
	maxDestinations = 10_000
	maxDays         = 4000
	maxSenders      = 50_000
)

// Elsewhere is the name under which destinations, and days, beyond the limits are counted.
const Elsewhere = "(others)"

// Lines are what was read, of all files.
type Lines struct {
	Read   int64 `json:"read"`
	Mail   int64 `json:"mail"`           // of Postfix and Sendmail, and understood
	Missed int64 `json:"not_understood"` // of Postfix and Sendmail, or could be a delivery
	Others int64 `json:"others"`
	// Files that have lines, but none of Postfix or Sendmail; and of these the ones
	// without any line whose time could be read.
	FilesWithout []string `json:"files_without"`
	FilesUnread  []string `json:"files_not_understood"`
}

// Row is the counts of one day ("2026-11-23", by the stamps' own zone) or destination.
type Row struct {
	Name string `json:"name"`
	Counts
}

// Report is what an audit found; package rules' words, and those of this package.
type Report struct {
	Since        time.Time        `json:"since,omitzero"` // what was asked for
	Until        time.Time        `json:"until,omitzero"`
	First        time.Time        `json:"first,omitzero"` // what the logs cover
	Last         time.Time        `json:"last,omitzero"`
	Files        []Stats          `json:"files"`
	Lines        Lines            `json:"lines"`
	Messages     int64            `json:"messages"` // of protected senders
	Deliveries   Counts           `json:"deliveries"`
	Versions     map[string]int64 `json:"versions"` // of Encrypted, by TLS version; "" where the log doesn't say
	Trust        map[Trust]int64  `json:"trust"`    // of Encrypted, by what the certificate was found to be
	Days         []Row            `json:"days"`
	Destinations []Row            `json:"destinations"` // those with violations first, then the busiest
	Violations   []Entry          `json:"violations"`   // the first of them; Deliveries.Violations is their number
	Unknown      []Entry          `json:"unknown"`      // the first of them
	Senderless   int64            `json:"senderless"`   // deliveries to other hosts whose sender isn't in these logs
	Sentence     string           `json:"sentence"`     // all of it in short; see Verdict
	Advice       []string         `json:"advice,omitempty"`
}

// NotKnown says why it isn't known that there was no violation: something that could
// be a delivery wasn't understood, or of a delivery the logs don't tell. It is ""
// where it is known, whether or not there was one.
func (p *Report) NotKnown() string {
	var why []string
	if n := p.Lines.Missed; n > 0 {
		why = append(why, fmt.Sprintf("%s that may belong to deliveries %s not understood", count(n, "line"), was(n)))
	}
	if n := len(p.Lines.FilesUnread); n > 0 {
		why = append(why, fmt.Sprintf("%s %s in no known format", count(int64(n), "file"), was(int64(n))))
	}
	if p.Lines.Mail == 0 && len(why) == 0 {
		why = append(why, "these logs have no line of Postfix or Sendmail")
	}
	if n := p.Deliveries.Unknown; n > 0 {
		why = append(why, fmt.Sprintf("whether %s used TLS isn’t in these logs", noun(n, "one delivery", fmt.Sprintf("%d deliveries", n))))
	}
	return strings.Join(why, "; ")
}

func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func noun(n int64, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

func was(n int64) string { return noun(n, "was", "were") }

// Verdict says in a sentence what was found, and how good that is: "good", "open"
// where something isn't known, or "bad".
func (p *Report) Verdict() (sentence, state string) {
	d := p.Deliveries
	out := d.Encrypted + d.Clear + d.ByTransport + d.Content + d.Unknown
	notKnown := p.NotKnown()
	broke := fmt.Sprintf("%d of %d deliveries of protected mail broke their rule.", d.Violations, d.All())
	if d.All() == 1 {
		broke = "The one delivery of protected mail broke its rule."
	}
	if d.Violations > 0 && notKnown != "" {
		return strings.TrimSuffix(broke, ".") + "; besides, " + notKnown + ".", "bad"
	}
	switch {
	case d.Violations > 0:
		return broke, "bad"
	case p.Lines.Missed > 0 || len(p.Lines.FilesUnread) > 0 || p.Lines.Mail == 0:
		return "It isn’t known whether all protected mail left over TLS: " + notKnown + ".", "open"
	case d.All() == 0:
		return "These logs have no delivery of protected mail.", "open"
	case out == 0:
		return "No protected mail left for another host.", "good"
	}
	parts := []string{}
	for _, part := range []struct {
		n    int64
		what string
	}{{d.Encrypted, "over TLS"}, {d.ByTransport, "by transports that send over TLS or not at all"}, {d.Content, "as encrypted messages"}, {d.Clear, "in the clear, as a rule allows"},
		{d.Unknown, "in a way that these logs don’t tell"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	state = "good"
	if d.Unknown > 0 {
		state = "open"
	}
	if out == d.Encrypted {
		if out == 1 {
			return "The one delivery of protected mail to another host was over TLS.", state
		}
		return fmt.Sprintf("All %d deliveries of protected mail to other hosts were over TLS.", out), state
	}
	sentence = "No violation was found in %d %s of protected mail to other hosts: %s."
	if d.Unknown > 0 {
		sentence = "It isn’t known whether %d %s of protected mail to other hosts kept their rules: %s."
	}
	return fmt.Sprintf(sentence, out, noun(out, "delivery", "deliveries"), strings.Join(parts, ", ")), state
}

// Audit joins what a Reader emits with rules. It isn't for several goroutines.
//
// BUGS: what entered the queue anew is a message of its own: one that a content filter gave back has no login any more, and
// one that was forwarded under another sender is that sender's.
type Audit struct {
	rules        *rules.Set
	report       Report
	days         map[string]*Counts
	destinations map[string]*Counts
	wanted       map[string]bool
}

// NewAudit returns an Audit by these rules.
func NewAudit(set *rules.Set) *Audit {
	return &Audit{
		rules:        set,
		report:       Report{Versions: map[string]int64{}, Trust: map[Trust]int64{}, Violations: []Entry{}, Unknown: []Entry{}},
		days:         map[string]*Counts{},
		destinations: map[string]*Counts{},
		wanted:       map[string]bool{},
	}
}

// Wanted is for Config: whether any rule, of any day, can concern a sender.
func (a *Audit) Wanted(from []byte, user string) bool {
	if user == "" {
		if wanted, ok := a.wanted[string(from)]; ok {
			return wanted
		}
	}
	wanted := !a.rules.Wrapped(address(string(from)), user, time.Time{}).Empty()
	if user == "" {
		if len(a.wanted) >= maxSenders {
			clear(a.wanted)
		}
		a.wanted[string(from)] = wanted
	}
	return wanted
}

// Add judges a delivery and counts it. It reports false for one that no enforcing rule protects.
//
// A recipient is the one that was accepted and the one that aliases made of it: what protects either protects both, since
// a rule looks at where mail really goes. Rules are taken as they were in force when it was delivered, by their until.
func (a *Audit) Add(d *Delivery) (Entry, bool) {
	candidates := a.rules.Wrapped(address(d.From), d.User, d.Time)
	var rule *rules.Rule
	e := Entry{Delivery: *d, Destination: Elsewhere}
	for i, text := range []string{d.To, d.OrigTo} {
		if i > 0 && text == "" {
			continue
		}
		to := address(text)
		if i == 0 && !to.Domain.IsZero() {
			e.Destination = to.Domain.String()
		}
		if r := candidates.Match(to); r != nil && r.Enforcing() && (rule == nil || r.Level.Rank() > rule.Level.Rank()) {
			rule = r
		}
	}
	if rule == nil {
		return Entry{}, false
	}
	e.Rule = rule.Name
	e.Violation = violation(rule, d)
	e.msg = nil
	if !d.msg.counted {
		d.msg.counted = true
		a.report.Messages++
	}
	a.count(&e)
	return e, true
}

// address reads a logged address. One that can't be read, a file's name or a command, has no domain: a rule for everybody
// still concerns it.
func address(text string) addr.Address {
	a, err := addr.ParsePath(text)
	if err != nil {
		return addr.Address{Local: text}
	}
	return a
}

func violation(r *rules.Rule, d *Delivery) Violation {
	switch {
	case d.Security == Clear:
		return InClear
	case d.Security != Encrypted:
		return ""
	// What the log doesn't tell, version and bits of 0, is no violation.
	case d.TLS.Version != 0 && d.TLS.Version < r.MinVersion, d.TLS.Bits != 0 && d.TLS.Bits < r.MinBits:
		return WeakTLS
	case r.Level.Rank() > policy.LevelEncrypt.Rank() && d.TLS.Trust != "" && d.TLS.Trust != Verified:
		return NotAuthenticated
	}
	return ""
}

func (a *Audit) count(e *Entry) {
	day := bounded(a.days, e.Time.Format(time.DateOnly), maxDays)
	destination := bounded(a.destinations, e.Destination, maxDestinations)
	for _, c := range []*Counts{&a.report.Deliveries, day, destination} {
		switch {
		case e.Security == Encrypted && e.Outcome == Sent:
			c.Encrypted++
		case e.Security == Clear:
			c.Clear++
		case e.Security == ByTransport:
			c.ByTransport++
		case e.Security == Content && e.Outcome == Sent:
			c.Content++
		case e.Security == Unknown:
			c.Unknown++
		case e.Outcome == Here:
			c.Here++
		case e.Outcome == Deferred:
			c.Deferred++
		default:
			c.Bounced++
		}
		if e.Violation != "" {
			c.Violations++
		}
	}
	if e.Security == Encrypted && e.Outcome == Sent {
		a.report.Versions[e.TLS.Version.String()]++
		a.report.Trust[e.TLS.Trust]++
	}
	if e.Violation != "" && len(a.report.Violations) < maxListed {
		a.report.Violations = append(a.report.Violations, *e)
	}
	if e.Security == Unknown && len(a.report.Unknown) < maxListed {
		a.report.Unknown = append(a.report.Unknown, *e)
	}
}

// bounded finds the counts of a name, or those of all names beyond the limit.
func bounded(m map[string]*Counts, name string, limit int) *Counts {
	c := m[name]
	if c == nil && len(m) >= limit {
		name = Elsewhere
		c = m[name]
	}
	if c == nil {
		c = &Counts{}
		m[name] = c
	}
	return c
}

// Report returns what was found, with what was read.
func (a *Audit) Report(r *Reader, files []Stats) *Report {
	p := &a.report
	p.Since, p.Until, p.Files, p.Senderless = r.config.Since, r.config.Until, files, r.Senderless()
	p.Lines = Lines{FilesWithout: []string{}, FilesUnread: []string{}}
	for _, f := range files {
		p.Lines.add(f)
		if !f.First.IsZero() && (p.First.IsZero() || f.First.Before(p.First)) {
			p.First = f.First
		}
		if f.Last.After(p.Last) {
			p.Last = f.Last
		}
	}
	p.Days = rows(a.days)
	slices.SortFunc(p.Days, func(x, y Row) int { return strings.Compare(x.Name, y.Name) })
	p.Destinations = rows(a.destinations)
	slices.SortFunc(p.Destinations, func(x, y Row) int {
		return cmp.Or(cmp.Compare(y.Violations, x.Violations), cmp.Compare(y.All(), x.All()), strings.Compare(x.Name, y.Name))
	})
	p.Sentence, _ = p.Verdict()
	p.Advice = nil
	if p.Lines.Missed > 0 || len(p.Lines.FilesUnread) > 0 {
		p.Advice = append(p.Advice, "Forms that are read: "+FormsRead+".")
	}
	if p.Deliveries.Unknown > 0 {
		p.Advice = append(p.Advice, "Some deliveries have no line of TLS, and no other of their program before them has one: "+
			"set smtp_tls_loglevel = 1 (Postfix) or LogLevel 9 (Sendmail); only what is delivered from then on is judged by it. If TLS was logged and simply never used, say --tls-logged.")
	}
	if p.Deliveries.ByTransport > 0 {
		p.Advice = append(p.Advice, "Some deliveries went by transports of tlsonly, which log no TLS: run \"tlsonly setup postfix --apply\" once more, which has them log it.")
	}
	if p.Senderless > 0 {
		p.Advice = append(p.Advice,
			"Some deliveries belong to messages that entered the queue before these logs begin: add the older ones.")
	}
	return p
}

// add counts the lines of a file.
func (l *Lines) add(f Stats) {
	l.Read += f.Lines
	l.Mail += f.Mail
	l.Missed += f.Missed
	l.Others += f.Others
	if f.Unread() {
		l.FilesUnread = append(l.FilesUnread, f.Name)
	}
	if f.Without() {
		l.FilesWithout = append(l.FilesWithout, f.Name)
	}
}

func rows(m map[string]*Counts) []Row {
	list := make([]Row, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, Row{name, *m[name]})
	}
	return list
}
