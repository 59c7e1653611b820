package starttls

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// clientConfig accepts everything that crypto/tls can be made to accept and the
// MTA's stack does: this is a look, not a delivery.
func clientConfig(name string, mta profile.TLS) *tls.Config {
	var ids []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if mta.Takes(s.ID) {
			ids = append(ids, s.ID)
		}
	}
	// Named, so that GODEBUG settings of the program change nothing.
	groups := []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024,
		tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	shared := slices.DeleteFunc(slices.Clone(groups), func(g tls.CurveID) bool { return !mta.Shares(uint16(g)) })
	if len(shared) > 0 { // none is the default of crypto/tls, which is more
		groups = shared
	}
	lowest, highest := policy.TLS10, policy.TLS13
	if len(mta.Versions) > 0 {
		lowest, highest = max(lowest, slices.Min(mta.Versions)), min(highest, slices.Max(mta.Versions))
	}
	return &tls.Config{
		ServerName: name,
		// The chain is reported as shown; who asks for an authenticated host verifies it later, by DANE, MTA-STS or WebPKI.
		InsecureSkipVerify: true, // #nosec G402 -- as said; the version below, too
		MinVersion:         uint16(lowest),
		MaxVersion:         uint16(highest),
		CipherSuites:       ids,
		CurvePreferences:   groups,
	}
}

// alike reports whether a host with which crypto/tls has agreed on a version will
// agree with the MTA, too: where the MTA takes all signatures that crypto/tls does
// and, below TLS 1.3, Diffie-Hellman as it is still met.
func alike(mta profile.TLS, v policy.Version) bool {
	const stillMet = 1024 // bits
	if v < policy.TLS13 && mta.MinDH > stillMet {
		return false
	}
	return !slices.ContainsFunc(usualSignatures, func(scheme uint16) bool { return !mta.Signs(scheme) })
}

// usualSignatures are those of crypto/tls that are made with keys of today.
var usualSignatures = []uint16{0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0807, 0x0401, 0x0501, 0x0601}

// progress is how far a handshake came.
type progress struct {
	shown bool // the host's certificates were read
	asked bool // for ours
}

// watched has f told by a handshake.
func (f *progress) watched(config *tls.Config) *tls.Config {
	config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
		f.shown = true
		return nil
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		f.asked = true
		return new(tls.Certificate), nil
	}
	return config
}

// explain puts into words what a host that asked for a certificate most likely ended TLS for. With
// TLS 1.3 the handshake is over for us before it tells (RFC 8446, section 4.4.2.4).
func (f *progress) explain(found *failure, mta profile.TLS) {
	ended := found.stage == policy.StageHandshake || found.cut
	if !f.asked || !ended || isTimeout(found.err) {
		return
	}
	if mta.Certificate {
		found.outcome = policy.SawUnreachable // the MTA has one to show, which may do
	}
	found.err = fmt.Errorf("it asks for a client certificate and ends TLS without: %w", found.err)
}

// badSignature reports whether the host has another key than that of its
// certificate: no stack goes on from there. crypto/tls has no type for that, only
// words.
func badSignature(err error) bool {
	return err != nil && strings.Contains(err.Error(), "invalid signature by the server certificate")
}

// byHost reports whether the host ended a handshake, by an alert or without a word.
func byHost(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && e.Op == "remote error" || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
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
