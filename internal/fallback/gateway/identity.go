package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tlsonly/internal/contract"
)

// Identity is by what the MTA knows the gateway, and the gateway its own copies:
// a self-signed certificate, and secrets that follow from its key.
type Identity struct {
	certificate tls.Certificate
	fingerprint string
	secret      []byte // from which the others follow
}

// OpenIdentity reads the identity from a file, and makes it where there is none.
// The file has mode 0600; one that others may read is refused. Whoever has it can
// take the gateway's place.
func OpenIdentity(path string) (*Identity, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newIdentity(); err == nil {
			err = writeSecret(path, text)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("gateway: identity: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("gateway: identity: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("gateway: identity: %s has mode %#o: others may read it; chmod 600, or remove it for a new one", path, mode)
	}
	i, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("gateway: identity: %s: %w; remove it for a new one", path, err)
	}
	return i, nil
}

func parseIdentity(text []byte) (*Identity, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, err
	}
	return &Identity{certificate: pair, secret: key, fingerprint: fingerprintOf(pair.Certificate[0])}, nil
}

// newIdentity makes a key and its certificate, as PEM. The certificate has no end
// (RFC 5280, section 4.1.2.5): the MTA knows it by its fingerprint.
func newIdentity() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: contract.GatewayName},
		DNSNames:     []string{contract.GatewayName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), nil
}

// writeSecret makes a file of mode 0600 that is there whole or not at all, and
// leaves one that is there already.
func writeSecret(path string, text []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// Fingerprint returns the SHA-256 of the certificate, in hexadecimal digits with
// colons, as Postfix has it.
// "" is that of no identity.
func (i *Identity) Fingerprint() string {
	if i == nil {
		return ""
	}
	return i.fingerprint
}

// derive returns the secret for one purpose.
func (i *Identity) derive(purpose string) []byte {
	mac := hmac.New(sha256.New, i.secret)
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

// fingerprintOf returns the SHA-256 of a certificate in DER.
func fingerprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	parts := make([]string, len(sum))
	for n, b := range sum {
		parts[n] = strings.ToUpper(hex.EncodeToString([]byte{b}))
	}
	return strings.Join(parts, ":")
}
