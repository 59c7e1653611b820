package rules

import (
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// SenderOf is Sender for a message whose sender is one of several addresses:
// those inside of it, and what the MTA may make of them. For each recipient the
// strictest of their rules decides.
func (s *Set) SenderOf(sent addr.Address, whose []addr.Address, user string, now time.Time) Candidates {
	if len(whose) == 0 {
		whose = []addr.Address{sent}
	}
	c := s.Sender(whose[0], user, now)
	c.sent = sent
	for _, a := range whose[1:] {
		c.others = append(c.others, s.Sender(a, user, now))
	}
	return c
}

// ByLogin adds to the rules of a sender those that name a login, whichever: of
// mail that a login may have sent, and doesn't show it.
func (s *Set) ByLogin(c Candidates, now time.Time) Candidates {
	o := Candidates{set: s, sent: c.sent, from: c.from, now: now}
	for _, i := range s.delivery.byUser {
		if s.rules[i].Active(now) {
			o.rules = append(o.rules, s.rules[i])
		}
	}
	c.others = append(slices.Clone(c.others), o)
	return c
}

// NamesSender reports whether the rule selects a sender by its address, or all.
func (r *Rule) NamesSender(forms addr.Forms, from addr.Address) bool {
	return len(r.From) == 0 && len(r.User) == 0 ||
		slices.ContainsFunc(r.From, func(p addr.Pattern) bool { return forms.Selects(p, from) })
}

// Doubt is for a sender that is one of several addresses (addr.Forms), of which
// delivery knows no more. Where their mail goes by different transports, it goes
// by the strict one, so no exception holds that delivery doesn't know.
func (d *Delivery) Doubt(c Candidates, whose []addr.Address) Candidates {
	class := 0
	for _, a := range whose {
		switch n := d.Class(a, c.now); {
		case n == 0 || n == class:
		case class == 0:
			class = n
		default:
			c.doubt = d
		}
	}
	return c
}

// inDoubt returns the rule for a recipient that binds the strict transport: r, or
// one that asks more. That transport asks for TLS of domains, too, of which no
// rule asks anything.
func (c Candidates) inDoubt(to addr.Address, r *Rule) *Rule {
	if c.doubt == nil {
		return r
	}
	var least *Rule
	c.doubt.each(c.now, func(s *Set, t time.Time) {
		for _, other := range s.rules {
			switch {
			case !other.Enforcing() || !other.Active(t):
			case other.concerns(to.Domain):
				r = strictest(r, other)
			case least == nil:
				least = other
			}
		}
	})
	if least != nil && (r == nil || !r.Enforcing()) {
		d, asks := *least, policy.DefaultDemand()
		d.Level, d.MinVersion, d.MinBits, d.Honor, d.Match = asks.Level, asks.MinVersion, asks.MinBits, asks.Honor, nil
		if d.FallsBack() { // the strict transport knows no method
			d.OnFail = d.FallbackElse
		}
		return &d
	}
	return r
}

// Forms returns the forms in which senders can come who are protected now, or
// were while mail was accepted that may still wait.
func (d *Delivery) Forms(now time.Time) addr.Forms {
	forms := d.live[0].set.forms
	for i := range d.live {
		if s := &d.live[i]; s.set.forms != forms && d.alive(s, now) {
			forms = forms.Join(s.set.forms).Normal()
		}
	}
	return forms
}

// strictest returns of two rules the one that asks more, with no method that
// the other doesn't take, too (joinFallback); nil asks nothing.
func strictest(a, b *Rule) *Rule {
	if stricter := asksMore(a, b); stricter == a {
		return joinFallback(a, b)
	}
	return joinFallback(b, a)
}

func asksMore(a, b *Rule) *Rule {
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

// EnforcesFor reports whether mail of a sender is bound at delivery, by whatever rule.
func (d *Delivery) EnforcesFor(from addr.Address, now time.Time) bool {
	whose, err := d.Forms(now).Senders(from)
	return err != nil && d.Enforces(now) ||
		slices.ContainsFunc(whose, func(a addr.Address) bool { return d.Class(a, now) > 0 })
}

// Wrapped returns the rules for a sender as a message has it: those of the
// addresses inside of it, where it has something put around it. Of one that
// nobody can read it is taken as it stands.
func (s *Set) Wrapped(sent addr.Address, user string, now time.Time) Candidates {
	whose, err := s.forms.Senders(sent)
	if err != nil {
		whose = nil
	}
	return s.SenderOf(sent, whose, user, now)
}

// ExceptedFrom returns the rule that decides before r for all of r's mail to a
// domain and asks nothing there, nil for none.
func (s *Set) ExceptedFrom(r *Rule, to addr.Domain, now time.Time) *Rule {
	whole := addr.MustPattern("@" + to.String())
	for _, other := range s.all {
		if other == r {
			return nil
		}
		if !other.Active(now) || len(other.Forwarder) > 0 || !other.toAll() && !slices.ContainsFunc(other.To, func(p addr.Pattern) bool { return p.Covers(whole) }) {
			continue
		}
		sender := func(p addr.Pattern) bool {
			return slices.ContainsFunc(other.From, func(q addr.Pattern) bool { return q.Covers(p) })
		}
		login := func(u string) bool { return slices.Contains(other.User, u) || slices.Contains(other.User, "*") }
		all := other.namesNoSender() || len(r.From)+len(r.User) > 0 &&
			!slices.ContainsFunc(r.From, func(p addr.Pattern) bool { return !sender(p) }) &&
			!slices.ContainsFunc(r.User, func(u string) bool { return !login(u) })
		if !all {
			continue
		}
		if other.Level.Enforces() {
			return nil // that one decides now, not r
		}
		return other
	}
	return nil
}
