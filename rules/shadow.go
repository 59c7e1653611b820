package rules

import (
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
)

// shadowed returns a fault for every rule that can never decide, because one earlier rule selects all its senders
// and all its recipients. Rules that are over don't count, nor does an earlier rule that will be: what it shadows
// comes into its own then.
//
// The earlier rules stand in an index by the selectors they have, so that a rule meets only those earlier ones that
// cover its rarest selector: a list of 100,000 addresses costs as many look-ups, not their square.
func shadowed(rs []*Rule, now time.Time) []value.Fault {
	earlier := map[selector][]int{}
	var faults []value.Fault
	for i, r := range rs {
		if !r.Active(now) {
			continue
		}
		selectors := r.selectors()
		if j, ok := coveredBy(selectors, earlier); ok {
			faults = append(faults, value.Fault{Line: r.Line, Text: fmt.Sprintf(
				"rule %q: unreachable: rule %q on line %d decides before it", r.Name, rs[j].Name, rs[j].Line)})
			continue // what it would shadow, rule j does
		}
		if !r.Until.IsZero() {
			continue
		}
		for _, s := range selectors {
			if at := earlier[s]; len(at) == 0 || at[len(at)-1] != i {
				earlier[s] = append(at, i)
			}
		}
	}
	return faults
}

// selector is one value of a rule's from, user, to or forwarder. The zero pattern with no user names nobody.
type selector struct {
	of      role
	pattern addr.Pattern
	user    string
}

// role is whom a selector selects.
type role int

const (
	senders role = iota
	recipients
	forwarders
	otherMail // of a rule that names no forwarder, with the pattern for anybody
)

// selectors lists what r selects by, at least one for the sender, one for the recipient and one for who forwards. A rule that
// names no forwarder is for other mail.
func (r *Rule) selectors() []selector {
	anybody := addr.MustPattern("*")
	var list []selector
	if r.namesNoSender() {
		list = append(list, selector{pattern: anybody})
	} else {
		for _, p := range r.From {
			list = append(list, selector{pattern: p})
		}
		for _, u := range r.User {
			list = append(list, selector{user: u})
		}
	}
	if r.toAll() {
		list = append(list, selector{of: recipients, pattern: anybody})
	} else {
		for _, p := range r.To {
			list = append(list, selector{of: recipients, pattern: p})
		}
	}
	if len(r.Forwarder) == 0 {
		list = append(list, selector{of: otherMail, pattern: anybody})
	}
	for _, p := range r.Forwarder {
		list = append(list, selector{of: forwarders, pattern: p})
	}
	return list
}

func (r *Rule) namesNoSender() bool {
	return len(r.From) == 0 && len(r.User) == 0 || slices.Contains(r.From, addr.MustPattern("*"))
}

func (r *Rule) toAll() bool { return len(r.To) == 0 || slices.Contains(r.To, addr.MustPattern("*")) }

// wider returns the selectors that cover s, s among them.
func (s selector) wider() []selector {
	if s.user == "" {
		ps := s.pattern.Wider()
		list := make([]selector, len(ps))
		for i, p := range ps {
			list[i] = selector{of: s.of, pattern: p}
		}
		return list
	}
	list := []selector{s, {pattern: addr.MustPattern("*")}}
	if s.user != "*" {
		list = append(list, selector{user: "*"})
	}
	return list
}

// coveredBy finds the first rule of the index that covers every one of the selectors.
func coveredBy(selectors []selector, index map[selector][]int) (int, bool) {
	rarest, fewest := selector{}, -1
	for _, s := range selectors {
		n := 0
		for _, w := range s.wider() {
			n += len(index[w])
		}
		if n == 0 {
			return 0, false
		}
		if fewest < 0 || n < fewest {
			rarest, fewest = s, n
		}
	}
	candidates := make([]int, 0, fewest)
	for _, w := range rarest.wider() {
		candidates = append(candidates, index[w]...)
	}
	slices.Sort(candidates)
	for _, j := range candidates {
		covers := func(s selector) bool {
			return slices.ContainsFunc(s.wider(), func(w selector) bool {
				_, ok := slices.BinarySearch(index[w], j)
				return ok
			})
		}
		if !slices.ContainsFunc(selectors, func(s selector) bool { return !covers(s) }) {
			return j, true
		}
	}
	return 0, false
}
