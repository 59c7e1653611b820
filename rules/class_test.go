package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// enforce makes an enforcing rule; "may" and "none" make exceptions.
func enforce(name string, level policy.Level, from, to []addr.Pattern) *Rule {
	return &Rule{Name: name, From: from, To: to, Level: level, MinVersion: policy.TLS12, MinBits: 128, Mode: policy.Enforce}
}

func class(t *testing.T, s *Set, from string, now time.Time) *Class {
	t.Helper()
	n := s.Class(addr.MustAddress(from), now)
	if n == 0 {
		t.Fatalf("%s has no class", from)
	}
	return &s.Classes()[n-1]
}

// The clinic must, but to legacy.example it may go in the clear; the lab must, too, and has no exception.
func TestExceptionsAreExact(t *testing.T) {
	set := New([]*Rule{
		enforce("legacy", policy.LevelMay, patterns("@clinic.example"), patterns("@legacy.example")),
		enforce("clinic", policy.LevelEncrypt, patterns("@clinic.example", "billing@example.com"), nil),
		enforce("lab", policy.LevelEncrypt, patterns("@lab.example"), nil),
	})
	if n := len(set.Classes()); n != 3 {
		t.Fatalf("%d classes", n)
	}
	for _, c := range []struct {
		from, to string
		number   int
		want     policy.Level
		exempt   bool
	}{
		{"doctor@clinic.example", "legacy.example", 1, policy.LevelMay, true},
		{"Doctor+x@CLINIC.example", "legacy.example", 1, policy.LevelMay, true},
		{"doctor@clinic.example", "sub.legacy.example", 1, policy.LevelEncrypt, false},
		{"doctor@clinic.example", "far.example", 1, policy.LevelEncrypt, false},
		{"billing@example.com", "legacy.example", 2, policy.LevelEncrypt, false},
		{"x@lab.example", "legacy.example", 3, policy.LevelEncrypt, false},
	} {
		k := class(t, set, c.from, noon())
		ask := k.Requirement(addr.MustDomain(c.to), noon())
		if k.Number() != c.number || ask.Demand.Level != c.want || ask.Exempt != c.exempt {
			t.Errorf("%s to %s: class %d, %+v", c.from, c.to, k.Number(), ask)
		}
		if d := k.Strictest(noon()); d.Level != policy.LevelEncrypt {
			t.Errorf("%s by a relay: %+v", c.from, d)
		}
		exact, rule := k.RequirementFor(addr.MustAddress("x@"+c.to), noon())
		if exact.Demand.Level != ask.Demand.Level || exact.Exempt != ask.Exempt || rule == nil {
			t.Errorf("%s to x@%s: %+v, its domain %+v", c.from, c.to, exact, ask)
		}
	}
	for _, from := range []string{"<>", "x@example.com", "x@sub.clinic.example", "root"} {
		if n := set.Class(addr.MustAddress(from), noon()); n != 0 {
			t.Errorf("%s is of class %d", from, n)
		}
	}
}

