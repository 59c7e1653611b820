package mtasts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

var good = addr.MustDomain("good.example")

const none = "version: STSv1\nmode: none\nmax_age: 172800\n"

// world is DNS, a policy host and a Keeper that asks them, with a clock that stands still.
type world struct {
	t   *testing.T
	dns *testnet.DNS
	sts *testnet.STS
	k   *Keeper

	mu      sync.Mutex
	records map[string]string // by domain
	now     time.Time
	saved   []Saved
	saveErr error
	log     bytes.Buffer
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, records: map[string]string{}, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	sts, ca := startSTS(t)
	w.sts = sts
	var err error
	if w.dns, err = testnet.StartDNS("127.0.0.1:0", "$ORIGIN example.\n"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.dns.Close(); err != nil {
			t.Error(err)
		}
	})
	resolver, err := dns.New(dns.Config{Server: w.dns.Addr(), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Resolver: resolver,
		Roots:    ca.Pool(),
		Save:     w.save,
		Port:     sts.Address().Port(),
		Now:      w.clock,
		Log:      slog.New(slog.NewTextHandler(w, nil)),
	}
	if change != nil {
		change(&c)
	}
	if w.k, err = New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.k.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) save(s Saved) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saved = append(w.saved, s)
	return w.saveErr
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// record publishes a record for a domain below example, or none.
func (w *world) record(domain, txt string) {
	w.t.Helper()
	w.records[domain] = txt
	zone := "$TTL 60\n$ORIGIN example.\n"
	for d, txt := range w.records {
		zone += fmt.Sprintf("mta-sts.%s. A 127.0.0.1\n", d)
		if txt != "" {
			zone += fmt.Sprintf("_mta-sts.%s. TXT %q\n", d, txt)
		}
	}
	if err := w.dns.SetZones(zone); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) publish(domain, id, text string) {
	w.t.Helper()
	w.sts.SetPolicy(domain, text)
	w.record(domain, "v=STSv1; id="+id+";")
}

// want looks good.example up: its mode, id, what its Problem contains ("" is none) and how often it was fetched by then.
func (w *world) want(what string, mode policy.STSMode, id, problem string, fetches int) policy.STS {
	w.t.Helper()
	got := w.k.Lookup(w.t.Context(), good)
	if got.Mode != mode || got.ID != id || (got.Problem == "") != (problem == "") || !strings.Contains(got.Problem, problem) {
		w.t.Errorf("%s: %+v; want %q %q, problem %q", what, got, mode, id, problem)
	}
	if n := w.sts.Fetches("good.example"); n != fetches {
		w.t.Errorf("%s: %d fetches, want %d", what, n, fetches)
	}
	return got
}

