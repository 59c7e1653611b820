// Package storetest is what any database under package store must pass: Run is one suite for SQLite and PostgreSQL.
// It also starts a PostgreSQL server of its own for tests, from the binaries that Debian's package brings.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Start is the suite's clock.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Run runs the suite. fresh returns the configuration of a new, empty database, which can be opened several times.
func Run(t *testing.T, fresh func(t *testing.T) store.Config) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, suite)
	}{
		{"Empty", testEmpty},
		{"Assessments", testAssessments},
		{"HostsShared", testHostsShared},
		{"HostNeverWeaker", testHostNeverWeaker},
		{"Demands", testDemands},
		{"DemandsMerge", testDemandsMerge},
		{"Pins", testPins},
		{"Hold", testPromise},
		{"Looks", testResults},
		{"Touch", testTouch},
		{"Policies", testPolicies},
		{"History", testHistory},
		{"Forget", testForget},
		{"List", testList},
		{"Page", testPage},
		{"Due", testDue},
		{"DueShared", testDueShared},
		{"Watch", testWatch},
		{"Rulesets", testRulesets},
		{"Usage", testUsage},
		{"Observed", testObserved},
		{"Keys", testKeys},
		{"Handed", testHanded},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.run(t, suite{ctx, fresh(t)})
		})
	}
}

type suite struct {
	ctx    context.Context
	config store.Config
}

// open opens the suite's database once more, at the suite's time.
func (s suite) open(t *testing.T, host string) *store.Store {
	t.Helper()
	c := s.config
	c.Host = host
	if c.Now == nil {
		c.Now = func() time.Time { return start }
	}
	opened, err := store.Open(s.ctx, c)
	must(t, err)
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return opened
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// Assessment returns one of d with two hosts that showed TLS: mx1 and mx2 of provider.
func Assessment(d, provider string, when time.Time) policy.Assessment {
	a := policy.Assessment{Destination: addr.MustDestination(d), When: when, Until: when.Add(24 * time.Hour), Secure: true}
	for i := range 2 {
		name := fmt.Sprintf("mx%d.%s", i+1, provider)
		a.Hosts = append(a.Hosts, policy.Host{
			Name: addr.MustDomain(name), Preference: uint16(10 * (i + 1)), Secure: true,
			Observations: []policy.Observation{{
				Address: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:25", i+1)), Outcome: policy.SawTLS, Stage: policy.StageQuit,
				Banner: name + " ESMTP ready", Extensions: []string{"PIPELINING", "SIZE 52428800", "STARTTLS", "8BITMIME"},
				Version: policy.TLS13, Cipher: "TLS_AES_256_GCM_SHA384", Bits: 256, Exchange: "X25519", Took: 25 * time.Millisecond, When: when,
				Chain: []policy.Certificate{
					certificate("CN="+name, "CN=R11,O=Let's Encrypt", []string{name}, strings.Repeat("ab", 32)),
					certificate("CN=R11,O=Let's Encrypt", "CN=ISRG Root X1,O=Internet Security Research Group", nil, strings.Repeat("cd", 32)),
				},
			}},
		})
	}
	return a
}

func certificate(subject, issuer string, names []string, fingerprint string) policy.Certificate {
	return policy.Certificate{Subject: subject, Issuer: issuer, Names: names, NotBefore: start.AddDate(0, -1, 0), NotAfter: start.AddDate(0, 2, 0),
		Key: "ECDSA P-256", Signature: "SHA256-RSA", Fingerprint: fingerprint}
}

func testEmpty(t *testing.T, s suite) {
	db := s.open(t, "a")
	snap, err := db.Load(s.ctx)
	must(t, err)
	equal(t, "snapshot", *snap, store.Snapshot{Destinations: []store.Entry{}})
	if _, err := db.Get(s.ctx, addr.MustDestination("b.example")); !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("Get: %v", err)
	}
	if _, err := db.GetPolicy(s.ctx, addr.MustDomain("b.example")); !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("GetPolicy: %v", err)
	}
	must(t, db.Ping(s.ctx))
	must(t, db.Healthy())
}

