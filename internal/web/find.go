package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/ledger"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// query selects destinations; what is set is joined by "and".
type query struct {
	Text    string // a part of the name, in lower case
	Level   string // as levelWord says it
	Failing bool   // for a fault that isn't NoMail
	Fault   string // a ledger.Fault
	Pinned  bool
	Lost    bool
	After   string // names that come later
	Limit   int
}

const (
	defaultLimit = 50
	maxLimit     = 500
	maxText      = 255 // of a name
)

// parseQuery reads the parameters that the page and the interface share.
func parseQuery(v url.Values) (query, error) {
	q := query{Level: v.Get("level"), After: v.Get("after"), Limit: defaultLimit}
	q.Text = foldText(v.Get("query"))
	var wrong []error
	if len(q.Text) > maxText || len(q.After) > maxText {
		wrong = append(wrong, fmt.Errorf("query, after: want %d octets at most", maxText))
	}
	if q.Fault = v.Get("fault"); q.Fault != "" && !slices.Contains(faultNames(), q.Fault) {
		wrong = append(wrong, fmt.Errorf("fault %q: want one of %s", q.Fault, strings.Join(faultNames(), ", ")))
	}
	if q.Level != "" && !slices.Contains(levels(), q.Level) {
		wrong = append(wrong, fmt.Errorf("level %q: want one of %s", q.Level, strings.Join(levels(), ", ")))
	}
	for name, to := range map[string]*bool{"failing": &q.Failing, "pinned": &q.Pinned, "lost": &q.Lost} {
		var err error
		if s := v.Get(name); s != "" {
			if *to, err = strconv.ParseBool(s); err != nil {
				wrong = append(wrong, fmt.Errorf("%s %q: want true or false", name, s))
			}
		}
	}
	var err error
	if q.Limit, err = limitOf(v); err != nil {
		wrong = append(wrong, err)
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return q, errors.Join(wrong...)
}

func limitOf(v url.Values) (int, error) {
	s := v.Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, fmt.Errorf("limit %q: want 1 to %d", s, maxLimit)
	}
	return n, nil
}

// foldText gives a part of a name in the form that names are kept in, as far as it can be a name.
func foldText(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if d, err := addr.ParseDomain(s); err == nil && !d.IsLiteral() && !strings.HasSuffix(s, ".") {
		return d.String()
	}
	return s
}

// faults lists what Fault takes.
func faultNames() []string {
	return []string{string(ledger.NoTLS), string(ledger.Unreachable), string(ledger.NoMail)}
}

