package binding

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// checkActivity is the check of Activity's findings.
const checkActivity = "asked"

// The ways in which an MTA asks: by the milter, and by each map.
const (
	ByMilter = "milter"
	ByReport = string(contract.MapReport)
)

func channels() []string {
	return []string{ByMilter, string(contract.MapSender), string(contract.MapForced), string(contract.MapPolicy),
		string(contract.MapTLSRcpt), ByReport}
}

const (
	// slot is the time in which several signs count as one, so that one burst
	// proves nothing; signs is how many of them prove something.
	slot, signs = 5 * time.Minute, 3
	// slotOfQueues is that for a Sendmail, which may send in queue runs only.
	slotOfQueues = time.Hour
	// within is how far apart the first and the last of them may be.
	within = 24 * time.Hour
	// remembered is for how long a sender that the maps were asked about isn't
	// new: longer than Postfix leaves deferred mail alone (maximal_backoff_time,
	// 4000 s), so that a queue of old mail is never taken for new mail.
	remembered = 6 * time.Hour
	// warm is for how long after the start nobody knows who is new.
	warm = 2 * time.Hour
	// mostSenders bounds the memory of senders; of more than that none is new.
	mostSenders = 20_000

	// busy is how often somebody must have asked at this time of the day, on
	// each of so many days, so that nobody for so many hours tells something.
	busy, days, quietHours = 20, 7, 2
)

// Activity knows when and for what an MTA has asked. Make one with NewActivity.
//
// A night without mail must alarm nobody, so what counts is what one half of
// the MTA says of the other: mail that the milter took from a protected sender
// is delivered, and the maps are asked then; mail of a protected sender that
// the maps are asked about for the first time has just come in, and the milter
// was asked then. Each has to fail to happen in three slots of five minutes.
// That nobody asks at all proves nothing by itself; it is a warning where on
// each of the last seven days many did at the same time of the day.
type Activity struct {
	now     func() time.Time
	started time.Time
	last    map[string]*atomic.Int64 // by way: Unix nanoseconds, 0: never; the map isn't written to
	seed    maphash.Seed

	mu       sync.Mutex
	senders  map[uint64]time.Time // protected ones, when the maps were asked about them last
	swept    time.Time            // when old ones were dropped last
	accepted run                  // mail for elsewhere, since a map was asked last
	arrived  run                  // senders that were new, since the milter decided last
	hours    [days + 1][24]int
	hour     time.Time // the one that is counted
}

// run is a row of signs.
type run struct {
	slots       int
	first, last time.Time // of slots
}

func (r *run) add(now time.Time, length time.Duration) {
	at := now.Truncate(length)
	switch {
	case r.slots == 0, at.Before(r.last), at.Sub(r.first) > within:
		*r = run{1, at, at}
	case at.After(r.last):
		r.slots, r.last = r.slots+1, at
	}
}

// NewActivity returns one that nobody has asked. now is the time of day; nil:
// time.Now.
func NewActivity(now func() time.Time) *Activity {
	if now == nil {
		now = time.Now
	}
	a := &Activity{now: now, started: now(), last: map[string]*atomic.Int64{}, seed: maphash.MakeSeed(),
		senders: map[uint64]time.Time{}}
	for _, way := range channels() {
		a.last[way] = new(atomic.Int64)
	}
	return a
}

// Last returns when each way was used last; one that wasn't since the start
// isn't there.
func (a *Activity) Last() map[string]time.Time {
	found := make(map[string]time.Time)
	for way, at := range a.last {
		if n := at.Load(); n != 0 {
			found[way] = time.Unix(0, n)
		}
	}
	return found
}

// note notes that a way is used. Much of the same second is one write.
func (a *Activity) note(way string, now time.Time) {
	if at, ok := a.last[way]; ok && now.UnixNano()-at.Load() > int64(time.Second) {
		at.Store(now.UnixNano())
		a.count(now)
	}
}

// Message counts each message that the milter is asked about.
func (a *Activity) Message() { a.note(ByMilter, a.now()) }

