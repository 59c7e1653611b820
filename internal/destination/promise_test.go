package destination

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

// secure says that DNSSEC vouches for an answer.
func secure[T any](a dns.Answer[T]) dns.Answer[T] {
	a.Secure = true
	return a
}

func alias(a dns.Answer[netip.Addr], canonical string) dns.Answer[netip.Addr] {
	a.Canonical = addr.MustDomain(canonical)
	return a
}

func tlsa(rs ...policy.TLSA) dns.Answer[policy.TLSA] {
	return dns.Answer[policy.TLSA]{Status: dns.OK, Records: rs}
}

// TLSA records are asked for where they can be worth something, at the right name, and that name is the one the host is
// asked for (RFC 7672, sections 2.1 and 2.2.3).
func TestTLSA(t *testing.T) {
	ee := policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	pkix := policy.TLSA{Usage: 1, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	const own, end = "_25._tcp.mx.far.example", "_25._tcp.end.other.example"
	broken := errors.New("SERVFAIL")
	plain := ips("192.0.2.1")
	for _, c := range []struct {
		what  string
		addrs dns.Answer[netip.Addr]
		tlsa  map[string]dns.Answer[policy.TLSA]
		fail  map[string]error
		dane  policy.DANE
		asked []string
		name  string // sent as SNI
	}{
		{"addresses that aren't signed", plain, map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(ee))}, nil, policy.DANENone, nil, "mx.far.example"},
		{"signed", secure(plain), map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(ee))}, nil, policy.DANEUsable, []string{own}, "mx.far.example"},
		{"records that aren't signed", secure(plain), map[string]dns.Answer[policy.TLSA]{own: tlsa(ee)}, nil, policy.DANENone, []string{own}, "mx.far.example"},
		{"no records", secure(plain), nil, nil, policy.DANENone, []string{own}, "mx.far.example"},
		{"no usable records", secure(plain), map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(pkix))}, nil, policy.DANEUnusable, []string{own}, "mx.far.example"},
		{"one usable record", secure(plain), map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(pkix, ee))}, nil, policy.DANEUsable, []string{own}, "mx.far.example"},
		{"no answer", secure(plain), nil, map[string]error{own: broken}, policy.DANEUnknown, []string{own}, "mx.far.example"},
		{"an alias, records at its end", secure(alias(plain, "end.other.example")), map[string]dns.Answer[policy.TLSA]{end: secure(tlsa(ee)), own: secure(tlsa(ee))}, nil, policy.DANEUsable, []string{end}, "end.other.example"},
		{"an alias, records at its beginning", secure(alias(plain, "end.other.example")), map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(ee))}, nil, policy.DANEUsable, []string{end, own}, "mx.far.example"},
		{"an alias, no answer at its end", secure(alias(plain, "end.other.example")), map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(ee))}, map[string]error{end: broken}, policy.DANEUnknown, []string{end}, "mx.far.example"},
		{"an alias that isn't signed", alias(plain, "end.other.example"), map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(ee))}, nil, policy.DANENone, nil, "mx.far.example"},
	} {
		d := &fakeDNS{
			mx:    map[string]dns.Answer[dns.MX]{"far.example": secure(mx("mx.far.example"))},
			addrs: map[string]dns.Answer[netip.Addr]{"mx.far.example": c.addrs},
			tlsa:  c.tlsa, fail: c.fail,
		}
		hosts := &fakeHosts{}
		a, _ := newTest(t, d, hosts, nil)
		got := a.Assess(t.Context(), addr.MustDestination("far.example"), nil)
		if len(got.Hosts) != 1 || got.Hosts[0].DANE != c.dane || !got.Secure {
			t.Errorf("%s: %+v", c.what, got)
		}
		if !slices.Equal(d.asked, c.asked) {
			t.Errorf("%s: asked for %q, want %q", c.what, d.asked, c.asked)
		}
		if !slices.Equal(hosts.names, []string{c.name}) {
			t.Errorf("%s: asked the host for %q, want %q", c.what, hosts.names, c.name)
		}
		if (got.Hosts[0].DANEDetail != "") != (c.dane == policy.DANEUnusable || c.dane == policy.DANEUnknown) {
			t.Errorf("%s: detail %q", c.what, got.Hosts[0].DANEDetail)
		}
	}
}

// fakePolicies has one policy, once its gate is open.
type fakePolicies struct {
	gate  chan struct{}
	asked chan addr.Domain
}

func (f *fakePolicies) Lookup(ctx context.Context, d addr.Domain) policy.STS {
	f.asked <- d
	select {
	case <-f.gate:
		return policy.STS{Mode: policy.STSEnforce, MX: []string{"mx.far.example"}}
	case <-ctx.Done():
		return policy.STS{Problem: "late"}
	}
}

