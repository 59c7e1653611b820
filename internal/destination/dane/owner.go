package dane

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"tlsonly/internal/addr"
)

// Owner is the name at which the TLSA records of a TCP service are (RFC 6698, section 3): "_25._tcp.mx.example.com". An
// address literal has none, nor has a name that leaves no room.
func Owner(base addr.Domain, port uint16) (addr.Domain, error) {
	if base.IsZero() || base.IsLiteral() {
		return addr.Domain{}, fmt.Errorf("TLSA records of %q: not a host name", base)
	}
	owner, err := addr.ParseDomain(fmt.Sprintf("_%d._tcp.%s", port, base))
	if err != nil {
		return addr.Domain{}, fmt.Errorf("TLSA records of %s: %w", base, err)
	}
	return owner, nil
}

// KeyDigest is what a record "3 1 1" for a certificate, in DER, has: the SHA-256 of its public key in hexadecimal; "" where
// none can be found in it.
func KeyDigest(der []byte) string {
	key := publicKey(der)
	if key == nil {
		return ""
	}
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}
