package testnet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// CA is a certificate authority with a root of its own.
type CA struct {
	root *x509.Certificate
	key  crypto.Signer
}

// CertSpec says what a certificate is like. The zero spec is a certificate without names, valid from an hour ago
// for a day, signed by the root, with a P-256 key.
type CertSpec struct {
	Names      []string  // DNS names and IP addresses
	CommonName string    // default: the first name
	NotBefore  time.Time // default: an hour ago
	NotAfter   time.Time // default: a day from now
	SelfSigned bool      // signed by itself; Intermediates and Root mean nothing then
	RSA        bool      // an RSA key of 2048 bits instead of ECDSA P-256
	Client     bool      // for a client (RFC 5280, section 4.2.1.12: id-kp-clientAuth) instead of a server
	// Intermediates are put between the root and the leaf, and shown.
	Intermediates int
	// Root reports that the root is shown too, as DANE-TA(2) wants it (RFC 7671, section 5.2).
	Root bool
	// ExtraChain is the number of certificates shown at the end that have nothing to do with the others.
	ExtraChain int
	// NegativeSerial gives the leaf a serial number below zero, which RFC 5280, section 4.1.2.2, forbids, OpenSSL
	// takes and crypto/x509 refuses. The leaf's signature is wrong then.
	NegativeSerial bool
}

// NewCA makes a root, valid for ten years.
func NewCA() (*CA, error) {
	key, err := newKey(false)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	root, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "testnet root"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &CA{root: root, key: key}, nil
}

// Root returns the root certificate.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// Pool returns a pool with the root in it.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

// PEM returns the root as a file of trusted roots has it.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
}

// Issue makes a certificate with a fresh key, and the chain a server shows with it.
func (ca *CA) Issue(spec CertSpec) (tls.Certificate, error) {
	key, err := newKey(spec.RSA)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := spec.template()
	issuer, issuerKey := ca.root, ca.key
	var above [][]byte
	if spec.SelfSigned {
		issuer, issuerKey = nil, key
	} else {
		if spec.Root {
			above = [][]byte{ca.root.Raw}
		}
		for i := range spec.Intermediates {
			k, err := newKey(false)
			if err != nil {
				return tls.Certificate{}, err
			}
			c, err := sign(&x509.Certificate{
				Subject:               pkix.Name{CommonName: fmt.Sprintf("testnet intermediate %d", i+1)},
				NotBefore:             ca.root.NotBefore,
				NotAfter:              ca.root.NotAfter,
				IsCA:                  true,
				BasicConstraintsValid: true,
				KeyUsage:              x509.KeyUsageCertSign,
			}, issuer, k.Public(), issuerKey)
			if err != nil {
				return tls.Certificate{}, err
			}
			issuer, issuerKey = c, k
			above = append([][]byte{c.Raw}, above...)
		}
	}
	leaf, err := sign(template, issuer, key.Public(), issuerKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: append([][]byte{leaf.Raw}, above...)}
	if spec.NegativeSerial {
		cert.Leaf = nil
		if cert.Certificate[0], err = negateSerial(leaf); err != nil {
			return tls.Certificate{}, err
		}
	}
	for range spec.ExtraChain {
		stray, err := ca.Issue(CertSpec{CommonName: "testnet stray", SelfSigned: true})
		if err != nil {
			return tls.Certificate{}, err
		}
		cert.Certificate = append(cert.Certificate, stray.Certificate[0])
	}
	return cert, nil
}

// Expired is the spec of a certificate that ended yesterday.
func Expired(names ...string) CertSpec {
	now := time.Now()
	return CertSpec{Names: names, NotBefore: now.AddDate(0, -3, 0), NotAfter: now.AddDate(0, 0, -1)}
}

// SelfSigned is the spec of a certificate that no authority signed.
func SelfSigned(names ...string) CertSpec { return CertSpec{Names: names, SelfSigned: true} }

// ServerTLS is the configuration of a server that shows cert and speaks min to max, and with suites named only
// those (they concern TLS 1.2 and below). 0 is Go's default. RSA key exchange wants a certificate with RSA.
func ServerTLS(cert tls.Certificate, minVersion, maxVersion uint16, suites ...uint16) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   minVersion,
		MaxVersion:   maxVersion,
		CipherSuites: suites,
	}
}

func (spec CertSpec) template() *x509.Certificate {
	now := time.Now()
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: spec.CommonName},
		NotBefore:   spec.NotBefore,
		NotAfter:    spec.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if spec.Client {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if spec.RSA {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	if t.Subject.CommonName == "" && len(spec.Names) > 0 {
		t.Subject.CommonName = spec.Names[0]
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = now.Add(-time.Hour)
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = now.AddDate(0, 0, 1)
	}
	for _, name := range spec.Names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	return t
}

func newKey(asRSA bool) (crypto.Signer, error) {
	if asRSA {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, fmt.Errorf("rsa key: %w", err)
		}
		return key, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ecdsa key: %w", err)
	}
	return key, nil
}

// sign gives the template a serial number and signs it; parent nil is self-signed.
func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 112))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	// Bit 118 is set, so that the number is 15 octets, its first between 0x40 and 0x7f: negateSerial relies on it.
	template.SerialNumber = serial.SetBit(serial, 118, 1)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// negateSerial returns leaf's DER with the sign bit of its serial number set.
func negateSerial(leaf *x509.Certificate) ([]byte, error) {
	serial := leaf.SerialNumber.Bytes()
	der := append([]byte(nil), leaf.Raw...)
	for i := 0; i+len(serial) <= len(der); i++ {
		if string(der[i:i+len(serial)]) == string(serial) {
			der[i] |= 0x80
			return der, nil
		}
	}
	return nil, fmt.Errorf("certificate %q: serial number not found", leaf.Subject.CommonName)
}
