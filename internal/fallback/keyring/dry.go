package keyring

import (
	"context"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Dry returns a Store that has the keys of s, nil for none, and keeps nothing:
// for a question that isn't about mail.
func Dry(s Store) Store { return dry{s} }

type dry struct{ store Store }

func (d dry) Keys(ctx context.Context, method policy.Method, a addr.Address) ([]store.Key, error) {
	if d.store == nil {
		return nil, nil
	}
	return d.store.Keys(ctx, method, a)
}

func (d dry) ChangeKeys(ctx context.Context, method policy.Method, a addr.Address, change func([]store.Key) ([]store.Key, error)) error {
	have, err := d.Keys(ctx, method, a)
	if err == nil {
		_, err = change(have)
	}
	return err
}

func (dry) AddEvents(context.Context, ...store.Event) error { return nil }
