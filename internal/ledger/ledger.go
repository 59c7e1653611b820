// Package ledger is what this process remembers of destinations beyond their assessments: what is pinned, what was
// demanded, when there was mail. It answers a decision from memory and writes through to the store: a demand is on
// disk before Owe returns, a demand that stands already costs nothing. It also learns: each finished look is compared
// with what was known, and what changed goes to the history, to the log and to whoever is notified.
//
// It decides nothing about mail and looks at nothing itself; when a destination is looked at again is reckoned here
// (Next) and done by package monitor. What other processes on the same store learn or change arrives here within
// seconds and is handed on to the Assessor's memory.
//
// When many hosts that are known to be well fail alike at one time, this host's own network is suspected (Suspect): that is
// told once, and what can't be found out meanwhile doesn't count against a destination.
//
// What is remembered of a destination is what the store said last: whoever writes or reads it there keeps others of
// this process away from that destination until memory has it too. So no slow reader puts back what was before a
// pin or a demand. Reading memory waits for nobody's database.
//
// When the store is away, decisions on known destinations go on from memory; Owe fails for what isn't stored yet, and
// what was learned waits. The caller opens the store before and closes it after, and calls Run for the life of the
// program.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Memory is the Assessor's: what others found is put into it.
type Memory interface {
	Seed(known ...policy.Assessment)
	Drop(d addr.Destination)
}

// Config is what a Ledger works with. Store is needed.
type Config struct {
	Store *store.Store
	Port  uint16        // of mail hosts whose destination names none; 25
	Every time.Duration // between two looks at a destination; 24 h
	// Policy is told of each MTA-STS policy that the store has, at Load and when another process stored it. Nil: nobody is.
	Policy func(store.Policy)
	// Rulesets is told when another process changed the sets of rules that are
	// stored. It doesn't wait. Nil: nobody is told.
	Rulesets func()
	// Keys is told when another process changed recipients' keys, or may have;
	// nil: nobody is.
	Keys func()
	// Notify is told of each change seen by this process. It doesn't wait; nil: nobody is told.
	Notify func(store.Event)
	Log    *slog.Logger // default: none
	Now    func() time.Time
}

// Ledger remembers. Make one with New, fill it with Load.
type Ledger struct {
	c Config

	// all is held by who works on a destination, once, and by who replaces everything, wholly; stripes order those who
	// work on the same one.
	all     *semaphore.Weighted
	stripes [64]chan struct{}
	seed    maphash.Seed

	mu      sync.RWMutex
	memory  Memory
	records map[addr.Destination]*record
	pins    int
	written map[addr.Destination]struct{} // since a Load began, nil while there is none
	used    map[addr.Destination]use      // to be stored
	events  map[store.What]int64

	queueMu sync.Mutex
	queue   map[addr.Destination][]policy.Assessment // finished, to be learned, in their order
	order   []addr.Destination                       // of looks
	busy    int                                      // looks being learned
	wake    chan struct{}

	staleMu  sync.Mutex
	stale    map[addr.Destination]struct{} // to be read again
	policies map[addr.Domain]struct{}      // to be read again
	staleAll bool
	// Another process noted what is in use.
	staleUsage bool
	usage      usage
	changed    chan struct{}

	outage *outage

	flushEvery, storeRetry time.Duration
}

// record is what is remembered of a destination.
type record struct {
	demand   store.Demand
	used     time.Time // last mail, to the hour
	seen     seen
	failures int // looks in a row
	// reason is what the last of these looks failed for; "" when only the store
	// knows that they failed.
	reason policy.Reason
	pinned bool
	// failing is when the first of these assessments was; zero for none.
	failing time.Time
}

// use is mail for a destination.
type use struct {
	when time.Time
	rule string
}

const (
	// everything is all of the semaphore: more than can work at one time.
	everything = 1 << 30
	// usedOften is how exactly the time of the last mail is kept: it decides only what is forgotten after months.
	usedOften = time.Hour
	// storeTime is how long one transaction may take.
	storeTime = 5 * time.Second
)

