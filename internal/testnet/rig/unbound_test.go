package rig_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// validated is a tree of signed and other zones with Unbound before it, and the daemon's resolver asking that.
type validated struct {
	t        *testing.T
	ctx      context.Context
	zones    *testnet.Signed
	unbound  *rig.Unbound
	resolver *dns.Resolver
}

func startValidated(t *testing.T, zones ...testnet.SignedZone) validated {
	t.Helper()
	needIsolation(t)
	v := validated{t: t, ctx: patient(t)}
	var err error
	if v.zones, err = testnet.StartSigned("127.0.0.1:0", zones); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.zones.Close(); err != nil {
			t.Error(err)
		}
	})
	v.unbound, err = rig.StartUnbound(v.ctx, rig.UnboundConfig{Forward: v.zones.Addr(), Anchor: v.zones.Anchor()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(v.unbound.Log())
		}
		if err := v.unbound.Stop(); err != nil {
			t.Error(err)
		}
	})
	if v.resolver, err = dns.New(dns.Config{Server: v.unbound.Addr, DNSSEC: dns.On}); err != nil {
		t.Fatal(err)
	}
	return v
}

// ask returns what the resolver says in one line: the status, "secure" if it is, and the records; or "error" and the rcode.
func (v validated) ask(name, rrtype string) string {
	v.t.Helper()
	d, err := addr.ParseDomain(name)
	if err != nil {
		v.t.Fatal(err)
	}
	switch rrtype {
	case "MX":
		return said(v.resolver.MX(v.ctx, d))
	case "A":
		return said(v.resolver.Addrs(v.ctx, d))
	case "TLSA":
		return said(v.resolver.TLSA(v.ctx, d))
	case "TXT":
		return said(v.resolver.TXT(v.ctx, d))
	}
	v.t.Fatalf("type %s", rrtype)
	return ""
}

func said[T any](a dns.Answer[T], err error) string {
	if failed := (*dns.Error)(nil); errors.As(err, &failed) {
		return strings.TrimSpace("error " + failed.Rcode)
	}
	s := string(a.Status)
	if a.Secure {
		s += " secure"
	}
	for _, r := range a.Records {
		s += strings.Replace(fmt.Sprintf(" %v", r), " }", "}", 1) // an empty last field
	}
	return s
}

const mailZone = `
@ MX 10 mx
mx A 127.0.1.1
_25._tcp.mx TLSA 3 1 1 0123abcd
www CNAME mx
out CNAME mx.plain.example.
*.wild MX 20 mx
kept.wild A 127.0.1.2
*.alias CNAME mx
there.empty A 127.0.1.3
`

