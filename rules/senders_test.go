package rules

import (
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Of the forms that a sender can have the one counts that more is asked of, for
// each recipient.
func TestSenderOf(t *testing.T) {
	rule := func(name, from, to string, level policy.Level) *Rule {
		return &Rule{Name: name, Mode: policy.Enforce, Level: level,
			From: []addr.Pattern{addr.MustPattern(from)}, To: []addr.Pattern{addr.MustPattern(to)}}
	}
	set := New([]*Rule{
		rule("a exempt", "@a.example", "@legacy.example", policy.LevelMay),
		rule("a", "@a.example", "@one.example", policy.LevelEncrypt),
		rule("b", "@b.example", "@one.example", policy.LevelSecure),
		rule("b legacy", "@b.example", "@legacy.example", policy.LevelEncrypt),
	})
	now := time.Now()
	of := func(forms ...string) Candidates {
		var senders []addr.Address
		for _, f := range forms {
			senders = append(senders, addr.MustAddress(f))
		}
		return set.SenderOf(senders, "", now)
	}
	for _, c := range []struct{ first, other, to, want string }{
		{"x@a.example", "x@b.example", "u@one.example", "b"},
		{"x@b.example", "x@a.example", "u@one.example", "b"},
		{"x@a.example", "x@b.example", "u@legacy.example", "b legacy"},
		{"x@a.example", "x@c.example", "u@legacy.example", "a exempt"},
		{"x@c.example", "x@a.example", "u@one.example", "a"},
		{"x@a.example", "x@b.example", "u@two.example", ""},
	} {
		got := ""
		if r := of(c.first, c.other).Match(addr.MustAddress(c.to)); r != nil {
			got = r.Name
		}
		if got != c.want {
			t.Errorf("%+v: rule %q", c, got)
		}
	}
}
