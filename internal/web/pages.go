package web

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/ledger"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

//go:embed assets
var assets embed.FS

// pages are the parsed templates, one set a page.
type pages struct {
	overview, destinations, destination, rules, explain *template.Template
}

func parsePages(now func() time.Time) (*pages, error) {
	base := template.New("").Funcs(template.FuncMap{
		"when":     func(t time.Time) moment { return newMoment(now(), t) },
		"explain":  explainPath,
		"days":     func(t time.Time) string { return daysLeft(now(), t) },
		"path":     destinationPath,
		"level":    func(l policy.Level) string { return levelWord(l) },
		"number":   number,
		"what":     describeEvent,
		"saw":      describeObservation,
		"labels":   func(d addr.Destination) []string { return strings.Split(d.String(), ".") },
		"join":     strings.Join,
		"fault":    faultWords,
		"span":     span,
		"plural":   plural,
		"versions": asTexts[policy.Version],
	})
	base, err := base.ParseFS(assets, "assets/layout.html")
	if err != nil {
		return nil, err
	}
	var wrong []error
	page := func(name string) *template.Template {
		set, err := base.Clone()
		if err == nil {
			set, err = set.ParseFS(assets, "assets/"+name+".html")
		}
		wrong = append(wrong, err)
		return set
	}
	p := &pages{page("overview"), page("destinations"), page("destination"), page("rules"), page("explain")}
	return p, errors.Join(wrong...)
}

// asset serves an embedded file. It changes with the program only, and a browser asks whether it has.
func (p *pages) asset(name, media string) http.HandlerFunc {
	data, err := assets.ReadFile("assets/" + name)
	sum := sha256.Sum256(data)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			failed(w, r, http.StatusNotFound, "there is no such file")
			return
		}
		h := w.Header()
		h.Set("Content-Type", media)
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// view is what every page has.
type view struct {
	Title   string
	Here    string // path of the navigation's entry
	Status  int    // of the answer; 0: 200
	Version string
	Now     time.Time
	Away    bool // the store didn't answer, so the page is from memory
	Body    any
}

// page answers with a page. A template that fails has written nothing yet.
func (s *Server) page(make func(*http.Request) (*template.Template, view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, v, err := make(r)
		if err != nil {
			status, detail := s.statusOf(r, err)
			failed(w, r, status, detail)
			return
		}
		v.Version, v.Now = s.c.Version, s.c.Now()
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, "layout", v); err != nil {
			s.c.Log.Error("page not made", "path", r.URL.Path, "err", err)
			failed(w, r, http.StatusInternalServerError, "the page could not be made; the log says why")
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(cmp.Or(v.Status, http.StatusOK))
		_, _ = w.Write(b.Bytes())
	}
}