func TestUnboundValidates(t *testing.T) {
	big := ""
	for i := range 12 {
		big += fmt.Sprintf("big TXT %q\n", strings.Repeat(fmt.Sprintf("%x", i), 200))
	}
	v := startValidated(t,
		testnet.SignedZone{Name: "example"},
		testnet.SignedZone{Name: "nsec.example", Text: mailZone + big},
		testnet.SignedZone{Name: "nsec3.example", Text: mailZone, NSEC3: true},
		testnet.SignedZone{Name: "plain.example", Text: mailZone + "in CNAME mx.nsec.example.\n", Unsigned: true},
		testnet.SignedZone{Name: "below.nsec3.example", Text: "@ MX 10 mx\nmx A 127.0.1.4\n", Unsigned: true},
		testnet.SignedZone{Name: "island.plain.example", Text: "mx A 127.0.1.5\n"},
		testnet.SignedZone{Name: "deep.sub.nsec.example", Text: "mx A 127.0.1.6\n"},
	)
	tests := []struct{ name, rrtype, want string }{
		{"plain.example", "MX", "ok {10 mx.plain.example false}"},
		{"mx.plain.example", "A", "ok 127.0.1.1"},
		{"_25._tcp.mx.plain.example", "TLSA", "ok 3 1 1 0123abcd"},
		{"no.plain.example", "A", "no-such-domain"},
		{"mx.plain.example", "TXT", "no-data"},
		{"in.plain.example", "A", "ok 127.0.1.1"}, // insecure first, so all of it
		{"below.nsec3.example", "MX", "ok {10 mx.below.nsec3.example false}"},
		{"mx.island.plain.example", "A", "ok 127.0.1.5"},
		{"mx.deep.sub.nsec.example", "A", "ok secure 127.0.1.6"},
		{"sub.nsec.example", "A", "no-data secure"},
		{"example", "MX", "no-data secure"},
		{"no.example", "MX", "no-such-domain secure"},
		{"no.test", "MX", "no-such-domain secure"},
	}
	for _, zone := range []string{"nsec.example", "nsec3.example"} {
		for _, tt := range []struct{ name, rrtype, want string }{
			{"", "MX", "ok secure {10 mx.ZONE false}"},
			{"mx.", "A", "ok secure 127.0.1.1"},
			{"_25._tcp.mx.", "TLSA", "ok secure 3 1 1 0123abcd"},
			{"www.", "A", "ok secure 127.0.1.1"},
			{"out.", "A", "ok 127.0.1.1"},
			{"no.", "A", "no-such-domain secure"},
			{"a.", "MX", "no-such-domain secure"}, // before the first name there is
			{"zz.", "MX", "no-such-domain secure"},
			{"no.such.", "TLSA", "no-such-domain secure"},
			{"_25._tcp.no.", "TLSA", "no-such-domain secure"},
			{"mx.", "TXT", "no-data secure"},
			{"_tcp.mx.", "TLSA", "no-data secure"},
			{"empty.", "MX", "no-data secure"},
			{"a.wild.", "MX", "ok secure {20 mx.ZONE false}"},
			{"b.a.wild.", "MX", "ok secure {20 mx.ZONE false}"},
			{"a.wild.", "TXT", "no-data secure"},
			{"kept.wild.", "MX", "no-data secure"},
			{"x.kept.wild.", "MX", "no-such-domain secure"},
			{"a.alias.", "A", "ok secure 127.0.1.1"},
		} {
			tt.name, tt.want = tt.name+zone, strings.ReplaceAll(tt.want, "ZONE", zone)
			tests = append(tests, tt)
		}
	}
	for _, tt := range tests {
		// Twice, for what Unbound knows by then.
		for range 2 {
			if got := v.ask(tt.name, tt.rrtype); got != tt.want {
				t.Errorf("%s of %s: %s, want %s", tt.rrtype, tt.name, got, tt.want)
			}
		}
	}
	if got := v.ask("big.nsec.example", "TXT"); !strings.HasPrefix(got, "ok secure ") || len(got) < 12*200 {
		t.Errorf("an answer larger than a datagram: %s", got)
	}
}