func TestClasses(t *testing.T) {
	all, far := patterns("*"), patterns("@far.example")
	observe := func(r *Rule) *Rule { r.Mode = policy.Observe; return r }
	until := func(r *Rule, when time.Time) *Rule { r.Until = when; return r }
	user := func(r *Rule) *Rule { r.User = []string{"bob"}; return r }
	for _, c := range []struct {
		name  string
		rules []*Rule
		want  map[string]int // sender, class
		n     int
	}{
		{"no rules", nil, map[string]int{"<>": 0, "a@b.example": 0}, 0},
		{"everybody", []*Rule{enforce("r", policy.LevelEncrypt, all, far)}, map[string]int{"<>": 1, "a@b.example": 1, "root": 1}, 1},
		{"no selector", []*Rule{enforce("r", policy.LevelEncrypt, nil, far)}, map[string]int{"<>": 1, "a@b.example": 1}, 1},
		{"exceptions only", []*Rule{enforce("r", policy.LevelMay, all, far)}, map[string]int{"a@b.example": 0}, 0},
		{"observed only", []*Rule{observe(enforce("r", policy.LevelEncrypt, all, far))}, map[string]int{"a@b.example": 0}, 1},
		{"observed exceptions", []*Rule{observe(enforce("r", policy.LevelMay, all, far))}, map[string]int{"a@b.example": 0}, 0},
		{"observed, the number reserved", []*Rule{observe(enforce("r", policy.LevelEncrypt, patterns("@a.example"), nil)),
			enforce("s", policy.LevelEncrypt, patterns("@b.example"), nil)}, map[string]int{"x@a.example": 0, "x@b.example": 2}, 2},
		{"over, and keeps its number", []*Rule{until(enforce("r", policy.LevelEncrypt, patterns("@a.example"), far), noon()),
			enforce("s", policy.LevelEncrypt, patterns("@b.example"), far)}, map[string]int{"x@a.example": 0, "x@b.example": 2}, 2},
		{"by user alone", []*Rule{user(enforce("r", policy.LevelEncrypt, nil, far))}, map[string]int{"a@b.example": 0, "bob@b.example": 0}, 0},
		{"by user or sender", []*Rule{user(enforce("r", policy.LevelEncrypt, patterns("a@b.example"), far))},
			map[string]int{"a@b.example": 1, "b@b.example": 0}, 1},
		{"bounces", []*Rule{enforce("r", policy.LevelEncrypt, patterns("<>"), far)}, map[string]int{"<>": 1, "a@b.example": 0}, 1},
		{"nested", []*Rule{enforce("r", policy.LevelEncrypt, patterns("@.b.example"), nil), enforce("s", policy.LevelMay, patterns("a@b.example", "@c.b.example"), far),
			enforce("t", policy.LevelEncrypt, patterns("a+x@b.example"), far)},
			map[string]int{"z@b.example": 1, "z@d.c.b.example": 1, "a@b.example": 2, "a+y@b.example": 2, "z@c.b.example": 2, "a+x@b.example": 3, "a+x+y@b.example": 2, "a@example": 0}, 3},
	} {
		set := New(c.rules)
		if len(set.Classes()) != c.n {
			t.Errorf("%s: %d classes, want %d", c.name, len(set.Classes()), c.n)
		}
		for from, want := range c.want {
			if got := set.Class(addr.MustAddress(from), noon()); got != want {
				t.Errorf("%s: %s is of class %d, want %d", c.name, from, got, want)
			}
		}
	}
}

// A rule by user ahead of an exception may have decided for a login, and delivery can't see it.
func TestUserBeforeException(t *testing.T) {
	login := &Rule{Name: "login", User: []string{"bob"}, Level: policy.LevelEncrypt, Mode: policy.Enforce, Until: noon().Add(time.Hour)}
	legacy := enforce("legacy", policy.LevelMay, patterns("@clinic.example"), patterns("@legacy.example"))
	clinic := enforce("clinic", policy.LevelEncrypt, patterns("@clinic.example"), nil)
	for _, c := range []struct {
		rules  []*Rule
		now    time.Time
		exempt bool
	}{
		{[]*Rule{login, legacy, clinic}, noon(), false},
		{[]*Rule{login, legacy, clinic}, noon().Add(time.Hour), true},
		{[]*Rule{legacy, login, clinic}, noon(), true},
	} {
		ask := class(t, New(c.rules), "x@clinic.example", c.now).Requirement(addr.MustDomain("legacy.example"), c.now)
		if ask.Exempt != c.exempt || ask.Demand.Level != policy.LevelMay {
			t.Errorf("%s first: %+v", c.rules[0].Name, ask)
		}
	}
}

// enforcing makes levels, modes and bounds differ.
func (r random) enforcing(n int) []*Rule {
	rs := r.rules(n)
	for _, rule := range rs {
		rule.Level = policy.Levels()[r.IntN(4)]
		rule.Mode = policy.Mode(r.of("enforce", "enforce", "enforce", "observe"))
		rule.MinVersion = []policy.Version{policy.TLS10, policy.TLS12, policy.TLS13}[r.IntN(3)]
		rule.MinBits = []int{0, 128, 256}[r.IntN(3)]
	}
	return rs
}

// covered reports whether a demand asks at least what another asks.
func covered(d, other policy.Demand) bool {
	return !other.Level.Enforces() || d.Level.Rank() >= other.Level.Rank() && d.MinVersion >= other.MinVersion && d.MinBits >= other.MinBits
}

