package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// fakeForwards are owners with the ends of their mail: "x@far.example", with " [hop]" behind it, "?" for unknown; "" for
// nothing that leaves.
type fakeForwards struct {
	mu       sync.Mutex
	ends     map[string]string
	patterns []string
	unlisted []forward.Unlisted
	err      error
	listings int
}

func (f *fakeForwards) All(_ context.Context, yield func(forward.Forwarder) bool) ([]forward.Unlisted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listings++
	for owner := range f.ends {
		for _, source := range []string{"table", "another"} { // an owner may have several entries
			if !yield(forward.Forwarder{Address: addr.MustAddress(owner), Origin: policy.Origin{Source: source}}) {
				return nil, nil
			}
		}
	}
	for _, p := range f.patterns {
		yield(forward.Forwarder{Pattern: p, Origin: policy.Origin{Source: "patterns"}})
	}
	return f.unlisted, f.err
}

func (f *fakeForwards) ExpandAll(_ context.Context, all []addr.Address, _ addr.Address, yield func(addr.Address, forward.Expansion) bool) {
	for _, a := range all {
		f.mu.Lock()
		x := expansion(a, f.ends[a.Fold().String()])
		f.mu.Unlock()
		if !yield(a, x) {
			return
		}
	}
}

func (f *fakeForwards) Through(_ context.Context, owner, target addr.Address) forward.Expansion {
	return expansion(owner, target.String())
}

func (f *fakeForwards) set(owner, end string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[owner] = end
}

func expansion(owner addr.Address, end string) forward.Expansion {
	path := []forward.Step{{From: owner.Local, Origin: policy.Origin{Source: "table"}}}
	address, hop, _ := strings.Cut(end, " ")
	switch {
	case end == "":
		return forward.Expansion{Leaves: []forward.Leaf{{Kind: forward.Mailbox, Address: owner}}}
	case end == "self":
		return forward.Expansion{Leaves: []forward.Leaf{{Kind: forward.Leaves, Address: owner}}}
	case end == "?":
		return forward.Expansion{Leaves: []forward.Leaf{{Kind: forward.Unknown, Address: owner, Path: path, Detail: "can't be read"}}}
	}
	leaf := forward.Leaf{Kind: forward.Leaves, Address: addr.MustAddress(address), Path: path}
	if hop != "" {
		leaf.Hops = []addr.Destination{addr.MustDestination(hop)}
	}
	return forward.Expansion{Leaves: []forward.Leaf{leaf}}
}

// fakeAssessor knows hosts with TLS, without, and that can't be reached.
type fakeAssessor struct {
	mu    sync.Mutex
	clear map[string]bool
	gone  map[string]policy.Reason
	asked []string
}

func (f *fakeAssessor) Assess(_ context.Context, d addr.Destination, _ func(policy.Assessment) bool) policy.Assessment {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, d.String())
	if problem := f.gone[d.String()]; problem != "" {
		return policy.Assessment{Problem: problem, Detail: "about " + d.String()}
	}
	seen := policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256}
	if f.clear[d.String()] {
		seen = policy.Observation{Outcome: policy.SawNoSTARTTLS}
	}
	return policy.Assessment{Hosts: []policy.Host{{Name: d.Host(), Observations: []policy.Observation{seen}}}}
}

func (f *fakeAssessor) set(domain string, problem policy.Reason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone[domain] = problem
}

func newFakes(ends map[string]string) (*Auditor, *fakeForwards, *fakeAssessor) {
	set := rules.New([]*rules.Rule{{Name: "staff", Forwarder: []addr.Pattern{addr.MustPattern("@here.example")}, Level: policy.LevelEncrypt,
		MinVersion: policy.TLS12, OnFail: policy.ActionReject, OnUnknown: policy.ActionDefer, Mode: policy.Enforce}})
	forwards := &fakeForwards{ends: ends}
	assessor := &fakeAssessor{clear: map[string]bool{"clear.example": true, "away.example": true}, gone: map[string]policy.Reason{}}
	return &Auditor{Forwards: forwards, Assessor: assessor, Rules: func() *rules.Set { return set }}, forwards, assessor
}

