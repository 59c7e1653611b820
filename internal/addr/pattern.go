package addr

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is the form of a Pattern.
type Kind string

// The forms a pattern can have.
const (
	Any      Kind = "any"    // "*": every address, the null sender too
	Null     Kind = "null"   // "<>"
	Exact    Kind = "exact"  // "local@domain"
	InDomain Kind = "domain" // "@domain"
	Below    Kind = "below"  // "@.domain": the domain and all below it
)

// Pattern selects addresses. Make one with ParsePattern; the zero value matches nothing.
type Pattern struct {
	kind Kind
	addr Address // Exact: folded
	dom  Domain  // InDomain, Below
}

// ParsePattern parses "a@b", "@b", "@.b", "<>" or "*". The error names the forms that would be right.
func ParsePattern(s string) (Pattern, error) {
	switch {
	case s == "*":
		return Pattern{kind: Any}, nil
	case s == "<>":
		return Pattern{kind: Null}, nil
	case strings.HasPrefix(s, "@"):
		kind, name := InDomain, s[1:]
		if strings.HasPrefix(name, ".") {
			kind, name = Below, name[1:]
		}
		if _, err := ParseDomain(strings.TrimPrefix(name, "*.")); strings.HasPrefix(name, "*.") && err == nil {
			return Pattern{}, fmt.Errorf(`address %q: want "@.%s" for the domain and all below it`, s, name[2:])
		}
		d, err := ParseDomain(name)
		if err != nil {
			if hint := meant(s); hint != "" {
				return Pattern{}, fmt.Errorf("address %q: %s", s, hint)
			}
			return Pattern{}, err
		}
		if kind == Below && d.IsLiteral() {
			return Pattern{}, fmt.Errorf("address literal %q: nothing lies below it", name)
		}
		return Pattern{kind: kind, dom: d}, nil
	}
	a, err := ParsePath(s)
	if err != nil {
		if hint := meant(s); hint != "" {
			return Pattern{}, fmt.Errorf("address %q: %s", s, hint)
		}
		return Pattern{}, err
	}
	if strings.ContainsAny(a.Local, ",;:<>@ ") {
		if hint := meant(s); hint != "" {
			return Pattern{}, fmt.Errorf("address %q: %s", s, hint)
		}
	}
	if _, err := ParseDomain(s); a.Domain.IsZero() && err == nil && strings.Contains(s, ".") {
		return Pattern{}, fmt.Errorf(`address %q: want "@%s" for all of the domain`, s, s)
	}
	if a.Domain.IsZero() {
		return Pattern{}, fmt.Errorf(`address %q: want local@domain, "@domain", "@.domain", "<>" or "*"`, s)
	}
	if a.Local == "*" {
		// It would protect a mailbox named "*" and nobody else.
		return Pattern{}, fmt.Errorf(`address %q: want "@%s" for all of the domain`, s, a.Domain)
	}
	return Pattern{kind: Exact, addr: a.Fold()}, nil
}

// meant says what was probably meant by a text that is no pattern, "" for no
// idea: several patterns in one, or an address as mail programs show it.
func meant(s string) string {
	good := func(s string) bool {
		_, err := ParsePattern(s)
		return err == nil
	}
	for _, cut := range []string{",", ";", " "} {
		parts := strings.Split(s, cut)
		for i, p := range parts {
			parts[i] = strings.TrimSpace(p)
		}
		if len(parts) > 1 && !slices.ContainsFunc(parts, func(p string) bool { return p == "" || !good(p) }) {
			return fmt.Sprintf(`want %d strings: "%s"`, len(parts), strings.Join(parts, `", "`))
		}
	}
	if _, inside, ok := strings.Cut(s, "<"); ok {
		if inside, ok = strings.CutSuffix(strings.TrimSpace(inside), ">"); ok && good(inside) {
			return fmt.Sprintf(`want the address only: "%s"`, inside)
		}
	}
	if rest, ok := strings.CutPrefix(s, "mailto:"); ok && good(rest) {
		return fmt.Sprintf(`want the address only: "%s"`, rest)
	}
	return ""
}

// MustPattern is ParsePattern for constants and tests; it panics on an error.
func MustPattern(s string) Pattern {
	p, err := ParsePattern(s)
	if err != nil {
		panic(err)
	}
	return p
}

// Kind returns the pattern's form.
func (p Pattern) Kind() Kind { return p.kind }

// Address returns the folded address of an Exact pattern.
func (p Pattern) Address() Address { return p.addr }

// Domain returns the domain of an Exact, InDomain or Below pattern.
func (p Pattern) Domain() Domain {
	if p.kind == Exact {
		return p.addr.Domain
	}
	return p.dom
}

// Match reports whether p selects a. An Exact pattern without an address extension selects the address with any
// extension, too ("alice@b" selects "alice+x@b"); one with an extension selects only that.
func (p Pattern) Match(a Address) bool {
	switch p.kind {
	case Any:
		return true
	case Null:
		return a.IsNull()
	case Exact:
		f := a.Fold()
		return p.addr == f || p.addr == f.Base()
	case InDomain:
		return a.Domain == p.dom
	case Below:
		return !a.Domain.IsZero() && a.Domain.Under(p.dom)
	}
	return false
}

// Covers reports whether every address that q selects is selected by p, too.
func (p Pattern) Covers(q Pattern) bool {
	switch p.kind {
	case Any:
		return q.kind != ""
	case Null:
		return q.kind == Null
	case Exact:
		return q.kind == Exact && p.Match(q.addr)
	case InDomain:
		return (q.kind == Exact || q.kind == InDomain) && q.Domain() == p.dom
	case Below:
		return (q.kind == Exact || q.kind == InDomain || q.kind == Below) && q.Domain().Under(p.dom)
	}
	return false
}

// Wider returns the patterns that cover p, p itself among them: the keys under which an index of patterns can hold
// one that covers p.
func (p Pattern) Wider() []Pattern {
	if p.kind == "" {
		return nil
	}
	found := []Pattern{{kind: Any}}
	switch p.kind {
	case Null:
		found = append(found, p)
	case Exact:
		found = append(found, p)
		if base := p.addr.Base(); base != p.addr {
			found = append(found, Pattern{kind: Exact, addr: base})
		}
	}
	if p.kind == Exact || p.kind == InDomain {
		found = append(found, Pattern{kind: InDomain, dom: p.Domain()})
	}
	for d := p.Domain(); !d.IsZero() && !d.IsLiteral(); d = d.Parent() {
		found = append(found, Pattern{kind: Below, dom: d})
	}
	return found
}

// String returns the pattern as ParsePattern takes it.
func (p Pattern) String() string {
	switch p.kind {
	case Any:
		return "*"
	case Null:
		return "<>"
	case Exact:
		return p.addr.String()
	case InDomain:
		return "@" + p.dom.String()
	case Below:
		return "@." + p.dom.String()
	}
	return ""
}

// MarshalText gives String.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePattern.
func (p *Pattern) UnmarshalText(b []byte) error {
	parsed, err := ParsePattern(string(b))
	if err == nil {
		*p = parsed
	}
	return err
}
