package rules

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Class is a set of senders for whom the same rules come into question in the
// same order: what delivery can tell apart, because there an MTA shows the sender
// first and the next hop later, never both. Only senders have a class whom a
// rule names that asks for TLS; most sites have one. A rule that only observes
// has one reserved, so that the MTA has the transport on the day it enforces.
//
// BUGS: rules by user name what delivery doesn't see, a login. Such a rule
// makes no class and is in none; what it demanded when it accepted mail binds
// the destination instead, see Requirement.
type Class struct {
	set       *Set
	number    int
	named     []int // rules that name some senders; those for everybody (set.anybody) come into question besides
	whole     []int // of all its rules those that select every recipient, up to the first that never ends
	strictest strictestDemand
}

// Requirement is what rules ask of a next hop, or of one recipient.
type Requirement struct {
	// Demand has no Level where no rule in force asks anything.
	Demand policy.Demand
	// Exempt reports that rules say none or may of every recipient there, and nothing else can have been said: what
	// other rules demanded of the destination doesn't bind this mail. Where it is false such demands do.
	Exempt bool
}

// delivery is what a Set knows beforehand for questions at delivery.
type delivery struct {
	forms   addr.Forms
	classes []Class
	// The number of the class of a sender is that of the nearest pattern that selects it, 0 for none.
	exact         map[addr.Address]int
	domain, below map[addr.Domain]int
	null, anybody int

	everybody []bool // by rule: it names every sender
	byUser    []int  // enforcing rules that a login alone can bring into question
	// Where recipients lead: rules that select all of a domain, all below one, or some of one; ascending.
	toDomain, toBelow, toPart map[addr.Domain][]int
	all, toAll                strictestDemand // over all enforcing rules, and over those for every recipient
	ends                      []time.Time     // when enforcing rules end
}

// Enforcing reports whether r makes mail wait or bounce where it can't be met.
func (r *Rule) Enforcing() bool { return r.Mode == policy.Enforce && r.Level.Enforces() }

// Stricter joins two demands: the higher level, and of the bounds the higher ones of those that enforce. Of certificate
// names only those that both take are left, where both ask for any.
func Stricter(a, b policy.Demand) policy.Demand {
	if b.Level.Rank() > a.Level.Rank() {
		a, b = b, a
	}
	if b.Level.Enforces() {
		a.MinVersion = max(a.MinVersion, b.MinVersion)
		a.MinBits = max(a.MinBits, b.MinBits)
		a.Pin = a.Pin || b.Pin
		a.Honor.DANE = a.Honor.DANE || b.Honor.DANE
		a.Honor.MTASTS = a.Honor.MTASTS || b.Honor.MTASTS
	}
	if b.Level == policy.LevelSecure && a.Level == policy.LevelSecure && !slices.Equal(a.Match, b.Match) {
		a.Match = slices.DeleteFunc(slices.Clone(a.Match), func(d addr.Domain) bool { return !slices.Contains(b.Match, d) })
	}
	return a
}

// strictestDemand is the join of enforcing rules, of which those that end are looked at each time.
type strictestDemand struct {
	lasting policy.Demand
	ending  []int
}

func (m *strictestDemand) add(i int, r *Rule) {
	switch {
	case !r.Enforcing():
	case r.Until.IsZero():
		m.lasting = Stricter(m.lasting, r.Demand())
	default:
		m.ending = append(m.ending, i)
	}
}

func (m *strictestDemand) at(rs []*Rule, now time.Time) policy.Demand {
	d := m.lasting
	for _, i := range m.ending {
		if rs[i].Active(now) {
			d = Stricter(d, rs[i].Demand())
		}
	}
	return d
}

// Classes returns the classes of the file, numbered from 1 in the order in
// which its rules first name their senders. These are places in the file, on
// any day; the numbers that an MTA knows are a Delivery's.
func (s *Set) Classes() []Class { return s.delivery.classes }

// Class returns the place of the sender's class among Classes, 0 when no
// enforcing rule in force names it.
func (s *Set) Class(from addr.Address, now time.Time) int {
	n := s.delivery.classOf(from)
	if n == 0 || !s.delivery.classes[n-1].Enforces(now) {
		return 0
	}
	return n
}

// Enforces reports whether any rule enforces at now, whoever the sender is.
func (s *Set) Enforces(now time.Time) bool { return s.delivery.all.at(s.rules, now).Level.Enforces() }

// classOf relies on this: the nearest pattern that selects a sender is selected by all the others that select it, too.
func (d *delivery) classOf(from addr.Address) int {
	if from.IsNull() {
		return d.null
	}
	f := from.Fold()
	if n, ok := d.exact[named(d.exact, d.forms, f)]; ok {
		return n
	}
	if n, ok := d.domain[f.Domain]; ok {
		return n
	}
	for p := f.Domain; len(d.below) > 0 && !p.IsZero(); p = p.Parent() {
		if n, ok := d.below[p]; ok {
			return n
		}
	}
	return d.anybody
}

