package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file is read when nobody writes it any more: how long that is waited for
// depends on what its times and its length say.
func TestReadQuiet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tlsonly.toml")
	write := func(text string, changed time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	read := func(before int, want string, atLeast time.Duration) {
		t.Helper()
		start := time.Now()
		got, err := readQuiet(t.Context(), path, before)
		if took := time.Since(start); err != nil || string(got) != want || took < atLeast {
			t.Errorf("read %q after %v, %v; want %q after %v", got, took, err, want, atLeast)
		}
	}
	write("whole", time.Now().Add(-time.Hour))
	read(0, "whole", 0)
	read(5, "whole", 0)
	read(6, "whole", quietShorter) // whatever its time says
	write("new", time.Now())
	read(0, "new", quiet-100*time.Millisecond)
	write("from tomorrow", time.Now().Add(24*time.Hour))
	read(0, "from tomorrow", quiet)

	// What is written meanwhile is what is read.
	for {
		write("ha", time.Now())
		written := make(chan time.Time, 1)
		go func() {
			time.Sleep(quiet / 2)
			_ = os.WriteFile(path, []byte("half and half"), 0o644)
			written <- time.Now()
		}()
		start := time.Now()
		got, err := readQuiet(t.Context(), path, 0)
		if err != nil || string(got) != "half and half" && (<-written).Sub(start) < quiet {
			t.Errorf("read %q, %v, which was being written", got, err)
		}
		if string(got) == "half and half" || t.Failed() {
			break
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	write("new", time.Now())
	if _, err := readQuiet(ctx, path, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := readQuiet(t.Context(), path+".none", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
