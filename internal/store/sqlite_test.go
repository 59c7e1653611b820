package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

// fill stores n destinations, each with hosts of its own.
func fill(ctx context.Context, t testing.TB, s *store.Store, n, providers int) {
	t.Helper()
	when := time.Now().Truncate(time.Second)
	var batch []store.Assessment
	for i := range n {
		a := storetest.Assessment(fmt.Sprintf("customer%d.example", i), fmt.Sprintf("provider%d.example", i%providers), when)
		for j := range a.Hosts {
			a.Hosts[j].Observations[0].Chain[0].Fingerprint = fmt.Sprintf("%064x", i%providers*10+j)
		}
		batch = append(batch, store.Assessment{Assessment: a, Port: 25})
		if len(batch) == 5000 || i == n-1 {
			if err := s.Put(ctx, batch...); err != nil {
				t.Fatal(err)
			}
			batch = nil
		}
	}
}

func path(c store.Config) string { return strings.TrimPrefix(c.URL, "sqlite://") }

func TestFileModes(t *testing.T) {
	t.Parallel()
	c := sqliteConfig(t)
	s := open(t.Context(), t, c)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		path(c): 0o640, path(c) + "-wal": 0o640, path(c) + "-shm": 0o640, filepath.Dir(path(c)): 0o750 | os.ModeDir,
	} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), want)
		}
	}
}

// TestPragmas asks every connection of the pool at once: a pragma on one of many is none.
func TestPragmas(t *testing.T) {
	t.Parallel()
	s := open(t.Context(), t, sqliteConfig(t))
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "5000"} {
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if got, err := store.Value(t.Context(), s, "PRAGMA "+pragma); err != nil || got != want {
					t.Errorf("%s: %q, want %q: %v", pragma, got, want, err)
				}
			})
		}
		group.Wait()
	}
}

func TestBadURL(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "tlsonly.db", "/var/lib/x.db", "sqlite:x.db", "sqlite://x.db", "sqlite:///", "sqlite:///x?_pragma=1", "mysql://x", "sqlite://%zz"} {
		if _, err := store.Open(t.Context(), store.Config{URL: bad}); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
	_, err := store.Open(t.Context(), store.Config{URL: "postgres://u:secret@/db?host=/nowhere"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("password: %v", err)
	}
}

func TestTwoDaemons(t *testing.T) {
	t.Parallel()
	c := sqliteConfig(t)
	c.Daemon = true
	first := open(t.Context(), t, c)
	_, err := store.Open(t.Context(), c)
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Fatalf("a second daemon: %v", err)
	}
	command := c
	command.Daemon = false
	beside := open(t.Context(), t, command)
	d := addr.MustDestination("b.example")
	if _, err := first.RaiseDemand(t.Context(), d, store.Demand{Level: policy.LevelEncrypt}); err != nil {
		t.Fatal(err)
	}
	changes := storetest.Watch(t.Context(), t, first)
	if _, err := beside.Pin(t.Context(), d, store.ByAdmin); err != nil {
		t.Fatal(err)
	}
	if got := <-changes; got.Destination != d {
		t.Fatalf("told %v", got)
	}
	first.Close()
	open(t.Context(), t, c)
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	const pages = 4096
	for _, test := range []struct {
		name string
		hurt func(file []byte) []byte
	}{
		{"header", func(b []byte) []byte { copy(b, "not a database at all"); return b }},
		{"schema", func(b []byte) []byte { copy(b[100:pages], bytes.Repeat([]byte{0xff}, pages)); return b }},
		{"middle", func(b []byte) []byte {
			from := len(b) / pages / 4 * pages
			copy(b[from:from+len(b)/2], bytes.Repeat([]byte{0x5a}, len(b)))
			return b
		}},
		{"half", func(b []byte) []byte { return b[:len(b)/pages/2*pages] }},
		{"text", func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"outcome":"tls"`), []byte(`"outcome"="tls"`))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := sqliteConfig(t)
			c.Daemon = true
			s := open(t.Context(), t, c)
			fill(t.Context(), t, s, 200, 200)
			s.Close()
			good, err := os.ReadFile(path(c))
			if err != nil {
				t.Fatal(err)
			}
			bad := test.hurt(bytes.Clone(good))
			if bytes.Equal(good, bad) {
				t.Fatal("nothing was hurt")
			}
			if err := os.WriteFile(path(c), bad, 0o640); err != nil {
				t.Fatal(err)
			}
			s, err = store.Open(t.Context(), c)
			if err == nil {
				_, err = s.Load(t.Context())
				s.Close()
			}
			if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "restore a backup") {
				t.Errorf("opened or unclear: %v", err)
			}
			if after, err := os.ReadFile(path(c)); err != nil || !bytes.Equal(after, bad) {
				t.Errorf("the damaged file was changed: %v", err)
			}
		})
	}
}

// TestBackup copies a database that is being written, as the manual says, and opens the copy.
func TestBackup(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := sqliteConfig(t)
	c.Daemon = true
	s := open(ctx, t, c)
	fill(ctx, t, s, 300, 50)
	d := addr.MustDestination("b.example")
	if _, err := s.RaiseDemand(ctx, d, store.Demand{Level: policy.LevelDane}); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Pin(ctx, addr.MustDestination(fmt.Sprintf("p%d.example", i)), "rule:x"); err != nil {
				t.Errorf("pin: %v", err)
				return
			}
		}
	}()
	db, err := sql.Open("sqlite", "file:"+path(c))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, copied)
	close(stop)
	<-stopped
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	restored := open(ctx, t, store.Config{URL: "sqlite://" + copied, Daemon: true})
	snap, err := restored.Load(ctx)
	if err != nil || len(snap.Destinations) < 301 {
		t.Fatalf("%v", err)
	}
	if e, err := restored.Get(ctx, d); err != nil || e.Demand.Level != policy.LevelDane {
		t.Errorf("%+v, %v", e.Demand, err)
	}
}
