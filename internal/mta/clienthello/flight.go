package clienthello

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"tlsonly/internal/policy"
)

// answer makes the flight of a host that chooses Diffie-Hellman with c; false where
// the client's hello leaves no room for that. Of versions below TLS 1.2 the hello
// alone is right: a client that doesn't take the version says so to that.
func (h *hello) answer(c choice) ([]byte, bool) {
	suite, scheme := uint16(0), uint16(0)
	for _, id := range h.offers.Suites {
		if slices.Contains(dheRSA, id) {
			suite = id
			break
		}
	}
	for _, id := range []uint16{pkcs1SHA256, pssSHA256} {
		if slices.Contains(h.offers.Signatures, id) {
			scheme = id
			break
		}
	}
	if suite == 0 || scheme == 0 || h.highest < c.version {
		return nil, false
	}
	self := identity()
	if self.err != nil {
		return nil, false
	}
	random := make([]byte, 32)
	secret := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	_, _ = rand.Read(secret)
	p := prime(c.size)
	public := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetBytes(secret), p)

	var params cryptobyte.Builder // RFC 5246, section 7.4.3
	for _, n := range [][]byte{p.Bytes(), {2}, public.FillBytes(make([]byte, c.size/8))} {
		params.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(n) })
	}
	exchange := params.BytesOrPanic()
	digest := sha256.Sum256(slices.Concat(h.random, random, exchange))
	var signature []byte
	var err error
	if scheme == pkcs1SHA256 {
		signature, err = rsa.SignPKCS1v15(nil, self.key, crypto.SHA256, digest[:])
	} else {
		signature, err = rsa.SignPSS(rand.Reader, self.key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	if err != nil {
		return nil, false
	}
	return flight(c.version,
		message(msgServerHello, func(b *cryptobyte.Builder) {
			b.AddUint16(uint16(c.version))
			b.AddBytes(random)
			b.AddUint8(0) // no session
			b.AddUint16(suite)
			b.AddUint8(0) // no compression
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16(0xff01) // RFC 5746, section 3.6
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
			})
		}),
		message(msgCertificate, func(b *cryptobyte.Builder) {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(self.cert) })
			})
		}),
		message(msgServerKeyExchange, func(b *cryptobyte.Builder) {
			b.AddBytes(exchange)
			b.AddUint16(scheme)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(signature) })
		}),
		message(msgServerHelloDone, func(*cryptobyte.Builder) {}),
	), true
}

func message(kind uint8, body func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddUint8(kind)
	b.AddUint24LengthPrefixed(body)
	return b.BytesOrPanic()
}

// flight puts each message into a record.
func flight(version policy.Version, messages ...[]byte) []byte {
	var b cryptobyte.Builder
	for _, m := range messages {
		b.AddUint8(recordHandshake)
		b.AddUint16(uint16(version))
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m) })
	}
	return b.BytesOrPanic()
}

// judge reads what a client says to a flight: its own key exchange, or why it ends
// the handshake.
func judge(in io.Reader) verdict {
	kind, body, err := record(in)
	switch {
	case err != nil:
		return untold
	case kind == recordHandshake && body[0] == msgClientKeyExchange:
		return taken
	case kind == recordAlert && body[len(body)-1] == alertProtocolVersion:
		return otherVersion
	case kind == recordAlert:
		return declined
	}
	return untold
}

// The suites with ephemeral Diffie-Hellman over a finite field and RSA, that are
// TLS 1.2's or older.
var dheRSA = []uint16{0x009f, 0x009e, 0xccaa, 0xc09f, 0xc09e, 0x006b, 0x0067, 0x0039, 0x0033, 0xc0a3, 0xc0a2,
	0xc053, 0xc052, 0x00c4, 0x00be, 0x0088, 0x0045}

// RFC 8446, section 6.2.
const alertProtocolVersion = 70

const (
	pkcs1SHA256 = 0x0401
	pssSHA256   = 0x0804
)

// host is who this host is. No client trusts it; none needs to.
type host struct {
	key  *rsa.PrivateKey
	cert []byte // DER
	err  error
}

var identity = sync.OnceValue(func() (h host) {
	if h.key, h.err = rsa.GenerateKey(rand.Reader, 2048); h.err != nil {
		return h
	}
	now := time.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(365 * 24 * time.Hour)}
	h.cert, h.err = x509.CreateCertificate(rand.Reader, c, c, h.key.Public(), h.key)
	return h
})

// prime returns a safe prime with the generator 2: those of RFC 2409, section 6,
// and RFC 3526, whose middle is the digits of pi.
func prime(size int) *big.Int {
	add := map[int]int64{768: 149686, 1024: 129093, 1536: 741804, 2048: 124476, 3072: 1690314}[size]
	power := func(n int) *big.Int { return new(big.Int).Lsh(big.NewInt(1), uint(n)) } // #nosec G115 -- one of five sizes
	middle := new(big.Int).Add(pi(size-130), big.NewInt(add))
	p := new(big.Int).Sub(power(size), power(size-64))
	p.Sub(p, big.NewInt(1))
	return p.Add(p, middle.Lsh(middle, 64))
}

// pi returns the whole part of pi times 2 to the power of n, by Machin's formula.
func pi(n int) *big.Int {
	const guard = 64
	one := new(big.Int).Lsh(big.NewInt(1), uint(n+guard)) // #nosec G115 -- a few thousand
	arctan := func(of int64) *big.Int {                   // of 1/of
		sum, term := new(big.Int), new(big.Int).Div(one, big.NewInt(of))
		for i := int64(1); term.Sign() > 0; i += 2 {
			part := new(big.Int).Div(term, big.NewInt(i))
			if i%4 == 3 {
				part.Neg(part)
			}
			sum.Add(sum, part)
			term.Div(term, big.NewInt(of*of))
		}
		return sum
	}
	sum := new(big.Int).Mul(big.NewInt(16), arctan(5))
	sum.Sub(sum, new(big.Int).Mul(big.NewInt(4), arctan(239)))
	return sum.Rsh(sum, guard)
}
