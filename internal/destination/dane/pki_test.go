package dane

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

// holder is a certificate and its key.
type holder struct {
	der  []byte
	cert *x509.Certificate // nil when crypto/x509 can't read der
	key  crypto.Signer
}

// The kinds of certificates; more edits follow them.
func authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
}

func server(c *x509.Certificate) {
	c.DNSNames, c.KeyUsage = []string{"mx.test"}, x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, -2, 0), c.NotAfter.AddDate(0, -1, 0)
}

func notYet(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, 1, 0), c.NotAfter.AddDate(0, 2, 0)
}

type maker struct {
	t      testing.TB
	serial int64
}

// issue makes a certificate signed by by, or by itself when that is nil.
func (m *maker) issue(name string, by *holder, edits ...func(*x509.Certificate)) *holder {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.issueKey(name, by, key, edits...)
}

func (m *maker) issueKey(name string, by *holder, key crypto.Signer, edits ...func(*x509.Certificate)) *holder {
	m.t.Helper()
	m.serial++
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(m.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(time.Hour),
		MaxPathLen:   -1,
	}
	for _, e := range edits {
		e(template)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
	return &holder{der, cert, key}
}

func (m *maker) rsaKey() *rsa.PrivateKey {
	m.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

func (m *maker) edKey() ed25519.PrivateKey {
	m.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

// brainpool is a key on a curve that crypto/x509 doesn't know.
func brainpool(h *holder) []byte {
	p256, other := []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}, []byte{0x2b, 0x24, 3, 3, 2, 8, 1, 1}
	return bytes.Replace(h.spki(), p256, other, 1)
}

// odd makes a leaf that crypto/x509 can't read.
func (m *maker) odd() *holder {
	m.t.Helper()
	ca, err := testnet.NewCA()
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.test"}, NegativeSerial: true})
	if err != nil {
		m.t.Fatal(err)
	}
	return &holder{der: cert.Certificate[0], key: cert.PrivateKey.(crypto.Signer)}
}

// rr publishes a certificate.
func rr(usage, selector, matching uint8, h *holder) policy.TLSA {
	data := h.der
	if selector == selectSPKI {
		data = h.spki()
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return policy.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

// spki is the public key, by another way than the one under test.
func (h *holder) spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(h.key.Public())
	if err != nil {
		panic(err)
	}
	return der
}

func rrs(r ...policy.TLSA) []policy.TLSA { return r }

func hs(h ...*holder) []*holder { return h }

func chain(hs ...*holder) [][]byte {
	var ders [][]byte
	for _, h := range hs {
		ders = append(ders, h.der)
	}
	return ders
}
