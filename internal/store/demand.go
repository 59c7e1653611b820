package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// firstDue is when a destination is due that is known without having been looked at.
const firstDue = time.Hour

// lockRow locks the row of d, making it when there is none, and returns what it says.
func (t *work) lockRow(ctx context.Context, d addr.Destination) (Entry, error) {
	if d.IsZero() {
		return Entry{}, fmt.Errorf("no destination: %w", errCaller)
	}
	// Planned from its birth: a daemon that dies before it has learned the
	// first look must not leave it unwatched.
	err := t.exec(ctx, `INSERT INTO destination (name, born, next) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING`,
		d.String(), micros(t.now), micros(t.now.Add(firstDue)))
	if err != nil {
		return Entry{}, err
	}
	var e Entry
	var from source
	err = scan(ctx, t, func(r rows) error { return readEntry(r, &e, &from) },
		`SELECT `+columns+` FROM destination WHERE name = ?1`+t.s.engine.dialect().lock, d.String())
	if err == nil && e.Destination.IsZero() {
		err = errors.New("row vanished") // another process forgot it between the two statements
	}
	return e, err
}

// RecordPromise makes what is demanded of d at least demand, part by part, and
// pins d by whom by names, "" for nobody, in one transaction. It returns what
// is demanded now and whether the pin is new. Both are durable when it returns.
// What stands already writes nothing; raises of several processes merge, and a
// pin stays as it is, but an administrator's takes the place of another's.
func (s *Store) RecordPromise(ctx context.Context, d addr.Destination, demand Demand, by string) (now Demand, pinned bool, err error) {
	if _, err := policy.ParseLevel(string(demand.Level)); err != nil {
		return Demand{}, false, fmt.Errorf("store: demand of %s: %w", d, err)
	}
	return s.recordPromise(ctx, "demand", d, demand, by)
}

// RaiseDemand is Hold without a pin.
func (s *Store) RaiseDemand(ctx context.Context, d addr.Destination, demand Demand) (Demand, error) {
	now, _, err := s.RecordPromise(ctx, d, demand, "")
	return now, err
}

// recordPromise is RecordPromise; a Demand of no level asks nothing.
func (s *Store) recordPromise(ctx context.Context, act string, d addr.Destination, demand Demand, by string) (Demand, bool, error) {
	var now Demand
	var pinned bool
	err := s.update(ctx, act, func(t *work) error {
		e, err := t.lockRow(ctx, d)
		if err != nil {
			return err
		}
		if now = e.Demand.Merge(demand); now != e.Demand {
			if now.Since.IsZero() {
				now.Since = t.now
			}
			now.Since = fromMicros(micros(now.Since)) // as it will be read
			if err := t.setDemand(ctx, d, now); err != nil {
				return err
			}
			if err := t.event(ctx, Event{Destination: d, What: Demanded, From: e.Demand.String(), To: now.String()}); err != nil {
				return err
			}
		}
		if pinned = by != "" && e.Pin.yields(by); !pinned {
			return nil
		}
		return t.pin(ctx, e, by, "")
	})
	if err != nil {
		return Demand{}, false, err
	}
	return now, pinned, nil
}

// DropDemand is the administrator's way back: nothing is demanded of d any
// more. Without a demand it does nothing.
func (s *Store) DropDemand(ctx context.Context, d addr.Destination, why string) error {
	return s.update(ctx, "drop demand", func(t *work) error {
		e, err := t.lockRow(ctx, d)
		if err != nil || e.Demand == (Demand{}) {
			return err
		}
		if err := t.setDemand(ctx, d, Demand{}); err != nil {
			return err
		}
		return t.event(ctx, Event{Destination: d, What: Demanded, From: e.Demand.String(), Why: why})
	})
}

func (t *work) setDemand(ctx context.Context, d addr.Destination, demand Demand) error {
	err := t.exec(ctx, `UPDATE destination SET demand_level = ?2, demand_min = ?3, demand_bits = ?4, demand_since = ?5 WHERE name = ?1`,
		d.String(), string(demand.Level), int64(demand.MinVersion), int64(demand.MinBits), micros(demand.Since))
	if err != nil {
		return err
	}
	return t.changed(ctx, kindDestination, d.String())
}

// Pin pins d and reports whether that is new. A pin stays as it is, but an
// administrator's takes the place of another's.
func (s *Store) Pin(ctx context.Context, d addr.Destination, by string) (bool, error) {
	if by == "" {
		return false, fmt.Errorf("store: pin of %s: nobody pins it", d)
	}
	_, pinned, err := s.recordPromise(ctx, "pin", d, Demand{}, by)
	return pinned, err
}

// yields reports whether a pin by another is to take p's place.
func (p *Pin) yields(by string) bool { return p == nil || by == ByAdmin && p.By != ByAdmin }

func (t *work) pin(ctx context.Context, e Entry, by, why string) error {
	was := ""
	if e.Pin != nil {
		was = e.Pin.By
	}
	err := t.exec(ctx, `UPDATE destination SET pin_by = ?2, pin_since = ?3 WHERE name = ?1`, e.Destination.String(), clean(by), micros(t.now))
	if err != nil {
		return err
	}
	if err := t.changed(ctx, kindDestination, e.Destination.String()); err != nil {
		return err
	}
	return t.event(ctx, Event{Destination: e.Destination, What: Pinned, From: was, To: by, Why: why})
}

// Unpin takes the pin off; looks have to earn it anew. Error: ErrUnknown when d
// isn't pinned. The demand stays: DropDemand.
func (s *Store) Unpin(ctx context.Context, d addr.Destination, why string) error {
	if e, err := s.Get(ctx, d); err != nil {
		return err
	} else if e.Pin == nil {
		return fmt.Errorf("store: pin of %s: %w", d, ErrUnknown)
	}
	return s.update(ctx, "unpin", func(t *work) error {
		e, err := t.lockRow(ctx, d)
		if err != nil {
			return err
		}
		if e.Pin == nil {
			return fmt.Errorf("pin of %s: %w", d, ErrUnknown)
		}
		return t.unpin(ctx, e, why)
	})
}

func (t *work) unpin(ctx context.Context, e Entry, why string) error {
	err := t.exec(ctx, `UPDATE destination SET pin_by = '', pin_since = 0, first_success = 0 WHERE name = ?1`, e.Destination.String())
	if err != nil {
		return err
	}
	if err := t.changed(ctx, kindDestination, e.Destination.String()); err != nil {
		return err
	}
	return t.event(ctx, Event{Destination: e.Destination, What: Unpinned, From: e.Pin.By, Why: why})
}
