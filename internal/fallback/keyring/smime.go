package keyring

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/smime"
	"tlsonly/internal/policy"
)

// SMIMEFinder finds somebody's certificate, as smime.DANE does.
type SMIMEFinder interface {
	Find(ctx context.Context, a addr.Address, now time.Time) (*smime.Certificate, error)
}

// smimeSource has S/MIME certificates.
type smimeSource struct {
	*files
	store  *smime.Store
	finder SMIMEFinder // nil: nobody is asked
}

// SMIME returns the source of S/MIME certificates: these files and folders, and
// who is asked where owners publish them, nil for nobody.
func SMIME(paths []string, finder SMIMEFinder) Source {
	s := &smimeSource{finder: finder}
	s.files = watch(paths, func() { s.store.Reload() })
	s.store = smime.OpenStore(paths)
	return s
}

func (s *smimeSource) Method() policy.Method { return policy.SMIME }

func (s *smimeSource) None(err error) bool { return errors.Is(err, smime.ErrNoCertificate) }

func (s *smimeSource) Addresses() []addr.Address { return s.store.Addresses() }

func (s *smimeSource) Split(text []byte) ([][]byte, error) { return smime.ReadCertificates(text) }

func (s *smimeSource) Discovers() bool { return s.finder != nil }

func (s *smimeSource) Filed(a addr.Address, now time.Time) (Found, bool, error) {
	s.fresh()
	c, err := s.store.Lookup(a, now)
	if err != nil {
		return Found{}, s.store.Has(a), err
	}
	return ofCertificate(c), true, nil
}

func (s *smimeSource) Find(ctx context.Context, a addr.Address, now time.Time) (Found, error) {
	if s.finder == nil {
		return Found{}, fmt.Errorf("%w: nothing says where to look", smime.ErrNoCertificate)
	}
	c, err := s.finder.Find(ctx, a, now)
	if err != nil {
		return Found{}, err
	}
	return ofCertificate(c), nil
}

func (s *smimeSource) Parse(octets []byte, a addr.Address, source string, now time.Time) (Found, error) {
	parsed, err := x509.ParseCertificate(octets)
	if err != nil {
		return Found{}, fmt.Errorf("%w: %s: %w", smime.ErrNoCertificate, source, err)
	}
	c, err := smime.Use(parsed, a, source, now)
	if err != nil {
		return Found{}, err
	}
	return ofCertificate(c), nil
}

// Same goes by the public key: a certificate that was renewed for it changes
// nothing about who can read.
func (s *smimeSource) Same(octets []byte, next Found, _ time.Time) bool {
	was, err := x509.ParseCertificate(octets)
	return err == nil && bytes.Equal(was.RawSubjectPublicKeyInfo, next.use.(*smime.Certificate).X509.RawSubjectPublicKeyInfo)
}

func (s *smimeSource) Problems() []error { return asErrors(s.store.Problems()) }

func ofCertificate(c *smime.Certificate) Found {
	return Found{Fingerprint: c.Fingerprint, Algorithm: c.Algorithm, Created: c.X509.NotBefore, Expires: c.X509.NotAfter,
		Source: c.Source, Octets: c.X509.Raw, use: c}
}

// NewSMIME returns the method "smime" with the certificates of a Ring of SMIME.
// Signer may be nil, and subject "" for the default.
func NewSMIME(r *Ring, signer *smime.Signer, subject string) fallback.Method {
	return method{r, subject, func(w io.Writer, found Found, inside func(io.Writer) error) error {
		return found.use.(*smime.Certificate).WriteMIME(w, smime.Options{Signer: signer}, inside)
	}}
}
