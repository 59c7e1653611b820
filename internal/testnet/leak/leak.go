// Package leak looks for words of a message in what went over the wire. It is
// the oracle of tests that something left encrypted or not at all.
package leak

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net/url"
)

// Size is the length of the shingles, in octets, that New cuts secrets into:
// each place of a secret begins one.
const Size = 6

// Oracle knows the shingles of what must not be seen.
type Oracle struct {
	size     int
	shingles map[string]bool
}

// New returns an Oracle for these secrets: subject, content, file names. One
// shorter than Size is looked for as a whole. What can be seen in base64 by
// chance, in octets of the wire: 64^6, so 68 thousand million for each shingle.
// For longer streams use NewSize.
func New(secrets ...[]byte) *Oracle { return NewSize(Size, secrets...) }

// NewSize is New with shingles of another length.
func NewSize(size int, secrets ...[]byte) *Oracle {
	o := &Oracle{size: size, shingles: make(map[string]bool)}
	for _, secret := range secrets {
		o.each(secret, func(s string) { o.shingles[s] = true })
		if len(secret) > 0 && len(secret) < size {
			panic(fmt.Sprintf("leak: secret %q is shorter than a shingle", secret))
		}
	}
	return o
}

// Allow takes out what may be seen: the fields of the outside and what is the
// same in every message.
func (o *Oracle) Allow(texts ...[]byte) {
	for _, text := range texts {
		o.each(text, func(s string) { delete(o.shingles, s) })
	}
}

// each calls f for the shingles of text, but for those of one character only:
// they say nothing.
func (o *Oracle) each(text []byte, f func(string)) {
	for i := 0; i+o.size <= len(text); i++ {
		s := text[i : i+o.size]
		if len(bytes.Trim(s, string(rune(s[0])))) > 0 {
			f(string(s))
		}
	}
}

// Len is how many shingles are looked for. A test wants some.
func (o *Oracle) Len() int { return len(o.shingles) }

// Find returns the shingles that are in wire, as it is or in an encoding of
// mail: base64 at any offset and over line ends, quoted-printable, percent.
// Each is quoted with the form in which it was seen; at most ten.
func (o *Oracle) Find(wire []byte) []string {
	var found []string
	seen := make(map[string]bool)
	look := func(form string, text []byte) {
		o.each(text, func(s string) {
			if o.shingles[s] && !seen[s] && len(found) < 10 {
				seen[s] = true
				found = append(found, fmt.Sprintf("%q (%s)", s, form))
			}
		})
	}
	look("as it is", wire)
	// Both readers stop at the first fault: so each line by itself as well.
	joined := bytes.ReplaceAll(bytes.ReplaceAll(wire, []byte("=\r\n"), nil), []byte("=\n"), nil)
	for line := range bytes.Lines(joined) {
		if bytes.IndexByte(line, '=') >= 0 {
			text, _ := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(line)))
			look("quoted-printable", text)
		}
		if bytes.IndexByte(line, '%') >= 0 {
			if text, err := url.PathUnescape(string(bytes.TrimSpace(line))); err == nil {
				look("percent", []byte(text))
			}
		}
	}
	for _, run := range runs(wire) {
		for offset := range min(4, len(run)) {
			part := run[offset:]
			text, _ := base64.RawStdEncoding.DecodeString(string(part[:len(part)/4*4]))
			look("base64", text)
		}
	}
	return found
}

// runs returns what may be base64: its characters, over line ends.
func runs(wire []byte) [][]byte {
	var all [][]byte
	var run []byte
	for i := 0; i <= len(wire); i++ {
		if i < len(wire) {
			switch c := wire[i]; {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '+', c == '/':
				run = append(run, c)
				continue
			case c == '-' || c == '_': // of base64url
				run = append(run, map[byte]byte{'-': '+', '_': '/'}[c])
				continue
			case c == '\r' || c == '\n':
				continue
			}
		}
		if len(run) >= Size*4/3 {
			all = append(all, run)
		}
		run = nil
	}
	return all
}
