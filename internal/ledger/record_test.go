package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

func TestNext(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		every     time.Duration
		failures  int
		low, high time.Duration
	}{
		{day, 0, day * 9 / 10, day * 11 / 10},
		{day, 1, 810 * time.Second, 990 * time.Second},
		{day, 2, 1620 * time.Second, 1980 * time.Second},
		{day, 3, 54 * time.Minute, 66 * time.Minute},
		{day, 7, day * 6 / 10, day * 66 / 90},
		{day, 8, day * 9 / 10, day * 11 / 10}, // 32 h would be more than every
		{day, 1000, day * 9 / 10, day * 11 / 10},
		{10 * time.Minute, 0, 9 * time.Minute, 11 * time.Minute},
		{10 * time.Minute, 1, 9 * time.Minute, 11 * time.Minute},
	} {
		last := time.Duration(0)
		for _, spread := range []float64{0, 0.25, 0.5, 0.75, 0.999999} {
			got := Next(test.every, test.failures, spread)
			if got < test.low || got > test.high || got <= last {
				t.Errorf("every %v after %d failures, spread %v: %v, want %v to %v", test.every, test.failures, spread, got, test.low, test.high)
			}
			last = got
		}
	}
}

// TestChanges: one look a letter, and what is told of each.
func TestChanges(t *testing.T) {
	looks := map[rune]policy.Assessment{
		't': saw(far, begin, policy.SawTLS),
		'n': saw(far, begin, policy.SawNoSTARTTLS),
		'h': saw(far, begin, policy.SawBroken),
		'u': saw(far, begin, policy.SawTimeout),
		'x': {Destination: far, Problem: policy.NoSuchDomain, When: begin},
		'd': {Destination: far, Problem: policy.DNSFailure, When: begin},
		'w': saw(far, begin, policy.SawTLS),
		'2': saw(far, begin, policy.SawTLS, policy.SawNoSTARTTLS),
		'b': saw(far, begin, policy.SawNoSTARTTLS, policy.SawTimeout),
	}
	looks['w'].Hosts[0].Observations[0].Version = policy.TLS10
	for _, test := range []struct {
		pinned bool
		looks  string
		want   string
	}{
		{false, "t", "level:->encrypt"},
		{false, "tttt", "level:->encrypt"},
		{false, "u", ""},
		{false, "tutdt", "level:->encrypt"},
		{false, "tnn", "level:->encrypt level:encrypt->may"},
		{false, "tnunt", "level:->encrypt level:encrypt->may level:may->encrypt"},
		{false, "txt", "level:->encrypt level:encrypt->none level:none->encrypt"},
		{false, "twt", "level:->encrypt level:encrypt->may level:may->encrypt"},
		{false, "nh", "level:->may"},
		{true, "tnnn", "level:->encrypt lost-tls:encrypt->may"},
		{true, "tnunbdn", "level:->encrypt lost-tls:encrypt->may"}, // what isn't known in between doesn't tell it anew
		{true, "tnunut", "level:->encrypt lost-tls:encrypt->may tls-back:may->encrypt"},
		{true, "tntn", "level:->encrypt lost-tls:encrypt->may tls-back:may->encrypt lost-tls:encrypt->may"},
		{true, "thn", "level:->encrypt level:encrypt->may lost-tls:may->may"},
		{true, "wn", "level:->may lost-tls:may->may"}, // TLS 1.0 is what a pin holds, too
		{true, "wnw", "level:->may lost-tls:may->may tls-back:may->may"},
		{true, "tnht", "level:->encrypt lost-tls:encrypt->may tls-back:may->encrypt"},
		{true, "n", "lost-tls:->may"}, // pinned by hand before the first look
		{false, "t2", "level:->encrypt hosts:mx0.far.example->mx0.far.example mx1.far.example"},
		{false, "tx2", "level:->encrypt level:encrypt->none level:none->encrypt"},
	} {
		var s seen
		var events []store.Event
		var got []string
		for _, letter := range test.looks {
			s, events = s.then(looks[letter], test.pinned)
			for _, e := range events {
				got = append(got, fmt.Sprintf("%s:%s->%s", e.What, e.From, e.To))
			}
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("pinned %v, looks %s:\n got %s\nwant %s", test.pinned, test.looks, text, test.want)
		}
	}
	// What was true of a pin that is gone says nothing any more.
	s, _ := seen{}.then(looks['n'], true)
	if s, events := s.then(looks['t'], false); s.lost || len(events) != 1 || events[0].What != store.LevelChanged {
		t.Errorf("after the pin: %+v, %+v", s, events)
	}
}

