package audit

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/forward"
)

// Watcher audits again whenever a forward may have changed, and tells of those that begin or cease to break a rule.
type Watcher struct {
	Auditor *Auditor
	Changed <-chan struct{}
	Every   time.Duration // an audit without a change: destinations change, too
	// Began is told of a forward that breaks a rule and didn't before, Ceased of one that did and doesn't. Of the first audit
	// known says what failed before this process began; nil: nothing did.
	Began, Ceased func(Finding)
	FailedBefore  func(Finding) bool
	Log           *slog.Logger

	mu      sync.Mutex
	failing []Finding
	silent  string // sources that couldn't be listed, as logged
	summary Summary
	when    time.Time
}

// Failing returns what the last audit found to fail, how it went, and when it ended; zero before the first.
func (w *Watcher) Failing() ([]Finding, Summary, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failing, w.summary, w.when
}

// pause is kept between two audits: who changes many entries one by one is audited once.
const pause = 5 * time.Second

// Run audits until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	var before map[string]Finding
	for ctx.Err() == nil {
		if failing, sum, ok := w.audit(ctx); ok {
			before = w.tell(before, failing, sum.Unlisted)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
		case <-w.Changed:
		case <-tick.C:
		}
	}
}

func (w *Watcher) audit(ctx context.Context) ([]Finding, Summary, bool) {
	var failing []Finding
	sum, err := w.Auditor.Run(ctx, nil, func(f Finding) {
		if f.Fails() {
			failing = append(failing, f)
		}
	})
	if err != nil {
		if ctx.Err() == nil {
			w.Log.Warn("forwards not audited", "err", err)
		}
		return nil, sum, false
	}
	w.mu.Lock()
	w.failing, w.summary, w.when = failing, sum, w.Auditor.now()
	w.mu.Unlock()
	w.complain(sum.Unlisted)
	w.Log.Info("forwards audited", "owners", sum.Owners, "forwards", sum.Forwards, "failing", sum.Failing)
	return failing, sum, true
}

// complain logs which sources can't be listed, when these are others than before.
func (w *Watcher) complain(unlisted []forward.Unlisted) {
	var all []string
	for _, u := range unlisted {
		all = append(all, u.Source+": "+u.Reason)
	}
	slices.Sort(all)
	text := strings.Join(all, "; ")
	if text == w.silent {
		return
	}
	if w.silent = text; text == "" {
		w.Log.Info("all sources of forwards can be listed again")
		return
	}
	w.Log.Warn("sources of forwards can't be listed, so their forwards are not known", "err", text)
}

// tell says what is new since before, nil for nothing known, and returns what fails now. What isn't known for the moment is no news:
// neither that it fails, nor that what failed doesn't any more.
func (w *Watcher) tell(before map[string]Finding, failing []Finding, unlisted []forward.Unlisted) map[string]Finding {
	now := make(map[string]Finding, len(failing))
	lost := map[string]bool{} // owners and sources
	for _, u := range unlisted {
		lost[u.Source] = true
	}
	for _, f := range failing {
		old, failed := before[f.key()]
		switch {
		case f.Unknown() && f.Destination.IsZero():
			lost[f.Owner] = true
			continue
		case f.Unknown():
			if failed {
				now[f.key()] = old
			}
			continue
		case before == nil && w.FailedBefore != nil:
			failed = w.FailedBefore(f)
		}
		now[f.key()] = f
		if !failed {
			w.Began(f)
		}
	}
	for key, f := range before {
		if _, still := now[key]; still {
			continue
		}
		if lost[f.Owner] || lost[f.Source] {
			now[key] = f
		} else {
			w.Ceased(f)
		}
	}
	return now
}
