package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is all that a Monitor works with.
type fake struct {
	mu       sync.Mutex
	due      []addr.Destination
	asked    []int // how many were asked for, each time
	leases   []time.Duration
	farthest time.Duration
	err      error
	takes    time.Duration // a look
	deaf     bool          // a look ends no earlier when it is told to
	looked   map[addr.Destination]int
	ages     []time.Duration
	running  int
	most     int // looks at one time
	known    int
	waiting  int
	tidied   []string
}

func (f *fake) Due(_ context.Context, _ time.Time, n int, lease, farthest time.Duration) ([]addr.Destination, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, n)
	f.leases = append(f.leases, lease)
	f.farthest = farthest
	if f.err != nil {
		return nil, f.err
	}
	claimed := f.due[:min(n, len(f.due))]
	f.due = f.due[len(claimed):]
	return claimed, nil
}

func (f *fake) Refresh(ctx context.Context, d addr.Destination, age time.Duration) policy.Assessment {
	f.mu.Lock()
	f.running++
	f.most = max(f.most, f.running)
	f.ages = append(f.ages, age)
	deaf, takes := f.deaf, f.takes
	f.mu.Unlock()
	if deaf {
		ctx = context.Background()
	}
	if takes > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(takes):
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	f.looked[d]++
	return policy.Assessment{}
}

func (f *fake) Len() int     { f.mu.Lock(); defer f.mu.Unlock(); return f.known }
func (f *fake) Waiting() int { f.mu.Lock(); defer f.mu.Unlock(); return f.waiting }

func (f *fake) Forget(_ context.Context, before time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tidied = append(f.tidied, "forget "+before.UTC().Format(time.DateTime))
	return f.err
}

func (f *fake) Prune(_ context.Context, before time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tidied = append(f.tidied, "prune "+before.UTC().Format(time.DateTime))
	return f.err
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// newFake has n destinations, all due.
func newFake(n int) *fake {
	f := &fake{known: n, looked: map[addr.Destination]int{}}
	for i := range n {
		f.due = append(f.due, addr.MustDestination(fmt.Sprintf("d%d.example", i)))
	}
	return f
}

// live runs test beside a Monitor, at a time that passes when nobody works, and ends the Monitor.
func live(t *testing.T, f *fake, c Config, test func(t *testing.T, log *lines, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		c.Schedule, c.Assessor, c.Ledger = f, f, f
		c.Log = slog.New(slog.NewTextHandler(log, nil))
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.Run(ctx); close(done) }()
		test(t, log, func() { cancel(); <-done })
		cancel()
		<-done
	})
}