// fetched waits until good.example's policy was asked for n times.
func (w *world) fetched(n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := w.sts.WaitFetches(ctx, "good.example", n); err != nil {
		w.t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	start := w.clock()
	got := w.want("first", policy.STSEnforce, "1", "", 1)
	week := start.Add(7 * 24 * time.Hour)
	if !got.Fetched.Equal(start) || !got.Until.Equal(week) {
		t.Errorf("fetched %s until %s; want %s, %s", got.Fetched, got.Until, start, week)
	}
	for host, permitted := range map[string]bool{"mx.good.example": true, "a.pool.example": true, "pool.example": false,
		"a.b.pool.example": false} {
		if got.Permits(addr.MustDomain(host)) != permitted {
			t.Errorf("permits %s: %t", host, !permitted)
		}
	}
	want := []Saved{{Domain: good, ID: "1", Text: enforce, Fetched: start, Until: week}}
	if !reflect.DeepEqual(w.saved, want) {
		t.Errorf("saved %+v, want %+v", w.saved, want)
	}
	if again := w.want("second", policy.STSEnforce, "1", "", 1); !reflect.DeepEqual(again, got) {
		t.Errorf("%+v, then %+v", got, again)
	}
	for _, d := range []string{"other.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", strings.Repeat("a.", 120) + "example"} {
		if got := w.k.Lookup(t.Context(), addr.MustDomain(d)); !reflect.DeepEqual(got, policy.STS{}) {
			t.Errorf("%s: %+v", d, got)
		}
	}
	if got := w.k.Lookup(t.Context(), addr.Domain{}); !reflect.DeepEqual(got, policy.STS{}) {
		t.Errorf("no domain: %+v", got)
	}
	if n := w.dns.Queries("", miekg.TypeTXT); n != 3 {
		t.Errorf("%d questions for TXT, want 3: good.example twice, other.example once", n)
	}

	w.publish("good.example", "2", strings.Replace(enforce, "enforce", "testing", 1))
	if got := w.want("another id", policy.STSTesting, "2", "", 2); got.Enforces() {
		t.Error("testing enforces")
	}
	w.publish("good.example", "3", none)
	w.want("withdrawn", policy.STSNone, "3", "", 3)
	if n := len(w.saved); n != 3 {
		t.Errorf("%d policies saved", n)
	}
}

// TestRecordGone: RFC 8461, sections 3.1 and 5.1: the policy stays to the end of max_age.
func TestRecordGone(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	w.want("first", policy.STSEnforce, "1", "", 1)
	w.record("good.example", "")
	w.want("no record", policy.STSEnforce, "1", "", 1)
	w.record("good.example", "v=spf1 -all")
	w.pass(7*24*time.Hour - time.Second)
	w.want("another record", policy.STSEnforce, "1", "", 1)
	w.dns.SetFault("_mta-sts.good.example.", miekg.TypeTXT, testnet.DNSNXDomain)
	w.want("a name that is gone", policy.STSEnforce, "1", "", 1)
	w.pass(time.Second)
	w.want("after max_age", "", "", "", 1)
}

func TestRecordUnknown(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	broken := func(what string, mode policy.STSMode, id string, fetches int) {
		t.Helper()
		for fault, problem := range map[testnet.DNSFault]string{testnet.DNSServFail: "SERVFAIL", testnet.DNSRefused: "REFUSED",
			testnet.DNSCNAMELoop: "alias loop"} {
			w.dns.SetFault("_mta-sts.good.example.", miekg.TypeTXT, fault)
			w.want(what+", "+string(fault), mode, id, problem, fetches)
		}
		w.dns.ClearFaults()
	}
	broken("nothing kept", "", "", 0)
	w.want("mended", policy.STSEnforce, "1", "", 1)
	w.pass(48 * time.Hour) // a refresh is due, but nobody knows of what
	broken("kept", policy.STSEnforce, "1", 1)
	w.pass(5 * 24 * time.Hour)
	broken("after max_age", "", "", 1)
}

func TestRecordBad(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	w.record("good.example", "v=STSv1; id=a-b")
	w.want("nothing kept", "", "", "id", 0)
	w.publish("good.example", "1", enforce)
	w.want("mended", policy.STSEnforce, "1", "", 1)
	w.record("good.example", "v=STSv1;")
	w.want("kept", policy.STSEnforce, "1", "MTA-STS record", 1)
}

// TestFetchFails: RFC 8461, section 3.3: what is kept holds, and the version isn't asked for again for five minutes.
func TestFetchFails(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	w.sts.SetFault("good.example", testnet.STSNotFound)
	w.want("nothing kept", "", "", "404", 1)
	w.pass(5*time.Minute - time.Second)
	w.want("too early", "", "", "404", 1)
	w.publish("good.example", "2", enforce)
	w.want("another version", "", "", "404", 2)
	w.pass(-time.Hour)
	w.want("clock set back", "", "", "404", 3)
	w.pass(5 * time.Minute)
	w.sts.SetFault("good.example", testnet.STSGood)
	w.want("five minutes later", policy.STSEnforce, "2", "", 4)
	if n := len(w.k.failed); n != 0 {
		t.Errorf("%d failures kept", n)
	}
	if s := w.logged(); strings.Count(s, "level=INFO") != 3 || strings.Contains(s, "level=WARN") {
		t.Errorf("log: %s", s)
	}

	// With a policy kept; a handshake that fails is no fetch.
	for i, c := range []struct {
		fault   testnet.STSFault
		problem string
		fetches int
	}{
		{testnet.STSExpired, "expired", 4},
		{testnet.STSRedirect, "301", 5},
		{testnet.STSHTML, "text/html", 6},
		{testnet.STSTooLong, "longer", 7},
		{testnet.STSTruncated, "EOF", 8},
	} {
		w.publish("good.example", fmt.Sprintf("x%d", i), none)
		w.sts.SetFault("good.example", c.fault)
		w.want(string(c.fault), policy.STSEnforce, "2", c.problem, c.fetches)
		w.want(string(c.fault)+" again", policy.STSEnforce, "2", c.problem, c.fetches)
	}
	w.sts.SetFault("good.example", testnet.STSGood)
	w.publish("good.example", "bad", "version: STSv1\nmode: none\n")
	w.want("a policy that can't be read", policy.STSEnforce, "2", "max_age", 9)
	w.record("good.example", "v=STSv1; id=2")
	w.want("the version kept", policy.STSEnforce, "2", "", 9)
	w.dns.SetFault("mta-sts.good.example.", miekg.TypeA, testnet.DNSNXDomain)
	w.record("good.example", "v=STSv1; id=4")
	w.want("no address", policy.STSEnforce, "2", "no-such-domain", 9)
	if s := w.logged(); strings.Count(s, "level=WARN") != 7 {
		t.Errorf("log: %s", s)
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	first := w.want("first", policy.STSEnforce, "1", "", 1)
	w.pass(24*time.Hour - time.Second)
	w.want("before a day", policy.STSEnforce, "1", "", 1)
	w.sts.SetFault("good.example", testnet.STSNotFound)
	w.pass(time.Second)
	if got := w.want("in vain", policy.STSEnforce, "1", "404", 2); !got.Until.Equal(first.Until) {
		t.Errorf("until %s, want %s", got.Until, first.Until)
	}
	w.want("in vain and too early", policy.STSEnforce, "1", "404", 2)
	w.sts.SetFault("good.example", testnet.STSGood)
	w.pass(5 * time.Minute)
	if got := w.want("renewed", policy.STSEnforce, "1", "", 3); !got.Until.Equal(w.clock().Add(7 * 24 * time.Hour)) {
		t.Errorf("until %s, fetched at %s", got.Until, w.clock())
	}
	// Some change the policy and forget the id.
	w.sts.SetPolicy("good.example", none)
	w.want("changed", policy.STSEnforce, "1", "", 3)
	w.pass(24 * time.Hour)
	w.want("changed, a day later", policy.STSNone, "1", "", 4)
	// A clock set back doesn't make a policy young.
	w.pass(-30 * 24 * time.Hour)
	w.want("clock set back", policy.STSNone, "1", "", 5)
	w.pass(24*time.Hour - time.Second)
	w.sts.SetFault("good.example", testnet.STSNotFound)
	w.want("none, fresh", policy.STSNone, "1", "", 5)
	w.pass(time.Second)
	w.want("none, in vain", policy.STSNone, "1", "404", 6)
	w.pass(24 * time.Hour)
	w.want("none, after max_age", "", "", "404", 7)
	// RFC 8461, section 3.3: of a policy that is none nobody is warned.
	if s := w.logged(); strings.Count(s, "level=WARN") != 1 || strings.Count(s, "level=INFO") != 2 {
		t.Errorf("log: %s", s)
	}
}

// TestNotCached: a max_age of 0 serves the look that found it and no other.
func TestNotCached(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", strings.Replace(enforce, "604800", "0", 1))
	w.want("first", policy.STSEnforce, "1", "", 1)
	w.record("good.example", "")
	w.want("gone", "", "", "", 1)
}

func TestShared(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	w.sts.SetFault("good.example", testnet.STSStall)
	// One who leaves, with the fetch under way.
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan policy.STS, 1)
	go func() { left <- w.k.Lookup(ctx, good) }()
	w.fetched(1)
	leave()
	if got := <-left; got.Mode != "" || got.Problem != late {
		t.Errorf("who left: %+v", got)
	}
	// Those who come meanwhile, and then the fetch goes on.
	const n = 5
	results := make(chan policy.STS, n)
	var first *call
	for i := range n {
		f := w.k.join(good)
		if i == 0 {
			first = f
		} else if f != first {
			t.Error("a look of its own for one who came meanwhile")
		}
		go func() {
			<-f.done
			results <- f.policy
		}()
	}
	w.sts.SetFault("good.example", testnet.STSGood)
	for range n {
		if got := <-results; got.Mode != policy.STSEnforce || got.Problem != "" {
			t.Errorf("who waited: %+v", got)
		}
	}
	w.want("afterwards", policy.STSEnforce, "1", "", 1)
	// Who can't wait for the next look is told what is known.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	w.dns.SetFault("_mta-sts.good.example.", miekg.TypeTXT, testnet.DNSDrop)
	if got := w.k.Lookup(gone, good); got.Mode != policy.STSEnforce || got.Problem != late {
		t.Errorf("who doesn't wait: %+v", got)
	}
}

func TestSeed(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	w.sts.SetFault("good.example", testnet.STSNotFound)
	now := w.clock()
	other, bad, over := addr.MustDomain("other.example"), addr.MustDomain("bad.example"), addr.MustDomain("over.example")
	w.k.Seed(
		Saved{good, "1", enforce, now.Add(-time.Hour), now.Add(time.Hour)},
		Saved{good, "0", none, now.Add(-2 * time.Hour), now.Add(time.Hour)},                // older, so not
		Saved{other, "9", enforce, now.Add(-6 * 24 * time.Hour), now.Add(365 * time.Hour)}, // max_age counts
		Saved{bad, "1", "mode: enforce", now, now.Add(time.Hour)},
		Saved{over, "1", enforce, now.Add(-time.Hour), now},
	)
	w.want("seeded", policy.STSEnforce, "1", "", 0)
	if got := w.k.Lookup(t.Context(), other); !got.Enforces() || !got.Until.Equal(now.Add(24*time.Hour)) {
		t.Errorf("other.example: %+v", got)
	}
	for _, d := range []addr.Domain{bad, over} {
		if got := w.k.Lookup(t.Context(), d); !reflect.DeepEqual(got, policy.STS{}) {
			t.Errorf("%s: %+v", d, got)
		}
	}
	if s := w.logged(); strings.Count(s, "level=WARN") != 1 || !strings.Contains(s, "bad.example") {
		t.Errorf("log: %s", s)
	}
	w.pass(time.Hour)
	w.want("after its end", "", "", "404", 1)
}

func TestSaveFails(t *testing.T) {
	w := newWorld(t, nil)
	w.saveErr = errors.New("disk full")
	w.publish("good.example", "1", enforce)
	w.want("first", policy.STSEnforce, "1", "", 1)
	w.want("second", policy.STSEnforce, "1", "", 1)
	if s := w.logged(); strings.Count(s, "level=WARN") != 1 || !strings.Contains(s, "disk full") {
		t.Errorf("log: %s", s)
	}
}

// TestBounded: a stranger with many domains doesn't drive out what binds while there is something else to drop.
func TestBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Entries = 3 })
	now := w.clock()
	name := func(i int) addr.Domain { return addr.MustDomain(fmt.Sprintf("d%d.example", i)) }
	for i, text := range []string{enforce, none, enforce, none, none, enforce} {
		w.k.Seed(Saved{name(i), "1", text, now, now.Add(time.Hour)})
		if n := len(w.k.kept); n > 3 {
			t.Fatalf("%d entries kept", n)
		}
	}
	for i, want := range []policy.STSMode{policy.STSEnforce, "", policy.STSEnforce, "", "", policy.STSEnforce} {
		if got := w.k.Lookup(t.Context(), name(i)); got.Mode != want {
			t.Errorf("d%d.example: mode %q, want %q", i, got.Mode, want)
		}
	}
	w.pass(2 * time.Hour)
	w.k.Seed(Saved{name(6), "1", none, w.clock(), w.clock().Add(time.Hour)})
	if got := w.k.Lookup(t.Context(), name(6)); got.Mode != policy.STSNone {
		t.Errorf("after the others' end: %+v", got)
	}
	for i := range 9 {
		d := fmt.Sprintf("f%d.example", i)
		w.record(d, "v=STSv1; id=1")
		if got := w.k.Lookup(t.Context(), addr.MustDomain(d)); got.Problem == "" {
			t.Errorf("%s: %+v", d, got)
		}
		if n := len(w.k.failed); n > 3 {
			t.Fatalf("%d failures kept", n)
		}
	}
}

