package store_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/store"
)

// BenchmarkKnown shows what 100,000 destinations cost: from opening to all in memory, what stays resident, bytes on
// disk, and a list of the failing ones.
func BenchmarkKnown(b *testing.B) {
	for _, providers := range []int{25, 5000, 50000} { // two hosts each
		b.Run(fmt.Sprintf("hosts=%d", 2*providers), func(b *testing.B) {
			c := sqliteConfig(b)
			c.Daemon = true
			s := open(b.Context(), b, c)
			fill(b.Context(), b, s, 100000, providers)
			s.Close()
			info, err := os.Stat(path(c))
			if err != nil {
				b.Fatal(err)
			}
			debug.FreeOSMemory()
			before := resident(b)
			var opened, loaded, listed time.Duration
			var grown float64
			for b.Loop() {
				start := time.Now()
				s := open(b.Context(), b, c)
				opened += time.Since(start)
				snap, err := s.Load(b.Context())
				if err != nil || len(snap.Destinations) != 100000 {
					b.Fatal(err)
				}
				loaded += time.Since(start)
				list := time.Now()
				if err := s.List(context.Background(), store.Filter{Failing: true}, func(store.Entry) error { return nil }); err != nil {
					b.Fatal(err)
				}
				listed += time.Since(list)
				debug.FreeOSMemory()
				grown = resident(b) - before
				runtime.KeepAlive(snap)
				s.Close()
			}
			n := float64(b.N)
			b.ReportMetric(opened.Seconds()/n, "s-open")
			b.ReportMetric(loaded.Seconds()/n, "s-ready")
			b.ReportMetric(listed.Seconds()/n, "s-failing")
			b.ReportMetric(grown, "MB-resident")
			b.ReportMetric(float64(info.Size())/1e6, "MB-disk")
		})
	}
}

// resident returns the process's resident memory in MB.
func resident(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1000
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
