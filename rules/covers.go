package rules

import (
	"slices"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// elsewhere is a domain that no rule names (RFC 6761, section 6.4).
var elsewhere = addr.MustDomain("elsewhere.invalid")

// Covers reports whether delivery, where the sender is known and the recipient
// is whoever mail was sent on to, asks of a sender's mail all that a rule asks,
// but where the rules make an exception for a recipient. Lends says that all
// mail of a sender is bound to the strictest of the rules as soon as a rule by
// login has accepted some.
func (d *Delivery) Covers(c Candidates, r *Rule, lends bool) bool {
	if r == nil || !r.Level.Enforces() {
		return true
	}
	if r.Mode != policy.Enforce {
		return true // it changes nothing, and is looked at once it does
	}
	some := false
	for _, from := range c.Senders() {
		var ask policy.Demand
		switch {
		case lends && !from.IsNull() && !from.Domain.IsZero() && len(r.User) > 0 && !r.NamesSender(d.Forms(c.now), from):
			if ask = d.Strictest(elsewhere, c.now); !ask.Level.Enforces() {
				ask = policy.DefaultDemand()
			}
		case d.Class(from, c.now) > 0:
			ask = d.RequirementAt(from, elsewhere, c.now).Demand
		default:
			continue // another form of the sender, which nobody protects
		}
		if !implies(ask, r.Demand()) {
			return false
		}
		some = true
	}
	return some
}

// implies reports whether who satisfies a demand satisfies another, too.
func implies(d, other policy.Demand) bool {
	both := Stricter(d, other)
	return both.Level == d.Level && both.MinVersion == d.MinVersion && both.MinBits == d.MinBits &&
		both.Honor == d.Honor && slices.Equal(both.Match, d.Match)
}
