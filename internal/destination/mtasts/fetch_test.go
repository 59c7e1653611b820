package mtasts

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/testnet"
)

const enforce = "version: STSv1\r\nmode: enforce\r\nmx: mx.good.example\r\nmx: *.pool.example\r\nmax_age: 604800\r\n"

// book is a resolver of addresses.
type book map[string][]string

func (b book) Addrs(_ context.Context, host addr.Domain) (dns.Answer[netip.Addr], error) {
	a := dns.Answer[netip.Addr]{Status: dns.NoSuchDomain}
	for _, ip := range b[host.String()] {
		a.Status = dns.OK
		a.Records = append(a.Records, netip.MustParseAddr(ip))
	}
	return a, nil
}

func (b book) TXT(context.Context, addr.Domain) (dns.Answer[string], error) {
	return dns.Answer[string]{}, &dns.Error{Rcode: "SERVFAIL"}
}

func startSTS(t *testing.T) (*testnet.STS, *testnet.CA) {
	t.Helper()
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s, err := testnet.StartSTS("127.0.0.1:0", ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, ca
}

var policyHost = addr.MustDomain("mta-sts.good.example")

func testFetcher(s *testnet.STS, ca *testnet.CA) *fetcher {
	return &fetcher{
		resolver: book{policyHost.String(): {"127.0.0.1"}},
		roots:    ca.Pool(),
		dial:     (&net.Dialer{}).DialContext,
		port:     s.Address().Port(),
		timeout:  time.Minute,
	}
}

func TestFetch(t *testing.T) {
	s, ca := startSTS(t)
	f := testFetcher(s, ca)
	padded := enforce + strings.Repeat("x", maxPolicy-len(enforce))
	for _, text := range []string{enforce, "", padded} {
		s.SetPolicy("good.example", text)
		if got, err := f.fetch(t.Context(), policyHost); err != nil || string(got) != text {
			t.Errorf("%d octets, %v; want %d", len(got), err, len(text))
		}
	}
	s.SetPolicy("good.example", padded+"x")
	if _, err := f.fetch(t.Context(), policyHost); err == nil || !strings.Contains(err.Error(), "longer than 65536") {
		t.Errorf("an octet too many: %v", err)
	}
	f.roots = nil
	if _, err := f.fetch(t.Context(), policyHost); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("with the system's roots: %v", err)
	}
}

func TestFetchFaults(t *testing.T) {
	s, ca := startSTS(t)
	s.SetPolicy("good.example", enforce)
	want := map[testnet.STSFault]string{
		testnet.STSExpired:    "expired",
		testnet.STSWrongName:  "valid for good.example, not mta-sts.good.example",
		testnet.STSSelfSigned: "unknown authority",
		testnet.STSRedirect:   "status 301",
		testnet.STSCreated:    "status 201",
		testnet.STSNotFound:   "status 404",
		testnet.STSHTML:       "text/html",
		testnet.STSGzip:       "gzip",
		testnet.STSTooLong:    "longer than 65536",
		testnet.STSTruncated:  "unexpected EOF",
		testnet.STSUnframed:   "cut off",
		testnet.STSStall:      "deadline",
	}
	for _, fault := range testnet.STSFaults() {
		t.Run(string(fault), func(t *testing.T) {
			f := testFetcher(s, ca)
			if fault == testnet.STSStall {
				f.timeout = 300 * time.Millisecond
			}
			s.SetFault("good.example", fault)
			if text, err := f.fetch(t.Context(), policyHost); err == nil || !strings.Contains(err.Error(), want[fault]) {
				t.Errorf("%q, %v; want an error with %q", text, err, want[fault])
			}
			f = testFetcher(s, ca)
			s.SetFault("good.example", testnet.STSGood)
			if _, err := f.fetch(t.Context(), policyHost); err != nil {
				t.Errorf("mended: %v", err)
			}
		})
	}
}

// A host that takes connections and says nothing is left in time, and nothing goes on behind it: TestMain looks for that.
func TestFetchSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, ca := startSTS(t)
	f := &fetcher{
		resolver: book{policyHost.String(): {"127.0.0.1"}},
		roots:    ca.Pool(),
		dial:     (&net.Dialer{}).DialContext,
		port:     uint16(l.Addr().(*net.TCPAddr).Port),
		timeout:  100 * time.Millisecond,
	}
	if _, err := f.fetch(t.Context(), policyHost); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v; want the deadline", err)
	}
}

func TestFetchAddresses(t *testing.T) {
	s, ca := startSTS(t)
	s.SetPolicy("good.example", enforce)
	f := testFetcher(s, ca)
	var dialed []string
	closed := errors.New("closed")
	f.dial = func(_ context.Context, network, address string) (net.Conn, error) {
		dialed = append(dialed, network+" "+address)
		return nil, closed
	}
	f.port = 443
	f.resolver = book{policyHost.String(): {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1", "2001:db8::2"}}
	want := []string{"tcp 192.0.2.1:443", "tcp [2001:db8::1]:443", "tcp 192.0.2.2:443", "tcp [2001:db8::2]:443", "tcp 192.0.2.3:443"}
	if _, err := f.fetch(t.Context(), policyHost); !errors.Is(err, closed) || !slices.Equal(dialed, want) {
		t.Errorf("%v, dialed %q; want %q", err, dialed, want)
	}
	// The first hangs until its share of the time is over; the second is as good.
	f = testFetcher(s, ca)
	f.resolver = book{policyHost.String(): {"192.0.2.1", "127.0.0.1"}}
	f.timeout = 2 * time.Second
	f.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.") {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	if text, err := f.fetch(t.Context(), policyHost); err != nil || string(text) != enforce {
		t.Errorf("second address: %q, %v", text, err)
	}
	f.resolver = book{}
	if _, err := f.fetch(t.Context(), policyHost); err == nil || !strings.Contains(err.Error(), "no-such-domain") {
		t.Errorf("no address: %v", err)
	}
}

func TestMediaType(t *testing.T) {
	for media, ok := range map[string]bool{
		"text/plain":                   true,
		"Text/Plain; charset=utf-8":    true,
		"text/plain;charset=\"x\";a=b": true, // RFC 8461, section 3.2: other parameters are ignored
		"text/plain; charset":          true,
		"":                             false,
		"text/html":                    false,
		"text/plain2":                  false,
		"text":                         false,
		"application/octet-stream":     false,
	} {
		r := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {media}}, Body: http.NoBody}
		if _, err := read(r); (err == nil) != ok {
			t.Errorf("%q: %v", media, err)
		}
	}
}
