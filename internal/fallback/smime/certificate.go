package smime

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/keyfile"
)

// ErrNoCertificate says that there is no certificate for an address that could
// be used, for certain. Errors that wrap it say which there are and why not.
var ErrNoCertificate = errors.New("no S/MIME certificate")

// Certificate is somebody's certificate. It is safe for concurrent use.
type Certificate struct {
	X509        *x509.Certificate
	Address     addr.Address // whose it is, as it was asked for
	Fingerprint string       // SHA-256 in upper-case hexadecimal digits
	Algorithm   string       // "RSA 3072", "ECDH P-256"
	Source      string       // the file, or "dane NAME"
}

// Use checks that a certificate can be used to encrypt to a at now: it is
// valid, has exactly this address as its rfc822Name (case doesn't matter), may
// encrypt keys (keyUsage) for mail (extendedKeyUsage), and isn't weak. What it
// doesn't say it doesn't forbid (RFC 8550, section 4.4). Who issued it isn't
// looked at: see Verify. Source is where it comes from.
//
// Errors wrap ErrNoCertificate.
func Use(c *x509.Certificate, a addr.Address, source string, now time.Time) (*Certificate, error) {
	fail := func(err error) (*Certificate, error) {
		return nil, fmt.Errorf("%w: %s: certificate %s: %w", ErrNoCertificate, source, fingerprint(c), err)
	}
	if !slices.Contains(addresses(c), a.Fold()) || a.IsNull() {
		return fail(fmt.Errorf("no rfc822Name %s", a))
	}
	if err := valid(c, now); err != nil {
		return fail(err)
	}
	var name string
	usage := x509.KeyUsageKeyEncipherment
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2047 { // one of 2048 can have 2047
			return fail(fmt.Errorf("RSA of %d bits is too weak", k.N.BitLen()))
		}
		name = fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		if _, err := k.ECDH(); err != nil || k.Curve.Params().BitSize < 256 {
			return fail(fmt.Errorf("its curve %s can't be used", k.Curve.Params().Name))
		}
		name, usage = "ECDH "+k.Curve.Params().Name, x509.KeyUsageKeyAgreement
	default:
		return fail(fmt.Errorf("a key of type %s can't be used: RSA, P-256, P-384 and P-521 can", c.PublicKeyAlgorithm))
	}
	if c.KeyUsage != 0 && c.KeyUsage&usage == 0 {
		return fail(errors.New("its keyUsage doesn't let it encrypt"))
	}
	// RFC 8550, section 4.4.4.
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageEmailProtection) &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return fail(errors.New("its extendedKeyUsage has no emailProtection"))
	}
	return &Certificate{X509: c, Address: a, Fingerprint: fingerprint(c), Algorithm: name, Source: source}, nil
}

// Verify checks that c leads to one of the roots, over these intermediates.
func (c *Certificate) Verify(roots, intermediates *x509.CertPool, now time.Time) error {
	_, err := c.X509.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}})
	return err
}

func valid(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("it is valid from %s on only", c.NotBefore.UTC().Format(time.DateTime))
	case now.After(c.NotAfter):
		return fmt.Errorf("it has expired at %s", c.NotAfter.UTC().Format(time.DateTime))
	}
	return nil
}

func fingerprint(c *x509.Certificate) string { return fmt.Sprintf("%X", sha256.Sum256(c.Raw)) }

var oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

// addresses returns the addresses of a certificate, folded: its rfc822Names,
// or where it has none those of its subject (RFC 8550, section 3).
func addresses(c *x509.Certificate) []addr.Address {
	names := c.EmailAddresses
	if len(names) == 0 {
		for _, n := range c.Subject.Names {
			if s, ok := n.Value.(string); ok && n.Type.Equal(oidEmailAddress) {
				names = append(names, s)
			}
		}
	}
	var all []addr.Address
	for _, n := range names {
		// What an MTA would take to be an address isn't enough here.
		a, err := addr.ParsePath(n)
		if err == nil && !a.Domain.IsZero() && !strings.ContainsAny(n, " <>()\t") {
			all = append(all, a.Fold())
		}
	}
	return all
}

// Store holds the certificates of files. It is safe for concurrent use.
type Store struct {
	*keyfile.Store[*x509.Certificate]
}

// OpenStore returns a Store of these files and folders, read (keyfile.Open).
func OpenStore(paths []string) *Store {
	return &Store{keyfile.Open(paths, func(text []byte, add func(*x509.Certificate, []addr.Address), bad func(string, error)) {
		blocks, err := ReadCertificates(text)
		if err != nil {
			bad("", err)
		}
		for i, block := range blocks {
			number := fmt.Sprintf("certificate number %d", i+1)
			c, err := x509.ParseCertificate(block)
			if err != nil {
				bad(number, err)
				continue
			}
			named := addresses(c)
			if len(named) == 0 {
				if !c.IsCA { // issuers may stand behind
					bad(number, errors.New("no rfc822Name, so nobody's"))
				}
				continue
			}
			add(c, named)
		}
	})}
}

// Lookup returns the certificate to encrypt to a with at now: of several the
// one that became valid last and can be used.
//
// Errors: one that wraps ErrNoCertificate when there is none, with the reasons
// of those that can't be used; another one when a file couldn't be read, which
// could have had it.
func (s *Store) Lookup(a addr.Address, now time.Time) (*Certificate, error) {
	return keyfile.Choose(s.Store, a, keyfile.Choice[*x509.Certificate, *Certificate]{
		Kind:   "S/MIME certificates",
		None:   ErrNoCertificate,
		Use:    func(e keyfile.Entry[*x509.Certificate]) (*Certificate, error) { return Use(e.Key, a, e.File, now) },
		Better: func(x, y *Certificate) bool { return x.X509.NotBefore.After(y.X509.NotBefore) },
	})
}

// ReadCertificates returns the certificates of a file in DER. It may be one in
// DER, or any number in PEM with text between. What can't be read is an error,
// beside those that can.
func ReadCertificates(text []byte) ([][]byte, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // an editor's mark of UTF-8
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("empty")
	}
	if text[0] == tagSequence {
		if _, err := x509.ParseCertificate(text); err != nil {
			return nil, fmt.Errorf("no certificate in DER: %w", err)
		}
		return [][]byte{text}, nil
	}
	var all [][]byte
	var faults []error
	rest := text
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			faults = append(faults, errors.New("a private key, which has no business here"))
		case block.Type != "CERTIFICATE" && block.Type != "X509 CERTIFICATE":
			faults = append(faults, fmt.Errorf("no certificate, but %.40s", block.Type))
		default:
			all = append(all, block.Bytes)
		}
	}
	if n := bytes.Count(text, []byte("-----BEGIN")); n > len(all)+len(faults) {
		faults = append(faults, fmt.Errorf("%d of %d blocks of PEM can't be read", n-len(all)-len(faults), n))
	}
	if len(all) == 0 && len(faults) == 0 {
		return nil, errors.New("no certificate: PEM or DER is read")
	}
	return all, errors.Join(faults...)
}