func brief(f Finding) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s %s %s", f.Owner, f.Leaves, f.Destination, f.Level, f.Rule, f.Verdict, f.Reason))
}

// What an audit says of each kind of forward.
func TestRun(t *testing.T) {
	a, forwards, assessor := newFakes(map[string]string{
		"good@here.example":   "x@good.example",
		"clear@here.example":  "x@clear.example",
		"hop@here.example":    "x@good.example [clear.example]",
		"free@there.example":  "x@clear.example",
		"stays@here.example":  "",
		"itself@far.example":  "self",
		"unread@here.example": "?",
		"free2@there.example": "?",
		"away@here.example":   "x@away.example",
		"null@here.example":   "x@null.example",
	})
	forwards.patterns = []string{"/^x/"}
	forwards.unlisted = []forward.Unlisted{{Source: "ldap:x", Reason: "can only be asked"}}
	assessor.clear["[clear.example]"] = true
	assessor.gone["away.example"] = policy.Timeout
	assessor.gone["null.example"] = policy.NullMX
	var got []string
	sum, err := a.Run(t.Context(), nil, func(f Finding) { got = append(got, brief(f)) })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/^x/",
		"away@here.example x@away.example away.example staff defer timeout",
		"clear@here.example x@clear.example clear.example may staff reject no-starttls",
		"free2@there.example unreadable",
		"free@there.example x@clear.example clear.example may",
		"good@here.example x@good.example good.example encrypt staff accept",
		"hop@here.example x@good.example [clear.example] may staff reject no-starttls",
		"null@here.example x@null.example null.example none staff accept",
		"unread@here.example staff defer unreadable",
	}
	for i := range got {
		got[i] = strings.Join(strings.Fields(got[i]), " ")
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	slices.Sort(assessor.asked)
	if u := slices.Compact(slices.Clone(assessor.asked)); len(u) != len(assessor.asked) {
		t.Errorf("asked more than once: %q", assessor.asked)
	}
	if sum.Forwards != 9 || sum.Failing != 4 || sum.Destinations != 5 || len(sum.Unlisted) != 1 {
		t.Errorf("%+v", sum)
	}
}

// Some owners only, each once; a target that is only thought of; the order; what isn't asked.
func TestRunOnly(t *testing.T) {
	a, forwards, _ := newFakes(map[string]string{"b@here.example": "x@clear.example", "a@here.example": "x@good.example", "c@here.example": "x@good.example"})
	a.Relay = func(d addr.Domain) (addr.Destination, bool) {
		return addr.MustDestination("relay.example"), d == addr.MustDomain("good.example")
	}
	a.Pinned = func(d addr.Destination) bool { return true }
	progress := 0
	a.Progress = func(done, total int) { progress = done*10 + total }
	var got []string
	sum, err := a.Run(t.Context(), []addr.Address{addr.MustAddress("b@here.example"), addr.MustAddress("B@here.example"), addr.MustAddress("a@here.example")},
		func(f Finding) { got = append(got, f.Owner+" "+f.Destination.String()) })
	if want := []string{"a@here.example relay.example", "b@here.example clear.example"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if sum.Owners != 2 || forwards.listings != 0 || progress != 22 {
		t.Errorf("%+v, %d listings, progress %d", sum, forwards.listings, progress)
	}
	found := a.Test(t.Context(), addr.MustAddress("a@here.example"), addr.MustAddress("y@clear.example"))
	if len(found) != 1 || !found[0].Fails() || found[0].Unknown() || found[0].Leaves != "y@clear.example" {
		t.Errorf("%+v", found)
	}
	if found := a.Test(t.Context(), addr.MustAddress("a@there.example"), addr.MustAddress("y@clear.example")); len(found) != 1 || found[0].Fails() {
		t.Errorf("no rule governs it: %+v", found)
	}
}

// An audit that is cut short, or can't list, says so.
func TestRunError(t *testing.T) {
	a, forwards, _ := newFakes(map[string]string{"b@here.example": "x@clear.example"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Run(ctx, nil, func(Finding) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cut short: %v", err)
	}
	forwards.err = errors.New("no table")
	if _, err := a.Run(t.Context(), nil, func(Finding) { t.Error("a finding") }); !errors.Is(err, forwards.err) {
		t.Errorf("can't list: %v", err)
	}
}

// watched runs a Watcher in a bubble; steps says what it told since it was last asked.
func watched(t *testing.T, ends map[string]string, known func(Finding) bool, test func(f *fakeForwards, a *fakeAssessor, w *Watcher, change chan struct{}, told func(want ...string))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		auditor, forwards, assessor := newFakes(ends)
		changed := make(chan struct{}, 1)
		var mu sync.Mutex
		var news []string
		add := func(what string) func(Finding) {
			return func(f Finding) {
				mu.Lock()
				defer mu.Unlock()
				news = append(news, what+" "+f.Owner+" "+f.Leaves)
			}
		}
		w := &Watcher{Auditor: auditor, Changed: changed, Every: time.Hour, FailedBefore: known, Log: slog.New(slog.DiscardHandler),
			Began: add("began"), Ceased: add("ceased")}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { w.Run(ctx) })
		told := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(news)
			if !slices.Equal(news, want) {
				t.Errorf("told %q, want %q", news, want)
			}
			news = nil
		}
		test(forwards, assessor, w, changed, told)
		cancel()
		all.Wait()
	})
}

