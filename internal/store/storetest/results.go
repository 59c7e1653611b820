package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

func testResults(t *testing.T, s suite) {
	db, d := s.open(t, "a"), addr.MustDestination("b.example")
	look := func(after time.Duration, ok bool) store.Effect {
		t.Helper()
		l := store.Result{Destination: d, When: start.Add(after), OK: ok, Next: start.Add(after + time.Hour), Pin: true}
		if ok {
			l.Assessment = &store.Assessment{Assessment: Assessment("b.example", "b.example", l.When), Port: 25}
		} else {
			l.Events = []store.Event{{What: store.LostTLS}}
		}
		got, err := db.RecordAssessment(s.ctx, l)
		must(t, err)
		return got
	}
	equal(t, "first", look(0, true), store.Effect{Track: store.Track{FirstSuccess: start, LastSuccess: start}})
	if look(time.Hour-1000, true).Pinned {
		t.Fatal("pinned before the hour was over")
	}
	pin := &store.Pin{Since: start, By: store.BySuccesses}
	equal(t, "an hour later", look(time.Hour, true),
		store.Effect{Track: store.Track{FirstSuccess: start, LastSuccess: start.Add(time.Hour)}, Pin: pin, Pinned: true})

	const day = 24 * time.Hour
	for i := range 30 {
		got := look(time.Duration(i+1)*day, false)
		if got.Unpinned != "" || got.Track.Failures != i+1 {
			t.Fatalf("failure %d: %+v", i+1, got)
		}
	}
	e, err := db.Get(s.ctx, d)
	must(t, err)
	equal(t, "pin after 29 days", e.Pin, pin)
	equal(t, "track", e.Track, store.Track{FirstSuccess: start, LastSuccess: start.Add(time.Hour), FailingSince: start.Add(day), Failures: 30,
		FailingDays: 30, DayCounted: start.Add(30 * day)})
	equal(t, "next", e.Next, start.Add(30*day+time.Hour))
	equal(t, "the good assessment stays", e.Assessment, Assessment("b.example", "b.example", start.Add(time.Hour)))

	got := look(31*day, false)
	if got.Unpinned == "" || got.Pin != nil {
		t.Fatalf("after 30 days of failures: %+v", got)
	}
	events, err := db.History(s.ctx, d, 2)
	must(t, err)
	equal(t, "history", []store.What{events[0].What, events[1].What}, []store.What{store.Unpinned, store.LostTLS})
	equal(t, "an event's time", events[1].When, start.Add(31*day))
	// History says it in the words that the log and the mail have.
	equal(t, "why the pin has ended", events[0].Why, got.Unpinned)

	if _, err := db.RecordAssessment(s.ctx, store.Result{Destination: d, Assessment: &store.Assessment{Assessment: Assessment("c.example", "c.example", start)}}); err == nil {
		t.Fatal("a look at one destination stored another")
	}
	look(32*day, true)
	got, err = db.RecordAssessment(s.ctx, store.Result{Destination: d, When: start.Add(33 * day), OK: true})
	must(t, err)
	if got.Pinned {
		t.Fatal("pinned though no rule wants pins")
	}
}

func testTouch(t *testing.T, s suite) {
	db := s.open(t, "a")
	a, b := addr.MustDestination("a.example"), addr.MustDestination("[b.example]:587")
	must(t, db.Touch(s.ctx, nil))
	must(t, db.Touch(s.ctx, map[addr.Destination]time.Time{a: start, b: start.Add(time.Hour)}))
	must(t, db.Touch(s.ctx, map[addr.Destination]time.Time{a: start.Add(time.Minute), b: start}))
	for d, want := range map[addr.Destination]time.Time{a: start.Add(time.Minute), b: start.Add(time.Hour)} {
		e, err := db.Get(s.ctx, d)
		must(t, err)
		equal(t, d.String(), e, store.Entry{Destination: d, Used: want})
	}
}

