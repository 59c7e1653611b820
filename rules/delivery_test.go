package rules

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// randomRules makes a file of a few rules for a few senders and recipients.
func randomRules(r *rand.Rand, now time.Time) *Set {
	froms := []string{"@a.example", "x@a.example", "@.a.example", "@b.example", "y@b.example", "<>", "*"}
	tos := []string{"@d.example", "@e.example", "u@d.example", "*"}
	levels := []policy.Level{policy.LevelMay, policy.LevelEncrypt, policy.LevelEncrypt, policy.LevelSecure, policy.LevelNone}
	var rs []*Rule
	for i := range 1 + r.IntN(5) {
		rule := &Rule{Name: fmt.Sprint("r", i), Level: levels[r.IntN(len(levels))], MinVersion: policy.TLS12, Mode: policy.Enforce}
		for range 1 + r.IntN(2) {
			rule.From = append(rule.From, addr.MustPattern(froms[r.IntN(len(froms))]))
		}
		if r.IntN(2) == 0 {
			rule.To = []addr.Pattern{addr.MustPattern(tos[r.IntN(len(tos))])}
		}
		if r.IntN(6) == 0 {
			rule.Mode = policy.Observe
		}
		if r.IntN(5) == 0 {
			rule.Until = now.Add(time.Duration(r.IntN(240)-120) * time.Hour)
		}
		rs = append(rs, rule)
	}
	return New(rs)
}

var deliverySenders = []addr.Address{
	addr.MustAddress("x@a.example"), addr.MustAddress("z@a.example"), addr.MustAddress("z@sub.a.example"), addr.MustAddress("y@b.example"),
	addr.MustAddress("z@b.example"), addr.MustAddress("z@other.example"), {},
}

// However a file changes, and whatever ends: what a sender was asked when its
// mail was accepted, its mail is still asked at delivery, by the number that
// it has now and by the one that it had.
func TestDeliveryNeverWeaker(t *testing.T) {
	const keep = 6 * 24 * time.Hour
	domains := []addr.Domain{addr.MustDomain("d.example"), addr.MustDomain("e.example"), {}}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		type promise struct {
			at     time.Time
			from   addr.Address
			to     addr.Domain
			demand policy.Demand
			number int
		}
		var promises []promise
		var former []Stage
		for step := range 8 {
			set := randomRules(r, now)
			var live []Stage
			for _, f := range former {
				if now.Before(f.Until.Add(keep)) {
					live = append(live, f)
				}
			}
			numbers := Assign(set, live)
			d := NewDelivery(Stage{Set: set, Numbers: numbers}, live, keep)
			for _, p := range promises {
				if !now.Before(p.at.Add(keep)) {
					continue
				}
				is := d.Class(p.from, now)
				for _, n := range []int{p.number, is} {
					ask, known := d.Requirement(n, p.to, now)
					if !known || Stricter(ask.Demand, p.demand).Level != ask.Demand.Level || ask.Exempt {
						t.Fatalf("seed %d, step %d: mail of %s to %q was accepted for %s as class %d; class %d is asked %+v, known %t",
							seed, step, p.from, p.to, p.demand.Level, p.number, n, ask, known)
					}
				}
				if p.to.IsZero() {
					continue
				}
				if ask := d.RequirementAt(p.from, p.to, now); Stricter(ask.Demand, p.demand).Level != ask.Demand.Level || ask.Exempt {
					t.Fatalf("seed %d, step %d: by its sender mail of %s to %s is asked %+v, not %s", seed, step, p.from, p.to, ask, p.demand.Level)
				}
			}
			accepts := NewDelivery(Stage{Set: set, Numbers: numbers}, nil, 0)
			for range 3 {
				for _, from := range deliverySenders {
					n := accepts.Class(from, now)
					for _, to := range domains {
						ask, _ := accepts.Requirement(n, to, now) // the rules in force alone accept
						if n > 0 && ask.Demand.Level.Enforces() {
							promises = append(promises, promise{now, from, to, ask.Demand, n})
						}
					}
				}
				now = now.Add(time.Duration(r.IntN(30)) * time.Hour)
			}
			former = append([]Stage{{Set: set, Numbers: numbers, Until: now}}, former...)
		}
	}
}

