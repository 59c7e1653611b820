package destination

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDNS answers from tables; a name that is in none does not exist.
type fakeDNS struct {
	mx    map[string]dns.Answer[dns.MX]
	addrs map[string]dns.Answer[netip.Addr]
	tlsa  map[string]dns.Answer[policy.TLSA]
	fail  map[string]error
	gate  chan struct{} // when not nil, MX waits for it

	mu    sync.Mutex
	asked []string // for TLSA
}

func (f *fakeDNS) TLSA(_ context.Context, name addr.Domain) (dns.Answer[policy.TLSA], error) {
	f.mu.Lock()
	f.asked = append(f.asked, name.String())
	f.mu.Unlock()
	if err := f.fail[name.String()]; err != nil {
		return dns.Answer[policy.TLSA]{}, err
	}
	if a, ok := f.tlsa[name.String()]; ok {
		return a, nil
	}
	return dns.Answer[policy.TLSA]{Status: dns.NoSuchDomain, Secure: true}, nil
}

func (f *fakeDNS) SecureAlias(context.Context, addr.Domain) (bool, error) { return false, nil }

func (f *fakeDNS) MX(ctx context.Context, d addr.Domain) (dns.Answer[dns.MX], error) {
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return dns.Answer[dns.MX]{}, ctx.Err()
		}
	}
	if err := f.fail[d.String()]; err != nil {
		return dns.Answer[dns.MX]{}, err
	}
	if a, ok := f.mx[d.String()]; ok {
		return a, nil
	}
	return dns.Answer[dns.MX]{Status: dns.NoSuchDomain}, nil
}

func (f *fakeDNS) Addrs(_ context.Context, d addr.Domain) (dns.Answer[netip.Addr], error) {
	if err := f.fail[d.String()]; err != nil {
		return dns.Answer[netip.Addr]{}, err
	}
	if a, ok := f.addrs[d.String()]; ok {
		return a, nil
	}
	return dns.Answer[netip.Addr]{Status: dns.NoSuchDomain}, nil
}

func mx(names ...string) dns.Answer[dns.MX] {
	a := dns.Answer[dns.MX]{Status: dns.OK, TTL: 24 * time.Hour}
	for i, n := range names {
		r := dns.MX{Preference: uint16(10 * (i + 1))}
		if n == "." {
			r.Null = true
		} else {
			r.Host = addr.MustDomain(n)
		}
		a.Records = append(a.Records, r)
	}
	return a
}

func ips(ss ...string) dns.Answer[netip.Addr] {
	a := dns.Answer[netip.Addr]{Status: dns.OK}
	for _, s := range ss {
		a.Records = append(a.Records, netip.MustParseAddr(s))
	}
	return a
}

// fakeHosts answers probes by address and remembers them in order.
type fakeHosts struct {
	mu       sync.Mutex
	outcomes map[string]policy.Outcome // by address; without an entry: TLS 1.3
	hang     map[string]bool           // silent until the look is cancelled
	probed   []string
	names    []string
}

func (f *fakeHosts) Probe(ctx context.Context, t starttls.Target) policy.Observation {
	f.mu.Lock()
	f.probed = append(f.probed, t.Address.String())
	f.names = append(f.names, t.Name)
	hang := f.hang[t.Address.Addr().String()]
	outcome, ok := f.outcomes[t.Address.Addr().String()]
	f.mu.Unlock()
	o := policy.Observation{Address: t.Address, Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Stage: policy.StageQuit,
		Trust: policy.Trusted, DANE: policy.DANEMatchEE}
	if hang {
		<-ctx.Done()
		o = policy.Observation{Address: t.Address, Outcome: policy.SawTimeout, Stage: policy.StageBanner}
	} else if ok {
		o = policy.Observation{Address: t.Address, Outcome: outcome}
	}
	return o
}

func (f *fakeHosts) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.probed)
}

// clock is set by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

func newTest(t *testing.T, d *fakeDNS, h *fakeHosts, change func(*Config)) (*Assessor, *clock) {
	t.Helper()
	c := &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	config := Config{Resolver: d, Prober: h, Now: c.now, Timeout: 5 * time.Second}
	if change != nil {
		change(&config)
	}
	a, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, c
}

