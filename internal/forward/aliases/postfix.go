package aliases

import (
	"strings"

	"tlsonly/internal/addr"
)

// token is a word, a comment or an operator, which is one of specials. Postfix reads an alias by words, not by commas:
// "a b" is two recipients, "|cmd a" a command and a recipient.
type token struct {
	kind byte   // 'a' atom, 'q' quoted string, 'd' domain literal, 'c' comment; or the operator itself
	text string // without quotes and backslashes; a comment's with its parentheses
}

// specials are RFC 822's, section 3.3, with what else delimits words for Postfix.
const specials = `|%!()<>@,;:\".[]`

func (t token) word() bool { return t.kind == 'a' || t.kind == 'q' || t.kind == 'd' }

// scan makes tokens of text. It can't fail: what isn't closed ends with the text.
func scan(text string) []token {
	var tokens []token
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case isBlank(c):
			i++
		case c == '(':
			end := commentEnd(text, i)
			tokens = append(tokens, token{'c', text[i:end]})
			i = end
		case c == '"' || c == '[':
			kind, closing := byte('q'), byte('"')
			if c == '[' {
				kind, closing = 'd', ']'
			}
			s, end, _ := collect(text, i+1, func(c byte) bool { return c == closing })
			tokens = append(tokens, token{kind, s})
			i = min(end+1, len(text))
		case c != '\\' && strings.IndexByte(specials, c) >= 0:
			tokens = append(tokens, token{kind: c})
			i++
		default:
			s, end, escaped := collect(text, i, func(c byte) bool {
				return isBlank(c) || strings.IndexByte(specials, c) >= 0
			})
			kind := byte('a')
			if escaped && strings.ContainsAny(s, specials+" \t\r\n") {
				kind = 'q'
			}
			tokens = append(tokens, token{kind, s})
			i = end
		}
	}
	return tokens
}

// collect reads up to a character that ends, and takes one backslash off each pair.
func collect(text string, i int, ends func(byte) bool) (s string, end int, escaped bool) {
	start := i
	for i < len(text) && text[i] != '\\' && !ends(text[i]) {
		i++
	}
	if i == len(text) || text[i] != '\\' {
		return text[start:i], i, false
	}
	b := []byte(text[start:i])
	for i < len(text) && (text[i] == '\\' || !ends(text[i])) {
		if text[i] == '\\' {
			if i++; i == len(text) {
				break
			}
		}
		b = append(b, text[i])
		i++
	}
	return string(b), i, true
}

// commentEnd returns where the comment begun at i is over; one that isn't closed goes to the end.
func commentEnd(text string, i int) int {
	if end := addr.CloseComment(text, i); end >= 0 {
		return end + 1
	}
	return len(text)
}

// split finds the addresses in a list of tokens, from right to left, as Postfix does: of "Name <a@b>" only what is in brackets, of
// "group: a, b;" its members; a comma that is missing between two words is put there.
func split(all []token) [][]token {
	tokens := make([]token, 0, len(all))
	for _, t := range all {
		if t.kind != 'c' {
			tokens = append(tokens, t)
		}
	}
	var found [][]token
	right := len(tokens) // where the address that is being read ends
	emit := func(from int) {
		if from < right {
			found = append(found, tokens[from:right])
		}
	}
	afterWord, inGroup := false, false
	i := len(tokens) - 1
	back := func(stop string) {
		for i >= 0 && (tokens[i].word() || strings.IndexByte(stop, tokens[i].kind) < 0) {
			i--
		}
	}
	for i >= 0 {
		switch t := tokens[i]; {
		case t.kind == ';':
			emit(i + 1)
			right, afterWord, inGroup = i, false, true
			i--
		case t.kind == ':' && inGroup:
			emit(i + 1)
			back(",")
			right = max(i, 0)
		case t.kind == '>':
			emit(i + 1)
			right = i
			back("<")
			emit(i + 1)
			back(">;,:")
			right, afterWord = max(i, 0), false // what ends the name is looked at next
		case t.word():
			if afterWord {
				emit(i + 1)
				right = i + 1
			}
			afterWord = true
			i--
		case t.kind == ',':
			emit(i + 1)
			right, afterWord = i, false
			i--
		default:
			afterWord = false
			i--
		}
	}
	emit(0)
	for l, r := 0, len(found)-1; l < r; l, r = l+1, r-1 {
		found[l], found[r] = found[r], found[l]
	}
	return found
}

func postfixTarget(tokens []token) (Target, error) {
	plain := internal(tokens)
	if t, ok := special(plain, Postfix); ok {
		return t, nil
	}
	if rest, ok := strings.CutPrefix(plain, `\`); ok && tokens[0].word() {
		tokens = append([]token{{tokens[0].kind, tokens[0].text[1:]}}, tokens[1:]...)
		t, err := mailbox(external(tokens))
		t.Escaped = err == nil && rest != ""
		return t, err
	}
	return mailbox(external(tokens))
}

// internal is the text without quotes, external the one with.
func internal(tokens []token) string { return write(tokens, false) }
func external(tokens []token) string { return write(tokens, true) }

func write(tokens []token, quoted bool) string {
	var b strings.Builder
	for i, t := range tokens {
		if i > 0 && (t.word() || t.kind == 'c') && (tokens[i-1].word() || tokens[i-1].kind == 'c') {
			b.WriteByte(' ')
		}
		switch {
		case t.kind == 'q' && quoted:
			b.WriteByte('"')
			for j := range len(t.text) {
				if t.text[j] == '"' || t.text[j] == '\\' {
					b.WriteByte('\\')
				}
				b.WriteByte(t.text[j])
			}
			b.WriteByte('"')
		case t.kind == 'd':
			b.WriteString("[" + t.text + "]")
		case t.word() || t.kind == 'c':
			b.WriteString(t.text)
		default:
			b.WriteByte(t.kind)
		}
	}
	return b.String()
}
