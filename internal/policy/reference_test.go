package policy

import (
	"crypto/x509/pkix"
	"fmt"
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

// TestNames takes the cases of RFC 7672, section 3.2.2, one by one.
func TestNames(t *testing.T) {
	d := addr.MustDomain
	for _, c := range []struct {
		name string
		way  ReferenceNames
		want string
	}{
		{"secure MX", ReferenceNames{Base: d("mx.example"), NextHop: d("example.com"), MX: true, Secure: true}, "[mx.example example.com]"},
		{"secure MX, CNAME at the next hop", ReferenceNames{Base: d("mx.example"), NextHop: d("example.com"), Alias: d("example.net"), MX: true, Secure: true},
			"[mx.example example.com example.net]"},
		{"secure MX to itself", ReferenceNames{Base: d("example.com"), NextHop: d("example.com"), MX: true, Secure: true}, "[example.com]"},
		{"secure MX to where the CNAME ends", ReferenceNames{Base: d("example.net"), NextHop: d("example.com"), Alias: d("example.net"), MX: true, Secure: true},
			"[example.net example.com]"},
		{"insecure MX", ReferenceNames{Base: d("mx.example"), NextHop: d("example.com"), MX: true}, "[mx.example]"},
		{"insecure MX, CNAME at the next hop", ReferenceNames{Base: d("mx.example"), NextHop: d("example.com"), Alias: d("example.net"), MX: true}, "[mx.example]"},
		{"no MX", ReferenceNames{Base: d("example.com"), NextHop: d("example.com"), Secure: true}, "[example.com]"},
		{"no MX, CNAME", ReferenceNames{Base: d("example.net"), NextHop: d("example.com"), Alias: d("example.net"), Secure: true}, "[example.net example.com]"},
		{"no MX, records below the first name", ReferenceNames{Base: d("example.com"), NextHop: d("example.com"), Alias: d("example.net"), Secure: true}, "[example.com]"},
		{"host in brackets", ReferenceNames{Base: d("mx.example"), NextHop: d("mx.example")}, "[mx.example]"},
		{"host in brackets, CNAME", ReferenceNames{Base: d("mx.example.net"), NextHop: d("mx.example"), Alias: d("mx.example.net")}, "[mx.example.net mx.example]"},
		{"nothing", ReferenceNames{}, "[]"},
	} {
		if got := fmt.Sprint(c.way.Names()); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAdmits(t *testing.T) {
	d := addr.MustDomain
	way := ReferenceNames{Base: d("mx.example"), NextHop: d("example.com"), MX: true, Secure: true}
	insecure := ReferenceNames{Base: d("mx.example"), NextHop: d("example.com"), MX: true}
	for _, c := range []struct {
		way     ReferenceNames
		names   []string
		subject string
		want    bool
	}{
		{way, []string{"mx.example"}, "", true},
		{way, []string{"other.example", "MX.example"}, "", true},
		{way, []string{"example.com"}, "", true},
		{insecure, []string{"example.com"}, "", false},
		{insecure, []string{"mx.example"}, "", true},
		{way, []string{"*.example.com"}, "", false},
		{way, []string{"*.example"}, "", false},
		{way, []string{"other.example"}, "CN=mx.example", false}, // the common name is not asked
		{way, nil, "CN=mx.example", true},
		{way, nil, "CN=MX.example,O=Example\\, Inc.", true},
		{way, nil, "OU=Mail+CN=mx.example,O=Example", true},
		{way, nil, "CN=a,CN=mx.example", true},
		{way, nil, "CN=other.example", false},
		{way, nil, `O=Evil\,CN=mx.example`, false},
		{way, nil, `O=Evil\+CN=mx.example`, false},
		{way, nil, `CN=mx.example\,x`, false},
		{way, nil, `CN=mx\.example`, false},
		{way, nil, "XCN=mx.example", false},
		{way, []string{"192.0.2.1"}, "CN=mx.example", true}, // an address is not a DNS name
		{way, []string{"192.0.2.1"}, "", false},
		{way, nil, "", false},
		{ReferenceNames{}, []string{""}, "CN=", false},
	} {
		if got := c.way.Admits(Certificate{Names: c.names, Subject: c.subject}); got != c.want {
			t.Errorf("%v %q: %v", c.names, c.subject, got)
		}
	}
	for name, want := range map[string]bool{"mx.example": true, "mx.example,CN=other": false, "a+CN=mx.example": false, `\,CN=mx.example`: false, "mx.example\\": false} {
		subject := pkix.Name{CommonName: name, Organization: []string{"x,CN=mx.example"}}.String()
		if got := way.Admits(Certificate{Subject: subject}); got != want {
			t.Errorf("common name %q, %s: %v", name, subject, got)
		}
	}
}

// A certificate's wildcard and a policy's stand for one label, at the left; addresses are names only in brackets.
func TestBears(t *testing.T) {
	for _, c := range []struct {
		in, name string
		want     bool
	}{
		{"mx.example.com", "mx.example.com", true},
		{"MX.Example.com.", "mx.example.com", true},
		{"*.example.com", "mx.example.com", true},
		{"*.example.com", "a.mx.example.com", false},
		{"*.example.com", "example.com", false},
		{"*.com", "example.com", false},
		{"*", "com", false},
		{"m*.example.com", "mx.example.com", false},
		{"mx.*.com", "mx.example.com", false},
		{"xn--bcher-kva.example", "bücher.example", true},
		{"192.0.2.1", "[192.0.2.1]", true},
		{"::ffff:192.0.2.1", "[192.0.2.1]", true},
		{"2001:db8::1", "[IPv6:2001:db8::1]", true},
		{"192.0.2.2", "[192.0.2.1]", false},
		{"", "mx.example.com", false},
	} {
		d := addr.MustDomain(c.name)
		if got := (Certificate{Names: []string{"other.example", c.in}}).Bears(d); got != c.want {
			t.Errorf("a certificate for %q and %s: %v", c.in, c.name, got)
		}
		if d.IsLiteral() || strings.ToLower(c.in) != c.in {
			continue // policies have names in one form only
		}
		if got := (STS{MX: []string{"other.example", c.in}}).Permits(d); got != c.want {
			t.Errorf("a policy for %q and %s: %v", c.in, c.name, got)
		}
	}
}

func TestTLSAText(t *testing.T) {
	r := TLSA{3, 1, 1, []byte{0xab, 0x01}}
	text, err := r.MarshalText()
	var again TLSA
	if err != nil || string(text) != "3 1 1 ab01" || again.UnmarshalText(text) != nil || again.String() != r.String() {
		t.Errorf("%s, %v, read again %s", text, err, again)
	}
	for _, bad := range []string{"", "3 1", "3 1 1 x", "256 1 1 ab", "3 1 1 abc"} {
		if err := new(TLSA).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
