package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tlsonly/internal/testnet/rig"
)

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

// TestSoak is a few seconds of what "make soak" does for ten minutes.
func TestSoak(t *testing.T) {
	if err := rig.Isolated(); err != nil {
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("short")
	}
	binary := filepath.Join(t.TempDir(), "tlsonly")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "tlsonly/cmd/tlsonly").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := run(t.Context(), binary, 2*time.Second); err != nil {
		t.Error(err)
	}
}

// What has grown is noticed, what chance makes of it isn't.
func TestGrown(t *testing.T) {
	before := figures{resident: 50e6, heap: 10e6, goroutines: 40, descriptors: 30}
	for _, c := range []struct {
		what   string
		change func(*figures)
		want   bool
	}{
		{"nothing", func(*figures) {}, false},
		{"a little", func(f *figures) { f.resident += 5e6; f.goroutines += 3; f.descriptors++ }, false},
		{"memory", func(f *figures) { f.resident *= 2 }, true},
		{"heap", func(f *figures) { f.heap *= 2 }, true},
		{"goroutines", func(f *figures) { f.goroutines += 100 }, true},
		{"descriptors", func(f *figures) { f.descriptors += 100 }, true},
	} {
		after := before
		c.change(&after)
		if err := grown(before, after); (err != nil) != c.want {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
