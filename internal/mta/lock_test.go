package mta

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// One holds a directory at a time, by whatever name it is called, and nothing is
// left in it.
func TestLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, link, dir + "/."} {
		_, err := Lock(name)
		if !errors.Is(err, ErrBusy) {
			t.Errorf("locked twice, as %s: %v", name, err)
			continue
		}
		if who := "process " + strconv.Itoa(os.Getpid()) + " ("; runtime.GOOS == "linux" && !strings.Contains(err.Error(), who) {
			t.Errorf("it doesn't say who: %v", err)
		}
	}
	other, err := Lock(t.TempDir())
	if err != nil {
		t.Errorf("another directory: %v", err)
	} else {
		other()
	}
	unlock()
	again, err := Lock(link)
	if err != nil {
		t.Fatal(err)
	}
	again()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := Lock(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
