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
	"tlsonly/internal/profile"
)

// The numbers of the TLS handshake that are used here (RFC 5246, section 7.4; RFC 8446, section 4).
const (
	recordChangeCipher = 20
	recordAlert        = 21
	recordHandshake    = 22
	recordData         = 23

	msgClientHello        = 1
	msgServerHello        = 2
	msgCertificate        = 11
	msgServerKeyExchange  = 12
	msgCertificateRequest = 13
	msgServerHelloDone    = 14

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

// offer is what a hello of our own offers.
type offer struct {
	name                       string // of the host, "" to leave it out
	versions                   []policy.Version
	suites, groups, signatures []uint16
}

// offerOf is what an MTA offers, as far as its profile says so, else what mail hosts
// speak, not what this program would use; of the versions those that it speaks.
func offerOf(name string, mta profile.TLS, versions ...policy.Version) offer {
	o := offer{name: name, suites: mta.Suites, groups: mta.Groups, signatures: mta.Signatures}
	for _, v := range versions {
		if mta.Speaks(v) {
			o.versions = append(o.versions, v)
		}
	}
	if o.suites == nil {
		for _, s := range suites() {
			o.suites = append(o.suites, s.id)
		}
	}
	if o.groups == nil {
		o.groups = groups()
	}
	if o.signatures == nil {
		o.signatures = []uint16{0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, 0x0809, 0x080a, 0x080b,
			0x0401, 0x0501, 0x0601, 0x0301, 0x0303, rsaSHA1, ecdsaSHA1, 0x0402, dsaSHA1} // down to SHA-1 and DSA
	}
	return o
}

// The schemes with SHA-1, which below TLS 1.2 are the only ones (RFC 4346, section 7.4.3).
const (
	rsaSHA1   = 0x0201
	dsaSHA1   = 0x0202
	ecdsaSHA1 = 0x0203
)

// secureRenegotiation is no suite, but a word that we know of it (RFC 5746, section 3.3).
const secureRenegotiation = 0x00ff

// clientHello makes the record of a ClientHello.
func clientHello(o offer) ([]byte, error) {
	if len(o.versions) == 0 || len(o.suites) == 0 {
		return nil, errors.New("client hello: the MTA offers no version or no cipher suite that is known here")
	}
	random := make([]byte, 64) // Random, and a session ID that makes TLS 1.3 look like 1.2 (RFC 8446, appendix D.4)
	if _, err := rand.Read(random); err != nil {
		return nil, fmt.Errorf("client hello: %w", err)
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("client hello: %w", err)
	}
	ids := append(slices.Clone(o.suites), secureRenegotiation)

	var ext []byte
	extension := func(id uint16, body []byte) { ext = append(append(ext, numbers(id)...), vector(2, body)...) }
	if name := strings.TrimSuffix(o.name, "."); name != "" {
		extension(extServerName, vector(2, append([]byte{0}, vector(2, []byte(name))...)))
	}
	extension(extSupportedGroups, vector(2, numbers(o.groups...)))
	extension(extPointFormats, vector(1, []byte{0}))
	extension(extSignatures, vector(2, numbers(o.signatures...)))
	extension(extMasterSecret, nil)
	var offered []uint16
	for _, v := range o.versions {
		offered = append(offered, uint16(v))
	}
	extension(extSupportedVersions, vector(1, numbers(offered...)))
	extension(extKeyShareModes, vector(1, []byte{1}))
	var share []byte // without one the server asks for one of the group that it chooses
	if slices.Contains(o.groups, uint16(tls.X25519)) {
		share = append(numbers(uint16(tls.X25519)), vector(2, key.PublicKey().Bytes())...)
	}
	extension(extKeyShare, vector(2, share))

	// RFC 8446, section 4.1.2: TLS 1.3 and servers older than the extension read different fields.
	highest := min(uint16(slices.Max(o.versions)), tls.VersionTLS12)
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
	group    uint16   // of the exchange, 0 for none or one that is not named
	prime    int      // of the exchange, its size in bits, 0 for none
	scheme   uint16   // of the signature, in TLS 1.2 only
	certs    [][]byte // DER, leaf first; none in TLS 1.3, where they are encrypted
	asks     bool     // for a certificate of ours; not known in TLS 1.3

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
			h.parseExchange(body)
		case kind == msgCertificateRequest:
			h.asks = true
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
		h.group, h.exchange = uint16(group), groupName(uint16(group))
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

// parseExchange reads the body of a ServerKeyExchange: the group, or the size of
// the prime, and the scheme of the signature.
func (h *serverHello) parseExchange(body cursor) {
	if h.suite.exchange != "" {
		prime, ok := body.vector(2) // RFC 5246, section 7.4.3: dh_p comes first
		for len(prime) > 0 && prime[0] == 0 {
			prime = prime[1:]
		}
		if !ok || len(prime) == 0 {
			return
		}
		h.prime = (len(prime)-1)*8 + bits.Len8(prime[0])
		h.exchange = fmt.Sprintf("%s %d", h.suite.exchange, h.prime)
		_, ok1 := body.vector(2)
		_, ok2 := body.vector(2)
		h.parseScheme(body, ok1 && ok2)
		return
	}
	kind, _ := body.number(1)
	group, ok := body.number(2)
	if kind != 3 || !ok { // RFC 8422, section 5.4: named_curve
		return
	}
	h.group, h.exchange = uint16(group), groupName(uint16(group))
	_, ok = body.vector(1)
	h.parseScheme(body, ok)
}

func (h *serverHello) parseScheme(body cursor, ok bool) {
	if n, is := body.number(2); ok && is && h.version == policy.TLS12 && h.suite.signed() {
		h.scheme = uint16(n)
	}
}

// objection says in words what the MTA's TLS library has against what the host
// chose, "" for nothing.
func (h *serverHello) objection(mta profile.TLS) string {
	switch {
	case h.prime > 0 && h.prime < mta.MinDH:
		return fmt.Sprintf("it chooses Diffie-Hellman with a prime of %d bits, and this MTA takes none below %d", h.prime, mta.MinDH)
	case h.scheme != 0 && !mta.Signs(h.scheme):
		return fmt.Sprintf("it signs with scheme 0x%04x, which this MTA does not take", h.scheme)
	}
	return objectionTo(mta, h.version, h.suite, h.group)
}

// objection is the same of what crypto/tls agreed on.
func objection(mta profile.TLS, state tls.ConnectionState) string {
	s, _ := suiteOf(state.CipherSuite)
	s.id = state.CipherSuite
	return objectionTo(mta, policy.Version(state.Version), s, uint16(state.CurveID))
}

func objectionTo(mta profile.TLS, v policy.Version, s suite, group uint16) string {
	switch {
	case !mta.Speaks(v):
		return fmt.Sprintf("it chooses TLS %s, which this MTA does not take", v)
	case !mta.Takes(s.id):
		return fmt.Sprintf("it chooses %s, which this MTA does not take", s.name)
	case group != 0 && !mta.Shares(group):
		return fmt.Sprintf("it chooses the group %s, which this MTA does not take", groupName(group))
	case v < policy.TLS12 && s.signed() && !mta.Signs(rsaSHA1) && !mta.Signs(ecdsaSHA1):
		return fmt.Sprintf("it chooses TLS %s, where signatures are made with SHA-1, which this MTA does not take", v)
	}
	return ""
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
