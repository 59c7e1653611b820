package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite" // for bench.exec

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// begin is every test's first moment.
var begin = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

var far = addr.MustDestination("far.example")

// bench is a Ledger on a store of its own, at a time of the test's.
type bench struct {
	*testing.T
	*Ledger
	file   string
	store  *store.Store
	memory *memory

	mu   sync.Mutex
	time time.Time
	told []string
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, file: filepath.Join(t.TempDir(), "tlsonly.db"), time: begin}
	b.start()
	return b
}

// start opens the store and loads the ledger, as the daemon does.
func (b *bench) start() {
	b.Helper()
	b.store = b.open(true)
	var err error
	b.Ledger, err = New(Config{Store: b.store, Now: b.now, Notify: func(e store.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.told = append(b.told, fmt.Sprintf("%s %s %s %s", e.Destination, e.What, e.From, e.To))
	}})
	must(b.T, err)
	b.memory = &memory{seeded: map[addr.Destination]policy.Assessment{}}
	must(b.T, b.Load(b.Context(), b.memory))
}

// restart ends the daemon and starts it again.
func (b *bench) restart() {
	b.Helper()
	must(b.T, b.store.Close())
	b.start()
}

// open opens the store once more, as another process does.
func (b *bench) open(daemon bool) *store.Store {
	b.Helper()
	s, err := store.Open(b.Context(), store.Config{URL: "sqlite://" + b.file, Daemon: daemon, Now: b.now})
	must(b.T, err)
	b.Cleanup(func() { s.Close() })
	return s
}

// away makes what is written to the store fail until back is called.
func (b *bench) away() (back func()) {
	b.Helper()
	b.exec(`ALTER TABLE destination RENAME TO away; ALTER TABLE pulse RENAME TO gone`)
	return func() {
		b.Helper()
		b.exec(`ALTER TABLE away RENAME TO destination; ALTER TABLE gone RENAME TO pulse`)
	}
}

// refuse makes updates of one column fail until back is called.
func (b *bench) refuse(column string) (back func()) {
	b.Helper()
	b.exec(`CREATE TRIGGER refuse BEFORE UPDATE OF ` + column + ` ON destination BEGIN SELECT RAISE(ABORT, 'refused'); END`)
	return func() {
		b.Helper()
		b.exec(`DROP TRIGGER refuse`)
	}
}

func (b *bench) exec(statement string) {
	b.Helper()
	db, err := sql.Open("sqlite", b.file)
	must(b.T, err)
	_, err = db.ExecContext(b.Context(), statement)
	must(b.T, err)
	must(b.T, db.Close())
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.time
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.time = b.time.Add(d)
}

// events returns what was told since it was last called.
func (b *bench) events() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.told
	b.told = nil
	return told
}

// look tells the ledger of a look taken now, and has it learned.
func (b *bench) look(d addr.Destination, outcomes ...policy.Outcome) {
	b.Helper()
	b.Record(saw(d, b.now(), outcomes...))
	if b.recordAll(b.Context(), false) {
		b.Fatal("the store is away")
	}
}

func (b *bench) entry(d addr.Destination) store.Entry {
	b.Helper()
	e, err := b.store.Get(b.Context(), d)
	must(b.T, err)
	return e
}

// saw is a look at d, with one mail host an outcome.
func saw(d addr.Destination, when time.Time, outcomes ...policy.Outcome) policy.Assessment {
	a := policy.Assessment{Destination: d, When: when, Until: when.Add(24 * time.Hour)}
	for i, outcome := range outcomes {
		o := policy.Observation{Address: netip.MustParseAddrPort("192.0.2.1:25"), Outcome: outcome, When: when}
		if outcome == policy.SawTLS {
			o.Version, o.Bits = policy.TLS13, 256
		}
		a.Hosts = append(a.Hosts, policy.Host{Name: addr.MustDomain(fmt.Sprintf("mx%d.%s", i, d.Host())), Observations: []policy.Observation{o}})
	}
	return a
}

// memory is an Assessor's.
type memory struct {
	mu     sync.Mutex
	seeded map[addr.Destination]policy.Assessment
}

func (m *memory) Seed(known ...policy.Assessment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range known {
		m.seeded[a.Destination] = a
	}
}

func (m *memory) Drop(d addr.Destination) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seeded, d)
}

func (m *memory) get(d addr.Destination) policy.Assessment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seeded[d]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func demand(level policy.Level, v policy.Version, bits int) policy.Demand {
	return policy.Demand{Level: level, MinVersion: v, MinBits: bits}
}

func TestOweIsDurable(t *testing.T) {
	b := newBench(t)
	must(t, b.Owe(b.Context(), far, "clinic", policy.DefaultDemand(), true))
	e, err := b.open(false).Get(t.Context(), far)
	must(t, err)
	equal(t, "demand", e.Demand.String(), "encrypt 1.2 128")
	if e.Pin == nil || e.Pin.By != "rule:clinic" {
		t.Errorf("pin: %+v", e.Pin)
	}
	equal(t, "demand in memory", b.Demand(far), e.Demand)
	equal(t, "pinned", b.Pinned(far), true)
	same(t, "told", b.events(), "far.example pinned  rule:clinic")
	if s := b.Stats(); s.Known != 1 || s.Pinned != 1 || s.Events[store.Demanded] != 1 || s.Events[store.Pinned] != 1 || s.StoreAway {
		t.Errorf("%+v", s)
	}
}

