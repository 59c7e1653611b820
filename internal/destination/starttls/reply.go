package starttls

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"tlsonly/internal/profile"
)

// maxReply is how many octets of one reply are read. MTAs have no such limit: they
// read on until their time is over. Hosts write essays in their banners; one that
// never ends must not hold us.
const maxReply = 1 << 20

// mtaLine is how many octets of a line both MTAs take at once: Postfix leaves the
// rest out (line_length_limit), Sendmail reads it as another line (MAXLINE counts
// the octet at the end of a text, too).
const (
	postfixLine  = 2048
	postfixRead  = 4096 // what Postfix reads at once
	sendmailLine = 2047
)

// reply is a whole SMTP reply, as an MTA reads it.
type reply struct {
	code  int      // of the last line
	lines []string // text of the lines that have a code, at least one
	words []string // the EHLO keywords that the MTA sees in it, in upper case
	long  bool     // a line is longer than Postfix's buffer
}

// String returns the reply as one line, as a log wants it.
func (r reply) String() string { return fmt.Sprintf("%03d %s", r.code, strings.Join(r.lines, " / ")) }

// errSyntax is a reply that isn't SMTP's.
var errSyntax = errors.New("not an SMTP reply")

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 4096) }

// reading is a reply that is being read, one line after the other.
type reading interface {
	// line takes a line with its end and reports whether the reply ends with it.
	line(line []byte) bool
	reply() reply
}

// readings returns what reads a reply as the MTAs of a dialect do.
func readings(d profile.Dialect) []reading {
	switch d {
	case profile.Postfix:
		return []reading{new(postfixReading)}
	case profile.Sendmail:
		return []reading{new(sendmailReading)}
	}
	return []reading{new(postfixReading), new(sendmailReading)}
}

// readReply reads one reply from r as the MTAs of a dialect do, and consumes
// nothing after its last line end. What is no reply is skipped, as they do.
func readReply(r *bufio.Reader, d profile.Dialect) (reply, error) {
	all := readings(d)
	var skipped string
	for size := 0; ; {
		line, err := readLine(r, maxReply-size)
		size += len(line)
		switch {
		case err != nil && skipped != "":
			return reply{}, fmt.Errorf("%w: %q, then %w", errSyntax, skipped, unexpected(err))
		case errors.Is(err, io.EOF) && size > 0:
			return reply{}, fmt.Errorf("within a reply: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return reply{}, err
		}
		if _, _, _, ok := parseLine(line); !ok && skipped == "" {
			skipped = printable(string(line))
		}
		ended := 0
		for _, one := range all {
			if one.line(line) {
				ended++
			}
		}
		switch ended {
		case 0:
		case len(all):
			return agreed(all)
		default:
			return reply{}, fmt.Errorf("%w that all MTAs read alike: %q", errSyntax, printable(string(line)))
		}
	}
}

// unexpected is the error of a connection that ends within a reply.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// agreed is what all see in a reply.
func agreed(all []reading) (reply, error) {
	found := all[0].reply()
	for _, other := range all[1:] {
		o := other.reply()
		if o.code != found.code {
			return reply{}, fmt.Errorf("%w that all MTAs read alike: %s", errSyntax, printable(found.String()))
		}
		found.words = slices.DeleteFunc(found.words, func(w string) bool { return !slices.Contains(o.words, w) })
	}
	return found, nil
}

// readLine reads a line with its end, of at most limit octets.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return line, fmt.Errorf("%w: more than %d octets", errSyntax, maxReply)
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		}
	}
}

// parseLine takes "250-TEXT", "250 TEXT" and "250" apart (RFC 5321, section 4.2);
// ok is false for what is none of these.
func parseLine(line []byte) (code int, text string, more, ok bool) {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) < 3 || !digit(line[0]) || !digit(line[1]) || !digit(line[2]) {
		return 0, "", false, false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, "", false, true
	}
	return code, string(line[4:]), line[3] == '-', line[3] == '-' || line[3] == ' '
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// cut ends a text where a NUL is, as all do that is written in C.
func cut(text []byte) []byte {
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return text[:i]
	}
	return text
}

// postfixReading is how Postfix reads: a line that is no reply is skipped, but its
// words count; the code is that of the last line, whatever it is; and of all text
// together no more is looked at than of one line.
type postfixReading struct {
	got    reply
	stored [][]byte
	size   int
}

func (p *postfixReading) line(line []byte) bool {
	p.got.long = p.got.long || len(line) > postfixRead
	if len(line) > postfixLine {
		line = line[:postfixLine]
	} else {
		line = bytes.TrimRight(bytes.TrimSuffix(line, []byte("\n")), "\r")
	}
	text := slices.Clone(cut(line))
	for i, c := range text {
		if c < ' ' || c == 0x7f {
			text[i] = '?' // a tab, too
		}
	}
	if p.size < postfixLine {
		p.stored = append(p.stored, text)
		p.size += len(text) + 1
	}
	code, words, more, ok := parseLine(text)
	if !ok {
		return false
	}
	p.got.code, p.got.lines = code, append(p.got.lines, words)
	return !more
}

func (p *postfixReading) reply() reply {
	first := true
	for _, text := range p.stored {
		rest := strings.TrimLeft(string(text), "- ")
		end := strings.IndexAny(rest, "- ")
		if end < 0 {
			continue
		}
		rest = strings.TrimLeft(rest[end+1:], " \t=")
		if end = strings.IndexAny(rest, " \t="); end >= 0 {
			rest = rest[:end]
		}
		switch {
		case rest == "":
		case first: // RFC 5321, section 4.1.1.1: the host's name
			first = false
		default:
			p.got.words = append(p.got.words, strings.ToUpper(rest))
		}
	}
	return p.got
}

// sendmailReading is how Sendmail reads: a line that is no reply is skipped, one
// with a code below 100 doesn't end a reply, and a long line is several.
type sendmailReading struct {
	got   reply
	begun bool // a line was there
}

func (s *sendmailReading) line(line []byte) bool {
	for len(line) > 0 {
		part := line[:min(len(line), sendmailLine)]
		line = line[len(part):]
		if s.part(cut(part)) {
			return true
		}
	}
	return false
}

func (s *sendmailReading) part(text []byte) bool {
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	code, words, more, ok := parseLine(text)
	if !ok {
		return false
	}
	if s.begun && len(text) > 4 {
		word := string(text[4:])
		if end := strings.IndexAny(word, " ="); end >= 0 {
			word = word[:end]
		}
		s.got.words = append(s.got.words, strings.ToUpper(word))
	}
	s.begun = true
	s.got.lines = append(s.got.lines, words)
	if code < 100 {
		return false
	}
	s.got.code = code
	return !more
}

func (s *sendmailReading) reply() reply { return s.got }
