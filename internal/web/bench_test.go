package web

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/ledger"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

// nowhere is a network that nothing is asked of.
type nowhere struct{}

func (nowhere) MX(context.Context, addr.Domain) (dns.Answer[dns.MX], error) {
	return dns.Answer[dns.MX]{}, errors.New("no network")
}

func (nowhere) Addrs(context.Context, addr.Domain) (dns.Answer[netip.Addr], error) {
	return dns.Answer[netip.Addr]{}, errors.New("no network")
}

func (nowhere) TLSA(context.Context, addr.Domain) (dns.Answer[policy.TLSA], error) {
	return dns.Answer[policy.TLSA]{}, errors.New("no network")
}

func (nowhere) SecureAlias(context.Context, addr.Domain) (bool, error) {
	return false, errors.New("no network")
}

func (nowhere) Probe(context.Context, starttls.Target) policy.Observation {
	return policy.Observation{Outcome: policy.SawUnreachable}
}

// BenchmarkDestinations makes pages and answers with 100,000 destinations in the daemon's own memory and store.
func BenchmarkDestinations(b *testing.B) {
	const n = 100_000
	s, err := store.Open(b.Context(), store.Config{URL: "sqlite://" + filepath.Join(b.TempDir(), "tlsonly.db"), Daemon: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	when := time.Now().Truncate(time.Second)
	var batch []store.Assessment
	for i := range n {
		batch = append(batch, store.Assessment{Assessment: storetest.Assessment(fmt.Sprintf("customer%d.example", i), fmt.Sprintf("provider%d.example", i%1000), when), Port: 25})
		if len(batch) == 5000 || i == n-1 {
			if err := s.Put(b.Context(), batch...); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	l, err := ledger.New(ledger.Config{Store: s})
	if err != nil {
		b.Fatal(err)
	}
	a, err := destination.New(destination.Config{Resolver: nowhere{}, Prober: nowhere{}})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	if err := l.Load(b.Context(), a); err != nil || l.Len() != n {
		b.Fatal(l.Len(), err)
	}
	server := newTest(b, newWorld(), func(c *Config) {
		c.Survey = func(each func(Summary) bool) { l.All(func(k ledger.Summary) bool { return each(Summary(k)) }) }
		c.Remembered, c.Store, c.Now = a.Remembered, s, time.Now
	})
	for _, path := range []string{"/", "/destinations", "/destinations?query=9999", "/destinations?level=encrypt&after=customer5", "/destinations/customer77777.example",
		"/v1/destinations?limit=500", "/metrics"} {
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				if w := ask(server, "GET", path, ""); w.Code != 200 {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