// A bogus answer is a failure: never an answer, and never the absence of one.
func TestUnboundRefusesBogus(t *testing.T) {
	v := startValidated(t,
		testnet.SignedZone{Name: "nsec.example", Text: mailZone},
		testnet.SignedZone{Name: "nsec3.example", Text: mailZone, NSEC3: true},
		testnet.SignedZone{Name: "expired.example", Text: mailZone, Fault: testnet.DNSExpired},
		testnet.SignedZone{Name: "wrongds.example", Text: mailZone, Fault: testnet.DNSWrongDS},
		testnet.SignedZone{Name: "stripped.example", Text: mailZone, Fault: testnet.DNSStripped},
		testnet.SignedZone{Name: "unsigned.example", Text: mailZone, Unsigned: true},
	)
	for _, zone := range []string{"expired.example", "wrongds.example", "stripped.example"} {
		for _, tt := range []struct{ name, rrtype string }{
			{"", "MX"}, {"mx.", "A"}, {"_25._tcp.mx.", "TLSA"}, {"no.", "A"}, {"mx.", "TXT"},
		} {
			if got := v.ask(tt.name+zone, tt.rrtype); got != "error SERVFAIL" {
				t.Errorf("%s of %s: %s, want SERVFAIL", tt.rrtype, tt.name+zone, got)
			}
		}
	}
	const tlsa, absent = "_25._tcp.mx.", "_25._tcp.no."
	for _, zone := range []string{"nsec.example", "nsec3.example"} {
		for _, tt := range []struct {
			name  string
			fault testnet.DNSFault
		}{
			{tlsa, testnet.DNSExpired},
			{tlsa, testnet.DNSWrongKey},
			{tlsa, testnet.DNSStripped},
			{tlsa, testnet.DNSServFail},
			{tlsa, testnet.DNSNXDomain},
			{absent, testnet.DNSExpired},
			{absent, testnet.DNSWrongKey},
			{absent, testnet.DNSStripped},
			{absent, testnet.DNSNoDenial},
			{absent, testnet.DNSWrongDenial},
			{"_tcp.mx.", testnet.DNSNoDenial}, // exists without records
			{"_tcp.mx.", testnet.DNSWrongDenial},
			{"", testnet.DNSNoDenial}, // has other records
			{"", testnet.DNSWrongDenial},
			{"a.alias.", testnet.DNSNoDenial}, // from a wildcard
		} {
			name := tt.name + zone
			v.zones.SetFault(name, miekg.TypeTLSA, tt.fault)
			if got := v.ask(name, "TLSA"); got != "error SERVFAIL" {
				t.Errorf("TLSA of %s, %s: %s, want SERVFAIL", name, tt.fault, got)
			}
			v.zones.ClearFaults()
			v.flush()
			if got := v.ask(name, "TLSA"); strings.HasPrefix(got, "error") {
				t.Errorf("TLSA of %s after %s: %s, want an answer", name, tt.fault, got)
			}
		}
	}
	// A zone passes for unsigned only when its parent proves that it is.
	for _, fault := range []testnet.DNSFault{testnet.DNSNoDenial, testnet.DNSWrongDenial, testnet.DNSStripped} {
		v.zones.SetFault("unsigned.example", miekg.TypeDS, fault)
		v.flush()
		if got := v.ask("mx.unsigned.example", "A"); got != "error SERVFAIL" {
			t.Errorf("A of mx.unsigned.example, DS with %s: %s, want SERVFAIL", fault, got)
		}
	}
	v.zones.ClearFaults()
	v.flush()
	if got, want := v.ask("mx.unsigned.example", "A"), "ok 127.0.1.1"; got != want {
		t.Errorf("A of mx.unsigned.example: %s, want %s", got, want)
	}
}

func (v validated) flush() {
	v.t.Helper()
	if err := v.unbound.Flush(v.ctx); err != nil {
		v.t.Fatal(err)
	}
}

func TestUnboundSeesChanges(t *testing.T) {
	v := startValidated(t, testnet.SignedZone{Name: "good.example", Text: mailZone})
	const tlsa = "_25._tcp.mx.good.example"
	expect := func(when, name, rrtype, want string) {
		t.Helper()
		if got := v.ask(name, rrtype); got != want {
			t.Errorf("%s: %s of %s: %s, want %s", when, rrtype, name, got, want)
		}
	}
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("first", tlsa, "TLSA", "ok secure 3 1 1 0123abcd")
	set(v.zones.SetRecords(tlsa, miekg.TypeTLSA, "3 1 1 ff", "2 0 1 ee"))
	expect("replaced", tlsa, "TLSA", "ok secure 3 1 1 ff 2 0 1 ee")
	set(v.zones.SetRecords(tlsa, miekg.TypeTLSA))
	expect("removed", tlsa, "TLSA", "no-such-domain secure")
	set(v.zones.SetRecords("mx2.good.example", miekg.TypeA, "127.0.1.9"))
	expect("added", "mx2.good.example", "A", "ok secure 127.0.1.9")

	set(v.zones.SetZone(testnet.SignedZone{Name: "good.example", Text: "mx A 127.0.1.8", NSEC3: true}))
	expect("another zone", "mx.good.example", "A", "ok secure 127.0.1.8")
	expect("another zone", "mx2.good.example", "A", "no-such-domain secure")
	set(v.zones.SetZone(testnet.SignedZone{Name: "good.example", Text: "mx A 127.0.1.7", Unsigned: true}))
	expect("its signatures gone, its DS known", "mx.good.example", "A", "error SERVFAIL")
	v.flush()
	expect("its DS gone", "mx.good.example", "A", "ok 127.0.1.7")
	set(v.zones.SetZone(testnet.SignedZone{Name: "new.good.example", Text: "mx A 127.0.1.6"}))
	set(v.zones.SetZone(testnet.SignedZone{Name: "good.example"}))
	v.flush()
	expect("signed again, and a new one below", "mx.new.good.example", "A", "ok secure 127.0.1.6")
}