// TestOweStanding takes the database away for good: what needs it fails, what stands doesn't.
func TestOweStanding(t *testing.T) {
	b := newBench(t)
	loose := addr.MustDestination("loose.example")
	must(t, b.Owe(t.Context(), far, "clinic", demand(policy.LevelSecure, policy.TLS12, 128), true))
	must(t, b.Owe(t.Context(), loose, "clinic", policy.DefaultDemand(), false))
	must(t, b.store.Close())
	for _, test := range []struct {
		d      addr.Destination
		demand policy.Demand
		pin    bool
		ok     bool
	}{
		{far, demand(policy.LevelSecure, policy.TLS12, 128), true, true},
		{far, demand(policy.LevelSecure, policy.TLS12, 128), false, true},
		{far, demand(policy.LevelEncrypt, policy.TLS10, 0), true, true},
		{far, demand(policy.LevelDane, policy.TLS12, 128), true, false},
		{far, demand(policy.LevelEncrypt, policy.TLS13, 128), true, false},
		{far, demand(policy.LevelEncrypt, policy.TLS12, 256), true, false},
		{loose, policy.DefaultDemand(), false, true},
		{loose, policy.DefaultDemand(), true, false}, // the pin is new
		{addr.MustDestination("new.example"), policy.DefaultDemand(), false, false},
	} {
		for range 2 { // what failed doesn't stand the second time
			if err := b.Owe(t.Context(), test.d, "clinic", test.demand, test.pin); (err == nil) != test.ok {
				t.Errorf("%s %v pin %v: %v", test.d, test.demand, test.pin, err)
			}
		}
		b.pass(2 * usedOften) // when time of use would be noted
	}
	equal(t, "pinned without the store", b.Pinned(loose), false)
	equal(t, "level", b.Demand(far).Level, policy.LevelSecure)
	equal(t, "away", b.Stats().StoreAway, true)
}

func TestOweMergesWithOthers(t *testing.T) {
	b := newBench(t)
	_, err := b.open(false).RaiseDemand(t.Context(), far, store.Demand{Level: policy.LevelSecure, MinVersion: policy.TLS11, MinBits: 256})
	must(t, err)
	must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), false))
	equal(t, "demand", b.Demand(far).String(), "secure 1.2 256")
	equal(t, "stored", b.entry(far).Demand, b.Demand(far))
}

// TestOweHalf: a demand without its pin isn't stored; and what is stored although Owe failed (the answer to a commit can be lost) is
// known, as soon as it can be read.
func TestOweHalf(t *testing.T) {
	b := newBench(t)
	back := b.refuse("pin_by")
	if b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), true) == nil {
		t.Error("owed without a pin")
	}
	other := b.open(false)
	if _, err := other.Get(t.Context(), far); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("half of it is stored: %v", err)
	}
	back()
	_, _, err := other.RecordPromise(t.Context(), far, store.Demand{Level: policy.LevelEncrypt}, "rule:clinic")
	must(t, err)
	equal(t, "in memory, before it is read", b.Demand(far).Level, "")
	_, err = b.catchUp(t.Context())
	must(t, err)
	equal(t, "in memory", b.Demand(far).Level, policy.LevelEncrypt)
}

func TestOweGivesUpInTime(t *testing.T) {
	b := newBench(t)
	release, err := b.lock(t.Context(), far) // somebody's write hangs
	must(t, err)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Owe(ctx, far, "clinic", policy.DefaultDemand(), false); err == nil {
		t.Error("owed without the store")
	}
	must(t, b.all.Acquire(t.Context(), everything-1))
	if err := b.Owe(ctx, far, "clinic", policy.DefaultDemand(), false); err == nil {
		t.Error("owed while everything is replaced")
	}
	b.all.Release(everything - 1)
}

