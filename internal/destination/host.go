package destination

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/policy"
)

// probeHost finds a host's addresses and looks at them, the preferred family first.
func (a *Assessor) probeHost(key hostKey) policy.Host {
	h := policy.Host{Name: key.name}
	var ips []netip.Addr
	if key.name.IsLiteral() {
		ips = []netip.Addr{key.name.IP()}
	} else {
		found, err := a.c.Resolver.Addrs(a.ctx, key.name)
		if err != nil {
			h.Problem, h.Detail = reasonOf(err), err.Error()
			return h
		}
		h.Secure, h.Alias, h.Detail = found.Secure, found.Canonical, found.Detail
		if found.Status != dns.OK {
			// A name without address is as good as no name: no MTA can connect to it.
			h.Problem = policy.NoSuchDomain
			h.Detail = "no address record: " + string(found.Status)
			return h
		}
		if len(found.Records) == 0 {
			h.Problem = policy.Unreachable
			return h
		}
		ips = a.order(found.Records)
	}

	if err := a.slots.Acquire(a.ctx, 1); err != nil {
		h.Problem, h.Detail = policy.Unreachable, "shutting down"
		return h
	}
	defer a.slots.Release(1)
	h.Observations = a.probeAll(key, ips)
	return h
}

// order puts the preferred family first, and takes the families in turn after that, so that a bounded look sees both.
func (a *Assessor) order(ips []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, ip := range ips {
		if ip.Is6() == a.c.IPv6 {
			first = append(first, ip)
		} else {
			second = append(second, ip)
		}
	}
	ordered := make([]netip.Addr, 0, len(ips))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			ordered = append(ordered, first[i])
		}
		if i < len(second) {
			ordered = append(ordered, second[i])
		}
	}
	if len(ordered) > maxAddresses && !a.c.AllAddresses {
		ordered = ordered[:maxAddresses]
	}
	return ordered
}

// probeAll looks at the addresses in order, PerHost at a time, within the time for the whole host. One address
// that is silent must not eat the time of the next: each gets its share of what is left.
func (a *Assessor) probeAll(key hostKey, ips []netip.Addr) []policy.Observation {
	ctx, cancel := context.WithTimeout(a.ctx, a.c.Timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	name := ""
	if !key.name.IsLiteral() {
		name = key.name.String()
	}

	var observations []policy.Observation
	for len(ips) > 0 {
		batch := ips[:min(a.c.PerHost, len(ips))]
		rounds := (len(ips) + len(batch) - 1) / len(batch)
		ips = ips[len(batch):]

		share := time.Until(deadline) / time.Duration(rounds)
		results := make([]policy.Observation, len(batch))
		var group sync.WaitGroup
		for i, ip := range batch {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, share)
				defer cancel()
				results[i] = a.probe(ctx, starttls.Target{Address: netip.AddrPortFrom(ip, key.port), Name: name})
			})
		}
		group.Wait()
		observations = append(observations, results...)
		if !a.c.AllAddresses && slices.ContainsFunc(results, good) {
			break
		}
	}
	return observations
}

// probe looks at one address. A host that makes us panic is one we know nothing of.
func (a *Assessor) probe(ctx context.Context, t starttls.Target) (o policy.Observation) {
	defer func() {
		if p := recover(); p != nil {
			a.c.Log.Error("panic in a look", "host", t.Name, "address", t.Address.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			o = policy.Observation{Address: t.Address, Outcome: policy.SawUnreachable, Detail: "the look went wrong", When: a.c.Now()}
		}
	}()
	o = a.c.Prober.Probe(ctx, t)
	for i := range o.Chain {
		o.Chain[i].Raw = nil // kept for a day it would be most of our memory
	}
	return o
}

// good reports whether an address offers what every rule of today would take, so that others need no look.
func good(o policy.Observation) bool {
	return o.Outcome == policy.SawTLS && o.Version >= policy.TLS12 && o.Bits >= 128 && !o.HelloOnly
}
