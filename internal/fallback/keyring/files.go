package keyring

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/fallback/keyfile"
)

// checkEvery is how often files are looked at, at most.
const checkEvery = 2 * time.Second

// files has keys read again when their files have changed.
type files struct {
	paths  []string
	reload func()

	mu      sync.Mutex
	checked time.Time
	was     string
}

// watch returns the files at these paths, which are about to be read.
func watch(paths []string, reload func()) *files {
	return &files{paths: paths, reload: reload, checked: time.Now(), was: state(paths)}
}

// fresh reads the files again where they have changed since they were looked at.
func (f *files) fresh() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) < checkEvery {
		return
	}
	// Its state comes first: what changes while the files are read is seen the
	// next time.
	if is := state(f.paths); is != f.was {
		f.reload()
		f.was = is
	}
	f.checked = time.Now()
}

// state says which files there are, and which of their versions.
func state(paths []string) string {
	var b strings.Builder
	one := func(path string) os.FileInfo {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			return nil
		}
		fmt.Fprintf(&b, "%s %d %d %v\n", path, info.Size(), info.ModTime().UnixNano(), info.Mode())
		return info
	}
	for _, path := range paths {
		if info := one(path); info == nil || !info.IsDir() {
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
		}
		for _, entry := range entries {
			one(filepath.Join(path, entry.Name()))
		}
	}
	return b.String()
}

func asErrors(problems []keyfile.Problem) []error {
	var all []error
	for _, p := range problems {
		all = append(all, p)
	}
	return all
}
