package binding

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/mta"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a doctor, and who is told.
type fake struct {
	mu      sync.Mutex
	look    mta.Inspection
	err     error
	idle    string
	every   time.Duration
	silent  []mta.Finding
	before  time.Time // when it was unbound; zero: it was bound
	looks   int
	told    []State
	logged  strings.Builder
	changes chan struct{} // after each look; nil: nobody waits
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logged.Write(p)
}

// lines counts the lines of the log that have a text.
func (f *fake) lines(text string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Count(f.logged.String(), text)
}

func (f *fake) config() Config {
	return Config{
		Plan: func() Plan {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.idle != "" {
				return Plan{Idle: f.idle}
			}
			every := f.every
			if every == 0 {
				every = 5 * time.Minute
			}
			return Plan{MTA: "postfix", Every: every, Inspect: func(context.Context) (mta.Inspection, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.looks++
				if f.changes != nil {
					select {
					case f.changes <- struct{}{}:
					default:
					}
				}
				return mta.Inspection{Findings: slices.Clone(f.look.Findings), Files: f.look.Files}, f.err
			}, Silent: func(time.Time) []mta.Finding {
				f.mu.Lock()
				defer f.mu.Unlock()
				return slices.Clone(f.silent)
			}}
		},
		Told: func(s State) { f.set(func() { f.told = append(f.told, s) }) },
		Before: func() (bool, time.Time) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return !f.before.IsZero(), f.before
		},
		Log: slog.New(slog.NewTextHandler(f, nil)),
	}
}

func (f *fake) words() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, s := range f.told {
		word := "bound"
		if !s.OK {
			word = "unbound " + s.Findings[0].Code
		}
		all = append(all, word)
	}
	return all
}

// live runs test beside a Watcher, at a time that passes when nobody works.
func live(t *testing.T, f *fake, test func(t *testing.T, w *Watcher)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := f.config()
		c.blind = true
		w, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.Run(ctx); close(done) }()
		test(t, w)
		cancel()
		<-done
	})
}

// pass lets d pass, and what happens by then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var (
	milterWell = mta.Finding{Severity: mta.OK, Code: "milter-asked", Check: "milter"}
	runs       = mta.Finding{Severity: mta.OK, Code: "postfix-running", Check: "running"}
	noMilter   = mta.Finding{Severity: mta.Hole, Code: "milter-missing", Where: "main.cf:smtpd_milters", Check: "milter", Text: "not asked", Remedy: "setup"}
	noPolicy   = mta.Finding{Severity: mta.Broken, Code: "policy-failing", Check: "policy", Text: "waits"}
	stopped    = mta.Finding{Severity: mta.Down, Code: "postfix-down", Check: "running", Text: "doesn't run"}
	stale      = mta.Finding{Severity: mta.Hole, Code: "not-reloaded", Where: "/etc/postfix/main.cf", Check: "running"}
	unseen     = mta.Finding{Severity: mta.Warning, Code: "not-looked-at", Where: "qmgr", Check: "running", Text: "can't be seen"}
	accepted   = mta.Finding{Severity: mta.Accepted, Code: "milter-missing", Where: "main.cf:smtpd_milters", Check: "milter"}
	odd        = mta.Finding{Severity: mta.Warning, Code: "milter-other", Check: "milter"}
)

func well() []mta.Finding { return []mta.Finding{milterWell, runs, odd} }

func (f *fake) find(all ...mta.Finding) { f.set(func() { f.look.Findings, f.err = all, nil }) }

// What fails is told once it has stood for a while, and once only.
func TestUnbound(t *testing.T) {
	f := &fake{}
	f.find(well()...)
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(0)
		if s := w.State(); !s.Known || !s.OK || s.MTA != "postfix" || !s.Checks["milter"] || !s.Checks["running"] || !s.Checks["asked"] {
			t.Errorf("at the start: %+v", s)
		}
		if got := f.words(); len(got) > 0 {
			t.Errorf("told %q of what was never otherwise", got)
		}
		f.find(noMilter, runs, noPolicy)
		w.Again()
		pass(stands - time.Second)
		if s := w.State(); !s.OK || len(f.words()) > 0 {
			t.Errorf("said before it has stood: %+v", s)
		}
		pass(time.Second)
		s := w.State()
		if s.OK || s.Checks["milter"] || s.Checks["policy"] || !s.Checks["running"] || !s.Since.Equal(time.Now()) {
			t.Errorf("unbound: %+v", s)
		}
		if got := s.Describe(); got != "hole: milter-missing main.cf:smtpd_milters: not asked; setup; and one more finding" {
			t.Error(got)
		}
		since := s.Since
		pass(23 * time.Hour)
		if got := f.words(); len(got) != 1 || got[0] != "unbound milter-missing" || f.lines("level=ERROR") != 1 {
			t.Errorf("told %q, %d lines at ERROR", got, f.lines("level=ERROR"))
		}
		if s := w.State(); !s.Since.Equal(since) {
			t.Errorf("unbound since %v, not %v", s.Since, since)
		}
		pass(2 * time.Hour)
		if got := f.words(); len(got) != 1 || f.lines("level=ERROR") != 2 {
			t.Errorf("after a day told %q, %d lines at ERROR", got, f.lines("level=ERROR"))
		}
		f.find(well()...)
		pass(5 * time.Minute)
		if got := f.words(); len(got) != 2 || got[1] != "bound" || f.lines(`msg="bound again"`) != 1 {
			t.Errorf("told %q", got)
		}
	})
}

