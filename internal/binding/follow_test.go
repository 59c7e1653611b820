package binding

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// follow runs Follow on one file. Each value of the channel is what was in the
// file when do was called, which returned err.
func follow(t *testing.T, path string, again time.Duration, err error) <-chan string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	seen, ended := make(chan string, 100), make(chan bool)
	go func() {
		defer close(ended)
		Follow(ctx, slog.New(slog.DiscardHandler), again, []string{path}, func(context.Context) ([]string, error) {
			text, _ := os.ReadFile(path) // none is ""
			seen <- string(text)
			return nil, err
		})
	}()
	t.Cleanup(func() { stop(); <-ended })
	return seen
}

// sees waits until do has seen a text, and fails at one of those it must not.
func sees(t *testing.T, seen <-chan string, want string, never ...string) {
	t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case got := <-seen:
			if got == want {
				return
			}
			for _, n := range never {
				if got == n {
					t.Fatalf("do saw %q", got)
				}
			}
		case <-limit:
			t.Fatalf("do never saw %q", want)
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "main.cf")
	seen := follow(t, path, time.Hour, nil)
	sees(t, seen, "") // at once, though there is no file
	put(t, path, "one")
	sees(t, seen, "one")
	put(t, path, "two")
	sees(t, seen, "two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	sees(t, seen, "")
}

// What failed is tried again without a change, what went well is not.
func TestFollowAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "main.cf")
	put(t, path, "same")
	seen := follow(t, path, 10*time.Millisecond, errors.New("no"))
	for range 3 {
		sees(t, seen, "same")
	}
	path = filepath.Join(t.TempDir(), "main.cf")
	put(t, path, "same")
	seen = follow(t, path, time.Nanosecond, nil)
	sees(t, seen, "same")
	time.Sleep(2 * time.Second) // many times what it takes if it is due
	put(t, path, "other")
	sees(t, seen, "other", "same")
}

// Do says which files it went by; a change of one that wasn't followed before
// counts from then on.
func TestFollowOthers(t *testing.T) {
	dir := t.TempDir()
	path, table := filepath.Join(dir, "main.cf"), filepath.Join(dir, "tables", "senders")
	if err := os.Mkdir(filepath.Dir(table), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, table, "one")
	ctx, stop := context.WithCancel(t.Context())
	seen, ended := make(chan string, 100), make(chan bool)
	go func() {
		defer close(ended)
		Follow(ctx, slog.New(slog.DiscardHandler), time.Hour, []string{path}, func(context.Context) ([]string, error) {
			text, _ := os.ReadFile(table)
			seen <- string(text)
			return []string{path, table}, nil
		})
	}()
	t.Cleanup(func() { stop(); <-ended })
	sees(t, seen, "one")
	sees(t, seen, "one") // it is asked once more: the table may have changed before it was followed
	put(t, table, "two")
	sees(t, seen, "two")
}

// A file that another process still writes is left alone until it closes it.
func TestFollowOpen(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("open files of other processes are seen on Linux only")
	}
	path := filepath.Join(t.TempDir(), "main.cf")
	put(t, path, "before")
	seen := follow(t, path, time.Hour, nil)
	sees(t, seen, "before")
	// A shell that has written half, and waits for a word.
	writer, done := startWriter(t, path)
	for !isOpen([]string{path}) {
		time.Sleep(time.Millisecond)
	}
	// Longer than files have to stand still: do would see half of it now.
	time.Sleep(2 * time.Second)
	if _, err := writer.WriteString("go on\n"); err != nil {
		t.Fatal(err)
	}
	sees(t, seen, "half whole\n", "", "half ")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if isOpen([]string{path}) {
		t.Error("a file that is open for reading counts as one that is written")
	}
}

// startWriter starts a shell that opens a file, writes half of its text, and the
// rest once a line comes.
func startWriter(t *testing.T, path string) (*os.File, <-chan error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `exec >"$1"; printf 'half '; read -r word; echo whole`, "sh", path)
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { w.Close() })
	return w, done
}
