// Package binding watches whether the MTA on this host is still bound to the
// daemon. A file that another program writes anew, at an upgrade or at each
// start, takes the binding away without a word; then nobody asks the daemon any
// more, and protected mail leaves as any other.
//
// A Watcher has the core of doctor look at the MTA's own configuration: at the
// start, when a file changes that the look rests on, and every few minutes.
// Asked notices besides when one half of the MTA asks and the other doesn't,
// and when nobody asks at all. What is found fails only after it has stood for
// a while, because files are written in several steps and an MTA takes its time
// to reload; what can't be looked into is told once and is no alarm.
//
// It decides nothing about mail and changes nothing at the MTA. The caller says
// what is looked at, tells people and programs, and calls Run for the life of
// the daemon.
package binding

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/mta"
)

// Plan is what is to be watched now.
type Plan struct {
	MTA   string        // "postfix" or "sendmail"
	Every time.Duration // a look without a change
	// Idle says why nothing is watched; "" where something is.
	Idle string
	// Inspect looks at the configuration of the MTA. It has marked what the site
	// accepts.
	Inspect func(context.Context) (mta.Inspection, error)
	// Silent says who doesn't ask any more, as findings; nil: nobody knows.
	Silent func(now time.Time) []mta.Finding
}

// State is what is known of the binding.
type State struct {
	MTA   string // "" while nothing is watched
	Known bool   // some look has said so; else the rest says nothing
	// OK: no finding says that mail passes the daemon by, or is stopped by
	// settings. An MTA that doesn't run is no less bound.
	OK        bool
	Since     time.Time       // when OK became what it is
	Findings  []mta.Finding   // those that fail, the worst first
	Checks    map[string]bool // what was looked at, by Finding.Check; what couldn't be isn't there
	Inspected time.Time       // the last look that saw something
	Problem   string          // why the last look saw nothing, "" for a good one
}

// Config is what a Watcher works with. Plan and Told are needed, zero fields
// mean the defaults named.
type Config struct {
	// Plan is asked before each look.
	Plan func() Plan
	// Told is told when the MTA is bound no longer, and when it is again.
	Told func(State)
	// Before says what was told last before this process began; nil: nothing.
	Before func() (unbound bool, since time.Time)
	Poll   time.Duration // between two looks at the times of files; 15 s
	Log    *slog.Logger
	Now    func() time.Time

	// For tests: how long a file must have stood still before it is looked at,
	// 500 ms; and that no directory is watched.
	settle time.Duration
	blind  bool
}

const (
	// longest is how long it is waited for files to stand still.
	longest = 5 * time.Second
	// stands is how long a finding must have stood to count. Who writes files
	// writes several times in a row.
	stands = 5 * time.Second
	// standsRunning is that of what a reload or a restart ends by itself.
	standsRunning = time.Minute
	// inspectTime is how long a look may take.
	inspectTime = 30 * time.Second
	// again is after how long what still fails is logged again.
	again = 24 * time.Hour
	// idling is between two questions whether there is something to watch.
	idling = time.Minute
)

// key tells findings apart.
type key struct{ code, where string }

func keyOf(f mta.Finding) key { return key{f.Code, f.Where} }

// Watcher watches. Make one with New.
type Watcher struct {
	c     Config
	again chan struct{}

	mu    sync.Mutex
	state State

	// Of Run alone.
	began  map[key]time.Time // since when a finding stands
	logged map[key]time.Time // when a finding that fails was logged
	told   map[string]bool   // what can't be looked into
	idle   string            // why, as logged
	due    time.Time         // when a finding that stands counts; zero: none does
	// awaits is when to look again whether the MTA has read its files, which
	// nothing tells; 0: it has.
	awaits time.Duration
	seen   mta.Inspection // of the last good look
	// clean: since a look saw the MTA run with its files as they are, none has
	// seen files that don't bind it.
	clean bool
}

// New returns a Watcher that isn't running yet.
func New(c Config) (*Watcher, error) {
	if c.Plan == nil || c.Told == nil {
		return nil, errors.New("binding: a plan, and somebody to be told, are needed")
	}
	c.Poll = cmp.Or(c.Poll, 15*time.Second)
	c.settle = cmp.Or(c.settle, 500*time.Millisecond)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Watcher{c: c, again: make(chan struct{}, 1), began: map[key]time.Time{},
		logged: map[key]time.Time{}, told: map[string]bool{}}, nil
}

