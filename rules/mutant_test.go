package rules

import (
	"slices"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Each case here is one that a changed condition would get wrong and no other test would notice; "make mutate" looks for more.

// Each thing that only one of two demands asks for is asked for by both together, whichever comes first.
func TestStricterKeepsWhatOneAsks(t *testing.T) {
	plain := policy.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128}
	for _, c := range []struct {
		what string
		set  func(*policy.Demand)
		has  func(policy.Demand) bool
	}{
		{"pin", func(d *policy.Demand) { d.Pin = true }, func(d policy.Demand) bool { return d.Pin }},
		{"DANE", func(d *policy.Demand) { d.Honor.DANE = true }, func(d policy.Demand) bool { return d.Honor.DANE }},
		{"MTA-STS", func(d *policy.Demand) { d.Honor.MTASTS = true }, func(d policy.Demand) bool { return d.Honor.MTASTS }},
	} {
		asks := plain
		c.set(&asks)
		if got := Stricter(plain, asks); !c.has(got) {
			t.Errorf("%s asked by the second: %+v", c.what, got)
		}
		if got := Stricter(asks, plain); !c.has(got) {
			t.Errorf("%s asked by the first: %+v", c.what, got)
		}
		if got := Stricter(plain, plain); c.has(got) {
			t.Errorf("%s asked by none: %+v", c.what, got)
		}
	}
}

func TestProtects(t *testing.T) {
	over := enforce("over", policy.LevelEncrypt, patterns("@over.example"), nil)
	over.Until = noon().Add(-time.Hour)
	observed := enforce("observed", policy.LevelEncrypt, patterns("@observed.example"), nil)
	observed.Mode = policy.Observe
	named := []*Rule{
		enforce("domain", policy.LevelEncrypt, patterns("@clinic.example"), nil),
		enforce("address", policy.LevelEncrypt, patterns("billing@shop.example"), nil),
		enforce("exception", policy.LevelMay, patterns("@open.example"), nil),
		enforce("all", policy.LevelEncrypt, patterns("*"), patterns("@partner.example")),
		over, observed,
	}
	below := append([]*Rule{enforce("below", policy.LevelEncrypt, patterns("@.group.example"), nil)}, named...)
	for _, c := range []struct {
		rules  []*Rule
		domain string
		want   bool
	}{
		{named, "clinic.example", true},
		{named, "a.clinic.example", false},
		{named, "shop.example", true},
		{named, "open.example", false},
		{named, "partner.example", false},
		{named, "over.example", false},
		{named, "observed.example", false},
		{named, "a.group.example", false},
		{below, "group.example", true},
		{below, "a.group.example", true},
		{below, "a.b.group.example", true},
		{below, "other.example", false},
		{below, "clinic.example", true},
	} {
		if got := New(c.rules).Protects(addr.MustDomain(c.domain), noon()); got != c.want {
			t.Errorf("%s of %d rules: %t", c.domain, len(c.rules), got)
		}
	}
	if New(below).Protects(addr.Domain{}, noon()) {
		t.Error("no domain is protected")
	}
}

func TestForwarders(t *testing.T) {
	governs := enforce("ward", policy.LevelEncrypt, patterns("@clinic.example"), patterns("@in.example"))
	governs.Forwarder = patterns("ward@in.example")
	over := *governs
	over.Until = noon().Add(-time.Hour)
	byUser := *governs
	byUser.From, byUser.User = nil, []string{"Nurse"}
	anyUser := *governs
	anyUser.From, anyUser.User = nil, []string{"*"}
	anybody := *governs
	anybody.From = nil
	ward, other := addr.MustAddress("ward@in.example"), addr.MustAddress("x@in.example")
	for _, c := range []struct {
		what       string
		rule       *Rule
		from, user string
		to         addr.Address
		path       []addr.Address
		any, want  bool
	}{
		{"of the sender, by way of it", governs, "doctor@clinic.example", "", ward, []addr.Address{ward}, true, true},
		{"further on the way", governs, "doctor@clinic.example", "", other, []addr.Address{other, ward}, true, true},
		{"not by way of it", governs, "doctor@clinic.example", "", other, []addr.Address{other}, true, false},
		{"another sender", governs, "x@far.example", "", ward, []addr.Address{ward}, true, false},
		{"another recipient", governs, "doctor@clinic.example", "", addr.MustAddress("x@far.example"), []addr.Address{ward}, true, false},
		{"over", &over, "doctor@clinic.example", "", ward, []addr.Address{ward}, false, false},
		{"a login", &byUser, "x@far.example", "nurse", ward, []addr.Address{ward}, true, true},
		{"another login", &byUser, "x@far.example", "porter", ward, []addr.Address{ward}, true, false},
		{"no login", &byUser, "x@far.example", "", ward, []addr.Address{ward}, true, false},
		{"any login", &anyUser, "x@far.example", "porter", ward, []addr.Address{ward}, true, true},
		{"any login, none", &anyUser, "x@far.example", "", ward, []addr.Address{ward}, true, false},
		{"anybody", &anybody, "x@far.example", "", ward, []addr.Address{ward}, true, true},
	} {
		candidates := New([]*Rule{c.rule}).Sender(addr.MustAddress(c.from), c.user, noon())
		if got := candidates.Forwarders(); got != c.any {
			t.Errorf("%s: any: %t", c.what, got)
		}
		if got := candidates.Empty(); got == c.any {
			t.Errorf("%s: empty: %t", c.what, got)
		}
		if got := candidates.Forwarder(c.to, c.path); (got == c.rule) != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
		if got := candidates.Match(c.to); got != nil {
			t.Errorf("%s: decides about mail that isn't forwarded: %v", c.what, got)
		}
	}
	// Before there is mail: an exception for some senders is none, what is asked of some counts.
	exception := *governs
	exception.Level = policy.LevelMay
	anybodyMay := exception
	anybodyMay.From = nil
	for i, c := range []struct {
		rules []*Rule
		want  int
	}{
		{[]*Rule{&exception, &anybody}, 1},
		{[]*Rule{&anybodyMay, &anybody}, 0},
		{[]*Rule{governs, &anybodyMay}, 0},
		{[]*Rule{&over, &anybody}, 1},
	} {
		if got := New(c.rules).Governs(ward, []addr.Address{ward}, noon()); got != c.rules[c.want] {
			t.Errorf("audit %d: %v", i, got)
		}
	}
	var none Candidates
	if none.Forwarders() || !none.Empty() || none.Forwarder(ward, []addr.Address{ward}) != nil {
		t.Error("the zero Candidates govern something")
	}
}

// What isn't asked for isn't looked into, and demands are joined by their stricter parts.
func TestStricterAuthentication(t *testing.T) {
	names := func(s ...string) (ds []addr.Domain) {
		for _, n := range s {
			ds = append(ds, addr.MustDomain(n))
		}
		return ds
	}
	a := policy.Demand{Level: policy.LevelSecure, Match: names("a.example", "b.example")}
	b := policy.Demand{Level: policy.LevelSecure, Match: names("b.example", "c.example"), Honor: policy.Honor{DANE: true}}
	both := Stricter(a, b)
	if !slices.Equal(both.Match, names("b.example")) || !both.Honor.DANE {
		t.Errorf("joined: %+v", both)
	}
	encrypt := policy.Demand{Level: policy.LevelEncrypt}
	if got := Stricter(encrypt, a); !slices.Equal(got.Match, a.Match) || got.Level != policy.LevelSecure {
		t.Errorf("joined with encrypt: %+v", got)
	}
}
