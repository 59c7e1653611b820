package rules

import (
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Names returns the certificate names that rules in force take for d's when
// mail to it is accepted, the zero Domain standing for every recipient: what is
// demanded of a destination is kept without them. A rule for forwards says
// nothing of where they lead, so its names are for every destination.
func (s *Set) Names(d addr.Domain, now time.Time) []addr.Domain {
	var found []addr.Domain
	for _, r := range s.all {
		if r.Level == policy.LevelSecure && r.Enforcing() && r.Active(now) && (len(r.Forwarder) > 0 || r.concerns(d)) {
			found = append(found, r.Match...)
		}
	}
	return found
}

// concerns reports whether the rule selects recipients at d.
func (r *Rule) concerns(d addr.Domain) bool {
	return len(r.To) == 0 || d.IsZero() || slices.ContainsFunc(r.To, func(p addr.Pattern) bool {
		switch p.Kind() {
		case addr.Any:
			return true
		case addr.Exact, addr.InDomain:
			return p.Domain() == d
		case addr.Below:
			return d.Under(p.Domain())
		}
		return false
	})
}