// pass lets d pass, and what happens by then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// after lets d pass and returns how things stand then.
func (f *fake) after(d time.Duration) *fake {
	pass(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	return &fake{asked: slices.Clone(f.asked), leases: slices.Clone(f.leases), farthest: f.farthest, looked: maps.Clone(f.looked),
		ages: slices.Clone(f.ages), running: f.running, most: f.most, tidied: slices.Clone(f.tidied)}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestLooks(t *testing.T) {
	f := newFake(100)
	f.takes = 10 * time.Second
	live(t, f, Config{Every: time.Hour, Concurrency: 4}, func(t *testing.T, _ *lines, _ func()) {
		got := f.after(time.Hour)
		if len(got.looked) != 100 || got.most > 4 {
			t.Errorf("%d looked at, %d at one time", len(got.looked), got.most)
		}
		for d, n := range got.looked {
			if n != 1 {
				t.Errorf("%s was looked at %d times", d, n)
			}
		}
		if got.ages[0] != 30*time.Minute {
			t.Errorf("hosts seen within %v count", got.ages[0])
		}
		if got.farthest != 2*time.Hour {
			t.Errorf("next looks are taken to be at most %s away", got.farthest)
		}
		if slices.Min(got.leases) != lease {
			t.Errorf("claimed for %v", slices.Min(got.leases))
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	f := newFake(10_000)
	f.takes = 10 * time.Second
	live(t, f, Config{Every: 10 * time.Minute, Concurrency: 4}, func(t *testing.T, _ *lines, _ func()) {
		got := f.after(10 * time.Minute)
		if got.most != 4 || slices.Max(got.asked) != 16 {
			t.Errorf("%d looks at one time, %d claimed", got.most, slices.Max(got.asked))
		}
	})
}

// TestNoRush: after a restart, or a night without the store, what is overdue is spread.
func TestNoRush(t *testing.T) {
	f := newFake(10_000)
	live(t, f, Config{}, func(t *testing.T, _ *lines, _ func()) {
		got := f.after(time.Hour)
		if n := slices.Max(got.asked); n > 3 {
			t.Errorf("%d at one tick", n)
		}
		if n := len(got.looked); n < 1200 || n > 10_000/4 {
			t.Errorf("%d in the first hour", n)
		}
		got = f.after(7 * time.Hour)
		if len(got.looked) != 10_000 {
			t.Errorf("%d after eight hours", len(got.looked))
		}
		if got.ages[0] != hostAge {
			t.Errorf("hosts seen within %v count", got.ages[0])
		}
	})
}

func TestScheduleAway(t *testing.T) {
	f := newFake(3)
	f.err = errors.New("away")
	live(t, f, Config{}, func(t *testing.T, log *lines, _ func()) {
		got := f.after(time.Minute + time.Second)
		if n := strings.Count(log.String(), "due assessments not known"); n != 1 || len(got.asked) != 12 {
			t.Errorf("asked %d times, said %d times", len(got.asked), n)
		}
		f.set(func() { f.err = nil })
		got = f.after(15 * time.Second)
		if len(got.looked) != 3 {
			t.Errorf("%d looked at when it is back", len(got.looked))
		}
		f.set(func() { f.err = errors.New("away") })
		pass(10 * time.Second)
		if n := strings.Count(log.String(), "due assessments not known"); n != 2 {
			t.Errorf("said %d times of two", n)
		}
	})
}

func TestWaitsForLearning(t *testing.T) {
	f := newFake(3)
	f.waiting = 17
	live(t, f, Config{Concurrency: 4}, func(t *testing.T, _ *lines, _ func()) {
		got := f.after(time.Minute)
		if len(got.asked) != 0 {
			t.Errorf("claimed %d times what can't be learned", len(got.asked))
		}
		f.set(func() { f.waiting = 16 })
		got = f.after(time.Minute)
		if len(got.looked) != 3 {
			t.Errorf("%d looked at", len(got.looked))
		}
	})
}

// TestHangingLook: a look that doesn't end gives its slot back.
func TestHangingLook(t *testing.T) {
	f := newFake(2)
	f.takes = 1000 * time.Hour
	live(t, f, Config{Concurrency: 1}, func(t *testing.T, _ *lines, _ func()) {
		got := f.after(2*assessTime + time.Minute)
		if len(got.looked) != 2 {
			t.Errorf("%d looked at", len(got.looked))
		}
	})
}

func TestEnds(t *testing.T) {
	f := newFake(5)
	f.takes, f.deaf = time.Minute, true
	live(t, f, Config{Concurrency: 1}, func(t *testing.T, _ *lines, end func()) {
		pass(12 * time.Second) // one look under way, one that waits for the slot
		end()
		got := f.after(0)
		if got.running != 0 || len(got.looked) != 1 {
			t.Errorf("at the end: %d looks under way, %d done", got.running, len(got.looked))
		}
	})
}

func TestTidy(t *testing.T) {
	f := newFake(0)
	f.err = errors.New("away")
	live(t, f, Config{Forget: 24 * time.Hour, Retention: 48 * time.Hour}, func(t *testing.T, log *lines, _ func()) {
		start := time.Now()
		got := f.after(13 * time.Hour)
		var want []string
		for _, at := range []time.Duration{10 * time.Minute, 10*time.Minute + 6*time.Hour, 10*time.Minute + 12*time.Hour} {
			now := start.Add(at).UTC()
			want = append(want, "forget "+now.Add(-24*time.Hour).Format(time.DateTime), "prune "+now.Add(-48*time.Hour).Format(time.DateTime))
		}
		if !slices.Equal(got.tidied, want) {
			t.Errorf("got %q\nwant %q", got.tidied, want)
		}
		if !strings.Contains(log.String(), "unused destinations not deleted") || !strings.Contains(log.String(), "old history not deleted") {
			t.Errorf("log: %s", log)
		}
	})
}

// A clock that was set forward mustn't make everything look unused: what is demanded and pinned would be lost.
func TestTidyWaitsAfterAJump(t *testing.T) {
	f := newFake(0)
	var by atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
	live(t, f, Config{Now: now}, func(t *testing.T, log *lines, _ func()) {
		// The first tidying is after ten minutes, the second after six hours more.
		for _, step := range []struct {
			why     string
			jump    time.Duration
			passes  time.Duration
			tidying int // from the start
		}{
			{"at first", 0, time.Hour, 1},
			{"a jump of half an hour is nothing", 30 * time.Minute, 6 * time.Hour, 2},
			{"a year ahead", 365 * 24 * time.Hour, 24 * time.Hour, 2},
			{"and it stays so", 0, 6 * time.Hour, 3},
			{"put right within the six hours", -365 * 24 * time.Hour, 24 * time.Hour, 3},
			{"and well for a day", 0, 6 * time.Hour, 4},
			{"ahead and back before anybody looked", 0, 6 * time.Hour, 5},
		} {
			by.Add(int64(step.jump))
			if got := len(f.after(step.passes).tidied) / 2; got != step.tidying {
				t.Errorf("%s: tidied %d times, want %d", step.why, got, step.tidying)
			}
		}
		if n := strings.Count(log.String(), "the clock jumped"); n != 2 {
			t.Errorf("%d jumps told: %s", n, log)
		}
	})
}

func TestNew(t *testing.T) {
	f := newFake(0)
	for _, c := range []Config{{Assessor: f, Ledger: f}, {Schedule: f, Ledger: f}, {Schedule: f, Assessor: f}} {
		if m, err := New(c); err == nil {
			t.Errorf("%+v: %+v", c, m)
		}
	}
}
