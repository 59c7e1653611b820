package storetest

import (
	"fmt"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// A page has what was asked for and is there, and the time of the last change of level, not of any other; what is known
// without a look is due in an hour.
func testPage(t *testing.T, s suite) {
	db := s.open(t, "mx1")
	if due, err := db.NextDue(s.ctx); err != nil || !due.IsZero() {
		t.Error(due, err)
	}
	var asked []addr.Destination
	for i := range 3 {
		d := addr.MustDestination(fmt.Sprintf("d%d.example", i))
		_, err := db.RaiseDemand(s.ctx, d, store.Demand{Level: policy.LevelEncrypt})
		must(t, err)
		asked = append(asked, d)
	}
	must(t, db.AddEvents(s.ctx,
		store.Event{Destination: asked[0], What: store.LevelChanged, To: "may", When: start.Add(-time.Hour)},
		store.Event{Destination: asked[0], What: store.LevelChanged, To: "encrypt", When: start.Add(-time.Minute)},
		store.Event{Destination: asked[0], What: store.HostsChanged, When: start},
		store.Event{Destination: asked[2], What: store.LevelChanged, When: start}))
	found, since, err := db.Page(s.ctx, []addr.Destination{asked[0], asked[1], addr.MustDestination("unknown.example")})
	must(t, err)
	if len(found) != 2 || len(since) != 1 || !since[asked[0]].Equal(start.Add(-time.Minute)) {
		t.Error(found, since)
	}
	for _, e := range found {
		if e.Demand.Level != policy.LevelEncrypt {
			t.Errorf("%s: demand %q", e.Destination, e.Demand)
		}
	}
	if found, _, err := db.Page(s.ctx, nil); len(found) != 0 || err != nil {
		t.Error(found, err)
	}
	if _, _, err := db.Page(s.ctx, make([]addr.Destination, 501)); err == nil || db.Healthy() != nil {
		t.Error("no error, or one of the database")
	}
	latest, err := db.Latest(s.ctx, 2)
	must(t, err)
	if len(latest) != 2 || latest[0].ID <= latest[1].ID || latest[0].Destination != asked[2] {
		t.Error(latest)
	}
	if due, err := db.NextDue(s.ctx); err != nil || !due.Equal(start.Add(time.Hour)) {
		t.Error(due, err)
	}
}
