package rig

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// From says who sent a packet.
type From byte

// The two sides of a milter connection, as they are marked in a session's text.
const (
	FromMTA    From = '>'
	FromMilter From = '<'
)

// maxPacket is more than any MTA sends: body chunks are 64 KiB, Postfix takes headers up to 100 KiB.
const maxPacket = 1 << 20

// A Packet is one packet of the milter protocol, version 6. Its text is a line: the sender's mark, the command or
// response letter, and what the letter carries, strings quoted as in Go:
//
//	> O 6 000001ff 001fffff
//	< O 6 00000171 000003d3 2 "i {mail_addr}"
//	> D M "i" "4bX"
//	> C "localhost" 4 2525 "127.0.0.1"
//	> M "<alice@sender.test>" "SIZE=20"
//	> B raw "hello\r\n"
//	< m 1 "Subject" ""
//	< c
//
// O is version, actions, protocol and (milter) macro stage and names; m and i have an index. "raw" is a packet whose
// content isn't of the usual form, as that of a body always.
type Packet struct {
	From From
	Kind byte
	Data []byte
}

// A Session is what was said on one milter connection, in order.
type Session []Packet

// ReadPacket reads one packet of the wire. io.EOF means that the peer closed between two packets.
func ReadPacket(r io.Reader, from From) (Packet, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return Packet{}, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxPacket {
		return Packet{}, fmt.Errorf("milter packet of length %d", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return Packet{}, fmt.Errorf("milter packet: %w", noEOF(err))
	}
	return Packet{from, b[0], b[1:]}, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write sends the packet in one piece.
func (p Packet) Write(w io.Writer) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(p.Data)+1))
	b = append(b, p.Kind)
	_, err := w.Write(append(b, p.Data...))
	return err
}

// String returns the packet's line.
func (p Packet) String() string {
	line := string([]byte{byte(p.From), ' ', p.Kind})
	if len(p.Data) == 0 {
		return line
	}
	if args, ok := p.args(); ok {
		return line + " " + args
	}
	return line + " raw " + strconv.Quote(string(p.Data))
}

// args returns the text of the content, or false when it isn't of the kind's usual form.
func (p Packet) args() (string, bool) {
	d := p.Data
	var head []string
	switch {
	case p.Kind == 'O':
		if len(d) < 12 {
			return "", false
		}
		u := binary.BigEndian.Uint32
		head = append(head, strconv.FormatUint(uint64(u(d)), 10), fmt.Sprintf("%08x", u(d[4:])), fmt.Sprintf("%08x", u(d[8:])))
		d = d[12:]
		for len(d) > 4 {
			names, rest, ok := strings.Cut(string(d[4:]), "\x00")
			if !ok {
				return "", false
			}
			head = append(head, strconv.FormatUint(uint64(u(d)), 10), strconv.Quote(names))
			d = []byte(rest)
		}
		return strings.Join(head, " "), len(d) == 0
	case p.Kind == 'C' && p.From == FromMTA:
		name, rest, ok := strings.Cut(string(d), "\x00")
		if !ok || rest == "" {
			return "", false
		}
		head = append(head, strconv.Quote(name), rest[:1])
		if rest == "U" {
			return strings.Join(head, " "), true
		}
		if len(rest) < 3 || !strings.Contains("46L", rest[:1]) {
			return "", false
		}
		head = append(head, strconv.Itoa(int(binary.BigEndian.Uint16([]byte(rest[1:3])))))
		d = []byte(rest[3:])
	case p.Kind == 'D' && p.From == FromMTA:
		if strings.IndexByte("CHMRTLNBEDU", d[0]) < 0 {
			return "", false
		}
		head = append(head, string(d[:1]))
		d = d[1:]
	case (p.Kind == 'm' || p.Kind == 'i') && p.From == FromMilter && len(d) > 4:
		head = append(head, strconv.FormatUint(uint64(binary.BigEndian.Uint32(d)), 10))
		d = d[4:]
	case p.Kind == 'B' && p.From == FromMTA, p.Kind == 'b' && p.From == FromMilter:
		return "", false
	}
	if len(d) > 0 {
		text, ok := strings.CutSuffix(string(d), "\x00")
		if !ok {
			return "", false
		}
		for _, s := range strings.Split(text, "\x00") {
			head = append(head, strconv.Quote(s))
		}
	} else if p.Kind == 'C' {
		return "", false
	}
	return strings.Join(head, " "), true
}

// String returns the session's text, to be read by ParseSession.
func (s Session) String() string {
	var b strings.Builder
	for _, p := range s {
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}

// ParseSession reads a session's text. Empty lines and lines that begin with # are comments.
func ParseSession(r io.Reader) (Session, error) {
	var s Session
	in := bufio.NewScanner(r)
	in.Buffer(nil, 8*maxPacket)
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		p, err := parsePacket(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		s = append(s, p)
	}
	return s, in.Err()
}

func parsePacket(line string) (Packet, error) {
	if len(line) < 3 || line[1] != ' ' || (line[0] != '>' && line[0] != '<') {
		return Packet{}, fmt.Errorf("packet %q: want > or <, a blank and a letter", line)
	}
	p := Packet{From: From(line[0]), Kind: line[2]}
	words, err := splitWords(line[3:])
	if err != nil {
		return Packet{}, fmt.Errorf("packet %q: %w", line, err)
	}
	if len(words) == 0 {
		return p, nil
	}
	if !words[0].quoted && words[0].text == "raw" {
		if len(words) != 2 || !words[1].quoted {
			return Packet{}, fmt.Errorf("packet %q: want one string after raw", line)
		}
		p.Data = []byte(words[1].text)
		return p, nil
	}
	for i, w := range words {
		if w.quoted {
			p.Data = append(p.Data, w.text+"\x00"...)
			continue
		}
		base, bits := 10, 32
		switch {
		case p.Kind == 'D' && i == 0, p.Kind == 'C' && i == 1:
			p.Data = append(p.Data, w.text...)
			continue
		case p.Kind == 'C':
			bits = 16
		case p.Kind == 'O' && (i == 1 || i == 2):
			base = 16
		}
		n, err := strconv.ParseUint(w.text, base, bits)
		if err != nil {
			return Packet{}, fmt.Errorf("packet %q: %w", line, err)
		}
		if bits == 16 {
			p.Data = binary.BigEndian.AppendUint16(p.Data, uint16(n))
		} else {
			p.Data = binary.BigEndian.AppendUint32(p.Data, uint32(n))
		}
	}
	return p, nil
}

// A word is a quoted string, unquoted, or a bare word.
type word struct {
	text   string
	quoted bool
}

func splitWords(s string) ([]word, error) {
	var words []word
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if s[0] != '"' {
			w, rest, _ := strings.Cut(s, " ")
			words = append(words, word{text: w})
			s = rest
			continue
		}
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			return nil, err
		}
		text, err := strconv.Unquote(q)
		if err != nil {
			return nil, err
		}
		words = append(words, word{text, true})
		s = s[len(q):]
	}
	return words, nil
}
