package main

import (
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/mta/postfix"
)

func TestProtectsAndExcepts(t *testing.T) {
	c, err := config.Parse("x", []byte(`
[[rule]]
name = "exempt"
from = ["@clinic.example"]
to = ["@partner.example", "@.wide.example", "u@single.example"]
tls = "may"
[[rule]]
name = "clinic"
from = ["@clinic.example", "boss@shop.example", "@.below.example"]
tls = "encrypt"
[[rule]]
name = "login"
user = ["alice"]
tls = "encrypt"
[[rule]]
name = "looks"
from = ["@observed.example"]
tls = "encrypt"
mode = "observe"
`), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	share := protects(c.Rules, time.Now())
	for pattern, want := range map[string]postfix.Share{
		"@clinic.example": postfix.All, "u@clinic.example": postfix.All, "@.clinic.example": postfix.Some,
		"@shop.example": postfix.Some, "boss@shop.example": postfix.All, "boss+x@shop.example": postfix.All, "x@shop.example": postfix.None,
		"@x.below.example": postfix.All, "@.below.example": postfix.All, "@.example": postfix.Some,
		"@observed.example": postfix.None, "@other.example": postfix.None, "*": postfix.Some,
	} {
		if got := share(addr.MustPattern(pattern)); got != want {
			t.Errorf("%s: %d, want %d", pattern, got, want)
		}
	}
	exempt := excepts(c.Rules, time.Now())
	for domain, want := range map[string]bool{
		"partner.example": true, "x.partner.example": false, "x.wide.example": true, "wide.example": true, "single.example": true, "clinic.example": false,
	} {
		if got := exempt(addr.MustDomain(domain)); got != want {
			t.Errorf("%s: %v, want %v", domain, got, want)
		}
	}
}