// What is seen of hosts isn't told before the policy that judges them is known; a host in brackets has none.
func TestPolicyBeforeHosts(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"far.example": mx("mx.far.example")},
		addrs: map[string]dns.Answer[netip.Addr]{"mx.far.example": ips("192.0.2.1"), "slow.far.example": ips("192.0.2.2")},
	}
	policies := &fakePolicies{gate: make(chan struct{}), asked: make(chan addr.Domain, 1)}
	a, _ := newTest(t, d, &fakeHosts{}, func(c *Config) { c.Policies = policies })
	if got := a.Assess(t.Context(), addr.MustDestination("[mx.far.example]"), nil); got.MTASTS.Mode != "" || got.Partial {
		t.Errorf("a host in brackets: %+v", got)
	}
	select {
	case d := <-policies.asked:
		t.Errorf("asked for a policy of %s", d)
	default:
	}

	seen := make(chan policy.Assessment, 1)
	go func() {
		seen <- a.Assess(t.Context(), addr.MustDestination("far.example"), func(a policy.Assessment) bool {
			if len(a.Hosts[0].Observations) > 0 && a.MTASTS.Mode == "" {
				t.Error("a host is told of before the policy is known")
			}
			return len(a.Hosts[0].Observations) > 0
		})
	}()
	if d := <-policies.asked; d != addr.MustDomain("far.example") {
		t.Errorf("asked for the policy of %s", d)
	}
	close(policies.gate)
	if got := <-seen; !got.MTASTS.Enforces() || len(got.Hosts[0].Observations) != 1 {
		t.Errorf("%+v", got)
	}
}

// said are policies by domain.
type said map[string]policy.STS

func (s said) Lookup(_ context.Context, d addr.Domain) policy.STS { return s[d.String()] }

// An answer serves no longer than the policy in it, and where there may be a policy that could not be had, the next who asks has
// the domain looked at again.
func TestPolicyEnds(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{}, addrs: map[string]dns.Answer[netip.Addr]{"mx.test": secure(ips("192.0.2.1"))},
		// By DANE the host keeps what is published.
		tlsa: map[string]dns.Answer[policy.TLSA]{"_25._tcp.mx.test": secure(tlsa(policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}))}}
	policies := said{}
	a, c := newTest(t, d, &fakeHosts{}, func(c *Config) { c.Policies = policies })
	now := c.now()
	for _, x := range []struct {
		name       string
		sts        policy.STS
		until, dns time.Duration
	}{
		{"none.test", policy.STS{}, 24 * time.Hour, 24 * time.Hour},
		{"long.test", policy.STS{Mode: policy.STSEnforce, Until: now.Add(48 * time.Hour)}, 24 * time.Hour, 24 * time.Hour},
		{"short.test", policy.STS{Mode: policy.STSEnforce, Until: now.Add(time.Hour)}, time.Hour, 24 * time.Hour},
		{"testing.test", policy.STS{Mode: policy.STSTesting, Until: now.Add(time.Hour)}, 24 * time.Hour, 24 * time.Hour},
		{"away.test", policy.STS{Problem: "HTTP status 500"}, 24 * time.Hour, 5 * time.Minute},
		{"kept.test", policy.STS{Mode: policy.STSEnforce, Until: now.Add(48 * time.Hour), Problem: "HTTP status 500"}, 24 * time.Hour, 24 * time.Hour},
	} {
		d.mx[x.name], policies[x.name] = secure(mx("mx.test")), x.sts
		got := a.Assess(t.Context(), addr.MustDestination(x.name), nil)
		if got.Until != now.Add(x.until) || got.DNSUntil != now.Add(x.dns) {
			t.Errorf("%s: until %s, DNS until %s; want %s and %s after the look", x.name, got.Until.Sub(now), got.DNSUntil.Sub(now), x.until, x.dns)
		}
	}
}

// A host that breaks what is published is looked at again soon: mail is refused until it is mended.
func TestPromiseMended(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"far.test": mx("mx.far.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"mx.far.test": ips("192.0.2.1")},
	}
	hosts := &fakeHosts{}
	// The host shows no certificate that the policy would take.
	policies := said{"far.test": {Mode: policy.STSEnforce, MX: []string{"mx.far.test"}, Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}}
	a, c := newTest(t, d, hosts, func(c *Config) { c.Policies = policies })
	far := addr.MustDestination("far.test")
	for i, want := range []struct {
		after  time.Duration
		mended bool // by taking the policy back
		probes int
		until  time.Duration
	}{
		{0, false, 1, 15 * time.Minute},
		{14 * time.Minute, true, 1, time.Minute}, // an answer still serves
		{2 * time.Minute, true, 2, 24 * time.Hour},
		{23 * time.Hour, true, 2, time.Hour},
	} {
		c.add(want.after)
		if want.mended {
			delete(policies, "far.test")
		}
		got := a.Assess(t.Context(), far, nil)
		if n := len(hosts.seen()); n != want.probes || got.Until != c.now().Add(want.until) {
			t.Errorf("%d: %d probes, serves for %s; want %d, %s", i, n, got.Until.Sub(c.now()), want.probes, want.until)
		}
	}
}

