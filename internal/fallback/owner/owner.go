// Package owner says at which name of the DNS a person's keys are (RFC 7929,
// section 3; RFC 8162, section 3).
package owner

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"golang.org/x/text/unicode/norm"

	"tlsonly/internal/addr"
)

// The labels under which keys of each kind are.
const (
	OpenPGP = "_openpgpkey"
	SMIME   = "_smimecert"
)

// Name returns the name of a's keys of this kind: the first 28 octets of the
// local part's SHA-256 in hexadecimal, the kind, the domain. The local part is
// taken in the case it is in: only its host knows whether that matters.
//
// Errors: an address without a domain name, or a domain that is too long.
func Name(a addr.Address, kind string) (addr.Domain, error) {
	if a.Domain.IsZero() || a.Domain.IsLiteral() {
		return addr.Domain{}, errors.New("the address has no domain name")
	}
	sum := sha256.Sum256([]byte(norm.NFC.String(a.Local)))
	return addr.ParseDomain(hex.EncodeToString(sum[:28]) + "." + kind + "." + a.Domain.String())
}
