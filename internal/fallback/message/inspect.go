package message

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"regexp"
	"strings"
)

// Protection says how a message is encrypted already.
type Protection string

// The protections.
const (
	None    Protection = ""
	OpenPGP Protection = "openpgp" // PGP/MIME (RFC 3156)
	SMIME   Protection = "smime"   // S/MIME (RFC 8551)
)

// errNot says that a message isn't encrypted as a whole.
var errNot = errors.New("not encrypted as a whole")

// maxPart is the size, in octets, of the header of a part of an encrypted
// message, and maxExtra of any of its fields: no room for a letter.
const (
	maxPart  = 4 << 10
	maxExtra = 200
	maxLine  = 1000
)

// Inspect reads a message to its end and says whether its whole content is
// encrypted: a multipart/encrypted whose second part is an OpenPGP message, the
// session key encrypted to public keys, and nothing else anywhere, or a CMS
// EnvelopedData or AuthEnvelopedData for certificates. What isn't certain is
// None: to encrypt twice harms nobody. Errors are those of r.
//
// SECURITY: the packets are parsed, not believed by a word. Words that look
// encrypted, with the attachments in the clear behind them, are the leak that
// this is about. The header is the client's: subject and names stay readable.
func Inspect(r io.Reader) (Protection, error) {
	source := &remember{r: r}
	p, err := inspect(source)
	if source.err != nil {
		return None, source.err
	}
	if err != nil {
		return None, nil
	}
	return p, nil
}

// remember keeps the error of a reader, so that it isn't taken for a fault of
// the message.
type remember struct {
	r   io.Reader
	err error
}

func (r *remember) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func inspect(r io.Reader) (Protection, error) {
	m, err := Read(r)
	if err != nil || len(m.Blank) == 0 {
		return None, errNot
	}
	media, params, err := mediaType(m.Fields)
	if err != nil {
		return None, errNot
	}
	lines := &lineReader{b: bufio.NewReaderSize(m.Body, 64<<10)}
	switch media {
	case "multipart/encrypted":
		if strings.EqualFold(params["protocol"], "application/pgp-encrypted") && params["boundary"] != "" {
			return OpenPGP, inspectPGP(lines, params["boundary"])
		}
	case "application/pkcs7-mime", "application/x-pkcs7-mime":
		switch strings.ToLower(m.first("Content-Transfer-Encoding")) {
		case "base64":
			return SMIME, inspectCMS(base64.NewDecoder(base64.StdEncoding, &body{lines: lines}))
		case "binary":
			return SMIME, inspectCMS(lines.b)
		}
	}
	return None, errNot
}

// mediaType returns the media type of a header that has exactly one.
func mediaType(fields []Field) (media string, params map[string]string, err error) {
	var types, encodings int
	var value string
	for _, f := range fields {
		if f.Is("Content-Type") {
			types++
			value = f.Value()
		}
		if f.Is("Content-Transfer-Encoding") {
			encodings++
		}
	}
	if types != 1 || encodings > 1 {
		return "", nil, errNot
	}
	return mime.ParseMediaType(value)
}

// lineReader reads lines of at most maxLine octets.
type lineReader struct{ b *bufio.Reader }

