package socketmap

import (
	"hash/maphash"
	"sync"
	"time"

	"tlsonly/internal/addr"
)

// cached is how long Postfix may use an answer again: its queue manager keeps
// the last route for 30 seconds (resolve_clnt.c).
const cached = 31 * time.Second

// recent remembers which senders were answered "no transport of ours" within
// the last moments. Postfix may route them so once more, whatever is answered
// now.
type recent struct {
	seed maphash.Seed

	mu     sync.Mutex
	young  map[uint64]time.Time
	old    map[uint64]time.Time
	turned time.Time
}

func newRecent() *recent { return &recent{seed: maphash.MakeSeed()} }

func (r *recent) key(a addr.Address) uint64 { return maphash.Comparable(r.seed, a.Fold()) }

func (r *recent) add(a addr.Address, now time.Time) {
	k := r.key(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	if since := now.Sub(r.turned); since > cached || since < 0 {
		r.old, r.young, r.turned = r.young, map[uint64]time.Time{}, now
	}
	r.young[k] = now
}

func (r *recent) has(a addr.Address, now time.Time) bool {
	k := r.key(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	within := func(t time.Time, ok bool) bool { return ok && now.Sub(t) < cached && !t.After(now.Add(cached)) }
	young, inYoung := r.young[k]
	old, inOld := r.old[k]
	return within(young, inYoung) || within(old, inOld)
}

// Settled reports whether Postfix routes mail of a sender as it is answered
// now. It is false for a moment after rules have given a class to a sender
// whose mail was just routed without one.
func (s *Server) Settled(from addr.Address) bool {
	now := s.c.Now()
	r := s.routeOf(s.c.Rules(), from, now)
	return r.class == 0 && !r.doubt || !s.recent.has(from, now)
}
