package rules

import (
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// SenderOf is Sender for a message of which the MTA may make the sender one of
// several addresses. For each recipient the strictest of their rules decides.
func (s *Set) SenderOf(from []addr.Address, user string, now time.Time) Candidates {
	if len(from) == 0 {
		return Candidates{}
	}
	c := s.Sender(from[0], user, now)
	for _, a := range from[1:] {
		c.others = append(c.others, s.Sender(a, user, now))
	}
	return c
}

// ByLogin adds to the rules of a sender those that name a login, whichever: of
// mail that a login may have sent, and doesn't show it.
func (s *Set) ByLogin(c Candidates, now time.Time) Candidates {
	o := Candidates{set: s, from: c.from, now: now}
	for _, i := range s.delivery.byUser {
		if s.rules[i].Active(now) {
			o.rules = append(o.rules, s.rules[i])
		}
	}
	c.others = append(slices.Clone(c.others), o)
	return c
}

// NamesSender reports whether the rule selects a sender by its address, or all.
func (r *Rule) NamesSender(from addr.Address) bool {
	return len(r.From) == 0 && len(r.User) == 0 || matches(r.From, from)
}

// strictest returns of two rules the one that asks more; nil asks nothing.
func strictest(a, b *Rule) *Rule {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.Enforcing() != b.Enforcing():
		if b.Enforcing() {
			return b
		}
		return a
	}
	for _, by := range []func(*Rule) int{
		func(r *Rule) int { return r.Level.Rank() },
		func(r *Rule) int { return int(r.MinVersion) },
		func(r *Rule) int { return r.MinBits },
		func(r *Rule) int { return slices.Index(mildest, r.OnFail) },
		func(r *Rule) int { return slices.Index(mildest, r.OnUnknown) },
	} {
		if x, y := by(a), by(b); x != y {
			if y > x {
				return b
			}
			return a
		}
	}
	return a
}

// mildest are the actions, the one that holds mail least first.
var mildest = []policy.Action{
	policy.ActionAccept, policy.ActionTag, policy.ActionFallback,
	policy.ActionHold, policy.ActionDefer, policy.ActionReject,
}

// Beginning returns the domains of senders in the rules that begin with a label: what
// an MTA can make of a domain without a dot, as far as it bears on a rule.
func (s *Set) Beginning(label addr.Domain) []addr.Domain {
	var found []addr.Domain
	add := func(d addr.Domain) {
		if !slices.Contains(found, d) {
			found = append(found, d)
		}
	}
	for d := range s.domain {
		if strings.HasPrefix(d.String(), label.String()+".") {
			add(d)
		}
	}
	for d := range s.hosts {
		if strings.HasPrefix(d.String(), label.String()+".") {
			add(d)
		}
	}
	for d := range s.below {
		if whole, err := addr.ParseDomain(label.String() + "." + d.String()); err == nil {
			add(whole)
		}
	}
	slices.SortFunc(found, func(a, b addr.Domain) int {
		return strings.Compare(a.String(), b.String())
	})
	return found
}