// Began, ceased, and began again; audits by change, and by time.
func TestWatcher(t *testing.T) {
	watched(t, map[string]string{"a@here.example": "x@clear.example", "b@here.example": "x@good.example"}, nil,
		func(f *fakeForwards, a *fakeAssessor, w *Watcher, changed chan struct{}, told func(...string)) {
			told("began a@here.example x@clear.example")
			if failing, sum, when := w.Failing(); len(failing) != 1 || sum.Failing != 1 || when.IsZero() {
				t.Errorf("failing: %+v, %+v, %v", failing, sum, when)
			}
			f.set("a@here.example", "x@good.example")
			f.set("b@here.example", "y@clear.example")
			changed <- struct{}{}
			told() // the pause
			time.Sleep(pause)
			told("began b@here.example y@clear.example", "ceased a@here.example x@clear.example")
			a.mu.Lock()
			a.clear["good.example"] = true
			a.mu.Unlock()
			time.Sleep(2 * pause)
			told() // nobody said that anything changed
			time.Sleep(w.Every)
			told("began a@here.example x@good.example")
		})
}

// Sources that can't be listed are logged when that changes, not at each audit.
func TestWatcherUnlisted(t *testing.T) {
	watched(t, map[string]string{"a@here.example": ""}, nil,
		func(f *fakeForwards, _ *fakeAssessor, w *Watcher, changed chan struct{}, _ func(...string)) {
			synctest.Wait()
			var log strings.Builder
			w.Log = slog.New(slog.NewTextHandler(&log, nil))
			for _, step := range []struct {
				unlisted []forward.Unlisted
				want     string
			}{
				{[]forward.Unlisted{{Source: "ldap:x", Reason: "can't be listed"}, {Source: "/etc/aliases", Reason: "closed"}}, `err="/etc/aliases: closed; ldap:x: can't be listed"`},
				{[]forward.Unlisted{{Source: "/etc/aliases", Reason: "closed"}, {Source: "ldap:x", Reason: "can't be listed"}}, ""},
				{[]forward.Unlisted{{Source: "ldap:x", Reason: "can't be listed"}}, `err="ldap:x: can't be listed"`},
				{nil, "again"},
				{nil, ""},
			} {
				log.Reset()
				f.mu.Lock()
				f.unlisted = step.unlisted
				f.mu.Unlock()
				changed <- struct{}{}
				time.Sleep(2 * pause)
				synctest.Wait()
				if lines := strings.Count(log.String(), "\n"); !strings.Contains(log.String(), step.want) || (step.want == "") != (lines == 1) {
					t.Errorf("%v: %s", step.unlisted, log.String())
				}
			}
		})
}

