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

func noon() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

func patterns(ss ...string) []addr.Pattern {
	var ps []addr.Pattern
	for _, s := range ss {
		ps = append(ps, addr.MustPattern(s))
	}
	return ps
}

func TestFirstMatchDecides(t *testing.T) {
	set := New([]*Rule{
		{Name: "over", From: patterns("*"), Until: noon()},
		{Name: "legacy", From: patterns("@clinic.example"), To: patterns("@legacy.example", "old@far.example")},
		{Name: "bounces", From: patterns("<>"), To: patterns("@clinic.example")},
		{Name: "one", From: patterns("alice@bücher.example")},
		{Name: "login", From: patterns("a@b.example"), User: []string{foldUser("Bob")}},
		{Name: "clinic", From: patterns("@.clinic.example")},
		{Name: "logins", User: []string{"*"}, To: patterns("@far.example")},
	})
	for _, c := range []struct{ from, user, to, want string }{
		{"doctor@clinic.example", "", "x@legacy.example", "legacy"},
		{"doctor@clinic.example", "", "OLD+x@far.example", "legacy"},
		{"doctor@clinic.example", "", "x@sub.legacy.example", "clinic"},
		{"doctor@sub.clinic.example", "", "x@legacy.example", "clinic"},
		{"<Doctor@CLINIC.Example.>", "", "x@far.example", "clinic"},
		{"doctor@notclinic.example", "", "x@far.example", ""},
		{"<>", "", "x@clinic.example", "bounces"},
		{"", "", "x@clinic.example", "bounces"},
		{"<>", "", "x@far.example", ""},
		{"alice@xn--bcher-kva.example", "", "x@far.example", "one"},
		{`"ALICE+y"@BÜCHER.example`, "", "x@far.example", "one"},
		{"alicia@bücher.example", "", "x@far.example", ""},
		{"z@z.example", "BOB", "x@far.example", "login"},
		{"a@b.example", "", "x@far.example", "login"},
		{"z@z.example", "eve", "x@far.example", "logins"},
		{"z@z.example", "eve", "x@near.example", ""},
	} {
		got := ""
		if r := set.Sender(addr.MustAddress(c.from), c.user, noon()).Match(addr.MustAddress(c.to)); r != nil {
			got = r.Name
		}
		if got != c.want {
			t.Errorf("from %s (%s) to %s: %q, want %q", c.from, c.user, c.to, got, c.want)
		}
	}
	if !set.Sender(addr.MustAddress("z@z.example"), "", noon()).Empty() {
		t.Error("a sender of no rule has candidates")
	}
	if r := set.Sender(addr.MustAddress("z@z.example"), "", noon().Add(-1)).Match(addr.Address{}); r == nil || r.Name != "over" {
		t.Errorf("the instant before its end: %v", r)
	}
}

// random makes small worlds in which everything meets everything.
type random struct{ *rand.Rand }

func (r random) of(ss ...string) string { return ss[r.IntN(len(ss))] }

func (r random) address() string {
	if r.IntN(8) == 0 {
		return "<>"
	}
	return r.of("a", "A", "b", "a+x", "b+x+y", "+a") + "@" + r.of("d.example", "D.Example", "s.d.example", "t.s.d.example", "example", "[192.0.2.1]")
}

func (r random) pattern(sender bool) string {
	switch r.IntN(8) {
	case 0:
		return "*"
	case 1, 2:
		return "@" + r.of("d.example", "s.d.example", "[192.0.2.1]")
	case 3, 4:
		return "@." + r.of("d.example", "s.d.example", "example")
	}
	for {
		if a := r.address(); a != "<>" || sender {
			return a
		}
	}
}

func (r random) rules(n int) []*Rule {
	rs := make([]*Rule, n)
	for i := range rs {
		rs[i] = &Rule{Name: fmt.Sprint(i), Line: i + 1, Level: policy.LevelEncrypt}
		for range r.IntN(3) {
			rs[i].From = append(rs[i].From, addr.MustPattern(r.pattern(true)))
		}
		for range r.IntN(4) - 1 {
			rs[i].User = append(rs[i].User, r.of("*", "u", "v", "w"))
		}
		for range r.IntN(3) {
			rs[i].To = append(rs[i].To, addr.MustPattern(r.pattern(false)))
		}
		for range r.IntN(8) - 6 {
			rs[i].Forwarder = append(rs[i].Forwarder, addr.MustPattern(r.pattern(false)))
		}
		if r.IntN(4) == 0 {
			rs[i].Until = noon().Add(time.Duration(r.IntN(5)-2) * time.Hour)
		}
	}
	return rs
}