// prepare finds the classes and indexes the recipients; New calls it last. Every list of rules that some sender can
// have belongs to a pattern of the file: an address, a domain without its listed addresses, all below a domain, the null
// sender, or everybody else. So there are no more classes than patterns.
func (s *Set) prepare() {
	d := &s.delivery
	*d = delivery{
		forms:     s.forms,
		exact:     map[addr.Address]int{},
		domain:    map[addr.Domain]int{},
		below:     map[addr.Domain]int{},
		everybody: make([]bool, len(s.rules)),
		toDomain:  map[addr.Domain][]int{},
		toBelow:   map[addr.Domain][]int{},
		toPart:    map[addr.Domain][]int{},
	}
	for _, i := range s.anybody {
		d.everybody[i] = true
	}
	for i, r := range s.rules {
		d.all.add(i, r)
		if r.Enforcing() && !r.Until.IsZero() && !slices.ContainsFunc(d.ends, r.Until.Equal) {
			d.ends = append(d.ends, r.Until)
		}
		if r.toAll() {
			d.toAll.add(i, r)
		}
		if r.Enforcing() && len(r.User) > 0 {
			d.byUser = append(d.byUser, i)
		}
		for _, p := range r.To {
			switch p.Kind() {
			case addr.InDomain:
				index(d.toDomain, p.Domain(), i)
			case addr.Below:
				index(d.toBelow, p.Domain(), i)
			case addr.Exact:
				index(d.toPart, p.Domain(), i)
			}
		}
	}
	numbers := map[string]int{}
	if len(s.null) == 0 {
		// The null sender is one of everybody, and has its number once they have one.
		defer func() { d.null = d.anybody }()
	}
	for i, r := range s.rules {
		if d.everybody[i] {
			d.anybody = s.classFor(nil, numbers)
		}
		for _, p := range r.From {
			switch p.Kind() {
			case addr.Null:
				d.null = s.classFor(s.null, numbers)
			case addr.Exact:
				a := p.Address()
				own := slices.Concat(s.exactly(a), s.domain[a.Domain], s.above(a.Domain))
				d.exact[a] = s.classFor(own, numbers)
			case addr.InDomain:
				d.domain[p.Domain()] = s.classFor(slices.Concat(s.domain[p.Domain()], s.above(p.Domain())), numbers)
			case addr.Below:
				d.below[p.Domain()] = s.classFor(s.above(p.Domain()), numbers)
			}
		}
	}
}

// above returns the rules for all below d or below a parent of it.
func (s *Set) above(d addr.Domain) []int {
	var found []int
	for ; len(s.below) > 0 && !d.IsZero(); d = d.Parent() {
		found = append(found, s.below[d]...)
	}
	return found
}

func index(m map[addr.Domain][]int, d addr.Domain, i int) {
	if at := m[d]; len(at) == 0 || at[len(at)-1] != i {
		m[d] = append(at, i)
	}
}

