package forward

import (
	"hash/maphash"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/forward/virtual"
	"tlsonly/internal/policy"
)

// entryOrigin is that of an entry of a file that is read as it stands.
func entryOrigin(file, key string, line int) policy.Origin {
	return policy.Origin{Source: file, File: file, Line: line, Key: key}
}

// included notes that the members of a list stand for a.
func (w cursor) included(a addr.Address, list string) cursor {
	return w.by(a.String(), policy.Origin{Source: ":include:" + list, File: list})
}

// origin says where an entry is written that a Postfix table of addresses gave:
// the line of the table's text where that says the same. It may be edited since,
// or be gone; the key remains. parameter goes before the table's name.
func (s *session) origin(parameter string, m match) policy.Origin {
	return m.origin(parameter, s.text(m.table))
}

func (s *session) text(table string) tableText {
	text, _ := once(s, "text "+table, func() (tableText, error) { return s.lines.text(table), nil })
	return text
}

func (m match) origin(parameter string, text tableText) policy.Origin {
	o := policy.Origin{Source: parameter + m.table, Key: m.key}
	if line := text.line(m.key, m.value); line > 0 {
		o.File, o.Line = text.file, line
	}
	return o
}

// textOf returns the file from which a table is made, or which it is; "" where
// there is none with lines that have keys: programs, databases, and patterns, of
// which only Postfix knows which matched.
func textOf(table string) string {
	switch kind, name := kindOf(table); kind {
	case "hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash":
		if filepath.IsAbs(name) {
			return name
		}
	}
	return ""
}

// lineForm reads the text of a table: it calls each for every entry, of several
// with the same key for the one that counts, with a text that is the same for
// values that say the same.
type lineForm struct {
	read func(text io.Reader, each func(key, same string, line int)) error
	same func(value string) string
}

// lineForms are both: some have their aliases in virtual_alias_maps, too.
var lineForms = []lineForm{virtualLines, aliasLines}

var virtualLines = lineForm{
	read: func(text io.Reader, each func(string, string, int)) error {
		t, _, err := virtual.Parse(text, "", virtual.Virtual)
		if err != nil {
			return err
		}
		for e := range t.All() {
			each(lower(e.Key), words(e.Value), e.Line)
		}
		return nil
	},
	same: words,
}

var aliasLines = lineForm{
	read: func(text io.Reader, each func(string, string, int)) error {
		f, _, err := aliases.Parse(text, "", aliases.Postfix)
		if err != nil {
			return err
		}
		for e := range f.All() {
			each(e.Name, targetsText(e.Targets), e.Line)
		}
		return nil
	},
	same: func(value string) string { // postalias(1) writes a value anew
		targets, _ := aliases.ParseValue(value, "", 0, aliases.Postfix)
		return targetsText(targets)
	},
}

// words are a value without what a continued line or a blank makes of it.
func words(value string) string { return strings.Join(strings.Fields(value), " ") }

func targetsText(targets []aliases.Target) string {
	var b strings.Builder
	for _, t := range targets {
		b.WriteString(string(t.Kind) + "\x00" + t.Address.String() + "\x00" + t.Text + "\x00")
		if t.Escaped {
			b.WriteByte('\\')
		}
	}
	return b.String()
}

// lineIndex knows in which lines of tables' texts their entries are.
type lineIndex struct {
	seed maphash.Seed

	mu    sync.Mutex
	texts map[string]tableText // by file
}

// tableText is what stands in which line of a table's text.
type tableText struct {
	file  string
	state string // of the file; "": read it again
	seed  maphash.Seed
	forms []entryLines // one for each of lineForms
}

// entryLines are lines by key.
type entryLines map[string]entryLine

type entryLine struct {
	line int
	same uint64 // a hash of the value
}

func newLineIndex() *lineIndex {
	return &lineIndex{seed: maphash.MakeSeed(), texts: map[string]tableText{}}
}

// text reads a table's text, if it has changed.
func (x *lineIndex) text(table string) tableText {
	file := textOf(table)
	if file == "" {
		return tableText{}
	}
	state, settled := stateOf([]string{file})
	x.mu.Lock()
	known := x.texts[file]
	x.mu.Unlock()
	if known.state != "" && known.state == state {
		return known
	}
	known = tableText{file: file, state: state, seed: x.seed}
	if !settled {
		known.state = ""
	}
	if text, err := readFile(file); err == nil {
		for _, form := range lineForms {
			lines := entryLines{}
			err := form.read(strings.NewReader(text), func(key, same string, line int) {
				lines[key] = entryLine{line, maphash.String(x.seed, same)}
			})
			if err != nil {
				lines = nil // a line that no MTA takes: nothing is known of the rest
			}
			known.forms = append(known.forms, lines)
		}
	}
	x.mu.Lock()
	x.texts[file] = known
	x.mu.Unlock()
	return known
}

// line returns the line in which key has a value, 0 where it has another one or
// where that isn't known.
func (t tableText) line(key, value string) int {
	for i, lines := range t.forms {
		e, ok := lines[lower(key)]
		if ok && e.same == maphash.String(t.seed, lineForms[i].same(value)) {
			return e.line
		}
	}
	return 0
}