// Who changes many entries one by one is audited once a pause.
func TestWatcherPause(t *testing.T) {
	watched(t, map[string]string{"a@here.example": ""}, nil,
		func(f *fakeForwards, _ *fakeAssessor, _ *Watcher, changed chan struct{}, told func(...string)) {
			told()
			for range 100 {
				select {
				case changed <- struct{}{}:
				default:
				}
				time.Sleep(pause / 50)
			}
			time.Sleep(3 * pause)
			told()
			if f.listings < 3 || f.listings > 4 { // the first, one or two while it changed, one after
				t.Errorf("%d audits", f.listings)
			}
		})
}

// What was known to fail before the process began is no news; that it is mended is.
func TestWatcherKnown(t *testing.T) {
	known := func(f Finding) bool { return f.Owner == "a@here.example" }
	watched(t, map[string]string{"a@here.example": "x@clear.example", "b@here.example": "x@clear.example"}, known,
		func(f *fakeForwards, _ *fakeAssessor, _ *Watcher, changed chan struct{}, told func(...string)) {
			told("began b@here.example x@clear.example")
			f.set("a@here.example", "")
			changed <- struct{}{}
			time.Sleep(pause)
			told("ceased a@here.example x@clear.example")
			f.set("a@here.example", "x@clear.example")
			changed <- struct{}{}
			time.Sleep(2 * pause)
			told("began a@here.example x@clear.example") // known only counts once
		})
}

// What isn't known for the moment is no news, and forgets nothing: neither a failure that is still to be told, nor its end.
func TestWatcherUnknown(t *testing.T) {
	watched(t, map[string]string{"a@here.example": "x@clear.example", "b@here.example": "x@away.example", "c@here.example": "?"}, nil,
		func(f *fakeForwards, a *fakeAssessor, w *Watcher, changed chan struct{}, told func(...string)) {
			again := func() {
				changed <- struct{}{}
				time.Sleep(2 * pause)
			}
			told("began a@here.example x@clear.example", "began b@here.example x@away.example")
			a.set("clear.example", policy.Timeout)
			again()
			told()
			a.set("clear.example", "")
			f.set("a@here.example", "?")
			again()
			told()
			f.mu.Lock()
			delete(f.ends, "a@here.example")
			f.unlisted = []forward.Unlisted{{Source: "table", Reason: "unreadable"}, {Source: "another", Reason: "unreadable"}}
			f.mu.Unlock()
			again()
			told()
			f.mu.Lock()
			f.unlisted, f.err = nil, errors.New("no settings")
			f.mu.Unlock()
			again()
			told()
			f.mu.Lock()
			f.err = nil
			f.mu.Unlock()
			again()
			told("ceased a@here.example x@clear.example")
			f.set("c@here.example", "x@clear.example")
			again()
			told("began c@here.example x@clear.example")
			f.set("b@here.example", "x@good.example")
			again()
			told("ceased b@here.example x@away.example")
			a.set("good.example", policy.Timeout)
			again()
			told()
			a.mu.Lock()
			a.gone["good.example"] = ""
			a.clear["good.example"] = true
			a.mu.Unlock()
			again()
			told("began b@here.example x@good.example")
		})
}

// What is delivered here though forward takes it for away doesn't leave, as at RCPT; a next hop that a table names does.
func TestLocal(t *testing.T) {
	a, _, assessor := newFakes(map[string]string{"a@here.example": "x@clear.example", "b@here.example": "x@clear.example [away.example]"})
	a.Local = func(d addr.Domain) bool { return d == addr.MustDomain("clear.example") }
	var found []string
	if _, err := a.Run(t.Context(), nil, func(f Finding) { found = append(found, f.Owner+" "+f.Destination.String()) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found, []string{"b@here.example [away.example]"}) || len(assessor.asked) != 1 {
		t.Errorf("%q, asked of %q", found, assessor.asked)
	}
}
