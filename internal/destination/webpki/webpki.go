// Package webpki answers whether a chain of certificates, as a server showed it, leads to a root: valid now, for a
// server, signed all the way. What stands in the way it names in one word of package policy and in a sentence.
//
// It doesn't judge names: policy.Certificate.Bears does, for one look at a mail host serves many destinations. Which
// roots count is its caller's choice: those of the host, those of a file, or the anchors that package dane found in
// TLSA records. Nothing is looked up: no missing certificate is fetched, no revocation asked for, as no MTA does
// either.
//
// It follows RFC 5280, section 6, and OpenSSL where that is stricter than crypto/x509 and an MTA would refuse what we
// call good: the key usage of the leaf, and "any" for an extended key usage. Certificates above the leaf may come in any
// order, and ones that don't belong there are ignored (RFC 8446, section 4.4.2).
//
// SECURITY: what is in a certificate was written by strangers. It is quoted in the sentence, printable and cut.
//
// BUGS: signatures with SHA-1, MD5 or DSA and certificates that crypto/x509 can't read (a negative serial number, keys
// on Brainpool curves) are not trusted, though some builds of OpenSSL would.
package webpki

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tlsonly/internal/policy"
)

// Judge says what public key infrastructure makes of a chain, in DER, leaf first, at a time, and why in words; for a
// trusted one there is nothing to say. Without a chain nothing is judged. roots nil are the host's.
func Judge(chain [][]byte, roots *x509.CertPool, now time.Time) (policy.Trust, string) {
	if len(chain) == 0 {
		return policy.TrustNotJudged, ""
	}
	leaf, err := Parse(chain[0])
	if err != nil {
		return policy.TrustInvalid, fmt.Sprintf("the host's certificate can't be read: %s", quote(err.Error()))
	}
	shown := []*x509.Certificate{leaf}
	above := x509.NewCertPool()
	for _, der := range chain[1:] {
		if c, err := Parse(der); err == nil {
			shown = append(shown, c)
			above.AddCert(c)
		}
	}
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: above,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err == nil {
		return server(paths)
	}
	if signed(leaf, leaf) {
		return policy.TrustSelfSigned, fmt.Sprintf("%s signed itself and is not trusted", name(leaf))
	}
	return explain(err, shown, now)
}

// server judges what OpenSSL asks of a path and crypto/x509 doesn't; one good path is enough.
func server(paths [][]*x509.Certificate) (policy.Trust, string) {
	const usable = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	leaf := paths[0][0]
	if leaf.KeyUsage != 0 && leaf.KeyUsage&usable == 0 {
		return policy.TrustInvalid, fmt.Sprintf("the key of %s is not for TLS, its key usage says", name(leaf))
	}
	var other *x509.Certificate
	for _, path := range paths {
		i := slices.IndexFunc(path, forAny)
		if i < 0 {
			return policy.Trusted, ""
		}
		other = path[i]
	}
	return policy.TrustInvalid, fmt.Sprintf("%s is for any use, not for a server's: extended key usage", name(other))
}

// forAny reports whether a certificate names uses, "any" among them and a server's not. RFC 5280, section 4.2.1.12, lets
// a program that wants a certain use refuse that; OpenSSL does.
func forAny(c *x509.Certificate) bool {
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
}

// explain puts the error of a verification into words.
func explain(err error, shown []*x509.Certificate, now time.Time) (policy.Trust, string) {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var critical x509.UnhandledCriticalExtension
	switch {
	case errors.As(err, &invalid):
		return explainInvalid(invalid, now)
	case errors.As(err, &unknown):
		return missing(shown)
	case errors.As(err, &critical):
		return policy.TrustInvalid, "a certificate has a critical extension that is not known here"
	}
	return policy.TrustInvalid, quote(err.Error())
}

