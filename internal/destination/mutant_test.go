package destination

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

// Each test here has cases that a changed condition would get wrong and no other test would notice; "make mutate" looks for more.

// shows is a prober whose hosts show a chain over good TLS, by address.
type shows struct {
	chains map[string][][]byte
	mu     sync.Mutex
	probed []string
}

func (s *shows) Probe(_ context.Context, t starttls.Target) policy.Observation {
	s.mu.Lock()
	s.probed = append(s.probed, t.Address.Addr().String())
	s.mu.Unlock()
	o := policy.Observation{Address: t.Address, Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Stage: policy.StageQuit}
	for _, der := range s.chains[t.Address.Addr().String()] {
		o.Chain = append(o.Chain, policy.Certificate{Raw: der, Names: []string{"mx.far.example"}})
	}
	return o
}

// What a chain proves by DANE and by public key infrastructure, and when one address is proof enough for the others to be left
// alone.
func TestWhatAChainProves(t *testing.T) {
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	issue := func(spec testnet.CertSpec) [][]byte {
		cert, err := ca.Issue(spec)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Certificate
	}
	good, other := issue(testnet.CertSpec{Names: []string{"mx.far.example"}, Root: true}), issue(testnet.SelfSigned("mx.far.example"))
	digest := func(der []byte) []byte {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		return sum[:]
	}
	ee := policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: digest(good[0])}
	eeOther := policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: digest(other[0])}
	ta := policy.TLSA{Usage: 2, Selector: 1, Matching: 1, Data: digest(ca.Root().Raw)}
	const first, second = "192.0.2.1", "192.0.2.2"
	for _, c := range []struct {
		what     string
		records  []policy.TLSA
		chain    [][]byte // at the first address; the second one shows good
		dane     policy.DANEMatch
		trust    policy.Trust
		record   bool
		versions bool
		probed   int
	}{
		{"no DANE, a chain to a root", nil, good, "", policy.Trusted, false, false, 1},
		{"no DANE, signed by itself", nil, other, "", "", false, false, 2},
		{"DANE-EE that matches", []policy.TLSA{ee}, good, policy.DANEMatchEE, policy.Trusted, true, false, 1},
		{"DANE-EE that matches, no root", []policy.TLSA{eeOther}, other, policy.DANEMatchEE, "", true, false, 1},
		{"DANE-TA that matches", []policy.TLSA{ta}, good, policy.DANEMatchTA, policy.Trusted, true, false, 1},
		{"DANE that doesn't match, a chain to a root", []policy.TLSA{eeOther}, good, policy.DANEMismatch, policy.Trusted, false, false, 2},
		{"versions are tried", nil, good, "", policy.Trusted, false, true, 1},
	} {
		answer := secure(ips(first, second))
		d := &fakeDNS{
			mx:    map[string]dns.Answer[dns.MX]{"far.example": secure(mx("mx.far.example"))},
			addrs: map[string]dns.Answer[netip.Addr]{"mx.far.example": answer},
			tlsa:  map[string]dns.Answer[policy.TLSA]{},
		}
		if c.records != nil {
			d.tlsa["_25._tcp.mx.far.example"] = secure(tlsa(c.records...))
		}
		hosts := &shows{chains: map[string][][]byte{first: c.chain, second: good}}
		a, _ := newTest(t, d, nil, func(config *Config) {
			config.Prober, config.Roots, config.Now = hosts, ca.Pool(), time.Now
			if c.versions {
				config.Versions = func(context.Context, starttls.Target) starttls.Versions {
					return starttls.Versions{Accepted: []policy.Version{policy.TLS13}}
				}
			}
		})
		got := a.Assess(t.Context(), addr.MustDestination("far.example"), nil)
		o := got.Hosts[0].Observations[0]
		trusted := o.Trust == policy.Trusted
		if o.DANE != c.dane || trusted != (c.trust == policy.Trusted) || (o.DANERecord != "") != c.record {
			t.Errorf("%s: DANE %q by %q, trust %q", c.what, o.DANE, o.DANERecord, o.Trust)
		}
		if (o.KeyDigest != "") != c.versions || (len(o.Accepts) > 0) != c.versions {
			t.Errorf("%s: key digest %q, versions %v", c.what, o.KeyDigest, o.Accepts)
		}
		if len(hosts.probed) != c.probed {
			t.Errorf("%s: looked at %v", c.what, hosts.probed)
		}
		if slices.ContainsFunc(o.Chain, func(c policy.Certificate) bool { return c.Raw != nil }) {
			t.Errorf("%s: the certificates are kept", c.what)
		}
	}
}

