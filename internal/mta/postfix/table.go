package postfix

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"tlsonly/internal/addr"
)

// senderTable writes a regexp_table(5): of the kinds of table that need no daemon only regular expressions know
// subdomains. Postfix stops at the first line that matches, so the nearest pattern comes first.
//
// Such a table knows letters, cases and dots of ASCII. A sender in other letters can be written in more ways than can be
// listed (RFC 6531), and so can an address literal: where one may be meant and none of the nearer lines says so, the strict
// transport takes the mail. That holds more than the rules ask, never less.
func senderTable(entries []Entry) string {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(nearness(a.Pattern), nearness(b.Pattern)),
			cmp.Compare(len(b.Pattern.Domain().String()), len(a.Pattern.Domain().String())))
	})
	var b strings.Builder
	line := func(re, answer string) { b.WriteString("/" + re + "/ " + answer + "\n") }
	doubt := func(re string) { line(re, transportPrefix+":") }
	is := func(kinds ...addr.Kind) func(Entry) bool {
		return func(e Entry) bool { return slices.Contains(kinds, e.Pattern.Kind()) }
	}
	write := func(kinds ...addr.Kind) {
		for _, e := range entries {
			if !is(kinds...)(e) {
				continue
			}
			transport := e.Transport + ":"
			if e.Transport == "" {
				// postconf(5), sender_dependent_default_transport_maps: ends the search, the default transport stays.
				transport = "DUNNO"
			}
			for _, re := range expressions(e.Pattern) {
				line(re, transport)
			}
		}
	}
	for _, re := range rewritten(entries) {
		doubt(re)
	}
	write(addr.Exact)
	doubted := map[string]bool{}
	for _, e := range entries {
		if !is(addr.Exact)(e) {
			continue
		}
		for _, domain := range spellings(e.Pattern.Domain()) {
			if !doubted[domain] {
				doubt(`[^ -~].*@` + domain)
			}
			doubted[domain] = true
		}
	}
	write(addr.Null, addr.InDomain)
	if slices.ContainsFunc(entries, is(addr.Exact, addr.InDomain, addr.Below)) {
		doubt(`@[^@]*[^ -~][^@]*$`)
	}
	if slices.ContainsFunc(entries, func(e Entry) bool { return e.Pattern.Domain().IsLiteral() }) {
		doubt(`@\[`)
	}
	write(addr.Below, addr.Any)
	return b.String()
}

// inexpressible returns the patterns whose senders can be written in more ways than the table lists.
func inexpressible(entries []Entry) []string {
	var found []string
	for _, e := range entries {
		d := e.Pattern.Domain()
		if d.IsLiteral() || strings.ContainsFunc(e.Pattern.Address().Local+d.Unicode(), func(r rune) bool { return r > unicode.MaxASCII }) {
			found = append(found, e.Pattern.String())
		}
	}
	return found
}

func nearness(p addr.Pattern) int {
	if p.Kind() == addr.Exact && p.Address().Base() != p.Address() {
		return 0
	}
	return 1 + slices.Index([]addr.Kind{addr.Exact, addr.Null, addr.InDomain, addr.Below, addr.Any}, p.Kind())
}

// expressions returns the extended regular expressions for a pattern; regexp_table(5) ignores case.
func expressions(p addr.Pattern) []string {
	switch p.Kind() {
	case addr.Any:
		return []string{"^"}
	case addr.Null:
		return []string{`^("<>"|<>)?$`} // Postfix asks for "<>" with the quotes first
	case addr.Below:
		return []string{`[@.]` + literally(p.Domain().String()) + dotAtEnd}
	}
	var found []string
	for _, domain := range spellings(p.Domain()) {
		if p.Kind() == addr.InDomain {
			found = append(found, "@"+domain)
			continue
		}
		// Quoted where the address or its extension has something in it that must be (RFC 5321, section 4.1.2). Both may
		// contain an at-sign then.
		a := p.Address()
		local := literally(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.Local))
		if a.Base() == a && !strings.HasPrefix(a.Local, "+") { // addr.Address.Base: no extension of nothing
			local += `(\+.*)?`
		}
		found = append(found, `^(`+local+`|"`+local+`")@`+domain)
	}
	return found
}

// dotAtEnd: the root's dot may be written, and the line ends.
const dotAtEnd = `\.?$`

// spellings returns expressions for the end of an address in a domain, which comes as the client typed it, in A-labels or
// U-labels.
func spellings(d addr.Domain) []string {
	found := []string{literally(d.String()) + dotAtEnd}
	if u := d.Unicode(); u != d.String() {
		found = append(found, literally(u)+dotAtEnd)
	}
	return found
}

// literally quotes what means something in an extended regular expression, and the slash that ends it.
func literally(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`\/.[]()*+?{}^$|`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
