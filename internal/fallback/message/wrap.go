package message

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"
	"unicode"

	"golang.org/x/text/encoding/htmlindex"
)

// DefaultSubject is what the outside of an encrypted message shows.
const DefaultSubject = "[...]"

// Wrapping says how a message is written anew.
type Wrapping struct {
	// Subject is the subject on the outside; default DefaultSubject. ASCII, in
	// one line.
	Subject string
	// MessageID replaces the message's on the outside, or is it where the message
	// has none; "" leaves it as it is. See Key.MessageID.
	MessageID string
	// Extra are fields to be added on the outside: "Name: value", one line each,
	// without line ends.
	Extra []string
}

// outside names the fields that stay readable. All others are inside only;
// those of MIME are the content's (RFC 9788 calls them structural). Of lists
// it has the fields of RFC 2369, 2919 and 8058, not all that begin with
// "List-".
var outside = map[string]bool{
	"from": true, "to": true, "cc": true, "date": true, "message-id": true,
	"in-reply-to": true, "references": true, "reply-to": true, "auto-submitted": true,
	"list-id": true, "list-help": true, "list-unsubscribe": true, "list-subscribe": true,
	"list-post": true, "list-owner": true, "list-archive": true, "list-unsubscribe-post": true,
}

// gone names the fields that are neither outside nor inside. Bcc is nobody's
// business, the signatures sign what is no longer there, and HP-Outer would
// speak of another outside.
var gone = map[string]bool{
	"bcc": true, "resent-bcc": true, "return-path": true, "hp-outer": true,
	"dkim-signature": true, "domainkey-signature": true, "arc-seal": true,
	"arc-message-signature": true, "arc-authentication-results": true,
}

// kind says where a field goes.
type kind int

const (
	hidden  kind = iota // inside only
	shown               // inside and outside
	content             // with the content
	dropped             // nowhere
)

func kindOf(name string) kind {
	name = strings.ToLower(name)
	switch {
	case outside[name]:
		return shown
	case name == "mime-version" || strings.HasPrefix(name, "content-"):
		return content
	case gone[name]:
		return dropped
	}
	return hidden
}

// outer returns the fields of the outside, each with CRLF at its end, without
// those of MIME.
func (m *Message) outer(w Wrapping) [][]byte {
	subject := w.Subject
	if subject == "" {
		subject = DefaultSubject
	}
	subject = "Subject: " + oneLine(subject) + "\r\n"
	var fields [][]byte
	hasSubject, hasID := false, false
	for _, f := range m.Fields {
		switch {
		case f.Is("Subject"):
			if !hasSubject {
				fields = append(fields, []byte(subject))
			}
			hasSubject = true
		case f.Is("Message-ID") && w.MessageID != "":
			if !hasID {
				fields = append(fields, []byte("Message-ID: "+oneLine(w.MessageID)+"\r\n"))
			}
			hasID = true
		case kindOf(f.Name) == shown:
			fields = append(fields, crlf(f))
		}
	}
	if !hasSubject {
		fields = append(fields, []byte(subject))
	}
	if !hasID && w.MessageID != "" {
		fields = append(fields, []byte("Message-ID: "+oneLine(w.MessageID)+"\r\n"))
	}
	for _, extra := range w.Extra {
		fields = append(fields, []byte(oneLine(extra)+"\r\n"))
	}
	return fields
}

// WriteOutside writes the header of the new message but for the fields of
// MIME: whoever encrypts adds them, and the empty line. It doesn't touch the
// content. Errors are those of dst.
func (m *Message) WriteOutside(dst io.Writer, w Wrapping) error {
	_, err := dst.Write(bytes.Join(m.outer(w), nil))
	return err
}

