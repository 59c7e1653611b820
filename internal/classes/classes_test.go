package classes_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/classes"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

const keep = 6 * 24 * time.Hour

func set(senders ...string) *rules.Set {
	var rs []*rules.Rule
	for _, s := range senders {
		rs = append(rs, &rules.Rule{Name: s, From: []addr.Pattern{addr.MustPattern(s)}, Level: policy.LevelEncrypt, Mode: policy.Enforce})
	}
	return rules.New(rs)
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) pass(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

func keeper(t *testing.T, file string, c *clock) classes.Keeper {
	t.Helper()
	s, err := store.Open(context.Background(), store.Config{URL: "sqlite://" + file, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return classes.Keeper{Store: s, Keep: keep, Now: c.Now}
}

func class(t *testing.T, d *rules.Delivery, c *clock, sender string, want int) {
	t.Helper()
	if n := d.Class(addr.MustAddress(sender), c.Now()); n != want {
		t.Errorf("%s is class %d, want %d", sender, n, want)
	}
}

// Numbers outlive the process, whoever gives them out first; what is gone
// binds until its mail is gone.
func TestUse(t *testing.T) {
	ctx, c := context.Background(), &clock{now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	file := filepath.Join(t.TempDir(), "db")
	daemon, setup := keeper(t, file, c), keeper(t, file, c)
	use := func(k classes.Keeper, s, before *rules.Set) *rules.Delivery {
		t.Helper()
		d, err := k.Use(ctx, s, before)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	clinic := set("@clinic.example")
	class(t, use(daemon, clinic, nil), c, "d@clinic.example", 1)
	both := set("@shop.example", "@clinic.example")
	preview, err := setup.Preview(ctx, both)
	if err != nil {
		t.Fatal(err)
	}
	class(t, preview, c, "x@shop.example", 2)
	if kept, err := setup.Store.Rulesets(ctx); err != nil || len(kept) != 1 {
		t.Errorf("a preview was stored: %v, %v", kept, err)
	}
	class(t, use(setup, both, nil), c, "x@shop.example", 2)
	d := use(daemon, both, clinic)
	class(t, d, c, "x@shop.example", 2)
	class(t, d, c, "d@clinic.example", 1)

	shop := set("@shop.example")
	d = use(daemon, shop, both)
	class(t, d, c, "d@clinic.example", 1)
	if d.Highest() != 2 {
		t.Errorf("highest number: %d", d.Highest())
	}
	for range 7 * 24 {
		c.pass(classes.Often)
		d = use(daemon, shop, shop)
	}
	class(t, d, c, "d@clinic.example", 0)
	c.pass(3 * classes.Often)
	use(daemon, shop, shop)
	class(t, use(daemon, set("@shop.example", "@bank.example"), shop), c, "x@bank.example", 1) // free again
}

// A host that was down for long finds its old mail bound all the same.
func TestUseAfterLong(t *testing.T) {
	ctx, c := context.Background(), &clock{now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	file := filepath.Join(t.TempDir(), "db")
	if _, err := keeper(t, file, c).Use(ctx, set("@clinic.example"), nil); err != nil {
		t.Fatal(err)
	}
	c.pass(60 * 24 * time.Hour)
	d, err := keeper(t, file, c).Use(ctx, set("@shop.example"), nil)
	if err != nil {
		t.Fatal(err)
	}
	class(t, d, c, "d@clinic.example", 1)
	class(t, d, c, "x@shop.example", 2)
}

// What is released binds nobody any more.
func TestRelease(t *testing.T) {
	ctx, c := context.Background(), &clock{now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	k := keeper(t, filepath.Join(t.TempDir(), "db"), c)
	clinic, shop := set("@clinic.example"), set("@shop.example")
	for _, s := range []*rules.Set{clinic, shop} {
		if _, err := k.Use(ctx, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Release(ctx, shop); err != nil {
		t.Fatal(err)
	}
	d, err := k.Use(ctx, shop, shop)
	if err != nil {
		t.Fatal(err)
	}
	class(t, d, c, "d@clinic.example", 0)
	class(t, d, c, "x@shop.example", 2)
}

// Many at one time never give a number to two kinds of senders.
func TestUseTogether(t *testing.T) {
	ctx, c := context.Background(), &clock{now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	file := filepath.Join(t.TempDir(), "db")
	var wg sync.WaitGroup
	numbers := make([]int, 8)
	keepers := make([]classes.Keeper, len(numbers))
	for i := range keepers {
		keepers[i] = keeper(t, file, c)
	}
	for i := range numbers {
		wg.Go(func() {
			sender := fmt.Sprintf("@d%d.example", i)
			d, err := keepers[i].Use(ctx, set(sender), nil)
			if err != nil {
				t.Error(err)
				return
			}
			numbers[i] = d.Class(addr.MustAddress("x"+sender), c.Now())
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, n := range numbers {
		if n == 0 || seen[n] {
			t.Fatalf("numbers %v", numbers)
		}
		seen[n] = true
	}
}
