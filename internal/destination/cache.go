package destination

import (
	"sync"
	"time"
)

// cache keeps answers, and makes sure that one question is worked on once at a time. An answer past its end no longer
// serves, but stays until the next one, which is compared with it.
type cache[K comparable, V any] struct {
	mu      sync.Mutex
	limit   int
	entries map[K]entry[V]
	calls   map[K]*call[V]
}

type entry[V any] struct {
	value        V
	when         time.Time // it was found
	expires      time.Time // it serves
	refreshAfter time.Time // it serves without another look being begun; zero: until
	again        time.Time // no earlier than this one who isn't satisfied has it looked at again
}

// serves reports whether the answer is good at now and was found no earlier than after. One from the future was found
// before the clock was set back: nobody knows how old it is.
func (e entry[V]) serves(now, after time.Time) bool {
	return now.Before(e.expires) && !e.when.Before(after) && !e.when.After(now.Add(time.Minute))
}

// call is one question being worked on.
type call[V any] struct {
	mu      sync.Mutex
	value   V
	done    bool
	changed chan struct{} // closed at each change, then replaced

	begun chan struct{} // closed when after is set
	after time.Time     // what was found since then is taken for it
	twice bool          // hosts are probed again that were probed once
}

func (c *cache[K, V]) init(limit int) {
	c.limit = limit
	c.entries = map[K]entry[V]{}
	c.calls = map[K]*call[V]{}
}

// get returns the value if it was found no earlier than after, or the flight to wait for; mine says that the caller
// has to fly it and end it with land and finish.
func (c *cache[K, V]) get(key K, now, after time.Time) (value V, f *call[V], mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok && e.serves(now, after) {
		return e.value, nil, false
	}
	if f = c.calls[key]; f == nil {
		f = &call[V]{changed: make(chan struct{}), begun: make(chan struct{})}
		c.calls[key] = f
		mine = true
	}
	return value, f, mine
}

// stale reports whether the answer serves but is due for another look, and puts that off by pause for all others.
func (c *cache[K, V]) stale(key K, now time.Time, pause time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok || e.refreshAfter.IsZero() || now.Before(e.refreshAfter) {
		return false
	}
	e.refreshAfter = now.Add(pause)
	c.entries[key] = e
	return true
}

// again reports whether one whom the answer doesn't satisfy may have the question
// asked again, and puts that off by pause for all others.
func (c *cache[K, V]) again(key K, now time.Time, pause time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok || now.Before(e.again) {
		return false
	}
	e.again = now.Add(pause)
	c.entries[key] = e
	return true
}

// complete keeps what a flight found; an answer kept so far stays where it
// serves still and keep says so. Those who wait are told by finish.
func (c *cache[K, V]) complete(key K, found entry[V], keep func(old, found V) bool) {
	c.mu.Lock()
	old, ok := c.entries[key]
	if !ok || !old.serves(found.when, time.Time{}) || !keep(old.value, found.value) {
		c.store(key, found)
	}
	delete(c.calls, key)
	c.mu.Unlock()
}

// put keeps an answer that was found elsewhere, unless a later one is here.
func (c *cache[K, V]) put(key K, found entry[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries[key]; !ok || !old.when.After(found.when) {
		c.store(key, found)
	}
}

// peek returns an answer, whether it serves or not.
func (c *cache[K, V]) peek(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	return e.value, ok
}

// expire ends all answers.
func (c *cache[K, V]) expire(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.entries {
		if e.expires.After(now) {
			e.expires = now
			c.entries[key] = e
		}
	}
}

// drop forgets an answer.
func (c *cache[K, V]) drop(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

func (c *cache[K, V]) store(key K, e entry[V]) {
	if _, ok := c.entries[key]; !ok && len(c.entries) >= c.limit {
		c.evict()
	}
	c.entries[key] = e
}

// evict drops a hundredth of the entries, whichever come first: a full cache costs a look, never an answer.
func (c *cache[K, V]) evict() {
	n := c.limit/100 + 1
	for key := range c.entries {
		if n == 0 {
			return
		}
		delete(c.entries, key)
		n--
	}
}

// update tells those who wait what is known so far.
func (f *call[V]) update(value V) {
	f.mu.Lock()
	f.value = value
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
}

// finish tells those who wait what was found.
func (f *call[V]) finish(value V) {
	f.mu.Lock()
	f.value, f.done = value, true
	close(f.changed)
	f.mu.Unlock()
}

// state returns what is known, a channel closed at the next change, and whether that was all.
func (f *call[V]) state() (value V, changed <-chan struct{}, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value, f.changed, f.done
}
