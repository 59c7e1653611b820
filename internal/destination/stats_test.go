package destination

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/policy"
)

// Looks are told of once, with what they found; questions are counted by how they were answered.
func TestStats(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"a.test": mx("h.test"), "b.test": mx("h.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"h.test": ips("127.0.1.1")}}
	var mu sync.Mutex
	var looked []string
	probed := 0
	a, _ := newTest(t, d, &fakeHosts{}, func(c *Config) {
		c.OnAssessed = func(found policy.Assessment, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			looked = append(looked, found.Destination.String()+" "+hostsOf(found))
			if took <= 0 {
				t.Error("a look took no time")
			}
		}
		c.Probed = func(o policy.Observation) {
			mu.Lock()
			defer mu.Unlock()
			if probed++; o.Outcome != policy.SawTLS {
				t.Error(o)
			}
		}
	})
	for range 3 {
		a.Assess(context.Background(), addr.MustDestination("a.test"), nil)
	}
	a.Assess(context.Background(), addr.MustDestination("b.test"), nil)
	mu.Lock()
	defer mu.Unlock()
	if len(looked) != 2 || looked[0] != "a.test h.test=tls" || looked[1] != "b.test h.test=tls" || probed != 1 {
		t.Error(looked, probed)
	}
	if s := a.Stats(); s != (Stats{Destinations: 2, Hosts: 1, Served: 2, Assessed: 2}) {
		t.Errorf("%+v", s)
	}
	var c counters
	c.count(true, false)
	if c.joined.Load() != 1 {
		t.Error("who waits for another's look isn't counted")
	}
}
