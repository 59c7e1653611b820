package binding

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// files notices that files change: by their directories, because editors and
// programs put another file in the place of one, and by their times where
// directories can't be watched or say nothing, as on network file systems.
type files struct {
	log    *slog.Logger
	settle time.Duration
	paths  []string
	before string // how the files were
	notify *fsnotify.Watcher
	dirs   map[string]bool
}

func newFiles(log *slog.Logger, settle time.Duration, blind bool) *files {
	f := &files{log: log, settle: settle, dirs: map[string]bool{}}
	if blind {
		return f
	}
	var err error
	if f.notify, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("files of the MTA are only checked periodically", "err", err)
	}
	return f
}

func (f *files) close() {
	if f.notify != nil {
		_ = f.notify.Close()
	}
}

func (f *files) events() <-chan fsnotify.Event {
	if f.notify == nil {
		return nil
	}
	return f.notify.Events
}

func (f *files) faults() <-chan error {
	if f.notify == nil {
		return nil
	}
	return f.notify.Errors
}

// settled waits until no more is written, or for so long, and reports whether
// ctx still runs.
func (f *files) settled(ctx context.Context) bool {
	end := time.NewTimer(longest)
	defer end.Stop()
	for {
		quiet := time.NewTimer(f.settle)
		select {
		case <-ctx.Done():
			quiet.Stop()
			return false
		case <-end.C:
			quiet.Stop()
			return true
		case <-quiet.C:
			return true
		case <-f.events():
			quiet.Stop()
		case <-f.faults():
			quiet.Stop()
		}
	}
}

// watch says which files matter.
func (f *files) watch(paths []string) {
	f.paths = paths
	want := make(map[string]bool)
	for _, path := range paths {
		for _, dir := range places(path) {
			want[dir] = true
		}
	}
	if f.notify == nil {
		return
	}
	for dir := range f.dirs {
		if !want[dir] {
			_ = f.notify.Remove(dir)
			delete(f.dirs, dir)
		}
	}
	for dir := range want {
		// Again each time: another directory may have taken its place. Where it
		// can't be watched, times are compared.
		if f.notify.Add(dir) == nil {
			f.dirs[dir] = true
		}
	}
}

// places are the directories in which a path, and what its links lead to, can
// be put in place of what is there. Of one that isn't there yet it is the
// nearest above.
func places(path string) []string {
	const deepest = 20 // links can lead in a circle
	var found []string
	for range deepest {
		dir := filepath.Dir(path)
		for dir != "/" {
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				break
			}
			dir = filepath.Dir(dir)
		}
		found = append(found, dir)
		// A directory may itself be reached by a link that changes.
		if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
			for at := dir; at != "/"; at = filepath.Dir(at) {
				if info, err := os.Lstat(at); err == nil && info.Mode()&os.ModeSymlink != 0 {
					found = append(found, filepath.Dir(at))
				}
			}
		}
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return found
}

// changed reports whether a file isn't as it was, and notes how it is.
func (f *files) changed() bool {
	var b strings.Builder
	for _, path := range f.paths {
		b.WriteString(path + " ")
		info, err := os.Stat(path) // of what links lead to
		switch {
		case err == nil:
			fmt.Fprintln(&b, info.Size(), info.Mode(), info.ModTime().UnixNano(), identity(info))
		case errors.Is(err, os.ErrNotExist):
			b.WriteString("none\n")
		default:
			b.WriteString(err.Error() + "\n")
		}
	}
	now := b.String()
	changed := now != f.before
	f.before = now
	return changed
}
