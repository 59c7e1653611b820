package binding

import (
	"context"
	"log/slog"
	"time"
)

const (
	// openLongest is how long Follow waits for somebody who keeps a file open.
	openLongest = time.Minute
	// openAgain is between two questions who has a file open.
	openAgain = 100 * time.Millisecond
)

// Follow calls do at once, after each change of a file in paths, and after
// every, until ctx ends. A change that do makes itself counts, too.
//
// After a change Follow waits until the files stand still for half a second,
// and until no process has one of them open for writing, but not for more than
// a minute: if do puts another file in the place of one that is being written,
// the rest is lost. Open files are seen on Linux only, and those of all
// processes by root only.
func Follow(ctx context.Context, log *slog.Logger, every time.Duration, paths []string, do func(context.Context)) {
	const settle, poll = 500 * time.Millisecond, 15 * time.Second
	files := newFiles(log, settle, false)
	defer files.close()
	looks := time.NewTicker(poll)
	defer looks.Stop()
	for {
		files.watch(paths)
		files.changed()
		do(ctx)
		due := time.NewTimer(every)
		for waiting := true; waiting && !files.changed(); {
			select {
			case <-ctx.Done():
				due.Stop()
				return
			case <-files.events():
			case <-files.faults():
			case <-looks.C:
			case <-due.C:
				waiting = false
			}
		}
		due.Stop()
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
