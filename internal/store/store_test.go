package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

func TestMain(m *testing.M) {
	child() // doesn't return in a process that a test started
	goleak.VerifyTestMain(m)
}

// tempDir is in memory where that can be had: SQLite waits for the disk at every commit, and no test here takes the
// power away.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "store")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func sqliteConfig(t testing.TB) store.Config {
	return store.Config{URL: "sqlite://" + filepath.Join(tempDir(t), "lib", "tlsonly.db")}
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Config { return sqliteConfig(t) })
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	storetest.Run(t, func(t *testing.T) store.Config { return store.Config{URL: server.URL(t)} })
	t.Run("Heals", func(t *testing.T) { testHeals(t, server) })
	t.Run("Listens", func(t *testing.T) { testListens(t, server) })
	t.Run("Durable", func(t *testing.T) { testDurable(t, server) })
	t.Run("Log", func(t *testing.T) { testLog(t, store.Config{URL: server.URL(t)}) })
	t.Run("Migrates", func(t *testing.T) { testMigrates(t, store.Config{URL: server.URL(t)}) })
}
