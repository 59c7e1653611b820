package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/judge"
	"tlsonly/internal/ledger"
	"tlsonly/internal/monitor"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

const (
	fleetKnown = 10_000 // destinations
	fleetHosts = 50     // mail hosts of them
)

// fleet is several daemons, without their milters, on one PostgreSQL. Time stands still unless the test moves it.
type fleet struct {
	t      *testing.T
	url    string
	offset atomic.Int64

	mu      sync.Mutex
	looks   map[addr.Destination]int
	claimed int
}

func (f *fleet) now() time.Time {
	return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Duration(f.offset.Load()))
}

// member is one daemon of a fleet.
type member struct {
	*fleet
	store    *store.Store
	ledger   *ledger.Ledger
	assessor *destination.Assessor
	stop     []context.CancelFunc // the monitor, then the ledger
	ended    []chan struct{}
	probes   atomic.Int64

	// Under fleet.mu:
	doomed, dead   bool
	looks, claimed int
	seeded         map[addr.Destination]bool
}

func (f *fleet) start(name string) *member {
	f.t.Helper()
	m := &member{fleet: f, seeded: map[addr.Destination]bool{}}
	var err error
	check := func() {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	m.store, err = store.Open(f.t.Context(), store.Config{URL: f.url, Host: name, Daemon: true, Now: f.now})
	check()
	m.ledger, err = ledger.New(ledger.Config{Store: m.store, Now: f.now})
	check()
	m.assessor, err = destination.New(destination.Config{Resolver: m, Prober: m, Now: f.now, OnResult: m.found})
	check()
	err = m.ledger.Load(f.t.Context(), m)
	check()
	// Every makes haste here; when a destination is due again is the ledger's to say.
	watch, err := monitor.New(monitor.Config{Schedule: m, Assessor: m.assessor, Ledger: m.ledger, Every: time.Minute,
		Tick: 20 * time.Millisecond, Concurrency: 16, Now: f.now})
	check()
	for _, run := range []func(context.Context){watch.Run, m.ledger.Run} {
		ctx, cancel := context.WithCancel(f.t.Context())
		done := make(chan struct{})
		go func() { run(ctx); close(done) }()
		m.stop, m.ended = append(m.stop, cancel), append(m.ended, done)
	}
	f.t.Cleanup(func() {
		m.end()
		if err := m.assessor.Close(); err != nil {
			f.t.Error(err)
		}
		if err := m.store.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return m
}

func (m *member) end() {
	for i, stop := range m.stop {
		stop()
		<-m.ended[i]
	}
}

// found is the Assessor's; the dead tell nothing.
func (m *member) found(found policy.Assessment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return
	}
	m.looks++
	m.fleet.looks[found.Destination]++
	m.ledger.Record(found)
}

// Seed and Drop are the Assessor's.
func (m *member) Seed(known ...policy.Assessment) {
	m.assessor.Seed(known...)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range known {
		m.seeded[a.Destination] = true
	}
}

func (m *member) Drop(d addr.Destination) { m.assessor.Drop(d) }

// Due counts what is claimed. The doomed die just after a claim.
func (m *member) Due(ctx context.Context, now time.Time, n int, lease, _ time.Duration) ([]addr.Destination, error) {
	due, err := m.store.Due(ctx, now, n, lease, 48*time.Hour) // by the ledger's Every
	m.mu.Lock()
	defer m.mu.Unlock()
	m.claimed += len(due)
	m.fleet.claimed += len(due)
	m.dead = m.dead || m.doomed && m.looks > 500 && len(due) > 0
	return due, err
}

func (m *member) Prune(ctx context.Context, before time.Time) error {
	return m.store.Prune(ctx, before)
}

// MX spreads destinations over the mail hosts.
func (m *member) MX(_ context.Context, d addr.Domain) (dns.Answer[dns.MX], error) {
	name, _, _ := strings.Cut(d.String(), ".")
	n, _ := strconv.Atoi(strings.TrimPrefix(name, "d"))
	host := addr.MustDomain(fmt.Sprintf("mx%d.provider.example", n%fleetHosts))
	return dns.Answer[dns.MX]{Status: dns.OK, Records: []dns.MX{{Preference: 10, Host: host}}}, nil
}

func (m *member) Addrs(context.Context, addr.Domain) (dns.Answer[netip.Addr], error) {
	return dns.Answer[netip.Addr]{Status: dns.OK, Records: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, nil
}

func (*member) SecureAlias(context.Context, addr.Domain) (bool, error) { return false, nil }

func (m *member) TLSA(context.Context, addr.Domain) (dns.Answer[policy.TLSA], error) {
	return dns.Answer[policy.TLSA]{Status: dns.NoSuchDomain}, nil
}

func (m *member) Probe(_ context.Context, t starttls.Target) policy.Observation {
	m.probes.Add(1)
	return policy.Observation{Address: t.Address, Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, When: m.now()}
}

// fleetWait waits until done, asked under the fleet's lock.
func (f *fleet) wait(limit time.Duration, what string, done func() bool) {
	f.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		ok := done()
		f.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("after %s: not %s", limit, what)
		}
	}
}

// TestFleet has three daemons look at 10,000 destinations on 50 mail hosts, all due at once; one of them dies.
func TestFleet(t *testing.T) {
	long(t)
	server := storetest.StartPostgres(t)
	f := &fleet{t: t, url: server.URL(t), looks: map[addr.Destination]int{}}
	first, err := store.Open(t.Context(), store.Config{URL: f.url})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), f.url)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(t.Context(), `INSERT INTO destination (name, born, used, next)
		SELECT 'd' || n || '.example', $1, $1, $1 FROM generate_series(0, $2 - 1) AS n`, f.now().Add(-time.Hour).UnixMicro(), fleetKnown)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	started := time.Now()
	members := []*member{f.start("a"), f.start("b"), f.start("c")}
	victim := members[0]
	f.wait(5*time.Minute, "far enough for one to die", func() bool { victim.doomed = true; return victim.dead })
	victim.end()
	left := victim.claimed - victim.looks
	learned := func() bool { return members[1].ledger.Waiting()+members[2].ledger.Waiting() == 0 }
	f.wait(5*time.Minute, "all looked at but what the dead one had claimed", func() bool {
		return f.claimed == fleetKnown && len(f.looks) == fleetKnown-left && learned()
	})
	t.Logf("one died with %d looks done and %d claimed", victim.looks, left)
	f.offset.Add(int64(6 * time.Minute)) // its claims run out
	f.wait(5*time.Minute, "all looked at", func() bool { return len(f.looks) == fleetKnown && learned() })

	f.mu.Lock()
	total, probes := 0, int64(0)
	for d, n := range f.looks {
		if total += n; n != 1 {
			t.Errorf("%s was looked at %d times", d, n)
		}
	}
	for i, m := range members {
		t.Logf("daemon %d: %d looks, %d probes", i, m.looks, m.probes.Load())
		probes += m.probes.Load()
		if i > 0 && m.looks < fleetKnown/5 {
			t.Errorf("daemon %d took %d of %d looks", i, m.looks, total)
		}
	}
	t.Logf("%d looks at %d destinations, %d probes of %d mail hosts, %.1f s", total, fleetKnown, probes, fleetHosts, time.Since(started).Seconds())
	// At worst each daemon probes each host itself, and again when time has moved on.
	if probes < fleetHosts || probes > 2*fleetHosts*int64(len(members)) {
		t.Errorf("%d probes of %d mail hosts", probes, fleetHosts)
	}
	f.mu.Unlock()

	t.Run("learn", func(t *testing.T) { testFleetLearns(t, f, members[1], members[2]) })
	t.Run("away", func(t *testing.T) { testFleetAway(t, f, server, members[1], members[2]) })
}