func testPolicies(t *testing.T, s suite) {
	db := s.open(t, "a")
	p := store.Policy{Domain: addr.MustDomain("b.example"), ID: "20261123", Text: "version: STSv1\r\nmode: enforce\r\nmx: *.b.example\r\nmax_age: 86400\r\n",
		Fetched: start, Until: start.Add(24 * time.Hour)}
	must(t, db.PutPolicy(s.ctx, store.Policy{Domain: p.Domain, ID: "1\x00", Text: "old\xff"}))
	must(t, db.PutPolicy(s.ctx, p))
	got, err := db.GetPolicy(s.ctx, p.Domain)
	must(t, err)
	equal(t, "policy", got, p)
	snap, err := db.Load(s.ctx)
	must(t, err)
	equal(t, "loaded", snap.Policies, []store.Policy{p})
	must(t, db.Prune(s.ctx, p.Until))
	_, err = db.GetPolicy(s.ctx, p.Domain)
	must(t, err)
	must(t, db.Prune(s.ctx, p.Until.Add(1000)))
	if _, err = db.GetPolicy(s.ctx, p.Domain); !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("after its end: %v", err)
	}
}

func testHistory(t *testing.T, s suite) {
	db, d, other := s.open(t, "a"), addr.MustDestination("b.example"), addr.MustDestination("c.example")
	must(t, db.AddEvents(s.ctx,
		store.Event{When: start.Add(-time.Hour), Destination: d, What: store.LevelChanged, From: "encrypt", To: "secure", Why: "MTA-STS\x00\xff", Host: "mx9"},
		store.Event{Destination: other, What: store.HostsChanged},
		store.Event{Destination: d, What: store.LostTLS},
	))
	events, err := db.History(s.ctx, d, 10)
	must(t, err)
	equal(t, "newest first", []store.What{events[0].What, events[1].What}, []store.What{store.LostTLS, store.LevelChanged})
	first := events[1]
	equal(t, "event", first, store.Event{ID: first.ID, When: start.Add(-time.Hour), Destination: d, What: store.LevelChanged, From: "encrypt", To: "secure",
		Why: "MTA-STS\uFFFD\uFFFD", Host: "mx9"})
	after, err := db.Events(s.ctx, first.ID, 1)
	must(t, err)
	equal(t, "after the first", len(after), 1)
	equal(t, "after the first", after[0], store.Event{ID: after[0].ID, When: start, Destination: other, What: store.HostsChanged, Host: "a"})
	must(t, db.Prune(s.ctx, start))
	events, err = db.History(s.ctx, d, 10)
	must(t, err)
	equal(t, "pruned", len(events), 1)
}

