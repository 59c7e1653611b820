package owner

import (
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

// RFC 7929's own example, section 3, and what must be the same as it.
func TestName(t *testing.T) {
	const hugh = "c93f1e400f26708f98cb19d936620da35eec8f72e57f9eec01c1afd6._openpgpkey.example.com"
	for address, want := range map[string]string{
		"hugh@example.com":   hugh,
		`"hugh"@EXAMPLE.com`: hugh,
		"hugh@[192.0.2.1]":   "",
		"hugh":               "",
		"hugh@" + strings.Repeat("a.", 100) + "com": "",
	} {
		got, err := Name(addr.MustAddress(address), OpenPGP)
		if got.String() != want || (err != nil) != (want == "") {
			t.Errorf("%s: %s, %v, want %s", address, got, err, want)
		}
	}
	// A letter in two pieces, and in one.
	two, err := Name(addr.MustAddress("ju\u0308rgen@example.com"), SMIME)
	one, err2 := Name(addr.MustAddress("j\u00fcrgen@example.com"), SMIME)
	if err != nil || err2 != nil || one != two {
		t.Errorf("%s, %v; %s, %v", two, err, one, err2)
	}
	// Case is for the host to judge.
	if upper, err := Name(addr.MustAddress("Hugh@example.com"), OpenPGP); err != nil || upper.String() == hugh {
		t.Errorf("%s, %v", upper, err)
	}
}