// errorPage needs nothing that could fail.
var errorPage = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} – tlsonly</title><link rel="stylesheet" href="/style.css"><link rel="icon" href="/icon.svg"></head>
<body><main id="main"><h1>{{.Title}}</h1><p>{{.Detail}}</p><p><a href="/">Overview</a></p></main></body></html>
`))

func writeErrorPage(w http.ResponseWriter, status int, detail string) {
	_ = errorPage.Execute(w, struct{ Title, Detail string }{http.StatusText(status), detail})
}

// overview

// timelineLength is how many changes the overview shows, listLength how many of each list.
const (
	timelineLength = 12
	listLength     = 10
	// overviewTime is how long the overview waits for the checks.
	overviewTime = 2 * time.Second
)

type overviewBody struct {
	Verdict  verdict
	Survey   totals
	Levels   []levelBar
	Rules    []ruleRow
	Inbound  []inboundRow
	Failing  []Destination
	More     int // failing ones that aren't listed
	Changes  []store.Event
	Forwards []Forward
	Follows  bool // forwards are followed
	Health   health
	Astray   uint64 // recipients whose transport isn't bound, now
	Network  string // what is wrong with our own
	Watched  bool   // that is looked for
	Binding  Binding
	Bound    bool   // Binding says something
	Observed string // what rules that only observe would have done in a day; "" where none does
	Took     time.Duration
	Lag      time.Duration
	StoreErr string
	Reload   reload
	Counts   Counts
	Start    time.Time
}

func (s *Server) overview(r *http.Request) (*template.Template, view, error) {
	ctx := r.Context()
	release, err := slot(ctx, s.lists)
	if err != nil {
		return nil, view{}, err
	}
	defer release()
	short, cancel := context.WithTimeout(ctx, overviewTime)
	defer cancel()
	b := overviewBody{
		Survey:  s.c.totals(),
		Rules:   ruleRows(s.c.Rules().Rules(), s.c.Meter.counts(), s.c.Now()),
		Inbound: inboundRows(s.c.Inbound().Rules(), s.c.Meter.inboundCounts(), s.c.Now()),
		Health:  s.checked(short),
		Reload:  s.c.Meter.reload(),
		Counts:  s.c.Counts(),
		Start:   s.c.Meter.start,
	}
	b.Levels = levelBars(b.Survey)
	f, failing, away := s.c.page(ctx, query{Failing: true, Limit: listLength})
	b.Failing, b.More = failing, f.Matched-len(failing)
	b.Took, b.Lag, err = s.c.pingStore(ctx)
	if err == nil {
		b.Changes, err = s.c.Store.Latest(ctx, timelineLength)
	}
	if err != nil {
		b.StoreErr, away = err.Error(), true
	}
	if s.c.Forwards != nil {
		b.Forwards, b.Follows = s.c.Forwards(), true
	}
	x := s.situation(short, b.Health, b.Counts, b.Survey)
	b.Verdict, b.Astray, b.Binding, b.Bound = x.judged(), x.Astray, x.Binding, x.Watched
	if s.c.Outage != nil {
		b.Network, b.Watched = s.c.Outage(), true
	}
	if s.c.Observed != nil {
		summary, err := s.c.Observed(short, s.c.Now().Add(-24*time.Hour))
		if b.Observed = summary.Line(); err != nil {
			b.Observed = "What rules that only observe would have done isn't known: " + err.Error()
		}
	}
	return s.pages.overview, view{Title: "Overview", Here: "/", Away: away, Body: b}, nil
}

// destinations

type destinationsBody struct {
	Query   query
	Levels  []string
	Faults  []ledger.Fault
	Rows    []Destination
	Matched int
	All     int
	Next    string // "" on the last page
	First   string // "" on the first page
	Wrong   string
}

func (s *Server) destinations(r *http.Request) (*template.Template, view, error) {
	v := view{Title: "Destinations", Here: "/destinations"}
	q, wrong := parseQuery(r.URL.Query())
	b := destinationsBody{Query: q, Levels: levels(), Faults: []ledger.Fault{ledger.NoTLS, ledger.Unreachable, ledger.NoMail}}
	if wrong != nil {
		b.Wrong, b.Query = wrong.Error(), query{Limit: defaultLimit}
		q = b.Query
	}
	release, err := slot(r.Context(), s.lists)
	if err != nil {
		return nil, v, err
	}
	defer release()
	var f resultPage
	f, b.Rows, v.Away = s.c.page(r.Context(), q)
	b.Matched, b.All = f.Matched, f.All
	if f.More {
		next := q
		next.After = b.Rows[len(b.Rows)-1].Destination.String()
		b.Next = "/destinations?" + next.values().Encode()
	}
	if q.After != "" {
		first := q
		first.After = ""
		b.First = "/destinations?" + first.values().Encode()
	}
	v.Body = b
	return s.pages.destinations, v, nil
}

type destinationBody struct {
	Destination
	Hosts   []hostView
	STS     policy.STS
	Direct  bool
	History []store.Event
	Away    bool // so there may be more history
}

// historyLength is how much of a destination's history its page shows.
const historyLength = 50

func (s *Server) destination(r *http.Request) (*template.Template, view, error) {
	d, err := pathDestination(r)
	if err != nil {
		return nil, view{}, err
	}
	x, away, err := s.c.one(r.Context(), d)
	if errors.Is(err, store.ErrUnknown) {
		// What was forgotten has a history still.
		x.Destination = d
		if past, perr := s.c.Store.History(r.Context(), d, 1); perr == nil && len(past) > 0 {
			err = nil
		}
	}
	if err != nil {
		return nil, view{}, err
	}
	b := destinationBody{Destination: x, Direct: d.Direct()}
	if x.Assessment != nil {
		b.STS = x.Assessment.MTASTS
		b.Hosts = hostViews(*x.Assessment)
	}
	if !away {
		b.History, err = s.c.Store.History(r.Context(), d, historyLength)
		away = err != nil
	}
	b.Away = away
	return s.pages.destination, view{Title: d.String(), Here: "/destinations", Away: away, Body: b}, nil
}

// rules

type rulesBody struct {
	Rules   []ruleRow
	Inbound []inboundRow
	Reload  reload
	Start   time.Time
}

func (s *Server) rules(*http.Request) (*template.Template, view, error) {
	b := rulesBody{ruleRows(s.c.Rules().Rules(), s.c.Meter.counts(), s.c.Now()),
		inboundRows(s.c.Inbound().Rules(), s.c.Meter.inboundCounts(), s.c.Now()), s.c.Meter.reload(), s.c.Meter.start}
	return s.pages.rules, view{Title: "Rules", Here: "/rules", Body: b}, nil
}

// moment is a time as a page shows it.
type moment struct {
	Zero       bool
	ISO, Exact string
	Text       string // "3 hours ago", "in 5 minutes"
}

func newMoment(now, t time.Time) moment {
	if t.IsZero() {
		return moment{Zero: true}
	}
	m := moment{ISO: t.UTC().Format(time.RFC3339), Exact: t.UTC().Format("2006-01-02 15:04:05 UTC")}
	switch d := now.Sub(t); {
	case d < 0 && d > -time.Second, d >= 0 && d < time.Second:
		m.Text = "now"
	case d < 0:
		m.Text = "in " + span(-d)
	default:
		m.Text = span(d) + " ago"
	}
	return m
}

// span is a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return plural(int(d.Hours()/24), "day")
}

// plural counts things; n is an integer.
func plural(n any, word string) string {
	if digits := number(n); digits != "1" {
		return digits + " " + word + "s"
	}
	return "1 " + word
}

// number groups the digits of an integer: 12 345.
func number(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}

// daysLeft says how long a certificate is valid still.
func daysLeft(now, end time.Time) string {
	if end.Before(now) {
		return "expired " + span(now.Sub(end)) + " ago"
	}
	return plural(int(end.Sub(now).Hours()/24), "day") + " left"
}

// faultWords says what fails.
func faultWords(f ledger.Fault) string {
	switch f {
	case ledger.NoMail:
		return "accepts no mail"
	case ledger.NoTLS:
		return "no TLS"
	}
	return string(f)
}

// describeEvent says in words what changed.
func describeEvent(e store.Event) string {
	from, to := cmp.Or(e.From, "nothing"), cmp.Or(e.To, "nothing")
	var text string
	switch e.What {
	case store.LevelChanged:
		text = fmt.Sprintf("level %s → %s", levelWord(policy.Level(e.From)), levelWord(policy.Level(e.To)))
	case store.LostTLS:
		text = "lost TLS"
	case store.TLSBack:
		text = "offers TLS again"
	case store.Pinned:
		text = "pinned by " + to
	case store.Unpinned:
		text = "no longer pinned"
	case store.MTASTSChanged:
		text = fmt.Sprintf("MTA-STS policy: %s → %s", from, to)
	case store.DANEChanged:
		text = fmt.Sprintf("DANE: %s → %s", from, to)
	case store.HostsChanged:
		text = fmt.Sprintf("mail hosts: %s → %s", from, to)
	case store.Demanded:
		text = "demanded: " + cmp.Or(e.To, "nothing any more")
	case store.ForwardFails:
		text = fmt.Sprintf("%s forwards to %s, which fails", e.From, e.To)
	case store.ForwardMended:
		text = fmt.Sprintf("%s forwards to %s, which no longer fails", e.From, e.To)
	case store.Forgotten:
		text = "forgotten"
	case store.KeyChanged:
		text = fmt.Sprintf("another key is published: %s → %s", from, to)
	case store.KeyWithdrawn:
		text = fmt.Sprintf("key %s is withdrawn", from)
	case store.Unbound:
		text = "the MTA here isn’t bound any more"
	case store.Bound:
		text = "the MTA here is bound again"
	case store.Outage:
		text = "this host’s own network is suspected"
	case store.OutageOver:
		text = "this host’s own network is not suspected any more"
	default:
		text = string(e.What)
	}
	if e.Why != "" {
		text += ": " + e.Why
	}
	return text
}
