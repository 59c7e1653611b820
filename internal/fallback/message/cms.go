package message

import (
	"bufio"
	"encoding/asn1"
	"errors"
	"io"
)

// The content types and ciphers of CMS that count as encrypted. DES and RC2
// don't.
var (
	oidEnveloped     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidAuthEnveloped = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}

	strong = []asn1.ObjectIdentifier{
		{2, 16, 840, 1, 101, 3, 4, 1, 2},  // AES-128-CBC
		{2, 16, 840, 1, 101, 3, 4, 1, 6},  // AES-128-GCM
		{2, 16, 840, 1, 101, 3, 4, 1, 7},  // AES-128-CCM
		{2, 16, 840, 1, 101, 3, 4, 1, 22}, // AES-192-CBC
		{2, 16, 840, 1, 101, 3, 4, 1, 26}, // AES-192-GCM
		{2, 16, 840, 1, 101, 3, 4, 1, 27}, // AES-192-CCM
		{2, 16, 840, 1, 101, 3, 4, 1, 42}, // AES-256-CBC
		{2, 16, 840, 1, 101, 3, 4, 1, 46}, // AES-256-GCM
		{2, 16, 840, 1, 101, 3, 4, 1, 47}, // AES-256-CCM
		{1, 2, 840, 113549, 3, 7},         // DES-EDE3-CBC
	}
)

// Identifier octets of BER (X.690, section 8.1.2).
const (
	tagInteger  = 0x02
	tagOctets   = 0x04
	tagOID      = 0x06
	tagSequence = 0x30
	tagSet      = 0x31
	context0    = 0x80 // [0], primitive
	context0c   = 0xa0 // [0], constructed
	context1c   = 0xa1
	constructed = 0x20
)

// maxCMS is what all of an EnvelopedData but the content may have, in octets.
const maxCMS = 1 << 20

// inspectCMS reads a ContentInfo to its end (RFC 5652, section 6; RFC 5083).
// It wants recipients by public key only, content, and no attributes in the
// clear.
func inspectCMS(r io.Reader) error {
	b := &ber{r: bufio.NewReaderSize(r, 64<<10)}
	b.open(tagSequence)
	kind := b.oid()
	auth := kind.Equal(oidAuthEnveloped)
	if !auth && !kind.Equal(oidEnveloped) {
		return errNot
	}
	b.open(context0c)
	b.open(tagSequence)
	b.small(tagInteger)
	recipients := 0
	for b.open(tagSet); b.more(); recipients++ {
		// KeyTransRecipientInfo or KeyAgreeRecipientInfo, not a password.
		if id := b.header(); id != tagSequence && id != context1c {
			return errNot
		}
		b.skip(maxCMS)
	}
	b.pop()
	b.open(tagSequence) // EncryptedContentInfo
	b.oid()
	b.open(tagSequence)
	cipher := b.oid()
	for b.more() {
		b.header()
		b.skip(maxPart)
	}
	b.pop()
	known := false
	for _, s := range strong {
		known = known || cipher.Equal(s)
	}
	before := b.pos
	switch id := b.header(); id {
	case context0:
		b.skip(-1)
	case context0c:
		for b.more() {
			if id := b.header(); id&^constructed != tagOctets {
				return errNot
			}
			b.skip(-1)
		}
		b.pop()
	default:
		return errNot
	}
	size := b.pos - before
	b.close()
	if auth {
		b.small(tagOctets) // the MAC
	}
	b.close()
	b.close()
	b.close()
	if b.err != nil || recipients == 0 || !known || size < 16 {
		return errNot
	}
	if _, err := b.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errNot
	}
	return nil
}

// ber reads BER one element after the other; after the first error all is zero.
type ber struct {
	r    *bufio.Reader
	pos  int64
	ends []int64 // of the elements that are open; -1 where octets say it
	err  error
}

func (b *ber) fail() { b.err = errNot }

func (b *ber) octet() byte {
	if b.err != nil {
		return 0
	}
	c, err := b.r.ReadByte()
	if err != nil {
		b.fail()
		return 0
	}
	b.pos++
	return c
}

// header reads identifier and length, and opens the element.
func (b *ber) header() byte {
	id := b.octet()
	if id&0x1f == 0x1f { // none in CMS has a tag so high
		b.fail()
	}
	size := int64(b.octet())
	if size > 0x80 {
		n := size & 0x7f
		if n > 6 {
			b.fail()
			return 0
		}
		size = 0
		for range n {
			size = size<<8 | int64(b.octet())
		}
	} else if size == 0x80 {
		size = -1
		if id&constructed == 0 {
			b.fail()
		}
	}
	end := int64(-1)
	if size >= 0 {
		end = b.pos + size
	}
	for i := len(b.ends) - 1; i >= 0; i-- {
		if b.ends[i] >= 0 {
			if end > b.ends[i] {
				b.fail()
			}
			break
		}
	}
	if len(b.ends) > 50 {
		b.fail()
	}
	if b.err != nil {
		return 0
	}
	b.ends = append(b.ends, end)
	return id
}

// open reads the header of an element that has to be this one.
func (b *ber) open(id byte) {
	if b.header() != id {
		b.fail()
	}
}

// more reports whether another element follows in the innermost open one.
func (b *ber) more() bool {
	if b.err != nil || len(b.ends) == 0 {
		return false
	}
	end := b.ends[len(b.ends)-1]
	if end >= 0 {
		return b.pos < end
	}
	next, err := b.r.Peek(2)
	if err != nil {
		b.fail()
	}
	return b.err == nil && (next[0] != 0 || next[1] != 0)
}

// pop leaves the innermost open element, at whose end b is.
func (b *ber) pop() {
	if b.err != nil {
		return
	}
	last := len(b.ends) - 1
	end := b.ends[last]
	b.ends = b.ends[:last]
	switch {
	case end < 0:
		for range 2 {
			if b.octet() != 0 {
				b.fail()
			}
		}
	case b.pos != end:
		b.fail()
	}
}

// close leaves the innermost open element, after which nothing may follow.
func (b *ber) close() {
	if b.more() {
		b.fail()
	}
	b.pop()
}

// skip reads the open element to its end; most is the most octets, -1 for any.
func (b *ber) skip(most int64) {
	if b.err != nil {
		return
	}
	start, depth := b.pos, len(b.ends)
	for b.err == nil && len(b.ends) >= depth {
		end := b.ends[len(b.ends)-1]
		switch {
		case end >= 0:
			n := end - b.pos
			if most >= 0 && b.pos-start+n > most || discard(b.r, n) != nil {
				b.fail()
				return
			}
			b.pos = end
			b.pop()
		case b.more():
			b.header()
		default:
			b.pop()
		}
		if most >= 0 && b.pos-start > most {
			b.fail()
		}
	}
}

// small reads a primitive element of at most 64 octets.
func (b *ber) small(id byte) []byte {
	b.open(id)
	if b.err != nil {
		return nil
	}
	n := b.ends[len(b.ends)-1] - b.pos
	if n < 0 || n > 64 {
		b.fail()
		return nil
	}
	value := make([]byte, n)
	for i := range value {
		value[i] = b.octet()
	}
	b.pop()
	return value
}

// oid reads an object identifier, nil where it is none.
func (b *ber) oid() asn1.ObjectIdentifier {
	value := b.small(tagOID)
	if b.err != nil {
		return nil
	}
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(append([]byte{tagOID, byte(len(value))}, value...), &oid); err != nil {
		b.fail()
	}
	return oid
}
