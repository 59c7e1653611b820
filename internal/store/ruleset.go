package store

import (
	"context"
	"fmt"
	"time"
)

// Ruleset is a set of rules that is or was in force.
type Ruleset struct {
	Key     string // the same for two sets only if they ask the same
	Doc     string // the rules, as their package saves them
	Numbers string // the numbers of their classes of senders, likewise
	Born    time.Time
	Used    time.Time // when it was last known to be in force
}

// Rulesets returns all sets of rules that are kept, the one used last first.
func (s *Store) Rulesets(ctx context.Context) ([]Ruleset, error) {
	var found []Ruleset
	err := s.view(ctx, "rulesets", func(t tx) error {
		var err error
		found, err = rulesets(ctx, t)
		return err
	})
	return found, err
}

func rulesets(ctx context.Context, t tx) ([]Ruleset, error) {
	var found []Ruleset
	err := scan(ctx, t, func(r rows) error {
		var one Ruleset
		var born, used int64
		if err := r.Scan(&one.Key, &one.Doc, &one.Numbers, &born, &used); err != nil {
			return err
		}
		one.Born, one.Used = fromMicros(born), fromMicros(used)
		found = append(found, one)
		return nil
	}, `SELECT key, doc, numbers, born, used FROM ruleset ORDER BY used DESC, key`)
	return found, err
}

// UseRuleset stores that a set of rules is in force now. One that is new gets
// the numbers that assign makes of those that are kept. The set of which
// after is the key, "" for none, was in force until now. Sets last used before
// drop are dropped, so that their numbers are free. It returns all that is
// kept then, the set first.
func (s *Store) UseRuleset(ctx context.Context, key, doc, after string, drop time.Time,
	assign func(kept []Ruleset) (numbers string, err error)) ([]Ruleset, error) {
	var all []Ruleset
	err := s.update(ctx, "rulesets", func(t *work) error {
		if guard := s.engine.dialect().guard; guard != "" { // two that give out the same number
			if err := t.exec(ctx, guard); err != nil {
				return err
			}
		}
		if err := t.exec(ctx, `UPDATE ruleset SET used = ?1 WHERE key = ?2 AND used < ?1`, micros(t.now), after); err != nil {
			return err
		}
		if err := t.exec(ctx, `DELETE FROM ruleset WHERE used < ?1`, micros(drop)); err != nil {
			return err
		}
		kept, err := rulesets(ctx, t)
		if err != nil {
			return err
		}
		all = all[:0]
		own := Ruleset{Key: key, Doc: doc, Born: t.now}
		for _, k := range kept {
			if k.Key == key {
				own = k
			} else {
				all = append(all, k)
			}
		}
		own.Used = t.now
		if own.Numbers == "" {
			if own.Numbers, err = assign(all); err != nil {
				return fmt.Errorf("%w: %w", errCaller, err)
			}
			if err := t.changed(ctx, kindRuleset, key); err != nil {
				return err
			}
		}
		all = append([]Ruleset{own}, all...)
		return t.exec(ctx, `INSERT INTO ruleset (key, doc, numbers, born, used) VALUES (?1, ?2, ?3, ?4, ?5)
			ON CONFLICT (key) DO UPDATE SET used = excluded.used`, own.Key, own.Doc, own.Numbers, micros(own.Born), micros(own.Used))
	})
	return all, err
}

// DropRulesets forgets all sets but one.
func (s *Store) DropRulesets(ctx context.Context, key string) error {
	return s.update(ctx, "rulesets", func(t *work) error {
		if err := t.exec(ctx, `DELETE FROM ruleset WHERE key <> ?1`, key); err != nil {
			return err
		}
		return t.changed(ctx, kindRuleset, key)
	})
}