var fleetDemand = policy.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128}

// testFleetLearns: what one learns and owes the other uses within 5 s.
func testFleetLearns(t *testing.T, f *fleet, one, other *member) {
	fresh := addr.MustDestination("d77777.example")
	found := one.assessor.Assess(t.Context(), fresh, nil)
	if err := one.ledger.Owe(t.Context(), fresh, "clinic", fleetDemand, true); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	f.wait(5*time.Second, "known to the other", func() bool {
		return other.ledger.Pinned(fresh) && other.ledger.Demand(fresh).Level == policy.LevelEncrypt && one.ledger.Waiting() == 0
	})
	f.wait(5*time.Second, "in the other's memory", func() bool { return other.seeded[fresh] })
	t.Logf("after %s", time.Since(start).Round(time.Millisecond))
	used := other.assessor.Assess(t.Context(), fresh, nil)
	if !used.When.Equal(found.When) {
		t.Errorf("found %v, used %v", found.When, used.When)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looks[fresh] != 1 {
		t.Errorf("looked at %d times", f.looks[fresh])
	}
}

// testFleetAway takes the database away: what is known serves, what isn't is refused, and all heals by itself.
func testFleetAway(t *testing.T, f *fleet, server *storetest.Postgres, one, other *member) {
	standing, fresh, seen := addr.MustDestination("d77777.example"), addr.MustDestination("d88888.example"), addr.MustDestination("d99999.example")
	server.Stop(t)
	for _, m := range []*member{one, other} {
		if err := m.ledger.Owe(t.Context(), standing, "clinic", fleetDemand, true); err != nil {
			t.Errorf("a standing demand: %v", err)
		}
		if !m.ledger.Pinned(standing) {
			t.Error("a pin is gone with the database")
		}
		if err := m.ledger.Owe(t.Context(), fresh, "clinic", fleetDemand, true); err == nil {
			t.Error("a new demand was acknowledged without a database")
		}
	}
	if a := one.assessor.Assess(t.Context(), seen, nil); judge.Destination(fleetDemand, a) != "" {
		t.Errorf("a look without a database: %+v", a)
	}
	f.wait(20*time.Second, "known to be away", func() bool { s := one.ledger.Stats(); return s.StoreAway && s.Waiting == 1 })
	server.Start(t)
	f.wait(20*time.Second, "back", func() bool { s := one.ledger.Stats(); return !s.StoreAway && s.Waiting == 0 })
	if err := one.ledger.Owe(t.Context(), fresh, "clinic", fleetDemand, true); err != nil {
		t.Errorf("a new demand when it is back: %v", err)
	}
	f.wait(20*time.Second, "told to the other", func() bool { return other.ledger.Pinned(fresh) })
	e, err := other.store.Get(t.Context(), seen)
	if err != nil || !slices.ContainsFunc(e.Assessment.Hosts, func(h policy.Host) bool { return judge.Host(fleetDemand, e.Assessment, h) == "" }) {
		t.Errorf("what was seen meanwhile: %+v, %v", e, err)
	}
}
