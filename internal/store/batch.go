package store

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// A commit waits for the disk, and SQLite has one at a time. So what many want to write at once goes into one transaction: each is
// told when that is on disk, and the disk is waited for once.

// maxBatch bounds how much is undone when a transaction fails, and how long it
// keeps other processes waiting.
const maxBatch = 64

// job is what one caller of update wants.
type job struct {
	ctx  context.Context
	fn   func(*work) error
	done chan error
}

// commitQueue is who waits for a transaction. A goroutine works while anybody does.
type commitQueue struct {
	mu      sync.Mutex
	waiting []*job
	working bool
	workers sync.WaitGroup
}

// join runs fn in a transaction of its own or with others'. When ctx ends it returns at once, and fn may still run, and count.
func (s *Store) join(ctx context.Context, fn func(*work) error) error {
	j := &job{ctx, fn, make(chan error, 1)}
	s.queue.mu.Lock()
	s.queue.waiting = append(s.queue.waiting, j)
	if !s.queue.working {
		s.queue.working = true
		s.queue.workers.Go(s.serve)
	}
	s.queue.mu.Unlock()
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serve takes who waits, in order, until nobody does.
func (s *Store) serve() {
	for {
		s.queue.mu.Lock()
		n := min(len(s.queue.waiting), maxBatch)
		jobs := s.queue.waiting[:n:n]
		if s.queue.waiting = s.queue.waiting[n:]; len(s.queue.waiting) == 0 {
			s.queue.waiting = nil
		}
		s.queue.working = n > 0
		s.queue.mu.Unlock()
		if n == 0 {
			return
		}
		if n > 1 && s.batch(jobs) {
			continue
		}
		for _, j := range jobs {
			j.done <- s.transact(j.ctx, j.run)
		}
	}
}

// batch runs jobs in one transaction, one that fails as if it hadn't been
// there, and tells all of them. It returns false when the transaction came to
// nothing, and nobody was told.
func (s *Store) batch(jobs []*job) bool {
	errs := make([]error, len(jobs))
	ctx := context.WithoutCancel(jobs[0].ctx)
	err := s.transact(ctx, func(t *work) error {
		for i, j := range jobs {
			if errs[i] = j.ctx.Err(); errs[i] != nil {
				continue
			}
			if err := t.exec(ctx, `SAVEPOINT job`); err != nil {
				return err
			}
			t.now = s.c.Now()
			if errs[i] = j.run(t); errs[i] != nil {
				if err := t.exec(ctx, `ROLLBACK TO job`); err != nil { // SQLite has undone everything
					return err
				}
			}
			if err := t.exec(ctx, `RELEASE job`); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false
	}
	for i, j := range jobs {
		j.done <- errs[i]
	}
	return true
}

// run is fn; a panic, which nobody could recover from here, is the caller's error.
func (j *job) run(t *work) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return j.fn(t)
}
