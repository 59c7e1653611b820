package rules

import (
	"slices"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Names are those of the rules that could have accepted mail to a domain, and of no others.
func TestNames(t *testing.T) {
	now := time.Now()
	named := func(name string, change func(*Rule), to ...string) *Rule {
		r := &Rule{Level: policy.LevelSecure, Mode: policy.Enforce, Match: []addr.Domain{addr.MustDomain(name)}, To: patterns(to...)}
		if change != nil {
			change(r)
		}
		return r
	}
	s := New([]*Rule{
		named("address.test", nil, "u@one.example"),
		named("domain.test", nil, "@one.example", "@two.example"),
		named("below.test", nil, "@.two.example"),
		named("observes.test", func(r *Rule) { r.Mode = policy.Observe }),
		named("over.test", func(r *Rule) { r.Until = now }),
		named("encrypt.test", func(r *Rule) { r.Level = policy.LevelEncrypt }),
	})
	every := New([]*Rule{named("all.test", nil), named("any.test", nil, "*")})
	forwards := New([]*Rule{named("forward.test", func(r *Rule) { r.Forwarder = patterns("@here.example") }, "@here.example")})
	for _, c := range []struct {
		set  *Set
		d    string
		want []string
	}{
		{s, "one.example", []string{"address.test", "domain.test"}},
		{s, "two.example", []string{"domain.test", "below.test"}},
		{s, "a.two.example", []string{"below.test"}},
		{s, "three.example", nil},
		{s, "", []string{"address.test", "domain.test", "below.test"}},
		{every, "one.example", []string{"all.test", "any.test"}},
		{forwards, "one.example", []string{"forward.test"}}, // its recipients aren't where forwards lead
	} {
		var d addr.Domain
		if c.d != "" {
			d = addr.MustDomain(c.d)
		}
		var got []string
		for _, n := range c.set.Names(d, now) {
			got = append(got, n.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.d, got, c.want)
		}
	}
}
