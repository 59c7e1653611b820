package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
	"tlsonly/internal/contract"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// soon is how long before its last day a rule is warned of.
const soon = 14 * 24 * time.Hour

// Warnings returns what is allowed in a file and probably not meant, sorted by
// line: rules that are over or soon will be, exceptions that never end, rules
// that only observe, rules for everybody's mail, rules for single addresses of a
// domain for which another rule asks something else (an MTA is bound by domain,
// so the strictest holds for all of it), no rule that asks for TLS, rules that
// nothing binds the MTA to at delivery, and [[inbound]] rules that demand TLS of
// everybody or whose tag nobody will see.
func Warnings(c *Config, now time.Time) []Fault {
	var found []value.Fault
	warn := func(r *rules.Rule, format string, args ...any) {
		text := fmt.Sprintf("rule %q: ", r.Name) + fmt.Sprintf(format, args...)
		found = append(found, value.Fault{Line: r.Line, Text: text})
	}
	protects := false
	var observing []*rules.Rule
	recipients := indexRecipients(c.Rules.Rules(), now)
	for _, r := range c.Rules.Rules() {
		if text, over := ending(r.Until, now); text != "" {
			warn(r, "%s", text)
			if over {
				continue
			}
		}
		protects = protects || r.Level.Enforces()
		if !r.Level.Enforces() && r.Mode == policy.Enforce && r.Until.IsZero() && !r.Forever {
			warn(r, `lets mail leave in the clear, and has no end: write until = 2027-01-31, or until = "never" if you mean that`)
		}
		if r.Mode == policy.Observe && r.Level.Enforces() {
			observing = append(observing, r)
		}
		if len(r.Forwarder) > 0 {
			if r.Enforcing() && c.Binding.Others != contract.OthersPinned {
				warn(r, `governs forwards, which leave like other mail, and with [binding] others = %q demands of forwards don't count, so they may leave in the clear`, c.Binding.Others)
			}
			continue
		}
		for _, p := range r.From {
			if text := neverMatched(c.Rules.Forms(), p); text != "" {
				warn(r, "%s", text)
			}
		}
		if c.Senders.SRS == addr.SRSMatch && r.Enforcing() && slices.ContainsFunc(r.From, wholeDomain) {
			warn(r, `names a whole domain, and [senders] srs = "match", so it also binds strangers' mail that is forwarded under an SRS address of that domain`)
		}
		if len(r.From) == 0 && len(r.User) == 0 {
			warn(r, `names no sender, so it applies to all mail; if you mean that, write from = ["*"]`)
		}
		if len(r.User) > 0 && r.Enforcing() && c.Binding.Others != contract.OthersPinned {
			warn(r, `names logins, which the MTA doesn't know at delivery, and with [binding] others = %q demands of their mail don't count, so it may leave in the clear`, c.Binding.Others)
		}
		if d, other := recipients.differs(r); other != nil {
			warn(r, "requires %s for single addresses of %s, and rule %q on line %d requires %s: at delivery the strictest applies to the whole domain",
				r.Level, d, other.Name, other.Line, other.Level)
		}
	}
	switch {
	case len(observing) == 1:
		found = append(found, value.Fault{Line: observing[0].Line, Text: fmt.Sprintf("1 rule only observes, so it protects nobody (%q)", observing[0].Name)})
	case len(observing) > 1:
		found = append(found, value.Fault{Line: observing[0].Line, Text: fmt.Sprintf("%d rules only observe, so they protect nobody (%s)", len(observing), named3(observing))})
	}
	if protects && c.Socketmap.Listen == (Endpoint{}) {
		found = append(found, value.Fault{Line: 1, Text: "[socketmap] listen is off, so nothing binds the MTA at delivery"})
	}
	for _, r := range c.Inbound.Rules() {
		warnIn := func(format string, args ...any) {
			text := fmt.Sprintf("inbound rule %q: ", r.Name) + fmt.Sprintf(format, args...)
			found = append(found, value.Fault{Line: r.Line, Text: text})
		}
		if text, over := ending(r.Until, now); text != "" {
			warnIn("%s", text)
			if over {
				continue
			}
		}
		protects = protects || r.Level != inbound.May
		if r.Level != inbound.May && r.OnFail == policy.ActionTag && !c.Milter.InboundHeader {
			warnIn(`on_fail = "tag" shows only in the log, because [milter] inbound_header is off`)
		}
		if r.Demands() && len(r.Client) == 0 && everybody(r.From) && everybody(r.To) {
			warnIn(`names no client, sender or recipient, so it requires TLS of everybody, which a public mail server must not ` +
				`(RFC 3207, section 4); if you mean that, write client = ["*"]`)
		}
	}
	if !protects {
		found = append(found, value.Fault{Line: 1, Text: "no rule requires TLS, so nobody's mail is protected"})
	}
	return named(c.name, found)
}

// neverMatched says why a pattern selects nobody: it names an address with
// something put around it, and the address inside decides.
func neverMatched(forms addr.Forms, p addr.Pattern) string {
	if p.Kind() != addr.Exact {
		return ""
	}
	inside, err := forms.Senders(p.Address())
	if err != nil || slices.Contains(inside, p.Address()) {
		return ""
	}
	var names []string
	for _, a := range inside {
		names = append(names, a.String())
	}
	return fmt.Sprintf("names %s, which counts as %s: name that address", p, strings.Join(names, " or "))
}

func wholeDomain(p addr.Pattern) bool { return p.Kind() == addr.InDomain || p.Kind() == addr.Below }

// named3 names the first of many rules.
func named3(rs []*rules.Rule) string {
	var names []string
	for _, r := range rs[:min(len(rs), 3)] {
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	if len(rs) > 3 {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// ending says that a rule is over, or soon will be; "" where neither is so.
func ending(until, now time.Time) (text string, over bool) {
	last := until.AddDate(0, 0, -1).Format(time.DateOnly)
	switch {
	case until.IsZero() || until.Sub(now) > soon:
		return "", false
	case now.Before(until):
		return "ends with " + last, false
	}
	return "ended with " + last, true
}

// everybody reports whether patterns select all addresses.
func everybody(ps []addr.Pattern) bool {
	return len(ps) == 0 || slices.ContainsFunc(ps, func(p addr.Pattern) bool { return p.Kind() == addr.Any })
}

// recipientIndex holds active rules by what they say of a domain (patterns for domains, and for addresses by their
// domain) and, under each, by what they ask, so that the many that ask the same are passed over at once.
type recipientIndex map[addr.Pattern]map[mtaDemand][]*rules.Rule

// mtaDemand is a demand as an MTA would be bound to it; the zero value is none,
// or only TLS when offered.
type mtaDemand struct {
	level   policy.Level
	version policy.Version
	bits    int
	honor   policy.Honor
	match   string // certificate names
}

func mtaDemandOf(r *rules.Rule) mtaDemand {
	if !r.Level.Enforces() {
		return mtaDemand{}
	}
	return mtaDemand{r.Level, r.MinVersion, r.MinBits, r.Honor, fmt.Sprint(r.Match)}
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
		if !r.Active(now) || len(r.Forwarder) > 0 {
			continue
		}
		to := r.To
		if len(to) == 0 {
			to = []addr.Pattern{addr.MustPattern("*")}
		}
		demand := mtaDemandOf(r)
		for _, p := range to {
			k := domainKey(p)
			if index[k] == nil {
				index[k] = map[mtaDemand][]*rules.Rule{}
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
				if demand == mtaDemandOf(r) {
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
