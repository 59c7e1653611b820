package virtual

import (
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
)

// Site is what lookups must know of the MTA.
type Site struct {
	// Local reports whether Postfix takes a domain for its own ($myorigin, $mydestination, its addresses): only there "user" alone
	// is looked up. nil: none is.
	Local      func(addr.Domain) bool
	Delimiters string // recipient_delimiter, a set of characters; Sendmail's is always "+"
	Propagate  bool   // Postfix: propagate_unmatched_extensions has "virtual"
}

// Match is what a lookup found.
type Match struct {
	Key     string // that was found
	Table   string // its name
	Line    int
	Targets []aliases.Target // at least one, with Line
}

// query is one key, and what the address gives to its result.
type query struct {
	key  string
	args []string // %1, %2, %3
	ext  string   // what the key leaves out of the local part, with its delimiter (Postfix)
}

// Keys lists what the MTA asks its tables of form Virtual, Virtusertable or Genericstable for a, in order.
func Keys(form Form, a addr.Address, s Site) []string {
	qs := queries(form, a, s)
	keys := make([]string, len(qs))
	for i, q := range qs {
		keys[i] = q.key
	}
	return keys
}

// Lookup asks tables of form Virtual or Virtusertable for a: all of them for a key, then for the next key.
func Lookup(tables []*Table, a addr.Address, s Site) (Match, bool) {
	if len(tables) == 0 {
		return Match{}, false
	}
	for _, q := range queries(tables[0].form, a, s) {
		for _, t := range tables {
			e, ok := t.Get(q.key)
			if !ok {
				continue
			}
			m := Match{Key: e.Key, Table: t.name, Line: e.Line, Targets: result(t.form, e.Value, q, a, s)}
			for i := range m.Targets {
				m.Targets[i].Line = e.Line
			}
			return m, true
		}
	}
	return Match{}, false
}

// Result makes the targets of a value that a table gave for key, one of Keys, when a was looked up: of a live table's answer, too.
// It never returns none.
func Result(form Form, value, key string, a addr.Address, s Site) []aliases.Target {
	for _, q := range queries(form, a, s) {
		if q.key == key {
			return result(form, value, q, a, s)
		}
	}
	return []aliases.Target{{Kind: aliases.Unknown, Text: value}}
}

// queries are in the order of virtual(5), TABLE SEARCH ORDER and ADDRESS EXTENSION, or of proto.m4.
func queries(form Form, a addr.Address, s Site) []query {
	a = a.Fold()
	switch {
	case a.IsNull():
		return nil
	case form == Virtual:
		return virtualQueries(a, s)
	case form == Virtusertable && !a.Domain.IsZero():
		return virtuserQueries(a)
	case form == Genericstable:
		return genericQueries(a)
	}
	return nil
}

func virtualQueries(a addr.Address, s Site) []query {
	qs := []query{{key: a.String()}}
	base, ext := splitExtension(a.Local, s.Delimiters)
	bare := addr.Address{Local: base, Domain: a.Domain}
	if ext != "" {
		qs = append(qs, query{key: bare.String(), ext: ext})
	}
	if a.Domain.IsZero() {
		return qs
	}
	if s.Local != nil && s.Local(a.Domain) {
		qs = append(qs, query{key: addr.Address{Local: a.Local}.String()})
		if ext != "" {
			qs = append(qs, query{key: addr.Address{Local: base}.String(), ext: ext})
		}
	}
	return append(qs, query{key: "@" + a.Domain.String()})
}

// splitExtension is split_addr(3): at the first delimiter, but not at the beginning, and not for Postfix's own names.
func splitExtension(local, delimiters string) (base, ext string) {
	switch local {
	case "postmaster", "mailer-daemon", "double-bounce":
		return local, ""
	}
	if strings.Contains(delimiters, "-") && (strings.HasPrefix(local, "owner-") || strings.HasSuffix(local, "-request")) {
		return local, ""
	}
	if i := strings.IndexAny(local, delimiters); delimiters != "" && i > 0 {
		return local[:i], local[i:]
	}
	return local, ""
}

func virtuserQueries(a addr.Address) []query {
	at := "@" + a.Domain.String()
	qs := []query{{key: a.String(), args: []string{quote(a.Local)}}}
	user, detail, plus := strings.Cut(a.Local, "+")
	if !plus || user == "" {
		return append(qs, query{key: at, args: []string{quote(a.Local)}})
	}
	args := []string{quote(user), detail, "+" + detail}
	bare := addr.Address{Local: user, Domain: a.Domain}.String()
	keys := []string{user + "++" + at, user + "+*" + at, bare, "++" + at, "+*" + at, at}
	for i, key := range keys {
		if detail == "" && (i == 0 || i == 3) { // "++" wants a detail
			continue
		}
		qs = append(qs, query{key: key, args: args})
	}
	return qs
}