// WriteInside writes the MIME entity that is to be encrypted: a
// multipart/mixed with the message's own header fields, what the outside shows
// (HP-Outer), a part that shows the subject to clients that know no protected
// header fields, and the content: its MIME fields and its octets as they are.
// It reads the content to its end.
//
// Errors are those of dst and Body. What was written before is no whole entity
// and must not be sent.
func (m *Message) WriteInside(dst io.Writer, w Wrapping) error {
	var random [16]byte
	rand.Read(random[:]) // never fails
	boundary := "=_" + hex.EncodeToString(random[:])

	var h bytes.Buffer
	fmt.Fprintf(&h, "Content-Type: multipart/mixed; boundary=%q;\r\n"+
		" hp=\"cipher\"; protected-headers=\"v1\"\r\n", boundary)
	// A container says the encoding of what is in it (RFC 2045, section 6.4).
	encoding := strings.ToLower(m.first("Content-Transfer-Encoding"))
	if encoding == "8bit" || encoding == "binary" {
		h.WriteString("Content-Transfer-Encoding: " + encoding + "\r\n")
	}
	var inner [][]byte // the fields of the content, as they are
	for _, f := range m.Fields {
		switch kindOf(f.Name) {
		case shown, hidden:
			h.Write(crlf(f))
		case content:
			inner = append(inner, f.Raw)
		}
	}
	for _, f := range m.outer(w) {
		h.WriteString("HP-Outer: ")
		h.Write(f)
	}
	h.WriteString("\r\n")

	if subject := m.first("Subject"); subject != "" {
		h.WriteString("--" + boundary + "\r\n" +
			"Content-Type: text/plain; charset=\"utf-8\"; hp-legacy-display=\"1\";\r\n" +
			" protected-headers=\"v1\"\r\n" +
			"Content-Disposition: inline\r\n" +
			"Content-Transfer-Encoding: quoted-printable\r\n\r\n")
		q := quotedprintable.NewWriter(&h)
		// Up to the empty line, clients that know the parameter leave it out: RFC
		// 9788's Legacy Display Element.
		io.WriteString(q, "Subject: "+readable(subject)+"\r\n\r\n")
		q.Close()
		h.WriteString("\r\n")
	}
	h.WriteString("--" + boundary + "\r\n")
	h.Write(bytes.Join(inner, nil))
	switch {
	case len(inner) > 0 && !bytes.HasSuffix(h.Bytes(), []byte("\n")):
		h.WriteString("\r\n\r\n") // the message ended in this field
	case len(m.Blank) > 0:
		h.Write(m.Blank)
	default:
		h.WriteString("\r\n")
	}
	if _, err := dst.Write(h.Bytes()); err != nil {
		return err
	}
	if _, err := io.Copy(dst, m.Body); err != nil {
		return err
	}
	_, err := io.WriteString(dst, "\r\n--"+boundary+"--\r\n")
	return err
}

// first returns the value of the first field of this name, "" without one.
func (m *Message) first(name string) string {
	for _, f := range m.Fields {
		if f.Is(name) {
			return f.Value()
		}
	}
	return ""
}

// crlf returns a field whose lines end in CRLF, without lines that are blank
// and without blanks before the colon: a reader could take either for the end
// of the header. What no header may have, NUL and a CR by itself, is a blank.
func crlf(f Field) []byte {
	var b []byte
	_, value, _ := bytes.Cut(f.Raw, []byte(":"))
	for line := range bytes.Lines(append([]byte(f.Name+":"), value...)) {
		line = bytes.TrimRight(line, "\r\n")
		line = bytes.ReplaceAll(bytes.ReplaceAll(line, []byte{0}, []byte(" ")), []byte("\r"), []byte(" "))
		if len(bytes.TrimLeft(line, " \t")) > 0 {
			b = append(append(b, line...), '\r', '\n')
		}
	}
	return b
}

// oneLine takes line ends and other control characters out.
func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

// readable decodes a subject (RFC 2047) to UTF-8, in one line. Of a charset
// that nobody knows it takes what is ASCII.
func readable(subject string) string {
	d := mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		e, err := htmlindex.Get(charset)
		if err != nil {
			text, err := io.ReadAll(r)
			return strings.NewReader(strings.ToValidUTF8(string(text), "?")), err
		}
		return e.NewDecoder().Reader(r), nil
	}}
	if text, err := d.DecodeHeader(subject); err == nil {
		subject = text
	}
	return oneLine(subject)
}
