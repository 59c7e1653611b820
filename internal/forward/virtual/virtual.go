// Package virtual answers what an address table says: Postfix's virtual(5), and Sendmail's virtusertable, mailertable and
// genericstable, in their source form. It looks addresses up in each MTA's own order and fills in what a result takes
// from the address.
//
// It is one lookup and no more: both MTAs look results up again until nothing changes, and that, and whether an MTA uses a
// table for a domain at all, is the caller's. Sources: virtual(5), and mail_addr_find(3) for what is local; cf/README,
// sections virtusertable, mailertable and genericstable, with cf/m4/proto.m4 for the order; makemap(8).
//
// BUGS: the MTA asks the table made of a source by postmap or makemap, not the source. Regular expression tables aren't read.
package virtual

import (
	"fmt"
	"io"
	"iter"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
)

// Form says which table a source is.
type Form string

// The forms.
const (
	Virtual       Form = "virtual"       // Postfix: virtual(5)
	Virtusertable Form = "virtusertable" // Sendmail: FEATURE(virtusertable)
	Mailertable   Form = "mailertable"   // Sendmail: FEATURE(mailertable)
	Genericstable Form = "genericstable" // Sendmail: FEATURE(genericstable)
)

// Kind says what an entry's key selects.
type Kind string

// The kinds. In a Postfix table "a.b" can be a user's name all the same: lookups go by the key.
const (
	Exact  Kind = "address" // user@domain
	User   Kind = "user"    // user
	Detail Kind = "detail"  // Sendmail: user+*@domain, user++@domain, also without a user
	Domain Kind = "domain"  // @domain: everybody there; in a mailertable: domain
	Below  Kind = "below"   // mailertable: .domain, what lies below; "." is everything else
	Marker Kind = "marker"  // Postfix: "domain anything" makes it a virtual alias domain
)

// Entry is one line.
type Entry struct {
	Key   string // quoted where RFC 5321 wants it, folded: as it is looked up
	Kind  Kind
	Value string // as it stands, continued lines joined
	Line  int    // where it begins
}

// Table is one source. It may be used by several goroutines.
type Table struct {
	name    string
	form    Form
	entries []Entry
	index   map[string]int
}

// Parse reads a table's source; name is for faults and matches. The faults come in the order of their lines; what postmap
// or makemap leaves out isn't in the Table. Of a key that stands twice both keep the first. An error is one of reading, or
// a line longer than any MTA's: then nothing is known of the table.
func Parse(r io.Reader, name string, form Form) (*Table, []aliases.Fault, error) {
	p := parser{table: &Table{name: name, form: form, index: make(map[string]int)}}
	var err error
	if form == Virtual {
		var faults []aliases.Fault
		if faults, err = aliases.Lines(r, name, p.postfix); err == nil {
			p.faults = merge(faults, p.faults)
		}
	} else {
		err = p.makemap(r)
	}
	if err != nil {
		return nil, nil, err
	}
	return p.table, p.faults, nil
}