func TestClose(t *testing.T) {
	w := newWorld(t, nil)
	w.publish("good.example", "1", enforce)
	w.want("first", policy.STSEnforce, "1", "", 1)
	w.publish("good.example", "2", none)
	w.sts.SetFault("good.example", testnet.STSStall)
	waiting := make(chan policy.STS, 1)
	go func() { waiting <- w.k.Lookup(t.Context(), good) }()
	w.fetched(2)
	if err := w.k.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting; !got.Enforces() || got.Problem == "" {
		t.Errorf("who waited: %+v", got)
	}
	w.want("closed", policy.STSEnforce, "1", "closed", 2)
	if len(w.k.failed) != 0 || w.logged() != "" {
		t.Errorf("our own end is blamed on the policy host: %v, %s", w.k.failed, w.logged())
	}
}

// broken panics.
type broken struct{ book }

func (broken) TXT(context.Context, addr.Domain) (dns.Answer[string], error) { panic("broken") }

func TestPanic(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Resolver = broken{} })
	w.k.Seed(Saved{good, "1", enforce, w.clock(), w.clock().Add(time.Hour)})
	w.want("panic", policy.STSEnforce, "1", "unfinished", 0)
	w.want("another", policy.STSEnforce, "1", "unfinished", 0)
	if s := w.logged(); strings.Count(s, "level=ERROR") != 2 {
		t.Errorf("log: %s", s)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a Keeper without a resolver")
	}
	k, err := New(Config{Resolver: book{}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.c.Refresh != 24*time.Hour || k.c.Retry != 5*time.Minute || k.fetch.port != 443 || k.fetch.timeout != time.Minute {
		t.Errorf("defaults: %+v", k.c)
	}
	if got := k.Lookup(t.Context(), good); !strings.Contains(got.Problem, "SERVFAIL") {
		t.Errorf("%+v", got)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"x509: bücher":                    "x509: bücher",
		"a\x1b[2Jb\r\nc\x7f\u0085\u2028d": "a?[2Jb??c???d",
		"\xff":                            "?",
		strings.Repeat("ü", 300):          strings.Repeat("ü", 200) + "…",
		"x" + strings.Repeat("ü", 300):    "x" + strings.Repeat("ü", 199) + "…",
	} {
		if got := printable(errors.New(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
