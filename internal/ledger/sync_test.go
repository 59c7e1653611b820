package ledger

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// TestFollows: what another process changes is in force within seconds, also when the store is away just then.
func TestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, file: t.TempDir() + "/tlsonly.db", time: begin}
		b.start()
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.Ledger.Run(ctx); close(done) }()
		other := b.open(false)
		within := func(what string, ok func() bool) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if !ok() {
				t.Errorf("after 5 s: %s", what)
			}
		}
		must(t, b.Owe(ctx, far, "clinic", policy.DefaultDemand(), true))
		must(t, other.Unpin(ctx, far, "by hand"))
		within("still pinned", func() bool { return !b.Pinned(far) && b.Stats().Pinned == 0 })
		_, err := other.Pin(ctx, far, store.ByAdmin)
		must(t, err)
		within("not pinned", func() bool { return b.Pinned(far) && b.Stats().Pinned == 1 })
		_, err = other.RaiseDemand(ctx, far, store.Demand{Level: policy.LevelSecure})
		must(t, err)
		within("not demanded", func() bool { return b.Demand(far).String() == "secure 1.2 128" })
		must(t, other.DropDemand(ctx, far, "by hand"))
		within("still demanded", func() bool { return b.Demand(far).Level == "" })

		found := saw(far, b.now(), policy.SawTLS)
		must(t, other.Put(ctx, store.Assessment{Assessment: found, Port: 25}))
		within("not in the Assessor's memory", func() bool { return b.memory.get(far).When.Equal(found.When) })
		b.Record(saw(far, b.now(), policy.SawTLS))
		synctest.Wait()
		same(t, "told of what the other saw first", b.events(), "far.example pinned  rule:clinic")

		must(t, other.Unpin(ctx, far, "by hand"))
		must(t, other.Put(ctx, store.Assessment{Assessment: saw(far, b.now().Add(1), policy.SawTLS), Port: 25}))
		back := b.away()
		time.Sleep(time.Minute)
		equal(t, "pinned while the store is away", b.Pinned(far), true)
		back()
		within("still pinned after the store was away", func() bool { return !b.Pinned(far) })

		// More than is read one by one.
		var all []store.Assessment
		for i := range 150 {
			all = append(all, store.Assessment{Assessment: saw(numbered(i), b.now(), policy.SawTLS), Port: 25})
		}
		must(t, other.Put(ctx, all...))
		within("not all read", func() bool { return b.Len() == 151 && !b.memory.get(numbered(149)).When.IsZero() })
		end()
		<-done
		must(t, other.Close())
		must(t, b.store.Close())
	})
}

func numbered(i int) addr.Destination {
	return addr.MustDestination(string(rune('a'+i/26)) + string(rune('a'+i%26)) + ".example")
}

// TestMissed: when changes were missed everything is read again, and if that fails, later.
func TestMissed(t *testing.T) {
	b := newBench(t)
	other := b.open(false)
	_, err := other.Pin(t.Context(), far, store.ByAdmin)
	must(t, err)
	must(t, other.Put(t.Context(), store.Assessment{Assessment: saw(far, begin, policy.SawTLS), Port: 25}))
	b.onChange([]store.Change{{}})
	back := b.away()
	if _, err := b.catchUp(t.Context()); err == nil || b.Pinned(far) {
		t.Errorf("read while it was away: %v", err)
	}
	back()
	if all, err := b.catchUp(t.Context()); !all || err != nil {
		t.Errorf("not everything was read: %v", err)
	}
	equal(t, "pinned", b.Pinned(far), true)
	equal(t, "in the Assessor's memory", b.memory.get(far).When, begin)
	if all, err := b.catchUp(t.Context()); all || err != nil {
		t.Errorf("everything was read again: %v", err)
	}
}