// Versions are tried only of hosts that have shown TLS.
func TestVersionsOnlyOfTLS(t *testing.T) {
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")},
	}
	h := &fakeHosts{outcomes: map[string]policy.Outcome{"127.0.1.1": policy.SawNoSTARTTLS}}
	a, _ := newTest(t, d, h, func(c *Config) {
		c.Versions = func(context.Context, starttls.Target) starttls.Versions {
			t.Error("a host without TLS was asked for versions")
			return starttls.Versions{}
		}
	})
	a.Assess(t.Context(), addr.MustDestination("x.test"), nil)
}

// A host may have hundreds of addresses: eight are looked at, all only where somebody asks for all.
func TestAddressesAreBounded(t *testing.T) {
	var many []string
	away := map[string]policy.Outcome{}
	for i := range 50 {
		ip := fmt.Sprintf("127.0.2.%d", i+1)
		many = append(many, ip)
		away[ip] = policy.SawUnreachable
	}
	for _, c := range []struct {
		count, want int
		all         bool
	}{{50, maxAddresses, false}, {50, 50, true}, {maxAddresses - 1, maxAddresses - 1, false}, {3, 3, true}} {
		d := &fakeDNS{
			mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("h.test")},
			addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips(many[:c.count]...)},
		}
		h := &fakeHosts{outcomes: away}
		a, _ := newTest(t, d, h, func(config *Config) { config.AllAddresses = c.all })
		a.Assess(t.Context(), addr.MustDestination("x.test"), nil)
		if got := len(h.seen()); got != c.want {
			t.Errorf("%d addresses, all %t: %d looked at, want %d", c.count, c.all, got, c.want)
		}
	}
}

// What was found elsewhere is taken where nothing later is known here, and only there.
func TestSeedTakesTheLater(t *testing.T) {
	x := addr.MustDestination("x.test")
	a, clock := newTest(t, &fakeDNS{}, &fakeHosts{}, nil)
	at := func(ago time.Duration, detail string) policy.Assessment {
		when := clock.now().Add(-ago)
		return policy.Assessment{Destination: x, Problem: policy.NullMX, Detail: detail, When: when, Until: when.Add(24 * time.Hour)}
	}
	for _, c := range []struct {
		seed policy.Assessment
		want string
	}{
		{at(2*time.Hour, "first"), "first"},
		{at(3*time.Hour, "earlier"), "first"},
		{at(time.Hour, "later"), "later"},
		{at(time.Hour, "at the same time"), "at the same time"},
	} {
		a.Seed(c.seed)
		if got, ok := a.Remembered(x); !ok || got.Detail != c.want {
			t.Errorf("after %q: %q, %t", c.seed.Detail, got.Detail, ok)
		}
	}
}

// Memory holds as many answers as it may, and makes room by forgetting few.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 500
	a, clock := newTest(t, &fakeDNS{}, &fakeHosts{}, func(c *Config) { c.Entries = limit })
	kept := func(n int) int {
		found := 0
		for i := range n {
			if _, ok := a.Remembered(addr.MustDestination(fmt.Sprintf("d%d.test", i))); ok {
				found++
			}
		}
		return found
	}
	for i := range 3 * limit {
		a.Seed(policy.Assessment{Destination: addr.MustDestination(fmt.Sprintf("d%d.test", i)), When: clock.now(), Until: clock.now().Add(time.Hour)})
		if n := i + 1; n == limit && kept(n) != limit {
			t.Errorf("%d of the first %d are kept", kept(n), n)
		}
	}
	if n := kept(3 * limit); n > limit || n < limit-limit/50 {
		t.Errorf("%d kept of %d that may be", n, limit)
	}
}

