// Package message cuts a message into header fields and content, and writes
// it anew as two halves: the outside, which everybody on the way may read,
// and the inside, which is to be encrypted. It encrypts nothing itself.
//
// Octets are cut and never made anew: what is inside is the content as the
// sender's client wrote it, so that signatures in it stay valid. The content
// is read as a stream and never kept: only the header is, up to MaxHeader.
//
// It follows RFC 5322 (messages), 2045 to 2047 (MIME), 9788 (protected header
// fields) and, to recognise what is encrypted already, 3156, 9580, 8551 and
// 5652.
//
// SECURITY: what is outside is a list of names (outside). A field that isn't
// on it, a line that is no field, a second header: all of that is inside.
package message

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// MaxHeader is the size of the header, in octets, up to which Read takes a
// message. Postfix takes 100 KiB of one field and 1000 of header_checks' lines.
const MaxHeader = 2 << 20

// ErrHeader says that a header is longer than MaxHeader.
var ErrHeader = fmt.Errorf("header longer than %d octets", MaxHeader)

// Field is a header field as it stands in the message.
type Field struct {
	// Name is what stands before the colon, in the case of the message.
	Name string
	// Raw is the whole field: name, colon, value, and all its line ends. The
	// last line end is missing where the message ends in the header.
	Raw []byte
}

// Is reports whether the field has this name; case doesn't matter.
func (f Field) Is(name string) bool { return strings.EqualFold(f.Name, name) }

// Value returns what stands behind the colon, in one line: line ends are
// taken out (RFC 5322, section 2.2.3), and blanks around it.
func (f Field) Value() string {
	_, value, _ := bytes.Cut(f.Raw, []byte(":"))
	s := strings.NewReplacer("\r\n", "", "\n", "").Replace(string(value))
	return strings.Trim(s, " \t\r")
}

// Message is a message whose header has been read.
type Message struct {
	Fields []Field
	// Blank is the line between header and content, empty where there is none:
	// the message ends in the header, or the content begins with a line that is
	// no field.
	Blank []byte
	// Body is the content. It can be read once.
	Body io.Reader
}

// Read reads the header of a message: octets as after DATA, without the dots
// of SMTP. Lines end in CRLF or LF. As MTAs do, it ends the header at the first
// line that is no field, too; this line then belongs to the content.
//
// Errors are ErrHeader and those of r.
func Read(r io.Reader) (*Message, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	m := &Message{}
	total := 0
	for {
		line, err := readLine(b, MaxHeader-total)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		total += len(line)
		last := len(m.Fields) - 1
		switch {
		case len(line) == 0:
			m.Body = b
			return m, nil
		case string(line) == "\r\n" || string(line) == "\n":
			m.Blank, m.Body = line, b
			return m, nil
		case (line[0] == ' ' || line[0] == '\t') && last >= 0:
			m.Fields[last].Raw = append(m.Fields[last].Raw, line...)
		default:
			name, ok := fieldName(line)
			if !ok {
				m.Body = io.MultiReader(bytes.NewReader(line), b)
				return m, nil
			}
			m.Fields = append(m.Fields, Field{Name: name, Raw: line})
		}
	}
}

// readLine returns a line with its line end, or what there is before EOF; most
// is the most it may have.
func readLine(b *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		if len(line)+len(part) > most {
			return nil, ErrHeader
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// fieldName returns the name of the field that line begins. Blanks before the
// colon are obsolete and taken (RFC 5322, section 4.5).
func fieldName(line []byte) (string, bool) {
	name, _, found := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	bad := func(c rune) bool { return c <= ' ' || c > '~' }
	if !found || len(name) == 0 || bytes.ContainsFunc(name, bad) {
		return "", false
	}
	return string(name), true
}

// All returns the fields of this name, in the order of the message.
func (m *Message) All(name string) []Field {
	var all []Field
	for _, f := range m.Fields {
		if f.Is(name) {
			all = append(all, f)
		}
	}
	return all
}

// Remove takes all fields of this name out and reports whether there was one.
func (m *Message) Remove(name string) bool {
	before := len(m.Fields)
	m.Fields = slices.DeleteFunc(m.Fields, func(f Field) bool { return f.Is(name) })
	return len(m.Fields) < before
}

// Hash gives messages their keys: it is written the octets after DATA, once
// for all recipients.
type Hash struct{ data hash.Hash }

// NewHash returns the Hash of an empty message.
func NewHash() *Hash { return &Hash{sha256.New()} }

// Write adds octets of the message. It never fails.
func (h *Hash) Write(p []byte) (int, error) { return h.data.Write(p) }

// Key is what one message from one sender to one recipient is known by: an MTA
// that tries again sends the same sender, recipient and octets.
type Key [sha256.Size]byte

// Key returns the key of what was written so far, between these two paths.
func (h *Hash) Key(sender, recipient string) Key {
	k := sha256.New()
	for _, part := range []string{sender, recipient, string(h.data.Sum(nil))} {
		// With their lengths, so that no two triples are the same octets.
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		k.Write(size[:])
		k.Write([]byte(part))
	}
	return Key(k.Sum(nil))
}

// String returns the key in hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// MessageID returns the Message-ID, in angle brackets, of the copy with this
// key: the same however often it is made. Domain is the site's, and secret
// something that the site alone knows.
//
// SECURITY: without the secret, whoever guesses a message would see in the
// Message-ID that the guess is right.
func (k Key) MessageID(secret []byte, domain string) string {
	id := hmac.New(sha256.New, secret)
	id.Write([]byte("Message-ID "))
	id.Write(k[:])
	return "<" + hex.EncodeToString(id.Sum(nil)[:16]) + ".tlsonly@" + domain + ">"
}