// hostsOf says what an assessment found, a host a word.
func hostsOf(a policy.Assessment) string {
	var words []string
	for _, h := range a.Hosts {
		word := h.Name.String()
		if h.Implicit {
			word += "(implicit)"
		}
		if h.Problem != "" {
			word += "!" + string(h.Problem)
		}
		for _, o := range h.Observations {
			word += "=" + string(o.Outcome)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestWalk(t *testing.T) {
	servfail := &dns.Error{Name: "x", Type: "MX", Rcode: "SERVFAIL"}
	d := &fakeDNS{
		mx: map[string]dns.Answer[dns.MX]{
			"good.test":     mx("a.test", "b.test"),
			"null.test":     mx("."),
			"nullplus.test": mx(".", "a.test"),
			"implicit.test": {Status: dns.NoData},
			"nowhere.test":  {Status: dns.NoData},
			"twice.test":    mx("a.test", "a.test"),
			"gone.test":     mx("missing.test", "a.test"),
			"mixed.test":    mx("plain.test", "a.test"),
			"odd.test":      {Status: dns.OK, Detail: "1 MX record left out"},
			"broken.test":   mx("servfail.test"),
			"six.test":      mx("six-host.test"),
		},
		addrs: map[string]dns.Answer[netip.Addr]{
			"a.test":        ips("127.0.1.1"),
			"b.test":        ips("127.0.1.2"),
			"plain.test":    ips("127.0.1.3", "127.0.1.4"),
			"implicit.test": ips("127.0.1.5"),
			"nowhere.test":  {Status: dns.NoData},
			"six-host.test": ips("::1", "127.0.1.6"),
		},
		fail: map[string]error{"servfail.test": servfail},
	}
	outcomes := map[string]policy.Outcome{"127.0.1.3": policy.SawNoSTARTTLS, "127.0.1.4": policy.SawNoSTARTTLS, "::1": policy.SawUnreachable}
	for _, c := range []struct{ destination, problem, hosts string }{
		{"good.test", "", "a.test=tls b.test=tls"},
		{"null.test", "null-mx", ""},
		{"nullplus.test", "unreachable", ""}, // MTAs differ
		{"implicit.test", "", "implicit.test(implicit)=tls"},
		{"nowhere.test", "", "nowhere.test(implicit)!no-such-domain"},
		{"unheard.test", "no-such-domain", ""},
		{"servfail.test", "dns-failure", ""},
		{"broken.test", "", "servfail.test!dns-failure"},
		{"twice.test", "", "a.test=tls"},
		{"gone.test", "", "missing.test!no-such-domain a.test=tls"},
		{"mixed.test", "", "plain.test=no-starttls=no-starttls a.test=tls"},
		{"odd.test", "unreachable", ""},
		{"six.test", "", "six-host.test=tls"},
		{"[a.test]", "", "a.test=tls"},
		{"[127.0.1.9]", "", "[127.0.1.9]=tls"},
		{"[missing.test]", "", "missing.test!no-such-domain"},
	} {
		t.Run(c.destination, func(t *testing.T) {
			a, _ := newTest(t, d, &fakeHosts{outcomes: outcomes}, nil)
			got := a.Assess(context.Background(), addr.MustDestination(c.destination), nil)
			if string(got.Problem) != c.problem || hostsOf(got) != c.hosts {
				t.Errorf("problem %q, hosts %q (%s); want %q, %q", got.Problem, hostsOf(got), got.Detail, c.problem, c.hosts)
			}
			if got.Partial || got.When.IsZero() || !got.Until.After(got.When) {
				t.Errorf("partial %t, when %s, until %s", got.Partial, got.When, got.Until)
			}
		})
	}
}

func TestFamiliesAndPort(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1", "127.0.1.2", "::1", "::2")},
	}
	refused := map[string]policy.Outcome{"127.0.1.1": policy.SawUnreachable, "127.0.1.2": policy.SawUnreachable, "::1": policy.SawUnreachable, "::2": policy.SawUnreachable}
	for _, c := range []struct {
		name, destination string
		ipv6, all         bool
		outcomes          map[string]policy.Outcome
		want              []string
	}{
		{"first is enough", "x.test", false, false, nil, []string{"127.0.1.1:25"}},
		{"IPv6 first", "x.test", true, false, nil, []string{"[::1]:25"}},
		{"families in turn", "x.test", false, false, refused, []string{"127.0.1.1:25", "[::1]:25", "127.0.1.2:25", "[::2]:25"}},
		{"all", "x.test", false, true, nil, []string{"127.0.1.1:25", "[::1]:25", "127.0.1.2:25", "[::2]:25"}},
		{"port of the destination", "x.test:587", false, false, nil, []string{"127.0.1.1:587"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &fakeHosts{outcomes: c.outcomes}
			a, _ := newTest(t, d, h, func(config *Config) { config.IPv6, config.AllAddresses = c.ipv6, c.all })
			a.Assess(context.Background(), addr.MustDestination(c.destination), nil)
			if got := h.seen(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("probed %v, want %v", got, c.want)
			}
			if h.names[0] != "h.test" {
				t.Errorf("name %q, want the MX host's", h.names[0])
			}
		})
	}
}

func TestHostsAreProbedOnce(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{}, addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")}}
	var names []string
	for i := range 200 {
		name := string(rune('a'+i%26)) + strings.Repeat("x", i/26) + ".test"
		names = append(names, name)
		d.mx[name] = mx("h.test")
	}
	h := &fakeHosts{}
	a, clock := newTest(t, d, h, nil)
	ask := func() {
		var wg sync.WaitGroup
		for _, name := range names {
			wg.Go(func() {
				if got := a.Assess(context.Background(), addr.MustDestination(name), nil); hostsOf(got) != "h.test=tls" {
					t.Errorf("%s: %s %s", name, got.Problem, hostsOf(got))
				}
			})
		}
		wg.Wait()
	}
	ask()
	ask()
	if got := h.seen(); len(got) != 1 {
		t.Fatalf("%d probes for 200 domains on one host", len(got))
	}
	clock.add(25 * time.Hour)
	ask()
	if got := h.seen(); len(got) != 2 {
		t.Errorf("%d probes after a day, want 2", len(got))
	}
}

func TestLifetimes(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"tls.test": mx("a.test"), "plain.test": mx("b.test"), "away.test": mx("c.test"), "half.test": mx("a.test", "c.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"a.test": ips("127.0.1.1"), "b.test": ips("127.0.1.2"), "c.test": ips("127.0.1.3")},
		fail:  map[string]error{"servfail.test": errors.New("SERVFAIL")},
	}
	h := &fakeHosts{outcomes: map[string]policy.Outcome{"127.0.1.2": policy.SawNoSTARTTLS, "127.0.1.3": policy.SawTimeout}}
	a, _ := newTest(t, d, h, func(c *Config) { c.Success, c.Failure, c.Unknown = 3*time.Hour, 2*time.Hour, time.Hour })
	for _, c := range []struct {
		destination string
		want        time.Duration
	}{
		{"tls.test", 3 * time.Hour},
		{"half.test", 3 * time.Hour},
		{"plain.test", 2 * time.Hour},
		{"unheard.test", 2 * time.Hour},
		{"away.test", time.Hour},
		{"servfail.test", time.Hour},
	} {
		got := a.Assess(context.Background(), addr.MustDestination(c.destination), nil)
		if life := got.Until.Sub(got.When); life != c.want {
			t.Errorf("%s lives %s, want %s", c.destination, life, c.want)
		}
	}
}

// A host that says nothing must not keep the answer of the one that does.
func TestEnoughAnswersEarly(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("silent.test", "good.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"silent.test": ips("127.0.1.1"), "good.test": ips("127.0.1.2")},
	}
	a, _ := newTest(t, d, &fakeHosts{hang: map[string]bool{"127.0.1.1": true}}, func(c *Config) { c.Timeout = time.Hour })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got := a.Assess(ctx, addr.MustDestination("x.test"), func(a policy.Assessment) bool {
		return slices.ContainsFunc(a.Hosts, func(h policy.Host) bool { return len(h.Observations) > 0 })
	})
	if ctx.Err() != nil || !got.Partial || hostsOf(got) != "silent.test good.test=tls" {
		t.Errorf("%v, partial %t, %s", ctx.Err(), got.Partial, hostsOf(got))
	}
}

func TestDeadline(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("silent.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"silent.test": ips("127.0.1.1")},
	}
	t.Run("a silent host", func(t *testing.T) {
		a, _ := newTest(t, d, &fakeHosts{hang: map[string]bool{"127.0.1.1": true}}, func(c *Config) { c.Timeout = time.Hour })
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		got := a.Assess(ctx, addr.MustDestination("x.test"), nil)
		if !got.Partial {
			t.Errorf("%+v: want what is known so far", got)
		}
	})
	t.Run("silent DNS", func(t *testing.T) {
		silent := &fakeDNS{mx: d.mx, addrs: d.addrs, gate: make(chan struct{})}
		a, _ := newTest(t, silent, &fakeHosts{}, nil)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		got := a.Assess(ctx, addr.MustDestination("x.test"), nil)
		if got.Problem != policy.Timeout || !got.Partial {
			t.Errorf("%+v: want a timeout", got)
		}
		close(silent.gate) // the look goes on, and its result serves
		got = a.Assess(context.Background(), addr.MustDestination("x.test"), nil)
		if hostsOf(got) != "silent.test=tls" {
			t.Errorf("%s", hostsOf(got))
		}
	})
}

// One silent address gets its share of the time, not all of it.
func TestSilentAddressLeavesTimeForTheNext(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1", "127.0.1.2")},
	}
	a, _ := newTest(t, d, &fakeHosts{hang: map[string]bool{"127.0.1.1": true}}, func(c *Config) { c.Timeout = 100 * time.Millisecond })
	got := a.Assess(context.Background(), addr.MustDestination("x.test"), nil)
	if hostsOf(got) != "h.test=timeout=tls" {
		t.Errorf("%s, want h.test=timeout=tls", hostsOf(got))
	}
}

type panicking struct{}

func (panicking) Probe(context.Context, starttls.Target) policy.Observation { panic("a bug") }

func TestPanicLeavesNobodyWaiting(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")},
	}
	a, err := New(Config{Resolver: d, Prober: panicking{}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	got := a.Assess(context.Background(), addr.MustDestination("x.test"), nil)
	if hostsOf(got) != "h.test=unreachable" {
		t.Errorf("%s %s", got.Problem, hostsOf(got))
	}
}

// A look that found out nothing doesn't replace what is known; one that found
// the loss does. OnResult gets all.
func TestRefresh(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("h.test"), "y.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")},
	}
	h := &fakeHosts{outcomes: map[string]policy.Outcome{}}
	var told []string
	a, clock := newTest(t, d, h, func(c *Config) {
		c.OnResult = func(found policy.Assessment) { told = append(told, hostsOf(found)) }
	})
	x, y := addr.MustDestination("x.test"), addr.MustDestination("y.test")
	ask := func(d addr.Destination) string { return hostsOf(a.Assess(context.Background(), d, nil)) }
	refresh := func(d addr.Destination) string {
		clock.add(time.Hour)
		return hostsOf(a.Refresh(context.Background(), d, 30*time.Minute))
	}
	for _, step := range []struct{ what, got, want string }{
		{"first", ask(x), "h.test=tls"},
		{"the host is known", ask(y), "h.test=tls"},
		{"again", refresh(x), "h.test=tls"},
	} {
		if step.got != step.want {
			t.Errorf("%s: %s, want %s", step.what, step.got, step.want)
		}
	}
	if n := len(h.seen()); n != 2 {
		t.Errorf("%d probes, want 2", n)
	}
	h.outcomes["127.0.1.1"] = policy.SawTimeout
	if got := refresh(x); got != "h.test=timeout" {
		t.Errorf("silent: %s", got)
	}
	if got := ask(x); got != "h.test=tls" {
		t.Errorf("after a silent look: %s, want the good answer", got)
	}
	h.outcomes["127.0.1.1"] = policy.SawNoSTARTTLS
	if got := refresh(x) + " " + ask(x); got != "h.test=no-starttls h.test=no-starttls" {
		t.Errorf("lost: %s", got)
	}
	want := []string{"h.test=tls", "h.test=tls", "h.test=tls", "h.test=timeout", "h.test=no-starttls"}
	if !reflect.DeepEqual(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// At the end of the MX answer what is known goes on to serve while DNS is asked again, once, and hosts aren't probed anew.
func TestDNSEnd(t *testing.T) {
	short := mx("h.test")
	short.TTL = 10 * time.Minute
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": short, "y.test": mx("i.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1"), "i.test": ips("127.0.1.2")},
		fail:  map[string]error{},
	}
	h := &fakeHosts{}
	told := make(chan policy.Assessment, 100)
	a, clock := newTest(t, d, h, func(c *Config) { c.OnResult = func(found policy.Assessment) { told <- found } })
	x := addr.MustDestination("x.test")
	ask := func() string { return hostsOf(a.Assess(context.Background(), x, nil)) }
	ask()
	<-told
	clock.add(9 * time.Minute)
	for range 10 {
		ask()
	}
	if len(told) != 0 {
		t.Fatal("DNS was asked before the answer's end")
	}
	clock.add(2 * time.Minute)
	for range 10 {
		if got := ask(); got != "h.test=tls" {
			t.Fatal(got)
		}
	}
	if got := hostsOf(<-told); got != "h.test=tls" {
		t.Error(got)
	}
	if n := len(h.seen()); n != 1 {
		t.Errorf("%d probes, want 1: the host is known", n)
	}
	// The domain moves: the next question begins the look that finds out.
	moved := mx("i.test")
	moved.TTL = time.Second // taken for five minutes
	d.mx["x.test"] = moved
	clock.add(11 * time.Minute)
	ask()
	if got := hostsOf(<-told); got != "i.test=tls" {
		t.Error(got)
	}
	if got := ask(); got != "i.test=tls" {
		t.Error(got)
	}
	// DNS fails: what is known serves on.
	d.fail["x.test"] = errors.New("SERVFAIL")
	clock.add(time.Hour)
	ask()
	if got := <-told; got.Problem != policy.DNSFailure {
		t.Errorf("%+v", got)
	}
	if got := ask(); got != "i.test=tls" {
		t.Error(got)
	}
}

