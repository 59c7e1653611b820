// Package monitor looks at every known destination again, each once in a while and spread out, so that a destination
// that loses TLS is known before mail for it comes; and it tells people what changed.
//
// When a destination is due is kept in the store, so a restart changes nothing about it, and a fleet that shares a
// store shares the looks: each destination is claimed by one daemon, and a claim whose daemon died runs out. What was
// seen is learned where every look is (package ledger); the monitor only causes it.
//
// The caller calls Run for the life of the program. SECURITY: the notify command is run without a shell, with fixed
// arguments, a time limit and JSON on its standard input; nothing from outside reaches its arguments.
package monitor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Schedule is the part of store.Store that says what is due.
type Schedule interface {
	Due(ctx context.Context, now time.Time, n int, lease, farthest time.Duration) ([]addr.Destination, error)
	Prune(ctx context.Context, before time.Time) error
}

// Assessor is destination.Assessor.
type Assessor interface {
	Refresh(ctx context.Context, d addr.Destination, age time.Duration) policy.Assessment
}

// Ledger is ledger.Ledger.
type Ledger interface {
	Len() int     // destinations known
	Waiting() int // seen, and not learned yet
	Forget(ctx context.Context, before time.Time) error
}

// Config is what a Monitor works with. Schedule, Looker and Ledger are needed; zero fields mean the defaults named.
type Config struct {
	Schedule    Schedule
	Assessor    Assessor
	Ledger      Ledger
	Every       time.Duration // 24 h
	Forget      time.Duration // what had no mail for so long; 90 days
	Retention   time.Duration // of history; 2 years
	Concurrency int           // looks at the same time; 64
	Log         *slog.Logger
	Now         func() time.Time
	Tick        time.Duration // between two questions to the store what is due; 5 s
}

// Monitor looks again. Make one with New.
type Monitor struct {
	c     Config
	slots *semaphore.Weighted
}

// New returns a Monitor that isn't running yet.
func New(c Config) (*Monitor, error) {
	if c.Schedule == nil || c.Assessor == nil || c.Ledger == nil {
		return nil, errors.New("monitor: a schedule, a looker and a ledger are needed")
	}
	c.Every = cmp.Or(c.Every, 24*time.Hour)
	c.Forget = cmp.Or(c.Forget, 90*24*time.Hour)
	c.Retention = cmp.Or(c.Retention, 2*365*24*time.Hour)
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.Tick = cmp.Or(c.Tick, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Monitor{c: c, slots: semaphore.NewWeighted(int64(c.Concurrency))}, nil
}

const (
	// lease is how long a claimed destination is nobody else's: longer than it takes to look at it and to learn that.
	lease = 5 * time.Minute
	// assessTime is how long a look can take up a slot.
	assessTime = 2 * time.Minute
	// storeTime is how long the store may take to answer.
	storeTime = 10 * time.Second
	// hostAge is how old a look at a mail host may be to count for another destination that uses it: an hour, but never
	// so long that a host would be looked at less often than its destinations.
	hostAge = time.Hour
	// What is too old is dropped some minutes after the start, when what waited then is done, and every few hours.
	tidyFirst, tidyEvery = 10 * time.Minute, 6 * time.Hour
	// After the clock has jumped by more than this it isn't believed to say what is old, until it has gone well for a day.
	jump, steadyAfter = time.Hour, 24 * time.Hour
)

// Run looks at what is due until ctx ends, and waits for the looks under way.
func (m *Monitor) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { m.keepTidy(ctx) })
	tick := time.NewTicker(m.c.Tick)
	defer tick.Stop()
	for away := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due, err := m.due(ctx)
		if err != nil && !away && ctx.Err() == nil {
			m.c.Log.Warn("due assessments not known", "err", err)
		}
		away = err != nil
		for _, d := range due {
			if m.slots.Acquire(ctx, 1) != nil {
				return // the claims run out
			}
			work.Go(func() {
				defer m.slots.Release(1)
				ctx, cancel := context.WithTimeout(ctx, assessTime)
				defer cancel()
				m.c.Assessor.Refresh(ctx, d, min(hostAge, m.c.Every/2))
			})
		}
	}
}

// due claims what is to be looked at now. As long as much isn't learned, because the store is slow or away, nothing is:
// it would be claimed for longer than a claim lasts.
func (m *Monitor) due(ctx context.Context) ([]addr.Destination, error) {
	if m.c.Ledger.Waiting() > 4*m.c.Concurrency {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return m.c.Schedule.Due(ctx, m.c.Now(), m.batch(), lease, 2*m.c.Every)
}

// batch is how many destinations are taken at a tick: four times what keeps pace with all that is known, so that what
// fell due while the program was away is caught up with, but not in a rush; and no more than are done with while the
// claim lasts.
func (m *Monitor) batch() int {
	pace := float64(m.c.Ledger.Len()) * m.c.Tick.Seconds() / m.c.Every.Seconds()
	return min(int(4*pace)+1, 4*m.c.Concurrency)
}

// keepTidy drops what is too old until ctx ends.
func (m *Monitor) keepTidy(ctx context.Context) {
	next := time.NewTimer(tidyFirst)
	defer next.Stop()
	wall, began, steady := m.c.Now(), time.Now(), time.Now().Add(-steadyAfter)
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(tidyEvery)
		}
		// What has passed by the host's clock, and by one that nobody sets.
		now, passed := m.c.Now(), time.Since(began)
		jumped := now.Round(0).Sub(wall.Round(0)) - passed
		wall, began = now, began.Add(passed)
		if jumped.Abs() > jump {
			steady = began
			m.c.Log.Warn("the clock jumped, so nothing is deleted for its age today", "by", jumped.Round(time.Second))
		}
		if began.Sub(steady) >= steadyAfter {
			m.tidy(ctx)
		}
	}
}

// tidy forgets destinations without mail, and old history.
func (m *Monitor) tidy(ctx context.Context) {
	now := m.c.Now()
	if err := m.c.Ledger.Forget(ctx, now.Add(-m.c.Forget)); err != nil {
		m.c.Log.Warn("unused destinations not deleted", "err", err)
	}
	if err := m.c.Schedule.Prune(ctx, now.Add(-m.c.Retention)); err != nil {
		m.c.Log.Warn("old history not deleted", "err", err)
	}
}