// next returns a line without its end. After the last line it is io.EOF.
func (l *lineReader) next() ([]byte, error) {
	line, err := readLine(l.b, maxLine)
	if errors.Is(err, io.EOF) && len(line) > 0 {
		err = nil
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// preamble is what Enigmail and Thunderbird write before the first part.
var preamble = regexp.MustCompile(`^This is an OpenPGP/MIME encrypted message \(RFC [0-9]{4}( and [0-9]{4})*\)\.?$`)

// inspectPGP reads the body of a multipart/encrypted.
func inspectPGP(l *lineReader, boundary string) error {
	open, shut := "--"+boundary, "--"+boundary+"--"
	if err := l.until(open, func(s string) bool { return preamble.MatchString(s) }); err != nil {
		return err
	}
	// The first part says the version, and nothing else (RFC 3156, section 4).
	if err := partHeader(l, "application/pgp-encrypted"); err != nil {
		return err
	}
	version := false
	err := l.until(open, func(s string) bool {
		fresh := !version && strings.EqualFold(s, "Version: 1")
		version = version || fresh
		return fresh
	})
	if err != nil || !version {
		return errNot
	}
	if err := partHeader(l, "application/octet-stream"); err != nil {
		return err
	}
	if err := l.until("-----BEGIN PGP MESSAGE-----", nil); err != nil {
		return err
	}
	for {
		line, err := l.next()
		if err != nil || len(line) > maxExtra {
			return errNot
		}
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		if !armorHeader.Match(line) {
			return errNot
		}
	}
	armored := &body{lines: l, end: "-----END PGP MESSAGE-----", checksum: true}
	packets := bufio.NewReader(base64.NewDecoder(base64.StdEncoding, armored))
	if err := inspectPackets(packets); err != nil || !armored.done {
		return errNot
	}
	if err := l.until(shut, nil); err != nil {
		return err
	}
	if err := l.until("", nil); !errors.Is(err, io.EOF) {
		return errNot
	}
	return nil
}

// armorHeader is a header of the armor (RFC 9580, section 6.2.2).
var armorHeader = regexp.MustCompile(`^(Version|Comment|Charset|Hash|MessageID): `)

// until reads up to the line end, before which are only blank lines and those
// that allowed permits. It is io.EOF where end doesn't come.
func (l *lineReader) until(end string, allowed func(string) bool) error {
	for {
		line, err := l.next()
		if err != nil {
			return err
		}
		switch s := strings.TrimRight(string(line), " \t"); {
		case s == end && end != "":
			return nil
		case s == "" || allowed != nil && allowed(s):
		default:
			return errNot
		}
	}
}

// partHeader reads the header of a part, which has this media type, is 7bit,
// and has no room for anything else.
func partHeader(l *lineReader, want string) error {
	var text bytes.Buffer
	for {
		line, err := l.next()
		if err != nil || text.Len() > maxPart {
			return errNot
		}
		if len(line) == 0 {
			break
		}
		text.Write(append(bytes.Clone(line), "\r\n"...))
	}
	m, err := Read(&text)
	if err != nil {
		return errNot
	}
	if rest, err := io.ReadAll(m.Body); err != nil || len(rest) > 0 {
		return errNot
	}
	for _, f := range m.Fields {
		if !strings.HasPrefix(strings.ToLower(f.Name), "content-") || len(f.Raw) > maxExtra {
			return errNot
		}
		if f.Is("Content-Transfer-Encoding") &&
			!strings.EqualFold(f.Value(), "7bit") && !strings.EqualFold(f.Value(), "8bit") {
			return errNot
		}
	}
	if media, _, err := mediaType(m.Fields); err != nil || media != want {
		return errNot
	}
	return nil
}

// body reads lines of base64 and nothing else. With an end it reads to this
// line, before which a checksum may stand.
type body struct {
	lines    *lineReader
	end      string
	checksum bool
	rest     []byte
	done     bool
}

func (b *body) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.done {
			return 0, io.EOF
		}
		line, err := b.lines.next()
		if errors.Is(err, io.EOF) && b.end == "" {
			b.done = true
			continue
		}
		if err != nil {
			return 0, errNot
		}
		line = bytes.TrimRight(line, " \t")
		switch {
		case b.end != "" && string(line) == b.end:
			b.done = true
		case b.checksum && len(line) == 5 && line[0] == '=' && isBase64(line[1:]):
			// The next line has to be the end.
			if line, err = b.lines.next(); err != nil || string(bytes.TrimRight(line, " \t")) != b.end {
				return 0, errNot
			}
			b.done = true
		case !isBase64(line):
			return 0, errNot
		default:
			b.rest = line
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func isBase64(line []byte) bool {
	return !bytes.ContainsFunc(line, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') &&
			c != '+' && c != '/' && c != '='
	})
}

// The packets of an encrypted message (RFC 9580, section 5; 20 is GnuPG's).
const (
	tagPKESK   = 1
	tagMarker  = 10
	tagSEIPD   = 18
	tagAEAD    = 20
	tagPadding = 21
)

// minEncrypted is what the least of encrypted messages has: a prefix, a literal
// packet and a tag.
const minEncrypted = 1 + 18 + 8 + 22

// inspectPackets reads an OpenPGP message to its end: session keys encrypted to
// public keys, then data encrypted with integrity protection.
func inspectPackets(r *bufio.Reader) error {
	keys := 0
	for {
		tag, size, err := packetHeader(r)
		if err != nil {
			return errNot
		}
		switch tag {
		case tagMarker, tagPadding:
			if size < 0 || size > maxPart {
				return errNot
			}
			if err := discard(r, size); err != nil {
				return err
			}
		case tagPKESK:
			// Version, whose key, algorithm, and at least 32 octets of key.
			if size < 1+8+1+32 || size > 64<<10 {
				return errNot
			}
			version, err := r.ReadByte()
			if err != nil || version != 3 && version != 6 {
				return errNot
			}
			if err := discard(r, size-1); err != nil {
				return err
			}
			keys++
		case tagSEIPD, tagAEAD:
			version, err := r.ReadByte()
			known := version == 1 || tag == tagSEIPD && version == 2
			if keys == 0 || err != nil || !known {
				return errNot
			}
			return lastPacket(r, size)
		default:
			return errNot
		}
	}
}

// lastPacket reads what is left of a packet of size octets, -1 for one in
// parts, of which one octet has been read, and wants nothing behind it.
func lastPacket(r *bufio.Reader, size int64) error {
	total := int64(0)
	switch {
	case size >= 0:
		total = size
		if err := discard(r, size-1); err != nil {
			return err
		}
	default:
		// RFC 9580, section 4.2.1.4: parts, each with its length before it.
		part := -size - 1
		for more := true; ; {
			if err := discard(r, part); err != nil {
				return err
			}
			total += part
			if !more {
				break
			}
			var err error
			if part, more, err = newLength(r); err != nil {
				return errNot
			}
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) || total < minEncrypted {
		return errNot
	}
	return nil
}

// packetHeader returns tag and length of a packet. A length of -n is that of a
// packet in parts whose first has n octets.
func packetHeader(r *bufio.Reader) (tag byte, size int64, err error) {
	first, err := r.ReadByte()
	if err != nil || first&0x80 == 0 {
		return 0, 0, errNot
	}
	if first&0x40 != 0 {
		size, partial, err := newLength(r)
		if partial {
			size = -size
		}
		return first & 0x3f, size, err
	}
	octets := 1 << (first & 3)
	if octets == 8 { // RFC 9580, section 4.2.2: of indeterminate length
		return 0, 0, errNot
	}
	for range octets {
		c, err := r.ReadByte()
		if err != nil {
			return 0, 0, errNot
		}
		size = size<<8 | int64(c)
	}
	return first >> 2 & 0xf, size, nil
}

// newLength reads a length (RFC 9580, section 4.2.1); more says that another
// follows after so many octets.
func newLength(r *bufio.Reader) (size int64, more bool, err error) {
	first, err := r.ReadByte()
	switch {
	case err != nil:
		return 0, false, errNot
	case first < 192:
		return int64(first), false, nil
	case first < 224:
		second, err := r.ReadByte()
		return int64(first-192)<<8 + int64(second) + 192, false, err
	case first < 255:
		return 1 << (first & 0x1f), true, nil
	}
	for range 4 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, false, errNot
		}
		size = size<<8 | int64(c)
	}
	return size, false, nil
}

// discard reads n octets, which have to be there.
func discard(r io.Reader, n int64) error {
	if n < 0 {
		return errNot
	}
	if _, err := io.CopyN(io.Discard, r, n); err != nil {
		return errNot
	}
	return nil
}
