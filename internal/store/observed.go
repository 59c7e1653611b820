package store

import (
	"context"
	"fmt"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Observed says how often a rule that only observes would have come to a verdict
// on one day.
type Observed struct {
	Day         time.Time        // its begin in UTC
	Rule        string           // by its name
	Destination addr.Destination // zero: accepted, or one of too many
	Reason      policy.Reason    // "": it would have been satisfied
	Verdict     policy.Verdict   // that it would have given
	Times       int64            // recipients
	// Senders and Recipients have a bit for each, see package observe.
	Senders, Recipients uint64
	Last                time.Time
}

// MostObserved is how many destinations, reasons and so on are told apart a day.
const MostObserved = 5000

// AddObserved adds to what was observed.
func (s *Store) AddObserved(ctx context.Context, seen ...Observed) error {
	return s.update(ctx, "add what was observed", func(t *work) error {
		rowsOf := map[int64]int64{} // by day, counted once
		for _, o := range seen {
			day := o.Day.UTC().Truncate(24 * time.Hour)
			destination := ""
			if !o.Destination.IsZero() {
				destination = o.Destination.String()
			}
			key := []any{micros(day), clean(o.Rule), destination, string(o.Reason), string(o.Verdict)}
			var known int64
			err := scan(ctx, t, func(r rows) error { return r.Scan(&known) }, `SELECT COUNT(*) FROM observed
				WHERE day = ?1 AND rule = ?2 AND destination = ?3 AND reason = ?4 AND verdict = ?5`, key...)
			if err != nil {
				return err
			}
			total, counted := rowsOf[micros(day)]
			if !counted {
				err := scan(ctx, t, func(r rows) error { return r.Scan(&total) }, `SELECT COUNT(*) FROM observed WHERE day = ?1`, micros(day))
				if err != nil {
					return err
				}
			}
			switch {
			case known > 0:
			case total >= MostObserved:
				key[2] = ""
			default:
				total++
			}
			rowsOf[micros(day)] = total
			err = t.exec(ctx, `INSERT INTO observed (day, rule, destination, reason, verdict, times, senders, recipients, last)
				VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
				ON CONFLICT (day, rule, destination, reason, verdict) DO UPDATE SET
					times = observed.times + excluded.times,
					senders = observed.senders | excluded.senders,
					recipients = observed.recipients | excluded.recipients,
					last = CASE WHEN excluded.last > observed.last THEN excluded.last ELSE observed.last END`,
				append(key, o.Times, int64(o.Senders), int64(o.Recipients), micros(o.Last))...)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// ObservedSince returns what was observed on days that had any since a time, the
// oldest first.
func (s *Store) ObservedSince(ctx context.Context, since time.Time) ([]Observed, error) {
	var found []Observed
	err := s.view(ctx, "what was observed", func(t tx) error {
		found = nil
		return scan(ctx, t, func(r rows) error {
			var o Observed
			var day, senders, recipients, last int64
			var destination string
			err := r.Scan(&day, &o.Rule, &destination, (*string)(&o.Reason), (*string)(&o.Verdict), &o.Times, &senders, &recipients, &last)
			if err != nil {
				return err
			}
			o.Day, o.Last = fromMicros(day), fromMicros(last)
			o.Senders, o.Recipients = uint64(senders), uint64(recipients)
			if destination != "" {
				if o.Destination, err = addr.ParseDestination(destination); err != nil {
					return fmt.Errorf("%w: observed: %w", ErrDamaged, err)
				}
			}
			found = append(found, o)
			return nil
		}, `SELECT day, rule, destination, reason, verdict, times, senders, recipients, last
			FROM observed WHERE last >= ?1 ORDER BY day, rule, destination, reason, verdict`, micros(since))
	})
	return found, err
}
