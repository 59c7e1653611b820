package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/store"
)

// testRulesets: a set gets its numbers once, from what others have; what was
// used last before a time is dropped, and what is in force until now counts
// as used now.
func testRulesets(t *testing.T, s suite) {
	now := start
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	s.config.Now = clock
	a, b := s.open(t, "a"), s.open(t, "b")
	changes := Watch(s.ctx, t, b)
	numbers := func(kept []store.Ruleset) (string, error) { return fmt.Sprint("after ", len(kept)), nil }
	use := func(st *store.Store, key, after string, drop time.Duration) []store.Ruleset {
		t.Helper()
		all, err := st.UseRuleset(s.ctx, key, "doc "+key, after, clock().Add(-drop), numbers)
		must(t, err)
		return all
	}
	equal(t, "the first", use(a, "one", "", time.Hour), []store.Ruleset{{Key: "one", Doc: "doc one", Numbers: "after 0", Born: start, Used: start}})
	equal(t, "another process hears of it", <-changes, store.Change{Rulesets: true})
	pass(time.Minute)
	all := use(b, "two", "", time.Hour)
	equal(t, "the second", []any{len(all), all[0].Numbers, all[1].Key}, []any{2, "after 1", "one"})
	pass(time.Minute)
	again := use(a, "one", "one", time.Hour)
	equal(t, "again", []any{again[0].Numbers, again[0].Born, again[0].Used}, []any{"after 0", start, clock()})

	pass(2 * time.Hour)
	equal(t, "was in force until now", len(use(a, "three", "one", time.Hour)), 2)
	kept, err := b.Rulesets(s.ctx)
	must(t, err)
	equal(t, "dropped", []any{len(kept), kept[0].Used, kept[1].Used}, []any{2, clock(), clock()})

	refused := errors.New("no numbers")
	if _, err := a.UseRuleset(s.ctx, "four", "", "", start, func([]store.Ruleset) (string, error) { return "", refused }); !errors.Is(err, refused) {
		t.Errorf("numbers that can't be had: %v", err)
	}
	must(t, a.Healthy())
	must(t, a.DropRulesets(s.ctx, "three"))
	kept, err = b.Rulesets(s.ctx)
	must(t, err)
	equal(t, "released", []any{len(kept), kept[0].Key}, []any{1, "three"})
}
