package rules

import (
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Delivery holds what a recipient sends on where it asks as much of any other
// recipient, by the sender alone.
func TestHolds(t *testing.T) {
	now := time.Now()
	here := []addr.Pattern{addr.MustPattern("@here.example")}
	lab := []addr.Pattern{addr.MustPattern("@lab.example")}
	rule := func(name, from string, level policy.Level, change func(*Rule)) *Rule {
		r := &Rule{Name: name, Level: level, MinVersion: policy.TLS12, MinBits: 128, Mode: policy.Enforce}
		if from != "" {
			r.From = []addr.Pattern{addr.MustPattern(from)}
		}
		if change != nil {
			change(r)
		}
		return r
	}
	const encrypt, secure = policy.LevelEncrypt, policy.LevelSecure
	for _, c := range []struct {
		name, from, user string
		rules            []*Rule
		lends, want      bool
	}{
		{"all mail of a sender", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", encrypt, nil)}, false, true},
		{"of everybody", "a@clinic.example", "", []*Rule{rule("r", "*", encrypt, nil)}, false, true},
		{"of the null sender", "<>", "", []*Rule{rule("r", "<>", encrypt, nil)}, true, true},
		{"only to some", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", encrypt, func(r *Rule) { r.To = here })}, false, false},
		{"to others, too", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", encrypt, func(r *Rule) { r.To = here }),
			rule("s", "@clinic.example", encrypt, nil)}, false, true},
		{"to others less", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", secure, func(r *Rule) { r.To = here }),
			rule("s", "@clinic.example", encrypt, nil)}, false, false},
		{"to others by a weaker version", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", encrypt, func(r *Rule) { r.To, r.MinVersion = here, policy.TLS13 }),
			rule("s", "@clinic.example", encrypt, nil)}, false, false},
		{"to others more", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", encrypt, func(r *Rule) { r.To = here }),
			rule("s", "@clinic.example", secure, nil)}, false, true},
		{"but for an exception", "a@clinic.example", "", []*Rule{rule("x", "@clinic.example", policy.LevelMay, func(r *Rule) { r.To = lab }),
			rule("r", "@clinic.example", encrypt, nil)}, false, true},
		{"others are only observed", "a@clinic.example", "", []*Rule{rule("r", "@clinic.example", encrypt, func(r *Rule) { r.To = here }),
			rule("s", "@clinic.example", encrypt, func(r *Rule) { r.Mode = policy.Observe })}, false, false},
		{"by login", "a@other.example", "billing", []*Rule{rule("r", "", encrypt, func(r *Rule) { r.User = []string{"billing"} })}, false, false},
		{"by login, lent", "a@other.example", "billing", []*Rule{rule("r", "", encrypt, func(r *Rule) { r.User = []string{"billing"} })}, true, true},
		{"by login, lent for some", "a@other.example", "billing", []*Rule{rule("r", "", secure, func(r *Rule) { r.User, r.To = []string{"billing"}, here })}, true, false},
		{"by login, without a sender", "<>", "billing", []*Rule{rule("r", "", encrypt, func(r *Rule) { r.User = []string{"billing"} })}, true, false},
	} {
		set := New(c.rules)
		d := Alone(set)
		from, err := addr.ParsePath(c.from)
		if err != nil {
			t.Fatal(err)
		}
		candidates := d.Under(set.Sender(from, c.user, now))
		r := candidates.Match(addr.MustAddress("u@here.example"))
		if r == nil {
			t.Fatalf("%s: no rule", c.name)
		}
		if got := d.Covers(candidates, r, c.lends); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