// Decided counts each decision of a rule. Accepted is one for a protected
// sender that lets mail go elsewhere.
func (a *Activity) Decided(accepted bool) {
	now := a.now()
	a.note(ByMilter, now)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrived = run{}
	if accepted {
		length := slot
		if a.last[string(contract.MapTLSRcpt)].Load() != 0 {
			length = slotOfQueues
		}
		a.accepted.add(now, length)
	}
}

// Question is told of each question to a map, by its name, and of the protected
// sender that it is about, the null one for none.
func (a *Activity) Question(name string, protected addr.Address) {
	now := a.now()
	a.note(name, now)
	if name == string(contract.MapPolicy) || name == ByReport {
		return // about anybody's mail
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accepted = run{}
	if protected.IsNull() {
		return
	}
	who := maphash.String(a.seed, strings.ToLower(protected.String()))
	before, known := a.senders[who]
	fresh := !known || now.Sub(before) > remembered
	if !known && len(a.senders) >= mostSenders {
		if now.Sub(a.swept).Abs() > slot {
			a.forget(now)
		}
		if len(a.senders) >= mostSenders {
			return
		}
	}
	a.senders[who] = now
	if fresh && now.Sub(a.started) > warm {
		a.arrived.add(now, slot)
	}
}

// forget drops senders of long ago; a.mu is held.
func (a *Activity) forget(now time.Time) {
	a.swept = now
	for who, at := range a.senders {
		if now.Sub(at) > remembered || at.After(now) {
			delete(a.senders, who)
		}
	}
}

// count counts a sign that somebody asks, for the time of the day.
func (a *Activity) count(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	a.hours[0][now.UTC().Hour()]++
}

// turn goes on to the hour of now; a.mu is held.
func (a *Activity) turn(now time.Time) {
	at := now.UTC().Truncate(time.Hour)
	if a.hour.IsZero() || at.Sub(a.hour).Abs() > days*24*time.Hour {
		a.hours, a.hour = [days + 1][24]int{}, at
		return
	}
	for a.hour.Before(at) {
		a.hour = a.hour.Add(time.Hour)
		h := a.hour.Hour()
		for day := days; day > 0; day-- {
			a.hours[day][h] = a.hours[day-1][h]
		}
		a.hours[0][h] = 0
	}
}

// Silent says who doesn't ask any more.
func (a *Activity) Silent(now time.Time) []mta.Finding {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	var found []mta.Finding
	const remedy = "tlsonly doctor; then check whether the MTA was reloaded"
	if a.arrived.slots >= signs {
		found = append(found, mta.Finding{Severity: mta.Hole, Code: "milter-silent", Where: "milter", Check: checkActivity,
			Text: "the maps are asked about mail of protected senders about which the milter was not asked, since " +
				a.arrived.first.Format(time.DateTime), Remedy: remedy})
	}
	if a.accepted.slots >= signs {
		found = append(found, mta.Finding{Severity: mta.Hole, Code: "maps-silent", Where: "socketmap", Check: checkActivity,
			Text: "mail of protected senders was accepted, but nobody asks the maps about it, since " +
				a.accepted.first.Format(time.DateTime), Remedy: remedy})
	}
	if a.quiet() {
		found = append(found, mta.Finding{Severity: mta.Warning, Code: "nobody-asks", Check: checkActivity,
			Text: "nobody has asked for two hours, though many questions came at this time on each of the last seven days", Remedy: remedy})
	}
	return found
}

// quiet reports whether nobody asked in the last whole hours, though many did on
// each of the days before; a.mu is held.
func (a *Activity) quiet() bool {
	if a.hours[0][a.hour.Hour()] > 0 {
		return false
	}
	for back := 1; back <= quietHours; back++ {
		at := a.hour.Add(-time.Duration(back) * time.Hour)
		h := at.Hour()
		if a.hours[0][h] > 0 {
			return false
		}
		for day := 1; day <= days; day++ {
			if a.hours[day][h] < busy {
				return false
			}
		}
	}
	return true
}
