package starttls

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"

	"tlsonly/internal/policy"
)

// The numbers of the TLS handshake that are used here (RFC 5246, section 7.4; RFC 8446, section 4).
const (
	recordChangeCipher = 20
	recordAlert        = 21
	recordHandshake    = 22
	recordData         = 23

	msgClientHello       = 1
	msgServerHello       = 2
	msgCertificate       = 11
	msgServerKeyExchange = 12
	msgServerHelloDone   = 14

	extServerName        = 0
	extSupportedGroups   = 10
	extPointFormats      = 11
	extSignatures        = 13
	extMasterSecret      = 23
	extSupportedVersions = 43
	extKeyShareModes     = 45
	extKeyShare          = 51
)

// Limits of a server's flight.
const (
	maxRecord = 1<<14 + 2048 // RFC 5246, section 6.2.3
	maxFlight = 128 << 10    // octets of all records; OpenSSL takes a chain of 100 KiB
)

// retryRandom is the Random of a ServerHello that is a HelloRetryRequest (RFC 8446, section 4.1.3).
const retryRandom = "\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91" +
	"\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c"

// clientHello makes the record of a ClientHello that offers the versions, and of them what mail hosts speak, not what this
// program would use.
func clientHello(name string, versions ...policy.Version) ([]byte, error) {
	random := make([]byte, 64) // Random, and a session ID that makes TLS 1.3 look like 1.2 (RFC 8446, appendix D.4)
	if _, err := rand.Read(random); err != nil {
		return nil, fmt.Errorf("client hello: %w", err)
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("client hello: %w", err)
	}
	var ids []uint16
	for _, s := range suites() {
		ids = append(ids, s.id)
	}
	ids = append(ids, 0x00ff) // RFC 5746, section 3.3: we know of secure renegotiation

	var ext []byte
	extension := func(id uint16, body []byte) { ext = append(append(ext, numbers(id)...), vector(2, body)...) }
	if name = strings.TrimSuffix(name, "."); name != "" {
		extension(extServerName, vector(2, append([]byte{0}, vector(2, []byte(name))...)))
	}
	extension(extSupportedGroups, vector(2, numbers(groups()...)))
	extension(extPointFormats, vector(1, []byte{0}))
	extension(extSignatures, vector(2, numbers(
		0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, 0x0809, 0x080a, 0x080b, 0x0401, 0x0501, 0x0601,
		0x0301, 0x0303, 0x0203, 0x0201, 0x0402, 0x0202))) // down to SHA-1 and DSA
	extension(extMasterSecret, nil)
	var offered []uint16
	for _, v := range versions {
		offered = append(offered, uint16(v))
	}
	extension(extSupportedVersions, vector(1, numbers(offered...)))
	extension(extKeyShareModes, vector(1, []byte{1}))
	extension(extKeyShare, vector(2, append(numbers(uint16(tls.X25519)), vector(2, key.PublicKey().Bytes())...)))

	// RFC 8446, section 4.1.2: TLS 1.3 and servers older than the extension read different fields.
	highest := min(uint16(slices.Max(versions)), tls.VersionTLS12)
	body := append(numbers(highest), random[:32]...)
	body = append(body, vector(1, random[32:])...)
	body = append(body, vector(2, numbers(ids...))...)
	body = append(body, vector(1, []byte{0})...) // no compression
	body = append(body, vector(2, ext)...)
	message := append([]byte{msgClientHello}, vector(3, body)...)
	// RFC 8446, section 5.1: 0x0301 in the first record, for servers that fear anything higher.
	return append([]byte{recordHandshake, 3, 1}, vector(2, message)...), nil
}

// groups are offered in the raw hello: NIST's, Brainpool's, X25519, X448 and finite fields (RFC 8422, 7027, 7919).
func groups() []uint16 { return []uint16{29, 23, 24, 25, 30, 26, 27, 28, 256, 257, 258} }

// groupName names a group as crypto/tls does, and those it doesn't know as IANA does.
func groupName(id uint16) string {
	switch id {
	case 26, 27, 28:
		return [...]string{"brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"}[id-26]
	case 30:
		return "X448"
	case 256, 257, 258:
		return [...]string{"ffdhe2048", "ffdhe3072", "ffdhe4096"}[id-256]
	}
	return tls.CurveID(id).String()
}

