package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"go.uber.org/goleak"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

const zones = `
$TTL 300
$ORIGIN signed.example.
@              3600 SOA ns hostmaster 1 3600 600 86400 120
@              600  MX 20 mx2
@              600  MX 10 mx1
@              600  MX 20 mx3
mx1            900  A 192.0.2.1
mx1            300  AAAA 2001:db8::1
mx2            300  A 192.0.2.2
mx3            300  AAAA 2001:db8::3
www            30   CNAME mx1
alias          40   CNAME www
out            CNAME mx.plain.example.
gone           CNAME nowhere
bare           CNAME empty
deep.empty     A 192.0.2.7
_25._tcp.mx1   TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
_25._tcp.mx1   TLSA 2 0 2 ff
null           MX 0 .
mixed          MX 0 .
mixed          MX 10 mx1
odd            MX 5 bad\032host
odd            MX 10 mx1
allodd         MX 5 bad\032host
_mta-sts       TXT "v=STSv1; " "id=2026" "a;"
quoted         TXT "a\"b\\c\200"
loop           CNAME loop2
loop2          CNAME loop
self           CNAME self
c1             CNAME c2
c2             CNAME c3
c3             CNAME c4
c4             CNAME c5
c5             CNAME c6
c6             CNAME c7
c7             CNAME c8
c8             CNAME c9
c9             CNAME mx1
badalias       CNAME bad\032host

$ORIGIN plain.example.
@              MX 10 mx
mx             A 192.0.2.9
back           CNAME mx1.signed.example.
`

func start(t *testing.T, text string) *testnet.DNS {
	t.Helper()
	leaked := goleak.IgnoreCurrent()
	d, err := testnet.StartDNS("127.0.0.1:0", text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leaked)
	})
	d.SetSecure("signed.example")
	return d
}