func testAssessments(t *testing.T, s suite) {
	implicit := Assessment("[mail.implicit.example]:587", "implicit.example", start)
	implicit.Hosts = implicit.Hosts[:1]
	implicit.Hosts[0].Preference, implicit.Hosts[0].Implicit = 0, true
	literal := Assessment("192.0.2.7", "x.example", start)
	literal.Hosts[0].Name = addr.MustDomain("[IPv6:2001:db8::1]")
	null := policy.Assessment{Destination: addr.MustDestination("null.example"), Problem: policy.NullMX, Detail: "MX 0 .", When: start, Until: start.Add(time.Minute)}
	dead := Assessment("dead.example", "dead.example", start)
	dead.Secure = false
	dead.Hosts[0].Observations, dead.Hosts[0].Problem, dead.Hosts[0].Detail = nil, policy.DNSFailure, "SERVFAIL\x00\xff"
	dead.Hosts[0].Alias = addr.MustDomain("cname.example")
	all := []policy.Assessment{Assessment("good.example", "good.example", start), implicit, literal, null, dead}

	db := s.open(t, "a")
	for _, a := range all {
		must(t, db.Put(s.ctx, store.Assessment{Assessment: a, Port: 25}))
	}
	must(t, db.Close())
	again := s.open(t, "b")
	snap, err := again.Load(s.ctx)
	must(t, err)
	dead.Hosts[0].Detail = "SERVFAIL\x00\uFFFD" // JSON is UTF-8
	for _, want := range all {
		i := slices.IndexFunc(snap.Destinations, func(e store.Entry) bool { return e.Destination == want.Destination })
		if i < 0 {
			t.Fatalf("%s isn't in the snapshot", want.Destination)
		}
		equal(t, "loaded", snap.Destinations[i], store.Entry{Destination: want.Destination, Assessment: want, Port: 25})
		got, err := again.Get(s.ctx, want.Destination)
		must(t, err)
		equal(t, "got", got.Assessment, want)
	}

	partial := Assessment("partial.example", "partial.example", start)
	partial.Partial = true
	if err := again.Put(s.ctx, store.Assessment{Assessment: partial, Port: 25}); err == nil {
		t.Fatal("a partial assessment was stored")
	}
	must(t, again.Healthy())
}

func testHostsShared(t *testing.T, s suite) {
	db := s.open(t, "a")
	var found []store.Assessment
	for i := range 300 {
		found = append(found, store.Assessment{Assessment: Assessment(fmt.Sprintf("d%d.example", i), "provider.example", start), Port: 25})
	}
	must(t, db.Put(s.ctx, found...))
	later := Assessment("late.example", "provider.example", start.Add(time.Hour))
	must(t, db.Put(s.ctx, store.Assessment{Assessment: later, Port: 25}))
	snap, err := db.Load(s.ctx)
	must(t, err)
	first := &snap.Destinations[0].Assessment.Hosts[0].Observations[0]
	for _, e := range snap.Destinations {
		if &e.Assessment.Hosts[0].Observations[0] != first {
			t.Fatalf("%s has observations of its own", e.Destination)
		}
	}
	equal(t, "a host's last look", first.When, start.Add(time.Hour))
}

