package destination

import "sync/atomic"

// Stats is how an Assessor is doing.
type Stats struct {
	Destinations, Hosts int    // answers in memory
	Served              uint64 // questions answered from memory
	Joined              uint64 // questions that waited for a look under way
	Assessed            uint64 // questions that began a look
}

type counters struct{ served, joined, assessed atomic.Uint64 }

// count counts a question: flying says that there is no answer in memory, mine
// that the question begins the look.
func (c *counters) count(flying, mine bool) {
	switch {
	case mine:
		c.assessed.Add(1)
	case flying:
		c.joined.Add(1)
	default:
		c.served.Add(1)
	}
}

// Stats returns the counters; what Refresh is asked for isn't among them.
func (a *Assessor) Stats() Stats {
	return Stats{
		Destinations: a.destinations.len(),
		Hosts:        a.hosts.len(),
		Served:       a.counts.served.Load(),
		Joined:       a.counts.joined.Load(),
		Assessed:     a.counts.assessed.Load(),
	}
}

func (c *cache[K, V]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}
