package rules

import (
	"slices"
	"time"

	"tlsonly/internal/addr"
)

// DecidingRule is a rule that decides what mail is asked at delivery.
type DecidingRule struct {
	Rule *Rule
	// Until is when mail that was accepted under it has ceased to wait; zero for a
	// rule in force.
	Until time.Time
}

// Deciding lists the rules that Requirement heeds for a number and a domain, those in force
// first. For the zero Domain, a next hop that carries anybody's mail, these are
// all that enforce.
func (d *Delivery) Deciding(n int, to addr.Domain, now time.Time) []DecidingRule {
	var found []DecidingRule
	for _, m := range d.meanings[n] {
		d.collect(&d.live[m.stage], m.class, now, &found, func(c *Class, t time.Time, heed func(*Rule)) {
			if !to.IsZero() {
				c.requirement(to, t, heed)
				return
			}
			for _, r := range c.Rules() {
				if r.Enforcing() && r.Active(t) {
					heed(r)
				}
			}
		})
	}
	return inForceFirst(found)
}

// DecidingFor is Deciding for RequirementFor.
func (d *Delivery) DecidingFor(from, to addr.Address, now time.Time) []DecidingRule {
	var found []DecidingRule
	for i := range d.live {
		s := &d.live[i]
		n := s.set.delivery.classOf(from)
		if n == 0 {
			continue
		}
		d.collect(s, n-1, now, &found, func(c *Class, t time.Time, heed func(*Rule)) {
			if _, r := c.RequirementFor(to, t); r != nil {
				heed(r)
			}
		})
	}
	return inForceFirst(found)
}

// collect collects the rules of one class of a stage that count.
func (d *Delivery) collect(
	s *stage, class int, now time.Time, found *[]DecidingRule, of func(*Class, time.Time, func(*Rule)),
) {
	if !d.alive(s, now) {
		return
	}
	d.moments(s, now, func(t time.Time) {
		of(&s.set.delivery.classes[class], t, func(r *Rule) {
			one := DecidingRule{Rule: r}
			switch {
			case !s.until.IsZero():
				one.Until = s.until.Add(d.keep)
			case !r.Active(now):
				one.Until = r.Until.Add(d.keep)
			}
			if !slices.Contains(*found, one) {
				*found = append(*found, one)
			}
		})
	})
}

func inForceFirst(found []DecidingRule) []DecidingRule {
	slices.SortStableFunc(found, func(a, b DecidingRule) int { return a.Until.Compare(b.Until) })
	return found
}
