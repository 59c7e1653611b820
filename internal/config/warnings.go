package config

import (
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// soon is how long before its last day a rule is warned of.
const soon = 14 * 24 * time.Hour

// Warnings returns what is allowed in a file and probably not meant, sorted by line: rules that are over or soon
// will be, rules for everybody's mail, rules for single addresses of a domain for which another rule asks something
// else (an MTA is bound by domain, so the strictest holds for all of it), no rule that asks for TLS, and rules that
// nothing binds the MTA to at delivery.
func Warnings(c *Config, now time.Time) []Fault {
	var found []value.Fault
	warn := func(r *rules.Rule, format string, args ...any) {
		text := fmt.Sprintf("rule %q: ", r.Name) + fmt.Sprintf(format, args...)
		found = append(found, value.Fault{Line: r.Line, Text: text})
	}
	protects := false
	recipients := indexRecipients(c.Rules.Rules(), now)
	for _, r := range c.Rules.Rules() {
		if !r.Until.IsZero() {
			last := r.Until.AddDate(0, 0, -1).Format(time.DateOnly)
			if !r.Active(now) {
				warn(r, "is over since the end of %s", last)
				continue
			}
			if r.Until.Sub(now) <= soon {
				warn(r, "ends with %s", last)
			}
		}
		protects = protects || r.Level.Enforces()
		if len(r.From) == 0 && len(r.User) == 0 {
			warn(r, `names no sender, so it concerns everybody's mail; from = ["*"] says so without this warning`)
		}
		if len(r.User) > 0 && r.Enforcing() && c.Binding.Others == "off" {
			warn(r, `names logins, which delivery doesn't see, and [binding] others = "off" drops what their mail demanded: it may leave in the clear`)
		}
		if d, other := recipients.differs(r); other != nil {
			warn(r, "asks %s of single addresses of %s, rule %q of line %d asks %s: at delivery the strictest holds for the domain",
				r.Level, d, other.Name, other.Line, other.Level)
		}
	}
	if protects && c.Socketmap.Listen == (Endpoint{}) {
		found = append(found, value.Fault{Line: 1, Text: "[socketmap] listen is off: nothing holds mail to TLS at delivery"})
	}
	if !protects {
		found = append(found, value.Fault{Line: 1, Text: "no rule asks for TLS: nobody's mail is protected"})
	}
	return named(c.name, found)
}

// recipientIndex holds active rules by what they say of a domain (patterns for domains, and for addresses by their
// domain) and, under each, by what they ask, so that the many that ask the same are passed over at once.
type recipientIndex map[addr.Pattern]map[asked][]*rules.Rule

// asked is a demand as an MTA would be bound to it; the zero value is none, or only TLS when offered.
type asked struct {
	level   policy.Level
	version policy.Version
	bits    int
}

func askedBy(r *rules.Rule) asked {
	if !r.Level.Enforces() {
		return asked{}
	}
	return asked{r.Level, r.MinVersion, r.MinBits}
}

// maxCompared is how many rules of one demand for one domain are looked at: one that differs is enough for a
// warning, and a start must not wait for a search among tens of thousands.
const maxCompared = 100

// domainKey is the pattern under which an address's domain is looked up.
func domainKey(p addr.Pattern) addr.Pattern {
	if p.Kind() == addr.Exact {
		return addr.MustPattern("@" + p.Domain().String())
	}
	return p
}

func indexRecipients(rs []*rules.Rule, now time.Time) recipientIndex {
	index := recipientIndex{}
	for _, r := range rs {
		if !r.Active(now) {
			continue
		}
		to := r.To
		if len(to) == 0 {
			to = []addr.Pattern{addr.MustPattern("*")}
		}
		demand := askedBy(r)
		for _, p := range to {
			k := domainKey(p)
			if index[k] == nil {
				index[k] = map[asked][]*rules.Rule{}
			}
			at := index[k][demand]
			if len(at) < maxCompared && (len(at) == 0 || at[len(at)-1] != r) {
				index[k][demand] = append(at, r)
			}
		}
	}
	return index
}

// differs finds the first rule that a sender of r can meet, too, and that asks something else of a domain of which r
// names single addresses.
func (index recipientIndex) differs(r *rules.Rule) (addr.Domain, *rules.Rule) {
	var domain addr.Domain
	var first *rules.Rule
	for _, p := range r.To {
		if p.Kind() != addr.Exact {
			continue
		}
		for _, w := range domainKey(p).Wider() {
			for demand, others := range index[w] {
				if demand == askedBy(r) {
					continue
				}
				i := slices.IndexFunc(others, func(other *rules.Rule) bool { return sendersMeet(r, other) })
				if i >= 0 && (first == nil || others[i].Line < first.Line) {
					domain, first = p.Domain(), others[i]
				}
			}
		}
	}
	return domain, first
}

// sendersMeet reports whether a message can be of a sender that both rules select. A login can come with any
// sender address.
func sendersMeet(a, b *rules.Rule) bool {
	if len(a.From)+len(a.User) == 0 || len(b.From)+len(b.User) == 0 || len(a.User) > 0 && len(b.From) > 0 ||
		len(a.From) > 0 && len(b.User) > 0 {
		return true
	}
	return slices.ContainsFunc(a.User, func(u string) bool {
		return u == "*" || slices.Contains(b.User, u) || slices.Contains(b.User, "*")
	}) || slices.ContainsFunc(a.From, func(p addr.Pattern) bool {
		return slices.ContainsFunc(b.From, func(q addr.Pattern) bool { return p.Covers(q) || q.Covers(p) })
	})
}
