package profile

import "testing"

// What an MTA can do goes by its version, where that is known.
func TestVersion(t *testing.T) {
	for _, c := range []struct {
		mta    MTA
		banner bool // it takes a long one
		ffdhe  bool // it offers Diffie-Hellman over a finite field with TLS 1.3
	}{
		{MTA{Dialect: Postfix}, true, false},
		{MTA{Dialect: Postfix, Version: "3.7.11"}, true, false},
		{MTA{Dialect: Postfix, Version: "3.8.0"}, false, true},
		{MTA{Dialect: Postfix, Version: "3.10.13"}, false, true},
		{MTA{Dialect: Postfix, Version: "4.0"}, false, true},
		{MTA{Dialect: Postfix, Version: "2.11.3"}, true, false},
		{MTA{Dialect: Postfix, Version: "3.11-20251124"}, false, true},
		{MTA{Dialect: Postfix, Version: "mail"}, true, false},
		{MTA{Dialect: Sendmail, Version: "8.18.1"}, true, true},
		{MTA{}, true, true},
	} {
		if got := c.mta.TakesLongBanner(); got != c.banner {
			t.Errorf("%s %s: takes a long banner: %t", c.mta.Dialect, c.mta.Version, got)
		}
		if got := c.mta.Assumed().TLS.Shares(256); got != c.ffdhe {
			t.Errorf("%s %s: offers ffdhe2048: %t", c.mta.Dialect, c.mta.Version, got)
		}
		if !c.mta.Assumed().TLS.Shares(29) {
			t.Errorf("%s %s: doesn't offer X25519", c.mta.Dialect, c.mta.Version)
		}
	}
}
