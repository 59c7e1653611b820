package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date, each numbered file in a transaction of its own, so that a program that is
// ended in between goes on where it was.
func (s *Store) migrate(ctx context.Context, files fs.FS) error {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return err
	}
	have, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	newest := 0
	for _, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("migration %s: no number", name)
		}
		newest = version
		if version <= have {
			continue
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if err := s.migrateTo(ctx, version, string(text)); err != nil {
			return fmt.Errorf("migration %s: %w", path.Base(name), s.engine.explain(err))
		}
		have = version
	}
	if have > newest {
		return fmt.Errorf("schema version %d, known up to %d: %w", have, newest, ErrNewer)
	}
	return nil
}

func (s *Store) migrateTo(ctx context.Context, version int, text string) error {
	d := s.engine.dialect()
	text = strings.NewReplacer("{serial}", d.serial, "{transaction}", d.transaction).Replace(text)
	return s.transact(ctx, func(t *work) error {
		if d.guard != "" {
			if err := t.exec(ctx, d.guard); err != nil {
				return err
			}
		}
		have, err := readVersion(ctx, t)
		if err != nil || have >= version {
			return err // another process was first
		}
		for statement := range strings.SplitSeq(text, ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if err := t.exec(ctx, statement); err != nil {
				return err
			}
		}
		return t.exec(ctx, `INSERT INTO schema_version (version, at) VALUES (?1, ?2)`, version, micros(t.now))
	})
}

// schemaVersion returns the version of the schema, 0 for a new database. It writes only where there is none yet.
func (s *Store) schemaVersion(ctx context.Context) (int, error) {
	var have int
	err := s.view(ctx, "schema", func(t tx) error {
		var err error
		have, err = readVersion(ctx, t)
		return err
	})
	if err == nil {
		return have, nil
	}
	// Most likely there is no table; what else it was will show again.
	err = s.transact(ctx, func(t *work) error {
		if guard := s.engine.dialect().guard; guard != "" {
			if err := t.exec(ctx, guard); err != nil {
				return err
			}
		}
		if err := t.exec(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, at BIGINT NOT NULL)`); err != nil {
			return err
		}
		var err error
		have, err = readVersion(ctx, t)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("schema: %w", s.engine.explain(err))
	}
	return have, nil
}

func readVersion(ctx context.Context, t tx) (int, error) {
	var have int64
	err := scan(ctx, t, func(r rows) error { return r.Scan(&have) }, `SELECT coalesce(max(version), 0) FROM schema_version`)
	return int(have), err
}
