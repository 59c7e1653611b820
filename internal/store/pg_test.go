package store_test

import (
	"context"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

func open(ctx context.Context, t testing.TB, c store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// testHeals takes the server away under a Watch and gives it back.
func testHeals(t *testing.T, server *storetest.Postgres) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := store.Config{URL: server.URL(t)}
	writer, watcher := open(ctx, t, c), open(ctx, t, c)
	changes := storetest.Watch(ctx, t, watcher)
	demand := store.Demand{Level: policy.LevelEncrypt}
	told := func(name string) {
		t.Helper()
		d := addr.MustDestination(name)
		if _, err := writer.RaiseDemand(ctx, d, demand); err != nil {
			t.Fatal(err)
		}
		for c := range changes {
			if c.Destination == d {
				return
			}
		}
		t.Fatalf("%s wasn't told", name)
	}
	told("before.example")
	server.Stop(t)
	if _, err := writer.RaiseDemand(ctx, addr.MustDestination("away.example"), demand); err == nil {
		t.Error("a demand was acknowledged without a server")
	}
	if writer.Healthy() == nil {
		t.Error("healthy without a server")
	}
	for watcher.Healthy() == nil {
		if ctx.Err() != nil {
			t.Fatal("the watcher doesn't notice")
		}
		time.Sleep(time.Millisecond)
	}
	server.Start(t)
	told("after.example")
	if err := writer.Ping(ctx); err != nil {
		t.Error(err)
	}
	if err := writer.Healthy(); err != nil {
		t.Error(err)
	}
	e, err := watcher.Get(ctx, addr.MustDestination("before.example"))
	if err != nil || e.Demand.Level != policy.LevelEncrypt {
		t.Errorf("what was acknowledged: %+v, %v", e.Demand, err)
	}
}

// testListens tells notification and polling apart.
func testListens(t *testing.T, server *storetest.Postgres) {
	for _, test := range []struct {
		name string
		set  func(*store.Store)
	}{
		{"notified", func(s *store.Store) { store.SetPoll(s, time.Hour) }},
		{"polling", func(s *store.Store) { store.SetPoll(s, 10*time.Millisecond); store.Deafen(s) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c := store.Config{URL: server.URL(t)}
			writer, watcher := open(ctx, t, c), open(ctx, t, c)
			test.set(watcher)
			changes := storetest.Watch(ctx, t, watcher)
			for _, name := range []string{"a.example", "b.example", "c.example"} {
				d := addr.MustDestination(name)
				if _, err := writer.Pin(ctx, d, store.ByAdmin); err != nil {
					t.Fatal(err)
				}
				if c := <-changes; c.Destination != d {
					t.Fatalf("told %v, want %s", c, d)
				}
			}
		})
	}
}

// testDurable gives a server whose commits aren't durable by default.
func testDurable(t *testing.T, server *storetest.Postgres) {
	ctx, c := t.Context(), store.Config{URL: server.URL(t)}
	first := open(ctx, t, c)
	for setting, want := range map[string]string{"off": "on", "remote_apply": "remote_apply"} {
		if err := store.Exec(ctx, first, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = `+setting+`', current_database()); END $$`); err != nil {
			t.Fatal(err)
		}
		got, err := store.Value(ctx, open(ctx, t, c), `SELECT current_setting('synchronous_commit')`)
		if err != nil || got != want {
			t.Errorf("server's default %s: %q, %v", setting, got, err)
		}
	}
}

// testLog looks at the change log's edges: a gap in watching, a kind from the future, its age.
func testLog(t *testing.T, c store.Config) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := open(ctx, t, c)
	if err := store.Exec(ctx, s, `INSERT INTO change (at, writer, kind, name) VALUES (1, 1, 'later', 'x')`); err != nil {
		t.Fatal(err)
	}
	if got := <-storetest.Watch(ctx, t, s); got != (store.Change{}) || ctx.Err() != nil {
		t.Errorf("a kind from the future: %v", got)
	}
	away := open(ctx, t, c)
	store.SetMissed(away, 0)
	if got, ok := <-storetest.Watch(ctx, t, away); got != (store.Change{}) || !ok {
		t.Errorf("after a gap: %v", got)
	}
	if _, err := s.Pin(ctx, addr.MustDestination("b.example"), store.ByAdmin); err != nil {
		t.Fatal(err)
	}
	store.PruneChanges(ctx, s)
	if got, err := store.Value(ctx, s, `SELECT CAST(count(*) AS TEXT) FROM change`); err != nil || got != "1" {
		t.Errorf("changes kept: %s, %v", got, err)
	}
}
