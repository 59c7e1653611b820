package storetest

import (
	"context"
	"testing"
	"time"

	"tlsonly/internal/store"
)

// What is in use is kept by its kind and name, with the last time, and others on
// the store are told.
func testUsage(t *testing.T, s suite) {
	now := start
	s.config.Now = func() time.Time { return now }
	one, other := s.open(t, "one"), s.open(t, "other")
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	changes := Watch(ctx, t, other)
	must(t, one.Use(s.ctx, store.UsedAsRelay, "good.example"))
	must(t, one.Use(s.ctx, store.UsedByLogin, "doctor@clinic.example"))
	for got := range changes {
		if got.Usage {
			break
		}
	}
	stop()
	for range changes { // to its end
	}
	now = start.Add(time.Hour)
	must(t, other.Use(s.ctx, store.UsedAsRelay, "good.example"))
	now = start
	must(t, one.Use(s.ctx, store.UsedAsRelay, "good.example")) // a clock behind
	found, err := one.Usages(s.ctx, start)
	must(t, err)
	equal(t, "usages", found, []store.Usage{
		{Kind: store.UsedByLogin, Name: "doctor@clinic.example", When: start},
		{Kind: store.UsedAsRelay, Name: "good.example", When: start.Add(time.Hour)},
	})
	must(t, one.ForgetUsages(s.ctx, start.Add(time.Minute)))
	found, err = other.Usages(s.ctx, time.Time{})
	must(t, err)
	equal(t, "usages left", found, []store.Usage{{Kind: store.UsedAsRelay, Name: "good.example", When: start.Add(time.Hour)}})
	for _, name := range []string{"", "a\x00b", "\xff"} {
		if err := one.Use(s.ctx, store.UsedAsRelay, name); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}