// walk is what Sender and Match mean, without an index; with a path, what Forwarder means.
func walk(rs []*Rule, from addr.Address, user string, to addr.Address, now time.Time, path ...addr.Address) *Rule {
	for _, r := range rs {
		forwards := slices.ContainsFunc(r.Forwarder, func(p addr.Pattern) bool { return slices.ContainsFunc(path, p.Match) })
		if len(path) == 0 && len(r.Forwarder) > 0 || len(path) > 0 && !forwards {
			continue
		}
		sender := len(r.From)+len(r.User) == 0 ||
			slices.ContainsFunc(r.From, func(p addr.Pattern) bool { return p.Match(from) }) ||
			user != "" && slices.ContainsFunc(r.User, func(u string) bool { return u == "*" || u == foldUser(user) })
		recipient := len(r.To) == 0 || slices.ContainsFunc(r.To, func(p addr.Pattern) bool { return p.Match(to) })
		if sender && recipient && (r.Until.IsZero() || now.Before(r.Until)) {
			return r
		}
	}
	return nil
}

func TestIndexIsTheWalk(t *testing.T) {
	r := random{rand.New(rand.NewPCG(1, 2))}
	matched := 0
	for range 300 {
		rs := r.rules(1 + r.IntN(8))
		set := New(rs)
		for range 30 {
			from, to, user := addr.MustAddress(r.address()), addr.MustAddress("x"+r.of("@d.example", "@s.d.example", "@e.example")), r.of("", "", "u", "V", "x")
			want := walk(rs, from, user, to, noon())
			if got := set.Sender(from, user, noon()).Match(to); got != want {
				t.Fatalf("from %s (%s) to %s: %+v, want %+v", from, user, to, got, want)
			}
			path := []addr.Address{addr.MustAddress(r.address()), addr.MustAddress("u@s.d.example")}
			by := walk(rs, from, user, to, noon(), path...)
			if got := set.Sender(from, user, noon()).Forwarder(to, path); got != by {
				t.Fatalf("from %s (%s) to %s by %s: %+v, want %+v", from, user, to, path, got, by)
			}
			if want != nil && by != nil {
				matched++
			}
		}
	}
	if matched == 0 {
		t.Error("nothing ever matched")
	}
}

// TestShadowed: a rule said to be unreachable decides nothing, now or later; and every rule that an earlier one
// covers by itself is said to be.
func TestShadowed(t *testing.T) {
	r := random{rand.New(rand.NewPCG(3, 4))}
	found := 0
	for range 400 {
		rs := r.rules(2 + r.IntN(6))
		unreachable := map[int]bool{}
		for _, f := range shadowed(rs, noon()) {
			unreachable[f.Line] = true
			found++
		}
		for i, b := range rs {
			covered := b.Active(noon()) && slices.ContainsFunc(rs[:i], func(a *Rule) bool {
				return a.Until.IsZero() && covers(a, b)
			})
			if covered != unreachable[b.Line] {
				t.Fatalf("rule %d: unreachable %v, covered %v\n%+v\n%+v", i, unreachable[b.Line], covered, rs[:i], b)
			}
		}
		for range 40 {
			from, to, user := addr.MustAddress(r.address()), addr.MustAddress(r.address()), r.of("", "u", "v", "x")
			for _, now := range []time.Time{noon(), noon().Add(24 * time.Hour)} {
				for _, path := range [][]addr.Address{nil, {addr.MustAddress(r.address())}} {
					if got := walk(rs, from, user, to, now, path...); got != nil && unreachable[got.Line] {
						t.Fatalf("rule %s is unreachable and decides for %s (%s) to %s by %s", got.Name, from, user, to, path)
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no rule was ever unreachable")
	}
}

// covers compares each selector of b with each of a.
func covers(a, b *Rule) bool {
	for _, s := range b.selectors() {
		if !slices.ContainsFunc(a.selectors(), func(w selector) bool {
			anybody := w.pattern.Kind() == addr.Any && w.of == senders
			switch {
			case w.of != s.of:
				return false
			case s.user != "":
				return anybody || w.user == "*" || w.user == s.user
			}
			return w.pattern.Covers(s.pattern)
		}) {
			return false
		}
	}
	return true
}

func BenchmarkSender(b *testing.B) {
	var rs []*Rule
	for i := range 10_000 {
		rs = append(rs, &Rule{Name: fmt.Sprint(i), From: patterns(fmt.Sprintf("u%d@d%d.example", i, i%100), fmt.Sprintf("@.e%d.example", i)), To: patterns("@far.example")})
	}
	set, now, to := New(rs), noon(), addr.MustAddress("x@far.example")
	for _, from := range []string{"u5000@d0.example", "x@a.b.e5000.example", "nobody@elsewhere.example"} {
		b.Run(from, func(b *testing.B) {
			a := addr.MustAddress(from)
			b.ReportAllocs()
			for b.Loop() {
				set.Sender(a, "", now).Match(to)
			}
		})
	}
}
