package rules

import (
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Under returns the candidates with the rules that aren't in force any more
// and still bind the sender's mail at delivery. What they don't let go must
// not be accepted: it would only wait. As the sender can't mend that, such a
// recipient is deferred, whatever the rule says of failure.
func (d *Delivery) Under(c Candidates) Candidates {
	for i := range d.live {
		s := &d.live[i]
		if !d.alive(s, c.now) {
			continue
		}
		first := true
		d.moments(s, c.now, func(t time.Time) {
			if now := i == 0 && first; !now {
				for _, sender := range append([]Candidates{c}, c.others...) {
					if f := s.set.Sender(sender.from, c.user, t); f.enforce() {
						c.former = append(c.former, f)
					}
				}
			}
			first = false
		})
	}
	return c
}

// enforce reports whether any of the rules enforces.
func (c Candidates) enforce() bool {
	for _, r := range c.rules {
		if r.Enforcing() {
			return true
		}
	}
	return false
}

// underFormer returns the rule for a recipient that binds at delivery: r, or a
// former one that asks more.
func (c Candidates) underFormer(to addr.Address, r *Rule) *Rule {
	rank := -1
	if r != nil && r.Enforcing() {
		rank = r.Level.Rank()
	}
	for _, f := range c.former {
		old := f.match(to)
		if old == nil || !old.Enforcing() || old.Level.Rank() <= rank {
			continue
		}
		rank = old.Level.Rank()
		deferring := *old
		deferring.Former = true
		deferring.OnFail, deferring.OnUnknown = policy.ActionDefer, policy.ActionDefer
		r = &deferring
	}
	return r
}
