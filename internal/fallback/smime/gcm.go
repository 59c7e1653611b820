package smime

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
)

// gcmChunk is how many octets are authenticated at once. A multiple of 16.
const gcmChunk = 64 << 10

// maxGCM is the most octets of one message (NIST SP 800-38D, section 5.2.1.1).
const maxGCM = 1<<36 - 32

// gcmWriter encrypts a stream with AES-GCM (NIST SP 800-38D), for which the
// standard library wants the whole message. The cipher is its CTR mode. GHASH
// it computes only inside of a tag, over additional data; so for each chunk the
// tag is taken apart again: GHASH of a chunk that begins with the state so far
// is the next state. That needs one multiplication of ours per chunk.
type gcmWriter struct {
	dst   io.Writer
	ctr   cipher.Stream
	ghash cipher.AEAD
	mask  [16]byte // the encrypted counter block of ghash's own nonce
	tag   [16]byte // that of the message's nonce
	h     element
	hInv  element
	state [16]byte
	buf   []byte // ciphertext that is not in state, less than gcmChunk
	out   []byte
	total uint64
}

// newGCM returns a gcmWriter for a fresh key and a nonce of 12 octets.
func newGCM(dst io.Writer, key, nonce []byte) (*gcmWriter, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	ghash, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	g := &gcmWriter{dst: dst, ghash: ghash, buf: make([]byte, 0, gcmChunk)}
	counter := func(nonce []byte, n uint32) []byte {
		return binary.BigEndian.AppendUint32(append(make([]byte, 0, 16), nonce...), n)
	}
	var zero [16]byte
	block.Encrypt(g.mask[:], counter(zero[:12], 1))
	block.Encrypt(g.tag[:], counter(nonce, 1))
	var h [16]byte
	block.Encrypt(h[:], zero[:])
	g.h = load(h[:])
	g.hInv = g.h.inverse()
	if g.h == (element{}) {
		return nil, errors.New("AES-GCM: this key has no inverse") // one of 2^128
	}
	// With less than maxGCM octets the counter's last 32 bits don't overflow.
	g.ctr = cipher.NewCTR(block, counter(nonce, 2))
	return g, nil
}

func (g *gcmWriter) Write(p []byte) (int, error) {
	if g.total += uint64(len(p)); g.total > maxGCM {
		return 0, errors.New("AES-GCM: the message is too long")
	}
	n := len(p)
	for len(p) > 0 {
		part := p[:min(len(p), gcmChunk-len(g.buf))]
		p = p[len(part):]
		at := len(g.buf)
		g.buf = g.buf[:at+len(part)]
		g.ctr.XORKeyStream(g.buf[at:], part)
		if _, err := g.dst.Write(g.buf[at:]); err != nil {
			return 0, err
		}
		if len(g.buf) == gcmChunk {
			g.absorb()
		}
	}
	return n, nil
}

// absorb takes buf into the state.
func (g *gcmWriter) absorb() {
	if len(g.buf) == 0 {
		return
	}
	size := uint64(len(g.buf)) * 8
	for len(g.buf) < 16 { // zeros are what GHASH fills up with
		g.buf = append(g.buf, 0)
		size = 128
	}
	for i := range g.state {
		g.buf[i] ^= g.state[i]
	}
	var nonce [12]byte
	sealed := g.ghash.Seal(g.out[:0], nonce[:], nil, g.buf)
	g.out = sealed
	for i := range sealed {
		sealed[i] ^= g.mask[i]
	}
	// sealed = (state + lengths) * h
	x := load(sealed).times(g.hInv)
	x.hi ^= size
	x.store(g.state[:])
	g.buf = g.buf[:0]
}

// sum ends the message and returns its tag of 16 octets.
func (g *gcmWriter) sum() []byte {
	g.absorb()
	x := load(g.state[:])
	x.lo ^= g.total * 8
	x = x.times(g.h)
	tag := make([]byte, 16)
	x.store(tag)
	for i := range tag {
		tag[i] ^= g.tag[i]
	}
	return tag
}

// element is one of GF(2^128) as GCM writes it: the first bit is the highest of
// hi (NIST SP 800-38D, section 6.3).
type element struct{ hi, lo uint64 }

func load(b []byte) element {
	return element{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (x element) store(b []byte) {
	binary.BigEndian.PutUint64(b, x.hi)
	binary.BigEndian.PutUint64(b[8:], x.lo)
}

// times multiplies in constant time.
func (x element) times(y element) element {
	var z element
	hi, lo := y.hi, y.lo // y times the power of the bit
	for i := range 128 {
		bits := x.hi
		if i >= 64 {
			bits = x.lo
		}
		take := -(bits >> (63 - i%64) & 1)
		z.hi ^= hi & take
		z.lo ^= lo & take
		carry := -(lo & 1)
		hi, lo = hi>>1^carry&(0xe1<<56), lo>>1|hi<<63
	}
	return z
}

// inverse returns x^(2^128-2), which is 1/x.
func (x element) inverse() element {
	result := element{hi: 1 << 63} // one
	square := x
	for range 127 {
		square = square.times(square)
		result = result.times(square)
	}
	return result
}
