package starttls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"tlsonly/internal/profile"
)

func dialects() []profile.Dialect {
	return []profile.Dialect{profile.Postfix, profile.Sendmail, profile.AnyDialect}
}

// replies maps what a host says to what each MTA reads: code, text and keywords.
func replies() map[string][2]string {
	same := func(s string) [2]string { return [2]string{s, s} }
	long := func(n int) string { return strings.Repeat("x", n) }
	return map[string][2]string{
		"220 mx.test ESMTP\r\n":                    same("220 mx.test ESMTP []"),
		"220-mx.test\r\n220-hello\r\n220 done\r\n": same("220 mx.test / hello / done [HELLO DONE]"),
		"250\r\n":                                same("250  []"), // RFC 5321, section 4.2: text is optional
		"250-a\n250 b\n":                         same("250 a / b [B]"),
		"250-a\r\n250 b\r\n250 next\r\n":         same("250 a / b [B]"), // what follows is not ours
		"599 x\r\n":                              same("599 x []"),
		"620 x\r\n":                              same("620 x []"),
		"\r\n\r\n250-a\r\n\r\n250 b\r\n":         same("250 a / b [B]"),
		"hello\r\n2200 x\r\n 250 x\r\n250 b\r\n": {"250 b [X B]", "250 b []"},
		"250-a\r\n550-b c\r\n220 d\r\n":          same("220 a / b c / d [B D]"),
		"050 a\r\n250 b\r\n":                     {"050 a []", "250 a / b [B]"},
		"250-a\r\n250 B=c\r\n":                   same("250 a / B=c [B]"),
		"250-a\r\n250  b\r\n":                    {"250 a /  b [B]", "250 a /  b []"},
		"250-a\r\n250-b\tc\r\n250 d\r\n":         {"250 a / b?c / d [B?C D]", "250 a / b\tc / d [B\tC D]"},
		"250-a\r\n250 b\x00c\r\n":                same("250 a / b [B]"),
		"250-a\r\r\n250 b\r\r\n":                 {"250 a / b [B]", "250 a / b [B\r]"},
		"250-\r\n250-b\r\n250 c\r\n":             {"250  / b / c [C]", "250  / b / c [B C]"},
		"250-a\r\nfoo b\r\n250 c\r\n":            {"250 a / c [B C]", "250 a / c [C]"},
		"250-" + long(3000) + "\r\n250 b\r\n":    {"250 " + long(2044) + " / b []", "250 " + long(2043) + " / b [B]"},
	}
}

func TestReadReply(t *testing.T) {
	for in, want := range replies() {
		for i, d := range []profile.Dialect{profile.Postfix, profile.Sendmail} {
			got, err := readReply(newReader(strings.NewReader(in)), d)
			if text := fmt.Sprint(got.String(), " ", got.words); err != nil || text != want[i] {
				t.Errorf("%s, %.60q: %.80q, %v, want %.80q", d, in, text, err, want[i])
			}
		}
	}
	// Of an MTA that isn't known what both read is what counts.
	for in, want := range map[string]string{
		"250-a\r\n250 b\r\n":              "250 a / b [B]",
		"250-a\r\n250- b\r\n250 c\r\n":    "250 a /  b / c [C]",
		"250-\r\n250-b\r\n250 c\r\n":      "250  / b / c [C]",
		"250-a\r\nfoo b\r\n250 c\r\n":     "250 a / c [C]",
		"050 a\r\n250 b\r\n":              "error",
		"hello\r\n\r\n250-a\r\n250 b\r\n": "250 a / b [B]",
	} {
		got, err := readReply(newReader(strings.NewReader(in)), profile.AnyDialect)
		text := fmt.Sprint(got.String(), " ", got.words)
		if err != nil {
			text = "error"
		}
		if text != want {
			t.Errorf("%q: %q, %v, want %q", in, text, err, want)
		}
	}
	for _, d := range dialects() {
		for in, want := range map[string]error{
			"": io.EOF, "220": io.ErrUnexpectedEOF, "220-a\r\n": io.ErrUnexpectedEOF,
			"hello\r\n": errSyntax, "HTTP/1.1 400 Bad Request\r\n": errSyntax, "220\ta\r\n": errSyntax,
			strings.Repeat("250-x\r\n", maxReply/7+1):       errSyntax,
			"220 " + strings.Repeat("x", maxReply) + "\r\n": errSyntax,
		} {
			if got, err := readReply(newReader(strings.NewReader(in)), d); !errors.Is(err, want) {
				t.Errorf("%q, %.60q: %.60q, %v, want %v", d, in, got, err, want)
			}
		}
	}
}

// FuzzReadReply: a reply that is taken is bounded, and what follows it stays unread.
func FuzzReadReply(f *testing.F) {
	for in := range replies() {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, d := range dialects() {
			r := newReader(bytes.NewReader(in))
			got, err := readReply(r, d)
			if err != nil {
				continue
			}
			rest, _ := io.ReadAll(r)
			used := in[:len(in)-len(rest)]
			if !bytes.HasSuffix(in, rest) || used[len(used)-1] != '\n' || len(used) > maxReply {
				t.Fatalf("%q: %d octets from %q, rest %q", d, len(used), used, rest)
			}
			if len(got.lines) == 0 || got.code < 0 || got.code > 999 || len(got.lines) > bytes.Count(used, []byte("\n"))+len(used)/sendmailLine {
				t.Fatalf("%q: %d lines, code %d", d, len(got.lines), got.code)
			}
			for _, word := range got.words {
				if word == "" && d != profile.Sendmail || !bytes.Contains(bytes.ToUpper(used), []byte(word)) && !strings.Contains(word, "?") {
					t.Fatalf("%q: keyword %q", d, word)
				}
			}
		}
	})
}