// New returns a Ledger that knows nothing.
func New(c Config) (*Ledger, error) {
	if c.Store == nil {
		return nil, errors.New("ledger: a store is needed")
	}
	if c.Port == 0 {
		c.Port = 25
	}
	if c.Every == 0 {
		c.Every = 24 * time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Policy == nil {
		c.Policy = func(store.Policy) {}
	}
	if c.Rulesets == nil {
		c.Rulesets = func() {}
	}
	if c.Keys == nil {
		c.Keys = func() {}
	}
	if c.Notify == nil {
		c.Notify = func(store.Event) {}
	}
	l := &Ledger{
		c:          c,
		all:        semaphore.NewWeighted(everything),
		seed:       maphash.MakeSeed(),
		records:    map[addr.Destination]*record{},
		used:       map[addr.Destination]use{},
		events:     map[store.What]int64{},
		queue:      map[addr.Destination][]policy.Assessment{},
		wake:       make(chan struct{}, 1),
		stale:      map[addr.Destination]struct{}{},
		policies:   map[addr.Domain]struct{}{},
		changed:    make(chan struct{}, 1),
		outage:     newOutage(c.Every),
		flushEvery: time.Minute,
		storeRetry: 2 * time.Second,
	}
	for i := range l.stripes {
		l.stripes[i] = make(chan struct{}, 1)
	}
	return l, nil
}

// lock waits until nobody else of this process works on d, in the store or in memory.
func (l *Ledger) lock(ctx context.Context, d addr.Destination) (release func(), err error) {
	if err := l.all.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	stripe := l.stripes[maphash.Comparable(l.seed, d)%uint64(len(l.stripes))]
	select {
	case stripe <- struct{}{}:
		return func() { <-stripe; l.all.Release(1) }, nil
	case <-ctx.Done():
		l.all.Release(1)
		return nil, ctx.Err()
	}
}

// Load reads the store in one pass, fills this memory and m, and keeps m to hand on what others find. It isn't called
// twice at a time. Until all is read others go on; what they wrote meanwhile may be newer than what was read, so it
// stays, and is read again.
func (l *Ledger) Load(ctx context.Context, m Memory) error {
	// What reading takes for a moment, about as much as stays, is given back at once.
	defer debug.FreeOSMemory()
	return l.load(ctx, m)
}

func (l *Ledger) load(ctx context.Context, m Memory) error {
	l.mu.Lock()
	l.written = map[addr.Destination]struct{}{}
	l.mu.Unlock()
	snapshot, err := l.c.Store.Load(ctx)
	if err != nil {
		return err
	}
	fresh := make(map[addr.Destination]*record, len(snapshot.Destinations))
	for i := range snapshot.Destinations {
		fresh[snapshot.Destinations[i].Destination] = remember(&snapshot.Destinations[i])
	}
	if err := l.install(ctx, m, fresh); err != nil {
		return err
	}
	if err := l.readUsage(ctx); err != nil {
		return err
	}
	for _, p := range snapshot.Policies {
		l.c.Policy(p)
	}
	for i := range snapshot.Destinations {
		if a := snapshot.Destinations[i].Assessment; !a.When.IsZero() {
			m.Seed(a)
			l.outage.seed(a, l.c.Now())
		}
	}
	return nil
}

// install puts fresh in place of what is remembered. Whoever had written to the store is waited for: then it is known
// what fresh doesn't have.
func (l *Ledger) install(ctx context.Context, m Memory, fresh map[addr.Destination]*record) error {
	if err := l.all.Acquire(ctx, everything); err != nil {
		return err
	}
	defer l.all.Release(everything)
	l.mu.Lock()
	defer l.mu.Unlock()
	for d := range l.written {
		if delete(fresh, d); l.records[d] != nil {
			fresh[d] = l.records[d]
		}
		l.reread(d)
	}
	for d, u := range l.used {
		if k := fresh[d]; k != nil {
			k.used = u.when
		} else if fresh[d] = l.records[d]; fresh[d] != nil {
			l.reread(d)
		} else {
			delete(fresh, d)
		}
	}
	l.memory, l.records, l.written, l.pins = m, fresh, nil, 0
	for _, k := range fresh {
		if k.pinned {
			l.pins++
		}
	}
	return nil
}

// remember makes what is remembered of what is stored.
func remember(e *store.Entry) *record {
	k := &record{
		demand:   e.Demand,
		used:     e.Used,
		seen:     seenIn(e.Assessment, e.Pin != nil),
		failures: e.Track.Failures,
		pinned:   e.Pin != nil,
		failing:  e.Track.FailingSince,
	}
	if !e.Assessment.When.IsZero() {
		k.reason = judge.Destination(anyTLS(), e.Assessment)
	}
	return k
}

// set replaces what is remembered of d, nil for nothing; l.mu is held.
func (l *Ledger) set(d addr.Destination, k *record) {
	if l.written != nil {
		l.written[d] = struct{}{}
	}
	if old := l.records[d]; old != nil && old.pinned {
		l.pins--
	}
	if k == nil {
		delete(l.records, d)
		return
	}
	if k.pinned {
		l.pins++
	}
	l.records[d] = k
}

// get returns a copy of what is remembered of d.
func (l *Ledger) get(d addr.Destination) record {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if k := l.records[d]; k != nil {
		return *k
	}
	return record{}
}

// Len returns how many destinations are known.
func (l *Ledger) Len() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.records)
}