// numbers encodes 16-bit numbers.
func numbers(n ...uint16) []byte {
	b := make([]byte, 0, 2*len(n))
	for _, v := range n {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

// vector puts its length before body, in size octets.
func vector(size int, body []byte) []byte {
	b := make([]byte, 0, size+len(body))
	for i := size - 1; i >= 0; i-- {
		b = append(b, byte(len(body)>>(8*i)))
	}
	return append(b, body...)
}

// serverHello is what a server chose and showed in the flight that answers a ClientHello.
type serverHello struct {
	version  policy.Version
	suite    suite
	exchange string
	certs    [][]byte // DER, leaf first; none in TLS 1.3, where they are encrypted

	retry bool // a HelloRetryRequest: the server chose, and wants a key share of another group
}

// chain reports the certificates, those that crypto/x509 can't read by fingerprint alone.
func (h *serverHello) chain() []policy.Certificate {
	var certs []policy.Certificate
	for _, der := range h.certs {
		if c, err := x509.ParseCertificate(der); err == nil {
			certs = append(certs, certificate(c))
		} else {
			certs = append(certs, opaque(der))
		}
	}
	return certs
}

// errHello is an answer that isn't TLS's.
var errHello = errors.New("not an answer to a TLS hello")

// readServerHello reads records until the server's flight is whole: up to ServerHelloDone below TLS 1.3, up to the
// first encrypted record in TLS 1.3. A choice alone is not taken for TLS: a server that chooses and then gives up,
// as one with a broken key does, would be taken for a good one.
func readServerHello(r io.Reader) (*serverHello, error) {
	var (
		h       *serverHello
		pending []byte // handshake messages not complete yet
		total   int
	)
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, fmt.Errorf("tls record: %w", err)
		}
		size := int(binary.BigEndian.Uint16(head[3:]))
		if head[1] != 3 || size == 0 || size > maxRecord {
			return nil, fmt.Errorf("%w: record header %x", errHello, head)
		}
		if total += len(head) + size; total > maxFlight {
			return nil, fmt.Errorf("%w: more than %d octets", errHello, maxFlight)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, fmt.Errorf("tls record: %w", err)
		}
		switch head[0] {
		case recordAlert:
			// A warning, such as unrecognized_name, ends nothing (RFC 6066, section 3).
			if size != 2 || body[0] != 1 {
				return nil, fmt.Errorf("tls alert %x", body)
			}
		case recordChangeCipher:
			if h == nil || h.version != policy.TLS13 {
				return nil, fmt.Errorf("%w: change cipher spec before its time", errHello)
			}
		case recordData:
			if h == nil || h.version != policy.TLS13 || len(pending) > 0 {
				return nil, fmt.Errorf("%w: data before its time", errHello)
			}
			return h, nil
		case recordHandshake:
			pending = append(pending, body...)
			var done bool
			var err error
			if h, pending, done, err = messages(h, pending); err != nil || done {
				return h, err
			}
		default:
			return nil, fmt.Errorf("%w: record type %d", errHello, head[0])
		}
	}
}

// messages takes the complete handshake messages off pending; done reports that the flight ended with one of them.
func messages(h *serverHello, pending []byte) (*serverHello, []byte, bool, error) {
	for {
		c := cursor(pending)
		kind, ok1 := c.number(1)
		body, ok2 := c.vector(3)
		if !ok1 || !ok2 {
			return h, pending, false, nil
		}
		pending = c
		switch {
		case h == nil:
			var err error
			if kind != msgServerHello {
				return nil, nil, false, fmt.Errorf("%w: message %d before the server hello", errHello, kind)
			}
			if h, err = parseServerHello(body); err != nil {
				return nil, nil, false, err
			}
			if h.retry {
				return h, nil, true, nil
			}
		case h.version == policy.TLS13:
			return nil, nil, false, fmt.Errorf("%w: message %d in the clear", errHello, kind)
		case kind == msgCertificate:
			h.certs = parseCertificates(body)
		case kind == msgServerKeyExchange:
			h.exchange = parseExchange(h.suite, body)
		case kind == msgServerHelloDone:
			return h, nil, true, nil
		}
	}
}

