package starttls

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"tlsonly/internal/policy"
)

// clientConfig accepts everything crypto/tls can be made to accept: this is a look, not a delivery.
func clientConfig(name string) *tls.Config {
	var ids []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		ids = append(ids, s.ID)
	}
	return &tls.Config{
		ServerName: name,
		// The chain is reported as shown; who asks for an authenticated host verifies it later, by DANE, MTA-STS or WebPKI.
		InsecureSkipVerify: true, // #nosec G402 -- as said; the version below, too
		MinVersion:         tls.VersionTLS10,
		CipherSuites:       ids,
		// Named, so that GODEBUG settings of the program change nothing.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024,
			tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
	}
}

// describe writes what a handshake agreed on into o.
func describe(o *policy.Observation, state tls.ConnectionState) {
	o.Version = policy.Version(state.Version)
	o.Cipher = tls.CipherSuiteName(state.CipherSuite)
	if s, ok := suiteOf(state.CipherSuite); ok {
		o.Bits = s.bits
		o.Exchange = s.exchange
	}
	if state.CurveID != 0 {
		o.Exchange = state.CurveID.String()
	}
	o.Chain = Certificates(state.PeerCertificates)
}

// Certificates reports a chain, in the order given.
func Certificates(chain []*x509.Certificate) []policy.Certificate {
	var certs []policy.Certificate
	for _, c := range chain {
		certs = append(certs, certificate(c))
	}
	return certs
}

func certificate(c *x509.Certificate) policy.Certificate {
	r := opaque(c.Raw)
	r.Subject = clean(c.Subject.String())
	r.Issuer = clean(c.Issuer.String())
	r.NotBefore, r.NotAfter = c.NotBefore, c.NotAfter
	r.Key = keyName(c)
	r.Signature = c.SignatureAlgorithm.String()
	for _, name := range c.DNSNames {
		r.Names = append(r.Names, clean(name))
	}
	for _, ip := range c.IPAddresses {
		r.Names = append(r.Names, ip.String())
	}
	return r
}

// opaque reports a certificate that crypto/x509 can't read: DANE may still match it.
func opaque(der []byte) policy.Certificate {
	sum := sha256.Sum256(der)
	return policy.Certificate{Fingerprint: hex.EncodeToString(sum[:]), Raw: der}
}

func keyName(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}