// An answer from which no host can be made out says why, in the resolver's words where it has any.
func TestNoUsableMX(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{
		"said.test":   {Status: dns.OK, Detail: "2 MX records left out"},
		"unsaid.test": {Status: dns.OK},
	}}
	a, _ := newTest(t, d, &fakeHosts{}, nil)
	for destination, want := range map[string]string{"said.test": "2 MX records left out", "unsaid.test": "no usable MX record"} {
		if got := a.Assess(t.Context(), addr.MustDestination(destination), nil); got.Problem != policy.Unreachable || got.Detail != want {
			t.Errorf("%s: %s, %q", destination, got.Problem, got.Detail)
		}
	}
}

// breaking is a resolver that breaks at one name.
type breaking struct{ *fakeDNS }

func (p breaking) MX(ctx context.Context, d addr.Domain) (dns.Answer[dns.MX], error) {
	if d.String() == "panic.test" {
		panic("a test's panic")
	}
	return p.fakeDNS.MX(ctx, d)
}

// A look that breaks leaves nobody waiting, is told to the administrator, and is no good answer; others say nothing of the kind.
func TestPanicInAWalk(t *testing.T) {
	var log bytes.Buffer
	d := breaking{&fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"good.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")},
	}}
	a, _ := newTest(t, nil, &fakeHosts{}, func(c *Config) { c.Resolver, c.Log = d, slog.New(slog.NewTextHandler(&log, nil)) })
	if got := a.Assess(t.Context(), addr.MustDestination("good.test"), nil); got.Problem != "" || log.Len() != 0 {
		t.Errorf("a good look: %s, %q", got.Problem, log.String())
	}
	if got := a.Assess(t.Context(), addr.MustDestination("panic.test"), nil); !got.Problem.Unknown() {
		t.Errorf("a look that broke: %+v", got)
	}
	if !strings.Contains(log.String(), "a test's panic") {
		t.Errorf("logged: %q", log.String())
	}
}

// A host can show a quarter of a megabyte of certificates; what is kept of it is bounded, and nothing that is left out can match.
func TestKeptChainIsBounded(t *testing.T) {
	long := strings.Repeat("x", maxSubject)
	names := make([]string, maxNames+1)
	most := policy.Certificate{Names: names[1:], Subject: long, Issuer: long}
	for _, c := range []struct {
		what        string
		in, want    policy.Certificate
		count, kept int
	}{
		{"all that may be", most, most, maxChain, maxChain},
		{"a certificate more", policy.Certificate{}, policy.Certificate{}, maxChain + 1, maxChain},
		{"a name more", policy.Certificate{Names: names}, policy.Certificate{Names: names[1:]}, 1, 1},
		{"a longer subject", policy.Certificate{Subject: long + "x"}, policy.Certificate{}, 1, 1},
		{"a longer issuer", policy.Certificate{Issuer: long + "x"}, policy.Certificate{}, 1, 1},
	} {
		got := bounded(slices.Repeat([]policy.Certificate{c.in}, c.count))
		if len(got) != c.kept || len(got[0].Names) != len(c.want.Names) || got[0].Subject != c.want.Subject || got[0].Issuer != c.want.Issuer {
			t.Errorf("%s: %d certificates, %d names, subject of %d, issuer of %d", c.what,
				len(got), len(got[0].Names), len(got[0].Subject), len(got[0].Issuer))
		}
	}
}

// A host that was good stays good in memory when a look finds out nothing, and only then; other destinations on it see that.
func TestGoodHostIsKept(t *testing.T) {
	const ip = "127.0.1.1"
	for _, c := range []struct {
		first, second, want policy.Outcome
	}{
		{policy.SawTLS, policy.SawTimeout, policy.SawTLS},
		{policy.SawTLS, policy.SawUnreachable, policy.SawTLS},
		{policy.SawTLS, policy.SawNoSTARTTLS, policy.SawNoSTARTTLS},
		{policy.SawTLS, policy.SawTLS, policy.SawTLS},
		{policy.SawNoSTARTTLS, policy.SawTimeout, policy.SawTimeout},
		{policy.SawTimeout, policy.SawNoSTARTTLS, policy.SawNoSTARTTLS},
	} {
		d := &fakeDNS{
			mx:    map[string]dns.Answer[dns.MX]{"one.test": mx("h.test"), "two.test": mx("h.test")},
			addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips(ip)},
		}
		h := &fakeHosts{outcomes: map[string]policy.Outcome{ip: c.first}}
		a, clock := newTest(t, d, h, func(c *Config) { c.Unknown, c.Failure = time.Hour, time.Hour })
		a.Assess(t.Context(), addr.MustDestination("one.test"), nil)
		clock.add(time.Minute)
		h.mu.Lock()
		h.outcomes[ip] = c.second
		h.mu.Unlock()
		a.Refresh(t.Context(), addr.MustDestination("one.test"), time.Second)
		got := a.Assess(t.Context(), addr.MustDestination("two.test"), nil)
		if got.Hosts[0].Observations[0].Outcome != c.want {
			t.Errorf("%s, then %s: another destination is told %s", c.first, c.second, hostsOf(got))
		}
	}
}

