package received

import (
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// kind is what a token is.
type kind int

const (
	word    kind = iota // an atom, an address, a quoted string, a literal
	comment             // without its parentheses
	semicolon
)

type token struct {
	kind kind
	text string
	end  int // where it ends in the field
}

// scan splits a field into words and comments. Comments nest (RFC 5322, section 3.2.2); blanks and folds separate.
func scan(s string) ([]token, error) {
	if len(s) > maxField {
		return nil, ErrTooLong
	}
	var tokens []token
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case ' ', '\t', '\r', '\n':
			i++
		case ';':
			i++
			tokens = append(tokens, token{semicolon, ";", i})
		case '(':
			end := addr.CloseComment(s, i)
			if end < 0 {
				return nil, errors.New("a comment isn't closed")
			}
			tokens = append(tokens, token{comment, strings.Join(strings.Fields(s[i+1:end]), " "), end + 1})
			i = end + 1
		default:
			end, err := wordEnd(s, i)
			if err != nil {
				return nil, err
			}
			tokens = append(tokens, token{word, s[i:end], end})
			i = end
		}
	}
	return tokens, nil
}

// wordEnd returns where a word begun at i ends; a quoted string belongs to the word it stands in.
func wordEnd(s string, i int) (int, error) {
	for i < len(s) {
		switch s[i] {
		case ' ', '\t', '\r', '\n', ';', '(':
			return i, nil
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if i >= len(s) {
				return 0, errors.New("a quoted string isn't closed")
			}
		}
		i++
	}
	return i, nil
}

// clause is what stands behind one keyword, up to the next one.
type clause []token

// text is the first word.
func (c clause) text() string {
	for _, t := range c {
		if t.kind == word {
			return t.text
		}
	}
	return ""
}

// words are all of them.
func (c clause) words() string {
	var list []string
	for _, t := range c {
		if t.kind == word {
			list = append(list, t.text)
		}
	}
	return strings.Join(list, " ")
}

func (c clause) comments() []string {
	var list []string
	for _, t := range c {
		if t.kind == comment {
			list = append(list, t.text)
		}
	}
	return list
}

// field is a Received: field by its clauses.
type field struct {
	head                          clause // before the first keyword: "(qmail 1 invoked by uid 0)"
	from, by, with, id, forr, tls clause
	via                           clause
	date                          string
	all                           []string // comments of every clause, and of the date
}

// clauses finds the keywords of RFC 5321, section 4.4, and RFC 8314's. Words that follow none of them, as Haraka's
// envelope-from, belong to the clause before. A keyword counts once, and what stands directly behind one is its value,
// whatever it is called.
func clauses(tokens []token) field {
	var f field
	last := -1
	for i, t := range tokens {
		if t.kind == semicolon {
			last = i
		}
	}
	rest := tokens
	if last >= 0 {
		rest = tokens[:last]
		date := tokens[last+1:]
		parts := make([]string, 0, len(date))
		for _, t := range date {
			switch t.kind {
			case word:
				parts = append(parts, t.text)
			case comment: // Yandex tells of TLS after the date
				f.all = append(f.all, t.text)
			}
		}
		f.date = strings.Join(parts, " ")
	}
	current, fresh := &f.head, false
	for _, t := range rest {
		switch t.kind {
		case semicolon:
			continue
		case comment:
			f.all = append(f.all, t.text)
		case word:
			if next := f.keyword(t.text); next != nil && *next == nil && !fresh {
				current, fresh = next, true
				*current = clause{}
				continue
			}
			fresh = false
		}
		*current = append(*current, t)
	}
	return f
}

func (f *field) keyword(text string) *clause {
	switch strings.ToLower(text) {
	case "from":
		return &f.from
	case "by":
		return &f.by
	case "via":
		return &f.via
	case "with":
		return &f.with
	case "id":
		return &f.id
	case "for":
		return &f.forr
	case "tls":
		return &f.tls
	}
	return nil
}

// helo is sought in the text itself: one in small letters may be longer, and then its places are others.
var helo = regexp.MustCompile("(?i)helo")

// clientAddress finds the address the server saw: the last one in the from clause's comments, else a literal for a name. What
// the client said in HELO, which qmail and Exim put in comments too, is none.
func clientAddress(from clause) netip.Addr {
	comments := from.comments()
	slices.Reverse(comments)
	for _, c := range append(comments, from.text()) {
		if at := helo.FindStringIndex(c); at != nil {
			c = c[:at[0]]
		}
		words := strings.FieldsFunc(c, func(r rune) bool { return strings.ContainsRune(" ,[]()=", r) })
		slices.Reverse(words)
		for _, w := range words {
			w = strings.TrimPrefix(strings.TrimPrefix(w, "IPv6:"), "ipv6:")
			if a, err := netip.ParseAddr(w); err == nil {
				return a.Unmap()
			}
			if a, err := netip.ParseAddrPort(w); err == nil {
				return a.Addr().Unmap()
			}
		}
	}
	return netip.Addr{}
}
