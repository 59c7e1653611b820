package sieve

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// kind says what a token is; the single characters are themselves.
type kind byte

const (
	end        kind = 0
	identifier kind = 'i'
	tag        kind = 't' // ":copy": text without the colon
	number     kind = 'n'
	text       kind = 's' // quoted or multi-line
)

type token struct {
	kind   kind
	text   string // a string's value; an identifier or a tag folded
	number uint64
	line   int
}

func (t token) String() string {
	switch t.kind {
	case end:
		return "the end"
	case identifier:
		return t.text
	case tag:
		return ":" + t.text
	case number:
		return "a number"
	case text:
		return "a string"
	}
	return fmt.Sprintf("%q", rune(t.kind))
}

// lexer makes tokens of a script (RFC 5228, section 8.1).
type lexer struct {
	s    string
	i    int
	line int
}

func (l *lexer) fail(format string, args ...any) error {
	return &Error{Line: l.line, Text: fmt.Sprintf(format, args...)}
}

// blank skips white space and comments.
func (l *lexer) blank() error {
	for l.i < len(l.s) {
		switch c := l.s[l.i]; {
		case c == '\n':
			l.line++
			l.i++
		case c == ' ' || c == '\t' || c == '\r':
			l.i++
		case c == '#':
			if l.i = indexFrom(l.s, l.i, "\n"); l.i < 0 {
				l.i = len(l.s)
			}
		case strings.HasPrefix(l.s[l.i:], "/*"):
			close := indexFrom(l.s, l.i+2, "*/")
			if close < 0 {
				return l.fail("comment without end")
			}
			l.line += strings.Count(l.s[l.i:close], "\n")
			l.i = close + 2
		default:
			return nil
		}
	}
	return nil
}

func indexFrom(s string, i int, what string) int {
	j := strings.Index(s[i:], what)
	if j < 0 {
		return -1
	}
	return i + j
}

func (l *lexer) next() (token, error) {
	if err := l.blank(); err != nil {
		return token{}, err
	}
	t := token{line: l.line}
	if l.i == len(l.s) {
		return t, nil
	}
	switch c := l.s[l.i]; {
	case strings.IndexByte("[](){},;", c) >= 0:
		l.i++
		t.kind = kind(c)
	case c == '"':
		s, err := l.quoted()
		t.kind, t.text = text, s
		return t, err
	case c == ':':
		l.i++
		name := l.word()
		if name == "" || digit(name[0]) {
			return t, l.fail("colon without a name")
		}
		t.kind, t.text = tag, strings.ToLower(name)
	case digit(c):
		n, err := l.number()
		t.kind, t.number = number, n
		return t, err
	case letter(c):
		name := strings.ToLower(l.word())
		if name == "text" && l.i < len(l.s) && l.s[l.i] == ':' {
			l.i++
			s, err := l.multiLine()
			t.kind, t.text = text, s
			return t, err
		}
		t.kind, t.text = identifier, name
	default:
		r, _ := utf8.DecodeRuneInString(l.s[l.i:])
		return t, l.fail("character %q", r)
	}
	return t, nil
}

func digit(c byte) bool  { return '0' <= c && c <= '9' }
func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' }

func (l *lexer) word() string {
	start := l.i
	for l.i < len(l.s) && (letter(l.s[l.i]) || digit(l.s[l.i])) {
		l.i++
	}
	return l.s[start:l.i]
}

// number reads digits and a quantifier (RFC 5228, section 2.4.1).
func (l *lexer) number() (uint64, error) {
	var n uint64
	for ; l.i < len(l.s) && digit(l.s[l.i]); l.i++ {
		d := uint64(l.s[l.i] - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0, l.fail("number too large")
		}
		n = n*10 + d
	}
	if l.i == len(l.s) || !letter(l.s[l.i]) {
		return n, nil
	}
	shift := strings.IndexByte("kmg", l.s[l.i]|0x20)
	l.i++
	if shift < 0 || l.i < len(l.s) && (letter(l.s[l.i]) || digit(l.s[l.i])) {
		return 0, l.fail("number with another quantifier than K, M or G")
	}
	if shift = 10 * (shift + 1); n > math.MaxUint64>>shift {
		return 0, l.fail("number too large")
	}
	return n << shift, nil
}

// quoted reads a quoted string. RFC 5228, section 2.4.2: a backslash before any character is taken off.
func (l *lexer) quoted() (string, error) {
	at := l.line
	var b strings.Builder
	for l.i++; l.i < len(l.s); l.i++ {
		c := l.s[l.i]
		switch c {
		case '"':
			l.i++
			return b.String(), l.check(b.String())
		case '\\':
			if l.i++; l.i == len(l.s) {
				continue
			}
			c = l.s[l.i]
		}
		if c == '\n' {
			l.line++
		}
		b.WriteByte(c)
	}
	return "", &Error{Line: at, Text: "string without end"}
}

// multiLine reads what follows "text:", up to a line that is a single dot.
func (l *lexer) multiLine() (string, error) {
	at := l.line
	for l.i < len(l.s) && (l.s[l.i] == ' ' || l.s[l.i] == '\t') {
		l.i++
	}
	if l.i < len(l.s) && l.s[l.i] == '#' {
		if l.i = indexFrom(l.s, l.i, "\n"); l.i < 0 {
			l.i = len(l.s)
		}
	}
	if strings.HasPrefix(l.s[l.i:], "\r\n") {
		l.i++
	}
	if l.i == len(l.s) || l.s[l.i] != '\n' {
		return "", l.fail("text: not followed by a new line")
	}
	l.i++
	l.line++
	var b strings.Builder
	for l.i < len(l.s) {
		stop := indexFrom(l.s, l.i, "\n")
		last := stop < 0
		if last {
			stop = len(l.s)
		}
		line := l.s[l.i:stop]
		if strings.TrimSuffix(line, "\r") == "." && !last {
			l.i = stop + 1
			l.line++
			return b.String(), l.check(b.String())
		}
		if last {
			break
		}
		if strings.HasPrefix(line, "..") { // RFC 5228, section 2.4.2: dot-stuffed
			line = line[1:]
		}
		b.WriteString(line)
		b.WriteByte('\n')
		l.i = stop + 1
		l.line++
	}
	return "", &Error{Line: at, Text: "text: without end"}
}

// check: RFC 5228, section 2.1: scripts are UTF-8, and no string has a NUL.
func (l *lexer) check(s string) error {
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return l.fail("string with a NUL or not in UTF-8")
	}
	return nil
}