func testHostNeverWeaker(t *testing.T, s suite) {
	now := start
	s.config.Now = func() time.Time { return now }
	db := s.open(t, "a")
	good := Assessment("good.example", "provider.example", start)
	bad := Assessment("bad.example", "provider.example", start.Add(time.Hour))
	for i := range bad.Hosts {
		bad.Hosts[i].Observations = []policy.Observation{{Address: good.Hosts[i].Observations[0].Address, Outcome: policy.SawTimeout,
			Stage: policy.StageConnect, When: bad.When}}
	}
	outcome := func() policy.Outcome {
		e, err := db.Get(s.ctx, good.Destination)
		must(t, err)
		return e.Assessment.Hosts[0].Observations[0].Outcome
	}
	put := func(f store.Assessment) policy.Outcome {
		f.Port = 25
		must(t, db.Put(s.ctx, f))
		return outcome()
	}
	equal(t, "good", put(store.Assessment{Assessment: good}), policy.SawTLS)
	now = bad.When
	equal(t, "another destination's failure", put(store.Assessment{Assessment: bad}), policy.SawTLS)
	equal(t, "the same, told to replace", put(store.Assessment{Assessment: bad, Replace: true}), policy.SawTimeout)
	equal(t, "an older look", put(store.Assessment{Assessment: good}), policy.SawTimeout)
	good.When, good.Until = bad.When.Add(time.Hour), bad.When.Add(2*time.Hour)
	now = good.When
	equal(t, "good again", put(store.Assessment{Assessment: good}), policy.SawTLS)
	now, bad.When = good.Until, good.Until
	equal(t, "failure after the end", put(store.Assessment{Assessment: bad}), policy.SawTimeout)

	// What a clock saw that was a month ahead, and has been put right.
	ahead := now.AddDate(0, 1, 0)
	bad.When = ahead
	put(store.Assessment{Assessment: bad, Replace: true})
	good.When, good.Until = now, now.Add(time.Hour)
	equal(t, "good, after a failure to come", put(store.Assessment{Assessment: good}), policy.SawTLS)
	good.When, good.Until = ahead, ahead.Add(time.Hour)
	put(store.Assessment{Assessment: good})
	bad.When = now
	equal(t, "failure, after a success to come", put(store.Assessment{Assessment: bad}), policy.SawTimeout)
	good.When, good.Until = now.Add(30*time.Second), now.Add(time.Hour)
	put(store.Assessment{Assessment: good})
	equal(t, "failure, after a success by a clock a little ahead", put(store.Assessment{Assessment: bad}), policy.SawTLS)
}

func testDemands(t *testing.T, s suite) {
	db, d := s.open(t, "a"), addr.MustDestination("b.example")
	first := store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128, Since: start}
	got, err := db.RaiseDemand(s.ctx, d, first)
	must(t, err)
	equal(t, "first", got, first)
	for _, test := range []struct {
		why         string
		raise, want store.Demand
	}{
		{"the same costs nothing", store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128, Since: start.Add(1)}, first},
		{"lower changes nothing", store.Demand{Level: policy.LevelMay}, first},
		{"level alone", store.Demand{Level: policy.LevelSecure, Since: start.Add(time.Hour)}, store.Demand{Level: policy.LevelSecure, MinVersion: policy.TLS12, MinBits: 128, Since: start.Add(time.Hour)}},
		{"version alone", store.Demand{Level: policy.LevelMay, MinVersion: policy.TLS13, Since: start.Add(2 * time.Hour)}, store.Demand{Level: policy.LevelSecure, MinVersion: policy.TLS13, MinBits: 128, Since: start.Add(2 * time.Hour)}},
		{"bits alone, no time given", store.Demand{Level: policy.LevelNone, MinBits: 256}, store.Demand{Level: policy.LevelSecure, MinVersion: policy.TLS13, MinBits: 256, Since: start}},
	} {
		got, err := db.RaiseDemand(s.ctx, d, test.raise)
		must(t, err)
		equal(t, test.why, got, test.want)
		e, err := db.Get(s.ctx, d)
		must(t, err)
		equal(t, test.why+", stored", e.Demand, test.want)
	}
	if _, err := db.RaiseDemand(s.ctx, d, store.Demand{Level: "strong"}); err == nil {
		t.Fatal("an unknown level was stored")
	}
	must(t, db.DropDemand(s.ctx, d, "peer closed down"))
	must(t, db.DropDemand(s.ctx, d, "twice is nothing"))
	e, err := db.Get(s.ctx, d)
	must(t, err)
	equal(t, "dropped", e.Demand, store.Demand{})
	var history []string
	events, err := db.History(s.ctx, d, 10)
	must(t, err)
	for _, e := range events {
		history = append(history, fmt.Sprintf("%s %q %q %q", e.What, e.From, e.To, e.Why))
	}
	equal(t, "history", history, []string{
		`demand "secure 1.3 256" "" "peer closed down"`,
		`demand "secure 1.3 128" "secure 1.3 256" ""`,
		`demand "secure 1.2 128" "secure 1.3 128" ""`,
		`demand "encrypt 1.2 128" "secure 1.2 128" ""`,
		`demand "" "encrypt 1.2 128" ""`,
	})
}

