package clienthello

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// The numbers of the TLS handshake that are used here (RFC 5246, sections 6.2.1
// and 7.4; RFC 8446, section 4).
const (
	recordAlert     = 21
	recordHandshake = 22

	msgClientHello       = 1
	msgServerHello       = 2
	msgCertificate       = 11
	msgServerKeyExchange = 12
	msgServerHelloDone   = 14
	msgClientKeyExchange = 16

	extSupportedGroups     = 10
	extSignatureAlgorithms = 13
	extSupportedVersions   = 43

	maxRecord = 1<<14 + 2048
	maxHello  = 16 << 10
)

// hello is a ClientHello, as far as it matters.
type hello struct {
	random  []byte
	highest policy.Version // below TLS 1.3
	told    bool           // its versions are those that it lists
	offers  profile.TLS
}

var errHello = errors.New("not a TLS client's hello")

// record reads one record (RFC 5246, section 6.2.1).
func record(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := int(head[3])<<8 | int(head[4])
	if head[1] != 3 || size == 0 || size > maxRecord {
		return 0, nil, fmt.Errorf("%w: record header %x", errHello, head)
	}
	body = make([]byte, size)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

// readHello reads a ClientHello, which may come in several records.
func readHello(r io.Reader) (*hello, error) {
	var all []byte
	for len(all) < maxHello {
		kind, body, err := record(r)
		switch {
		case err != nil:
			return nil, fmt.Errorf("client hello: %w", err)
		case kind != recordHandshake:
			return nil, fmt.Errorf("%w: record type %d", errHello, kind)
		}
		all = append(all, body...)
		s := cryptobyte.String(all)
		var msg uint8
		var text cryptobyte.String
		if s.ReadUint8(&msg) && msg != msgClientHello {
			return nil, fmt.Errorf("%w: message %d", errHello, msg)
		}
		if s.ReadUint24LengthPrefixed(&text) {
			return parseHello(text)
		}
	}
	return nil, fmt.Errorf("%w: longer than %d octets", errHello, maxHello)
}

// parseHello reads the body of a ClientHello (RFC 8446, section 4.1.2).
func parseHello(s cryptobyte.String) (*hello, error) {
	var version uint16
	var session, suites, compression, extensions cryptobyte.String
	h := new(hello)
	if !s.ReadUint16(&version) || !s.ReadBytes(&h.random, 32) || !s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compression) {
		return nil, fmt.Errorf("%w: malformed", errHello)
	}
	for _, id := range numbers(suites) {
		if id != renegotiation && id != fallback {
			h.offers.Suites = append(h.offers.Suites, id)
		}
	}
	if len(h.offers.Suites) == 0 {
		return nil, fmt.Errorf("%w: it offers no cipher suite", errHello)
	}
	if !s.Empty() && !s.ReadUint16LengthPrefixed(&extensions) {
		return nil, fmt.Errorf("%w: malformed", errHello)
	}
	for !extensions.Empty() {
		var kind uint16
		var body, list cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&body) {
			return nil, fmt.Errorf("%w: extension malformed", errHello)
		}
		ok := true
		switch kind {
		case extSupportedVersions:
			ok, h.told = body.ReadUint8LengthPrefixed(&list), true
			for _, v := range numbers(list) {
				if v := policy.Version(v); v >= policy.TLS10 && v <= policy.TLS13 {
					h.offers.Versions = append(h.offers.Versions, v)
				}
			}
		case extSupportedGroups:
			ok = body.ReadUint16LengthPrefixed(&list)
			h.offers.Groups = numbers(list)
		case extSignatureAlgorithms:
			ok = body.ReadUint16LengthPrefixed(&list)
			h.offers.Signatures = numbers(list)
		}
		if !ok {
			return nil, fmt.Errorf("%w: extension %d malformed", errHello, kind)
		}
	}
	h.complete(policy.Version(version))
	return h, nil
}

// complete says what a hello without an extension means by that; version is its
// highest, of those before TLS 1.3.
func (h *hello) complete(version policy.Version) {
	o := &h.offers
	if !h.told {
		o.Versions = []policy.Version{min(version, policy.TLS12)}
	}
	for _, v := range o.Versions {
		if v < policy.TLS13 {
			h.highest = max(h.highest, v)
		}
	}
	if o.Groups == nil {
		o.Groups = []uint16{} // none
	}
	if o.Signatures == nil {
		o.Signatures = []uint16{0x0201, 0x0202, 0x0203} // RFC 5246, section 7.4.1.4.1
	}
}

// Signals among the suites (RFC 5746, section 3.3; RFC 7507, section 2).
const (
	renegotiation = 0x00ff
	fallback      = 0x5600
)

// numbers reads a list of 16-bit numbers, without those that stand for nothing (RFC
// 8701).
func numbers(s cryptobyte.String) []uint16 {
	list := []uint16{}
	for {
		var n uint16
		if !s.ReadUint16(&n) {
			return list
		}
		if n&0x0f0f != 0x0a0a || n>>8 != n&0xff {
			list = append(list, n)
		}
	}
}
