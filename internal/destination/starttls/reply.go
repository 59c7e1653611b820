package starttls

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of a reply. RFC 5321, section 4.5.3.1.5, allows 512 octets a line and no number of lines; hosts that write
// essays in their banners exist, hosts that never end must not hold us.
const (
	maxLine  = 4096 // octets with the line end; the size of the reader, which is what enforces it
	maxLines = 256
	maxReply = 64 << 10 // octets of all lines
)

// reply is a whole SMTP reply.
type reply struct {
	code  int
	lines []string // text after the code, at least one line
}

// String returns the reply as one line, as a log wants it.
func (r reply) String() string { return fmt.Sprintf("%d %s", r.code, strings.Join(r.lines, " / ")) }

// errSyntax is a reply that isn't SMTP's.
var errSyntax = errors.New("not an SMTP reply")

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, maxLine) }

// readReply reads one reply from r, which is of newReader, and consumes nothing after its last line end.
func readReply(r *bufio.Reader) (reply, error) {
	var got reply
	size := 0
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return reply{}, fmt.Errorf("%w: line longer than %d octets", errSyntax, maxLine)
		case errors.Is(err, io.EOF) && len(line)+size > 0:
			return reply{}, fmt.Errorf("within a reply: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return reply{}, err
		}
		code, text, more, err := parseLine(strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r"))
		if err != nil {
			return reply{}, err
		}
		// RFC 5321, section 4.2.1: the code is the same on every line.
		if len(got.lines) > 0 && code != got.code {
			return reply{}, fmt.Errorf("%w: code %d after %d", errSyntax, code, got.code)
		}
		got.code, got.lines = code, append(got.lines, text)
		size += len(line)
		switch {
		case !more:
			return got, nil
		case len(got.lines) == maxLines:
			return reply{}, fmt.Errorf("%w: more than %d lines", errSyntax, maxLines)
		case size > maxReply:
			return reply{}, fmt.Errorf("%w: more than %d octets", errSyntax, maxReply)
		}
	}
}

// parseLine takes "250-TEXT", "250 TEXT" and "250" apart (RFC 5321, section 4.2).
func parseLine(line string) (code int, text string, more bool, err error) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, "", false, fmt.Errorf("%w: %q", errSyntax, printable(line))
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, "", false, nil
	}
	switch line[3] {
	case ' ':
		return code, line[4:], false, nil
	case '-':
		return code, line[4:], true, nil
	}
	return 0, "", false, fmt.Errorf("%w: %q", errSyntax, printable(line))
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