// TestClassIsNeverWeaker: by the walk over the rules, a class asks of a domain, and of a relay, at least what the rule
// that decides for any sender of the class and any recipient there asks; and it has the sender's rules, no others.
func TestClassIsNeverWeaker(t *testing.T) {
	r := random{rand.New(rand.NewPCG(5, 6))}
	asked, exempted, bounds := 0, 0, 0
	for range 1500 {
		rs := r.enforcing(1 + r.IntN(8))
		set := New(rs)
		patterns := 1
		for _, rule := range rs {
			patterns += len(rule.From) + 1
		}
		if n := len(set.Classes()); n > patterns {
			t.Fatalf("%d classes of %d patterns", n, patterns)
		}
		for range 30 {
			from, to := addr.MustAddress(r.address()), addr.MustAddress(r.of("a", "A+z", "b", "q")+r.of("@d.example", "@s.d.example", "@t.s.d.example", "@e.example"))
			now := noon().Add(time.Duration(r.IntN(3)-1) * time.Hour)
			candidates := set.Sender(from, "", now)
			n := set.Class(from, now)
			if (n > 0) != slices.ContainsFunc(candidates.rules, (*Rule).Enforcing) {
				t.Fatalf("%s: class %d, rules %+v", from, n, candidates.rules)
			}
			decides := walk(rs, from, "", to, now)
			if decides != nil && decides.Enforcing() {
				for _, d := range []policy.Demand{set.Strictest(to.Domain, now), set.Strictest(addr.Domain{}, now)} {
					if !covered(d, decides.Demand()) {
						t.Fatalf("%s to %s: strictest %+v, rule %+v", from, to, d, decides)
					}
				}
			}
			if n == 0 {
				continue
			}
			c := &set.Classes()[n-1]
			active := slices.DeleteFunc(c.Rules(), func(r *Rule) bool { return !r.Active(now) })
			if !slices.Equal(active, candidates.rules) {
				t.Fatalf("%s: rules %+v, class has %+v", from, candidates.rules, active)
			}
			ask, relay := c.Requirement(to.Domain, now), c.Strictest(now)
			exact, rule := c.RequirementFor(to, now)
			if rule != decides {
				t.Fatalf("%s to %s: %+v decides, want %+v", from, to, rule, decides)
			}
			if ask.Exempt && (!exact.Exempt || ask.Demand.Level.Enforces()) {
				t.Fatalf("%s to %s: exempt %+v, but %+v decides", from, to, ask, decides)
			}
			if decides == nil {
				continue
			}
			switch {
			case decides.Enforcing():
				asked++
				if !covered(ask.Demand, decides.Demand()) || !covered(relay, decides.Demand()) || !covered(exact.Demand, decides.Demand()) {
					t.Fatalf("%s to %s: domain %+v, relay %+v, exact %+v, rule %+v", from, to, ask, relay, exact, decides)
				}
				if !covered(decides.Demand(), ask.Demand) {
					bounds++
				}
			case ask.Exempt:
				exempted++
			}
		}
	}
	if asked < 1000 || exempted < 1000 || bounds < 50 {
		t.Errorf("hardly ever asked (%d), exempt (%d), joined (%d)", asked, exempted, bounds)
	}
}

func TestStricter(t *testing.T) {
	d := func(l policy.Level, v policy.Version, bits int) policy.Demand {
		return policy.Demand{Level: l, MinVersion: v, MinBits: bits}
	}
	for _, c := range []struct{ a, b, want policy.Demand }{
		{policy.Demand{}, d("may", policy.TLS13, 256), d("may", policy.TLS13, 256)},
		{d("none", policy.TLS13, 256), d("may", 0, 0), d("may", 0, 0)},
		{d("may", policy.TLS13, 256), d("encrypt", policy.TLS12, 128), d("encrypt", policy.TLS12, 128)},
		{d("encrypt", policy.TLS13, 0), d("secure", policy.TLS12, 128), d("secure", policy.TLS13, 128)},
	} {
		if got := Stricter(c.a, c.b); got.Level != c.want.Level || got.MinVersion != c.want.MinVersion || got.MinBits != c.want.MinBits {
			t.Errorf("%+v and %+v: %+v", c.a, c.b, got)
		}
		if got := Stricter(c.b, c.a); got.Level != c.want.Level || got.MinVersion != c.want.MinVersion || got.MinBits != c.want.MinBits {
			t.Errorf("%+v and %+v: %+v", c.b, c.a, got)
		}
	}
}

func BenchmarkClassAsk(b *testing.B) {
	var rs []*Rule
	for i := range 10_000 {
		rs = append(rs, enforce(fmt.Sprint(i), policy.LevelEncrypt, patterns(fmt.Sprintf("u%d@d%d.example", i, i%100), "@all.example"), patterns(fmt.Sprintf("@e%d.example", i))))
	}
	set, now, from, to := New(rs), noon(), addr.MustAddress("x@all.example"), addr.MustDomain("e5000.example")
	b.ReportAllocs()
	for b.Loop() {
		c := &set.Classes()[set.Class(from, now)-1]
		if c.Requirement(to, now).Demand.Level != policy.LevelEncrypt {
			b.Fatal("nothing asked")
		}
	}
}