func resolver(t *testing.T, c Config) *Resolver {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// patient is for answers that come, hasty for those that don't.
func patient(t *testing.T, d *testnet.DNS) *Resolver {
	return resolver(t, Config{Server: d.Addr(), Timeout: 20 * time.Second})
}

func hasty(t *testing.T, d *testnet.DNS) *Resolver {
	return resolver(t, Config{Server: d.Addr(), Timeout: 30 * time.Millisecond})
}

func mx(preference uint16, host string) MX {
	return MX{Preference: preference, Host: addr.MustDomain(host)}
}

func ips(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestMX(t *testing.T) {
	r := patient(t, start(t, zones))
	mx1 := mx(10, "mx1.signed.example")
	odd := MX{Preference: 5, Malformed: `host "bad\\ host.signed.example.": not a name that can be looked up`}
	tests := []struct {
		name string
		want Answer[MX]
	}{
		{"signed.example", Answer[MX]{Status: OK, Secure: true, TTL: 600 * time.Second,
			Records: []MX{mx1, mx(20, "mx2.signed.example"), mx(20, "mx3.signed.example")}}},
		{"plain.example", Answer[MX]{Status: OK, TTL: 300 * time.Second, Records: []MX{mx(10, "mx.plain.example")}}},
		{"null.signed.example", Answer[MX]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: []MX{{Null: true}}}},
		{"mixed.signed.example", Answer[MX]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: []MX{{Null: true}, mx1}}},
		{"odd.signed.example", Answer[MX]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: []MX{odd, mx1}}},
		{"allodd.signed.example", Answer[MX]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: []MX{odd}}},
		{"mx1.signed.example", Answer[MX]{Status: NoData, Secure: true, TTL: 120 * time.Second}},
		{"empty.signed.example", Answer[MX]{Status: NoData, Secure: true, TTL: 120 * time.Second}},
		{"mx.plain.example", Answer[MX]{Status: NoData, TTL: 60 * time.Second}},
		{"no.signed.example", Answer[MX]{Status: NoSuchDomain, Secure: true, TTL: 120 * time.Second}},
		{"no.plain.example", Answer[MX]{Status: NoSuchDomain, TTL: 60 * time.Second}},
	}
	for _, tt := range tests {
		got, err := r.MX(t.Context(), addr.MustDomain(tt.name))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("MX of %s\n got %+v, %v\nwant %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestAddrs(t *testing.T) {
	r := patient(t, start(t, zones))
	tests := []struct {
		name string
		want Answer[netip.Addr]
	}{
		{"mx1.signed.example", Answer[netip.Addr]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: ips("192.0.2.1", "2001:db8::1")}},
		{"mx2.signed.example", Answer[netip.Addr]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: ips("192.0.2.2")}},
		{"mx3.signed.example", Answer[netip.Addr]{Status: OK, Secure: true, TTL: 300 * time.Second, Records: ips("2001:db8::3")}},
		{"mx.plain.example", Answer[netip.Addr]{Status: OK, TTL: 300 * time.Second, Records: ips("192.0.2.9")}},
		{"alias.signed.example", Answer[netip.Addr]{Status: OK, Secure: true, TTL: 30 * time.Second,
			Records: ips("192.0.2.1", "2001:db8::1"), Canonical: addr.MustDomain("mx1.signed.example")}},
		{"out.signed.example", Answer[netip.Addr]{Status: OK, TTL: 300 * time.Second, Records: ips("192.0.2.9"),
			Canonical: addr.MustDomain("mx.plain.example")}},
		{"bare.signed.example", Answer[netip.Addr]{Status: NoData, Secure: true, TTL: 120 * time.Second,
			Canonical: addr.MustDomain("empty.signed.example")}},
		{"gone.signed.example", Answer[netip.Addr]{Status: NoSuchDomain, Secure: true, TTL: 120 * time.Second,
			Canonical: addr.MustDomain("nowhere.signed.example")}},
		{"signed.example", Answer[netip.Addr]{Status: NoData, Secure: true, TTL: 120 * time.Second}},
		{"no.plain.example", Answer[netip.Addr]{Status: NoSuchDomain, TTL: 60 * time.Second}},
	}
	for _, tt := range tests {
		got, err := r.Addrs(t.Context(), addr.MustDomain(tt.name))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("addresses of %s\n got %+v, %v\nwant %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestTLSAAndTXT(t *testing.T) {
	r := patient(t, start(t, zones))
	tlsa, err := r.TLSA(t.Context(), addr.MustDomain("_25._tcp.mx1.signed.example"))
	if err != nil || !tlsa.Secure || len(tlsa.Records) != 2 || tlsa.TTL != 300*time.Second ||
		tlsa.Records[0].String() != "3 1 1 "+strings.Repeat("0123456789abcdef", 4) {
		t.Errorf("TLSA: %+v, %v", tlsa, err)
	}
	if tlsa, err := r.TLSA(t.Context(), addr.MustDomain("_25._tcp.mx2.signed.example")); err != nil || tlsa.Status != NoSuchDomain {
		t.Errorf("TLSA that is not there: %+v, %v", tlsa, err)
	}
	for name, want := range map[string]string{
		"_mta-sts.signed.example": "v=STSv1; id=2026a;",
		"quoted.signed.example":   "a\"b\\c\xc8",
	} {
		if txt, err := r.TXT(t.Context(), addr.MustDomain(name)); err != nil || len(txt.Records) != 1 || txt.Records[0] != want {
			t.Errorf("TXT of %s = %q, %v, want %q", name, txt.Records, err, want)
		}
	}
	if txt, err := r.TXT(t.Context(), addr.MustDomain("signed.example")); err != nil || txt.Status != NoData {
		t.Errorf("TXT that is not there: %+v, %v", txt, err)
	}
}

// No fault may look like an answer.
func TestFaults(t *testing.T) {
	d := start(t, zones)
	tests := []struct {
		fault   testnet.DNSFault
		r       *Resolver
		rcode   string
		reason  policy.Reason
		queries int // for the type, over UDP and TCP
	}{
		{testnet.DNSServFail, patient(t, d), "SERVFAIL", policy.DNSFailure, 1},
		{testnet.DNSRefused, patient(t, d), "REFUSED", policy.DNSFailure, 1},
		{testnet.DNSFormErr, patient(t, d), "FORMERR", policy.DNSFailure, 1},
		{testnet.DNSGarbage, patient(t, d), "", policy.DNSFailure, 2},
		{testnet.DNSShort, patient(t, d), "", policy.DNSFailure, 2},
		{testnet.DNSCNAMELoop, patient(t, d), "", policy.DNSFailure, 1},
		{testnet.DNSTruncateAlways, patient(t, d), "", policy.DNSFailure, 4},
		{testnet.DNSDrop, hasty(t, d), "", policy.Timeout, 2},
		{testnet.DNSWrongID, hasty(t, d), "", policy.Timeout, 2},
		{testnet.DNSWrongQuestion, hasty(t, d), "", policy.Timeout, 2},
	}
	for _, tt := range tests {
		d.ClearFaults()
		for _, name := range []string{"signed.example", "no.signed.example"} {
			d.SetFault(name, 0, tt.fault)
			before := d.Queries(name, miekg.TypeMX)
			_, err := tt.r.MX(t.Context(), addr.MustDomain(name))
			var e *Error
			if !errors.As(err, &e) || e.Rcode != tt.rcode || e.Reason() != tt.reason || e.Name != name || e.Type != "MX" {
				t.Errorf("%s: MX of %s: %#v, want rcode %q, reason %s", tt.fault, name, err, tt.rcode, tt.reason)
			}
			// The last question may still be on its way to a server that is busy.
			for end := time.Now().Add(5 * time.Second); d.Queries(name, miekg.TypeMX)-before < tt.queries && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if n := d.Queries(name, miekg.TypeMX) - before; n != tt.queries {
				t.Errorf("%s: %s was asked %d times, want %d", tt.fault, name, n, tt.queries)
			}
			if _, err := tt.r.Addrs(t.Context(), addr.MustDomain(name)); !errors.As(err, &e) || e.Reason() != tt.reason {
				t.Errorf("%s: addresses of %s: %v, want reason %s", tt.fault, name, err, tt.reason)
			}
			if _, err := tt.r.TLSA(t.Context(), addr.MustDomain(name)); !errors.As(err, &e) || e.Reason() != tt.reason {
				t.Errorf("%s: TLSA of %s: %v, want reason %s", tt.fault, name, err, tt.reason)
			}
			if _, err := tt.r.TXT(t.Context(), addr.MustDomain(name)); !errors.As(err, &e) || e.Reason() != tt.reason {
				t.Errorf("%s: TXT of %s: %v, want reason %s", tt.fault, name, err, tt.reason)
			}
		}
	}
}

func TestTruncationGoesToTCP(t *testing.T) {
	d := start(t, zones)
	d.SetFault("signed.example", 0, testnet.DNSTruncateUDP)
	a, err := patient(t, d).MX(t.Context(), addr.MustDomain("signed.example"))
	if err != nil || len(a.Records) != 3 || !a.Secure {
		t.Errorf("MX: %+v, %v", a, err)
	}
	if n := d.Queries("signed.example", miekg.TypeMX); n != 2 {
		t.Errorf("asked %d times, want once over UDP and once over TCP", n)
	}
}

// More than the limits, in an answer that fits only TCP.
func TestLimits(t *testing.T) {
	var text strings.Builder
	for i := range 150 {
		fmt.Fprintf(&text, "big.example. MX %d host%d.example.\n", 1000-i, i)
		fmt.Fprintf(&text, "big.example. A 192.0.2.%d\n", i)
	}
	r := patient(t, start(t, text.String()))
	m, err := r.MX(t.Context(), addr.MustDomain("big.example"))
	if err != nil || len(m.Records) != maxMX || !m.Incomplete || m.Detail != "100 of 150 records used" {
		t.Fatalf("MX: %d records, incomplete %v, %q, %v", len(m.Records), m.Incomplete, m.Detail, err)
	}
	if m.Records[0] != mx(851, "host149.example") {
		t.Errorf("first MX is %v: the limit must keep the most preferred", m.Records[0])
	}
	a, err := r.Addrs(t.Context(), addr.MustDomain("big.example"))
	if err != nil || len(a.Records) != maxAddrs || !a.Incomplete {
		t.Errorf("addresses: %d, incomplete %v, %v", len(a.Records), a.Incomplete, err)
	}
}

func TestOneFamily(t *testing.T) {
	d := start(t, zones)
	const (
		A    = miekg.TypeA
		AAAA = miekg.TypeAAAA
	)
	tests := []struct {
		name       string
		qtype      uint16
		fault      testnet.DNSFault
		want       Status // "" is an *Error
		incomplete bool
	}{
		{"mx1.signed.example", AAAA, testnet.DNSServFail, OK, true},
		{"mx1.signed.example", AAAA, testnet.DNSDrop, OK, true},
		{"mx1.signed.example", A, testnet.DNSServFail, OK, true},
		{"mx1.signed.example", AAAA, testnet.DNSNXDomain, OK, false}, // RFC 4074, section 4.2
		{"mx2.signed.example", A, testnet.DNSServFail, "", false},    // no AAAA, and A isn't known
		{"mx3.signed.example", AAAA, testnet.DNSServFail, "", false},
		{"signed.example", A, testnet.DNSNXDomain, NoSuchDomain, false},
		{"signed.example", AAAA, testnet.DNSNXDomain, NoSuchDomain, false},
		{"no.signed.example", A, testnet.DNSServFail, NoSuchDomain, false}, // RFC 8020
		{"no.signed.example", AAAA, testnet.DNSServFail, NoSuchDomain, false},
	}
	for _, tt := range tests {
		d.ClearFaults()
		d.SetFault(tt.name, tt.qtype, tt.fault)
		r := patient(t, d)
		if tt.fault == testnet.DNSDrop {
			// The family that does answer must make it within one try.
			r = resolver(t, Config{Server: d.Addr(), Timeout: time.Second, Tries: 1})
		}
		a, err := r.Addrs(t.Context(), addr.MustDomain(tt.name))
		if tt.want == "" {
			var e *Error
			if !errors.As(err, &e) || e.Type != miekg.TypeToString[tt.qtype] {
				t.Errorf("%s, %s for %s: %+v, %v, want an error", tt.name, tt.fault, miekg.TypeToString[tt.qtype], a, err)
			}
			continue
		}
		if err != nil || a.Status != tt.want || a.Incomplete != tt.incomplete || a.Incomplete != (a.Detail != "") ||
			(tt.want == OK) != (len(a.Records) == 1) || !a.Secure {
			t.Errorf("%s, %s for %s: %+v, %v", tt.name, tt.fault, miekg.TypeToString[tt.qtype], a, err)
		}
	}
}

// Addresses are secure when both families' are.
func TestOneFamilyInsecure(t *testing.T) {
	d := start(t, zones)
	for _, qtype := range []uint16{miekg.TypeA, miekg.TypeAAAA} {
		for _, name := range []string{"mx1.signed.example", "empty.signed.example"} {
			d.ClearFaults()
			d.SetFault(name, qtype, testnet.DNSInsecure)
			a, err := patient(t, d).Addrs(t.Context(), addr.MustDomain(name))
			if err != nil || a.Secure {
				t.Errorf("%s without AD for %s: %+v, %v", name, miekg.TypeToString[qtype], a, err)
			}
		}
	}
}

func TestAliases(t *testing.T) {
	d := start(t, zones)
	tests := []struct {
		name      string
		fault     testnet.DNSFault
		canonical string // "" is an *Error
		secure    bool
	}{
		{"www.signed.example", "", "mx1.signed.example", true},
		{"alias.signed.example", "", "mx1.signed.example", true},
		{"alias.signed.example", testnet.DNSNoFollow, "mx1.signed.example", true},
		{"back.plain.example", "", "mx1.signed.example", false},
		{"back.plain.example", testnet.DNSNoFollow, "mx1.signed.example", false}, // the first hop is not secure, the second is
		{"out.signed.example", testnet.DNSNoFollow, "mx.plain.example", false},   // the other way round
		{"c2.signed.example", "", "mx1.signed.example", true},                    // 8 aliases
		{"c2.signed.example", testnet.DNSNoFollow, "mx1.signed.example", true},
		{"c1.signed.example", "", "", false}, // 9 aliases
		{"c1.signed.example", testnet.DNSNoFollow, "", false},
		{"loop.signed.example", "", "", false},
		{"loop.signed.example", testnet.DNSNoFollow, "", false},
		{"self.signed.example", "", "", false},
		{"badalias.signed.example", "", "", false},
	}
	for _, tt := range tests {
		d.ClearFaults()
		d.SetFault("", 0, tt.fault)
		a, err := patient(t, d).Addrs(t.Context(), addr.MustDomain(tt.name))
		if tt.canonical == "" {
			var e *Error
			if !errors.As(err, &e) || e.Reason() != policy.DNSFailure {
				t.Errorf("%s %s: %+v, %v, want an error", tt.name, tt.fault, a, err)
			}
			continue
		}
		if err != nil || a.Status != OK || a.Canonical.String() != tt.canonical || a.Secure != tt.secure {
			t.Errorf("%s %s: %+v, %v, want %s, secure %v", tt.name, tt.fault, a, err, tt.canonical, tt.secure)
		}
	}
}

func TestSecureAlias(t *testing.T) {
	d := start(t, zones)
	d.SetFault("c1.signed.example", 0, testnet.DNSServFail)
	for _, tt := range []struct {
		name string
		want string
	}{
		{"www.signed.example", "true"},
		{"out.signed.example", "true"}, // its end isn't signed
		{"back.plain.example", "false"},
		{"mx1.signed.example", "false"}, // no alias
		{"no.signed.example", "CNAME of no.signed.example: NXDOMAIN"},
		{"c1.signed.example", "CNAME of c1.signed.example: SERVFAIL"},
	} {
		secure, err := patient(t, d).SecureAlias(t.Context(), addr.MustDomain(tt.name))
		got := fmt.Sprint(secure)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if secure, err := resolver(t, Config{Server: d.Addr(), DNSSEC: Off}).SecureAlias(t.Context(), addr.MustDomain("www.signed.example")); secure || err != nil {
		t.Errorf("without DNSSEC: %t, %v", secure, err)
	}
}

func TestADBelieved(t *testing.T) {
	d := start(t, zones)
	tests := []struct {
		c    Config
		want bool
	}{
		{Config{}, true},
		{Config{DNSSEC: Auto}, true},
		{Config{DNSSEC: On}, true},
		{Config{DNSSEC: On, TrustResolver: true}, true},
		{Config{DNSSEC: Off}, false},
		{Config{DNSSEC: Off, TrustResolver: true}, false},
	}
	for _, tt := range tests {
		tt.c.Server = d.Addr()
		a, err := resolver(t, tt.c).MX(t.Context(), addr.MustDomain("signed.example"))
		if err != nil || a.Secure != tt.want {
			t.Errorf("%+v: secure %v, %v, want %v", tt.c, a.Secure, err, tt.want)
		}
	}
	// Addresses outside loopback can't be had in a test: what New makes of them is looked at instead.
	for _, tt := range []struct {
		c               Config
		dnssec, believe bool
	}{
		{Config{Server: "192.0.2.53:53"}, true, false},
		{Config{Server: "192.0.2.53:53", TrustResolver: true}, true, true},
		{Config{Server: "192.0.2.53:53", DNSSEC: On, TrustResolver: true}, true, true},
		{Config{Server: "192.0.2.53:53", DNSSEC: Off}, false, false},
		{Config{Server: "[::1]:53"}, true, true},
		{Config{Server: "[::ffff:127.0.0.1]:53"}, true, true},
		{Config{Server: "127.0.0.53:53"}, true, true},
	} {
		if r := resolver(t, tt.c); r.dnssec != tt.dnssec || r.believe != tt.believe {
			t.Errorf("%+v: asks %v, believes %v", tt.c, r.dnssec, r.believe)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "resolv.conf")
	for _, tt := range []struct {
		c    Config
		want string // in the error
	}{
		{Config{ResolvConf: missing}, missing},
		{Config{Server: "dns.example:53"}, `resolver "dns.example:53": want an IP address and a port`},
		{Config{Server: "127.0.0.1:0"}, "want an IP address and a port"},
		{Config{Server: "127.0.0.1:domain"}, "want an IP address and a port"},
		{Config{Server: "192.0.2.53:53", DNSSEC: On}, `dnssec "on" needs a resolver on a loopback address`},
		{Config{Server: "127.0.0.1:53", DNSSEC: "yes"}, `dnssec "yes": want auto, on or off`},
		{Config{Server: "127.0.0.1:53", Timeout: -1}, "negative"},
		{Config{Server: "127.0.0.1:53", Tries: -1}, "negative"},
	} {
		if _, err := New(tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	for _, tt := range []struct {
		text, want string // want "" is an error
	}{
		{"nameserver 192.0.2.1\nnameserver 192.0.2.2\n", "192.0.2.1:53"},
		{"# made by hand\n;nameserver 192.0.2.1\nsearch example.com\nnameserver\t192.0.2.2 # the other\n", "192.0.2.2:53"},
		{"nameserver 2001:db8::53\n", "[2001:db8::53]:53"},
		{"nameserver fe80::1%eth0\n", "[fe80::1%eth0]:53"},
		{"nameserver 127.0.0.53\r\noptions edns0 trust-ad", "127.0.0.53:53"},
		{"nameservers 192.0.2.1\n", "127.0.0.1:53"},
		{"search example.com\n", "127.0.0.1:53"},
		{"", "127.0.0.1:53"},
		{"nameserver\n", ""},
		{"nameserver dns.example\n", ""},
		{"nameserver 192.0.2.1:53\n", ""},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := New(Config{ResolvConf: path})
		switch {
		case tt.want == "" && (err == nil || !strings.Contains(err.Error(), path+": line 1")):
			t.Errorf("%q: %v, want an error that names the line", tt.text, err)
		case tt.want != "" && (err != nil || r.Server() != tt.want):
			t.Errorf("%q: %v, %v, want %s", tt.text, r, err, tt.want)
		}
	}
	if r := resolver(t, Config{Server: "2001:db8::53"}); r.Server() != "[2001:db8::53]:53" {
		t.Errorf("address without a port: %s", r.Server())
	}
}

func TestContextEnds(t *testing.T) {
	d := start(t, zones)
	d.SetFault("", 0, testnet.DNSDrop)
	r := resolver(t, Config{Server: d.Addr(), Timeout: time.Hour})

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.Addrs(ctx, addr.MustDomain("mx1.signed.example"))
		done <- err
	}()
	cancel()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		select {
		case err := <-done:
			var e *Error
			if !errors.Is(err, want) || !errors.As(err, &e) || e.Reason() != policy.Timeout {
				t.Errorf("got %v, want %v with reason timeout", err, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the context ended and the look-up didn't")
		}
		go func() {
			_, err := r.MX(short, addr.MustDomain("signed.example"))
			done <- err
		}()
	}
	<-done
}

// A resolver that isn't there fails at once, and not as a timeout.
func TestNobodyListens(t *testing.T) {
	d := start(t, "")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := patient(t, d).MX(t.Context(), addr.MustDomain("signed.example"))
	var e *Error
	if !errors.As(err, &e) || e.Reason() != policy.DNSFailure {
		t.Errorf("got %v, want reason dns-failure", err)
	}
}

func TestNotAName(t *testing.T) {
	d := start(t, zones)
	for _, name := range []addr.Domain{{}, addr.MustDomain("[192.0.2.1]")} {
		if a, err := patient(t, d).MX(t.Context(), name); !errors.Is(err, errNotName) {
			t.Errorf("MX of %q: %+v, %v", name, a, err)
		}
	}
	if n := d.Queries("", 0); n != 0 {
		t.Errorf("%d queries were sent", n)
	}
}