func testDemandsMerge(t *testing.T, s suite) {
	d := addr.MustDestination("b.example")
	stores := []*store.Store{s.open(t, "a"), s.open(t, "b")}
	var group sync.WaitGroup
	raise := func(db *store.Store, demand store.Demand) {
		group.Go(func() {
			if _, err := db.RaiseDemand(s.ctx, d, demand); err != nil {
				t.Errorf("raise: %v", err)
			}
		})
	}
	for i, level := range policy.Levels() {
		raise(stores[i%2], store.Demand{Level: level, MinBits: 100 + i, Since: start})
		raise(stores[(i+1)%2], store.Demand{Level: policy.LevelMay, MinVersion: policy.TLS10 + policy.Version(i%4), Since: start})
	}
	group.Wait()
	e, err := stores[0].Get(s.ctx, d)
	must(t, err)
	equal(t, "merged", e.Demand, store.Demand{Level: policy.LevelDane, MinVersion: policy.TLS13, MinBits: 104, Since: start})
}

// testPromise: a demand and a pin at once, each of which may stand already.
func testPromise(t *testing.T, s suite) {
	db, d := s.open(t, "a"), addr.MustDestination("b.example")
	encrypt := store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128, Since: start}
	secure := store.Demand{Level: policy.LevelSecure, MinVersion: policy.TLS12, MinBits: 128, Since: start}
	for _, test := range []struct {
		why    string
		raise  store.Demand
		by     string
		want   store.Demand
		pinned bool
	}{
		{"demand alone", encrypt, "", encrypt, false},
		{"pin beside the demand that stands", encrypt, "rule:clinic", encrypt, true},
		{"both stand", encrypt, "rule:lab", encrypt, false},
		{"demand beside the pin that stands", secure, "rule:lab", secure, false},
	} {
		now, pinned, err := db.RecordPromise(s.ctx, d, test.raise, test.by)
		must(t, err)
		equal(t, test.why, now, test.want)
		equal(t, test.why+", pinned", pinned, test.pinned)
		e, err := db.Get(s.ctx, d)
		must(t, err)
		equal(t, test.why+", stored", e.Demand, test.want)
	}
	e, err := db.Get(s.ctx, d)
	must(t, err)
	equal(t, "pin", e.Pin, &store.Pin{Since: start, By: "rule:clinic"})
	if _, _, err := db.RecordPromise(s.ctx, d, store.Demand{}, "rule:clinic"); err == nil {
		t.Error("a demand of no level was stored")
	}
}

func testPins(t *testing.T, s suite) {
	db, d := s.open(t, "a"), addr.MustDestination("b.example")
	pin := func(by string, want bool) {
		t.Helper()
		isNew, err := db.Pin(s.ctx, d, by)
		must(t, err)
		equal(t, "pinned by "+by, isNew, want)
	}
	if err := db.Unpin(s.ctx, d, "x"); !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("unpin of nothing: %v", err)
	}
	must(t, db.Healthy())
	pin("rule:clinic", true)
	pin("rule:other", false)
	pin(store.ByAdmin, true)
	pin("rule:clinic", false)
	pin(store.ByAdmin, false)
	must(t, db.Close())
	db = s.open(t, "b")
	e, err := db.Get(s.ctx, d)
	must(t, err)
	equal(t, "pin", e.Pin, &store.Pin{Since: start, By: store.ByAdmin})
	must(t, db.Unpin(s.ctx, d, "they gave up TLS"))
	if err := db.Unpin(s.ctx, d, "x"); !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("unpin again: %v", err)
	}
	events, err := db.History(s.ctx, d, 10)
	must(t, err)
	for i := range events {
		events[i].ID = 0
	}
	equal(t, "history", events, []store.Event{
		{When: start, Destination: d, What: store.Unpinned, From: store.ByAdmin, Why: "they gave up TLS", Host: "b"},
		{When: start, Destination: d, What: store.Pinned, From: "rule:clinic", To: store.ByAdmin, Host: "a"},
		{When: start, Destination: d, What: store.Pinned, To: "rule:clinic", Host: "a"},
	})
}