// TestOweAgainstAll has all that writes memory at work at once: what was owed is never less.
func TestOweAgainstAll(t *testing.T) {
	b := newBench(t)
	other := b.open(false)
	var ds []addr.Destination
	for i := range 8 {
		ds = append(ds, addr.MustDestination(fmt.Sprintf("d%d.example", i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var others, owing sync.WaitGroup
	others.Go(func() {
		for ctx.Err() == nil {
			_ = b.load(ctx, b.memory)
			_ = b.Stats()
		}
	})
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_ = b.rereadOne(ctx, ds[i%len(ds)])
			_, _ = b.catchUp(ctx)
		}
	})
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			b.Record(saw(ds[i%len(ds)], begin.Add(time.Duration(i)*time.Second), policy.SawNoSTARTTLS))
			b.recordAll(ctx, false)
		}
	})
	others.Go(func() {
		for ctx.Err() == nil {
			_ = b.flush(ctx)
			_ = b.Forget(ctx, begin.Add(-time.Hour))
		}
	})
	for i, d := range ds {
		owing.Go(func() {
			for j, level := range []policy.Level{policy.LevelEncrypt, policy.LevelSecure, policy.LevelDane} {
				asked := demand(level, policy.TLS12, 128+j)
				from := other
				if i%2 == 0 {
					from = nil
				}
				if from != nil { // another process asks for more bits
					if _, err := from.RaiseDemand(t.Context(), d, store.Demand{Level: policy.LevelEncrypt, MinBits: 256 + j}); err != nil {
						t.Error(err)
					}
				}
				if err := b.Owe(t.Context(), d, "clinic", asked, true); err != nil {
					t.Error(err)
				}
				for range 200 {
					if got := b.Demand(d); got.Level.Rank() < level.Rank() || got.MinBits < asked.MinBits || !b.Pinned(d) {
						t.Errorf("%s after %s: %v, pinned %v", d, level, got, b.Pinned(d))
						return
					}
				}
			}
		})
	}
	owing.Wait()
	cancel()
	others.Wait()
	for _, d := range ds {
		e := b.entry(d)
		if e.Demand != b.Demand(d) || e.Demand.Level != policy.LevelDane || e.Pin == nil || !b.Pinned(d) {
			t.Errorf("%s: stored %v, in memory %v", d, e.Demand, b.Demand(d))
		}
	}
	equal(t, "pins", b.Stats().Pinned, len(ds))
}

// TestLoadKeepsWhatCameMeanwhile has each writer come between the reading of everything and its taking force.
func TestLoadKeepsWhatCameMeanwhile(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(b *bench)
	}{
		{"owe", func(b *bench) { must(b.T, b.Owe(b.Context(), far, "clinic", policy.DefaultDemand(), true)) }},
		{"learn", func(b *bench) {
			must(b.T, b.Owe(b.Context(), far, "clinic", policy.DefaultDemand(), true))
			b.look(far, policy.SawTLS)
		}},
		{"read again", func(b *bench) {
			other := b.open(false)
			_, err := other.RaiseDemand(b.Context(), far, store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128})
			must(b.T, err)
			_, err = other.Pin(b.Context(), far, store.ByAdmin)
			must(b.T, err)
			must(b.T, b.rereadOne(b.Context(), far))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.written = map[addr.Destination]struct{}{} // as Load begins
			test.do(b)
			must(t, b.install(t.Context(), b.memory, map[addr.Destination]*record{far: {}})) // what was read before
			equal(t, "pinned", b.Pinned(far), true)
			equal(t, "demand", b.Demand(far).Level, policy.LevelEncrypt)
			equal(t, "pins", b.Stats().Pinned, 1)
		})
	}
	t.Run("forgotten", func(t *testing.T) {
		b := newBench(t)
		must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), true))
		read := map[addr.Destination]*record{far: {pinned: true}}
		b.written = map[addr.Destination]struct{}{}
		must(t, b.flush(t.Context()))
		must(t, b.Forget(t.Context(), begin.Add(time.Hour)))
		_, err := b.catchUp(t.Context())
		must(t, err)
		must(t, b.install(t.Context(), b.memory, read))
		equal(t, "pinned", b.Pinned(far), false)
		equal(t, "known", b.Len(), 0)
	})
}

func TestTimeOfUse(t *testing.T) {
	b := newBench(t)
	owe := func(after time.Duration) {
		t.Helper()
		b.pass(after)
		must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), false))
	}
	owe(0)
	must(t, b.flush(t.Context()))
	equal(t, "stored", b.entry(far).Used, begin)
	owe(time.Hour - 1)
	equal(t, "to be stored within the hour", len(b.used), 0)
	owe(1)
	equal(t, "to be stored after the hour", len(b.used), 1)
	back := b.away()
	if b.flush(t.Context()) == nil {
		t.Error("stored without a store")
	}
	back()
	must(t, b.flush(t.Context()))
	equal(t, "stored after it was away", b.entry(far).Used, begin.Add(time.Hour))

	b.restart()
	owe(time.Minute)
	equal(t, "to be stored after a restart", len(b.used), 0)
	owe(-24 * time.Hour) // the clock is set back
	owe(time.Minute)
	equal(t, "to be stored", len(b.used), 1)
}

// Mail that a rule only observes counts as mail, and demands nothing.
func TestTimeOfObservedMail(t *testing.T) {
	b := newBench(t)
	b.Mail(far, "looks")
	equal(t, "of what isn't known", len(b.used), 0)
	must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), false))
	must(t, b.flush(t.Context()))
	b.pass(usedOften - 1)
	b.Mail(far, "looks")
	equal(t, "to be stored within the hour", len(b.used), 0)
	b.pass(1)
	b.Mail(far, "looks")
	must(t, b.flush(t.Context()))
	equal(t, "stored", b.entry(far).Used, begin.Add(usedOften))
	equal(t, "demanded", b.Demand(far).Level, policy.LevelEncrypt)
}
