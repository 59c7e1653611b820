package ledger

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Record is what the Assessor tells of each finished look. It doesn't wait: Run learns it.
func (l *Ledger) Record(found policy.Assessment) {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	waiting, ok := l.queue[found.Destination]
	if !ok {
		l.order = append(l.order, found.Destination)
	}
	l.queue[found.Destination] = coalesce(append(waiting, found))
	poke(l.wake)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// maxResults is how many looks at one destination wait at most.
const maxResults = 8

// coalesce drops looks that say nothing new, while the store is away: of looks that went alike one after the other the
// first and the last say all that matters for a pin. Where that isn't enough, failures go, the last look excepted: a
// pin may then last longer, never less long.
func coalesce(looks []policy.Assessment) []policy.Assessment {
	n := len(looks)
	if n >= 3 && succeeded(looks[n-1]) == succeeded(looks[n-2]) && succeeded(looks[n-2]) == succeeded(looks[n-3]) {
		looks = slices.Delete(looks, n-2, n-1)
	}
	if len(looks) <= maxResults {
		return looks
	}
	last := looks[len(looks)-1]
	kept := slices.DeleteFunc(looks[:len(looks)-1], func(a policy.Assessment) bool { return !succeeded(a) })
	if len(kept) > 2 {
		kept = slices.Delete(kept, 1, len(kept)-1)
	}
	return append(kept, last)
}

// next takes the look that waits longest.
func (l *Ledger) next() (policy.Assessment, bool) {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	if len(l.order) == 0 {
		l.order = nil
		return policy.Assessment{}, false
	}
	l.busy = 1
	d := l.order[0]
	l.order = l.order[1:]
	looks := l.queue[d]
	if len(looks) > 1 {
		l.order = append(l.order, d)
		l.queue[d] = looks[1:]
	} else {
		delete(l.queue, d)
	}
	return looks[0], true
}

// putBack returns a look that couldn't be learned to its place before later ones at the same destination.
func (l *Ledger) putBack(found policy.Assessment) {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	later, ok := l.queue[found.Destination]
	if !ok {
		l.order = append(l.order, found.Destination)
	}
	l.queue[found.Destination] = append([]policy.Assessment{found}, later...)
	l.busy = 0
}

// recorded says that a look taken by next is.
func (l *Ledger) recorded() {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	l.busy = 0
}

// Waiting returns how many destinations have looks that aren't learned yet.
func (l *Ledger) Waiting() int {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	return len(l.queue) + l.busy
}

// lastTime is how long Run goes on to learn at the end.
const lastTime = 20 * time.Second

// Run learns finished looks, stores times of use and takes over what other processes change, until ctx ends; then it
// learns what is left, as far as that goes in some seconds.
func (l *Ledger) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { l.c.Store.Watch(ctx, l.onChange) })
	wg.Go(func() { l.rereadAll(ctx) })
	wg.Go(func() { l.maintain(ctx) })
	retry := time.NewTicker(l.storeRetry)
	defer retry.Stop()
	for away := false; ctx.Err() == nil; {
		away = l.recordAll(ctx, away)
		select {
		case <-ctx.Done():
			continue
		case <-retry.C:
			continue
		case <-l.wake:
		}
		if away { // learn again at the next tick, not at every look
			select {
			case <-ctx.Done():
			case <-retry.C:
			}
		}
	}
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	l.recordAll(last, false)
	if err := l.flush(last); err != nil {
		l.c.Log.Warn("times of last mail not stored", "err", err)
	}
	if n := l.Waiting(); n > 0 {
		l.c.Log.Warn("assessments lost, not stored", "destinations", n)
	}
}

// maintain stores times of use, and notices when a store that was away is back.
func (l *Ledger) maintain(ctx context.Context) {
	flush := time.NewTicker(l.flushEvery)
	defer flush.Stop()
	retry := time.NewTicker(l.storeRetry)
	defer retry.Stop()
	for away := false; ; {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-flush.C:
			if err = l.flush(ctx); err == nil {
				err = l.ping(ctx)
			}
		case <-retry.C:
			if l.c.Store.Healthy() == nil {
				continue
			}
			err = l.ping(ctx)
		}
		if err != nil && !away && ctx.Err() == nil {
			l.c.Log.Warn("store can't be written, so new mail of protected senders waits", "err", err)
		}
		if err == nil && away {
			l.c.Log.Info("store can be written again")
		}
		away = err != nil
	}
}

func (l *Ledger) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return l.c.Store.Ping(ctx)
}

// recordAll learns what waits, until there is nothing more or the store is
// away, and reports whether it is; was says that it was before.
func (l *Ledger) recordAll(ctx context.Context, was bool) (away bool) {
	for ctx.Err() == nil {
		found, ok := l.next()
		if !ok {
			return false
		}
		if err := l.recordOne(ctx, found); err != nil {
			l.putBack(found)
			if !was {
				l.c.Log.Warn("assessment not stored yet", "destination", found.Destination.String(), "err", err)
			}
			return true
		}
		l.recorded()
		was = false
	}
	return was
}

