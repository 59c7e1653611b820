package ledger

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// outage notices when this host's own network is at fault: when many hosts that
// are known to be well fail alike at one time, because port 25 is closed on the
// way out, or because a device on the way overwrites what hosts say. What is
// seen then is no fault of theirs, and doesn't count against them. It can't
// hide that STARTTLS is gone: only looks that found out nothing are left
// uncounted. The few looks that lead to the suspicion have counted by then, as
// one failure each, which the next success takes back.
type outage struct {
	goodFor time.Duration // how long a host that was seen well is known to be

	mu     sync.Mutex
	well   map[netip.AddrPort]int64 // when hosts were last seen well, in seconds
	pruned time.Time                // when well was
	recent map[netip.AddrPort]sight // the last look at each host known to be well, of the last outageWindow
	failed map[policy.Outcome]int   // how many of them failed, and how
	swept  time.Time                // when recent was
	blamed map[netip.AddrPort]bool  // those that failed since it is suspected; nil: it isn't
	since  time.Time                // it is suspected
	how    string                   // most of them failed
	last   time.Time                // one of them failed last
}

// sight is a look at a host known to be well.
type sight struct {
	when   time.Time
	failed policy.Outcome // as kind says; "": it didn't
}

const (
	outageWindow, outageSweep = 10 * time.Minute, 10 * time.Second
	// outageHosts fail at least.
	outageHosts = 5
	// outageQuiet is how long a suspicion lasts after the last host that
	// failed: then nothing is known of the network.
	outageQuiet = time.Hour
	// maxWell bounds what is remembered: so many hosts tell as much as all do.
	maxWell = 10_000
)

func newOutage(every time.Duration) *outage {
	return &outage{
		// A host is looked at again after every, and a tenth more.
		goodFor: max(24*time.Hour, 3*every/2),
		well:    map[netip.AddrPort]int64{},
		recent:  map[netip.AddrPort]sight{},
		failed:  map[policy.Outcome]int{},
	}
}

// seed notes hosts that were seen well before.
func (n *outage) seed(a policy.Assessment, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range a.Hosts {
		for _, o := range h.Observations {
			if o.Outcome == policy.SawTLS && now.Sub(o.When) <= n.goodFor {
				n.remember(o, now)
			}
		}
	}
}

// remember notes that a host is well; n.mu is held.
func (n *outage) remember(o policy.Observation, now time.Time) {
	if _, ok := n.well[o.Address]; !ok && len(n.well) >= maxWell {
		if d := now.Sub(n.pruned); d >= 0 && d < time.Hour {
			return
		}
		n.pruned = now
		for address, when := range n.well {
			if now.Sub(time.Unix(when, 0)) > n.goodFor {
				delete(n.well, address)
			}
		}
		if len(n.well) >= maxWell {
			return
		}
	}
	n.well[o.Address] = max(n.well[o.Address], o.When.Unix())
}

// kind says how a host failed as all do when the network is at fault, "" where it didn't. Silence and refusal are both a
// closed port.
func kind(o policy.Observation) policy.Outcome {
	switch {
	case o.Outcome == policy.SawMangled:
		return policy.SawMangled
	case o.Stage == policy.StageConnect && (o.Outcome == policy.SawUnreachable || o.Outcome == policy.SawTimeout):
		return policy.SawUnreachable
	}
	return ""
}

// note takes in what a look saw, and returns what is to be told: that the network is suspected, or no longer.
func (n *outage) note(a policy.Assessment, now time.Time) (events []store.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sweep(now)
	if n.quiet(now) {
		events = append(events, n.cleared(now, "no host that is known to be well was seen to fail for an hour"))
	}
	for _, h := range a.Hosts {
		for _, o := range h.Observations {
			// Hosts are shared: one look at a host counts once, however many destinations it was for.
			if s, ok := n.recent[o.Address]; ok && !o.When.After(s.when) || now.Sub(o.When) > outageWindow || o.When.After(now) {
				continue
			}
			if e, ok := n.observe(o, now); ok {
				events = append(events, e)
			}
		}
	}
	return events
}

// observe takes in one look at a host; n.mu is held.
func (n *outage) observe(o policy.Observation, now time.Time) (store.Event, bool) {
	was, known := n.well[o.Address]
	if o.Outcome == policy.SawTLS {
		n.remember(o, now)
	}
	if !known || o.When.Sub(time.Unix(was, 0)) > n.goodFor {
		return store.Event{}, false
	}
	failed := kind(o)
	if s, ok := n.recent[o.Address]; ok {
		n.failed[s.failed]--
	}
	n.recent[o.Address] = sight{o.When, failed}
	n.failed[failed]++
	count, all := n.failed[policy.SawMangled]+n.failed[policy.SawUnreachable], len(n.recent)
	switch {
	case n.blamed == nil && count >= outageHosts && 2*count > all:
		n.blamed, n.since, n.last = map[netip.AddrPort]bool{}, now, now
		n.how = "they can't be reached, as if port 25 were closed on the way out"
		if n.failed[policy.SawMangled] > n.failed[policy.SawUnreachable] {
			n.how = "a device on the way overwrites what they say, STARTTLS too"
		}
		for address, s := range n.recent {
			if s.failed != "" {
				n.blamed[address] = true
			}
		}
		return store.Event{When: now, What: store.Outage,
			Why: fmt.Sprintf("%d of %d hosts that are known to be well fail: %s", count, all, n.how)}, true
	case n.blamed == nil:
	case failed != "":
		n.blamed[o.Address], n.last = true, now
	case o.Outcome == policy.SawTLS && n.blamed[o.Address]:
		return n.cleared(now, "a host that failed is well again"), true
	case 2*count <= all && all >= 2*outageHosts:
		return n.cleared(now, "most hosts that are known to be well are"), true
	}
	return store.Event{}, false
}

// sweep forgets what was seen too long ago, or will be, by a clock that was set back; n.mu is held.
func (n *outage) sweep(now time.Time) {
	if d := now.Sub(n.swept); d >= 0 && d < outageSweep {
		return
	}
	n.swept = now
	for address, s := range n.recent {
		if now.Sub(s.when) > outageWindow || s.when.After(now) {
			n.failed[s.failed]--
			delete(n.recent, address)
		}
	}
}

// quiet reports whether the suspicion is too old; n.mu is held.
func (n *outage) quiet(now time.Time) bool { return n.blamed != nil && now.Sub(n.last) > outageQuiet }

// cleared ends the suspicion; n.mu is held.
func (n *outage) cleared(now time.Time, why string) store.Event {
	n.blamed = nil
	clear(n.recent)
	clear(n.failed)
	return store.Event{When: now, What: store.OutageOver, Why: why}
}

// excuses reports whether what a look found out nothing about is more likely our own network's fault.
func (n *outage) excuses(a policy.Assessment) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range a.Hosts {
		for _, o := range h.Observations {
			if kind(o) != "" && n.blamed[o.Address] {
				return true
			}
		}
	}
	return false
}

// Suspect says what is wrong with this host's own network, "" when nothing is known to be.
func (l *Ledger) Suspect() string {
	n := l.outage
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blamed == nil || n.quiet(l.c.Now()) {
		return ""
	}
	since := n.since.UTC().Format("2006-01-02 15:04 MST")
	return fmt.Sprintf("since %s %d hosts that are known to be well fail: %s", since, len(n.blamed), n.how)
}
