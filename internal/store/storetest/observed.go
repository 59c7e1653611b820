package storetest

import (
	"fmt"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// What was observed is added up by day, also by several daemons, and is dropped
// with history.
func testObserved(t *testing.T, s suite) {
	one, other := s.open(t, "one"), s.open(t, "other")
	day := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	d := addr.MustDestination("oldlab.example")
	row := func(at time.Time, times int64, senders, recipients uint64) store.Observed {
		return store.Observed{Day: at, Rule: "clinic", Destination: d, Reason: policy.NoSTARTTLS, Verdict: policy.Reject,
			Times: times, Senders: senders, Recipients: recipients, Last: at}
	}
	accepted := store.Observed{Day: day, Rule: "clinic", Verdict: policy.Accept, Times: 400, Senders: 1 << 63, Recipients: 1, Last: day.Add(time.Hour)}
	must(t, one.AddObserved(s.ctx, row(day.Add(9*time.Hour), 1, 1, 4), accepted))
	must(t, other.AddObserved(s.ctx, row(day.Add(8*time.Hour), 2, 1<<63, 4)))
	must(t, other.AddObserved(s.ctx, row(day.Add(30*time.Hour), 1, 2, 8)))
	both := row(day, 3, 1<<63|1, 4)
	both.Last = day.Add(9 * time.Hour)
	next := row(day.Add(24*time.Hour), 1, 2, 8)
	next.Last = day.Add(30 * time.Hour)
	found, err := one.ObservedSince(s.ctx, day)
	must(t, err)
	equal(t, "observed", found, []store.Observed{accepted, both, next})
	found, err = one.ObservedSince(s.ctx, day.Add(2*time.Hour))
	must(t, err)
	equal(t, "observed since", found, []store.Observed{both, next})
	must(t, one.Prune(s.ctx, day.Add(24*time.Hour)))
	found, err = other.ObservedSince(s.ctx, time.Time{})
	must(t, err)
	equal(t, "left", found, []store.Observed{next})

	// A day has only so many rows, however many names a sender invents.
	var many []store.Observed
	for i := range store.MostObserved + 10 {
		o := row(day, 1, 1, 1)
		o.Destination = addr.MustDestination(fmt.Sprintf("d%d.example", i))
		many = append(many, o)
	}
	must(t, one.AddObserved(s.ctx, many...))
	must(t, one.AddObserved(s.ctx, row(day, 1, 1, 1), many[0])) // one is new, one isn't
	found, err = one.ObservedSince(s.ctx, day)
	must(t, err)
	rest, times := int64(0), int64(0)
	for _, o := range found {
		if times += o.Times; o.Destination.IsZero() {
			rest += o.Times
		}
	}
	if len(found) != store.MostObserved+2 || rest != 11 || times != store.MostObserved+13 {
		t.Errorf("%d rows with %d recipients, %d of them in one", len(found), times, rest)
	}
}
