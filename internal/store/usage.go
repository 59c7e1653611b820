package store

import (
	"context"
	"fmt"
	"time"
)

// UsageKind says what was seen in use.
type UsageKind string

// What is kept of mail that was accepted, besides what was demanded for it.
const (
	// UsedAsRelay is a next hop that carried mail for another domain than its own.
	UsedAsRelay UsageKind = "relay"
	// UsedByLogin is a sender whose mail was accepted by a rule for logins.
	UsedByLogin UsageKind = "login-sender"
)

// Usage is one such thing, and when it was seen last.
type Usage struct {
	Kind UsageKind
	Name string
	When time.Time
}

// Use makes durable, before it returns nil, that something is in use now.
func (s *Store) Use(ctx context.Context, kind UsageKind, name string) error {
	if kind == "" || name == "" || clean(name) != name {
		return fmt.Errorf("store: use of %q: no name", name)
	}
	return s.update(ctx, "use", func(t *work) error {
		err := t.exec(ctx, `INSERT INTO usage (kind, name, at) VALUES (?1, ?2, ?3)
			ON CONFLICT (kind, name) DO UPDATE SET at = excluded.at WHERE excluded.at > usage.at`,
			string(kind), name, micros(t.now))
		if err != nil {
			return err
		}
		return t.changed(ctx, kindUsage, string(kind))
	})
}

// Usages returns all that was in use since a time.
func (s *Store) Usages(ctx context.Context, since time.Time) ([]Usage, error) {
	var found []Usage
	err := s.view(ctx, "usages", func(t tx) error {
		found = nil
		return scan(ctx, t, func(r rows) error {
			var kind, name string
			var at int64
			if err := r.Scan(&kind, &name, &at); err != nil {
				return err
			}
			found = append(found, Usage{UsageKind(kind), name, fromMicros(at)})
			return nil
		}, `SELECT kind, name, at FROM usage WHERE at >= ?1 ORDER BY kind, name`, micros(since))
	})
	return found, err
}

// ForgetUsages forgets what wasn't in use since a time.
func (s *Store) ForgetUsages(ctx context.Context, since time.Time) error {
	return s.update(ctx, "forget usages", func(t *work) error {
		return t.exec(ctx, `DELETE FROM usage WHERE at < ?1`, micros(since))
	})
}
