package store

import (
	"context"
	"fmt"
	"time"

	"tlsonly/internal/addr"
)

// event adds to history.
func (t *work) event(ctx context.Context, e Event) error {
	if e.When.IsZero() {
		e.When = t.now
	}
	if e.Host == "" {
		e.Host = t.s.c.Host
	}
	return t.exec(ctx, `INSERT INTO event (at, destination, what, was, became, why, host) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)`,
		micros(e.When), e.Destination.String(), string(e.What), clean(e.From), clean(e.To), clean(e.Why), clean(e.Host))
}

// AddEvents adds to history; ID is ignored, When and Host are filled in where empty.
func (s *Store) AddEvents(ctx context.Context, events ...Event) error {
	return s.update(ctx, "add events", func(t *work) error {
		for _, e := range events {
			if err := t.event(ctx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// History returns the last events of d, the newest first.
func (s *Store) History(ctx context.Context, d addr.Destination, limit int) ([]Event, error) {
	return s.events(ctx, ` WHERE destination = ?1 ORDER BY id DESC LIMIT ?2`, d.String(), int64(limit))
}

// Events returns the events after since, an Event's ID, the oldest first.
func (s *Store) Events(ctx context.Context, since int64, limit int) ([]Event, error) {
	return s.events(ctx, ` WHERE id > ?1 ORDER BY id LIMIT ?2`, since, int64(limit))
}

func (s *Store) events(ctx context.Context, where string, args ...any) ([]Event, error) {
	var found []Event
	err := s.view(ctx, "events", func(t tx) error {
		return scan(ctx, t, func(r rows) error {
			var e Event
			var at int64
			var name string
			if err := r.Scan(&e.ID, &at, &name, (*string)(&e.What), &e.From, &e.To, &e.Why, &e.Host); err != nil {
				return err
			}
			e.When = fromMicros(at)
			if err := e.Destination.UnmarshalText([]byte(name)); err != nil {
				return fmt.Errorf("%w: event %d: %w", ErrDamaged, e.ID, err)
			}
			found = append(found, e)
			return nil
		}, `SELECT id, at, destination, what, was, became, why, host FROM event`+where, args...)
	})
	return found, err
}

// Prune deletes what ended before: events older than that, MTA-STS policies and mail hosts whose end is.
func (s *Store) Prune(ctx context.Context, before time.Time) error {
	return s.update(ctx, "prune", func(t *work) error {
		for _, statement := range []string{
			`DELETE FROM event WHERE at < ?1`,
			`DELETE FROM mtasts WHERE ends < ?1`,
			`DELETE FROM host WHERE ends < ?1`,
			`DELETE FROM observed WHERE last < ?1`,
		} {
			if err := t.exec(ctx, statement, micros(before)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget drops all that is kept of destinations without mail since before: assessment, schedule, demand and pin, but
// what an administrator pinned stays whole. No mail can wait for one so long, and the next one raises its demand
// again. What is lost of protection goes to history. The caller hands pending uses to Touch first.
func (s *Store) Forget(ctx context.Context, before time.Time) ([]addr.Destination, error) {
	var forgotten []addr.Destination
	err := s.update(ctx, "forget", func(t *work) error {
		forgotten = nil
		var held []Event
		err := scan(ctx, t, func(r rows) error {
			var name, level, by string
			if err := r.Scan(&name, &level, &by); err != nil {
				return err
			}
			d, err := addr.ParseDestination(name)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			forgotten = append(forgotten, d)
			if by != "" || level != "" {
				held = append(held, Event{Destination: d, What: Forgotten, From: by, Why: "no mail since " + before.UTC().Format(time.DateOnly)})
			}
			return nil
		}, `DELETE FROM destination
			WHERE used < ?1 AND born < ?1 AND demand_since < ?1 AND pin_since < ?1 AND pin_by <> ?2
			RETURNING name, demand_level, pin_by`,
			micros(before), ByAdmin)
		if err != nil {
			return err
		}
		for _, e := range held {
			if err := t.event(ctx, e); err != nil {
				return err
			}
		}
		for _, d := range forgotten {
			if err := t.changed(ctx, kindDestination, d.String()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return forgotten, nil
}
