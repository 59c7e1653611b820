package ledger

import (
	"context"
	"errors"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/store"
)

// onChange notes what another process has changed.
func (l *Ledger) onChange(changes []store.Change) {
	l.staleMu.Lock()
	defer l.staleMu.Unlock()
	for _, c := range changes {
		switch {
		case c == store.Change{}:
			l.staleAll = true
			l.c.Rulesets()
			l.c.Keys()
		case c.Rulesets:
			l.c.Rulesets()
		case c.Keys:
			l.c.Keys()
		case c.Usage:
			l.staleUsage = true
		case !c.Destination.IsZero():
			l.stale[c.Destination] = struct{}{}
		case !c.Policy.IsZero():
			l.policies[c.Policy] = struct{}{}
		}
	}
	poke(l.changed)
}

// reread notes what is to be read again.
func (l *Ledger) reread(ds ...addr.Destination) {
	l.staleMu.Lock()
	defer l.staleMu.Unlock()
	for _, d := range ds {
		l.stale[d] = struct{}{}
	}
	poke(l.changed)
}

// loadTime is how long it may take to read everything.
const loadTime = time.Minute

// rereadAll reads again what was noted, until ctx ends. What can't be read now stays noted.
func (l *Ledger) rereadAll(ctx context.Context) {
	retry := time.NewTicker(l.storeRetry)
	defer retry.Stop()
	for away := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		case <-l.changed:
			if away {
				continue // it waits for the next tick
			}
		}
		loaded, err := l.catchUp(ctx)
		if err != nil && !away && ctx.Err() == nil {
			l.c.Log.Warn("change by another process not read, it waits", "err", err)
		}
		away = err != nil
		// Not all the time, when others change much: then more is read at once.
		pause := l.storeRetry / 4
		if loaded {
			pause = l.storeRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// catchUp reads again what was noted: one by one, or everything, loaded, where that is less work.
func (l *Ledger) catchUp(ctx context.Context) (loaded bool, err error) {
	l.staleMu.Lock()
	stale, policies, all := l.stale, l.policies, l.staleAll
	l.stale, l.policies, l.staleAll = map[addr.Destination]struct{}{}, map[addr.Domain]struct{}{}, false
	uses := l.staleUsage
	l.staleUsage = false
	l.staleMu.Unlock()

	if all || len(stale) > 100+l.Len()/100 {
		ctx, cancel := context.WithTimeout(ctx, loadTime)
		defer cancel()
		l.mu.RLock()
		m := l.memory
		l.mu.RUnlock()
		if err = l.Load(ctx, m); err != nil {
			l.onChange([]store.Change{{}})
		}
		return true, err
	}
	for d := range stale {
		if err == nil {
			err = l.rereadOne(ctx, d)
		}
		if err != nil {
			l.reread(d)
		}
	}
	for domain := range policies {
		if err == nil {
			err = l.rereadPolicy(ctx, domain)
		}
		if err != nil {
			l.onChange([]store.Change{{Policy: domain}})
		}
	}
	if uses {
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, storeTime)
			defer cancel()
			err = l.readUsage(ctx)
		}
		if err != nil {
			l.onChange([]store.Change{{Usage: true}})
		}
	}
	return false, err
}

func (l *Ledger) rereadPolicy(ctx context.Context, domain addr.Domain) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	p, err := l.c.Store.GetPolicy(ctx, domain)
	switch {
	case errors.Is(err, store.ErrUnknown): // forgotten there; it serves here to its end
		return nil
	case err != nil:
		return err
	}
	l.c.Policy(p)
	return nil
}

func (l *Ledger) rereadOne(ctx context.Context, d addr.Destination) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	release, err := l.lock(ctx, d)
	if err != nil {
		return err
	}
	defer release()
	e, err := l.c.Store.Get(ctx, d)
	if errors.Is(err, store.ErrUnknown) {
		return l.vanished(ctx, d)
	}
	if err != nil {
		return err
	}
	k := remember(&e)
	l.mu.Lock()
	if u, ok := l.used[d]; ok {
		k.used = u.when
	}
	l.set(d, k)
	m := l.memory
	l.mu.Unlock()
	if !e.Assessment.When.IsZero() {
		m.Seed(e.Assessment)
	}
	return nil
}

// vanished forgets a destination that is in the store no longer: it had no mail for months. Only when there was mail
// here after all, under a demand or a pin that had stood, both are stored again; the caller owns d.
func (l *Ledger) vanished(ctx context.Context, d addr.Destination) error {
	l.mu.Lock()
	k := l.records[d]
	u, used := l.used[d]
	if k == nil || !used || k.demand.Level == "" {
		l.set(d, nil)
		m := l.memory
		l.mu.Unlock()
		m.Drop(d)
		return nil
	}
	pinned, demand := k.pinned, k.demand
	l.mu.Unlock()
	by := ""
	if pinned {
		by = "rule:" + u.rule
	}
	_, _, err := l.c.Store.RecordPromise(ctx, d, demand, by)
	return err
}
