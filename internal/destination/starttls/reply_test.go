package starttls

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func goodReplies() map[string]string {
	return map[string]string{
		"220 mx.test ESMTP\r\n":                    "220 mx.test ESMTP",
		"220-mx.test\r\n220-hello\r\n220 done\r\n": "220 mx.test / hello / done",
		"250\r\n":                        "250 ",         // RFC 5321, section 4.2: text is optional
		"250-a\n250 b\n":                 "250 a / b",    // bare LF, seen
		"250-\r\n250 \r\n":               "250  / ",      // empty lines
		"250 a\rb\x00\r\n":               "250 a\rb\x00", // made printable only where it is reported
		"250-a\r\n250 b\r\n250 next\r\n": "250 a / b",    // what follows is not ours
		"599 x\r\n":                      "599 x",        // RFC 5321, section 4.3.2: digits are what counts
		"220 " + strings.Repeat("x", maxLine-6) + "\r\n":      "220 " + strings.Repeat("x", maxLine-6),
		strings.Repeat("250-x\r\n", maxLines-1) + "250 x\r\n": "250 x" + strings.Repeat(" / x", maxLines-1),
	}
}

func badReplies() []string {
	return []string{
		"hello\r\n",
		"\r\n",
		"22 x\r\n",
		"2200 x\r\n",
		"220x\r\n",
		"220_x\r\n",
		" 220 x\r\n",
		"120 x\r\n", // RFC 5321, section 4.2: SMTP has no 1yz
		"620 x\r\n",
		"2a0 x\r\n",
		"220-a\r\n250 b\r\n", // RFC 5321, section 4.2.1: one code
		"HTTP/1.1 400 Bad Request\r\n",
		"\x16\x03\x01\x00\x05\n",
		"220 " + strings.Repeat("x", maxLine) + "\r\n",
		strings.Repeat("250-x\r\n", maxLines) + "250 x\r\n",
		strings.Repeat("250-"+strings.Repeat("x", 4000)+"\r\n", 20) + "250 x\r\n",
	}
}

func TestReadReply(t *testing.T) {
	for in, want := range goodReplies() {
		got, err := readReply(newReader(strings.NewReader(in)))
		if err != nil || got.String() != want {
			t.Errorf("%.60q: %.60q, %v, want %.60q", in, got, err, want)
		}
	}
	for _, in := range badReplies() {
		if got, err := readReply(newReader(strings.NewReader(in))); !errors.Is(err, errSyntax) {
			t.Errorf("%.60q: %.60q, %v, want errSyntax", in, got, err)
		}
	}
	for in, want := range map[string]error{"": io.EOF, "220": io.ErrUnexpectedEOF, "220-a\r\n": io.ErrUnexpectedEOF} {
		if _, err := readReply(newReader(strings.NewReader(in))); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

// FuzzReadReply: a reply that is taken is one, is bounded, and what follows it stays unread.
func FuzzReadReply(f *testing.F) {
	for in := range goodReplies() {
		f.Add([]byte(in))
	}
	for _, in := range badReplies() {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newReader(bytes.NewReader(in))
		got, err := readReply(r)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		used := in[:len(in)-len(rest)]
		if !bytes.HasSuffix(in, rest) || used[len(used)-1] != '\n' || bytes.Count(used, []byte("\n")) != len(got.lines) {
			t.Fatalf("%d lines from %q, rest %q", len(got.lines), used, rest)
		}
		if len(got.lines) == 0 || len(got.lines) > maxLines || len(used) > maxReply+maxLine || got.code < 200 || got.code > 599 {
			t.Fatalf("%d lines, %d octets, code %d", len(got.lines), len(used), got.code)
		}
		// Written out again, it reads the same.
		var out bytes.Buffer
		for i, line := range got.lines {
			sep := "-"
			if i == len(got.lines)-1 {
				sep = " "
			}
			out.WriteString(got.String()[:3] + sep + line + "\n")
		}
		again, err := readReply(newReader(&out))
		if err != nil && len(used)+len(got.lines) < maxReply && !bytes.Contains(used, []byte("\r")) {
			t.Fatalf("not read again: %v", err)
		}
		if err == nil && len(again.lines) != len(got.lines) {
			t.Fatalf("read again as %q", again)
		}
	})
}
