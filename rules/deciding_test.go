package rules

import (
	"math/rand/v2"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// joined is what rules ask together.
func joined(asking []DecidingRule) policy.Demand {
	var d policy.Demand
	for _, a := range asking {
		if a.Rule.Mode == policy.Enforce {
			d = Stricter(d, a.Rule.Demand())
		}
	}
	return d
}

func same(a, b policy.Demand) bool {
	return a.Level == b.Level && a.MinVersion == b.MinVersion && a.MinBits == b.MinBits && a.Pin == b.Pin && a.Honor == b.Honor
}

// The rules that are named for an answer are those that make it, in force and
// former: together they ask what the answer does.
func TestAskingIsWhatIsAsked(t *testing.T) {
	const keep = 6 * 24 * time.Hour
	asks, formers := 0, 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		old := randomRules(r, now.Add(-time.Hour))
		was := Stage{Set: old, Numbers: Assign(old, nil), Until: now.Add(-time.Minute)}
		set := randomRules(r, now)
		d := NewDelivery(Stage{Set: set, Numbers: Assign(set, []Stage{was})}, []Stage{was}, keep)
		for n := range d.Highest() + 2 {
			for _, to := range []addr.Domain{addr.MustDomain("d.example"), addr.MustDomain("e.example"), {}} {
				ask, known := d.Requirement(n, to, now)
				asking := d.Deciding(n, to, now)
				if got := joined(asking); !same(got, ask.Demand) || !known && len(asking) > 0 {
					t.Fatalf("seed %d: class %d at %s is asked %+v, but its rules ask %+v", seed, n, to, ask.Demand, got)
				}
				for i, a := range asking {
					if !a.Until.IsZero() {
						formers++
					}
					if i > 0 && a.Until.Before(asking[i-1].Until) {
						t.Fatalf("seed %d: a rule that is over comes first", seed)
					}
				}
				if ask.Demand.Level.Enforces() {
					asks++
				}
			}
		}
		for _, from := range []string{"x@a.example", "z@a.example", "x@c.example"} {
			sender, to := addr.MustAddress(from), addr.MustAddress("u@d.example")
			ask, _ := d.RequirementFor(sender, to, now)
			if got := joined(d.DecidingFor(sender, to, now)); !same(got, ask.Demand) {
				t.Fatalf("seed %d: %s is asked %+v, but its rules ask %+v", seed, from, ask.Demand, got)
			}
		}
	}
	if asks < 100 || formers < 100 {
		t.Errorf("only %d demands and %d former rules", asks, formers)
	}
}