// A policy that is kept is told of, though the domain is said not to exist: that may be forged.
func TestPolicyOfNoDomain(t *testing.T) {
	a, _ := newTest(t, &fakeDNS{}, &fakeHosts{}, func(c *Config) {
		c.Policies = said{"gone.test": {Mode: policy.STSEnforce, MX: []string{"mx.test"}, Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}}
	})
	if got := a.Assess(t.Context(), addr.MustDestination("gone.test"), nil); got.Problem != policy.NoSuchDomain || !got.MTASTS.Enforces() {
		t.Errorf("%+v", got)
	}
}

// Who refuses by memory that is older than a failure serves has the destination
// looked at again first, once a while: it may have been mended.
func TestRefusedByOldMemory(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"far.test": mx("mx.far.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"mx.far.test": ips("192.0.2.1")},
	}
	hosts := &fakeHosts{}
	a, c := newTest(t, d, hosts, nil)
	far := addr.MustDestination("far.test")
	content := func(policy.Assessment) bool { return true }
	never := func(policy.Assessment) bool { return false }
	for i, want := range []struct {
		after  time.Duration
		enough func(policy.Assessment) bool
		probes int
	}{
		{0, never, 1},
		{14 * time.Minute, never, 1},
		{2 * time.Minute, content, 1},
		{0, never, 2},
		{0, never, 2},
		{16 * time.Minute, nil, 2},
		{0, never, 3},
	} {
		c.add(want.after)
		if got := a.Assess(t.Context(), far, want.enough); got.Problem != "" || len(hosts.seen()) != want.probes {
			t.Errorf("%d: %d probes, want %d: %+v", i, len(hosts.seen()), want.probes, got)
		}
	}
	// While the host is down the old answer goes on to serve, and each who isn't
	// satisfied hears that nothing is known, at most once a minute by looking.
	c.add(16 * time.Minute)
	hosts.outcomes = map[string]policy.Outcome{"192.0.2.1": policy.SawUnreachable}
	a.Assess(t.Context(), far, never)
	a.Assess(t.Context(), far, never)
	if n := len(hosts.seen()); n != 4 {
		t.Errorf("%d probes while the host is down", n)
	}
	if got := a.Assess(t.Context(), far, content); hostsOf(got) != "mx.far.test=tls" {
		t.Errorf("while the host is down: %s", hostsOf(got))
	}
}

// sniProber is a host whose right certificate comes only where it is named, by an
// MTA that names none.
type sniProber struct {
	right, wrong []policy.Certificate
	targets      []starttls.Target
}

func (p *sniProber) Probe(_ context.Context, t starttls.Target) policy.Observation {
	p.targets = append(p.targets, t)
	o := policy.Observation{Address: t.Address, Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Unsent: !t.Forced, Chain: p.wrong}
	if t.Forced {
		o.Chain = p.right
	}
	return o
}

// Of a host that was not named it is found out whether the right certificate would come if it were.
func TestNeedsName(t *testing.T) {
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert := func(names ...string) []policy.Certificate {
		c, err := ca.Issue(testnet.CertSpec{Names: names})
		if err != nil {
			t.Fatal(err)
		}
		return starttls.Certificates([]*x509.Certificate{c.Leaf})
	}
	right, wrong := cert("mx.far.example"), cert("invalid2.invalid")
	for _, c := range []struct {
		what    string
		named   []policy.Certificate
		unnamed []policy.Certificate
		needs   bool
		probes  int
	}{
		{"right in any case", right, right, false, 1},
		{"right where named", right, wrong, true, 2},
		{"never right", wrong, wrong, false, 2},
	} {
		p := &sniProber{right: slices.Clone(c.named), wrong: slices.Clone(c.unnamed)}
		d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"far.example": mx("mx.far.example")},
			addrs: map[string]dns.Answer[netip.Addr]{"mx.far.example": ips("192.0.2.1")}}
		a, err := New(Config{Resolver: d, Prober: p, Roots: ca.Pool()})
		if err != nil {
			t.Fatal(err)
		}
		found := a.Assess(t.Context(), addr.MustDestination("far.example"), nil)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		o := found.Hosts[0].Observations[0]
		if o.NeedsName != c.needs || len(p.targets) != c.probes || !o.Unsent {
			t.Errorf("%s: needs its name %t, %d probes, %+v", c.what, o.NeedsName, len(p.targets), o)
		}
	}
}
