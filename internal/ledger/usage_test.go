package ledger

import (
	"testing"
	"time"

	"tlsonly/internal/store"
)

// What is in use is known after a restart, for as long as one asks, and when
// another process noted it; where it can't be stored the caller hears so.
func TestUse(t *testing.T) {
	b := newBench(t)
	const hop = "good.example"
	equal(t, "before", b.Used(store.UsedAsRelay, hop, time.Hour), false)
	must(t, b.Use(t.Context(), store.UsedAsRelay, hop))
	equal(t, "at once", b.Used(store.UsedAsRelay, hop, time.Hour), true)
	equal(t, "another kind", b.Used(store.UsedByLogin, hop, time.Hour), false)
	b.restart()
	equal(t, "after a restart", b.Used(store.UsedAsRelay, hop, time.Hour), true)
	away := func() (back func()) {
		b.exec("ALTER TABLE usage RENAME TO usage_away")
		return func() { b.exec("ALTER TABLE usage_away RENAME TO usage") }
	}
	back := away()
	must(t, b.Use(t.Context(), store.UsedAsRelay, hop)) // it stands
	if err := b.Use(t.Context(), store.UsedAsRelay, "far.example"); err == nil || b.Used(store.UsedAsRelay, "far.example", time.Hour) {
		t.Errorf("noted while the store was away: %v", err)
	}
	back()
	b.pass(2 * time.Hour)
	equal(t, "later", b.Used(store.UsedAsRelay, hop, time.Hour), false)
	equal(t, "within a day", b.Used(store.UsedAsRelay, hop, 24*time.Hour), true)
	must(t, b.Use(t.Context(), store.UsedAsRelay, hop))
	equal(t, "used again", b.Used(store.UsedAsRelay, hop, time.Hour), true)

	other := b.open(false)
	must(t, other.Use(t.Context(), store.UsedByLogin, "x@y.example"))
	b.onChange([]store.Change{{Usage: true}})
	back = away()
	if _, err := b.catchUp(t.Context()); err == nil {
		t.Error("read while it was away")
	}
	back()
	if _, err := b.catchUp(t.Context()); err != nil || !b.Used(store.UsedByLogin, "x@y.example", time.Hour) {
		t.Errorf("what another process noted isn't known: %v", err)
	}
	b.pass(usageKept + time.Hour)
	must(t, b.Use(t.Context(), store.UsedAsRelay, "new.example"))
	b.restart()
	equal(t, "forgotten", b.Used(store.UsedAsRelay, hop, 10*usageKept), false)
	equal(t, "new", b.Used(store.UsedAsRelay, "new.example", time.Hour), true)
}