// classFor returns the number of the class with these rules and those for everybody, making it if need be, and 0 when
// none of them asks for TLS.
func (s *Set) classFor(own []int, numbers map[string]int) int {
	own = slices.DeleteFunc(slices.Clone(own), func(i int) bool { return s.delivery.everybody[i] })
	slices.Sort(own)
	own = slices.Compact(own)
	var key strings.Builder
	for _, i := range own {
		key.Write([]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
	}
	if n, ok := numbers[key.String()]; ok {
		return n
	}
	c := Class{set: s, named: own}
	ends := true // every rule for all recipients so far does
	asks := false
	for i := range c.indexes() {
		r := s.rules[i]
		asks = asks || r.Level.Enforces()
		c.strictest.add(i, r)
		if r.toAll() && ends {
			c.whole = append(c.whole, i)
			ends = !r.Until.IsZero()
		}
	}
	if asks {
		c.number = len(s.delivery.classes) + 1
		s.delivery.classes = append(s.delivery.classes, c)
	}
	numbers[key.String()] = c.number
	return c.number
}

// indexes walks the rules of the class in their order.
func (c *Class) indexes() iter.Seq[int] {
	return func(yield func(int) bool) {
		own, rest := c.named, c.set.anybody
		for len(own)+len(rest) > 0 {
			var i int
			if len(rest) == 0 || len(own) > 0 && own[0] < rest[0] {
				i, own = own[0], own[1:]
			} else {
				i, rest = rest[0], rest[1:]
				if len(rest) > 0 && rest[0] == i {
					continue // named twice: no selector and "*", or "*" twice
				}
			}
			if !yield(i) {
				return
			}
		}
	}
}

func (c *Class) has(i int) bool {
	if c.set.delivery.everybody[i] {
		return true
	}
	_, ok := slices.BinarySearch(c.named, i)
	return ok
}

// Number returns the class's place in its file, from 1.
func (c *Class) Number() int { return c.number }

// Rules returns the rules of the class in their order, those that are over among them.
func (c *Class) Rules() []*Rule {
	var rs []*Rule
	for i := range c.indexes() {
		rs = append(rs, c.set.rules[i])
	}
	return rs
}

// Floor returns the highest of the TLS versions that the class's rules ask for
// on any day, those that only observe among them.
func (c *Class) Floor() policy.Version {
	var floor policy.Version
	for i := range c.indexes() {
		if r := c.set.rules[i]; r.Level.Enforces() {
			floor = max(floor, r.MinVersion)
		}
	}
	return floor
}

// Observes reports whether the class is only reserved now: rules of it observe, and none enforces.
func (c *Class) Observes(now time.Time) bool {
	if c.Enforces(now) {
		return false
	}
	for i := range c.indexes() {
		if r := c.set.rules[i]; r.Level.Enforces() && r.Mode == policy.Observe && r.Active(now) {
			return true
		}
	}
	return false
}

// Strictest returns the most that any rule of the class asks at now; no Level when none enforces.
func (c *Class) Strictest(now time.Time) policy.Demand { return c.strictest.at(c.set.rules, now) }

// Enforces reports whether a rule of the class enforces at now.
func (c *Class) Enforces(now time.Time) bool { return c.Strictest(now).Level.Enforces() }

// Requirement returns what the class's rules ask of mail to recipients of d:
// the first rule that selects one decides for it. Where rules tell addresses of
// one domain apart the strictest holds for all of it, because an MTA binds next
// hops.
func (c *Class) Requirement(d addr.Domain, now time.Time) Requirement {
	return c.requirement(d, now, nil)
}

// requirement is Requirement; heed, if not nil, is told of each rule that counts.
func (c *Class) requirement(d addr.Domain, now time.Time, heed func(*Rule)) Requirement {
	type hit struct {
		rule  int
		whole bool
	}
	var buf [16]hit
	hits := buf[:0]
	gather := func(rules []int, whole bool) {
		for _, i := range rules {
			if c.has(i) {
				hits = append(hits, hit{i, whole})
			}
		}
	}
	s := c.set
	gather(c.whole, true)
	gather(s.delivery.toDomain[d], true)
	for p := d; len(s.delivery.toBelow) > 0 && !p.IsZero(); p = p.Parent() {
		gather(s.delivery.toBelow[p], true)
	}
	gather(s.delivery.toPart[d], false)
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Compare(a.rule, b.rule) })
	ask := Requirement{Exempt: true}
	for _, h := range hits {
		r := s.rules[h.rule]
		if !r.Active(now) {
			continue
		}
		ask.add(s.requirementOf(h.rule, now))
		if heed != nil {
			heed(r)
		}
		if h.whole {
			return ask
		}
	}
	ask.Exempt = false // of the other recipients nothing is said
	return ask
}

// RequirementFor returns what the class's rules ask of mail to one recipient,
// and the rule that decides, nil for none.
func (c *Class) RequirementFor(to addr.Address, now time.Time) (Requirement, *Rule) {
	for i := range c.indexes() {
		r := c.set.rules[i]
		if r.Active(now) && (len(r.To) == 0 || matches(r.To, to)) {
			return c.set.requirementOf(i, now), r
		}
	}
	return Requirement{}, nil
}

// requirementOf returns what one rule asks where it decides. One that only
// observes changes nothing, so it asks nothing.
func (s *Set) requirementOf(i int, now time.Time) Requirement {
	r := s.rules[i]
	switch {
	case r.Mode != policy.Enforce:
		return Requirement{}
	case r.Level.Enforces():
		return Requirement{Demand: r.Demand()}
	}
	for _, u := range s.delivery.byUser {
		if u < i && s.rules[u].Active(now) {
			return Requirement{Demand: r.Demand()} // that rule may have decided, for a login
		}
	}
	return Requirement{Demand: r.Demand(), Exempt: true}
}

func (a *Requirement) add(b Requirement) {
	a.Demand = Stricter(a.Demand, b.Demand)
	a.Exempt = a.Exempt && b.Exempt
}

// Strictest returns the most that any enforcing rule of the set asks of mail to d, whoever the sender is; the zero
// Domain stands for every recipient. No Level when none asks anything.
func (s *Set) Strictest(d addr.Domain, now time.Time) policy.Demand {
	if d.IsZero() {
		return s.delivery.all.at(s.rules, now)
	}
	found := s.delivery.toAll.at(s.rules, now)
	join := func(rules []int) {
		for _, i := range rules {
			if r := s.rules[i]; r.Enforcing() && r.Active(now) {
				found = Stricter(found, r.Demand())
			}
		}
	}
	join(s.delivery.toDomain[d])
	join(s.delivery.toPart[d])
	for p := d; len(s.delivery.toBelow) > 0 && !p.IsZero(); p = p.Parent() {
		join(s.delivery.toBelow[p])
	}
	return found
}
