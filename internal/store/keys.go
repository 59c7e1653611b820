package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// KeyState says how a key came here and whether it is used.
type KeyState string

// The states of a key.
const (
	KeyFound   KeyState = "found"   // published, and the first one seen: used
	KeyTrusted KeyState = "trusted" // published, and an administrator said so: used
	KeyAdded   KeyState = "added"   // put here by an administrator: used
	KeyWaiting KeyState = "waiting" // published in place of another: not used
	KeyGone    KeyState = "gone"    // was found, and isn't published any more: not used
)

// Used reports whether messages are encrypted to a key in this state.
func (s KeyState) Used() bool { return s == KeyFound || s == KeyTrusted || s == KeyAdded }

// Key is somebody's key for a method.
type Key struct {
	Method      policy.Method
	Address     addr.Address // folded
	Fingerprint string
	Octets      []byte
	Source      string // where it is from, in words: "wkd https://…"
	State       KeyState
	Found       time.Time // when it came here
	Seen        time.Time // when it was last seen published; of one that was added, Found
}

// Keys returns what is kept for an address and a method, sorted by address,
// method and fingerprint: of all for the null address and "".
func (s *Store) Keys(ctx context.Context, method policy.Method, a addr.Address) ([]Key, error) {
	var found []Key
	err := s.view(ctx, "keys", func(t tx) error {
		var err error
		found, err = keys(ctx, t, method, a)
		return err
	})
	return found, err
}

// ChangeKeys puts what change makes of the keys of one address and method in
// their place. It is durable when nil is returned. change may be called more
// than once; no other change comes between. Its error is returned, and nothing
// is changed then.
func (s *Store) ChangeKeys(ctx context.Context, method policy.Method, a addr.Address, change func([]Key) ([]Key, error)) error {
	a = a.Fold()
	if method == "" || a.IsNull() {
		return fmt.Errorf("store: keys of %q for %q: %w", a, method, errCaller)
	}
	return s.update(ctx, "change keys", func(t *work) error {
		if guard := s.engine.dialect().guard; guard != "" { // two that both find the first key
			if err := t.exec(ctx, guard); err != nil {
				return err
			}
		}
		have, err := keys(ctx, t, method, a)
		if err != nil {
			return err
		}
		want, err := change(have)
		if err != nil {
			return fmt.Errorf("%w: %w", errCaller, err)
		}
		if err := t.exec(ctx, `DELETE FROM recipient_key WHERE kind = ?1 AND address = ?2`, string(method), a.String()); err != nil {
			return err
		}
		for _, k := range want {
			err := t.exec(ctx, `INSERT INTO recipient_key (kind, address, fingerprint, octets, source, state, found, seen)
				VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)`, string(method), a.String(), clean(k.Fingerprint),
				base64.StdEncoding.EncodeToString(k.Octets), clean(k.Source), string(k.State), micros(k.Found), micros(k.Seen))
			if err != nil {
				return err
			}
		}
		return t.changed(ctx, kindKeys, string(method))
	})
}

func keys(ctx context.Context, t tx, method policy.Method, a addr.Address) ([]Key, error) {
	var found []Key
	where, args := "", []any(nil)
	if method != "" {
		where, args = ` WHERE kind = ?1 AND address = ?2`, []any{string(method), a.Fold().String()}
	}
	err := scan(ctx, t, func(r rows) error {
		var k Key
		var address, octets string
		var since, seen int64
		err := r.Scan((*string)(&k.Method), &address, &k.Fingerprint, &octets, &k.Source, (*string)(&k.State), &since, &seen)
		if err != nil {
			return err
		}
		k.Found, k.Seen = fromMicros(since), fromMicros(seen)
		if k.Address, err = addr.ParsePath(address); err == nil {
			k.Octets, err = base64.StdEncoding.DecodeString(octets)
		}
		if err != nil {
			return fmt.Errorf("%w: key of %q: %w", ErrDamaged, address, err)
		}
		found = append(found, k)
		return nil
	}, `SELECT kind, address, fingerprint, octets, source, state, found, seen FROM recipient_key`+where+
		` ORDER BY address, kind, fingerprint`, args...)
	return found, err
}
