package binding

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

const (
	// openLongest is how long Follow waits for somebody who keeps a file open.
	openLongest = time.Minute
	// openAgain is between two questions who has a file open.
	openAgain = 100 * time.Millisecond
)

// Follow calls do at once and after each change of a file, until ctx ends. Do
// returns the files that it went by, which are followed from then on, and what
// went wrong: then it is called again after so long without a change, too. A
// change that do makes itself counts. At first paths are followed.
//
// After a change Follow waits until the files stand still for half a second,
// and until no process has one of them open for writing, but not for more than
// a minute: if do puts another file in the place of one that is being written,
// the rest is lost. Open files are seen on Linux only, and those of all
// processes by root only.
func Follow(ctx context.Context, log *slog.Logger, again time.Duration, paths []string,
	do func(context.Context) (paths []string, err error)) {
	const settle, poll = 500 * time.Millisecond, 15 * time.Second
	files := newFiles(log, settle, false)
	defer files.close()
	looks := time.NewTicker(poll)
	defer looks.Stop()
	for {
		files.watch(paths)
		files.changed()
		next, err := do(ctx)
		if ctx.Err() != nil {
			return
		}
		if len(next) > 0 && !slices.Equal(next, paths) {
			paths = next // a file may have changed before it was followed
			continue
		}
		var due <-chan time.Time
		if err != nil {
			due = time.After(again)
		}
		for waiting := true; waiting && !files.changed(); {
			select {
			case <-ctx.Done():
				return
			case <-files.events():
			case <-files.faults():
			case <-looks.C:
			case <-due:
				waiting = false
			}
		}
		if !files.settled(ctx) || !closed(ctx, paths) {
			return
		}
	}
}

// closed waits until no process has one of the files open for writing, or for
// openLongest, and reports whether ctx still runs.
func closed(ctx context.Context, paths []string) bool {
	limit := time.Now().Add(openLongest)
	for isOpen(paths) && time.Now().Before(limit) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(openAgain):
		}
	}
	return ctx.Err() == nil
}