func TestPinsByTwoSuccesses(t *testing.T) {
	b := newBench(t)
	b.look(far, policy.SawTLS)
	b.pass(59 * time.Minute)
	b.look(far, policy.SawTLS)
	equal(t, "pinned within the hour", b.Pinned(far), false)
	b.pass(time.Minute)
	b.look(far, policy.SawTimeout)
	equal(t, "pinned by a failure", b.Pinned(far), false)
	b.look(far, policy.SawTLS)
	equal(t, "pinned", b.Pinned(far), true)
	b.look(far, policy.SawTLS)
	same(t, "told", b.events(), "far.example pinned  two successes")
	equal(t, "counted", b.Stats().Events[store.Pinned], 1)
	b.restart()
	equal(t, "pinned after a restart", b.Pinned(far), true)
	b.pass(time.Hour)
	b.look(far, policy.SawNoSTARTTLS)
	same(t, "told", b.events(), "far.example lost-tls encrypt may")
	equal(t, "pinned after a loss", b.Pinned(far), true)
	b.restart()
	b.pass(time.Hour)
	b.look(far, policy.SawNoSTARTTLS)
	same(t, "told again", b.events())
	b.look(far, policy.SawTLS)
	same(t, "told", b.events(), "far.example tls-back may encrypt")

	history, err := b.store.History(t.Context(), far, 10)
	must(t, err)
	var whats []string
	for _, e := range slices.Backward(history) {
		whats = append(whats, string(e.What))
	}
	same(t, "history", whats, "level", "pinned", "lost-tls", "tls-back")
}

func TestUnknownReplacesNothing(t *testing.T) {
	b := newBench(t)
	b.look(far, policy.SawTLS)
	good := b.entry(far)
	if gap := good.Next.Sub(begin); gap < 21*time.Hour || gap > 27*time.Hour {
		t.Errorf("looked at again after %s", gap)
	}
	b.pass(time.Minute)
	b.look(far, policy.SawTimeout)
	e := b.entry(far)
	equal(t, "assessment of", e.Assessment.When, good.Assessment.When)
	equal(t, "failures", e.Track.Failures, 1)
	if gap := e.Next.Sub(b.now()); gap < 13*time.Minute || gap > 17*time.Minute {
		t.Errorf("looked at again after %s", gap)
	}
	b.look(far, policy.SawTimeout)
	if gap := b.entry(far).Next.Sub(b.now()); gap < 26*time.Minute || gap > 34*time.Minute {
		t.Errorf("looked at again after two failures: %s", gap)
	}
	b.restart()
	b.look(far, policy.SawTimeout)
	if gap := b.entry(far).Next.Sub(b.now()); gap < 53*time.Minute || gap > 67*time.Minute {
		t.Errorf("looked at again after three failures and a restart: %s", gap)
	}
	b.look(far, policy.SawNoSTARTTLS)
	equal(t, "level of what was seen to be lost", judge.Reached(b.entry(far).Assessment), policy.LevelMay)
	same(t, "told", b.events(), "far.example level encrypt may")
}

func TestUnpinAfterThirtyDays(t *testing.T) {
	for _, relief := range []bool{false, true} {
		b := newBench(t)
		must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), true))
		b.look(far, policy.SawTLS)
		b.events()
		for day := range 32 {
			b.pass(24 * time.Hour)
			if relief && day == 20 {
				b.look(far, policy.SawTLS)
			}
			b.look(far, policy.SawTimeout)
		}
		equal(t, "pinned", b.Pinned(far), relief)
		equal(t, "counted", b.Stats().Pinned == 1, relief)
		equal(t, "demanded", b.Demand(far).Level, policy.LevelEncrypt)
		if relief {
			same(t, "told", b.events())
		} else {
			same(t, "told", b.events(), "far.example unpinned  ")
		}
	}
}

func TestCoalesce(t *testing.T) {
	for _, test := range []struct{ looks, want string }{
		{"S", "S"}, {"SS", "SS"}, {"SSS", "SS"}, {"SSSSSSSSSSSSSSSS", "SS"},
		{"FFFF", "FF"}, {"SFS", "SFS"}, {"SSSFFFSSS", "SSFFSS"},
		{"SFSFSFSF", "SFSFSFSF"}, {"SFSFSFSFS", "SSS"}, {"FSFSFSFSF", "SSF"}, {"FFSSFFSSF", "SSF"},
	} {
		var looks []policy.Assessment
		for i, letter := range test.looks {
			outcome := policy.SawTLS
			if letter == 'F' {
				outcome = policy.SawTimeout
			}
			looks = coalesce(append(looks, saw(far, begin.Add(time.Duration(i)), outcome)))
		}
		got := ""
		for _, l := range looks {
			if succeeded(l) {
				got += "S"
			} else {
				got += "F"
			}
		}
		if last := looks[len(looks)-1].When.Sub(begin); got != test.want || int(last) != len(test.looks)-1 {
			t.Errorf("%s: %s, want %s; the last is number %d", test.looks, got, test.want, last)
		}
	}
}

