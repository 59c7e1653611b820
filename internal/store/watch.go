package store

import (
	"context"
	"fmt"
	"time"

	"tlsonly/internal/addr"
)

// logged is a row of the change log.
type logged struct {
	writer     int64
	kind, name string
}

const (
	kindDestination = "destination"
	kindPolicy      = "mtasts"
	kindRuleset     = "ruleset"
	kindUsage       = "usage"
	kindKeys        = "keys"
)

const (
	// changesKept is more than a day, so that a clock a day ahead elsewhere doesn't delete what wasn't read yet.
	changesKept = 25 * time.Hour
	missedAfter = 30 * time.Minute
	pruneEvery  = 10 * time.Minute
	pollTime    = 10 * time.Second
	pollMaxGap  = 5 * time.Second
)

// changed logs a change, for others to read again.
func (t *work) changed(ctx context.Context, kind, name string) error {
	if t.s.silent {
		return nil
	}
	t.logged = true
	return t.exec(ctx, `INSERT INTO change (at, writer, kind, name) VALUES (?1, ?2, ?3, ?4)`, micros(t.now), t.s.writer, kind, name)
}

// changes returns what other processes changed since it was last called, each once.
func (s *Store) changes(ctx context.Context) ([]Change, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	var rows []logged
	err := s.view(ctx, "changes", func(t tx) error {
		var err error
		rows, err = s.engine.changes(ctx, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	seen := map[Change]bool{}
	var changes []Change
	for _, row := range rows {
		if row.writer == s.writer {
			continue
		}
		var c Change
		switch row.kind {
		case kindDestination:
			c.Destination, err = addr.ParseDestination(row.name)
		case kindPolicy:
			c.Policy, err = addr.ParseDomain(row.name)
		case kindRuleset:
			c.Rulesets = true
		case kindUsage:
			c.Usage = true
		case kindKeys:
			c.Keys = true
		default:
			err = fmt.Errorf("kind %q", row.kind)
		}
		if err != nil {
			c = Change{} // a newer program's, say: to read everything is always right
		}
		if !seen[c] {
			seen[c] = true
			changes = append(changes, c)
		}
	}
	return changes, nil
}

// Watch tells what other processes changed since Open, never what this one did, until ctx ends. On SQLite it looks
// twice a second; on PostgreSQL it listens, and looks every four seconds in case the listener's connection is broken,
// which it mends by itself. A change may be told more than once. Run it once a Store, and have it ended before Close.
func (s *Store) Watch(ctx context.Context, tell func([]Change)) {
	last, pruned := time.Now(), time.Now()
	var gap time.Duration
	for ctx.Err() == nil {
		changes, err := s.changes(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if gap == 0 {
				s.c.Log.Warn("store unavailable", "err", err)
			}
			gap = min(max(2*gap, time.Second/4), pollMaxGap)
			sleep(ctx, gap)
			continue
		case gap != 0:
			s.c.Log.Info("store available again")
			gap = 0
		}
		if time.Since(last) > s.missed {
			changes = []Change{{}}
		}
		last = time.Now()
		if len(changes) > 0 {
			tell(changes)
		}
		if time.Since(pruned) > pruneEvery {
			pruned = time.Now()
			s.pruneChanges(ctx)
		}
		s.engine.wait(ctx, s.poll)
	}
}

func (s *Store) pruneChanges(ctx context.Context) {
	err := s.update(ctx, "prune changes", func(t *work) error {
		return t.exec(ctx, `DELETE FROM change WHERE at < ?1`, micros(t.now.Add(-changesKept)))
	})
	if err != nil && ctx.Err() == nil {
		s.c.Log.Warn("change log not pruned", "err", err)
	}
}
