// Package received reads the Received: chain of a message and tells of each hop whether it was encrypted, and how that is
// known. It follows RFC 5321, section 4.4 (the clauses), RFC 5322 (comments, folding), RFC 3848 and RFC 6531 (the keywords
// after "with"), RFC 8314, section 4.3 (the tls clause), and the comments that Postfix, Exim, Sendmail, Exchange, Gmail, qmail,
// OpenSMTPD, Courier and Haraka write. Of any other server a version of TLS or
// the name of a suite counts, in the with clause or in a comment, unless the line
// says that there was none. What the client said of itself doesn't. Whether a
// message should have been encrypted is not decided here.
//
// A hop is what one server wrote about how it got the message. It is Local where no network was between, Unknown where
// the line doesn't tell.
//
// SECURITY: each line is the word of the server that wrote it. Lines older than the first server one trusts can be
// invented altogether; a chain without a clear hop proves nothing against somebody who forges.
package received

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"net/netip"
	"strings"
	"time"

	"tlsonly/internal/policy"
)

// Security is what a hop's line says of its connection.
type Security string

// The states.
const (
	Encrypted Security = "tls"
	Local     Security = "local"
	Unknown   Security = "unknown"
	Clear     Security = "clear"
)

// Hop is one Received: field.
type Hop struct {
	From     string         `json:"from,omitempty"`    // as the client named itself
	Address  netip.Addr     `json:"address,omitzero"`  // of the client, as the server saw it
	By       string         `json:"by,omitempty"`      // the server
	With     string         `json:"with,omitempty"`    // the protocol
	ID       string         `json:"id,omitempty"`      // the server's queue id
	For      string         `json:"for,omitempty"`     // the recipient
	Time     time.Time      `json:"time,omitzero"`     // when the server took it
	Security Security       `json:"security"`          //
	Known    string         `json:"known"`             // how that is known, in words
	Version  policy.Version `json:"version,omitzero"`  // of TLS, where the line tells
	Cipher   string         `json:"cipher,omitempty"`  //
	Bits     int            `json:"bits,omitempty"`    // strength of the cipher
	Problem  string         `json:"problem,omitempty"` // the line can't be read
}

// Chain is a message's hops, the oldest first.
type Chain struct {
	Hops []Hop `json:"hops"`
	// Weakest is the index of the hop that protects least, local ones aside; -1 when there is none.
	Weakest int `json:"weakest"`
}

// Limits of what is read of a message.
const (
	maxHeader = 4 << 20
	maxField  = 64 << 10
	maxHops   = 500
)

// ErrTooLong reports a header beyond the limits.
var ErrTooLong = errors.New("header too long")

// ErrNoHeader reports that the text doesn't begin with header fields.
var ErrNoHeader = errors.New("no header fields: not a message")

// Read reads a message's header. The body isn't looked at. An mbox "From " line before the header is passed over.
func Read(r io.Reader) (Chain, error) {
	var newestFirst []Hop
	var field []byte
	fields, size := 0, 0
	end := func() error {
		if value, ok := named(field, "received"); ok {
			if len(newestFirst) >= maxHops {
				return ErrTooLong
			}
			newestFirst = append(newestFirst, Parse(value))
		}
		field = field[:0]
		return nil
	}
	in := bufio.NewReader(r)
	for first := true; ; first = false {
		line, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return Chain{}, err
		}
		if size += len(line); size > maxHeader {
			return Chain{}, ErrTooLong
		}
		text := bytes.TrimRight(line, "\r\n")
		switch {
		case len(text) == 0 && (err != nil || !first):
			if e := end(); e != nil {
				return Chain{}, e
			}
			if fields == 0 {
				return Chain{}, ErrNoHeader
			}
			return chain(newestFirst), nil
		case len(text) == 0, first && (bytes.HasPrefix(text, []byte("From ")) || bytes.HasPrefix(text, []byte(">From "))):
		case text[0] == ' ' || text[0] == '\t': // RFC 5322, section 2.2.3: folding
			if len(field)+len(text) <= maxField {
				field = append(field, text...)
			} else if _, ok := named(field, "received"); ok {
				return Chain{}, ErrTooLong
			}
		default:
			if e := end(); e != nil {
				return Chain{}, e
			}
			if bytes.IndexByte(text, ':') <= 0 {
				if fields == 0 {
					return Chain{}, ErrNoHeader
				}
				return chain(newestFirst), nil // the header is over without an empty line
			}
			fields++
			field = append(field, text...)
		}
	}
}

// readLine reads a line of bounded length.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxHeader {
			return nil, ErrTooLong
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if err != nil && !errors.Is(err, io.EOF) {
				err = fmt.Errorf("read header: %w", err)
			}
			return line, err
		}
	}
}

// named returns the value of a field of that name.
func named(field []byte, name string) (string, bool) {
	key, value, ok := bytes.Cut(field, []byte(":"))
	return string(value), ok && strings.EqualFold(string(bytes.TrimRight(key, " \t")), name)
}

func chain(newestFirst []Hop) Chain {
	c := Chain{Weakest: -1, Hops: make([]Hop, 0, len(newestFirst))}
	for i := len(newestFirst) - 1; i >= 0; i-- {
		c.Hops = append(c.Hops, newestFirst[i])
	}
	for i, h := range c.Hops {
		if h.Security != Local && (c.Weakest < 0 || h.weaker(c.Hops[c.Weakest])) {
			c.Weakest = i
		}
	}
	return c
}

// weaker orders hops: in the clear, not known, then by version and bits, those not told last.
func (h Hop) weaker(than Hop) bool {
	rank := func(h Hop) (int, policy.Version, int) {
		switch h.Security {
		case Clear:
			return 0, 0, 0
		case Unknown:
			return 1, 0, 0
		}
		version, bits := h.Version, h.Bits
		if version == 0 {
			version = 0xffff
		}
		if bits == 0 {
			bits = 1 << 30
		}
		return 2, version, bits
	}
	s1, v1, b1 := rank(h)
	s2, v2, b2 := rank(than)
	if s1 != s2 {
		return s1 < s2
	}
	if v1 != v2 {
		return v1 < v2
	}
	return b1 < b2
}

// Security is that of the whole chain: Clear when a hop between hosts was, else Unknown when one is or there is none, else
// Encrypted.
func (c Chain) Security() Security {
	if c.Weakest < 0 {
		for _, h := range c.Hops {
			if h.Security == Local {
				return Encrypted // it never left a machine
			}
		}
		return Unknown
	}
	return c.Hops[c.Weakest].Security
}

// Parse reads the value of one Received: field, folded or not. What can't be read is Unknown and has a Problem.
func Parse(value string) Hop {
	tokens, err := scan(value)
	if err != nil {
		return Hop{Security: Unknown, Known: "the line can't be read", Problem: err.Error()}
	}
	f := clauses(tokens)
	h := Hop{From: f.from.text(), By: f.by.text(), With: f.with.words(), ID: f.id.text(), For: strings.Trim(f.forr.text(), "<>")}
	h.Address = clientAddress(f.from)
	if t, err := mail.ParseDate(strings.TrimSpace(f.date)); err == nil {
		h.Time = t
	}
	h.judge(f)
	return h
}
