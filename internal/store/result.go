package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"tlsonly/internal/addr"
)

// Result is what one assessment of a destination came to, the monitor's or one for a recipient.
type Result struct {
	Destination addr.Destination
	When        time.Time
	OK          bool      // TLS was seen as a pin would want it
	Uncounted   bool      // that it wasn't says nothing about the destination: the track stays as it is
	Next        time.Time // when to look again; zero: not by the monitor
	// Assessment replaces the assessment; nil keeps the one that stands.
	Assessment *Assessment
	// Pin lets two successes pin.
	Pin    bool
	Events []Event // Destination and When are filled in
}

// Effect is what a result made of what is stored of a destination.
type Effect struct {
	Track    Track
	Pin      *Pin
	Pinned   bool   // by this look
	Unpinned string // why this look ended the pin; "": it didn't
}

// RecordAssessment stores a result and what follows from it, in one
// transaction: schedule, track, pin, assessment, history. A claim (Due) ends
// with it.
func (s *Store) RecordAssessment(ctx context.Context, l Result) (Effect, error) {
	if l.Assessment != nil && l.Assessment.Destination != l.Destination {
		return Effect{}, fmt.Errorf("store: look at %s found %s", l.Destination, l.Assessment.Destination)
	}
	var result Effect
	err := s.update(ctx, "look", func(t *work) error {
		if l.Assessment != nil {
			if err := t.put(ctx, []Assessment{*l.Assessment}); err != nil {
				return err
			}
		}
		e, err := t.lockRow(ctx, l.Destination)
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
		if failing == l.OK && l.Assessment == nil && !l.Uncounted { // put has said so otherwise
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
		result, err = t.applyTrack(ctx, e, l)
		return err
	})
	if err != nil {
		return Effect{}, err
	}
	return result, nil
}

// applyTrack pins or unpins as the track says.
func (t *work) applyTrack(ctx context.Context, e Entry, l Result) (Effect, error) {
	result := Effect{Track: e.Track, Pin: e.Pin}
	switch {
	case l.Uncounted:
	case e.Pin == nil && l.Pin && l.OK && e.Track.EarnsPin():
		result.Pinned = true
		result.Pin = &Pin{fromMicros(micros(t.now)), BySuccesses}
		return result, t.pin(ctx, e, BySuccesses, "")
	case e.Pin != nil && e.Track.EndsPin(l.When):
		result.Unpinned = fmt.Sprintf("every look since %s failed", e.Track.FailingSince.UTC().Format(time.DateOnly))
		result.Pin, result.Track.FirstSuccess = nil, time.Time{}
		return result, t.unpin(ctx, e, result.Unpinned)
	}
	return result, nil
}

// Due claims up to n destinations whose next look is due, the longest due
// first, for as long as lease. Nobody else gets them meanwhile;
// RecordAssessment ends the claim. A claim whose host died runs out. What a
// clock that was set back leaves behind lies further ahead than it can: a claim
// than lease, which has run out, and a next look than farthest, which is due.
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
