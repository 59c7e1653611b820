package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/store"
)

// ErrNothing says that there was nothing to do it to.
var ErrNothing = errors.New("no such key")

// Fetch looks where a's keys are published, now, and keeps what is there as
// Lookup does. It returns what is kept then. An error says that what is
// published isn't known, or, if none, that there is nothing.
func (r *Ring) Fetch(ctx context.Context, a addr.Address) (kept []store.Key, none bool, err error) {
	published, err := r.c.Source.Find(ctx, a, r.c.Now())
	if err != nil && !r.c.Source.None(err) {
		return nil, false, err
	}
	none = err != nil
	had, storeErr := r.c.Store.Keys(ctx, r.Method(), a)
	if storeErr != nil {
		return nil, false, storeErr
	}
	if none && len(had) == 0 {
		return nil, true, err
	}
	at := &published
	if none {
		at = nil
	}
	got := r.settle(ctx, a, at, err)
	r.Forget()
	if kept, storeErr = r.c.Store.Keys(ctx, r.Method(), a); storeErr != nil {
		return nil, false, storeErr
	}
	if !none && got.key == nil && len(kept) == 0 {
		return nil, false, got.err
	}
	return kept, none, err
}

// Read returns the key for a in a file of any number of keys, which has to be
// good now, and the only one.
func (r *Ring) Read(a addr.Address, text []byte, source string) (Found, error) {
	all, err := r.c.Source.Split(text)
	if err != nil {
		return Found{}, err
	}
	var good []Found
	var why []error
	for _, octets := range all {
		f, err := r.c.Source.Parse(octets, a, source, r.c.Now())
		if err != nil {
			why = append(why, err)
		} else {
			good = append(good, f)
		}
	}
	switch {
	case len(good) == 0:
		return Found{}, errors.Join(why...)
	case len(good) > 1:
		return Found{}, fmt.Errorf("%s: %d keys for %s, want one", source, len(good), a)
	}
	return good[0], nil
}

// Add keeps a key that an administrator has, in place of all others of a: the
// one that Read finds.
func (r *Ring) Add(ctx context.Context, a addr.Address, text []byte, source string) (Found, error) {
	f, err := r.Read(a, text, source)
	if err != nil {
		return Found{}, err
	}
	now := r.c.Now()
	err = r.c.Store.ChangeKeys(ctx, r.Method(), a, func([]store.Key) ([]store.Key, error) {
		return []store.Key{{Method: r.Method(), Address: a.Fold(), Fingerprint: f.Fingerprint, Octets: f.Octets,
			Source: source, State: store.KeyAdded, Found: now, Seen: now}}, nil
	})
	r.Forget()
	return f, err
}

// Trust has the key of a that waits, or else the one that was found or is gone,
// be used from now on. A fingerprint that isn't "" has to be the key's. Error:
// ErrNothing, when there is no such key.
func (r *Ring) Trust(ctx context.Context, a addr.Address, fingerprint string) (trusted store.Key, err error) {
	err = r.c.Store.ChangeKeys(ctx, r.Method(), a, func(have []store.Key) ([]store.Key, error) {
		for _, state := range []store.KeyState{store.KeyWaiting, store.KeyFound, store.KeyGone, store.KeyTrusted} {
			i := slices.IndexFunc(have, func(k store.Key) bool {
				return k.State == state && (fingerprint == "" || k.Fingerprint == fingerprint)
			})
			if i < 0 {
				continue
			}
			trusted = have[i]
			trusted.State = store.KeyTrusted
			return []store.Key{trusted}, nil
		}
		return nil, fmt.Errorf("%w of %s", ErrNothing, a)
	})
	r.Forget()
	return trusted, err
}

// Drop forgets all keys of a, or the one with a fingerprint. Error: ErrNothing.
func (r *Ring) Drop(ctx context.Context, a addr.Address, fingerprint string) (dropped []store.Key, err error) {
	err = r.c.Store.ChangeKeys(ctx, r.Method(), a, func(have []store.Key) ([]store.Key, error) {
		dropped = nil
		var rest []store.Key
		for _, k := range have {
			if fingerprint == "" || k.Fingerprint == fingerprint {
				dropped = append(dropped, k)
			} else {
				rest = append(rest, k)
			}
		}
		if len(dropped) == 0 {
			return nil, fmt.Errorf("%w of %s", ErrNothing, a)
		}
		return rest, nil
	})
	r.Forget()
	return dropped, err
}

// Filed returns the key in the administrator's files; is is false where they
// have none for a.
func (r *Ring) Filed(a addr.Address) (f Found, is bool, err error) {
	return r.c.Source.Filed(a, r.c.Now())
}

// Files are the addresses for which there are keys in the files.
func (r *Ring) Files() []addr.Address { return r.c.Source.Addresses() }

// Describe reads a key that is kept. The error says why it can't be used.
func (r *Ring) Describe(k store.Key, now time.Time) (Found, error) {
	return r.c.Source.Parse(k.Octets, k.Address, k.Source, now)
}
