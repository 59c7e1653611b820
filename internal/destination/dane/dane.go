// Package dane answers what the TLSA records of a mail host are worth, and whether the chain of certificates that the
// host showed is the one they publish. It follows RFC 6698, section 2.1, RFC 7671, sections 5 and 9, and RFC 7672,
// sections 2.2 and 3. It is pure: records, chain and time come from its caller, who must have the records from an answer
// that DNSSEC vouches for; unsigned records are worth nothing.
//
// A match on an anchor, DANE-TA(2), is half an answer: the host's certificate
// must also bear one of the names that policy.ReferenceNames gives. The halves
// are apart because one look at a mail host serves many destinations, and the
// names are theirs.
//
// Verify asks for what OpenSSL asks for, since the MTA that delivers will, also where RFC 5280, section 6.1.1, would take
// an anchor's name and key for enough: an anchor that is a certificate must be an authority's, and when it is
// self-signed, valid now. A leaf is not its own anchor, unless it signed itself and the record holds its bare key. Paths
// are built and signatures verified by package webpki, with the anchors for roots.
//
// SECURITY: what can't be read or is not known here never matches, and a usable record that matches nothing is a
// mismatch, never "no DANE" (RFC 7672, section 2.2).
//
// BUGS: DANE-EE(3) takes any certificate whose key can be found in it, but DANE-TA(2) needs certificates that crypto/x509
// can read; see package webpki for those it can't, and for signatures it doesn't trust. Of anchors no more than 16 are tried.
package dane

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/policy"
)

// The numbers of a TLSA record (RFC 7218).
const (
	usageTA = 2
	usageEE = 3

	selectCert = 0
	selectSPKI = 1

	matchFull   = 0
	matchSHA256 = 1
	matchSHA512 = 2
)

// Why a record is no use.
var (
	errUsage    = errors.New("certificate usage is not 2 or 3")
	errSelector = errors.New("selector is not 0 or 1")
	errMatching = errors.New("matching type is not 0, 1 or 2")
	errLength   = errors.New("digest has the wrong length")
	errEmpty    = errors.New("no data")
	errNoCert   = errors.New("data is not a certificate")
	errNoKey    = errors.New("data is not a public key")
)

// Usable says why a mail client can't use a record, nil when it can.
func Usable(r policy.TLSA) error {
	// RFC 7672, section 3.1.3: PKIX-TA(0) and PKIX-EE(1) are unusable in SMTP, for there are no roots all agree on.
	if r.Usage != usageTA && r.Usage != usageEE {
		return errUsage
	}
	if r.Selector > selectSPKI {
		return errSelector
	}
	switch r.Matching {
	case matchSHA256:
		return length(r.Data, sha256.Size)
	case matchSHA512:
		return length(r.Data, sha512.Size)
	case matchFull:
	default:
		return errMatching
	}
	switch {
	case len(r.Data) == 0:
		return errEmpty
	case r.Selector == selectCert && publicKey(r.Data) == nil:
		return errNoCert
	case r.Selector == selectSPKI && !isPublicKey(r.Data):
		return errNoKey
	}
	return nil
}

func length(data []byte, want int) error {
	if len(data) != want {
		return errLength
	}
	return nil
}

// Result is what records and a chain are to each other.
type Result struct {
	// DANE is what the records are worth, whatever the chain: DANENone, DANEUnusable or DANEUsable.
	DANE policy.DANE
	// Match is empty when there is nothing to match with: no usable record, or no chain.
	Match policy.DANEMatch
	// Record is the one that matched, the zero TLSA when none did.
	Record policy.TLSA
	// Detail says in words why records are unusable or nothing matched.
	Detail string
}

// Verify compares the records of a host with the chain it showed, in DER, leaf first, at a time.
func Verify(records []policy.TLSA, chain [][]byte, now time.Time) Result {
	if len(records) == 0 {
		return Result{DANE: policy.DANENone}
	}
	var usable []policy.TLSA
	var why error
	for _, r := range records {
		if err := Usable(r); err == nil {
			usable = append(usable, r)
		} else if why == nil {
			why = fmt.Errorf("%s: %w", short(r), err)
		}
	}
	if len(usable) == 0 {
		return Result{DANE: policy.DANEUnusable, Detail: fmt.Sprintf("no TLSA record is usable: %s", why)}
	}
	if len(chain) == 0 {
		return Result{DANE: policy.DANEUsable, Detail: "no certificate was seen"}
	}
	usable = strongest(usable)
	// DANE-EE(3) first: it asks for less, and where it matches nothing else counts.
	for _, r := range usable {
		// RFC 7671, section 5.1: neither names nor validity nor who signed it matter.
		if r.Usage == usageEE && matches(r, chain[0]) {
			return Result{DANE: policy.DANEUsable, Match: policy.DANEMatchEE, Record: r}
		}
	}
	r, why := anchored(usable, chain, now)
	if why == nil {
		return Result{DANE: policy.DANEUsable, Match: policy.DANEMatchTA, Record: r}
	}
	if hint := misplaced(usable, chain); hint != "" {
		why = errors.New(hint)
	}
	return Result{DANE: policy.DANEUsable, Match: policy.DANEMismatch, Detail: why.Error()}
}

// misplaced finds the mistake that is made most: a record for a certificate that was shown, with the other usage.
func misplaced(records []policy.TLSA, chain [][]byte) string {
	for _, r := range records {
		i := slices.IndexFunc(chain, func(der []byte) bool { return matches(r, der) })
		switch {
		case r.Usage == usageTA && i == 0:
			return fmt.Sprintf("TLSA record %s is for the host's own certificate, which takes usage 3", short(r))
		case r.Usage == usageEE && i > 0:
			return fmt.Sprintf("TLSA record %s is for a certificate above the host's, which takes usage 2", short(r))
		}
	}
	return ""
}

// strongest leaves out digests where there is a stronger one of the same usage and selector. Full data is no digest and
// stays (RFC 7671, section 9).
func strongest(records []policy.TLSA) []policy.TLSA {
	return slices.DeleteFunc(slices.Clone(records), func(r policy.TLSA) bool {
		return r.Matching == matchSHA256 && slices.ContainsFunc(records, func(o policy.TLSA) bool {
			return o.Usage == r.Usage && o.Selector == r.Selector && o.Matching == matchSHA512
		})
	})
}

// matches reports whether a usable record is for a certificate, in DER.
func matches(r policy.TLSA, der []byte) bool {
	data := der
	if r.Selector == selectSPKI {
		if data = publicKey(der); data == nil {
			return false
		}
	}
	switch r.Matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return bytes.Equal(r.Data, data)
}

// short is a record for a sentence.
func short(r policy.TLSA) string {
	const most = 8
	if len(r.Data) <= most {
		return fmt.Sprintf("%q", r.String())
	}
	r.Data = r.Data[:most]
	return fmt.Sprintf("%q", r.String()+"...")
}
