package smime

import (
	"bufio"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"slices"
)

// Identifier octets of BER (X.690, section 8.1.2).
const (
	tagInteger  = 0x02
	tagOctets   = 0x04
	tagSequence = 0x30
	tagSet      = 0x31
	context0    = 0xa0 // [0], constructed
	context1    = 0xa1
	context2    = 0xa2
	constructed = 0x20
)

// tlv returns an element in DER whose content is parts, one after the other.
func tlv(id byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := []byte{id}
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	default:
		var size []byte
		for left := n; left > 0; left >>= 8 {
			size = append(size, byte(left))
		}
		slices.Reverse(size)
		b = append(append(b, 0x80|byte(len(size))), size...)
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// der marshals what can always be marshalled.
func der(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		panic("smime: " + err.Error())
	}
	return b
}

// algorithm returns an AlgorithmIdentifier.
func algorithm(oid asn1.ObjectIdentifier, params ...[]byte) []byte {
	return tlv(tagSequence, append([][]byte{der(oid)}, params...)...)
}

var null = []byte{5, 0}

// begin opens an element of indefinite length, end closes so many. What is
// within is written as a stream: its length isn't known before.
func begin(ids ...byte) []byte {
	var b []byte
	for _, id := range ids {
		b = append(b, id, 0x80)
	}
	return b
}

func end(n int) []byte { return make([]byte, 2*n) }

// pieces writes a stream as OCTET STRINGs in DER, each of pieceSize octets but
// the last.
type pieces struct {
	dst io.Writer
	buf []byte
}

const pieceSize = 8 << 10

func (p *pieces) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), pieceSize-len(p.buf))]
		p.buf = append(p.buf, part...)
		b = b[len(part):]
		if len(p.buf) == pieceSize {
			if err := p.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (p *pieces) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.dst.Write(tlv(tagOctets, p.buf))
	p.buf = p.buf[:0]
	return err
}

// base64Lines returns a writer of base64 in lines of 76 characters with CRLF
// (RFC 2045, section 6.8), and what ends it.
func base64Lines(dst io.Writer) (w io.Writer, done func() error) {
	out := bufio.NewWriterSize(dst, 32<<10)
	e := base64.NewEncoder(base64.StdEncoding, &lines{dst: out})
	return e, func() error {
		if err := e.Close(); err != nil {
			return err
		}
		if _, err := out.WriteString("\r\n"); err != nil {
			return err
		}
		return out.Flush()
	}
}

// lines breaks lines after 76 octets.
type lines struct {
	dst *bufio.Writer
	at  int
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if l.at == 76 {
			if _, err := l.dst.WriteString("\r\n"); err != nil {
				return 0, err
			}
			l.at = 0
		}
		part := p[:min(len(p), 76-l.at)]
		if _, err := l.dst.Write(part); err != nil {
			return 0, err
		}
		l.at += len(part)
		p = p[len(part):]
	}
	return n, nil
}