// Another finding while it is unbound has a line of its own; people know.
func TestUnboundFurther(t *testing.T) {
	f := &fake{}
	f.find(noMilter)
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(time.Minute)
		f.find(noMilter, noPolicy)
		pass(6 * time.Minute)
		if got := f.words(); len(got) != 1 || f.lines("level=ERROR") != 2 || f.lines("code=policy-failing") != 1 {
			t.Errorf("told %q, log %s", got, f.logged.String())
		}
	})
}

// What a generator writes in steps, and what a reload ends, is no alarm.
func TestNoAlarm(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile []mta.Finding
		lasts     time.Duration
	}{
		"half a file":      {[]mta.Finding{noMilter, runs}, stands - 2*time.Second},
		"not yet reloaded": {[]mta.Finding{milterWell, stale}, 48 * time.Hour}, // what it has read binds it, too
		"a restart":        {[]mta.Finding{milterWell, stopped}, standsRunning - time.Second},
		"accepted":         {[]mta.Finding{accepted, runs}, 48 * time.Hour},
		"unseen":           {[]mta.Finding{milterWell, unseen}, 48 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			f.find(well()...)
			live(t, f, func(t *testing.T, w *Watcher) {
				pass(time.Minute)
				f.find(c.meanwhile...)
				w.Again()
				pass(c.lasts)
				if s := w.State(); !s.OK || len(s.Findings) > 0 {
					t.Errorf("%+v", s)
				}
				f.find(well()...)
				w.Again()
				pass(time.Hour)
				if s := w.State(); !s.OK || len(f.words()) > 0 || f.lines("level=ERROR")+f.lines("level=WARN") > 0 {
					t.Errorf("%+v, told %q, log %s", s, f.words(), f.logged.String())
				}
			})
		})
	}
}

// What an MTA has read may not bind it: at the start nobody knows, and after
// files that didn't it may have read these.
func TestNotReloaded(t *testing.T) {
	f := &fake{}
	f.find(milterWell, stale)
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(standsRunning - time.Second)
		if s := w.State(); s.Known {
			t.Errorf("said before it has stood: %+v", s)
		}
		pass(time.Second)
		if s := w.State(); !s.Known || s.OK || len(f.words()) != 1 {
			t.Errorf("%+v, told %q", s, f.words())
		}
		f.find(well()...)
		w.Again()
		pass(time.Second)
		f.find(noMilter, stale)
		w.Again()
		pass(time.Second) // no alarm yet
		f.find(milterWell, stale)
		w.Again()
		pass(standsRunning)
		if s := w.State(); s.OK || s.Findings[0].Code != "not-reloaded" || len(f.words()) != 3 {
			t.Errorf("%+v, told %q", s, f.words())
		}
		f.find(well()...)
		w.Again()
		pass(time.Second)
		f.find(milterWell, stale)
		pass(time.Hour)
		if s := w.State(); !s.OK || len(f.words()) != 4 {
			t.Errorf("%+v, told %q", s, f.words())
		}
	})
}

// That an MTA has read its files is seen soon after they were written, whether
// the daemon has just started or knew that the binding was lost; and it isn't
// back before.
func TestReloadSeen(t *testing.T) {
	for name, known := range map[string]bool{"just started": false, "known to be lost": true} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			f.find(noMilter, runs)
			live(t, f, func(t *testing.T, w *Watcher) {
				if pass(time.Second); known {
					pass(stands)
				}
				if s := w.State(); s.Known != known || s.OK {
					t.Fatalf("at the start: %+v", s)
				}
				f.find(milterWell, stale) // setup has written
				w.Again()
				pass(3 * time.Second)
				if s := w.State(); s.OK || s.Known != known {
					t.Errorf("before the reload: %+v", s)
				}
				f.find(well()...) // which nothing tells
				reloaded := time.Now()
				for !w.State().OK && time.Since(reloaded) < time.Minute {
					pass(100 * time.Millisecond)
				}
				if took := time.Since(reloaded); took > 4*time.Second {
					t.Errorf("seen %v after the reload", took)
				}
				looks := 0
				f.set(func() { f.looks = 0 })
				pass(4 * time.Minute)
				if f.set(func() { looks = f.looks }); looks > 0 {
					t.Errorf("%d looks afterwards", looks)
				}
			})
		})
	}
	// Who never reloads is looked at ever less often.
	f := &fake{}
	f.find(milterWell, stale)
	live(t, f, func(t *testing.T, _ *Watcher) {
		pass(time.Hour)
		looks := 0
		if f.set(func() { looks = f.looks }); looks > 25 {
			t.Errorf("%d looks in an hour", looks)
		}
	})
}

