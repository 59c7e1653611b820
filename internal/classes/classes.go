// Package classes keeps the numbers of classes of senders across changes of
// the file, restarts, and processes on one store. An MTA knows a class by its
// number, which stands in queues, in tables and in caches that are older than
// the file; package rules says what a number means (rules.Delivery), and this
// package which sets of rules that is made of: those in force, and those that
// were while mail was accepted that may still wait.
//
// The daemon uses a set when it starts and at each reload, before anything is
// judged by it. Setup uses it before it writes the numbers into Postfix's
// files. Whichever comes first, the other finds the same numbers.
package classes

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"tlsonly/internal/store"
	"tlsonly/rules"
)

// Often is how often a daemon has to say that its rules are in force (Use).
const Often = time.Hour

// Keeper knows the sets of rules of a store.
type Keeper struct {
	Store *store.Store
	Keep  time.Duration // mail waits no longer
	Now   func() time.Time
}

// drop is when a set must have been used last for mail to be gone that was
// accepted under it.
func (k Keeper) drop() time.Time { return k.Now().Add(-k.Keep - 2*Often) }

// Use stores that a set of rules is in force from now on, in place of before;
// nil stands for the set that was used last, by whatever process. It returns
// what delivery is answered from. On an error the caller must not judge by
// the set: the numbers that it would give are nobody's yet.
func (k Keeper) Use(ctx context.Context, set, before *rules.Set) (*rules.Delivery, error) {
	key, doc, err := set.Save()
	if err != nil {
		return nil, err
	}
	after := ""
	if before != nil {
		if after, _, err = before.Save(); err != nil {
			return nil, err
		}
	} else {
		kept, err := k.Store.Rulesets(ctx)
		if err != nil {
			return nil, err
		}
		if len(kept) > 0 {
			after = kept[0].Key
		}
	}
	kept, err := k.Store.UseRuleset(ctx, key, string(doc), after, k.drop(), func(kept []store.Ruleset) (string, error) {
		stages, err := restore(kept)
		if err != nil {
			return "", err
		}
		numbers, err := json.Marshal(rules.Assign(set, stages))
		return string(numbers), err
	})
	if err != nil {
		return nil, err
	}
	return k.delivery(set, kept)
}

// Last returns the set that was used last, by whatever process; nil where
// none was.
func (k Keeper) Last(ctx context.Context) (*rules.Set, error) {
	kept, err := k.Store.Rulesets(ctx)
	if err != nil || len(kept) == 0 {
		return nil, err
	}
	return rules.Restore([]byte(kept[0].Doc))
}

// Preview returns what Use would, and stores nothing.
func (k Keeper) Preview(ctx context.Context, set *rules.Set) (*rules.Delivery, error) {
	key, _, err := set.Save()
	if err != nil {
		return nil, err
	}
	all, err := k.Store.Rulesets(ctx)
	if err != nil {
		return nil, err
	}
	own := store.Ruleset{Key: key}
	var kept []store.Ruleset
	for i, one := range all {
		switch {
		case one.Used.Before(k.drop()) && i > 0: // Use takes the first for one that was in force till now
		case one.Key == key:
			own = one
		default:
			kept = append(kept, one)
		}
	}
	if own.Numbers == "" {
		stages, err := restore(kept)
		if err != nil {
			return nil, err
		}
		numbers, err := json.Marshal(rules.Assign(set, stages))
		if err != nil {
			return nil, err
		}
		own.Numbers = string(numbers)
	}
	return k.delivery(set, append([]store.Ruleset{own}, kept...))
}

// delivery makes a Delivery of a set and of those that are kept, of which it
// is the first.
func (k Keeper) delivery(set *rules.Set, kept []store.Ruleset) (*rules.Delivery, error) {
	var numbers rules.Numbers
	if err := json.Unmarshal([]byte(kept[0].Numbers), &numbers); err != nil {
		return nil, fmt.Errorf("numbers of classes: %w", err)
	}
	former, err := restore(kept[1:])
	if err != nil {
		return nil, err
	}
	return rules.NewDelivery(rules.Stage{Set: set, Numbers: numbers}, former, k.Keep), nil
}

func restore(kept []store.Ruleset) ([]rules.Stage, error) {
	var stages []rules.Stage
	for _, one := range kept {
		set, err := rules.Restore([]byte(one.Doc))
		if err != nil {
			return nil, err
		}
		stage := rules.Stage{Set: set, Until: one.Used.Add(Often)}
		if err := json.Unmarshal([]byte(one.Numbers), &stage.Numbers); err != nil {
			return nil, fmt.Errorf("numbers of classes: %w", err)
		}
		stages = append(stages, stage)
	}
	return stages, nil
}

// Release has all sets of rules but one forgotten: what they asked binds
// nobody any more.
func (k Keeper) Release(ctx context.Context, set *rules.Set) error {
	key, _, err := set.Save()
	if err != nil {
		return err
	}
	return k.Store.DropRulesets(ctx, key)
}
