package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tlsonly/internal/addr"
)

// maxPage bounds what one question can name.
const maxPage = 500

// Page reads some destinations: those that are there, in no order, and for each when its level changed last, if history
// tells. It takes 500 at most.
func (s *Store) Page(ctx context.Context, ds []addr.Destination) ([]Entry, map[addr.Destination]time.Time, error) {
	if len(ds) > maxPage {
		return nil, nil, fmt.Errorf("store: page of %d destinations: %w", len(ds), errCaller)
	}
	if len(ds) == 0 {
		return nil, nil, nil
	}
	var found []Entry
	since := make(map[addr.Destination]time.Time, len(ds))
	names := make([]any, len(ds))
	var list strings.Builder
	for i, d := range ds {
		names[i] = d.String()
		fmt.Fprintf(&list, ", ?%d", i+1)
	}
	in := ` IN (` + list.String()[2:] + `)`
	err := s.view(ctx, "page", func(t tx) error {
		var err error
		if found, err = entries(ctx, t, ` WHERE name`+in, names...); err != nil {
			return err
		}
		clear(since)
		return scan(ctx, t, func(r rows) error {
			var name string
			var at int64
			if err := r.Scan(&name, &at); err != nil {
				return err
			}
			d, err := addr.ParseDestination(name)
			if err != nil {
				return fmt.Errorf("%w: event: %w", ErrDamaged, err)
			}
			since[d] = fromMicros(at)
			return nil
		}, fmt.Sprintf(`SELECT destination, max(at) FROM event WHERE what = '%s' AND destination%s GROUP BY destination`, LevelChanged, in), names...)
	})
	return found, since, err
}

// Latest returns the last events of all destinations, the newest first.
func (s *Store) Latest(ctx context.Context, limit int) ([]Event, error) {
	return s.events(ctx, ` ORDER BY id DESC LIMIT ?1`, int64(limit))
}

// NextDue returns when the next look is due, by now or later; zero when none is planned.
func (s *Store) NextDue(ctx context.Context) (time.Time, error) {
	var next int64
	err := s.view(ctx, "next due", func(t tx) error {
		return scan(ctx, t, func(r rows) error { return r.Scan(&next) }, `SELECT coalesce(min(next), 0) FROM destination WHERE next > 0`)
	})
	return fromMicros(next), err
}
