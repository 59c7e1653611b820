package testnet

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

const testZones = `
$ORIGIN signed.example.
@         3600 SOA ns hostmaster 1 3600 600 86400 120
@              MX 10 mx
mx             A 192.0.2.1
mx             AAAA 2001:db8::1
www            CNAME mx
out            CNAME mx.plain.example.
gone           CNAME nowhere
deep.empty     A 192.0.2.2
loop           CNAME loop2
loop2          CNAME loop

$ORIGIN plain.example.
mx             A 192.0.2.9
*.bulk         MX 10 mx
kept.bulk      A 192.0.2.3
big            TXT ` + bigText + "\n"

const bigText = `"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
big TXT "1123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
big TXT "2123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
big TXT "3123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
big TXT "4123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"`

func startDNS(t *testing.T, zones string) *DNS {
	t.Helper()
	leaked := goleak.IgnoreCurrent()
	d, err := StartDNS("127.0.0.1:0", zones)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leaked)
	})
	return d
}

type dnsAsk struct {
	name    string
	qtype   uint16
	tcp     bool
	ad, do  bool
	timeout time.Duration
}

func (d *DNS) exchange(a dnsAsk) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(a.name, a.qtype)
	q.AuthenticatedData = a.ad
	if a.do {
		q.SetEdns0(1232, true)
	}
	c := dns.Client{Net: "udp", Timeout: 10 * time.Second}
	if a.timeout > 0 {
		c.Timeout = a.timeout
	}
	if a.tcp {
		c.Net = "tcp"
	}
	m, _, err := c.Exchange(q, d.Addr())
	return m, err
}

func TestDNSAnswers(t *testing.T) {
	d := startDNS(t, testZones)
	tests := []struct {
		name   string
		qtype  uint16
		rcode  int
		answer string // the records' data, joined by a space; "" with an SOA in the authority section
	}{
		{"signed.example.", dns.TypeMX, dns.RcodeSuccess, "10 mx.signed.example."},
		{"SIGNED.example.", dns.TypeMX, dns.RcodeSuccess, "10 mx.signed.example."},
		{"mx.signed.example.", dns.TypeAAAA, dns.RcodeSuccess, "2001:db8::1"},
		{"www.signed.example.", dns.TypeA, dns.RcodeSuccess, "mx.signed.example. 192.0.2.1"},
		{"www.signed.example.", dns.TypeCNAME, dns.RcodeSuccess, "mx.signed.example."},
		{"www.signed.example.", dns.TypeMX, dns.RcodeSuccess, "mx.signed.example."},
		{"out.signed.example.", dns.TypeA, dns.RcodeSuccess, "mx.plain.example. 192.0.2.9"},
		{"gone.signed.example.", dns.TypeA, dns.RcodeNameError, "nowhere.signed.example."},
		{"loop.signed.example.", dns.TypeA, dns.RcodeSuccess, "loop2.signed.example. loop.signed.example."},
		{"signed.example.", dns.TypeA, dns.RcodeSuccess, ""},
		{"empty.signed.example.", dns.TypeA, dns.RcodeSuccess, ""},
		{"example.", dns.TypeA, dns.RcodeSuccess, ""},
		{"no.signed.example.", dns.TypeA, dns.RcodeNameError, ""},
		{"test.", dns.TypeA, dns.RcodeNameError, ""},
		{"d1.bulk.plain.example.", dns.TypeMX, dns.RcodeSuccess, "10 mx.plain.example."},
		{"a.b.bulk.plain.example.", dns.TypeMX, dns.RcodeSuccess, "10 mx.plain.example."},
		{"d1.bulk.plain.example.", dns.TypeA, dns.RcodeSuccess, ""},
		// RFC 4592, section 2.2.1: a name that exists hides the wildcard, for itself and for what is below it.
		{"kept.bulk.plain.example.", dns.TypeMX, dns.RcodeSuccess, ""},
		{"x.kept.bulk.plain.example.", dns.TypeMX, dns.RcodeNameError, ""},
	}
	for _, tt := range tests {
		m, err := d.exchange(dnsAsk{name: tt.name, qtype: tt.qtype})
		if err != nil {
			t.Errorf("%s %d: %v", tt.name, tt.qtype, err)
			continue
		}
		var data []string
		for _, rr := range m.Answer {
			data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		if got := strings.Join(data, " "); m.Rcode != tt.rcode || got != tt.answer {
			t.Errorf("%s %d = %s %q, want %s %q", tt.name, tt.qtype,
				dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tt.rcode], tt.answer)
		}
		if tt.answer == "" && (len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA) {
			t.Errorf("%s %d: authority section %v, want an SOA", tt.name, tt.qtype, m.Ns)
		}
	}
	if n := d.Queries("signed.example", dns.TypeMX); n != 2 {
		t.Errorf("queries of signed.example MX = %d, want 2: case does not count", n)
	}
	if n := d.Queries("", 0); n != len(tests) {
		t.Errorf("all queries = %d, want %d", n, len(tests))
	}
}

