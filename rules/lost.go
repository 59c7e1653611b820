package rules

import (
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Weaker is a rule of which a later file has nothing, or less.
type Weaker struct {
	Name string
	Why  string // in words
}

// Weakened lists the enforcing rules that a later set doesn't have, or that
// ask less there.
func (s *Set) Weakened(later *Set, now time.Time) []Weaker {
	byName := make(map[string]*Rule, len(later.all))
	for _, r := range later.all {
		byName[r.Name] = r
	}
	var found []Weaker
	for _, r := range s.all {
		if !r.Enforcing() || !r.Active(now) {
			continue
		}
		is, there := byName[r.Name]
		switch {
		case !there:
			found = append(found, Weaker{r.Name, "it is gone"})
		case !is.Enforcing():
			found = append(found, Weaker{r.Name, fmt.Sprintf("tls = %q, mode = %q", is.Level, is.Mode)})
		case is.Level.Rank() < r.Level.Rank():
			found = append(found, Weaker{r.Name, fmt.Sprintf("tls = %q, not %q", is.Level, r.Level)})
		case is.MinVersion < r.MinVersion:
			found = append(found, Weaker{r.Name, fmt.Sprintf("min_version = %q, not %q", is.MinVersion, r.MinVersion)})
		case is.MinBits < r.MinBits:
			found = append(found, Weaker{r.Name, fmt.Sprintf("min_bits = %d, not %d", is.MinBits, r.MinBits)})
		}
	}
	return found
}

// Exceptions lists the rules of a later set that ask for no TLS where this
// set may have asked for it.
func (s *Set) Exceptions(later *Set, now time.Time) []string {
	had := map[string]bool{}
	for _, r := range s.rules {
		if !r.Level.Enforces() {
			had[r.identity()] = true
		}
	}
	var found []string
	for _, r := range later.rules {
		if !r.Level.Enforces() && r.Mode == policy.Enforce && r.Active(now) && !had[r.identity()] && s.Enforces(now) {
			found = append(found, r.Name)
		}
	}
	return found
}

// identity says whose mail a rule is about, and what it asks.
func (r *Rule) identity() string { return fmt.Sprint(r.From, r.User, r.To, r.Level) }

// Unprotected lists the senders that enforcing rules name, and no enforcing
// rule of a later set does: patterns, and logins as "user:login".
func (s *Set) Unprotected(later *Set, now time.Time) []string {
	var found []string
	for _, p := range s.units() {
		was, is := s.delivery.classOfPattern(p), later.delivery.classOfPattern(p)
		if was > 0 && s.delivery.classes[was-1].Enforces(now) && (is == 0 || !later.delivery.classes[is-1].Enforces(now)) {
			found = append(found, p.String())
		}
	}
	enforces := func(s *Set, login string) bool {
		return slices.ContainsFunc(s.Sender(addr.Address{}, login, now).rules, func(r *Rule) bool {
			return r.Enforcing() && len(r.User) > 0
		})
	}
	seen := map[string]bool{}
	for _, i := range s.delivery.byUser {
		for _, u := range s.rules[i].User {
			if !seen[u] && s.rules[i].Active(now) && !enforces(later, u) {
				found = append(found, "user:"+u)
			}
			seen[u] = true
		}
	}
	return found
}

// Senders returns the patterns whose senders are in the class, in the order
// of the file.
func (c *Class) Senders() []addr.Pattern {
	var found []addr.Pattern
	for _, p := range c.set.units() {
		if n := c.set.delivery.classOfPattern(p); n == c.number {
			found = append(found, p)
		}
	}
	return found
}
