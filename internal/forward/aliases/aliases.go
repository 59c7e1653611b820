// Package aliases answers what an alias file, a .forward file or an included list says: which name stands for which
// addresses, files, commands and other lists. It reads them as Postfix or as Sendmail does, which differ more than their manuals
// tell (see Dialect), and reports with file and line what the MTA complains about, leaves out or takes for something else
// than it looks like.
//
// It expands nothing, opens no file and decides nothing: who follows targets is package forward. Sources: aliases(5) and
// local(8) of Postfix, aliases(5) and cf/README of Sendmail, both programs' behavior (postalias -s of 3.7, sendmail -bt and
// praliases of 8.17), RFC 822, section 6.1, for addresses, groups and comments.
//
// SECURITY: what isn't understood becomes a target of kind Unknown, never nothing: mail may go there. A caller must treat
// it as a destination of which nothing is known.
//
// BUGS: an MTA reads not the file but a table made of it (newaliases, postalias): a file changed since then says what
// will hold, not what holds.
package aliases

import (
	"fmt"
	"io"
	"iter"
	"strings"

	"tlsonly/internal/addr"
)

// Dialect says whose rules a text is read by. The zero value is Postfix's.
//
//	                          Postfix                         Sendmail
//	a name used twice         the first counts                the last counts
//	user@domain: …            left out                        for the MTA's own domains only
//	words without commas      are several recipients          are one, "a.b"
//	\user                     is user                         is user, not aliased again
//	~/file                    is a file                       is a user
//	"group: a, b;"            its members                     its members
//	an indented "#" line      is a comment                    goes on with the line before
//	a backslash at the end    is nothing                      goes on with the next line
type Dialect string

// The dialects.
const (
	Postfix  Dialect = "postfix"
	Sendmail Dialect = "sendmail"
)

// Fault is something in a file that its MTA complains about, leaves out or takes for something else than it looks like.
type Fault struct {
	File string
	Line int // from 1
	Text string
}

// Error returns "FILE:LINE: text".
func (f Fault) Error() string { return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text) }

// Entry is one alias.
type Entry struct {
	Name    string   // unquoted and folded; with its domain where the file has one (Sendmail)
	Targets []Target // at least one
	Line    int      // where it begins
}

// File is an alias file's content. It may be used by several goroutines.
type File struct {
	name    string
	entries []Entry
	index   map[string]int
}

// Parse reads an alias file; name is for the faults only. The faults come in the order of their lines; what the MTA itself leaves
// out isn't in the File. An error is one of reading, or a line longer than any MTA's: then nothing is known of the file.
func Parse(r io.Reader, name string, d Dialect) (*File, []Fault, error) {
	p := parser{name: name, dialect: d}
	f := &File{name: name, index: make(map[string]int)}
	err := p.lines(r, func(text string, line int) {
		key, value, ok := p.cut(text, line)
		if !ok {
			return
		}
		targets := p.value(value, line)
		if len(targets) == 0 {
			p.fault(line, "alias %q has no value", key)
			targets = []Target{{Kind: Unknown, Text: value, Line: line}}
		}
		e := Entry{Name: fold(key), Targets: targets, Line: line}
		if first, taken := f.index[e.Name]; taken {
			counts := "the first counts"
			if d == Sendmail {
				counts = "this one counts"
			}
			p.fault(line, "alias %q stands in line %d, too: %s", e.Name, f.entries[first].Line, counts)
			if d == Sendmail {
				f.entries[first] = e
			}
			return
		}
		f.index[e.Name] = len(f.entries)
		f.entries = append(f.entries, e)
	})
	if err != nil {
		return nil, nil, err
	}
	return f, p.faults, nil
}

// Name is the name Parse was given.
func (f *File) Name() string { return f.name }

// Len returns the number of entries.
func (f *File) Len() int { return len(f.entries) }

// Lookup finds the entry of a local name, unquoted and in any case. Extensions ("user+detail") are the caller's, and so
// is "user@domain" for a domain of the MTA's own, which a file of Sendmail's may have.
func (f *File) Lookup(name string) (Entry, bool) {
	i, ok := f.index[fold(name)]
	if !ok {
		return Entry{}, false
	}
	return f.entries[i], true
}

// All goes through the entries in their order.
func (f *File) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, e := range f.entries {
			if !yield(e) {
				return
			}
		}
	}
}

func fold(name string) string { return addr.Address{Local: name}.Fold().Local }

// cut splits a logical line at its colon; ok is false where the MTA leaves the line out.
func (p *parser) cut(text string, line int) (name, value string, ok bool) {
	if p.dialect == Sendmail {
		return p.cutSendmail(text, line)
	}
	return p.cutPostfix(text, line)
}

func (p *parser) cutPostfix(text string, line int) (name, value string, ok bool) {
	end := colon(text)
	if end < 0 || trim(text[end+1:]) == "" {
		p.fault(line, "no \"name: value\": left out by Postfix")
		return "", "", false
	}
	key := scan(text[:end])
	for _, t := range key {
		switch t.kind {
		case ',':
			p.fault(line, "several names: left out by Postfix")
			return "", "", false
		case '@', '%':
			p.fault(line, "name %q with a domain: left out by Postfix", trim(text[:end]))
			return "", "", false
		}
	}
	if name = internal(key); name == "" {
		p.fault(line, "empty name: never found")
		return "", "", false
	}
	return name, text[end+1:], true
}

func (p *parser) cutSendmail(text string, line int) (name, value string, ok bool) {
	end := colon(text)
	first := strings.IndexByte(text, ':')
	if first < 0 {
		p.fault(line, "no colon: left out by Sendmail")
		return "", "", false
	}
	if first != end { // the value begins at the first colon, wherever it stands
		p.fault(line, "a colon in a quoted name, which Sendmail doesn't see")
		if end < 0 {
			end = first
		}
		return unquote(trim(text[:end])), "", true
	}
	name, at, err := focus(text[:end])
	switch {
	case err == nil && strings.Contains(name, ","):
		p.fault(line, "several names: left out by Sendmail")
		return "", "", false
	case err == nil && unquote(name) == "" || trim(text[end+1:]) == "":
		p.fault(line, "no \"name: value\": left out by Sendmail")
		return "", "", false
	case err != nil:
		p.fault(line, "name %q: %v", text[:end], err)
		return unquote(trim(text[:end])), "", true
	case at > 0:
		p.fault(line, "name %q with a domain: left out by Sendmail, unless the domain is its own", name)
		if a, err := addr.ParsePath(name); err == nil {
			return a.String(), text[end+1:], true
		}
	case strings.Contains(name, `\`):
		p.fault(line, "a backslash in name %q keeps it from being found", name)
		return "", "", false
	}
	return unquote(name), text[end+1:], true
}

// colon returns where the first colon outside quotes, comments and brackets stands, -1 without one.
func colon(text string) int {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case ':':
			return i
		case '\\':
			i++
		case '"':
			i = quoteEnd(text, i) - 1
		case '(':
			i = commentEnd(text, i) - 1
		case '[':
			if end := strings.IndexByte(text[i:], ']'); end > 0 {
				i += end
			}
		}
	}
	return -1
}
