package rules

import (
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Observing returns the rules in force that ask for TLS and only observe, so that
// nobody is protected by them.
func (s *Set) Observing(now time.Time) []*Rule {
	var found []*Rule
	for _, r := range s.Rules() {
		if r.Mode == policy.Observe && r.Level.Enforces() && r.Active(now) {
			found = append(found, r)
		}
	}
	return found
}

// Share reports whether rules in force protect all, or at least some, of the
// senders that a pattern selects. Rules by login name nobody's address.
func (s *Set) Share(p addr.Pattern, now time.Time) (some, all bool) {
	if p.Kind() == addr.Exact {
		protected := s.Class(p.Address(), now) > 0
		return protected, protected
	}
	for _, r := range s.Rules() {
		if !r.Enforcing() || !r.Active(now) || len(r.Forwarder) > 0 {
			continue
		}
		if len(r.From) == 0 && len(r.User) == 0 {
			return true, true
		}
		for _, from := range r.From {
			switch {
			case from.Covers(p):
				return true, true
			case p.Covers(from):
				some = true
			}
		}
	}
	return some, false
}

// Excepts reports whether a rule in force lets mail to a domain go in the clear.
// As an exception from another rule it holds for all mail whose next hop has that
// name.
func (s *Set) Excepts(d addr.Domain, now time.Time) bool {
	for _, r := range s.Rules() {
		if r.Level.Enforces() || !r.Active(now) || len(r.Forwarder) > 0 {
			continue
		}
		for _, to := range r.To {
			switch to.Kind() {
			case addr.InDomain, addr.Exact:
				if to.Domain() == d {
					return true
				}
			case addr.Below:
				if d.Under(to.Domain()) {
					return true
				}
			}
		}
	}
	return false
}