func TestDNSSecure(t *testing.T) {
	d := startDNS(t, testZones)
	d.SetSecure("signed.example")
	tests := []struct {
		ask  dnsAsk
		want bool
	}{
		{dnsAsk{name: "signed.example.", qtype: dns.TypeMX, do: true}, true},
		{dnsAsk{name: "signed.example.", qtype: dns.TypeMX, ad: true}, true},
		{dnsAsk{name: "signed.example.", qtype: dns.TypeMX}, false},
		{dnsAsk{name: "www.signed.example.", qtype: dns.TypeA, do: true}, true},
		{dnsAsk{name: "no.signed.example.", qtype: dns.TypeA, do: true}, true},
		{dnsAsk{name: "out.signed.example.", qtype: dns.TypeA, do: true}, false},
		{dnsAsk{name: "mx.plain.example.", qtype: dns.TypeA, do: true}, false},
		{dnsAsk{name: "notsigned.example.", qtype: dns.TypeA, do: true}, false},
	}
	for _, tt := range tests {
		m, err := d.exchange(tt.ask)
		if err != nil || m.AuthenticatedData != tt.want {
			t.Errorf("%+v: AD %v, %v, want %v", tt.ask, m != nil && m.AuthenticatedData, err, tt.want)
		}
	}
}