// merge joins two lists that are in the order of their lines.
func merge(a, b []aliases.Fault) []aliases.Fault {
	var out []aliases.Fault
	for len(a) > 0 && len(b) > 0 {
		if a[0].Line <= b[0].Line {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// Name is the name Parse was given.
func (t *Table) Name() string { return t.name }

// Form is the form Parse was given.
func (t *Table) Form() Form { return t.form }

// Len returns the number of entries.
func (t *Table) Len() int { return len(t.entries) }

// All goes through the entries in their order.
func (t *Table) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, e := range t.entries {
			if !yield(e) {
				return
			}
		}
	}
}

// Get finds the entry of exactly one key, as Keys gives it.
func (t *Table) Get(key string) (Entry, bool) {
	i, ok := t.index[key]
	if !ok {
		return Entry{}, false
	}
	return t.entries[i], true
}

// Domains lists a Postfix table's virtual alias domains.
func (t *Table) Domains() []addr.Domain {
	var ds []addr.Domain
	for _, e := range t.entries {
		if d, err := addr.ParseDomain(e.Key); e.Kind == Marker && err == nil {
			ds = append(ds, d)
		}
	}
	return ds
}

type parser struct {
	table  *Table
	faults []aliases.Fault
}

func (p *parser) fault(line int, format string, args ...any) {
	p.faults = append(p.faults, aliases.Fault{File: p.table.name, Line: line, Text: fmt.Sprintf(format, args...)})
}

// postfix reads one logical line of a Postfix table: the key ends at the first blank outside quotes.
func (p *parser) postfix(text string, line int) {
	end, quoted := 0, false
	for ; end < len(text) && (quoted || !blank(text[end])); end++ {
		switch text[end] {
		case '\\':
			if end+1 < len(text) {
				end++
			}
		case '"':
			quoted = !quoted
		}
	}
	key, value := text[:end], strings.Trim(text[end:], " \t\r\v\f")
	switch {
	case quoted:
		p.fault(line, "key without closing quote: left out by Postfix")
	case value == "":
		p.fault(line, "key %q has no value: left out by Postfix", key)
	default:
		if strings.HasSuffix(key, ":") {
			p.fault(line, "key %q ends with a colon: is this an alias file?", key)
		}
		p.add(key, value, line)
	}
}

// makemap reads a source as Sendmail's makemap does: a line an entry, nothing is continued, comments in the first column only.
func (p *parser) makemap(r io.Reader) error {
	next, stop := iter.Pull2(physical(r))
	defer stop()
	for line := 1; ; line++ {
		text, err, ok := next()
		switch {
		case !ok:
			return nil
		case err != nil:
			return fmt.Errorf("read %s: line %d: %w", p.table.name, line, err)
		}
		text = strings.TrimRight(text, "\r\n")
		if text == "" || text[0] == '#' {
			continue
		}
		key := text[:len(text)-len(strings.TrimLeftFunc(text, func(r rune) bool { return r >= 0x80 || !blank(byte(r)) }))]
		value := strings.TrimLeft(text[len(key):], " \t\r\v\f")
		switch {
		case key == "":
			p.fault(line, "line begins with a blank: left out by makemap")
		case value == "":
			p.fault(line, "key %q has no value: left out by makemap", key)
		case p.table.form == Mailertable && !strings.Contains(value, ":"):
			p.fault(line, "value %q is no mailer:host: Sendmail goes on as if there were none", value)
		default:
			p.add(key, value, line)
		}
	}
}

func (p *parser) add(key, value string, line int) {
	t := p.table
	e := Entry{Value: value, Line: line}
	e.Key, e.Kind = fold(t.form, key)
	if first, taken := t.index[e.Key]; taken {
		p.fault(line, "key %q stands in line %d, too: the first counts", e.Key, t.entries[first].Line)
		return
	}
	t.index[e.Key] = len(t.entries)
	t.entries = append(t.entries, e)
}

// fold brings a key into the one form that is looked up. What can't be parsed stays, and is found by nobody.
func fold(form Form, key string) (string, Kind) {
	local, domain := "", key
	if at := strings.LastIndexByte(key, '@'); at >= 0 {
		local, domain = key[:at], key[at+1:]
	} else if form == Mailertable {
		kind := Domain
		if strings.HasPrefix(key, ".") {
			kind = Below
		}
		if d, err := addr.ParseDomain(strings.TrimPrefix(key, ".")); err == nil {
			return key[:len(key)-len(strings.TrimPrefix(key, "."))] + d.String(), kind
		}
		return strings.ToLower(key), kind
	} else if d, err := addr.ParseDomain(key); err == nil && form == Virtual && strings.Contains(key, ".") {
		return d.String(), Marker
	} else if a, err := addr.ParsePath(key); err == nil {
		return a.Fold().String(), User
	} else {
		return strings.ToLower(key), User
	}
	d, err := addr.ParseDomain(domain)
	if err != nil {
		return strings.ToLower(key), Exact
	}
	if local == "" {
		return "@" + d.String(), Domain
	}
	if form != Virtual && (strings.HasSuffix(local, "+*") || strings.HasSuffix(local, "++")) {
		return strings.ToLower(local) + "@" + d.String(), Detail
	}
	a, err := addr.ParsePath(key)
	if err != nil {
		return strings.ToLower(key), Exact
	}
	return a.Fold().String(), Exact
}

func blank(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