// TestForget: what had no mail for long goes, here and in the Assessor's memory; what had, stays, and so do its
// demand and pin, even if another process forgot it first.
func TestForget(t *testing.T) {
	b := newBench(t)
	near := addr.MustDestination("near.example")
	for _, d := range []addr.Destination{far, near} {
		must(t, b.Owe(t.Context(), d, "clinic", policy.DefaultDemand(), true))
		b.look(d, policy.SawTLS)
		b.memory.Seed(saw(d, begin, policy.SawTLS))
	}
	forget := func() {
		t.Helper()
		must(t, b.Forget(t.Context(), b.now().Add(-90*24*time.Hour)))
		_, err := b.catchUp(t.Context())
		must(t, err)
	}
	b.pass(100 * 24 * time.Hour)
	must(t, b.Owe(t.Context(), near, "clinic", policy.DefaultDemand(), true))
	forget()
	equal(t, "far is pinned", b.Pinned(far), false)
	equal(t, "far is demanded", b.Demand(far), store.Demand{})
	equal(t, "far in the Assessor's memory", b.memory.get(far).When, time.Time{})
	equal(t, "near is pinned", b.Pinned(near), true)
	equal(t, "known", b.Len(), 1)

	// Another process doesn't know of the mail for near that came right now.
	b.pass(100 * 24 * time.Hour)
	must(t, b.Owe(t.Context(), near, "clinic", policy.DefaultDemand(), true))
	forgotten, err := b.open(false).Forget(t.Context(), b.now().Add(-90*24*time.Hour))
	must(t, err)
	equal(t, "forgotten", len(forgotten), 1)
	must(t, b.rereadOne(t.Context(), near))
	e := b.entry(near)
	if e.Pin == nil || e.Demand.Level != policy.LevelEncrypt || !b.Pinned(near) || b.Demand(near).Level != policy.LevelEncrypt {
		t.Errorf("near: %+v", e)
	}

	// When times of use can't be stored nothing is forgotten.
	b.pass(100 * 24 * time.Hour)
	must(t, b.Owe(t.Context(), near, "clinic", policy.DefaultDemand(), true))
	back := b.refuse("used")
	if b.Forget(t.Context(), b.now()) == nil {
		t.Error("forgotten without knowing what is used")
	}
	back()
	if b.entry(near).Pin == nil {
		t.Error("near was forgotten")
	}
}

// TestRestart has a real Assessor answer after a restart without a look.
func TestRestart(t *testing.T) {
	b := newBench(t)
	var looks atomic.Int32
	network := network{&looks}
	assessor := func() *destination.Assessor {
		a, err := destination.New(destination.Config{Resolver: network, Prober: network, Now: b.now, OnResult: b.Record})
		must(t, err)
		t.Cleanup(func() { must(t, a.Close()) })
		return a
	}
	before := assessor().Assess(t.Context(), far, nil)
	b.recordAll(t.Context(), false)
	must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), true))
	next := b.entry(far).Next
	equal(t, "looks", looks.Load(), 1)

	b.restart()
	a := assessor()
	must(t, b.Load(t.Context(), a))
	b.pass(time.Hour)
	after := a.Assess(t.Context(), far, nil)
	equal(t, "looks after the restart", looks.Load(), 1)
	equal(t, "when", after.When.Equal(before.When), true)
	equal(t, "level", judge.Reached(after), policy.LevelEncrypt)
	equal(t, "pinned", b.Pinned(far), true)
	equal(t, "demand", b.Demand(far).String(), "encrypt 1.2 128")
	equal(t, "next look", b.entry(far).Next, next)
	// Another destination on the same host needs no look at the host.
	a.Assess(t.Context(), addr.MustDestination("near.example"), nil)
	equal(t, "looks at the host", looks.Load(), 1)
}

// network has one mail host for every domain.
type network struct{ looks *atomic.Int32 }

func (network) MX(context.Context, addr.Domain) (dns.Answer[dns.MX], error) {
	return dns.Answer[dns.MX]{Status: dns.OK, Records: []dns.MX{{Preference: 10, Host: addr.MustDomain("mx.example")}}}, nil
}

func (network) Addrs(context.Context, addr.Domain) (dns.Answer[netip.Addr], error) {
	return dns.Answer[netip.Addr]{Status: dns.OK, Records: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, nil
}

func (network) SecureAlias(context.Context, addr.Domain) (bool, error) { return false, nil }

func (network) TLSA(context.Context, addr.Domain) (dns.Answer[policy.TLSA], error) {
	return dns.Answer[policy.TLSA]{Status: dns.NoSuchDomain}, nil
}

func (n network) Probe(_ context.Context, t starttls.Target) policy.Observation {
	n.looks.Add(1)
	return policy.Observation{Address: t.Address, Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, When: begin}
}
