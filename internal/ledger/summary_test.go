package ledger

import (
	"fmt"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// A survey sees all there is, while others write.
func TestSurvey(t *testing.T) {
	l := &Ledger{records: map[addr.Destination]*record{}}
	name := func(i int) addr.Destination { return addr.MustDestination(fmt.Sprintf("d%d.example", i)) }
	const n = 3 * yieldEvery
	for i := range n {
		l.records[name(i)] = &record{pinned: i%2 == 0, failures: i % 3, seen: seen{level: policy.LevelEncrypt, lost: i%4 == 0}}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				l.mu.Lock()
				k := *l.records[name(1)]
				l.set(name(1), &k)
				l.mu.Unlock()
			}
		}
	}()
	count, pinned, failing, lost := 0, 0, 0, 0
	l.All(func(k Summary) bool {
		count++
		if k.Pinned {
			pinned++
		}
		if k.Failures > 0 {
			failing++
		}
		if k.Lost {
			lost++
		}
		return k.Level == policy.LevelEncrypt
	})
	close(stop)
	<-stopped
	if count != n || pinned != n/2 || failing != n/3*2 || lost != n/4 {
		t.Error(count, pinned, failing, lost)
	}
	count = 0
	if l.All(func(Summary) bool { count++; return false }); count != 1 {
		t.Errorf("%d after the end", count)
	}
}