// Again has the plan asked for again, and a look taken, soon: settings changed.
func (w *Watcher) Again() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// State returns what is known now.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *Watcher) set(s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	files := newFiles(w.c.Log, w.c.settle, w.c.blind)
	defer files.close()
	poll := time.NewTicker(w.c.Poll)
	defer poll.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	var last time.Time // of a look, by a clock that nobody sets
	for {
		changed := false
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			changed = true
		case <-w.again:
			changed = true
		case err := <-files.faults(): // an overflow, say: something was missed
			w.c.Log.Debug("watch of the MTA's files", "err", err)
			changed = files.changed()
		case <-files.events():
			if !files.settled(ctx) {
				return
			}
			changed = files.changed()
		case <-poll.C:
			changed = files.changed()
		}
		plan := w.c.Plan()
		if plan.Idle != "" {
			w.rest(plan.Idle)
			files.watch(nil)
			next.Reset(idling)
			continue
		}
		if stood := !w.due.IsZero() && !w.due.After(w.c.Now()); !changed && !stood {
			w.judge(plan) // who asks
		} else {
			// What changes from here on is seen by the next look.
			if files.changed() {
				w.awaits = 0
			}
			w.inspect(ctx, plan, files)
			last = time.Now()
		}
		if ctx.Err() != nil {
			return
		}
		wait := time.Until(last.Add(plan.Every))
		if w.awaits > 0 {
			wait = min(wait, time.Until(last.Add(w.awaits)))
		}
		if !w.due.IsZero() {
			wait = min(wait, max(w.due.Sub(w.c.Now()), w.c.settle))
		}
		next.Reset(max(wait, 0))
	}
}

// rest notes that there is nothing to watch.
func (w *Watcher) rest(why string) {
	if w.idle != why {
		w.c.Log.Info("binding not watched", "reason", why)
	}
	w.idle = why
	clear(w.began)
	clear(w.logged)
	w.due, w.seen, w.clean, w.awaits = time.Time{}, mta.Inspection{}, false, 0
	w.set(State{})
}

// inspect takes one look.
func (w *Watcher) inspect(ctx context.Context, plan Plan, files *files) {
	started := time.Now()
	limited, cancel := context.WithTimeout(ctx, inspectTime)
	look, err := plan.Inspect(limited)
	cancel()
	if ctx.Err() != nil {
		return
	}
	files.watch(look.Files)
	w.idle = ""
	if err != nil {
		// What was known holds: it may be so still.
		w.once(plan.MTA, err.Error())
		state := w.State()
		state.MTA, state.Problem = plan.MTA, err.Error()
		w.set(state)
		w.judge(plan)
		return
	}
	delete(w.told, plan.MTA)
	w.c.Log.Debug("binding looked at", "mta", plan.MTA, "findings", len(look.Findings), "took", time.Since(started))
	w.await(look.Findings)
	look.Findings = w.loaded(look.Findings)
	w.seen = look
	for _, f := range look.Findings {
		if f.Code == "not-looked-at" {
			w.once(f.Where, f.Text)
		}
	}
	state := w.State()
	state.Inspected, state.Problem = w.c.Now(), ""
	w.set(state)
	w.judge(plan)
}

// loaded takes out that the MTA hasn't read its files yet, where those that it
// has read bind it as well.
func (w *Watcher) loaded(found []mta.Finding) []mta.Finding {
	stale, other := false, false
	for _, f := range found {
		switch {
		case isStale(f):
			stale = true
		case f.Severity == mta.Hole || f.Severity == mta.Broken:
			other = true
		}
	}
	switch {
	case other:
		w.clean = false
	case !stale:
		w.clean = true
	}
	if !w.clean {
		return found
	}
	return slices.DeleteFunc(found, isStale)
}

// await says when to look again where the MTA hasn't read its files: soon at
// first, because who has written them has it read them, and ever later.
func (w *Watcher) await(found []mta.Finding) {
	if !slices.ContainsFunc(found, isStale) {
		w.awaits = 0
		return
	}
	w.awaits = max(2*w.c.settle, 2*w.awaits)
}

// isStale reports whether a finding says that the MTA runs with what its files
// were before.
func isStale(f mta.Finding) bool {
	return f.Code == "not-reloaded" || f.Code == "sendmail-not-restarted"
}

// once tells what can't be looked into.
func (w *Watcher) once(where, text string) {
	if !w.told[where] {
		w.told[where] = true
		w.c.Log.Info("binding cannot be looked into", "where", where, "err", text)
	}
}

