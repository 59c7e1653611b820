package store_test

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

func TestMigratesSQLite(t *testing.T) {
	t.Parallel()
	testMigrates(t, sqliteConfig(t))
}

func TestLogSQLite(t *testing.T) {
	t.Parallel()
	testLog(t, sqliteConfig(t))
}

// testMigrates goes from this program's schema to a later one and back to this program.
func testMigrates(t *testing.T, c store.Config) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	later := fstest.MapFS{}
	paths, err := fs.Glob(store.Migrations(), "migrations/*.sql")
	if err != nil || len(paths) == 0 {
		t.Fatal("no migrations", err)
	}
	for _, path := range paths {
		text, err := fs.ReadFile(store.Migrations(), path)
		if err != nil {
			t.Fatal(err)
		}
		later[path] = &fstest.MapFile{Data: text}
	}

	// Several processes meet a new database.
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			s, err := store.Open(ctx, c)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			s.Close()
		})
	}
	group.Wait()

	d := addr.MustDestination("b.example")
	s := open(ctx, t, c)
	if _, err := s.RaiseDemand(ctx, d, store.Demand{Level: policy.LevelSecure}); err != nil {
		t.Fatal(err)
	}

	// A migration that fails leaves nothing of itself behind.
	later["migrations/9998_more.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE more (x BIGINT);\nINSERT INTO nowhere (x) VALUES (1);\n")}
	if _, err := store.OpenWith(ctx, c, later); err == nil {
		t.Fatal("a broken migration passed")
	}
	if err := store.Exec(ctx, s, `INSERT INTO more (x) VALUES (1)`); err == nil {
		t.Fatal("half a migration stayed")
	}
	open(ctx, t, c)

	later["migrations/9998_more.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE more (x BIGINT);\n")}
	later["migrations/9999_most.sql"] = &fstest.MapFile{Data: []byte("INSERT INTO more (x) VALUES (1);\nALTER TABLE destination ADD COLUMN note TEXT NOT NULL DEFAULT '';\n")}
	for range 2 { // the second time there is nothing to do
		newer, err := store.OpenWith(ctx, c, later)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := newer.Get(ctx, d); err != nil || e.Demand.Level != policy.LevelSecure {
			t.Errorf("after the migration: %+v, %v", e, err)
		}
		newer.Close()
	}
	if _, err := store.Open(ctx, c); !errors.Is(err, store.ErrNewer) {
		t.Fatalf("an older program: %v", err)
	}
}
