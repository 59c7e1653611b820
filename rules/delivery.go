package rules

import (
	"cmp"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Delivery is what rules ask where an MTA delivers: the rules in force, and
// those that were in force while mail that may still wait was accepted. An
// answer is the strictest of what they ask, so that no change of the file
// makes mail weaker that was accepted before it.
//
// A class has a number, by which Postfix knows its transport. A number means
// the same senders for as long as mail can wait: what it stands in, a queue,
// a table or a cache, may be older than the file. What a number is asked is
// what its senders are asked now, and what they were asked under it.
//
// A Delivery never changes; a new file makes a new one.
type Delivery struct {
	keep     time.Duration
	live     []stage // the rules in force first, then the latest first
	meanings map[int][]meaning
	highest  int
}

// Stage is a set of rules, the numbers of its classes, and when it was last
// in force.
type Stage struct {
	Set *Set
	// Numbers are the numbers of the classes by their patterns of senders.
	Numbers Numbers
	Until   time.Time // of one that is in force, nothing
}

// Numbers gives the senders of a set that have a class its number.
type Numbers map[addr.Pattern]int

// stage is a Stage by the numbers of its classes.
type stage struct {
	set    *Set
	number []int // of class i+1 of the set
	until  time.Time
}

// meaning is one of the classes that a number stands for.
type meaning struct {
	stage int // of Delivery.live
	class int // of that set, from 0
}

// NewDelivery returns the Delivery of rules in force and of former ones, the
// latest first. Mail waits no longer than keep.
func NewDelivery(now Stage, former []Stage, keep time.Duration) *Delivery {
	d := &Delivery{keep: keep, meanings: map[int][]meaning{}}
	for _, s := range append([]Stage{now}, former...) {
		d.live = append(d.live, stage{set: s.Set, number: s.Set.numbered(s.Numbers), until: s.Until})
	}
	units := map[addr.Pattern]bool{}
	for i := range d.live {
		for _, n := range d.live[i].number {
			if n < unnumbered {
				d.highest = max(d.highest, n)
			}
		}
		for _, p := range d.live[i].set.units() {
			units[p] = true
		}
	}
	type entry struct {
		number int
		meaning
	}
	seen := map[entry]bool{}
	// A unit is a set of senders that none of the sets tells apart.
	for p := range units {
		var is []meaning
		for i := range d.live {
			if c := d.live[i].set.delivery.classOfPattern(p); c > 0 {
				is = append(is, meaning{i, c - 1})
			}
		}
		for _, a := range is {
			n := d.live[a.stage].number[a.class]
			for _, m := range is {
				if e := (entry{n, m}); !seen[e] {
					seen[e] = true
					d.meanings[n] = append(d.meanings[n], m)
				}
			}
		}
	}
	return d
}

// Alone returns the Delivery of rules that none came before, numbered in
// their order.
func Alone(set *Set) *Delivery {
	return NewDelivery(Stage{Set: set, Numbers: Assign(set, nil)}, nil, 0)
}

// Assign numbers the classes of a set. A class keeps the number that most of
// its senders had in the latest of the live sets in which they had any. The
// others get the lowest numbers that mean nothing in any of them.
func Assign(set *Set, live []Stage) Numbers {
	type vote struct{ number, class int }
	votes := map[vote]int{}
	used := map[int]bool{}
	numbered := make([][]int, len(live))
	for i, s := range live {
		numbered[i] = s.Set.numbered(s.Numbers)
		for _, n := range numbered[i] {
			used[n] = true
		}
	}
	units := set.units()
	for _, p := range units {
		c := set.delivery.classOfPattern(p)
		for i, s := range live {
			if was := s.Set.delivery.classOfPattern(p); c > 0 && was > 0 && numbered[i][was-1] < unnumbered {
				votes[vote{numbered[i][was-1], c}]++
				break
			}
		}
	}
	order := make([]vote, 0, len(votes))
	for v := range votes {
		order = append(order, v)
	}
	slices.SortFunc(order, func(a, b vote) int {
		return cmp.Or(cmp.Compare(votes[b], votes[a]), cmp.Compare(a.number, b.number), cmp.Compare(a.class, b.class))
	})
	number := make([]int, len(set.delivery.classes))
	taken := map[int]bool{}
	for _, v := range order {
		if number[v.class-1] == 0 && !taken[v.number] {
			number[v.class-1], taken[v.number] = v.number, true
		}
	}
	next := 1
	for i := range number {
		for number[i] == 0 {
			if !used[next] {
				number[i] = next
			}
			next++
		}
	}
	found := Numbers{}
	for _, p := range units {
		if c := set.delivery.classOfPattern(p); c > 0 {
			found[p] = number[c-1]
		}
	}
	return found
}

// numbered returns the numbers by class. A class without one gets none that
// any transport has, so that the strict one is used.
func (s *Set) numbered(numbers Numbers) []int {
	found := make([]int, len(s.delivery.classes))
	for _, p := range s.units() {
		if c := s.delivery.classOfPattern(p); c > 0 && found[c-1] == 0 {
			found[c-1] = numbers[p]
		}
	}
	for i := range found {
		if found[i] == 0 {
			found[i] = unnumbered + i
		}
	}
	return found
}

// unnumbered is above all numbers that are given.
const unnumbered = 1 << 20

// units returns the patterns by which the set tells senders apart, in the
// order of the file.
func (s *Set) units() []addr.Pattern {
	var found []addr.Pattern
	seen := map[addr.Pattern]bool{}
	add := func(p addr.Pattern) {
		if !seen[p] {
			seen[p] = true
			found = append(found, p)
		}
	}
	for i, r := range s.rules {
		if s.delivery.everybody[i] {
			add(everybody)
		}
		for _, p := range r.From {
			add(p)
		}
	}
	return found
}

var everybody = addr.MustPattern("*")

// classOfPattern returns the class of those senders that a pattern selects
// and no nearer one of the set, 0 for none.
func (d *delivery) classOfPattern(p addr.Pattern) int {
	switch p.Kind() {
	case addr.Null:
		return d.null
	case addr.Exact:
		return d.classOf(p.Address())
	case addr.InDomain:
		return d.classOf(addr.Address{Domain: p.Domain()})
	case addr.Below:
		for q := p.Domain(); !q.IsZero(); q = q.Parent() {
			if n, ok := d.below[q]; ok {
				return n
			}
		}
	}
	return d.anybody
}

// alive reports whether mail that was accepted under a stage may still wait.
func (d *Delivery) alive(s *stage, now time.Time) bool {
	return s.until.IsZero() || now.Before(s.until.Add(d.keep))
}

// moments calls each with the times at which what a stage asked still counts:
// when it was last in force, and just before each of its enforcing rules
// ended while mail was accepted that may still wait.
func (d *Delivery) moments(s *stage, now time.Time, each func(time.Time)) {
	last := now
	if !s.until.IsZero() {
		last = s.until
	}
	each(last)
	for _, end := range s.set.delivery.ends {
		if !end.After(last) && end.After(now.Add(-d.keep)) {
			each(end.Add(-1))
		}
	}
}

// Class returns the number of the sender's class, 0 for none: when no
// enforcing rule names it, and none did while mail was accepted that may
// still wait.
func (d *Delivery) Class(from addr.Address, now time.Time) int {
	return d.class(func(i *delivery) int { return i.classOf(from) }, now)
}

func (d *Delivery) class(of func(*delivery) int, now time.Time) int {
	for i := range d.live {
		s := &d.live[i]
		n := of(&s.set.delivery)
		if n == 0 || !d.alive(s, now) {
			continue
		}
		enforces := false
		d.moments(s, now, func(t time.Time) {
			enforces = enforces || s.set.delivery.classes[n-1].Enforces(t)
		})
		if enforces {
			return s.number[n-1]
		}
	}
	return 0
}

// Requirement returns what number n is asked of mail to recipients of a domain; the
// zero Domain stands for a next hop that carries anybody's mail. It is false
// for a number that means nothing.
func (d *Delivery) Requirement(n int, to addr.Domain, now time.Time) (ask Requirement, known bool) {
	for _, m := range d.meanings[n] {
		s := &d.live[m.stage]
		if !d.alive(s, now) {
			continue
		}
		c := &s.set.delivery.classes[m.class]
		d.moments(s, now, func(t time.Time) {
			var a Requirement
			if to.IsZero() {
				a.Demand = c.Strictest(t)
			} else {
				a = c.Requirement(to, t)
			}
			ask.join(a, known)
			known = true
		})
	}
	return ask, known
}

// RequirementFor returns what mail of a sender to one recipient is asked, and the
// rule that decides, nil for none.
func (d *Delivery) RequirementFor(from, to addr.Address, now time.Time) (Requirement, *Rule) {
	var rule *Rule
	ask := d.requirementOf(from, now, func(c *Class, t time.Time) Requirement {
		a, r := c.RequirementFor(to, t)
		if rule == nil || r != nil && r.Level.Rank() > rule.Level.Rank() {
			rule = r
		}
		return a
	})
	return ask, rule
}

// RequirementAt is RequirementFor for a recipient of whom only the domain is known.
func (d *Delivery) RequirementAt(from addr.Address, to addr.Domain, now time.Time) Requirement {
	return d.requirementOf(from, now, func(c *Class, t time.Time) Requirement { return c.Requirement(to, t) })
}

func (d *Delivery) requirementOf(from addr.Address, now time.Time, of func(*Class, time.Time) Requirement) Requirement {
	var ask Requirement
	some := false
	for i := range d.live {
		s := &d.live[i]
		n := s.set.delivery.classOf(from)
		if n == 0 || !d.alive(s, now) {
			continue
		}
		d.moments(s, now, func(t time.Time) {
			ask.join(of(&s.set.delivery.classes[n-1], t), some)
			some = true
		})
	}
	return ask
}

// join makes a Requirement the stricter of two; it is b where there was none before.
func (a *Requirement) join(b Requirement, some bool) {
	if !some {
		*a = b
		return
	}
	a.add(b)
}

// each calls f for every set that counts and every time at which it does.
func (d *Delivery) each(now time.Time, f func(*Set, time.Time)) {
	for i := range d.live {
		if s := &d.live[i]; d.alive(s, now) {
			d.moments(s, now, func(t time.Time) { f(s.set, t) })
		}
	}
}

// Strictest returns the most that any enforcing rule asks of mail to a
// domain, whoever the sender is; the zero Domain stands for every recipient.
func (d *Delivery) Strictest(to addr.Domain, now time.Time) policy.Demand {
	var found policy.Demand
	d.each(now, func(s *Set, t time.Time) { found = Stricter(found, s.Strictest(to, t)) })
	return found
}

// Enforces reports whether any rule enforces, whoever the sender is.
func (d *Delivery) Enforces(now time.Time) bool {
	found := false
	d.each(now, func(s *Set, t time.Time) { found = found || s.Enforces(t) })
	return found
}

// Protects reports whether an enforcing rule names senders at a domain.
func (d *Delivery) Protects(at addr.Domain, now time.Time) bool {
	found := false
	d.each(now, func(s *Set, t time.Time) { found = found || s.Protects(at, t) })
	return found
}

// Beginning returns the domains of senders in the rules that begin with a
// label.
func (d *Delivery) Beginning(label addr.Domain) []addr.Domain {
	var found []addr.Domain
	for i := range d.live {
		for _, domain := range d.live[i].set.Beginning(label) {
			if !slices.Contains(found, domain) {
				found = append(found, domain)
			}
		}
	}
	return found
}

// Names returns the certificate names that rules in force take for a domain.
func (d *Delivery) Names(to addr.Domain, now time.Time) []addr.Domain {
	return d.live[0].set.Names(to, now)
}

// Set returns the rules in force.
func (d *Delivery) Set() *Set { return d.live[0].set }

// Highest returns the highest number in use: an MTA needs the transports from
// 1 to it.
func (d *Delivery) Highest() int { return d.highest }

// Senders lists who has a number: what Class answers, for an MTA that reads a
// table instead of asking. Who isn't in it has none.
func (d *Delivery) Senders(now time.Time) []Sender {
	var found []Sender
	seen := map[addr.Pattern]bool{}
	for i := range d.live {
		for _, p := range d.live[i].set.units() {
			if seen[p] {
				continue
			}
			seen[p] = true
			if n := d.class(func(i *delivery) int { return i.classOfPattern(p) }, now); n > 0 {
				found = append(found, Sender{p, n})
			}
		}
	}
	return found
}

// Meaning is a class that a number stands for.
type Meaning struct {
	Class *Class
	// Until is when mail that was accepted under it has ceased to wait; zero
	// for one of the rules in force.
	Until time.Time
}

// Meanings returns what a number stands for, the rules in force first.
func (d *Delivery) Meanings(n int, now time.Time) []Meaning {
	var found []Meaning
	for _, m := range d.meanings[n] {
		s := &d.live[m.stage]
		if !d.alive(s, now) {
			continue
		}
		until := s.until
		if !until.IsZero() {
			until = until.Add(d.keep)
		}
		found = append(found, Meaning{&s.set.delivery.classes[m.class], until})
	}
	slices.SortStableFunc(found, func(a, b Meaning) int { return a.Until.Compare(b.Until) })
	return found
}