func deliverySet(t *testing.T, rs ...*Rule) *Set {
	t.Helper()
	for i, r := range rs {
		r.Name, r.Mode = fmt.Sprint("rule ", i), policy.Enforce
	}
	return New(rs)
}

func from(level policy.Level, patterns ...string) *Rule {
	r := &Rule{Level: level}
	for _, p := range patterns {
		r.From = append(r.From, addr.MustPattern(p))
	}
	return r
}

// A number stays with its senders, and is free again when mail is gone.
func TestAssign(t *testing.T) {
	encrypt := policy.LevelEncrypt
	one := deliverySet(t, from(encrypt, "@a.example", "@b.example"))
	first := Assign(one, nil)
	if first[addr.MustPattern("@a.example")] != 1 || first[addr.MustPattern("@b.example")] != 1 {
		t.Fatalf("first numbers: %v", first)
	}
	live := []Stage{{Set: one, Numbers: first}}
	before := deliverySet(t, from(encrypt, "@c.example"), from(encrypt, "@a.example", "@b.example"))
	second := Assign(before, live)
	if second[addr.MustPattern("@a.example")] != 1 || second[addr.MustPattern("@c.example")] != 2 {
		t.Errorf("a rule put before: %v", second)
	}
	// One class becomes two: the one with more of its senders keeps the number.
	split := deliverySet(t, from(encrypt, "x@b.example"), from(policy.LevelSecure, "@b.example"), from(encrypt, "@a.example"))
	if n := Assign(split, live); n[addr.MustPattern("@b.example")] == n[addr.MustPattern("@a.example")] {
		t.Errorf("two classes with one number: %v", n)
	}
	// Nobody gets a number that may still mean others.
	other := deliverySet(t, from(encrypt, "@c.example"))
	if n := Assign(other, live); n[addr.MustPattern("@c.example")] != 2 {
		t.Errorf("a number in use was given to others: %v", n)
	}
	if n := Assign(other, nil); n[addr.MustPattern("@c.example")] != 1 {
		t.Errorf("a free number was not used: %v", n)
	}
}

// An exception that stays an exception is one, whatever else changes.
func TestDeliveryKeepsExceptions(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	except := func() *Rule {
		r := from(policy.LevelMay, "x@a.example")
		r.To = []addr.Pattern{addr.MustPattern("@d.example")}
		return r
	}
	old := deliverySet(t, except(), from(policy.LevelEncrypt, "@a.example"))
	set := deliverySet(t, from(policy.LevelSecure, "@c.example"), except(), from(policy.LevelEncrypt, "@a.example"))
	was := Stage{Set: old, Numbers: Assign(old, nil), Until: now}
	d := NewDelivery(Stage{Set: set, Numbers: Assign(set, []Stage{was})}, []Stage{was}, time.Hour)
	to := addr.MustDomain("d.example")
	if ask, known := d.Requirement(d.Class(addr.MustAddress("x@a.example"), now), to, now); !known || !ask.Exempt || ask.Demand.Level != policy.LevelMay {
		t.Errorf("the exception is gone: %+v", ask)
	}
	if ask, _ := d.Requirement(d.Class(addr.MustAddress("z@a.example"), now), to, now); ask.Demand.Level != policy.LevelEncrypt {
		t.Errorf("the exception holds for others: %+v", ask)
	}
}

// What is saved is what is read again, and has the key of what it asks.
func TestSave(t *testing.T) {
	r := from(policy.LevelSecure, "@a.example", "x@b.example", "<>", "*")
	r.User, r.To = []string{"alice"}, []addr.Pattern{addr.MustPattern("@.d.example")}
	r.Match, r.Until = []addr.Domain{addr.MustDomain("mx.d.example")}, time.Date(2026, 3, 1, 0, 0, 0, 0, time.FixedZone("", 3600))
	set := deliverySet(t, r)
	key, doc, err := set.Save()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Restore(doc)
	if err != nil {
		t.Fatal(err)
	}
	if other, _, _ := again.Save(); other != key {
		t.Errorf("another key after reading again: %s, %s", other, key)
	}
	r.Why, r.Line = "for people", 7
	if other, _, _ := set.Save(); other != key {
		t.Error("the key changes with what asks nothing")
	}
	r.MinBits = 256
	if other, _, _ := set.Save(); other == key {
		t.Error("the key doesn't change with what is asked")
	}
}

