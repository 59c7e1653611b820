package message

import (
	"mime"
	"strings"
)

// CutWords takes words out of the subject, by which a sender has asked for
// protection, and reports whether one was there. Case doesn't matter, nor that
// a client has encoded the subject (RFC 2047). A blank goes with each word. A
// subject without any of them stays as it is.
func (m *Message) CutWords(words []string) bool {
	found := false
	for i, f := range m.Fields {
		if !f.Is("Subject") {
			continue
		}
		text := readable(f.Value())
		rest, cut := without(text, words)
		if !cut {
			continue
		}
		found = true
		// The field itself where that is enough: what is encoded beside stays so.
		name, value, _ := strings.Cut(string(f.Raw), ":")
		if raw, ok := without(value, words); ok {
			candidate := Field{Name: f.Name, Raw: []byte(name + ":" + raw)}
			if readable(candidate.Value()) == rest {
				m.Fields[i] = candidate
				continue
			}
		}
		m.Fields[i].Raw = []byte(fold(name+": "+mime.BEncoding.Encode("utf-8", rest)) + "\r\n")
	}
	return found
}

// without returns s without any of the words, and without the blank behind one,
// or before it at the end.
func without(s string, words []string) (rest string, cut bool) {
	for again := true; again; {
		again = false
		for _, word := range words {
			at := index(s, word)
			if at < 0 || word == "" {
				continue
			}
			before, after := s[:at], s[at+len(word):]
			if trimmed, ok := strings.CutPrefix(after, " "); ok {
				after = trimmed
			} else if strings.Trim(after, "\r\n") == "" {
				before = strings.TrimSuffix(before, " ")
			}
			s, cut, again = before+after, true, true
		}
	}
	return s, cut
}

// index is strings.Index for which case of ASCII doesn't matter.
func index(s, word string) int {
	for i := 0; i+len(word) <= len(s); i++ {
		if equalASCII(s[i:i+len(word)], word) {
			return i
		}
	}
	return -1
}

func equalASCII(a, b string) bool {
	lower := func(c byte) byte {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// fold breaks a line at blanks, so that few parts are longer than 76 octets
// (RFC 5322, section 2.2.3).
func fold(line string) string {
	var b strings.Builder
	length := 0
	for i, word := range strings.SplitAfter(line, " ") {
		if i > 1 && length+len(word) > 76 {
			// The blank that ended the last word begins the next line.
			s := strings.TrimSuffix(b.String(), " ")
			b.Reset()
			b.WriteString(s + "\r\n ")
			length = 1
		}
		b.WriteString(word)
		length += len(word)
	}
	return b.String()
}