// TestStoreAway: what is seen while the store is away is learned when it is back.
func TestStoreAway(t *testing.T) {
	b := newBench(t)
	near := addr.MustDestination("near.example")
	found := func(d addr.Destination, after time.Duration, outcome policy.Outcome) {
		b.pass(after)
		b.Record(saw(d, b.now(), outcome))
	}
	back := b.away()
	found(far, 0, policy.SawTLS)
	found(near, 0, policy.SawNoSTARTTLS)
	equal(t, "away", b.recordAll(t.Context(), false), true)
	equal(t, "away is said", b.Stats().StoreAway, true)
	for range 5 {
		found(far, 20*time.Minute, policy.SawTLS)
		equal(t, "away", b.recordAll(t.Context(), true), true)
	}
	found(far, time.Minute, policy.SawNoSTARTTLS)
	equal(t, "waiting", b.Waiting(), 2)
	equal(t, "pinned", b.Pinned(far), false)
	back()
	equal(t, "away", b.recordAll(t.Context(), true), false)
	equal(t, "waiting", b.Waiting(), 0)
	equal(t, "away is said", b.Stats().StoreAway, false)
	equal(t, "pinned", b.Pinned(far), true)
	told := b.events()
	same(t, "told", told, "far.example pinned  two successes", "far.example lost-tls encrypt may")
	equal(t, "when", b.entry(far).Assessment.When, b.now())
	equal(t, "of the other", b.entry(near).Assessment.When, begin)
	if len(b.queue) != 0 || b.order != nil {
		t.Errorf("left: %v, %v", b.queue, b.order)
	}
}

func TestOrder(t *testing.T) {
	b := newBench(t)
	var want []string
	for _, outcome := range []policy.Outcome{policy.SawTLS, policy.SawNoSTARTTLS} {
		b.recordAll(t.Context(), false)
		for i := range 20 {
			b.Record(saw(addr.MustDestination(fmt.Sprintf("d%d.example", i)), begin, outcome))
		}
	}
	for i := range 20 {
		want = append(want, fmt.Sprintf("d%d.example level encrypt may", i))
	}
	// The first fails once, and loses its turn, but not to what is seen there later.
	first, _ := b.next()
	b.putBack(first)
	b.Record(saw(first.Destination, begin, policy.SawTLS))
	b.recordAll(t.Context(), false)
	want = append(want[1:], want[0], "d0.example level may encrypt")
	same(t, "told", b.events(), want...)
}

// TestRun lives through a day: looks, a store that goes and comes, times of use, and the end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, file: t.TempDir() + "/tlsonly.db", time: begin}
		b.start()
		log := &strings.Builder{}
		b.c.Log = slog.New(slog.NewTextHandler(log, nil))
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.Ledger.Run(ctx); close(done) }()

		b.Record(saw(far, b.now(), policy.SawTLS))
		synctest.Wait()
		equal(t, "learned at once", b.Waiting(), 0)
		must(t, b.Owe(ctx, far, "clinic", policy.DefaultDemand(), true))
		time.Sleep(b.flushEvery + time.Second)
		equal(t, "used", b.entry(far).Used, begin)

		back := b.away()
		b.pass(2 * time.Hour)
		b.Record(saw(far, b.now(), policy.SawNoSTARTTLS))
		must(t, b.Owe(ctx, far, "clinic", policy.DefaultDemand(), true))
		time.Sleep(3 * b.flushEvery)
		equal(t, "waiting", b.Waiting(), 1)
		equal(t, "away", b.Stats().StoreAway, true)
		back()
		time.Sleep(2*b.storeRetry + time.Second)
		equal(t, "waiting", b.Waiting(), 0)
		equal(t, "away", b.Stats().StoreAway, false)
		equal(t, "lost", b.Stats().Events[store.LostTLS], 1)
		time.Sleep(b.flushEvery)
		equal(t, "used", b.entry(far).Used, begin.Add(2*time.Hour))
		equal(t, "complaints", strings.Count(log.String(), "msg=\"assessment not stored"), 1)

		// At the end nothing that is known may be lost.
		for i := range 100 {
			b.Record(saw(addr.MustDestination(fmt.Sprintf("d%d.example", i)), b.now(), policy.SawTLS))
		}
		b.pass(2 * time.Hour)
		must(t, b.Owe(ctx, far, "clinic", policy.DefaultDemand(), true))
		end()
		<-done
		equal(t, "waiting at the end", b.Waiting(), 0)
		equal(t, "used", b.entry(far).Used, begin.Add(4*time.Hour))
		must(t, b.store.Close())
		b.start()
		equal(t, "known", b.Len(), 101)
		must(t, b.store.Close())
	})
}

// Asking DNS again, with the hosts taken from memory, is no second success and puts no look off.
func TestHostsFromMemory(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	saw := policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 128, When: now.Add(-3 * time.Hour)}
	a := policy.Assessment{When: now, Hosts: []policy.Host{{Observations: []policy.Observation{saw}}, {Observations: []policy.Observation{{When: now.Add(-4 * time.Hour)}}}}}
	if got := probedAt(a); !got.Equal(now.Add(-3 * time.Hour)) {
		t.Errorf("looked at %s, want the later of the two looks", got)
	}
	if got := probedAt(policy.Assessment{When: now, Problem: policy.DNSFailure}); !got.Equal(now) {
		t.Errorf("without a host: %s", got)
	}
	a.Hosts[0].Observations[0].When = now.Add(time.Hour)
	if got := probedAt(a); !got.Equal(now) {
		t.Errorf("from the future: %s", got)
	}
}
