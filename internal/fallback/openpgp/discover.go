package openpgp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/owner"
)

// Finder finds somebody's key. An error that wraps ErrNoKey says that there is
// none there, any other that this could not be found out.
type Finder interface {
	Find(ctx context.Context, a addr.Address, now time.Time) (*Key, error)
}

// First returns the key of the first finder that has one. Without any, the
// error wraps ErrNoKey only where that is so of all of them.
func First(ctx context.Context, a addr.Address, now time.Time, finders ...Finder) (*Key, error) {
	var none, unknown []error
	for _, f := range finders {
		key, err := f.Find(ctx, a, now)
		switch {
		case err == nil:
			return key, nil
		case errors.Is(err, ErrNoKey):
			none = append(none, err)
		default:
			unknown = append(unknown, err)
		}
	}
	if len(unknown) > 0 {
		return nil, errors.Join(unknown...)
	}
	if len(none) == 0 {
		return nil, ErrNoKey
	}
	return nil, errors.Join(none...)
}

// Find is Lookup: a Store is a Finder, too.
func (s *Store) Find(_ context.Context, a addr.Address, now time.Time) (*Key, error) {
	return s.Lookup(a, now)
}

// DANE finds keys in the DNS (RFC 7929).
type DANE struct {
	// Lookup returns the OPENPGPKEY records at a name, each a certificate in
	// binary, and whether DNSSEC vouches for them or for their absence. An error
	// says that neither is known.
	Lookup func(ctx context.Context, name addr.Domain) (records [][]byte, secure bool, err error)
}

// Find returns a's key. Without DNSSEC there is none: anybody could have put it
// there.
func (d DANE) Find(ctx context.Context, a addr.Address, now time.Time) (*Key, error) {
	name, err := owner.Name(a, owner.OpenPGP)
	if err != nil {
		return nil, fmt.Errorf("%w for %s in the DNS: %w", ErrNoKey, a, err)
	}
	records, secure, err := d.Lookup(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case len(records) == 0:
		return nil, fmt.Errorf("%w for %s in the DNS: %s has none", ErrNoKey, a, name)
	case !secure:
		return nil, fmt.Errorf("%w for %s in the DNS: DNSSEC doesn't vouch for %s", ErrNoKey, a, name)
	}
	return newest(records, a, "dane "+name.String(), now)
}

// newest returns the key, of those in these keyrings, that was made last and
// can be used to encrypt to a.
func newest(rings [][]byte, a addr.Address, source string, now time.Time) (*Key, error) {
	var best *Key
	var why []error
	for _, ring := range rings {
		certificates, err := ReadKeys(ring)
		if err != nil {
			why = append(why, fmt.Errorf("%w: %s: %w", ErrNoKey, source, err))
		}
		for _, octets := range certificates {
			key, err := ParseKey(octets, a, source, now)
			switch {
			case err != nil:
				why = append(why, err)
			case best == nil || key.Created.After(best.Created):
				best = key
			}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case len(why) > 0:
		return nil, errors.Join(why...)
	}
	return nil, fmt.Errorf("%w: %s", ErrNoKey, source)
}
