package destination

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

// The tests here look at hostile mail hosts and name servers with the real prober and resolver, over loopback.

// hostile is a name server, and an Assessor that asks it.
type hostile struct {
	*Assessor
	dns *testnet.DNS
}

const impatience = 500 * time.Millisecond

func newHostile(t *testing.T, zone string, change func(*Config)) *hostile {
	t.Helper()
	server, err := testnet.StartDNS("127.0.0.1:0", zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	resolver, err := dns.New(dns.Config{Server: server.Addr(), DNSSEC: "off"})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Resolver: resolver, Prober: &starttls.Prober{HELO: "probe.test", Timeout: impatience}, Timeout: impatience}
	if change != nil {
		change(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return &hostile{a, server}
}

// skipShort leaves out what waits for time to pass.
func skipShort(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc+m.StackInuse) / 1e6
}

// asked is what a rule asks by default.
func asked() policy.Demand { return policy.DefaultDemand() }

// tells says what may be believed of a host with a fault: TLS was seen where it was, "no TLS" only where the host said so.
func tells(f testnet.Fault) (fine bool, never policy.Reason) {
	switch f {
	case testnet.NoFault, testnet.BannerMultiline, testnet.BannerSlow, testnet.BannerLong, testnet.InjectAfter, testnet.Drip, testnet.HangQuit,
		testnet.ResetQuit, testnet.EndlessQuit:
		return true, ""
	case testnet.NoSTARTTLS, testnet.EHLO502, testnet.EHLOLong: // Postfix sees no STARTTLS after so long a line
		return false, ""
	}
	return false, policy.NoSTARTTLS
}

// TestHardHosts: one domain for each fault a mail host can have, all looked at at once, many times over, while a good one is
// asked for. None is taken for what it isn't, each is answered in its time, and nothing is left behind.
func TestHardHosts(t *testing.T) {
	skipShort(t)
	rounds := 1
	if os.Getenv("TLSONLY_SOAK") != "" {
		rounds = 20
	}
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	long, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.test"}, ExtraChain: 200})
	if err != nil {
		t.Fatal(err)
	}
	faults := append(testnet.Faults(), testnet.NoFault)
	hosts := map[testnet.Fault]*testnet.SMTP{}
	for _, f := range faults {
		host, err := testnet.StartSMTP(testnet.SMTPConfig{Name: "mx.test", TLS: testnet.ServerTLS(cert, 0, 0), Fault: f, Delay: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { host.Close() })
		hosts[f] = host
	}
	chain, err := testnet.StartSMTP(testnet.SMTPConfig{Name: "mx.test", TLS: testnet.ServerTLS(long, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chain.Close() })

	a := newHostile(t, "x.test. 60 IN A 127.0.0.1", func(c *Config) {
		// Long enough for one that drips, on a machine that is busy.
		c.Timeout = 15 * time.Second
		c.Prober = &starttls.Prober{HELO: "probe.test", Timeout: 15 * time.Second}
	})
	// By address and port, so that each fault has a destination of its own.
	at := func(h *testnet.SMTP) addr.Destination {
		return addr.MustDestination(fmt.Sprintf("[127.0.0.1]:%d", h.Address().Port()))
	}
	before, routines := 0.0, 0
	for round := range rounds {
		type looked struct {
			fault testnet.Fault
			found policy.Assessment
			took  time.Duration
		}
		results := make(chan looked, len(faults))
		for _, f := range faults {
			go func() {
				begun := time.Now()
				found := a.Refresh(context.Background(), at(hosts[f]), 0)
				results <- looked{f, found, time.Since(begun)}
			}()
		}
		for range faults {
			r := <-results
			fine, never := tells(r.fault)
			reason := judge.Destination(asked(), r.found)
			if (reason == "") != fine || never != "" && reason == never {
				t.Errorf("%q: %q: %s", r.fault, reason, hostsOf(r.found))
			}
			if r.took > 45*time.Second {
				t.Errorf("%q: took %s", r.fault, r.took)
			}
		}
		if got := a.Refresh(context.Background(), at(chain), 0); judge.Destination(asked(), got) == policy.NoSTARTTLS {
			t.Errorf("a chain of 201: %s", hostsOf(got))
		} else if o := got.Hosts[0].Observations[0]; len(o.Chain) != maxChain {
			t.Errorf("%d certificates of a chain are kept", len(o.Chain))
		}
		switch {
		case round == 0:
			before, routines = heap(), runtime.NumGoroutine()
		case round == rounds-1:
			// Hosts that hang keep their goroutine until they are closed; ours are what may not grow.
			hanging := 0
			for _, f := range faults {
				hanging += hosts[f].Connections()
			}
			t.Logf("%d rounds of %d faults: heap from %.1f to %.1f MB, goroutines from %d to %d, %d connections",
				rounds, len(faults), before, heap(), routines, runtime.NumGoroutine(), hanging)
			if grown := heap() - before; grown > 20 {
				t.Errorf("%.1f MB more memory", grown)
			}
		}
	}
}

// TestHardTarpit: a host that sends an octet now and then holds up nobody but those who ask for it.
func TestHardTarpit(t *testing.T) {
	skipShort(t)
	host, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "127.0.6.1:0", Name: "mx.test", Fault: testnet.Drip, Delay: impatience / 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	zone := "tar.test. 60 IN MX 10 mx.tar.test.\nmx.tar.test. 60 IN A 127.0.6.1\n"
	a := newHostile(t, zone, func(c *Config) { c.Port, c.Unknown = host.Address().Port(), time.Hour })
	got := a.Assess(t.Context(), addr.MustDestination("tar.test"), nil)
	if reason := judge.Destination(asked(), got); reason != policy.Timeout {
		t.Errorf("%q: %s", reason, hostsOf(got))
	}
	before := host.Connections()
	for range 50 { // what was found serves for a while: a tarpit is not asked again by every message
		a.Assess(t.Context(), addr.MustDestination("tar.test"), nil)
	}
	if n := host.Connections(); n != before {
		t.Errorf("%d connections more", n-before)
	}
}

// TestHardDNS: whatever a resolver says, or doesn't say, is never "no TLS" and never "fine", and takes no longer than it may.
func TestHardDNS(t *testing.T) {
	skipShort(t)
	host, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "127.0.6.2:0", Name: "mx.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	var zone strings.Builder
	zone.WriteString("one.test. 60 IN MX 10 mx.one.test.\nmx.one.test. 60 IN A 127.0.6.2\n")
	name := strings.Repeat(strings.Repeat("x", 60)+".", 3)
	for i := range 250 { // nearly 64 KiB, more than which no answer can have
		fmt.Fprintf(&zone, "many.test. 60 IN MX %d m%d.%smany.test.\nm%d.%smany.test. 60 IN A 127.0.6.2\n", i, i, name, i, name)
		fmt.Fprintf(&zone, "addresses.test. 60 IN A 127.1.%d.%d\n", i/200, i%200+1)
	}
	faults := []testnet.DNSFault{testnet.DNSServFail, testnet.DNSRefused, testnet.DNSFormErr, testnet.DNSDrop, testnet.DNSTruncateAlways,
		testnet.DNSCNAMELoop, testnet.DNSWrongID, testnet.DNSWrongQuestion, testnet.DNSGarbage, testnet.DNSShort}
	for _, f := range faults {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			for _, qtype := range []uint16{miekg.TypeMX, miekg.TypeA, 0} {
				a := newHostile(t, zone.String(), func(c *Config) { c.Port = host.Address().Port() })
				a.dns.SetFault("", qtype, f)
				ctx, cancel := context.WithTimeout(t.Context(), impatience)
				begun := time.Now()
				got := a.Assess(ctx, addr.MustDestination("one.test"), nil)
				cancel()
				if reason := judge.Destination(asked(), got); !reason.Unknown() {
					t.Errorf("type %d: %q: %s", qtype, reason, hostsOf(got))
				}
				if took := time.Since(begun); took > 20*impatience {
					t.Errorf("type %d: took %s", qtype, took)
				}
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		a := newHostile(t, zone.String(), nil)
		if err := a.dns.Close(); err != nil {
			t.Fatal(err)
		}
		got := a.Assess(t.Context(), addr.MustDestination("one.test"), nil)
		if reason := judge.Destination(asked(), got); !reason.Unknown() {
			t.Errorf("%q: %s", reason, hostsOf(got))
		}
	})
	t.Run("lies", func(t *testing.T) { // a denial is believed as an MTA believes it: nothing can be delivered there
		t.Parallel()
		a := newHostile(t, zone.String(), nil)
		a.dns.SetFault("", 0, testnet.DNSNXDomain)
		if reason := judge.Destination(asked(), a.Assess(t.Context(), addr.MustDestination("one.test"), nil)); reason != policy.NoSuchDomain {
			t.Errorf("%q", reason)
		}
	})
	t.Run("many", func(t *testing.T) {
		t.Parallel()
		before := host.Connections()
		a := newHostile(t, zone.String(), func(c *Config) { c.Port = host.Address().Port() })
		got := a.Assess(t.Context(), addr.MustDestination("many.test"), nil)
		if reason := judge.Destination(asked(), got); len(got.Hosts) != maxHosts+1 || reason != policy.Unreachable {
			t.Errorf("%d hosts, %q", len(got.Hosts), reason)
		}
		if n := host.Connections() - before; n > maxHosts {
			t.Errorf("%d connections", n)
		}
		far := a.Assess(t.Context(), addr.MustDestination("[addresses.test]"), nil)
		if len(far.Hosts) != 1 || len(far.Hosts[0].Observations) > maxAddresses+1 {
			t.Errorf("%d addresses looked at", len(far.Hosts[0].Observations))
		}
	})
}

// TestHardManyHang: however many destinations hang, the others are answered at once as long as a place is free, and every one is
// answered in the end.
func TestHardManyHang(t *testing.T) {
	skipShort(t)
	n := 100
	if os.Getenv("TLSONLY_SOAK") != "" {
		n = 1000
	}
	silent, err := net.Listen("tcp", "127.0.6.3:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	port := uint16(silent.Addr().(*net.TCPAddr).Port)
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.good.test"}})
	if err != nil {
		t.Fatal(err)
	}
	good, err := testnet.StartSMTP(testnet.SMTPConfig{
		Listen: fmt.Sprintf("127.0.6.4:%d", port), Name: "mx.good.test", TLS: testnet.ServerTLS(cert, 0, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { good.Close() })
	var zone strings.Builder
	zone.WriteString("good.test. 60 IN MX 10 mx.good.test.\nmx.good.test. 60 IN A 127.0.6.4\n")
	for i := range n {
		fmt.Fprintf(&zone, "d%d.test. 60 IN MX 10 mx.d%d.test.\nmx.d%d.test. 60 IN A 127.0.6.3\n", i, i, i)
	}
	a := newHostile(t, zone.String(), func(c *Config) { c.Port, c.Roots, c.Concurrency = port, ca.Pool(), n+1 })
	results := make(chan policy.Assessment, n)
	for i := range n {
		go func() {
			results <- a.Assess(context.Background(), addr.MustDestination(fmt.Sprintf("d%d.test", i)), nil)
		}()
	}
	var times []time.Duration
	for range 20 {
		begun := time.Now()
		if got := a.Refresh(t.Context(), addr.MustDestination("good.test"), 0); judge.Destination(asked(), got) != "" {
			t.Fatalf("beside %d that hang: %s", n, hostsOf(got))
		}
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	for range n {
		if got := <-results; !judge.Destination(asked(), got).Unknown() {
			t.Errorf("%s: %s", got.Destination, hostsOf(got))
		}
	}
	t.Logf("a look beside %d that hang: median %s, longest %s", n, times[len(times)/2], times[len(times)-1])
}