// parseServerHello reads the body of a ServerHello (RFC 5246, section 7.4.1.3; RFC 8446, section 4.1.3).
func parseServerHello(body []byte) (*serverHello, error) {
	c := cursor(body)
	version, ok1 := c.number(2)
	random, ok2 := c.take(32)
	_, ok3 := c.vector(1)
	id, ok4 := c.number(2)
	compression, ok5 := c.number(1)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || compression != 0 {
		return nil, fmt.Errorf("%w: server hello malformed", errHello)
	}
	h := &serverHello{version: policy.Version(version), retry: string(random) == retryRandom}
	group := 0
	if len(c) > 0 {
		extensions, ok := c.vector(2)
		if !ok || len(c) > 0 {
			return nil, fmt.Errorf("%w: server hello malformed", errHello)
		}
		for len(extensions) > 0 {
			kind, ok1 := extensions.number(2)
			ext, ok2 := extensions.vector(2)
			if !ok1 || !ok2 {
				return nil, fmt.Errorf("%w: extension malformed", errHello)
			}
			switch kind {
			case extSupportedVersions:
				v, ok := ext.number(2)
				if !ok || policy.Version(v) != policy.TLS13 {
					return nil, fmt.Errorf("%w: version 0x%04x by extension", errHello, v)
				}
				h.version = policy.TLS13
			case extKeyShare:
				group, _ = ext.number(2)
			}
		}
	}
	// TLS 1.3 is chosen by the extension only (RFC 8446, section 4.2.1).
	if version < int(policy.SSL30) || version > int(policy.TLS12) {
		return nil, fmt.Errorf("%w: version 0x%04x", errHello, version)
	}
	s, ok := suiteOf(uint16(id))
	if !ok || (id>>8 == 0x13) != (h.version == policy.TLS13) || h.retry && h.version != policy.TLS13 {
		return nil, fmt.Errorf("%w: cipher suite 0x%04x in version %s", errHello, id, h.version)
	}
	h.suite, h.exchange = s, s.exchange
	if h.version == policy.TLS13 && group != 0 {
		h.exchange = groupName(uint16(group))
	}
	return h, nil
}

// parseCertificates reads the body of a Certificate message (RFC 5246, section 7.4.2) as far as it is well-formed.
func parseCertificates(body cursor) [][]byte {
	var certs [][]byte
	list, _ := body.vector(3)
	for {
		der, ok := list.vector(3)
		if !ok {
			return certs
		}
		certs = append(certs, der)
	}
}

// parseExchange names the key exchange of a ServerKeyExchange: the group, or the size of the prime.
func parseExchange(s suite, body cursor) string {
	if s.exchange != "" {
		prime, ok := body.vector(2) // RFC 5246, section 7.4.3: dh_p comes first
		for len(prime) > 0 && prime[0] == 0 {
			prime = prime[1:]
		}
		if !ok || len(prime) == 0 {
			return s.exchange
		}
		return fmt.Sprintf("%s %d", s.exchange, (len(prime)-1)*8+bits.Len8(prime[0]))
	}
	kind, _ := body.number(1)
	group, ok := body.number(2)
	if kind != 3 || !ok { // RFC 8422, section 5.4: named_curve
		return ""
	}
	return groupName(uint16(group))
}

// cursor is what is left to read of a TLS structure.
type cursor []byte

func (c *cursor) take(n int) ([]byte, bool) {
	if n > len(*c) {
		return nil, false
	}
	b := (*c)[:n]
	*c = (*c)[n:]
	return b, true
}

// number reads a number of size octets.
func (c *cursor) number(size int) (int, bool) {
	b, ok := c.take(size)
	n := 0
	for _, v := range b {
		n = n<<8 | int(v)
	}
	return n, ok
}

// vector reads a length of size octets and as many octets as it says; it takes nothing when they aren't there.
func (c *cursor) vector(size int) (cursor, bool) {
	rest := *c
	n, ok := rest.number(size)
	if !ok {
		return nil, false
	}
	b, ok := rest.take(n)
	if ok {
		*c = rest
	}
	return b, ok
}
