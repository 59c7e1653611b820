// Package rules holds the [[rule]] tables: it parses them, finds the rule that decides for a sender and a recipient,
// and judges what is known of a destination by it. It is pure: no I/O, no clock of its own.
//
// The first rule that matches a (sender, recipient) pair decides; where none matches, nothing is asked. Within one
// rule the selectors from and user are two ways to name the sender and either suffices; sender and to must both
// match. Finding the rules of a sender costs map look-ups, not a walk over all rules.
package rules

import (
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Rule is one [[rule]] table.
type Rule struct {
	Name string
	From []addr.Pattern
	User []string       // SASL logins, folded, or "*" for every login; with From empty too: everybody
	To   []addr.Pattern // recipients; empty: all
	// Forwarder are addresses here whose forwards the rule governs. A rule that names any says nothing of other mail.
	Forwarder  []addr.Pattern
	Level      policy.Level
	MinVersion policy.Version
	MinBits    int
	OnFail     policy.Action
	OnUnknown  policy.Action
	Honor      policy.Honor
	Match      []addr.Domain // certificate names accepted for level secure
	Pin        bool          // a destination once seen with TLS is held to it
	Mode       policy.Mode
	Until      time.Time // the first instant at which the rule is over; zero: it never is
	Forever    bool      // the file says that it never is
	Why        string    // key "reason"

	// Of a rule with OnFail policy.ActionFallback: the methods in their order,
	// what becomes of a message for which none can be had, and for how long a
	// pinned destination that lost TLS is waited for, or Never.
	Fallback      []policy.Method `json:",omitempty"`
	FallbackElse  policy.Action   `json:",omitempty"`
	FallbackAfter time.Duration   `json:",omitempty"`

	Line   int  // where its table begins in the file
	Former bool `json:"-"` // it isn't in force any more, and still binds at delivery
}

// Demand is what the rule asks of a destination.
func (r *Rule) Demand() policy.Demand {
	return policy.Demand{Level: r.Level, MinVersion: r.MinVersion, MinBits: r.MinBits, Pin: r.Pin, Honor: r.Honor, Match: r.Match}
}

// Active reports whether the rule is in force at now.
func (r *Rule) Active(now time.Time) bool { return r.Until.IsZero() || now.Before(r.Until) }

// Set is all rules of a file, in their order. It never changes; a new file makes a new Set.
type Set struct {
	forms     addr.Forms
	all       []*Rule
	forwarder []*Rule // those for forwards
	rules     []*Rule // the others
	// Where each way to name a sender leads: indexes into rules, ascending.
	anybody []int // no sender selector, or "*"
	null    []int
	exact   map[addr.Address][]int
	domain  map[addr.Domain][]int
	below   map[addr.Domain][]int
	user    map[string][]int
	anyUser []int
	hosts   map[addr.Domain][]int // the domains of exact addresses

	delivery delivery
}

// New makes a Set of rules that Parse has found good. It keeps the slice.
func New(rs []*Rule) *Set { return newSet(rs, addr.Forms{}) }

// With returns the Set with the forms that its senders can come in.
func (s *Set) With(f addr.Forms) *Set { return newSet(s.all, f.Normal()) }

// Forms returns the forms that senders can come in.
func (s *Set) Forms() addr.Forms { return s.forms }

func newSet(rs []*Rule, forms addr.Forms) *Set {
	s := &Set{
		forms:  forms,
		all:    rs,
		exact:  map[addr.Address][]int{},
		domain: map[addr.Domain][]int{},
		below:  map[addr.Domain][]int{},
		user:   map[string][]int{},
		hosts:  map[addr.Domain][]int{},
	}
	for _, r := range rs {
		if len(r.Forwarder) > 0 {
			s.forwarder = append(s.forwarder, r)
		} else {
			s.rules = append(s.rules, r)
		}
	}
	for i, r := range s.rules {
		if len(r.From) == 0 && len(r.User) == 0 {
			s.anybody = append(s.anybody, i)
		}
		for _, p := range r.From {
			switch p.Kind() {
			case addr.Any:
				s.anybody = append(s.anybody, i)
			case addr.Null:
				s.null = append(s.null, i)
			case addr.Exact:
				s.exact[p.Address()] = append(s.exact[p.Address()], i)
				s.hosts[p.Domain()] = append(s.hosts[p.Domain()], i)
			case addr.InDomain:
				s.domain[p.Domain()] = append(s.domain[p.Domain()], i)
			case addr.Below:
				s.below[p.Domain()] = append(s.below[p.Domain()], i)
			}
		}
		for _, u := range r.User {
			if u == "*" {
				s.anyUser = append(s.anyUser, i)
			} else {
				u = foldUser(u)
				s.user[u] = append(s.user[u], i)
			}
		}
	}
	s.prepare()
	return s
}

// foldUser gives the one form of a login that is compared; logins are folded as local parts are.
func foldUser(login string) string { return addr.Address{Local: login}.Fold().Local }

// Rules returns the rules in their order; the caller doesn't change them.
func (s *Set) Rules() []*Rule { return s.all }

// named returns a folded address itself where the rules name it, else the
// nearest that it is an extension of and they name.
func named[T any](index map[addr.Address]T, forms addr.Forms, f addr.Address) addr.Address {
	if _, ok := index[f]; ok {
		return f
	}
	for _, base := range forms.Bases(f) {
		if _, ok := index[base]; ok {
			return base
		}
	}
	return f
}

// exactly returns the rules that name a folded address, or what it is an extension of.
func (s *Set) exactly(f addr.Address) []int {
	found := slices.Clone(s.exact[f])
	for _, base := range s.forms.Bases(f) {
		found = append(found, s.exact[base]...)
	}
	return found
}

// Sender returns the rules that a message of this sender can meet, in order.
// user is the SASL login, "" for none. The sender is taken as it stands, see
// SenderOf.
func (s *Set) Sender(from addr.Address, user string, now time.Time) Candidates {
	var found []int
	found = append(found, s.anybody...)
	if from.IsNull() {
		found = append(found, s.null...)
	} else {
		f := from.Fold()
		found = append(found, s.exactly(named(s.exact, s.forms, f))...)
		found = append(found, s.domain[f.Domain]...)
		for d := f.Domain; len(s.below) > 0 && !d.IsZero(); d = d.Parent() {
			found = append(found, s.below[d]...)
		}
	}
	if user != "" {
		found = append(found, s.anyUser...)
		found = append(found, s.user[foldUser(user)]...)
	}
	c := Candidates{set: s, sent: from, from: from, user: user, now: now}
	if len(found) == 0 {
		return c
	}
	slices.Sort(found)
	found = slices.Compact(found)
	c.rules = make([]*Rule, 0, len(found))
	for _, i := range found {
		if s.rules[i].Active(now) {
			c.rules = append(c.rules, s.rules[i])
		}
	}
	return c
}

// Protects reports whether an enforcing rule names senders at d: what comes back to them, a bounce above all, is to be
// held to TLS like what they send. A rule for everybody names nobody.
func (s *Set) Protects(d addr.Domain, now time.Time) bool {
	enforces := func(found []int) bool {
		return slices.ContainsFunc(found, func(i int) bool { return s.rules[i].Enforcing() && s.rules[i].Active(now) })
	}
	if d.IsZero() {
		return false
	}
	if enforces(s.domain[d]) || enforces(s.hosts[d]) {
		return true
	}
	for ; len(s.below) > 0 && !d.IsZero(); d = d.Parent() {
		if enforces(s.below[d]) {
			return true
		}
	}
	return false
}

// Candidates are the rules that can decide for mail of one sender, in order. The zero Candidates are none.
type Candidates struct {
	rules []*Rule // for what is sent, not for what is forwarded
	set   *Set
	sent  addr.Address // as the message has it
	from  addr.Address // whose it is
	user  string
	now   time.Time

	others []Candidates // of the other addresses that the sender may be
	former []Candidates // of rules that aren't in force any more and still bind at delivery
	doubt  *Delivery    // at delivery nobody can tell which of the addresses the sender is, see Doubt
}

// Empty reports whether no rule concerns the sender's mail: it is none of our business.
func (c Candidates) Empty() bool {
	return len(c.rules) == 0 && len(c.former) == 0 && !c.Forwarders() &&
		!slices.ContainsFunc(c.others, func(o Candidates) bool { return !o.Empty() })
}

// From returns the sender, as the message has it.
func (c Candidates) From() addr.Address { return c.sent }

// Senders returns the addresses that the sender may be, each folded.
func (c Candidates) Senders() []addr.Address {
	found := []addr.Address{c.from.Fold()}
	for _, o := range c.others {
		found = append(found, o.Senders()...)
	}
	return found
}

// Match returns the first rule that selects the recipient, or nil; of a sender
// that may be several addresses the strictest one of those. A rule that isn't
// in force any more and asks more comes in its place, see Under.
func (c Candidates) Match(to addr.Address) *Rule {
	found := c.match(to)
	for _, o := range c.others {
		found = strictest(found, o.match(to))
	}
	return c.inDoubt(to, c.underFormer(to, found))
}

// match returns the first rule in force that selects the recipient, or nil.
func (c Candidates) match(to addr.Address) *Rule {
	for _, r := range c.rules {
		if r.selects(to) {
			return r
		}
	}
	return nil
}

func (r *Rule) selects(to addr.Address) bool { return len(r.To) == 0 || matches(r.To, to) }

func matches(ps []addr.Pattern, a addr.Address) bool {
	return slices.ContainsFunc(ps, func(p addr.Pattern) bool { return p.Match(a) })
}

// Forwarders reports whether any rule governs forwards: then no mail is none of our business.
func (c Candidates) Forwarders() bool {
	return c.set != nil && slices.ContainsFunc(c.set.forwarder, func(r *Rule) bool { return r.Active(c.now) })
}

// Forms returns the forms that senders can come in.
func (c Candidates) Forms() addr.Forms {
	if c.set == nil {
		return addr.Forms{}
	}
	return c.set.forms
}

// Observe reports whether all rules that can decide for a recipient only
// observe: nothing that is found out changes the verdict.
func (c Candidates) Observe(to addr.Address) bool {
	r := c.Match(to)
	if r != nil && r.Mode != policy.Observe {
		return false
	}
	some := r != nil
	for _, f := range c.governing() {
		if f.Mode != policy.Observe {
			return false
		}
		some = true
	}
	return some
}

// governing returns the rules in force that govern forwards.
func (c Candidates) governing() (found []*Rule) {
	if c.set == nil {
		return nil
	}
	for _, r := range c.set.forwarder {
		if r.Active(c.now) {
			found = append(found, r)
		}
	}
	return found
}

// Forwarder returns the first rule that governs a forward, or nil: of mail to a recipient that is sent on by way of an address
// on the path. The mail's sender and recipient count where the rule names them.
func (c Candidates) Forwarder(to addr.Address, path []addr.Address) *Rule {
	found := c.forwarder(to, path)
	for _, o := range c.others {
		found = strictest(found, o.forwarder(to, path))
	}
	return found
}

func (c Candidates) forwarder(to addr.Address, path []addr.Address) *Rule {
	if c.set == nil {
		return nil
	}
	for _, r := range c.set.forwarder {
		if r.Active(c.now) && r.sentBy(c.set.forms, c.from, c.user) && r.selects(to) && r.onPath(path) {
			return r
		}
	}
	return nil
}

// Governs returns the first rule that governs a forward, whoever sends: what an audit goes by, before there is any mail. What a
// rule asks of some senders counts, an exception for some doesn't.
func (s *Set) Governs(to addr.Address, path []addr.Address, now time.Time) *Rule {
	for _, r := range s.forwarder {
		if r.Active(now) && (r.Enforcing() || r.namesNoSender()) && r.selects(to) && r.onPath(path) {
			return r
		}
	}
	return nil
}

// onPath reports whether the rule governs one of the addresses by way of which mail is sent on.
func (r *Rule) onPath(path []addr.Address) bool {
	return slices.ContainsFunc(path, func(a addr.Address) bool { return matches(r.Forwarder, a) })
}

// sentBy reports whether the rule selects a sender, by its address or its login.
func (r *Rule) sentBy(forms addr.Forms, from addr.Address, user string) bool {
	if r.NamesSender(forms, from) {
		return true
	}
	if user == "" {
		return false
	}
	user = foldUser(user)
	return slices.ContainsFunc(r.User, func(u string) bool { return u == "*" || foldUser(u) == user })
}