// Pinned reports whether d was seen to offer TLS and must not fall back.
func (l *Ledger) Pinned(d addr.Destination) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	k := l.records[d]
	return k != nil && k.pinned
}

// FailingSince returns when the first of the assessments of d was that have failed
// since one succeeded; zero for none.
func (l *Ledger) FailingSince(d addr.Destination) time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if k := l.records[d]; k != nil {
		return k.failing
	}
	return time.Time{}
}

// Demand returns the most that was asked of d when mail for it was accepted; no Level for nothing.
func (l *Ledger) Demand(d addr.Destination) store.Demand {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if k := l.records[d]; k != nil {
		return k.demand
	}
	return store.Demand{}
}

// Stats is how a Ledger is doing.
type Stats struct {
	Known, Pinned int                  // destinations
	Waiting       int                  // looks to be learned
	StoreAway     bool                 // the last read or write failed
	Events        map[store.What]int64 // changes this process saw or made
}

// Stats asks no database.
func (l *Ledger) Stats() Stats {
	s := Stats{Waiting: l.Waiting(), StoreAway: l.c.Store.Healthy() != nil, Events: map[store.What]int64{}}
	l.mu.RLock()
	defer l.mu.RUnlock()
	s.Known, s.Pinned = len(l.records), l.pins
	for what, n := range l.events {
		s.Events[what] = n
	}
	return s
}

// Owe stores what is demanded of d by a rule, before a message for it is accepted, and pins d where pin says that the
// rule saw it satisfied. When it returns nil the demand is durable; a demand and a pin that stand cost no write. On an
// error the caller must not accept the recipient.
func (l *Ledger) Owe(ctx context.Context, d addr.Destination, rule string, demand policy.Demand, pin bool) error {
	asked := store.Demand{Level: demand.Level, MinVersion: demand.MinVersion, MinBits: demand.MinBits}
	if l.stands(d, rule, asked, pin) {
		return nil
	}
	release, err := l.lock(ctx, d)
	if err != nil {
		return err
	}
	defer release()
	if l.stands(d, rule, asked, pin) { // by now
		return nil
	}
	by := ""
	if pin {
		by = "rule:" + rule
	}
	standing, fresh, err := l.c.Store.RecordPromise(ctx, d, asked, by)
	if err != nil {
		l.reread(d) // what failed may be stored all the same
		return err
	}
	k := l.get(d)
	risen := k.demand != standing
	k.demand, k.pinned = standing, k.pinned || pin
	now := l.c.Now()
	k.used = now
	l.mu.Lock()
	l.set(d, &k)
	l.used[d] = use{now, rule}
	if risen {
		l.events[store.Demanded]++
	}
	l.mu.Unlock()
	if fresh {
		l.emit(store.Event{When: now, Destination: d, What: store.Pinned, To: by})
	}
	return nil
}

// Stands reports whether a demand of d, and with pin its pin, stands already, so
// that Owe would store nothing. Asking isn't mail.
func (l *Ledger) Stands(d addr.Destination, demand policy.Demand, pin bool) bool {
	asked := store.Demand{Level: demand.Level, MinVersion: demand.MinVersion, MinBits: demand.MinBits}
	l.mu.RLock()
	defer l.mu.RUnlock()
	k := l.records[d]
	return k != nil && k.demand.Covers(asked) && (k.pinned || !pin)
}

// stands reports whether what is asked of d stands already, and if so notes that there was mail.
func (l *Ledger) stands(d addr.Destination, rule string, asked store.Demand, pin bool) bool {
	now := l.c.Now()
	stands := func() (k *record, ok bool) {
		k = l.records[d]
		return k, k != nil && k.demand.Covers(asked) && (k.pinned || !pin)
	}
	l.mu.RLock()
	k, ok := stands()
	noted := ok && now.Sub(k.used) < usedOften && !k.used.After(now)
	l.mu.RUnlock()
	if !ok || noted {
		return ok
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k, ok = stands(); ok {
		k.used = now
		l.used[d] = use{now, rule}
	}
	return ok
}

// Mail notes that there was mail for d under a rule that demands nothing yet,
// because it only observes: what has mail isn't forgotten.
func (l *Ledger) Mail(d addr.Destination, rule string) {
	now := l.c.Now()
	l.mu.RLock()
	k := l.records[d]
	noted := k == nil || now.Sub(k.used) < usedOften && !k.used.After(now)
	l.mu.RUnlock()
	if noted {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k = l.records[d]; k != nil {
		k.used = now
		l.used[d] = use{now, cmp.Or(l.used[d].rule, rule)}
	}
}