// judge says of the last look, and of who asks, how things stand now.
func (w *Watcher) judge(plan Plan) {
	state, now := w.State(), w.c.Now()
	if state.Inspected.IsZero() {
		return // nothing has been seen yet
	}
	found := slices.Clone(w.seen.Findings)
	down := slices.ContainsFunc(found, func(f mta.Finding) bool { return f.Severity == mta.Down })
	if plan.Silent != nil && !down {
		found = append(found, plan.Silent(now)...)
	}
	failing := w.standing(found, now)
	if state.Problem != "" {
		found = nil // only what fails is said of what can't be looked into
	}
	was := state
	state.MTA, state.Findings, state.Checks = plan.MTA, failing, checks(found, failing, plan.Silent != nil)
	state.OK = !slices.ContainsFunc(failing, func(f mta.Finding) bool { return f.Severity == mta.Hole || f.Severity == mta.Broken })
	pending := !w.due.IsZero()
	if !was.Known && pending && state.OK {
		return // not said before it stands
	}
	if was.Known && !was.OK && state.OK && slices.ContainsFunc(found, isStale) {
		return // it isn't back before the MTA reads its files
	}
	state.Known = true
	unbound, since := false, time.Time{}
	switch {
	case was.Known:
		unbound, since = !was.OK, was.Since
	case w.c.Before != nil:
		unbound, since = w.c.Before()
	}
	if unbound == !state.OK && !since.IsZero() {
		state.Since = since
	} else {
		state.Since = now
	}
	w.set(state)
	w.log(state, now)
	switch {
	case unbound && state.OK:
		w.c.Log.Info("bound again", "mta", state.MTA, "after", now.Sub(since).Round(time.Second))
	case !was.Known && state.OK:
		w.c.Log.Info("bound", "mta", state.MTA, "every", plan.Every)
	}
	if unbound == state.OK {
		w.c.Told(state)
	}
}

// standing returns the findings that fail and have stood long enough, the worst
// first, and notes when the next one has.
func (w *Watcher) standing(found []mta.Finding, now time.Time) []mta.Finding {
	w.due = time.Time{}
	var failing []mta.Finding
	began := make(map[key]time.Time)
	for _, f := range found {
		if !f.Severity.Fails() && f.Check != checkActivity || f.Severity == mta.Accepted {
			continue
		}
		since, stood := w.began[keyOf(f)]
		if !stood || since.After(now) { // the clock was set back
			since = now
		}
		began[keyOf(f)] = since
		end := since
		switch {
		case f.Check == checkActivity: // it has stood by then
		case f.Check == "running":
			end = since.Add(standsRunning)
		default:
			end = since.Add(stands)
		}
		if end.After(now) {
			if w.due.IsZero() || end.Before(w.due) {
				w.due = end
			}
			continue
		}
		failing = append(failing, f)
	}
	w.began = began
	slices.SortStableFunc(failing, func(a, b mta.Finding) int { return cmp.Compare(rank(b.Severity), rank(a.Severity)) })
	return failing
}

func rank(l mta.Severity) int {
	return slices.Index([]mta.Severity{mta.OK, mta.Accepted, mta.Warning, mta.Down, mta.Broken, mta.Hole}, l)
}

// checks says of each check whether all is well. One that could only be found
// not to be looked into isn't there.
func checks(found, failing []mta.Finding, asked bool) map[string]bool {
	all := make(map[string]bool)
	for _, f := range found {
		if f.Code != "not-looked-at" {
			all[f.Check] = true
		}
	}
	if asked {
		all[checkActivity] = true
	}
	for _, f := range failing {
		all[f.Check] = false
	}
	return all
}

// log tells of what fails and wasn't told yet, or not for a day.
func (w *Watcher) log(state State, now time.Time) {
	logged := make(map[key]time.Time)
	worst := map[slog.Level]mta.Finding{}
	more := map[slog.Level]int{}
	for _, f := range state.Findings {
		at, ok := w.logged[keyOf(f)]
		if ok && now.Sub(at).Abs() < again {
			logged[keyOf(f)] = at
			continue
		}
		logged[keyOf(f)] = now
		level := slog.LevelError
		if f.Severity == mta.Down || f.Severity == mta.Warning {
			level = slog.LevelWarn
		}
		if _, there := worst[level]; there {
			more[level]++
		} else {
			worst[level] = f
		}
	}
	for at := range w.logged {
		if _, still := logged[at]; !still && strings.HasSuffix(at.code, "-down") {
			w.c.Log.Info("the MTA runs again", "mta", state.MTA)
		}
	}
	w.logged = logged
	for level, f := range worst {
		text := "the MTA isn't bound"
		switch f.Severity {
		case mta.Broken:
			text = "the MTA isn't bound as it should be"
		case mta.Down:
			text = "the MTA is not running"
		case mta.Warning:
			text = "the MTA doesn't ask"
		}
		w.c.Log.Log(context.Background(), level, text, "mta", state.MTA, "code", f.Code, "where", f.Where,
			"err", f.Text, "remedy", f.Remedy, "more", more[level])
	}
}

// Describe says in one line what fails, for /readyz and for who is told.
func (s State) Describe() string {
	if len(s.Findings) == 0 {
		return ""
	}
	f := s.Findings[0]
	text := string(f.Severity) + ": " + strings.TrimSpace(f.Code+" "+f.Where) + ": " + f.Text
	if f.Remedy != "" {
		text += "; " + f.Remedy
	}
	switch n := len(s.Findings) - 1; {
	case n == 1:
		text += "; and one more finding"
	case n > 1:
		text += "; and " + strconv.Itoa(n) + " more findings"
	}
	return text
}
