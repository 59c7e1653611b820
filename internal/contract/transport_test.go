package contract

import "testing"

func TestTransport(t *testing.T) {
	for _, c := range []struct {
		name  string
		class int
		of    string
	}{
		{"tlsonly", 0, ""},
		{"tlsonly1", 1, ""},
		{"tlsonly12", 12, ""},
		{"tlsonly-smtp", 0, "smtp"},
		{"tlsonly3-smtp-167", 3, "smtp-167"},
		{"tlsonly1-plesk-192.0.2.1-", 1, "plesk-192.0.2.1-"},
		{"tlsonly1-tlsonly1", 1, "tlsonly1"},
		{"tlsonly--x", 0, "-x"},
	} {
		class, of, ok := ParseTransport(c.name)
		if !ok || class != c.class || of != c.of {
			t.Errorf("%s: %d, %q, %t", c.name, class, of, ok)
		}
		if got := Transport(c.class, c.of); got != c.name {
			t.Errorf("%d of %q: %s, want %s", c.class, c.of, got, c.name)
		}
	}
	for _, name := range []string{"", "smtp", "tls", "tlsonly-", "tlsonly1-", "tlsonlyx", "tlsonly1x", "tlsonly1x-smtp", "TLSonly", "tlsonly1234567890", "xtlsonly"} {
		if IsTransport(name) {
			t.Errorf("%q is ours", name)
		}
	}
}
