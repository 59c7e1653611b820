package aliases

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxLine bounds what a logical line may take; Postfix has no bound.
	maxLine = 1 << 20
	// sendmailLine is what Sendmail's buffer takes of a logical line (BUFSIZ, with the newline); a longer one is left out.
	sendmailLine = 8192 - 2
)

// Lines goes through the logical lines of a Postfix table (aliases(5), virtual(5)): blank lines and comments are left out,
// and a line that begins with a blank continues the one before, comments between them or not. The faults are lines that
// continue nothing. An error is one of reading, or a line longer than 1 MiB.
func Lines(r io.Reader, name string, yield func(text string, line int)) ([]Fault, error) {
	p := parser{name: name, dialect: Postfix}
	err := p.lines(r, yield)
	return p.faults, err
}

// lines joins physical lines to logical ones, in the parser's dialect.
func (p *parser) lines(r io.Reader, yield func(text string, line int)) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var b []byte    // the logical line read so far
	start := 0      // where it begins
	joined := false // the line before ended with Sendmail's backslash
	flush := func() {
		text, line := string(b), start
		b, start = b[:0], 0
		if line == 0 {
			return
		}
		if p.dialect == Sendmail && len(text) > sendmailLine {
			p.fault(line, "line longer than %d octets: left out by Sendmail", sendmailLine)
			return
		}
		yield(text, line)
	}
	for n := 1; ; n++ {
		s, err := readLine(in, maxLine-len(b))
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: line %d: %w", p.name, n, err)
		}
		last := err != nil
		text := strings.TrimRight(s, "\r\n")
		blank := text != "" && isBlank(text[0])
		bare := strings.TrimLeft(text, blanks)
		switch {
		case joined:
			b = append(b, text...)
		case p.dialect != Sendmail && (bare == "" || bare[0] == '#'):
			// Doesn't end the line before: what is indented may still continue it.
		case blank && start > 0:
			b = append(append(b, ' '), text...)
		case p.dialect == Sendmail && (bare == "" || text[0] == '#'):
			flush()
		case blank:
			p.fault(n, "line begins with a blank and continues nothing: left out by the MTA")
		default:
			flush()
			start = n
			b = append(b, text...)
		}
		joined = false
		if p.dialect == Sendmail && start > 0 && strings.HasSuffix(text, `\`) && !last {
			b = b[:len(b)-1]
			joined = true
		}
		if last {
			flush()
			return nil
		}
	}
}

// readLine reads a line with its newline, of at most limit octets.
func readLine(in *bufio.Reader, limit int) (string, error) {
	part, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) && len(part) <= limit {
		return string(part), err
	}
	b := append([]byte(nil), part...)
	for errors.Is(err, bufio.ErrBufferFull) && len(b) <= limit {
		part, err = in.ReadSlice('\n')
		b = append(b, part...)
	}
	if len(b) > limit {
		return "", fmt.Errorf("longer than %d octets", maxLine)
	}
	return string(b), err
}
