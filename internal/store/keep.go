package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// firstLook is when a destination is due that is known without having been looked at.
const firstLook = time.Hour

// own locks the row of d, making it when there is none, and returns what it says.
func (t *work) own(ctx context.Context, d addr.Destination) (Entry, error) {
	if d.IsZero() {
		return Entry{}, fmt.Errorf("no destination: %w", errCaller)
	}
	// Planned from its birth: a daemon that dies before it has learned the first look must not leave it unwatched.
	err := t.exec(ctx, `INSERT INTO destination (name, born, next) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING`,
		d.String(), micros(t.now), micros(t.now.Add(firstLook)))
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

// Hold makes what is demanded of d at least demand, part by part, and pins d by whom by names, "" for nobody, in one transaction.
// It returns what is demanded now and whether the pin is new. Both are durable when it returns. What stands already writes nothing;
// raises of several processes merge, and a pin stays as it is, but an administrator's takes the place of another's.
func (s *Store) Hold(ctx context.Context, d addr.Destination, demand Demand, by string) (now Demand, pinned bool, err error) {
	if _, err := policy.ParseLevel(string(demand.Level)); err != nil {
		return Demand{}, false, fmt.Errorf("store: demand of %s: %w", d, err)
	}
	return s.hold(ctx, "demand", d, demand, by)
}

// RaiseDemand is Hold without a pin.
func (s *Store) RaiseDemand(ctx context.Context, d addr.Destination, demand Demand) (Demand, error) {
	now, _, err := s.Hold(ctx, d, demand, "")
	return now, err
}

// hold is Hold; a Demand of no level asks nothing.
func (s *Store) hold(ctx context.Context, act string, d addr.Destination, demand Demand, by string) (Demand, bool, error) {
	var now Demand
	var pinned bool
	err := s.update(ctx, act, func(t *work) error {
		e, err := t.own(ctx, d)
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

// DropDemand is the administrator's way back: nothing is demanded of d any more. Without a demand it does nothing.
func (s *Store) DropDemand(ctx context.Context, d addr.Destination, why string) error {
	return s.update(ctx, "drop demand", func(t *work) error {
		e, err := t.own(ctx, d)
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

// Pin pins d and reports whether that is new. A pin stays as it is, but an administrator's takes the place of
// another's.
func (s *Store) Pin(ctx context.Context, d addr.Destination, by string) (bool, error) {
	if by == "" {
		return false, fmt.Errorf("store: pin of %s: nobody pins it", d)
	}
	_, pinned, err := s.hold(ctx, "pin", d, Demand{}, by)
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

// Unpin takes the pin off; looks have to earn it anew. Error: ErrUnknown when d isn't pinned. The demand stays:
// DropDemand.
func (s *Store) Unpin(ctx context.Context, d addr.Destination, why string) error {
	if e, err := s.Get(ctx, d); err != nil {
		return err
	} else if e.Pin == nil {
		return fmt.Errorf("store: pin of %s: %w", d, ErrUnknown)
	}
	return s.update(ctx, "unpin", func(t *work) error {
		e, err := t.own(ctx, d)
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

// Look is one look at a destination, the monitor's or one for a recipient.
type Look struct {
	Destination addr.Destination
	When        time.Time
	OK          bool      // TLS was seen as a pin would want it
	Uncounted   bool      // that it wasn't says nothing about the destination: the track stays as it is
	Next        time.Time // when to look again; zero: not by the monitor
	// Found replaces the assessment; nil keeps the one that stands.
	Found *Found
	// Pin lets two successes pin.
	Pin    bool
	Events []Event // Destination and When are filled in
}

// Looked is what a look made of a destination.
type Looked struct {
	Track    Track
	Pin      *Pin
	Pinned   bool   // by this look
	Unpinned string // why this look ended the pin; "": it didn't
}

// RecordLook stores a look and what follows from it, in one transaction: schedule, track, pin, assessment, history.
// A claim (Due) ends with it.
func (s *Store) RecordLook(ctx context.Context, l Look) (Looked, error) {
	if l.Found != nil && l.Found.Destination != l.Destination {
		return Looked{}, fmt.Errorf("store: look at %s found %s", l.Destination, l.Found.Destination)
	}
	var result Looked
	err := s.update(ctx, "look", func(t *work) error {
		if l.Found != nil {
			if err := t.put(ctx, []Found{*l.Found}); err != nil {
				return err
			}
		}
		e, err := t.own(ctx, l.Destination)
		if err != nil {
			return err
		}
		failing := e.Track.Failures > 0
		if !l.Uncounted {
			e.Track = e.Track.After(l.When, l.OK)
		}
		err = t.exec(ctx, `UPDATE destination SET first_success = ?2, last_success = ?3, failing_since = ?4, failures = ?5, next = ?6,
			failing_days = ?7, failing_counted = ?8, lease_by = '', lease_ends = 0 WHERE name = ?1`,
			l.Destination.String(), micros(e.Track.FirstSuccess), micros(e.Track.LastSuccess), micros(e.Track.FailingSince),
			int64(e.Track.Failures), micros(l.Next), int64(e.Track.FailingDays), micros(e.Track.DayCounted))
		if err != nil {
			return err
		}
		if failing == l.OK && l.Found == nil && !l.Uncounted { // put has said so otherwise
			if err := t.changed(ctx, kindDestination, l.Destination.String()); err != nil {
				return err
			}
		}
		for _, event := range l.Events {
			event.Destination = l.Destination
			if event.When.IsZero() {
				event.When = l.When
			}
			if err := t.event(ctx, event); err != nil {
				return err
			}
		}
		result, err = t.settle(ctx, e, l)
		return err
	})
	if err != nil {
		return Looked{}, err
	}
	return result, nil
}

// settle pins or unpins as the track says.
func (t *work) settle(ctx context.Context, e Entry, l Look) (Looked, error) {
	result := Looked{Track: e.Track, Pin: e.Pin}
	switch {
	case l.Uncounted:
	case e.Pin == nil && l.Pin && l.OK && e.Track.EarnsPin():
		result.Pinned = true
		result.Pin = &Pin{fromMicros(micros(t.now)), ByLooks}
		return result, t.pin(ctx, e, ByLooks, "")
	case e.Pin != nil && e.Track.EndsPin(l.When):
		result.Unpinned = fmt.Sprintf("every look since %s failed", e.Track.FailingSince.UTC().Format(time.DateOnly))
		result.Pin, result.Track.FirstSuccess = nil, time.Time{}
		return result, t.unpin(ctx, e, result.Unpinned)
	}
	return result, nil
}

// Due claims up to n destinations whose next look is due, the longest due first, for as long as lease. Nobody else
// gets them meanwhile; RecordLook ends the claim. A claim whose host died runs out. What a clock that was set back
// leaves behind lies further ahead than it can: a claim than lease, which has run out, and a next look than farthest,
// which is due.
func (s *Store) Due(ctx context.Context, now time.Time, n int, lease, farthest time.Duration) ([]addr.Destination, error) {
	var due []addr.Destination
	err := s.update(ctx, "due", func(t *work) error {
		due = nil
		for _, next := range [][2]int64{{1, micros(now)}, {micros(now.Add(farthest)) + 1, math.MaxInt64}} {
			err := scan(ctx, t, func(r rows) error {
				var name string
				if err := r.Scan(&name); err != nil {
					return err
				}
				d, err := addr.ParseDestination(name)
				if err != nil {
					return fmt.Errorf("%w: %w", ErrDamaged, err)
				}
				due = append(due, d)
				return nil
			}, `WITH due AS MATERIALIZED (
					SELECT name FROM destination
					WHERE next > 0 AND next BETWEEN ?5 AND ?6 AND (lease_ends <= ?1 OR lease_ends > ?2)
					ORDER BY next LIMIT ?4`+t.s.engine.dialect().skip+`)
				UPDATE destination SET lease_by = ?3, lease_ends = ?2 WHERE name IN (SELECT name FROM due) RETURNING name`,
				micros(now), micros(now.Add(lease)), s.c.Host, int64(n-len(due)), next[0], next[1])
			if err != nil || len(due) >= n {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return due, nil
}