// probedAt is when the hosts of an assessment were looked at last. Hosts are
// shared, so that may be before the assessment was made of it, and one look at
// a host must not count for two.
func probedAt(a policy.Assessment) time.Time {
	var last time.Time
	for _, h := range a.Hosts {
		for _, o := range h.Observations {
			if o.When.After(last) {
				last = o.When
			}
		}
	}
	if last.IsZero() || last.After(a.When) {
		return a.When
	}
	return last
}

// recordOne stores a look and what follows from it. The end of ctx doesn't cut it in two.
func (l *Ledger) recordOne(ctx context.Context, found policy.Assessment) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	d := found.Destination
	release, err := l.lock(ctx, d)
	if err != nil {
		return err
	}
	defer release()

	for _, e := range l.outage.note(found, l.c.Now()) {
		l.emit(e)
		if err := l.c.Store.AddEvents(ctx, e); err != nil {
			l.c.Log.Warn("change not stored", "err", err)
		}
	}
	k := l.get(d)
	reason := judge.Destination(anyTLS(), found)
	ok := reason == ""
	excused := reason.Unknown() && l.outage.excuses(found)
	failures := 0
	switch {
	case excused:
		failures = 1 // to look again soon
	case !ok:
		failures = k.failures + 1
	}
	is, events := k.seen.then(found, k.pinned)
	look := store.Result{
		Destination: d,
		When:        probedAt(found),
		OK:          ok,
		Uncounted:   excused,
		Pin:         true,
		Next:        probedAt(found).Add(Next(l.c.Every, failures, rand.Float64())), // #nosec G404 -- spreads load, nothing secret
		Events:      slices.Clone(events),
	}
	for i := range look.Events {
		look.Events[i].When = found.When
	}
	if !reason.Unknown() {
		// What isn't known replaces nothing; what was seen to be lost replaces what was good.
		look.Assessment = &store.Assessment{Assessment: found, Port: d.PortOr(l.c.Port), Replace: !ok}
	}
	result, err := l.c.Store.RecordAssessment(ctx, look)
	if err != nil {
		return err
	}
	k.failures, k.reason, k.pinned, k.seen = result.Track.Failures, reason, result.Pin != nil, is
	k.failing = result.Track.FailingSince
	l.mu.Lock()
	if now := l.records[d]; now != nil {
		k.used = now.used // Owe notes it meanwhile
	}
	l.set(d, &k)
	l.mu.Unlock()

	if result.Pinned {
		events = append(events, store.Event{What: store.Pinned, To: store.BySuccesses})
	}
	if result.Unpinned != "" {
		events = append(events, store.Event{What: store.Unpinned, Why: result.Unpinned})
	}
	for _, e := range events {
		e.Destination, e.When = d, found.When
		if e.What == store.LevelChanged && e.From == "" {
			continue // to be known for the first time is for the history alone
		}
		l.emit(e)
	}
	return nil
}

// emit counts, logs and notifies.
func (l *Ledger) emit(e store.Event) {
	level := slog.LevelInfo
	if e.What == store.LostTLS || e.What == store.Unpinned || e.What == store.Outage {
		level = slog.LevelWarn
	}
	l.mu.Lock()
	l.events[e.What]++
	l.mu.Unlock()
	l.c.Log.Log(context.Background(), level, "change", "destination", e.Destination.String(), "what", string(e.What),
		"from", e.From, "to", e.To, "reason", e.Why)
	l.c.Notify(e)
}

// succeeded reports whether a look counts for a pin.
func succeeded(a policy.Assessment) bool { return judge.Destination(anyTLS(), a) == "" }

// Forget drops what had no mail since before, here and in the store.
func (l *Ledger) Forget(ctx context.Context, before time.Time) error {
	if err := l.flush(ctx); err != nil {
		return err
	}
	forgotten, err := l.c.Store.Forget(ctx, before)
	if err != nil {
		return err
	}
	l.reread(forgotten...)
	return nil
}

// flush stores the times of last mail.
func (l *Ledger) flush(ctx context.Context) error {
	l.mu.Lock()
	used := l.used
	l.used = map[addr.Destination]use{}
	l.mu.Unlock()
	times := make(map[addr.Destination]time.Time, len(used))
	for d, u := range used {
		times[d] = u.when
	}
	ctx, cancel := context.WithTimeout(ctx, 2*storeTime)
	defer cancel()
	err := l.c.Store.Touch(ctx, times)
	if err != nil {
		l.mu.Lock()
		for d, u := range used {
			if _, later := l.used[d]; !later {
				l.used[d] = u
			}
		}
		l.mu.Unlock()
	}
	return err
}
