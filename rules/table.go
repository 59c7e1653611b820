package rules

import (
	"time"

	"tlsonly/internal/addr"
)

// Sender is a pattern of senders and the number of their class. Of several patterns that select a sender the nearest counts:
// the address with its extension, the address without, "<>", the domain, what is above it from the longest name on, everybody.
type Sender struct {
	Pattern addr.Pattern
	Class   int
}

// Senders lists who has a class at now, in the order of the file: what Class answers, for an MTA that reads a table instead of
// asking. Who isn't in it has none.
func (s *Set) Senders(now time.Time) []Sender {
	d := &s.delivery
	var found []Sender
	seen := map[addr.Pattern]bool{}
	add := func(p addr.Pattern, n int) {
		// One that doesn't enforce now has no wider one that does, for a nearer pattern has all the rules of a wider one.
		if !seen[p] && n > 0 && d.classes[n-1].Enforces(now) {
			found = append(found, Sender{p, n})
		}
		seen[p] = true
	}
	everybody := addr.MustPattern("*")
	for i, r := range s.rules {
		if d.everybody[i] {
			add(everybody, d.anybody)
		}
		for _, p := range r.From {
			switch p.Kind() {
			case addr.Null:
				add(p, d.null)
			case addr.Exact:
				add(p, d.exact[p.Address()])
			case addr.InDomain:
				add(p, d.domain[p.Domain()])
			case addr.Below:
				add(p, d.below[p.Domain()])
			}
		}
	}
	return found
}
