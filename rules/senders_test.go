package rules

import (
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Of a sender that may be several addresses the strictest rule decides, for each
// recipient.
func TestSenderOf(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	rule := func(name, from, to string, level policy.Level, mode policy.Mode) *Rule {
		r := &Rule{Name: name, Level: level, Mode: mode, MinVersion: policy.TLS12, From: []addr.Pattern{addr.MustPattern(from)}}
		if to != "" {
			r.To = []addr.Pattern{addr.MustPattern(to)}
		}
		return r
	}
	login := &Rule{Name: "login", Level: policy.LevelSecure, Mode: policy.Enforce, User: []string{"alice"}}
	s := New([]*Rule{
		rule("may", "@a.example", "@to.example", policy.LevelMay, policy.Enforce),
		rule("a", "@a.example", "", policy.LevelEncrypt, policy.Enforce),
		rule("watched", "@b.example", "", policy.LevelSecure, policy.Observe),
		rule("c", "@c.example", "@to.example", policy.LevelSecure, policy.Enforce),
		login,
	})
	a, b, c, d := addr.MustAddress("x@a.example"), addr.MustAddress("x@b.example"), addr.MustAddress("x@c.example"), addr.MustAddress("x@d.example")
	to, far := addr.MustAddress("u@to.example"), addr.MustAddress("u@far.example")
	for _, test := range []struct {
		from      []addr.Address
		to        addr.Address
		want      string
		candidate bool
	}{
		{[]addr.Address{a}, to, "may", true},
		{[]addr.Address{d, a}, far, "a", true},
		{[]addr.Address{a, b}, far, "a", true},
		{[]addr.Address{b, a}, far, "a", true},
		{[]addr.Address{a, c}, to, "c", true},
		{[]addr.Address{c, a}, to, "c", true},
		{[]addr.Address{c, a}, far, "a", true},
		{[]addr.Address{d, b}, far, "watched", true},
		{[]addr.Address{d, d}, far, "", false},
		{nil, far, "", false},
	} {
		found := s.SenderOf(d, test.from, "", now)
		got := ""
		if r := found.Match(test.to); r != nil {
			got = r.Name
		}
		if got != test.want || found.Empty() == test.candidate {
			t.Errorf("%v to %s: %q, empty %t; want %q", test.from, test.to, got, found.Empty(), test.want)
		}
	}
	if r := s.ByLogin(s.Sender(a, "", now), now).Match(to); r != login {
		t.Errorf("of a login's sender: %v", r)
	}
	if r := s.Sender(a, "", now).Match(to); r.Name != "may" {
		t.Errorf("the sender itself was changed: %v", r)
	}
	forms := addr.Forms{}
	if login.NamesSender(forms, a) || !s.Rules()[1].NamesSender(forms, a) || s.Rules()[1].NamesSender(forms, b) || !(&Rule{}).NamesSender(forms, d) {
		t.Error("rules name the wrong senders")
	}
}

func TestBeginning(t *testing.T) {
	s := New([]*Rule{{From: []addr.Pattern{addr.MustPattern("@clinic.example"), addr.MustPattern("doctor@clinic.test"),
		addr.MustPattern("@.example.com"), addr.MustPattern("@clinics.example"), addr.MustPattern("*")}}})
	var got string
	for _, d := range s.Beginning(addr.MustDomain("clinic")) {
		got += d.String() + " "
	}
	if got != "clinic.example clinic.example.com clinic.test " {
		t.Errorf("got %s", got)
	}
}
