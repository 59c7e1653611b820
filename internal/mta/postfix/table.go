package postfix

import (
	"cmp"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// senderTable writes a regexp_table(5): of the kinds of table that need no daemon only regular expressions know
// subdomains. Postfix stops at the first line that matches, so the nearest pattern comes first.
func senderTable(entries []Entry) string {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(nearness(a.Pattern), nearness(b.Pattern)),
			cmp.Compare(len(b.Pattern.Domain().String()), len(a.Pattern.Domain().String())))
	})
	var b strings.Builder
	for _, e := range entries {
		transport := e.Transport + ":"
		if e.Transport == "" {
			// postconf(5), sender_dependent_default_transport_maps: ends the search, the default transport stays.
			transport = "DUNNO"
		}
		for _, re := range expressions(e.Pattern) {
			b.WriteString("/" + re + "/ " + transport + "\n")
		}
	}
	return b.String()
}

func nearness(p addr.Pattern) int {
	if p.Kind() == addr.Exact && p.Address().Base() != p.Address() {
		return 0
	}
	return 1 + slices.Index([]addr.Kind{addr.Exact, addr.Null, addr.InDomain, addr.Below, addr.Any}, p.Kind())
}

// expressions returns the extended regular expressions for a pattern; regexp_table(5) ignores case. A domain comes as the client typed
// it, in A-labels or U-labels.
func expressions(p addr.Pattern) []string {
	switch p.Kind() {
	case addr.Any:
		return []string{"^"}
	case addr.Null:
		return []string{`^("<>"|<>)?$`} // Postfix asks for "<>" with the quotes first
	}
	domains := []string{literally(p.Domain().String())}
	if u := p.Domain().Unicode(); u != p.Domain().String() {
		domains = append(domains, literally(u))
	}
	var found []string
	for _, domain := range domains {
		switch p.Kind() {
		case addr.Exact:
			extension := ""
			if p.Address() == p.Address().Base() {
				extension = `(\+[^@]*)?`
			}
			at := strings.LastIndexByte(p.Address().String(), '@')
			local := p.Address().String()[:at]
			if inner, ok := strings.CutSuffix(local, `"`); ok && extension != "" {
				found = append(found, "^"+literally(inner)+extension+`"@`+domain+"$")
				continue
			}
			found = append(found, "^"+literally(local)+extension+"@"+domain+"$")
		case addr.InDomain:
			found = append(found, "@"+domain+"$")
		case addr.Below:
			found = append(found, `[@.]`+domain+"$")
		}
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
