package forward

import (
	"context"
	"fmt"
	"os"
	"time"
)

// slow bounds the looks at users' files that a file server keeps waiting: each
// has a thread of its own until the server answers.
type slow struct {
	places chan struct{}
	wait   time.Duration // for one look
}

const (
	mostSlow = 32
	slowWait = 2 * time.Second
)

func newSlow() *slow { return &slow{make(chan struct{}, mostSlow), slowWait} }

// soon returns what a look at a file says. Where it takes long, or too many
// already do, the error is os.ErrDeadlineExceeded, and the look goes on alone.
func soon[T any](ctx context.Context, s *slow, path string, look func() (T, error)) (T, error) {
	type result struct {
		value    T
		err      error
		panicked any
	}
	var none T
	late := func() (T, error) { return none, fmt.Errorf("read %s: %w", path, os.ErrDeadlineExceeded) }
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	select {
	case s.places <- struct{}{}:
	case <-timer.C:
		return late()
	case <-ctx.Done():
		return late()
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			r.panicked = recover()
			<-s.places
			done <- r
		}()
		r.value, r.err = look()
	}()
	select {
	case r := <-done:
		if r.panicked != nil {
			panic(r.panicked) // in the caller's goroutine, where it is expected
		}
		return r.value, r.err
	case <-timer.C:
		return late()
	case <-ctx.Done():
		return late()
	}
}
