// Package value reads the values of a configuration file as what a key means by them: a word of a list, a
// duration, addresses. It answers what is wrong with a value, on which line, in one form for all tables:
//
//	rule "clinic": on_fail "rejct": want reject, defer, hold or tag
//
// It knows TOML's types, but neither its syntax nor any key: package config makes the tree of Values out of a file
// and says which keys the daemon's tables have, packages rules and inbound say it for the tables of rules. A key is
// written as one entry of a Keys map, and a key without an entry is a fault, so that nothing a site relies on is
// accepted and ignored.
package value

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Value is one value and the line its key (or, in a list, itself) begins on.
type Value struct {
	Line int
	// Any is a string, int64, float64, bool, time.Time (local dates and times by their location's name), []Value
	// or Table.
	Any any
}

// Table is a table of TOML with the line it begins on.
type Table struct {
	Line int
	Keys map[string]Value
}

// Fault is something wrong on one line of a file.
type Fault struct {
	Line int
	Text string
}

// Sort orders faults by line, and those of one line by their text.
func Sort(fs []Fault) {
	slices.SortFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Text, b.Text))
	})
}

// Error is what a reader finds wrong with a value.
type Error struct {
	Line int
	Text string // follows the key: ` "rejct": want reject, defer, hold or tag`
}

func (e *Error) Error() string { return e.Text }

// Wrong makes the Error of a value that should be another: ` "rejct": want …`.
func Wrong(v Value, format string, args ...any) *Error {
	return &Error{v.Line, v.show() + ": " + fmt.Sprintf(format, args...)}
}

// Refuse makes the Error of a value of which something is said: ` "fallback" is …`.
func Refuse(v Value, format string, args ...any) *Error {
	return &Error{v.Line, v.show() + " " + fmt.Sprintf(format, args...)}
}

// show gives the value as the file has it, after a blank; "" where showing it says nothing.
func (v Value) show() string {
	switch x := v.Any.(type) {
	case string:
		if len(x) > 100 {
			x = x[:100] + "…"
		}
		return " " + strconv.Quote(x)
	case int64, float64, bool:
		return fmt.Sprint(" ", x)
	}
	return ""
}

// Keys says for each key of a table how it is stored in a C.
type Keys[C any] map[string]func(*C, Value) error

// Into makes the entry of a key whose value goes into the field that at points to.
func Into[C, T any](at func(*C) *T, read func(Value) (T, error)) func(*C, Value) error {
	return func(c *C, v Value) error {
		x, err := read(v)
		if err == nil {
			*at(c) = x
		}
		return err
	}
}

// Read stores the values of table t in c. Each fault's text begins with label, as `rule "clinic": ` or `[milter] `.
func (ks Keys[C]) Read(c *C, t Table, label string) []Fault {
	var faults []Fault
	for key, v := range t.Keys {
		set, ok := ks[key]
		if !ok {
			faults = append(faults, Fault{v.Line, label + Unknown("key", key, ks)})
			continue
		}
		if err := set(c, v); err != nil {
			faults = append(faults, faultsOf(err, v.Line, label+key)...)
		}
	}
	return faults
}

func faultsOf(err error, line int, label string) []Fault {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var faults []Fault
		for _, e := range joined.Unwrap() {
			faults = append(faults, faultsOf(e, line, label)...)
		}
		return faults
	}
	if wrong := (*Error)(nil); errors.As(err, &wrong) {
		line = wrong.Line
	}
	return []Fault{{line, label + err.Error()}}
}

// Unknown says that a name isn't one of known, and which was perhaps meant.
func Unknown[V any](what, name string, known map[string]V) string {
	text := fmt.Sprintf("unknown %s %q", what, name)
	best, distance := "", 3
	for k := range known {
		d := editDistance(plain(name), plain(k))
		if begins(plain(name), plain(k)) {
			d = 1 // the same word, and more
		}
		if d < distance || d == distance && best != "" && k < best {
			best, distance = k, d
		}
	}
	// Two letters of three or four are another word, not a slip.
	if best == "" || distance > 0 && distance >= len(plain(name))/2 {
		return text
	}
	return text + ": did you mean " + best + "?"
}

// begins reports whether one of two words begins with the other, a word of four
// letters or more.
func begins(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	return len(a) >= 4 && strings.HasPrefix(b, a)
}

func plain(s string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(s))
}

// editDistance counts the letters to add, drop, change or swap with the next one;
// long names are not compared.
func editDistance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return len(a) + len(b)
	}
	row, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := slices.Clone(row)
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], last[j-1]+1)
			}
		}
		last = before
	}
	return row[len(b)]
}