func genericQueries(a addr.Address) []query {
	at := ""
	if !a.Domain.IsZero() {
		at = "@" + a.Domain.String()
	}
	user, detail, plus := strings.Cut(a.Local, "+")
	plus = plus && user != ""
	var qs []query
	for _, at := range []string{at, ""} {
		if at == "" || len(qs) == 0 {
			qs = append(qs, query{key: quote(a.Local) + at, args: []string{a.Local + at}})
		}
		if plus {
			qs = append(qs, query{key: user + "+*" + at, args: []string{detail}}, query{key: quote(user) + at})
		}
		if at == "" {
			break
		}
		qs = append(qs, query{key: at, args: []string{quote(a.Local)}})
	}
	return qs
}

// quote writes a local part so that it can be put into a result.
func quote(local string) string { return addr.Address{Local: local}.String() }

func result(form Form, value string, q query, a addr.Address, s Site) []aliases.Target {
	if form != Virtual {
		return []aliases.Target{sendmailResult(fill(value, q))}
	}
	if strings.HasPrefix(value, "@") { // works for the first address only: virtual(5), RESULT ADDRESS REWRITING
		local := a.Local
		if q.ext != "" {
			local, _ = splitExtension(local, s.Delimiters)
		}
		value = quote(local) + value
	}
	targets, _ := aliases.ParseValue(value, "", 0, aliases.Postfix)
	for i, t := range targets {
		switch t.Kind {
		case aliases.Address, aliases.Name:
			if s.Propagate && q.ext != "" {
				targets[i].Address.Local += q.ext
			}
		default: // virtual(5) knows addresses only; what comes of "|command" is nothing to count on
			targets[i] = aliases.Target{Kind: aliases.Unknown, Text: value}
		}
	}
	return targets
}

func sendmailResult(value string) aliases.Target {
	if text, ok := strings.CutPrefix(value, "error:"); ok {
		return aliases.Target{Kind: aliases.Error, Text: strings.TrimSpace(text)}
	}
	targets, _ := aliases.ParseValue(value, "", 0, aliases.Sendmail)
	if len(targets) == 1 && (targets[0].Kind == aliases.Address || targets[0].Kind == aliases.Name) {
		return targets[0]
	}
	// A list isn't possible here (cf/README: one address); commands and files are refused.
	return aliases.Target{Kind: aliases.Unknown, Text: value}
}

// fill puts %0 to %9 into a value (map_rewrite of Sendmail; "%%" is a per cent sign).
func fill(value string, q query) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c != '%' || i+1 == len(value) {
			b.WriteByte(c)
			continue
		}
		i++
		switch n := int(value[i]) - '0'; {
		case value[i] == '%':
			b.WriteByte('%')
		case n == 0:
			b.WriteString(q.key)
		case n > 0 && n <= len(q.args):
			b.WriteString(q.args[n-1])
		case n > 0 && n <= 9:
		default:
			b.WriteByte('%')
			b.WriteByte(value[i])
		}
	}
	return b.String()
}

// Route is a mailertable's answer.
type Route struct {
	Mailer string // "smtp", "esmtp", "relay", "local", "error", …
	Host   string // as it stands: "host", "[host]", "host1:host2"; of "local" a user or nothing, of "error" code and text
	Key    string
	Line   int
}

// Route finds the route of mail for d in a mailertable: d itself, then ".parent" of each parent, then ".".
func (t *Table) Route(d addr.Domain) (Route, bool) {
	if t.form != Mailertable || d.IsZero() {
		return Route{}, false
	}
	qs := []query{{key: d.String()}}
	for parent := d.Parent(); !parent.IsZero(); parent = parent.Parent() {
		left := strings.TrimSuffix(d.String(), "."+parent.String())
		qs = append(qs, query{key: "." + parent.String(), args: []string{left, left[strings.LastIndexByte(left, '.')+1:]}})
	}
	qs = append(qs, query{key: ".", args: []string{d.String()}})
	for _, q := range qs {
		if e, ok := t.Get(q.key); ok {
			mailer, host, _ := strings.Cut(fill(e.Value, q), ":")
			return Route{Mailer: mailer, Host: strings.TrimSpace(host), Key: e.Key, Line: e.Line}, true
		}
	}
	return Route{}, false
}

// Generic finds what a genericstable makes of the sender address a. A result without a domain gets one from the MTA.
func (t *Table) Generic(a addr.Address) (addr.Address, bool) {
	if t.form != Genericstable {
		return addr.Address{}, false
	}
	for _, q := range queries(t.form, a, Site{}) {
		if e, ok := t.Get(q.key); ok {
			to, err := addr.ParsePath(fill(e.Value, q))
			return to, err == nil && !to.IsNull()
		}
	}
	return addr.Address{}, false
}