// An answer serves no longer than the certificate that made it good.
func TestServesNoLongerThanTheCertificate(t *testing.T) {
	a, clock := newTest(t, &fakeDNS{}, &fakeHosts{}, func(c *Config) { c.Success = 10 * time.Hour })
	now := clock.now()
	for _, c := range []struct {
		what  string
		trust policy.Trust
		ends  []time.Duration // of the certificates shown, from now
		want  time.Duration
	}{
		{"one that lasts longer", policy.Trusted, []time.Duration{20 * time.Hour}, 10 * time.Hour},
		{"one that ends before", policy.Trusted, []time.Duration{3 * time.Hour}, 3 * time.Hour},
		{"the first that ends", policy.Trusted, []time.Duration{7 * time.Hour, 3 * time.Hour, 5 * time.Hour}, 3 * time.Hour},
		{"over already", policy.Trusted, []time.Duration{-time.Hour}, 10 * time.Hour},
		{"one that nobody trusted", policy.TrustExpired, []time.Duration{3 * time.Hour}, 10 * time.Hour},
	} {
		o := policy.Observation{Outcome: policy.SawTLS, Trust: c.trust}
		for _, d := range c.ends {
			o.Chain = append(o.Chain, policy.Certificate{NotAfter: now.Add(d)})
		}
		if got := a.until(now, "", []policy.Host{{Observations: []policy.Observation{o}}}).Sub(now); got != c.want {
			t.Errorf("%s: serves for %s, want %s", c.what, got, c.want)
		}
	}
}

// aliasing is a resolver that can tell whether an alias itself is signed.
type aliasing struct {
	*fakeDNS
	secure bool
	err    error
	asked  int
}

func (a *aliasing) SecureAlias(context.Context, addr.Domain) (bool, error) {
	a.asked++
	return a.secure, a.err
}

// A host that is a signed alias to somewhere unsigned may have TLSA records at the alias (RFC 7672, section 2.2.3); of a host
// that is none, and isn't signed, nobody asks.
func TestSignedAliasOfUnsignedHost(t *testing.T) {
	ee := policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	const own = "_25._tcp.mx.far.example"
	for _, c := range []struct {
		what   string
		addrs  dns.Answer[netip.Addr]
		secure bool
		err    error
		dane   policy.DANE
		asked  int
	}{
		{"a signed alias", alias(ips("192.0.2.1"), "end.other.example"), true, nil, policy.DANEUsable, 1},
		{"an unsigned alias", alias(ips("192.0.2.1"), "end.other.example"), false, nil, policy.DANENone, 1},
		{"an alias nobody can tell of", alias(ips("192.0.2.1"), "end.other.example"), false, context.DeadlineExceeded, policy.DANEUnknown, 1},
		{"no alias", ips("192.0.2.1"), true, nil, policy.DANENone, 0},
	} {
		d := &aliasing{secure: c.secure, err: c.err, fakeDNS: &fakeDNS{
			mx:    map[string]dns.Answer[dns.MX]{"far.example": secure(mx("mx.far.example"))},
			addrs: map[string]dns.Answer[netip.Addr]{"mx.far.example": c.addrs},
			tlsa:  map[string]dns.Answer[policy.TLSA]{own: secure(tlsa(ee))},
		}}
		a, _ := newTest(t, nil, &fakeHosts{}, func(config *Config) { config.Resolver = d })
		got := a.Assess(t.Context(), addr.MustDestination("far.example"), nil)
		if len(got.Hosts) != 1 || got.Hosts[0].DANE != c.dane || d.asked != c.asked {
			t.Errorf("%s: DANE %q, asked %d times", c.what, got.Hosts[0].DANE, d.asked)
		}
	}
}
