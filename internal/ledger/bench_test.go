package ledger

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination"
	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

// BenchmarkKnown shows what it costs a daemon to know 100,000 destinations, each pinned and with a demand: the time from
// opening the store to all in memory, and the memory that takes, resident then and reachable. The hosts are as many as 100,000 domains have that
// are chosen by their size, by their mail, and each with hosts of its own.
func BenchmarkKnown(b *testing.B) {
	const n = 100_000
	for _, hosts := range []int{50, 10_000, 100_000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			file := filepath.Join(b.TempDir(), "tlsonly.db")
			url := "sqlite://" + file
			fill(b, url, file, n, hosts/2)
			network := network{nil}
			debug.FreeOSMemory()
			var ready time.Duration
			var heap, rss float64
			for b.Loop() {
				start := time.Now()
				s, err := store.Open(b.Context(), store.Config{URL: url, Daemon: true})
				if err != nil {
					b.Fatal(err)
				}
				l, err := New(Config{Store: s})
				if err != nil {
					b.Fatal(err)
				}
				a, err := destination.New(destination.Config{Resolver: network, Prober: network, OnResult: l.Record})
				if err != nil {
					b.Fatal(err)
				}
				if err := l.Load(b.Context(), a); err != nil || l.Stats().Pinned != n {
					b.Fatal(l.Len(), err)
				}
				ready += time.Since(start)
				rss = resident(b)
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = float64(m.HeapAlloc) / 1e6
				if d := addr.MustDestination("customer77777.example"); !l.Pinned(d) || a.Assess(b.Context(), d, nil).When.IsZero() {
					b.Error("not known")
				}
				runtime.KeepAlive(l)
				a.Close()
				s.Close()
			}
			b.ReportMetric(ready.Seconds()/float64(b.N), "s-ready")
			b.ReportMetric(heap, "MB-heap")
			b.ReportMetric(rss, "MB-resident")
		})
	}
}

// fill stores n destinations at providers of two hosts each, all pinned and with a demand.
func fill(b *testing.B, url, file string, n, providers int) {
	b.Helper()
	s, err := store.Open(b.Context(), store.Config{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	when := time.Now().Truncate(time.Second)
	var batch []store.Assessment
	for i := range n {
		a := storetest.Assessment(fmt.Sprintf("customer%d.example", i), fmt.Sprintf("provider%d.example", i%providers), when)
		for j := range a.Hosts {
			a.Hosts[j].Observations[0].Chain[0].Fingerprint = fmt.Sprintf("%064x", i%providers*10+j)
		}
		if batch = append(batch, store.Assessment{Assessment: a, Port: 25}); len(batch) == 5000 || i == n-1 {
			if err := s.Put(b.Context(), batch...); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		b.Fatal(err)
	}
	now := when.UnixMicro()
	_, err = db.ExecContext(b.Context(), `UPDATE destination SET demand_level = 'encrypt', demand_min = 771, demand_bits = 128, demand_since = ?,
		pin_by = 'rule:clinic', pin_since = ?, first_success = ?, last_success = ?, used = ?, next = ?; DELETE FROM change`, now, now, now, now, now, now)
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// resident returns the process's resident memory in MB.
func resident(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1000
}
