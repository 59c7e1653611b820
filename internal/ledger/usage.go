package ledger

import (
	"context"
	"sync"
	"time"

	"tlsonly/internal/store"
)

// usage is what was seen in use when mail was accepted, and when.
type usage struct {
	mu     sync.RWMutex
	at     map[store.Usage]time.Time // by kind and name
	forgot time.Time                 // when the store was last told to forget
}

// usageKept is for how long what isn't in use any more is read and kept: far above
// the time that mail waits in a queue.
const usageKept = 90 * 24 * time.Hour

// Use makes durable, before it returns nil, that something is in use: what
// delivery must know of it later. What was noted within the hour costs no write.
func (l *Ledger) Use(ctx context.Context, kind store.UsageKind, name string) error {
	now := l.c.Now()
	if at, ok := l.usedAt(kind, name); ok && now.Sub(at) < usedOften && !at.After(now) {
		return nil
	}
	if err := l.c.Store.Use(ctx, kind, name); err != nil {
		return err
	}
	l.usage.mu.Lock()
	if l.usage.at == nil {
		l.usage.at = map[store.Usage]time.Time{}
	}
	l.usage.at[store.Usage{Kind: kind, Name: name}] = now
	forget := now.Sub(l.usage.forgot) > 24*time.Hour
	if forget {
		l.usage.forgot = now
	}
	l.usage.mu.Unlock()
	if forget {
		if err := l.c.Store.ForgetUsages(ctx, now.Add(-usageKept)); err != nil {
			l.c.Log.Warn("unused entries not deleted", "err", err)
		}
	}
	return nil
}

// Used reports whether something was in use within a time.
func (l *Ledger) Used(kind store.UsageKind, name string, within time.Duration) bool {
	at, ok := l.usedAt(kind, name)
	return ok && l.c.Now().Sub(at) <= within
}

func (l *Ledger) usedAt(kind store.UsageKind, name string) (time.Time, bool) {
	l.usage.mu.RLock()
	defer l.usage.mu.RUnlock()
	at, ok := l.usage.at[store.Usage{Kind: kind, Name: name}]
	return at, ok
}

// readUsage reads what the store has, this process's own included: what was noted
// here meanwhile stays.
func (l *Ledger) readUsage(ctx context.Context) error {
	found, err := l.c.Store.Usages(ctx, l.c.Now().Add(-usageKept))
	if err != nil {
		return err
	}
	l.usage.mu.Lock()
	defer l.usage.mu.Unlock()
	if l.usage.at == nil {
		l.usage.at = map[store.Usage]time.Time{}
	}
	for _, u := range found {
		key := store.Usage{Kind: u.Kind, Name: u.Name}
		if u.When.After(l.usage.at[key]) {
			l.usage.at[key] = u.When
		}
	}
	return nil
}