// A rule that only observes has its number before it enforces, and keeps it: the
// MTA needs nothing else on that day. Until then it binds nobody, and what rules
// of an earlier version left behind gives out no wild numbers.
func TestObservingReserves(t *testing.T) {
	a, b := addr.MustAddress("x@a.example"), addr.MustAddress("x@b.example")
	watched := New([]*Rule{observed(enforce("a", policy.LevelEncrypt, patterns("@a.example"), nil)), enforce("b", policy.LevelEncrypt, patterns("@b.example"), nil)})
	enforced := New([]*Rule{enforce("a", policy.LevelEncrypt, patterns("@a.example"), nil), enforce("b", policy.LevelEncrypt, patterns("@b.example"), nil)})
	// As an earlier version numbered them: no pattern of a rule that observes.
	old := Stage{Set: watched, Numbers: Numbers{addr.MustPattern("@b.example"): 1}, Until: noon().Add(-time.Hour)}
	numbers := Assign(watched, []Stage{old})
	d := NewDelivery(Stage{Set: watched, Numbers: numbers}, []Stage{old}, 6*24*time.Hour)
	if d.Highest() != 2 || d.Class(a, noon()) != 0 || d.Class(b, noon()) != 1 {
		t.Errorf("while it observes: highest %d, a %d, b %d", d.Highest(), d.Class(a, noon()), d.Class(b, noon()))
	}
	if n := len(d.Senders(noon())); n != 1 {
		t.Errorf("%d senders in the table, want one", n)
	}
	first := Stage{Set: watched, Numbers: numbers, Until: noon()}
	live := NewDelivery(Stage{Set: enforced, Numbers: Assign(enforced, []Stage{first, old})}, []Stage{first, old}, 6*24*time.Hour)
	if live.Highest() != 2 || live.Class(a, noon()) != 2 || live.Class(b, noon()) != 1 {
		t.Errorf("when it enforces: highest %d, a %d, b %d", live.Highest(), live.Class(a, noon()), live.Class(b, noon()))
	}
	if ask, known := live.Requirement(2, addr.MustDomain("far.example"), noon()); !known || ask.Demand.Level != policy.LevelEncrypt {
		t.Errorf("asked of it: %+v, known %t", ask, known)
	}
}

// The forms of senders count as long as the rules that were in force with them,
// and documents of an earlier version hold what they held.
func TestFormsOutlive(t *testing.T) {
	set := New([]*Rule{enforce("a", policy.LevelEncrypt, patterns("@a.example"), nil)})
	_, doc, err := set.With(addr.Forms{Delimiter: "+-", SRS: addr.SRSMatch}).Save()
	if err != nil {
		t.Fatal(err)
	}
	strict, err := Restore(doc)
	if err != nil || strict.Forms() != (addr.Forms{Delimiter: "-", SRS: addr.SRSMatch}) {
		t.Fatalf("%+v, %v", strict, err)
	}
	former := Stage{Set: strict, Numbers: Assign(strict, nil), Until: noon()}
	d := NewDelivery(Stage{Set: set, Numbers: Assign(set, []Stage{former})}, []Stage{former}, time.Hour)
	if got := d.Forms(noon()); got != strict.Forms() {
		t.Errorf("while mail may wait: %+v", got)
	}
	if got := d.Forms(noon().Add(2 * time.Hour)); got != (addr.Forms{}) {
		t.Errorf("later: %+v", got)
	}
	old, err := Restore([]byte(`[{"Name":"a","From":["@a.example"],"Level":"encrypt","Mode":"enforce"}]`))
	if err != nil || old.Forms().SRS != addr.SRSMatch || old.Class(addr.MustAddress("x@a.example"), noon()) != 1 {
		t.Errorf("of an earlier version: %+v, %v", old, err)
	}
	one, _, _ := set.Save()
	other, _, _ := set.With(addr.Forms{SRS: addr.SRSIgnore, Delimiter: "+"}).Save()
	if one != other {
		t.Error("forms that mean the same make another set")
	}
	if key, _, _ := strict.Save(); key == one {
		t.Error("other forms make the same set")
	}
}

func observed(r *Rule) *Rule {
	r.Mode = policy.Observe
	return r
}