// Without an anchor nothing is secure, and Stop leaves nothing.
func TestUnboundWithoutAnchor(t *testing.T) {
	v := startValidated(t, testnet.SignedZone{Name: ".", Unsigned: true}, testnet.SignedZone{Name: "good.example", Text: mailZone})
	if got, want := v.ask("mx.good.example", "A"), "ok 127.0.1.1"; got != want {
		t.Errorf("A of mx.good.example: %s, want %s", got, want)
	}
	if err := v.unbound.Stop(); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, v.unbound.Dir)
}

func TestUnboundFailsToStart(t *testing.T) {
	needIsolation(t)
	for name, cfg := range map[string]rig.UnboundConfig{
		"forward":   {},
		"could not": {Forward: "127.0.0.1:1", Listen: "192.0.2.1:53"},
		"anchor":    {Forward: "127.0.0.1:1", Anchor: "no anchor"},
	} {
		u, err := rig.StartUnbound(patient(t), cfg)
		if err == nil {
			err = u.Stop()
			t.Errorf("%s: started, stopped: %v", name, err)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("error %v: want one about %s", err, name)
		}
	}
}

// TestPostfixDANE is what it's all for: a real Postfix that believes Unbound.
func TestPostfixDANE(t *testing.T) {
	needIsolation(t)
	world, err := testnet.StartWorld("127.0.0.1:0", 25, []testnet.Site{
		{Domain: "right.example", Hosts: []testnet.Host{{}}},
		{Domain: "wrong.example", Hosts: []testnet.Host{{}}},
		{Domain: "bogus.example", Hosts: []testnet.Host{{}}},
		{Domain: "plain.example", Hosts: []testnet.Host{{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	zones, err := world.SignedZones("right.example", "wrong.example", "bogus.example")
	if err != nil {
		t.Fatal(err)
	}
	v := startValidated(t, zones...)
	for _, domain := range world.Domains() {
		name, data := world.Hosts(domain)[0].TLSA()
		if domain == "wrong.example" {
			_, data = world.Hosts("right.example")[0].TLSA()
		}
		if err := v.zones.SetRecords(name, miekg.TypeTLSA, data); err != nil {
			t.Fatal(err)
		}
	}
	v.zones.SetFault("_25._tcp.mx1.bogus.example", miekg.TypeTLSA, testnet.DNSExpired)

	p, err := rig.StartPostfix(v.ctx, rig.PostfixConfig{
		Main: map[string]string{"smtp_tls_security_level": "dane-only", "smtp_dns_support_level": "dnssec", "smtp_tls_loglevel": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := dial(t, p.Addr)
	c.say("EHLO client.test", "250")
	for _, tt := range []struct{ domain, log string }{
		{"right.example", "status=sent"},
		{"wrong.example", "Server certificate not verified"},
		{"bogus.example", "TLSA lookup error"},
		{"plain.example", "non DNSSEC destination"},
	} {
		c.say("MAIL FROM:<a@clinic.example>", "250")
		c.say("RCPT TO:<b@"+tt.domain+">", "250")
		c.say("DATA", "354")
		c.say("Subject: x\r\n\r\nx\r\n.", "250")
		line, err := p.WaitLog(v.ctx, "to=<b@"+tt.domain+">")
		if err != nil || !strings.Contains(line, tt.log) {
			t.Errorf("%s: %s, %v, want %q", tt.domain, line, err, tt.log)
		}
		if got := len(world.Messages(tt.domain)) > 0; got != (tt.domain == "right.example") {
			t.Errorf("%s: taken is %t", tt.domain, got)
		}
	}
	if lines := p.LogLines("Verified TLS connection established to mx1.right.example"); len(lines) != 1 {
		t.Errorf("%d verified connections, want 1; log:\n%s", len(lines), p.Log())
	}
}