func TestSeed(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"y.test": mx("h.test")}, addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")}}
	h := &fakeHosts{}
	a, clock := newTest(t, d, h, nil)
	now := clock.now()
	known := policy.Assessment{
		Destination: addr.MustDestination("x.test"),
		Hosts: []policy.Host{{Name: addr.MustDomain("h.test"), Preference: 10, Observations: []policy.Observation{
			{Outcome: policy.SawTLS, Version: policy.TLS12, Bits: 128, When: now.Add(-time.Hour)}}}},
		When: now.Add(-time.Hour), Until: now.Add(time.Hour),
	}
	a.Seed(known)
	for _, name := range []string{"x.test", "y.test"} {
		if got := hostsOf(a.Assess(context.Background(), addr.MustDestination(name), nil)); got != "h.test=tls" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if n := len(h.seen()); n != 0 {
		t.Errorf("%d probes of what was known", n)
	}
	clock.add(-24 * time.Hour) // found in the future: of unknown age
	a.Assess(context.Background(), addr.MustDestination("y.test"), nil)
	if n := len(h.seen()); n != 1 {
		t.Errorf("%d probes after the clock was set back, want 1", n)
	}
	a.Drop(addr.MustDestination("x.test"))
}

func TestCacheIsBounded(t *testing.T) {
	d := &fakeDNS{}
	a, _ := newTest(t, d, &fakeHosts{}, func(c *Config) { c.Entries = 50 })
	for i := range 500 {
		name := strings.Repeat("x", i%60+1) + "." + strings.Repeat("y", i/60+1) + ".test"
		a.Assess(context.Background(), addr.MustDestination(name), nil)
	}
	if n := len(a.destinations.entries); n > 50 {
		t.Errorf("%d entries, want at most 50", n)
	}
}
