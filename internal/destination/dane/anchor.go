package dane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/destination/webpki"
	"tlsonly/internal/policy"
)

var (
	errNoEE     = errors.New("the host's certificate is none of those in its TLSA records")
	errNoAnchor = errors.New("no certificate shown is in the host's TLSA records")
)

// maxTries is how many anchors a chain is judged by: each may cost a hundred signatures. Real hosts have two or three.
const maxTries = 16

// anchored finds the first record of usage DANE-TA(2) whose anchor the chain leads to. The error says in words why there
// is none.
func anchored(records []policy.TLSA, chain [][]byte, now time.Time) (policy.TLSA, error) {
	why, tries := errNoEE, 0
	for _, r := range records {
		if r.Usage != usageTA {
			continue
		}
		if why == errNoEE {
			why = errNoAnchor
		}
		roots := anchors(r, chain, now)
		if len(roots) > 0 || r.Matching == matchFull {
			tries++
		}
		if tries > maxTries {
			break
		}
		if len(roots) == 0 {
			continue
		}
		pool := x509.NewCertPool()
		for _, c := range roots {
			pool.AddCert(c)
		}
		// RFC 7671, section 5.2: a chain as for any server, up to the anchor.
		trust, detail := webpki.Judge(chain, pool, now)
		if trust == policy.Trusted {
			return r, nil
		}
		// The nearest miss is what an administrator wants to know.
		why = fmt.Errorf("TLSA record %s: %s", short(r), detail)
	}
	return policy.TLSA{}, why
}

// anchors finds the certificates that a record of usage DANE-TA(2) makes trust anchors: those shown above the leaf that it
// is for, the one it holds, or one that stands for the bare key it holds.
func anchors(r policy.TLSA, chain [][]byte, now time.Time) []*x509.Certificate {
	var found []*x509.Certificate
	add := func(der []byte) {
		// The leaf isn't its own anchor, though it be shown twice: that would be DANE-EE(3) by another name, with other checks.
		if bytes.Equal(der, chain[0]) {
			return
		}
		c, err := webpki.Parse(der)
		if err != nil {
			return
		}
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			// RFC 5280, section 6.1.1 (d): an anchor is a name and a key, when its certificate ends is not asked. OpenSSL
			// asks it of a self-signed one all the same.
			c.NotBefore, c.NotAfter = now, now
		}
		found = append(found, c)
	}
	for _, der := range chain[1:] {
		if matches(r, der) {
			add(der)
		}
	}
	switch {
	case len(found) > 0 || r.Matching != matchFull:
	case r.Selector == selectCert:
		// RFC 7671, section 5.2.2: the anchor may be in the DNS alone.
		add(r.Data)
	default:
		found = bare(r.Data, chain)
	}
	return found
}

// bare makes authorities of a public key that has no certificate: one for each name that signed something shown, for to
// crypto/x509 an issuer is a name and a key, and the record gives but the key (RFC 7671, section 5.2.3). Nothing else is
// known of it, so nothing else limits it.
func bare(key []byte, chain [][]byte) []*x509.Certificate {
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return nil
	}
	var made []*x509.Certificate
	for _, der := range chain[:min(len(chain), maxTries)] {
		c, err := webpki.Parse(der)
		if err != nil {
			continue
		}
		authority := &x509.Certificate{
			Raw:                   slices.Concat(key, c.RawIssuer), // by which a pool tells certificates apart
			RawSubject:            c.RawIssuer,
			Subject:               c.Issuer,
			PublicKey:             public,
			PublicKeyAlgorithm:    algorithm(public),
			NotBefore:             c.NotBefore,
			NotAfter:              c.NotAfter,
			Version:               3,
			BasicConstraintsValid: true,
			IsCA:                  true,
			MaxPathLen:            -1,
		}
		if c.CheckSignatureFrom(authority) == nil {
			made = append(made, authority)
		}
	}
	return made
}

// algorithm is that of a key to verify signatures with.
func algorithm(key any) x509.PublicKeyAlgorithm {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() <= webpki.MaxRSA {
			return x509.RSA
		}
	case *ecdsa.PublicKey:
		return x509.ECDSA
	case ed25519.PublicKey:
		return x509.Ed25519
	}
	return x509.UnknownPublicKeyAlgorithm
}
