package value

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// The readers here are for the keys that every kind of rule has.

// RuleName takes what can stand in a header, a metric's label and a log line without quoting.
func RuleName(v Value) (string, error) {
	s, ok := v.Any.(string)
	if !ok || s == "" || len(s) > 64 || s != strings.TrimSpace(s) ||
		strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`";\`, r) }) {
		return "", Wrong(v, `want 1 to 64 printable ASCII characters without ", \ and ;`)
	}
	return s, nil
}

// Recipients takes patterns of recipients, at least one, and not "<>".
func Recipients(v Value) ([]addr.Pattern, error) {
	ps, err := List(Pattern)(v)
	if err != nil {
		return nil, err
	}
	if len(ps) == 0 {
		return nil, Refuse(v, `names nobody: want recipients, or ["*"]`)
	}
	if i := slices.IndexFunc(ps, func(p addr.Pattern) bool { return p.Kind() == addr.Null }); i >= 0 {
		return nil, Wrong(v.Any.([]Value)[i], "a recipient can't be empty")
	}
	return ps, nil
}

// Version takes a TLS version.
func Version(v Value) (policy.Version, error) {
	s, ok := v.Any.(string)
	version, err := policy.ParseVersion(s)
	if !ok || err != nil {
		return 0, Wrong(v, `want "1.0", "1.1", "1.2" or "1.3", in quotes`)
	}
	return version, nil
}

// Never is the value of a rule's until that says that it is meant to have no end.
const Never = "never"

// LastDay takes a date, or a date with a time, of which the date counts, and returns its end: a rule ends with its
// last day, not in the middle of it. A date without an offset is meant here, one with an offset is a day here, too.
// Of Never it returns the zero time.
func LastDay(zone *time.Location) func(Value) (time.Time, error) {
	return func(v Value) (time.Time, error) {
		if v.Any == Never {
			return time.Time{}, nil
		}
		t, ok := v.Any.(time.Time)
		if !ok || t.Location().String() == "time-local" {
			return time.Time{}, Wrong(v, `want a date, without quotes, as 2027-01-31, or "never"`)
		}
		if l := t.Location().String(); l != "date-local" && l != "datetime-local" {
			t = t.In(zone)
		}
		year, month, day := t.Date()
		return time.Date(year, month, day+1, 0, 0, 0, 0, zone), nil
	}
}

// Why takes the reason for which a rule exists.
func Why(v Value) (string, error) {
	s, err := Text(v)
	if err == nil && len(s) > 500 {
		err = Refuse(v, "is longer than 500 octets")
	}
	return s, err
}

// Names are the names that rules of a file have, with the lines of their tables.
type Names map[string]int

// Label gives what faults of the table i of a kind begin with, and the fault of a name that is taken.
func (n Names) Label(kind string, i int, t Table) (label string, faults []Fault) {
	name, err := RuleName(t.Keys["name"])
	if err != nil {
		return fmt.Sprintf("%s %d: ", kind, i+1), nil
	}
	label = fmt.Sprintf("%s %q: ", kind, name)
	if first, ok := n[name]; ok {
		return label, []Fault{{Line: t.Keys["name"].Line, Text: fmt.Sprintf("%sname is already that of the rule on line %d", label, first)}}
	}
	n[name] = t.Line
	return label, nil
}

// Needs returns a fault for every key that a table lacks.
func Needs(t Table, label string, keys ...string) (faults []Fault) {
	for _, key := range keys {
		if _, ok := t.Keys[key]; !ok {
			faults = append(faults, Fault{Line: t.Line, Text: label + "no " + key})
		}
	}
	return faults
}
