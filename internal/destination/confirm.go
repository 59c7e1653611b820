package destination

import (
	"context"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// Second is what a second probe of a destination's hosts came to, for those who
// were not content with the first.
type Second string

// What a second probe comes to.
const (
	Agreed   Second = "agreed"   // it showed no more
	Differed Second = "differed" // what it showed does
	Unsure   Second = "unsure"   // it showed nothing, or did not end in time
)

// Seconds lists all of them.
func Seconds() []Second { return []Second{Agreed, Differed, Unsure} }

// confirm has the hosts of d probed again that were probed once, and waits for
// that until ctx ends.
func (a *Assessor) confirm(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment {
	_, f, mine := a.destinations.get(d, a.c.Now(), a.c.Now().Add(time.Hour))
	if mine {
		f.twice = true
		close(f.begun)
		a.wg.Go(func() { a.walk(d, f, time.Time{}) })
	}
	<-f.begun
	known := await(ctx, d, f, enough)
	if !mine || a.c.Confirmed == nil {
		return known
	}
	switch {
	case enough(known):
		a.c.Confirmed(Differed)
	case known.Partial || judge.Repeatable(known) || judge.OutcomeOf(known.Problem, known.Hosts) == judge.Unknown:
		a.c.Confirmed(Unsure)
	default:
		a.c.Confirmed(Agreed)
	}
	return known
}

// hostTwice returns what is known of one mail host after a second probe, where
// there was one only. The second one begins Config.Confirm after the end of the
// first, or at once when that is past.
func (a *Assessor) hostTwice(key hostKey, after time.Time, resolved func(policy.Host)) policy.Host {
	first := a.host(key, after, resolved)
	if !judge.Repeatable(policy.Assessment{Hosts: []policy.Host{first}}) {
		return first
	}
	last := first.Observations[len(first.Observations)-1]
	now := a.c.Now()
	due := last.When.Add(last.Took + a.c.Confirm)
	if wait := min(due.Sub(now), a.c.Confirm); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-a.ctx.Done():
			return first
		}
	} else {
		due = now
	}
	second := a.host(key, due.Add(1), nil)
	if second.Once && len(second.Observations) > 0 {
		// The clock stands still, or the one who began this probe knew of none before.
		second.Earlier, second.Once = first.Observations, false
	}
	return second
}

// compare puts beside what was seen of a host what was seen of it before: at
// least Config.Confirm ago, and no longer ago than a bad result serves.
func (a *Assessor) compare(h *policy.Host, old policy.Host) {
	if a.c.Confirm == 0 || len(h.Observations) == 0 {
		return
	}
	h.Once = true
	began := h.Observations[0].When
	for _, seen := range [][]policy.Observation{old.Observations, old.Earlier} {
		if len(seen) == 0 {
			continue
		}
		last := seen[len(seen)-1]
		if age := began.Sub(last.When.Add(last.Took)); age >= a.c.Confirm && age <= a.c.Failure {
			h.Earlier, h.Once = seen, false
			return
		}
	}
}
