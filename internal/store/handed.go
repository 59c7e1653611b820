package store

import (
	"context"
	"fmt"
	"time"
)

// handedFor is how long it is known that a copy was handed over: longer than any
// MTA tries again.
const handedFor = 30 * 24 * time.Hour

// PutHanded makes durable, before it returns nil, that a copy was handed to the
// MTA. Key is some word that only this copy has.
func (s *Store) PutHanded(ctx context.Context, key string) error {
	if key == "" || clean(key) != key {
		return fmt.Errorf("store: handed over %q: no key", key)
	}
	return s.update(ctx, "put handed", func(t *work) error {
		err := t.exec(ctx, `INSERT INTO handed (copy, at) VALUES (?1, ?2)
			ON CONFLICT (copy) DO UPDATE SET at = excluded.at`, key, micros(t.now))
		if err != nil {
			return err
		}
		return t.exec(ctx, `DELETE FROM handed WHERE at < ?1`, micros(t.now.Add(-handedFor)))
	})
}

// Handed reports whether a copy was handed to the MTA.
func (s *Store) Handed(ctx context.Context, key string) (bool, error) {
	var n int64
	err := s.view(ctx, "handed", func(t tx) error {
		return scan(ctx, t, func(r rows) error { return r.Scan(&n) }, `SELECT COUNT(*) FROM handed WHERE copy = ?1`, key)
	})
	return n > 0, err
}