// An MTA that doesn't run is said to be so, and is no less bound.
func TestDown(t *testing.T) {
	f := &fake{}
	f.find(well()...)
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(0)
		f.find(milterWell, stopped)
		f.set(func() { f.silent = []mta.Finding{{Severity: mta.Warning, Code: "nobody-asks", Check: "asked"}} })
		pass(48 * time.Hour)
		s := w.State()
		if !s.OK || len(s.Findings) != 1 || s.Findings[0].Code != "postfix-down" || s.Checks["running"] || !s.Checks["milter"] {
			t.Errorf("%+v", s)
		}
		if len(f.words()) > 0 || f.lines("level=ERROR") > 0 || f.lines("not running") != 2 {
			t.Errorf("told %q, log %s", f.words(), f.logged.String())
		}
		f.set(func() { f.silent = nil })
		f.find(well()...)
		pass(5 * time.Minute)
		if s := w.State(); !s.OK || len(s.Findings) > 0 || f.lines("runs again") != 1 {
			t.Errorf("%+v, log %s", s, f.logged.String())
		}
	})
}

// What can't be looked into is told once, is no alarm, and ends none.
func TestUnseen(t *testing.T) {
	f := &fake{err: errors.New("postconf: permission denied")}
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(time.Hour)
		s := w.State()
		if s.Known || s.Problem == "" || len(s.Checks) > 0 || f.lines("cannot be looked into") != 1 || len(f.words()) > 0 {
			t.Errorf("%+v, log %s", s, f.logged.String())
		}
		f.find(milterWell, runs, unseen)
		pass(time.Hour)
		if s := w.State(); !s.Known || !s.OK || s.Problem != "" || f.lines("can't be seen") != 1 {
			t.Errorf("%+v, log %s", s, f.logged.String())
		}
		f.find(milterWell, unseen)
		pass(time.Hour)
		if _, ok := w.State().Checks["running"]; ok {
			t.Error("a check that can't be looked into is said to be well")
		}
		f.find(noMilter)
		pass(time.Hour)
		f.set(func() { f.err = errors.New("postconf: no such file") })
		pass(time.Hour)
		if s := w.State(); s.OK || !s.Known || s.Checks["milter"] || !s.Checks["asked"] || len(s.Checks) != 2 {
			t.Errorf("unbound, and not seen any more: %+v", s)
		}
		if got := f.words(); len(got) != 1 {
			t.Errorf("told %q", got)
		}
	})
}

// A restart tells nobody what was told, and tells what changed meanwhile.
func TestRestart(t *testing.T) {
	for _, c := range []struct {
		before bool // unbound
		now    []mta.Finding
		want   string
		lines  int
	}{
		{false, well(), "", 0},
		{true, []mta.Finding{noMilter}, "", 1},
		{false, []mta.Finding{noMilter}, "unbound milter-missing", 1},
		{true, well(), "bound", 0},
	} {
		f := &fake{}
		f.find(c.now...)
		var then time.Time
		live(t, f, func(t *testing.T, w *Watcher) {
			if c.before {
				then = time.Now().Add(-time.Hour)
				f.set(func() { f.before = then })
			}
			pass(time.Minute)
			if got := strings.Join(f.words(), ","); got != c.want || f.lines("level=ERROR") != c.lines {
				t.Errorf("unbound before %t: told %q, want %q; log %s", c.before, got, c.want, f.logged.String())
			}
			if s := w.State(); c.before && c.want == "" && !s.Since.Equal(then) {
				t.Errorf("unbound since %v, not %v", s.Since, then)
			}
		})
	}
}

// Who asks is judged between the looks.
func TestSilentTold(t *testing.T) {
	f := &fake{}
	f.find(well()...)
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(time.Second)
		f.set(func() { f.silent = []mta.Finding{{Severity: mta.Hole, Code: "milter-silent", Check: "asked"}} })
		pass(20 * time.Second)
		if s := w.State(); s.OK || s.Checks["asked"] || len(f.words()) != 1 {
			t.Errorf("%+v", s)
		}
		f.set(func() { f.silent = []mta.Finding{{Severity: mta.Warning, Code: "nobody-asks", Check: "asked"}} })
		pass(20 * time.Second)
		if s := w.State(); !s.OK || s.Checks["asked"] || len(f.words()) != 2 || f.lines("level=WARN") != 1 {
			t.Errorf("%+v, log %s", s, f.logged.String())
		}
	})
}

