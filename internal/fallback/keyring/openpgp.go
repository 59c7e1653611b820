package keyring

import (
	"context"
	"errors"
	"io"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/openpgp"
	"tlsonly/internal/policy"
)

// openpgpSource has OpenPGP keys.
type openpgpSource struct {
	*files
	store   *openpgp.Store
	finders []openpgp.Finder
}

// OpenPGP returns the source of OpenPGP keys: these files and folders, and who
// is asked where owners publish them.
func OpenPGP(paths []string, finders ...openpgp.Finder) Source {
	s := &openpgpSource{finders: finders}
	s.files = watch(paths, func() { s.store.Reload() })
	s.store = openpgp.OpenStore(paths)
	return s
}

func (s *openpgpSource) Method() policy.Method { return policy.OpenPGP }

func (s *openpgpSource) None(err error) bool { return errors.Is(err, openpgp.ErrNoKey) }

func (s *openpgpSource) Addresses() []addr.Address { return s.store.Addresses() }

func (s *openpgpSource) Split(text []byte) ([][]byte, error) { return openpgp.ReadKeys(text) }

func (s *openpgpSource) Discovers() bool { return len(s.finders) > 0 }

func (s *openpgpSource) Filed(a addr.Address, now time.Time) (Found, bool, error) {
	s.fresh()
	key, err := s.store.Lookup(a, now)
	if err != nil {
		return Found{}, s.store.Has(a), err
	}
	return ofKey(key), true, nil
}

func (s *openpgpSource) Find(ctx context.Context, a addr.Address, now time.Time) (Found, error) {
	key, err := openpgp.First(ctx, a, now, s.finders...)
	if err != nil {
		return Found{}, err
	}
	return ofKey(key), nil
}

func (s *openpgpSource) Parse(octets []byte, a addr.Address, source string, now time.Time) (Found, error) {
	key, err := openpgp.ParseKey(octets, a, source, now)
	if err != nil {
		return Found{}, err
	}
	return ofKey(key), nil
}

// Same goes by the primary key: only its owner can sign what is new. A key that
// was revoked and isn't any more is another one, for nobody can take that back.
func (s *openpgpSource) Same(octets []byte, next Found, now time.Time) bool {
	fingerprint, revoked, err := openpgp.Identity(octets, now)
	return err == nil && fingerprint == next.Fingerprint && !revoked
}

func (s *openpgpSource) Problems() []error { return asErrors(s.store.Problems()) }

func ofKey(k *openpgp.Key) Found {
	return Found{Fingerprint: k.Fingerprint, Algorithm: k.Algorithm, Created: k.Created, Expires: k.Expires,
		Source: k.Source, Octets: k.Octets, use: k}
}

// NewOpenPGP returns the method "openpgp" with the keys of a Ring of OpenPGP.
// Signer may be nil, and subject "" for the default.
func NewOpenPGP(r *Ring, signer *openpgp.Signer, subject string) fallback.Method {
	return method{r, subject, func(w io.Writer, found Found, inside func(io.Writer) error) error {
		return found.use.(*openpgp.Key).WriteMIME(w, openpgp.Options{Signer: signer}, inside)
	}}
}
