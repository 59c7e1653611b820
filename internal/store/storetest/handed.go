package storetest

import (
	"testing"
	"time"

	"tlsonly/internal/store"
)

// What was handed over is known to all, and after a restart, for a month.
func testHanded(t *testing.T, s suite) {
	now := start
	s.config.Now = func() time.Time { return now }
	one := s.open(t, "one")
	handed := func(by *store.Store, key string, want bool) {
		t.Helper()
		got, err := by.Handed(s.ctx, key)
		must(t, err)
		equal(t, "handed "+key, got, want)
	}
	handed(one, "a", false)
	must(t, one.PutHanded(s.ctx, "a"))
	must(t, one.PutHanded(s.ctx, "a"))
	handed(one, "a", true)
	other := s.open(t, "other")
	handed(other, "a", true)
	handed(other, "b", false)
	now = now.Add(29 * 24 * time.Hour)
	must(t, other.PutHanded(s.ctx, "b"))
	handed(one, "a", true)
	now = now.Add(2 * 24 * time.Hour)
	must(t, other.PutHanded(s.ctx, "c"))
	handed(one, "a", false)
	handed(one, "b", true)
	for _, key := range []string{"", "a\x00b"} {
		if err := one.PutHanded(s.ctx, key); err == nil {
			t.Errorf("%q was taken", key)
		}
	}
}