func testForget(t *testing.T, s suite) {
	now := start.Add(-100 * 24 * time.Hour)
	s.config.Now = func() time.Time { return now }
	db := s.open(t, "a")
	d := func(name string) addr.Destination { return addr.MustDestination(name + ".example") }
	demand := store.Demand{Level: policy.LevelEncrypt, Since: now}
	for _, name := range []string{"idle", "held", "admin", "used", "raised"} {
		must(t, db.Put(s.ctx, store.Assessment{Assessment: Assessment(d(name).String(), "p.example", now), Port: 25}))
	}
	for _, name := range []string{"held", "admin"} {
		_, err := db.RaiseDemand(s.ctx, d(name), demand)
		must(t, err)
	}
	_, err := db.Pin(s.ctx, d("held"), store.BySuccesses)
	must(t, err)
	_, err = db.Pin(s.ctx, d("admin"), store.ByAdmin)
	must(t, err)
	now = start
	must(t, db.Touch(s.ctx, map[addr.Destination]time.Time{d("used"): start}))
	_, err = db.RaiseDemand(s.ctx, d("raised"), store.Demand{Level: policy.LevelMay})
	must(t, err)
	must(t, db.Put(s.ctx, store.Assessment{Assessment: Assessment("fresh.example", "p.example", now), Port: 25}))

	forgotten, err := db.Forget(s.ctx, start.Add(-90*24*time.Hour))
	must(t, err)
	if len(forgotten) != 2 || !slices.Contains(forgotten, d("idle")) || !slices.Contains(forgotten, d("held")) {
		t.Fatalf("forgotten: %v", forgotten)
	}
	for _, name := range []string{"idle", "held"} {
		if _, err := db.Get(s.ctx, d(name)); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"admin", "used", "raised", "fresh"} {
		e, err := db.Get(s.ctx, d(name))
		must(t, err)
		if len(e.Assessment.Hosts) != 2 || (name == "admin") != (e.Pin != nil) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	events, err := db.Events(s.ctx, 0, 100)
	must(t, err)
	last := events[len(events)-1]
	equal(t, "history", last, store.Event{ID: last.ID, When: start, Destination: d("held"), What: store.Forgotten, From: store.BySuccesses,
		Why: "no mail since 2026-08-25", Host: "a"})

	// Hosts that ended are pruned; an assessment that names one isn't known any more, what else is kept is.
	must(t, db.Prune(s.ctx, start.Add(48*time.Hour)))
	e, err := db.Get(s.ctx, d("admin"))
	must(t, err)
	equal(t, "without hosts", e.Assessment, policy.Assessment{})
	equal(t, "pin", e.Pin.By, store.ByAdmin)
}

func testList(t *testing.T, s suite) {
	db := s.open(t, "a")
	for i, level := range policy.Levels() {
		d := addr.MustDestination(fmt.Sprintf("d%d.example", i))
		_, err := db.RaiseDemand(s.ctx, d, store.Demand{Level: level, MinBits: 1})
		must(t, err)
		if i%2 == 0 {
			_, err := db.Pin(s.ctx, d, store.ByAdmin)
			must(t, err)
		}
		_, err = db.RecordAssessment(s.ctx, store.Result{Destination: d, When: start, OK: i < 3})
		must(t, err)
	}
	must(t, db.Touch(s.ctx, map[addr.Destination]time.Time{addr.MustDestination("z.example"): start}))
	for _, test := range []struct {
		filter store.Filter
		want   string
	}{
		{store.Filter{}, "d0 d1 d2 d3 d4 z "},
		{store.Filter{Failing: true}, "d3 d4 "},
		{store.Filter{Pinned: true}, "d0 d2 d4 "},
		{store.Filter{Level: policy.LevelSecure}, "d3 d4 "},
		{store.Filter{Level: policy.LevelNone}, "d0 d1 d2 d3 d4 "},
		{store.Filter{Pinned: true, Failing: true, Level: policy.LevelMay}, "d4 "},
	} {
		got := ""
		must(t, db.List(s.ctx, test.filter, func(e store.Entry) error {
			got += e.Destination.Host().String()[:len(e.Destination.Host().String())-len(".example")] + " "
			return nil
		}))
		equal(t, fmt.Sprintf("%+v", test.filter), got, test.want)
	}
	stop := errors.New("stop")
	if err := db.List(s.ctx, store.Filter{}, func(store.Entry) error { return stop }); err != stop {
		t.Fatalf("stopped: %v", err)
	}
}

func testDue(t *testing.T, s suite) {
	a, b := s.open(t, "a"), s.open(t, "b")
	const lease = 2 * time.Minute
	for i := range 3 {
		_, err := a.RecordAssessment(s.ctx, store.Result{Destination: addr.MustDestination(fmt.Sprintf("d%d.example", i)), When: start, OK: true,
			Next: start.Add(time.Duration(i) * time.Hour)})
		must(t, err)
	}
	must(t, a.Touch(s.ctx, map[addr.Destination]time.Time{addr.MustDestination("unplanned.example"): start}))
	due := func(db *store.Store, at time.Duration, n int) string {
		t.Helper()
		ds, err := db.Due(s.ctx, start.Add(at), n, lease, 48*time.Hour)
		must(t, err)
		names := make([]string, len(ds))
		for i, d := range ds {
			names[i] = d.String()
		}
		slices.Sort(names)
		return fmt.Sprint(names)
	}
	equal(t, "before the first", due(a, -time.Second, 10), "[]")
	equal(t, "the longest due first", due(a, 3*time.Hour, 1), "[d0.example]")
	equal(t, "not what the other claimed", due(b, 3*time.Hour, 10), "[d1.example d2.example]")
	equal(t, "all claimed", due(a, 3*time.Hour+lease-time.Second, 10), "[]")
	_, err := b.RecordAssessment(s.ctx, store.Result{Destination: addr.MustDestination("d1.example"), When: start.Add(3 * time.Hour), OK: true, Next: start.Add(4 * time.Hour)})
	must(t, err)
	equal(t, "a dead host's claims run out", due(b, 3*time.Hour+lease, 10), "[d0.example d2.example]")
	equal(t, "a clock set back a day", due(a, 3*time.Hour+lease-time.Minute, 10), "[d0.example d2.example]")
	equal(t, "looked at and due again", due(b, 4*time.Hour, 10), "[d0.example d1.example d2.example]")
	equal(t, "planned as far ahead as can be", due(b, -48*time.Hour, 10), "[d1.example d2.example]")
	equal(t, "a clock set back by days: each is due", due(b, -72*time.Hour, 2), "[d0.example d2.example]")
}

// testDueShared lets several hosts take work at once: each destination goes to one of them.
func testDueShared(t *testing.T, s suite) {
	const hosts, total = 3, 200
	first := s.open(t, "0")
	for i := range total {
		_, err := first.RecordAssessment(s.ctx, store.Result{Destination: addr.MustDestination(fmt.Sprintf("d%d.example", i)), When: start, OK: true, Next: start})
		must(t, err)
	}
	var mu sync.Mutex
	taken := map[addr.Destination]int{}
	var group sync.WaitGroup
	for i := range hosts {
		db := s.open(t, fmt.Sprint(i))
		group.Go(func() {
			for {
				due, err := db.Due(s.ctx, start, 7, time.Minute, time.Hour)
				if err != nil {
					t.Errorf("due: %v", err)
				}
				mu.Lock()
				for _, d := range due {
					taken[d]++
				}
				done := len(taken) == total
				mu.Unlock()
				if done || err != nil || s.ctx.Err() != nil {
					return
				}
			}
		})
	}
	group.Wait()
	for d, n := range taken {
		if n != 1 {
			t.Fatalf("%s was taken %d times", d, n)
		}
	}
	equal(t, "taken", len(taken), total)
}

func testWatch(t *testing.T, s suite) {
	writer := s.open(t, "writer")
	_, err := writer.Pin(s.ctx, addr.MustDestination("before.example"), store.ByAdmin)
	must(t, err)
	watcher := s.open(t, "watcher")
	changes := Watch(s.ctx, t, watcher)

	d := addr.MustDestination("b.example")
	_, err = watcher.Pin(s.ctx, addr.MustDestination("own.example"), store.ByAdmin)
	must(t, err)
	must(t, watcher.Touch(s.ctx, map[addr.Destination]time.Time{d: start}))
	_, err = writer.RaiseDemand(s.ctx, d, store.Demand{Level: policy.LevelEncrypt})
	must(t, err)
	equal(t, "the other's demand, not one's own pin", <-changes, store.Change{Destination: d})
	e, err := watcher.Get(s.ctx, d)
	must(t, err)
	equal(t, "read again", e.Demand.Level, policy.LevelEncrypt)
	want := map[store.Change]bool{}
	for i, change := range []func(addr.Destination) error{
		func(d addr.Destination) error { _, err := writer.Pin(s.ctx, d, "rule:x"); return err },
		func(d addr.Destination) error {
			return writer.Put(s.ctx, store.Assessment{Assessment: Assessment(d.String(), "b.example", start), Port: 25})
		},
		func(d addr.Destination) error {
			_, err := writer.RecordAssessment(s.ctx, store.Result{Destination: d, When: start})
			return err
		},
		func(d addr.Destination) error { return writer.PutPolicy(s.ctx, store.Policy{Domain: d.Host()}) },
	} {
		d := addr.MustDestination(fmt.Sprintf("d%d.example", i))
		must(t, change(d))
		c := store.Change{Destination: d}
		if i == 3 {
			c = store.Change{Policy: d.Host()}
		}
		want[c] = true
	}
	collect(s, t, changes, want)
	for _, change := range []func() error{
		func() error { return writer.Unpin(s.ctx, addr.MustDestination("d0.example"), "") },
		func() error { return writer.DropDemand(s.ctx, d, "") },
		func() error { _, err := writer.Forget(s.ctx, start.Add(time.Hour)); return err },
	} {
		must(t, change())
	}
	for _, name := range []string{"d0.example", "d1.example", "d2.example", "b.example"} {
		want[store.Change{Destination: addr.MustDestination(name)}] = true
	}
	collect(s, t, changes, want)
}

// collect waits for all of want.
func collect(s suite, t *testing.T, changes <-chan store.Change, want map[store.Change]bool) {
	t.Helper()
	for len(want) > 0 {
		c, ok := <-changes
		if !ok {
			t.Fatalf("not told: %v", want)
		}
		delete(want, c)
	}
}

// Watch runs db.Watch until the test ends and gives its changes one by one; the channel is closed when ctx ends.
func Watch(ctx context.Context, t *testing.T, db *store.Store) <-chan store.Change {
	ctx, cancel := context.WithCancel(ctx)
	changes := make(chan store.Change)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(changes)
		db.Watch(ctx, func(told []store.Change) {
			for _, c := range told {
				select {
				case changes <- c:
				case <-ctx.Done():
				}
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	return changes
}
