package config

import (
	"errors"
	"strings"

	"github.com/BurntSushi/toml"

	"tlsonly/internal/config/value"
)

// parseTree reads a TOML file as values with their lines. The error is a *value.Error with the line of what isn't
// TOML.
//
// The library tells no lines of values, and of several faults a random one, so it only decodes: into plain maps,
// whose keys are as the file spells them. The lines come from a scan of our own over what it found to be TOML.
func parseTree(text string) (value.Table, error) {
	var decoded map[string]any
	_, err := toml.Decode(text, &decoded)
	lines := strings.Count(strings.TrimSuffix(text, "\n"), "\n") + 1
	if wrong := (toml.ParseError{}); errors.As(err, &wrong) {
		return value.Table{}, syntaxFault(text, min(max(wrong.Position.Line, 1), lines), wrong.Message)
	} else if err != nil {
		return value.Table{}, &value.Error{Line: 1, Text: strings.TrimPrefix(err.Error(), "toml: ")}
	}
	s := scanner{text: text, line: 1}
	return withLines(decoded, s.scan(), 1).Any.(value.Table), nil
}

// withLines joins what was decoded with where it was found; a value that the scan missed has its parent's line.
func withLines(decoded any, n *node, line int) value.Value {
	if n != nil {
		line = n.line
	}
	v := value.Value{Line: line, Any: decoded}
	switch x := decoded.(type) {
	case map[string]any:
		t := value.Table{Line: line, Keys: make(map[string]value.Value, len(x))}
		for k, e := range x {
			t.Keys[k] = withLines(e, n.key(k), line)
		}
		v.Any = t
	case []map[string]any:
		list := make([]value.Value, len(x))
		for i, e := range x {
			list[i] = withLines(e, n.elem(i), line)
		}
		v.Any = list
	case []any:
		list := make([]value.Value, len(x))
		for i, e := range x {
			list[i] = withLines(e, n.elem(i), line)
		}
		v.Any = list
	}
	return v
}

// node is where a value stands: the line of its key, table header or first character.
type node struct {
	line  int
	keys  map[string]*node
	elems []*node
}

func (n *node) key(k string) *node {
	if n == nil {
		return nil
	}
	return n.keys[k]
}

func (n *node) elem(i int) *node {
	if n == nil || i >= len(n.elems) {
		return nil
	}
	return n.elems[i]
}

// child returns the table or value called k, made if it isn't there. Of an array of tables it is the last one's.
func (n *node) child(k string, line int) *node {
	n = n.current()
	c := n.keys[k]
	if c == nil {
		c = &node{line: line}
		if n.keys == nil {
			n.keys = map[string]*node{}
		}
		n.keys[k] = c
	}
	return c
}

// current returns the last table of an array of tables, and any other node itself.
func (n *node) current() *node {
	if len(n.elems) > 0 {
		return n.elems[len(n.elems)-1]
	}
	return n
}

// scanner finds the lines of keys and values in a text that is known to be TOML. It needs to know only what opens
// and closes; on a text that isn't TOML it ends early, and never fails.
type scanner struct {
	text string
	pos  int
	line int
}

func (s *scanner) scan() *node {
	root := &node{line: 1}
	table := root
	s.take("\ufeff") // a byte order mark, which the library takes off, too
	for {
		s.skip(" \t\r\n")
		switch {
		case s.pos >= len(s.text):
			return root
		case s.at("["):
			line, isArray := s.line, s.at("[[")
			s.take("[")
			s.take("[")
			path := s.path()
			s.take("]")
			s.take("]")
			table = root
			for _, k := range path {
				table = table.child(k, line)
			}
			if isArray {
				table.elems = append(table.elems, &node{line: line})
			} else {
				table.line = line
			}
			table = table.current()
		default:
			if !s.keyValue(table) {
				return root
			}
		}
	}
}

// keyValue reads "a.b = value" into table, and reports whether there was one.
func (s *scanner) keyValue(table *node) bool {
	line := s.line
	path := s.path()
	if len(path) == 0 || !s.take("=") {
		return false
	}
	for _, k := range path {
		table = table.child(k, line)
	}
	s.value(table)
	return true
}

// path reads a key with its dots and the blanks around it.
func (s *scanner) path() []string {
	var path []string
	for {
		s.skip(" \t")
		start := s.pos
		if s.at(`"`) || s.at("'") {
			s.quoted()
		} else {
			for s.pos < len(s.text) && !strings.ContainsRune(" \t\r\n.=[]{},#\"'", rune(s.text[s.pos])) {
				s.pos++
			}
		}
		if s.pos == start {
			return path
		}
		path = append(path, unquote(s.text[start:s.pos]))
		s.skip(" \t")
		if !s.take(".") {
			return path
		}
	}
}

// unquote leaves the quotes of a key to the library; a key that it doesn't take stays as it is.
func unquote(key string) string {
	if key[0] != '"' && key[0] != '\'' {
		return key
	}
	var k struct{ V string }
	if _, err := toml.Decode("V = "+key, &k); err != nil {
		return key
	}
	return k.V
}

// value reads a value into n, whose line is set.
func (s *scanner) value(n *node) {
	s.skip(" \t")
	switch {
	case s.at(`"`), s.at("'"):
		s.quoted()
	case s.take("["):
		for s.skip(" \t\r\n,"); s.pos < len(s.text) && !s.take("]"); s.skip(" \t\r\n,") {
			start := s.pos
			e := &node{line: s.line}
			s.value(e)
			if s.pos == start {
				return
			}
			n.elems = append(n.elems, e)
		}
	case s.take("{"):
		for s.skip(" \t\r\n,"); s.pos < len(s.text) && !s.take("}"); s.skip(" \t\r\n,") {
			if !s.keyValue(n) {
				return
			}
		}
	default:
		for s.pos < len(s.text) && !strings.ContainsRune("\r\n,]}#", rune(s.text[s.pos])) {
			s.pos++
		}
	}
}

// quoted skips a string of any of the four kinds.
func (s *scanner) quoted() {
	quote := s.text[s.pos : s.pos+1]
	if triple := strings.Repeat(quote, 3); s.at(triple) {
		quote = triple
	}
	s.pos += len(quote)
	for s.pos < len(s.text) && !s.at(quote) {
		if quote[0] == '"' && s.at(`\`) {
			s.pos++
		}
		s.advance()
	}
	s.pos = min(s.pos+len(quote), len(s.text))
	if len(quote) == 3 {
		// Two more quotes may stand before the three that close.
		s.take(quote[:1])
		s.take(quote[:1])
	}
}

// advance goes one octet on.
func (s *scanner) advance() {
	if s.pos < len(s.text) {
		if s.text[s.pos] == '\n' {
			s.line++
		}
		s.pos++
	}
}

func (s *scanner) at(token string) bool { return strings.HasPrefix(s.text[s.pos:], token) }

func (s *scanner) take(token string) bool {
	if !s.at(token) {
		return false
	}
	s.pos += len(token)
	return true
}

// skip goes over characters of set, and over comments where a line may end.
func (s *scanner) skip(set string) {
	for s.pos < len(s.text) {
		switch {
		case strings.IndexByte(set, s.text[s.pos]) >= 0:
			s.advance()
		case s.text[s.pos] == '#' && strings.Contains(set, "\n"):
			for s.pos < len(s.text) && s.text[s.pos] != '\n' {
				s.pos++
			}
		default:
			return
		}
	}
}
