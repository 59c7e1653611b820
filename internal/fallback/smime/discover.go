package smime

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/owner"
)

// Record is an SMIMEA record (RFC 8162, section 2).
type Record struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// The values of a record that has a certificate in it (RFC 6698, section 2.1).
const (
	usagePKIX = 1 // one that has to lead to an authority, too
	usageDANE = 3 // one that needs nobody else
)

// DANE finds certificates in the DNS (RFC 8162).
type DANE struct {
	// Lookup returns the SMIMEA records at a name, and whether DNSSEC vouches for
	// them or for their absence. An error says that neither is known.
	Lookup func(ctx context.Context, name addr.Domain) (records []Record, secure bool, err error)
	// Roots are the authorities that certificates of usage 1 have to lead to; nil
	// for none: such a certificate can't be used.
	Roots *x509.CertPool
}

// Find returns a's certificate: the one that became valid last and can be used.
// A record has to have it whole: of usage 3, or of 1 with Roots, selector 0,
// matching type 0. Digests and authorities don't give one.
//
// Errors: one that wraps ErrNoCertificate when there is none; another one when
// that couldn't be found out. Without DNSSEC there is none.
func (d DANE) Find(ctx context.Context, a addr.Address, now time.Time) (*Certificate, error) {
	none := func(err error) (*Certificate, error) {
		return nil, fmt.Errorf("%w for %s in the DNS: %w", ErrNoCertificate, a, err)
	}
	name, err := owner.Name(a, owner.SMIME)
	if err != nil {
		return none(err)
	}
	records, secure, err := d.Lookup(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case len(records) == 0:
		return none(fmt.Errorf("%s has none", name))
	case !secure:
		return none(fmt.Errorf("DNSSEC doesn't vouch for %s", name))
	}
	var best *Certificate
	var why []error
	for _, r := range records {
		c, err := d.use(r, a, "dane "+name.String(), now)
		switch {
		case err != nil:
			why = append(why, err)
		case best == nil || c.X509.NotBefore.After(best.X509.NotBefore):
			best = c
		}
	}
	if best == nil {
		return nil, errors.Join(why...)
	}
	return best, nil
}

// use returns the certificate of a record. Its errors wrap ErrNoCertificate.
func (d DANE) use(r Record, a addr.Address, source string, now time.Time) (*Certificate, error) {
	fail := func(err error) (*Certificate, error) {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoCertificate, source, err)
	}
	if r.Usage != usageDANE && r.Usage != usagePKIX || r.Selector != 0 || r.Matching != 0 {
		return fail(fmt.Errorf("a record %d %d %d has no certificate for a person in it", r.Usage, r.Selector, r.Matching))
	}
	parsed, err := x509.ParseCertificate(r.Data)
	if err != nil {
		return fail(err)
	}
	c, err := Use(parsed, a, source, now)
	if err != nil {
		return nil, err
	}
	if r.Usage == usagePKIX {
		if d.Roots == nil {
			return fail(errors.New("a record of usage 1 needs authorities, and none are configured"))
		}
		if err := c.Verify(d.Roots, nil, now); err != nil {
			return fail(err)
		}
	}
	return c, nil
}
