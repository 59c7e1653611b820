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
		if o := s.Sender(a, user, now); !slices.Equal(o.rules, c.rules) || o.Forwarders() {
			c.others = append(c.others, o)
		}
	}
	return c
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
var mildest = []policy.Action{policy.ActionAccept, policy.ActionTag, policy.ActionFallback, policy.ActionHold, policy.ActionDefer, policy.ActionReject}

// Under returns the domains of senders in the rules that begin with a label: what
// an MTA can make of a domain without a dot, as far as it bears on a rule.
func (s *Set) Under(label addr.Domain) []addr.Domain {
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
	slices.SortFunc(found, func(a, b addr.Domain) int { return strings.Compare(a.String(), b.String()) })
	return found
}
