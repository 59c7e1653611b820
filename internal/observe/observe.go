// Package observe keeps count of what rules that only observe would have done,
// and says whether a site is ready to have them enforced.
//
// Counts are by day, rule, destination, reason and verdict; nothing of a message
// is kept, and of its sender and recipient one of 64 bits, by which their number
// is estimated. The caller runs a Recorder, gives it each decision, and asks
// Summarize.
package observe

import (
	"context"
	"hash/fnv"
	"log/slog"
	"math"
	"math/bits"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Store is where counts are kept.
type Store interface {
	AddObserved(ctx context.Context, seen ...store.Observed) error
}

// Decision is one of a rule that only observes, about one recipient.
type Decision struct {
	Rule        string
	Destination addr.Destination // that decided; zero for none
	Reason      policy.Reason
	Would       policy.Verdict
	From, To    addr.Address
}

// How long counts are collected before they are stored, and after the store
// failed.
const (
	collect = time.Second
	again   = 10 * time.Second
	most    = 10 * time.Second // that storing may take
)

// Recorder collects counts and stores them. Make one with New.
type Recorder struct {
	store Store
	log   *slog.Logger
	now   func() time.Time

	mu   sync.Mutex
	seen map[key]store.Observed
	some chan struct{}
}

type key struct {
	day         time.Time
	rule        string
	destination addr.Destination
	reason      policy.Reason
	verdict     policy.Verdict
}

// New returns a Recorder that stores nothing before it runs.
func New(s Store, log *slog.Logger, now func() time.Time) *Recorder {
	return &Recorder{store: s, log: log, now: now, seen: map[key]store.Observed{}, some: make(chan struct{}, 1)}
}

// Add counts a decision. It doesn't wait.
func (r *Recorder) Add(d Decision) {
	now := r.now().UTC()
	k := key{now.Truncate(24 * time.Hour), d.Rule, d.Destination, d.Reason, d.Would}
	if d.Would == policy.Accept {
		k.destination = addr.Destination{}
	}
	r.mu.Lock()
	if _, ok := r.seen[k]; !ok && len(r.seen) >= store.MostObserved {
		k.destination = addr.Destination{} // the store is slow, or somebody invents names
	}
	r.merge(k, store.Observed{Day: k.day, Rule: k.rule, Destination: k.destination, Reason: k.reason, Verdict: k.verdict,
		Times: 1, Senders: bit(d.From), Recipients: bit(d.To), Last: now})
	r.mu.Unlock()
	select {
	case r.some <- struct{}{}:
	default:
	}
}

// merge adds to a count; r.mu is held.
func (r *Recorder) merge(k key, o store.Observed) {
	was, ok := r.seen[k]
	if !ok {
		r.seen[k] = o
		return
	}
	was.Times += o.Times
	was.Senders |= o.Senders
	was.Recipients |= o.Recipients
	if o.Last.After(was.Last) {
		was.Last = o.Last
	}
	r.seen[k] = was
}

// Run stores counts until ctx ends, and then what is left.
func (r *Recorder) Run(ctx context.Context) {
	pause := time.NewTimer(0)
	<-pause.C
	for {
		select {
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx))
			return
		case <-r.some:
		}
		wait := collect
		for {
			pause.Reset(wait)
			select {
			case <-ctx.Done():
				r.flush(context.WithoutCancel(ctx))
				return
			case <-pause.C:
			}
			if r.flush(ctx) {
				break
			}
			wait = again
		}
	}
}

// flush stores what was collected; false where that failed.
func (r *Recorder) flush(ctx context.Context) bool {
	r.mu.Lock()
	seen := r.seen
	r.seen = map[key]store.Observed{}
	r.mu.Unlock()
	if len(seen) == 0 {
		return true
	}
	rows := make([]store.Observed, 0, len(seen))
	for _, o := range seen {
		rows = append(rows, o)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	err := r.store.AddObserved(ctx, rows...)
	if err == nil {
		return true
	}
	r.log.Warn("counts of observe mode not stored yet", "err", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, o := range seen {
		r.merge(k, o)
	}
	return false
}

// bit is an address's among 64.
func bit(a addr.Address) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(a.Fold().String()))
	return 1 << (h.Sum64() % 64)
}

// Estimate says about how many addresses made a set of bits (linear counting;
// Whang, Vander-Zanden and Taylor, 1990). It is right for a few, and no more than
// 266.
func Estimate(set uint64) int {
	zeros := 64 - bits.OnesCount64(set)
	if zeros == 0 {
		return 266
	}
	return int(math.Round(64 * math.Log(64/float64(zeros))))
}