// values are q as parameters again, for links.
func (q query) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("query", q.Text)
	set("level", q.Level)
	set("fault", q.Fault)
	set("after", q.After)
	for name, on := range map[string]bool{"failing": q.Failing, "pinned": q.Pinned, "lost": q.Lost} {
		if on {
			v.Set(name, "true")
		}
	}
	if q.Limit != defaultLimit {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

func (q query) matches(name string, k Summary) bool {
	return (q.Level == "" || q.Level == levelWord(k.Level)) && (!q.Failing || k.Fault != "" && k.Fault != ledger.NoMail) &&
		(q.Fault == "" || q.Fault == string(k.Fault)) && (!q.Pinned || k.Pinned) &&
		(!q.Lost || k.Lost) && strings.Contains(name, q.Text)
}

// resultPage is a page of what a query selects.
type resultPage struct {
	Summaries []Summary // sorted by name
	Matched   int       // on all pages
	All       int       // destinations
	More      bool      // there is a page after this one
}

// find walks through memory once and keeps the first names after q.After: what it costs doesn't hang on what is asked, and
// nothing is sorted but a page.
func (c *Config) find(q query) resultPage {
	type named struct {
		name string
		Summary
	}
	want := q.Limit + 1
	best := make([]named, 0, 4*want)
	last := "" // no name later than this is wanted; "" while there are too few
	cut := func() {
		slices.SortFunc(best, func(a, b named) int { return cmp.Compare(a.name, b.name) })
		if len(best) >= want {
			best = best[:want]
			last = best[want-1].name
		}
	}
	var f resultPage
	c.Survey(func(k Summary) bool {
		f.All++
		name := k.Destination.String()
		if !q.matches(name, k) {
			return true
		}
		f.Matched++
		if name <= q.After || last != "" && name >= last {
			return true
		}
		if best = append(best, named{name, k}); len(best) == cap(best) {
			cut()
		}
		return true
	})
	cut()
	if f.More = len(best) > q.Limit; f.More {
		best = best[:q.Limit]
	}
	for _, b := range best {
		f.Summaries = append(f.Summaries, b.Summary)
	}
	return f
}

// Destination is what is known of a destination, as the JSON interface and "domains --json" say it.
type Destination struct {
	Destination  addr.Destination   `json:"destination"`
	Level        policy.Level       `json:"level"`          // reached; "" when that isn't known
	Since        time.Time          `json:"since,omitzero"` // Level changed last, as far as history tells
	Pinned       bool               `json:"pinned,omitempty"`
	Pin          *store.Pin         `json:"pin,omitempty"`      // by whom and since when, if the store answers
	LostTLS      bool               `json:"lost_tls,omitempty"` // pinned, and shows no TLS
	Demand       *store.Demand      `json:"demand,omitempty"`
	LastLook     time.Time          `json:"last_look,omitzero"`
	LastSuccess  time.Time          `json:"last_success,omitzero"`
	FailingSince time.Time          `json:"failing_since,omitzero"`
	Failures     int                `json:"failures,omitempty"`
	Fault        ledger.Fault       `json:"fault,omitempty"` // of the last of them, in lists
	Next         time.Time          `json:"next_look,omitzero"`
	LastMail     time.Time          `json:"last_mail,omitzero"`
	Assessment   *policy.Assessment `json:"assessment,omitempty"`
	Advice       []string           `json:"advice,omitempty"` // what the other side could do better
}

// NewDestination says what a stored entry does, without the assessment.
func NewDestination(e store.Entry) Destination {
	d := Destination{
		Destination: e.Destination, Pinned: e.Pin != nil, Pin: e.Pin, LastLook: e.Assessment.When, LastSuccess: e.Track.LastSuccess,
		FailingSince: e.Track.FailingSince, Failures: e.Track.Failures, Next: e.Next, LastMail: e.Used,
	}
	if e.Demand.Level != "" {
		d.Demand = &e.Demand
	}
	if !e.Assessment.When.IsZero() {
		d.Level = judge.Reached(e.Assessment)
		d.LostTLS = judge.Lost(e.Assessment, d.Pinned)
	}
	return d
}

// fromMemory says what memory does.
func (c *Config) fromMemory(k Summary) Destination {
	d := Destination{Destination: k.Destination, Failures: k.Failures, Fault: k.Fault, Pinned: k.Pinned}
	if k.Demand.Level != "" {
		d.Demand = &k.Demand
	}
	if a, ok := c.Remembered(k.Destination); ok {
		d.LastLook = a.When
	}
	return d
}

// page finds what a query selects, with details. away says that the store didn't answer, so some are missing.
func (c *Config) page(ctx context.Context, q query) (f resultPage, ds []Destination, away bool) {
	f = c.find(q)
	names := make([]addr.Destination, len(f.Summaries))
	for i, k := range f.Summaries {
		names[i] = k.Destination
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	entries, since, err := c.Store.Page(ctx, names)
	stored := make(map[addr.Destination]store.Entry, len(entries))
	for _, e := range entries {
		stored[e.Destination] = e
	}
	ds = make([]Destination, len(f.Summaries))
	for i, k := range f.Summaries {
		if e, ok := stored[k.Destination]; ok && err == nil {
			ds[i] = NewDestination(e)
			ds[i].Since = since[k.Destination]
		} else {
			ds[i] = c.fromMemory(k)
		}
		ds[i].Level, ds[i].LostTLS, ds[i].Fault = k.Level, k.Lost, k.Fault // as the query saw them
	}
	return f, ds, err != nil
}

// recall finds a destination in memory.
func (c *Config) recall(d addr.Destination) (k Summary, ok bool) {
	k.Destination = d
	c.Survey(func(other Summary) bool {
		if ok = other.Destination == d; ok {
			k = other
		}
		return !ok
	})
	return k, ok
}

// one says all that is known of a destination; the error is store.ErrUnknown for nothing. away is as in page.
func (c *Config) one(ctx context.Context, d addr.Destination) (x Destination, away bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	entries, since, err := c.Store.Page(ctx, []addr.Destination{d})
	a, ok := c.Remembered(d)
	switch {
	case err == nil && len(entries) > 0:
		x = NewDestination(entries[0])
		x.Since = since[d]
		if !ok || a.When.Before(entries[0].Assessment.When) {
			a, ok = entries[0].Assessment, !entries[0].Assessment.When.IsZero()
		}
	case err == nil && !ok:
		return x, false, store.ErrUnknown
	case err == nil:
		x.Destination = d
	default:
		k, remembered := c.recall(d)
		if !remembered && !ok {
			return x, true, err
		}
		x = c.fromMemory(k)
	}
	if ok {
		x.LastLook, x.Level, x.Assessment = a.When, judge.Reached(a), &a
		x.LostTLS = judge.Lost(a, x.Pinned)
		if c.Advice != nil {
			x.Advice = c.Advice(a)
		}
	}
	return x, err != nil, nil
}
