package aliases

import (
	"errors"
	"fmt"
	"iter"
	"strings"
)

// maxAddress is Sendmail's MAXNAME, less one: a longer address is left out.
const maxAddress = 255

// elements are the parts of a list between commas that stand in no quotes, comments and brackets.
func elements(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, angles := 0, 0
		flush := func(end int) bool {
			s := trim(text[start:end])
			return s == "" || yield(s)
		}
		for i := 0; i < len(text); i++ {
			switch c := text[i]; {
			case c == '\\':
				i++
			case c == '"':
				i = quoteEnd(text, i) - 1
			case c == '(':
				i = commentEnd(text, i) - 1
			case c == '<':
				angles++
			case c == '>' && angles > 0:
				angles--
			case c == ',' && angles == 0:
				if !flush(i) {
					return
				}
				start = i + 1
			}
		}
		flush(len(text))
	}
}

// quoteEnd returns where the quoted string begun at i is over.
func quoteEnd(text string, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// sendmailTarget makes a target of one element. It follows prescan and the ruleset canonify as cf/m4/proto.m4 has it.
func sendmailTarget(element string) (Target, error) {
	unknown := Target{Kind: Unknown, Text: element}
	if len(element) > maxAddress {
		unknown.Text = element[:40] + "…"
		return unknown, fmt.Errorf("address longer than %d octets", maxAddress)
	}
	text, at, err := focus(element)
	if err != nil {
		return unknown, fmt.Errorf("address %q: %w", element, err)
	}
	if t, ok := special(unquote(text), Sendmail); ok {
		return t, nil
	}
	if at > 1 && !strings.HasPrefix(text, "@") { // "@a:user@b" is a route, "a@b@c" is refused
		return unknown, fmt.Errorf("address %q: more than one @", element)
	}
	t, err := mailbox(text)
	if err != nil {
		t.Text = element
		return t, err
	}
	// recipient(): a backslash anywhere in the user's name keeps aliases and .forward away.
	t.Escaped = strings.Contains(text, `\`)
	return t, nil
}

// focus takes off an element what isn't its address: comments, all but the last angle brackets, the name of a group and
// the semicolon at its end. Blanks between words become dots (BlankSub). at counts the "@" outside quotes.
func focus(element string) (text string, at int, err error) {
	var b strings.Builder
	first, last, square := -1, -2, -1 // of the colons, and the last "[", outside quotes
	blank, double, open := false, false, false
	for i := 0; i < len(element); i++ {
		c := element[i]
		if isBlank(c) {
			blank = true
			continue
		}
		if c == '(' {
			end := commentEnd(element, i)
			if element[end-1] != ')' {
				return "", 0, errors.New("no closing parenthesis")
			}
			blank = true
			i = end - 1
			continue
		}
		kept := b.Len()
		if blank && kept > 0 && !operator(b.String()[kept-1]) && !operator(c) {
			b.WriteByte('.')
		}
		blank = false
		switch c {
		case '<':
			b.Reset()
			first, last, square, double, at, open = -1, -2, -1, false, 0, true
		case '>':
			if !open {
				return "", 0, errors.New("no opening <")
			}
			open = false
			// What follows the bracket doesn't count, unless another one does.
			next := strings.IndexByte(element[i:], '<')
			if next < 0 {
				return b.String(), at, nil
			}
			i += next - 1
		case '"':
			end := quoteEnd(element, i)
			if end-i < 2 || element[end-1] != '"' {
				return "", 0, errors.New("no closing quote")
			}
			b.WriteString(element[i:end])
			i = end - 1
		case '\\':
			if i++; i == len(element) {
				return "", 0, errors.New("backslash at the end")
			}
			b.WriteByte('\\')
			b.WriteByte(element[i])
		case ')':
			return "", 0, errors.New("no opening parenthesis")
		default:
			switch {
			case c == '@':
				at++
			case c == '[':
				square = b.Len()
			case c == ':':
				double = double || last == b.Len()-1
				if last = b.Len(); first < 0 {
					first = last
				}
			}
			b.WriteByte(c)
		}
	}
	if open {
		return "", 0, errors.New("no closing >")
	}
	text = b.String()
	if _, ok := special(text, Sendmail); first >= 0 && !ok {
		// The name of a group ends with the first colon, but not every first colon ends one.
		route, literal := strings.HasPrefix(text, "@"), square >= 0 && strings.HasSuffix(text, "]")
		if !double && !route && !(literal && hasFold(text[square+1:], "IPv6:")) || literal && first < square {
			if route {
				at -= strings.Count(text[:first], "@")
			}
			text = text[first+1:]
		}
	}
	return strings.TrimSuffix(text, ";"), at, nil
}

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// operator reports whether c delimits words, as quotes do: blanks beside it are dropped.
func operator(c byte) bool { return strings.IndexByte(".:%@!^/[]+<>,;\"", c) >= 0 }

// unquote takes quotes and backslashes off.
func unquote(s string) string {
	if !strings.ContainsAny(s, `"\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
