package dane

import (
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

func TestOwner(t *testing.T) {
	long := strings.Repeat("a.", 119) + "example" // 245 octets
	for _, c := range []struct {
		base string
		port uint16
		want string // "" for an error
	}{
		{"mx.example.com", 25, "_25._tcp.mx.example.com"},
		{"MX.Example.com.", 465, "_465._tcp.mx.example.com"},
		{"bücher.example", 25, "_25._tcp.xn--bcher-kva.example"},
		{"under_score.example", 65535, "_65535._tcp.under_score.example"},
		{"com", 25, "_25._tcp.com"},
		{long[2:], 25, "_25._tcp." + long[2:]},
		{long, 25, ""},
		{"[192.0.2.1]", 25, ""},
		{"[IPv6:2001:db8::1]", 25, ""},
	} {
		got, err := Owner(addr.MustDomain(c.base), c.port)
		if got.String() != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%d %s: %q, %v; want %q", c.port, c.base, got, err, c.want)
		}
	}
	if got, err := Owner(addr.Domain{}, 25); err == nil {
		t.Errorf("no domain: %s", got)
	}
}

// The digest is that of a record which matches.
func TestKeyDigest(t *testing.T) {
	h := (&maker{t: t}).issue("mx.example", nil)
	want := rr(3, 1, 1, h)
	if got := KeyDigest(h.cert.Raw); "3 1 1 "+got != want.String() {
		t.Errorf("%s, want %s", got, want)
	}
	if got := KeyDigest([]byte("no certificate")); got != "" {
		t.Errorf("of junk: %s", got)
	}
}
