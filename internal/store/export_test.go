package store

import (
	"context"
	"io/fs"
	"time"
)

// OpenWith opens with other migrations.
func OpenWith(ctx context.Context, c Config, schema fs.FS) (*Store, error) {
	return openWith(ctx, c, schema)
}

// Migrations are the program's own.
func Migrations() fs.FS { return migrations }

// Exec runs a statement of the test's.
func Exec(ctx context.Context, s *Store, statement string) error {
	return s.update(ctx, "test", func(t *work) error { return t.exec(ctx, statement) })
}

// SetPoll sets how often Watch looks when nothing is heard.
func SetPoll(s *Store, d time.Duration) { s.poll = d }

// Deafen keeps a Store on PostgreSQL from listening.
func Deafen(s *Store) { s.engine.(*postgres).attempt = time.Now().Add(time.Hour) }

// SetMissed sets how long a Watch can be away and still trust the log.
func SetMissed(s *Store, d time.Duration) { s.missed = d }

// PruneChanges is what Watch does now and then.
func PruneChanges(ctx context.Context, s *Store) { s.pruneChanges(ctx) }

// Value returns the one value a query gives, as text.
func Value(ctx context.Context, s *Store, query string) (string, error) {
	var value string
	err := s.view(ctx, "test", func(t tx) error {
		return scan(ctx, t, func(r rows) error { return r.Scan(&value) }, query)
	})
	return value, err
}