func TestDNSFaults(t *testing.T) {
	d := startDNS(t, testZones)
	ask := dnsAsk{name: "mx.signed.example.", qtype: dns.TypeA}
	rcode := func(want int) func(*dns.Msg, error) bool {
		return func(m *dns.Msg, err error) bool { return err == nil && m.Rcode == want && len(m.Answer) == 0 }
	}
	truncated := func(m *dns.Msg, err error) bool { return err == nil && m.Truncated && len(m.Answer) == 0 }
	full := func(m *dns.Msg, err error) bool { return err == nil && !m.Truncated && len(m.Answer) == 1 }
	unanswered := func(_ *dns.Msg, err error) bool {
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout()
	}
	tests := []struct {
		fault    DNSFault
		udp, tcp func(*dns.Msg, error) bool
	}{
		{DNSServFail, rcode(dns.RcodeServerFailure), rcode(dns.RcodeServerFailure)},
		{DNSRefused, rcode(dns.RcodeRefused), rcode(dns.RcodeRefused)},
		{DNSFormErr, rcode(dns.RcodeFormatError), rcode(dns.RcodeFormatError)},
		{DNSNXDomain, rcode(dns.RcodeNameError), rcode(dns.RcodeNameError)},
		{DNSDrop, unanswered, unanswered},
		{DNSTruncateUDP, truncated, full},
		{DNSTruncateAlways, truncated, truncated},
		{DNSWrongID, unanswered, func(_ *dns.Msg, err error) bool { return errors.Is(err, dns.ErrId) }},
		{DNSGarbage, func(_ *dns.Msg, err error) bool { return err != nil }, func(_ *dns.Msg, err error) bool { return err != nil }},
	}
	for _, tt := range tests {
		d.SetFault("mx.signed.example", 0, tt.fault)
		ask := ask
		switch tt.fault {
		case DNSDrop, DNSWrongID, DNSGarbage: // the client may wait for a better answer
			ask.timeout = 50 * time.Millisecond
		}
		if m, err := d.exchange(ask); !tt.udp(m, err) {
			t.Errorf("%s over UDP: %v, %v", tt.fault, m, err)
		}
		if ask.tcp = true; !tt.tcp(d.exchange(ask)) {
			t.Errorf("%s over TCP", tt.fault)
		}
	}

	// The most exact fault counts.
	d.ClearFaults()
	d.SetFault("", 0, DNSRefused)
	d.SetFault("", dns.TypeMX, DNSServFail)
	d.SetFault("signed.example", 0, DNSFormErr)
	d.SetFault("signed.example", dns.TypeTXT, DNSNXDomain)
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  int
	}{
		{"mx.signed.example.", dns.TypeA, dns.RcodeRefused},
		{"mx.signed.example.", dns.TypeMX, dns.RcodeServerFailure},
		{"signed.example.", dns.TypeMX, dns.RcodeFormatError},
		{"signed.example.", dns.TypeTXT, dns.RcodeNameError},
	} {
		if m, err := d.exchange(dnsAsk{name: tt.name, qtype: tt.qtype}); err != nil || m.Rcode != tt.want {
			t.Errorf("%s %d: %v, %v, want %s", tt.name, tt.qtype, m, err, dns.RcodeToString[tt.want])
		}
	}
	d.ClearFaults()
	if m, err := d.exchange(ask); !full(m, err) {
		t.Errorf("after ClearFaults: %v, %v", m, err)
	}
}

// A large answer is cut over UDP by itself, as a real server does.
func TestDNSLargeAnswer(t *testing.T) {
	d := startDNS(t, testZones)
	ask := dnsAsk{name: "big.plain.example.", qtype: dns.TypeTXT}
	if m, err := d.exchange(ask); err != nil || !m.Truncated {
		t.Errorf("512 octets: %v, %v, want TC", m, err)
	}
	ask.do = true
	if m, err := d.exchange(ask); err != nil || m.Truncated || len(m.Answer) != 5 {
		t.Errorf("1232 octets: %v, %v, want 5 records", m, err)
	}
}

func TestDNSSetZones(t *testing.T) {
	d := startDNS(t, "a.example. A 192.0.2.1")
	if err := d.SetZones("a.example. A not-an-address"); err == nil {
		t.Error("a bad zone was taken")
	}
	ask := dnsAsk{name: "a.example.", qtype: dns.TypeA}
	if m, err := d.exchange(ask); err != nil || len(m.Answer) != 1 {
		t.Errorf("after a bad zone: %v, %v, want the old one", m, err)
	}
	if err := d.SetZones("b.example. A 192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if m, err := d.exchange(ask); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("after a new zone: %v, %v, want NXDOMAIN", m, err)
	}
	if _, err := StartDNS("127.0.0.1:0", "a.example. A not-an-address"); err == nil {
		t.Error("StartDNS took a bad zone")
	}
}

// Close does not wait for a late answer, and takes UDP and TCP away.
func TestDNSCloseWhileLate(t *testing.T) {
	d := startDNS(t, testZones)
	d.SetDelay("mx.signed.example", 0, time.Hour)
	conn, err := net.Dial("udp", d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := new(dns.Msg).SetQuestion("mx.signed.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(p); err != nil {
		t.Fatal(err)
	}
	// Datagrams are taken in order: when this is answered, the other is being dealt with.
	if _, err := d.exchange(dnsAsk{name: "signed.example.", qtype: dns.TypeMX}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for a late answer")
	}
	again, err := StartDNS(d.Addr(), "")
	if err != nil {
		t.Fatalf("the port is not free after Close: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