func TestIdle(t *testing.T) {
	f := &fake{idle: "no MTA on this host"}
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(10 * time.Hour)
		if s := w.State(); s.MTA != "" || s.Known || f.looks > 0 || f.lines("binding not watched") != 1 {
			t.Errorf("%+v, %d looks, log %s", s, f.looks, f.logged.String())
		}
		f.set(func() { f.idle = "" })
		f.find(noMilter)
		pass(2 * time.Minute) // an MTA is installed
		if s := w.State(); s.OK || !s.Known {
			t.Errorf("%+v", s)
		}
		f.set(func() { f.idle = "off" })
		w.Again()
		pass(0)
		if s := w.State(); s.MTA != "" || f.lines("binding not watched") != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// How often it is looked, without a change and with one.
func TestEvery(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "main.cf")
	put(t, main, "a")
	f := &fake{every: 10 * time.Minute}
	f.look.Files = []string{main}
	f.find(well()...)
	live(t, f, func(t *testing.T, w *Watcher) {
		pass(time.Hour - time.Second)
		// One more for the files, of which the first look had told.
		if f.looks > 7 || f.looks < 6 {
			t.Errorf("%d looks in an hour", f.looks)
		}
		before := f.looks
		put(t, main, "ab")
		pass(16 * time.Second)
		if f.looks <= before {
			t.Error("a change isn't seen by the times of files alone")
		}
	})
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Whatever is done to a file, a look follows, at once where directories are
// watched.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(path("etc"), 0o755))
	must(os.MkdirAll(path("elsewhere/deep"), 0o755))
	main, later, linked := path("etc/main.cf"), path("new/postfix/master.cf"), path("etc/linked.cf")
	put(t, main, "a")
	put(t, path("elsewhere/deep/real.cf"), "a")
	must(os.Symlink("../elsewhere/deep/real.cf", linked))
	must(os.Symlink("elsewhere", path("by")))
	f := &fake{every: time.Hour, changes: make(chan struct{}, 100)}
	f.look.Files = []string{main, later, linked, path("by/deep/real.cf")}
	f.find(well()...)
	c := f.config()
	c.Poll = time.Hour // what is seen is seen by the directories
	c.settle = 30 * time.Millisecond
	w, err := New(c)
	must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	looks := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.looks }
	// Until no more looks come: an event of before may be under way.
	calm := func() int {
		for n := looks(); ; n = looks() {
			select {
			case <-f.changes:
			case <-time.After(10 * c.settle):
				if looks() == n && n > 0 {
					return n
				}
			}
		}
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"written", func() { put(t, main, "ab") }},
		{"written with the same length and time", func() {
			info, err := os.Stat(main)
			must(err)
			put(t, main, "cd")
			must(os.Chtimes(main, info.ModTime(), info.ModTime()))
		}},
		{"replaced", func() { put(t, path("etc/x"), "abc"); must(os.Rename(path("etc/x"), main)) }},
		{"removed", func() { must(os.Remove(main)) }},
		{"there again", func() { put(t, main, "a") }},
		{"what a link leads to", func() { put(t, path("elsewhere/deep/real.cf"), "ab") }},
		{"the link", func() {
			put(t, path("elsewhere/other.cf"), "other")
			must(os.Remove(linked))
			must(os.Symlink("../elsewhere/other.cf", linked))
		}},
		{"what it leads to now", func() { put(t, path("elsewhere/other.cf"), "another") }},
		{"a directory that comes later", func() {
			must(os.Mkdir(path("new"), 0o755))
			must(os.Mkdir(path("new/postfix"), 0o755))
			put(t, later, "a")
		}},
		{"a file in it", func() { put(t, later, "ab") }},
		{"another directory in its place", func() {
			must(os.MkdirAll(path("fresh/postfix"), 0o755))
			put(t, path("fresh/postfix/master.cf"), "fresh")
			must(os.Rename(path("new"), path("old")))
			must(os.Rename(path("fresh"), path("new")))
		}},
		{"a link to a directory", func() {
			must(os.MkdirAll(path("third/deep"), 0o755))
			put(t, path("third/deep/real.cf"), "third")
			must(os.Remove(path("by")))
			must(os.Symlink("third", path("by")))
		}},
	} {
		before := calm()
		step.do()
		select {
		case <-f.changes:
		case <-time.After(20 * time.Second):
			t.Errorf("%s: no look", step.name)
		}
		if looks() == before {
			t.Errorf("%s: no look", step.name)
		}
	}
	before := calm()
	put(t, path("etc/unrelated.cf"), "x")
	if after := calm(); after != before {
		t.Errorf("%d looks because of another file", after-before)
	}
}
