package postfix

import (
	"slices"

	"tlsonly/internal/addr"
)

// rewritten returns expressions for senders that other milters have made of
// those in a table: what addr.Address.Originals reads, or a little more of it.
func rewritten(entries []Entry) []string {
	var found []string
	add := func(re string) {
		if !slices.Contains(found, re) {
			found = append(found, re)
		}
	}
	for _, e := range entries {
		if e.Transport == "" {
			continue
		}
		for _, domain := range domainNames(e.Pattern.Domain()) {
			switch e.Pattern.Kind() {
			case addr.Exact:
				local := literally(e.Pattern.Address().Local)
				add(`^"?(prvs=|msprvs1=|btv1==)(.*=)?` + local + `([=+].*|\/.*)?"?@` + domain + dotAtEnd)
				add(forwarded + `=` + domain + `=.*@`)
			case addr.InDomain:
				add(forwarded + `=` + domain + `=.*@`)
			case addr.Below:
				add(forwarded + `[=.]` + domain + `=.*@`)
			}
		}
	}
	return found
}

// forwarded begins the local part of a sender by SRS.
const forwarded = `^"?(.*\+)?srs[01]?[-=+].*`

// domainNames returns a domain as it can stand in an expression.
func domainNames(d addr.Domain) []string {
	if d.IsZero() || d.IsLiteral() {
		return nil
	}
	found := []string{literally(d.String())}
	if u := d.Unicode(); u != d.String() {
		found = append(found, literally(u))
	}
	return found
}
