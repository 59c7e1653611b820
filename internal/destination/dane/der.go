package dane

import (
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// publicKey finds the SubjectPublicKeyInfo, with its tag and length, in a certificate (RFC 5280, section 4.1); nil when it
// isn't one. It looks at no more than is needed to find it, so that DANE-EE(3) works with the certificates that
// crypto/x509 refuses: to such a record the key is all that counts.
func publicKey(der []byte) []byte {
	input := cryptobyte.String(der)
	var cert, tbs, key cryptobyte.String
	if !input.ReadASN1(&cert, asn1.SEQUENCE) || !input.Empty() || !cert.ReadASN1(&tbs, asn1.SEQUENCE) {
		return nil
	}
	if !tbs.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) || // version
		!tbs.SkipASN1(asn1.INTEGER) || // serial number
		!tbs.SkipASN1(asn1.SEQUENCE) || // signature
		!tbs.SkipASN1(asn1.SEQUENCE) || // issuer
		!tbs.SkipASN1(asn1.SEQUENCE) || // validity
		!tbs.SkipASN1(asn1.SEQUENCE) || // subject
		!tbs.ReadASN1Element(&key, asn1.SEQUENCE) || !isPublicKey(key) {
		return nil
	}
	return key
}

// isPublicKey reports whether der is a SubjectPublicKeyInfo, of whatever algorithm, and nothing more.
func isPublicKey(der []byte) bool {
	input := cryptobyte.String(der)
	var info, algorithm cryptobyte.String
	return input.ReadASN1(&info, asn1.SEQUENCE) && input.Empty() &&
		info.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.SkipASN1(asn1.OBJECT_IDENTIFIER) &&
		info.SkipASN1(asn1.BIT_STRING) && info.Empty()
}