func explainInvalid(e x509.CertificateInvalidError, now time.Time) (policy.Trust, string) {
	subject := name(e.Cert)
	switch e.Reason {
	case x509.Expired:
		if now.Before(e.Cert.NotBefore) {
			return policy.TrustNotYet, fmt.Sprintf("%s is valid from %s", subject, e.Cert.NotBefore.UTC().Format(time.RFC3339))
		}
		return policy.TrustExpired, fmt.Sprintf("%s expired on %s", subject, e.Cert.NotAfter.UTC().Format(time.RFC3339))
	case x509.NotAuthorizedToSign:
		return policy.TrustInvalid, fmt.Sprintf("%s signed another certificate and may not", subject)
	case x509.TooManyIntermediates:
		return policy.TrustInvalid, fmt.Sprintf("%s allows fewer authorities below it", subject)
	case x509.IncompatibleUsage:
		return policy.TrustInvalid, fmt.Sprintf("%s is not for a server, or an authority above it is not: extended key usage", subject)
	case x509.CANotAuthorizedForThisName, x509.NameConstraintsWithoutSANs, x509.UnconstrainedName:
		return policy.TrustInvalid, fmt.Sprintf("the names of %s are not those that an authority above it may sign for", subject)
	}
	return policy.TrustInvalid, fmt.Sprintf("%s: %s", subject, quote(e.Error()))
}

// maxClimb is how many certificates missing climbs to; real chains have four, and each step may cost many signatures.
const maxClimb = 8

// missing says where a chain that leads to no root ends. It climbs from the leaf as long as signatures hold.
func missing(shown []*x509.Certificate) (policy.Trust, string) {
	top := shown[0]
	for range maxClimb {
		if signed(top, top) {
			return policy.TrustUnknownIssuer, fmt.Sprintf("the chain ends with %s, which is not trusted", name(top))
		}
		if weak(top.SignatureAlgorithm) {
			return policy.TrustInvalid, fmt.Sprintf("%s is signed with %s, which proves nothing", name(top), top.SignatureAlgorithm)
		}
		i := slices.IndexFunc(shown, func(c *x509.Certificate) bool { return signed(top, c) })
		if i < 0 {
			break
		}
		if top.CheckSignatureFrom(shown[i]) != nil { // RFC 5280, section 6.1.4 (k) and (n): not with this certificate
			return policy.TrustInvalid, fmt.Sprintf("%s signed %s and may not sign", name(shown[i]), name(top))
		}
		top = shown[i]
	}
	for _, c := range shown {
		// The same name and key identifier: this is meant to be the issuer, so it is the signature that is wrong.
		if bytes.Equal(c.RawSubject, top.RawIssuer) && bytes.Equal(c.SubjectKeyId, top.AuthorityKeyId) && !signed(top, c) {
			return policy.TrustInvalid, fmt.Sprintf("the signature of %s is not by %s", name(top), name(c))
		}
	}
	return policy.TrustUnknownIssuer, fmt.Sprintf("%s is signed by %s, which is neither shown nor trusted", name(top),
		quote(top.Issuer.String()))
}

// weak reports whether crypto/x509 takes no certificate signed like that.
func weak(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.DSAWithSHA256:
		return true
	}
	return false
}

// MaxRSA is the size in bits of the longest RSA key that is used, as in crypto/tls: verifying takes time with its square,
// and who shows a certificate chooses the key.
const MaxRSA = 8192

// Parse reads a certificate in DER. One whose key would take too long to verify with is refused.
func Parse(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > MaxRSA {
		return nil, fmt.Errorf("an RSA key of %d bits", key.N.BitLen())
	}
	return c, nil
}

// signed reports whether parent signed c, whatever its right to do so.
func signed(c, parent *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, parent.RawSubject) &&
		parent.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// maxText is how much of a certificate's own text is told, in octets.
const maxText = 120

// name tells of a certificate in a sentence: its subject, or its serial number where it has none.
func name(c *x509.Certificate) string {
	subject := c.Subject.String()
	if subject == "" {
		return "the certificate with serial number " + quote(c.SerialNumber.Text(16))
	}
	return quote(subject)
}

// quote makes a stranger's text fit for a log line.
func quote(s string) string { return strconv.QuoteToASCII(s[:min(len(s), maxText)]) }
