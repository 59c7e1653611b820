package destination

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dane"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/destination/webpki"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// probeHost finds a host's addresses, tells f of them and looks at them, the
// preferred family first. What is the MTA's own isn't looked at.
func (a *Assessor) probeHost(key hostKey, f *call[policy.Host]) policy.Host {
	h := policy.Host{Name: key.name}
	mta := a.c.MTA()
	var ips []netip.Addr
	if key.name.IsLiteral() {
		ips = []netip.Addr{key.name.IP()}
	} else if found, ok := a.resolve(&h, mta.Hosts); ok {
		ips = found
	} else {
		return h
	}
	all := len(ips)
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool { return !mta.Hosts.Uses(ip) })
	if h.Addresses = len(ips); len(ips) == 0 {
		h.Problem = policy.NoSuchDomain
		h.Detail = fmt.Sprintf("none of its %d addresses is of a family that this MTA uses", all)
		return h
	}
	if key.port == loopPort && slices.ContainsFunc(ips, mta.Hosts.Has) {
		h.Problem, h.Detail = policy.Loop, "it has an address of this MTA's own"
		if others := slices.ContainsFunc(ips, func(ip netip.Addr) bool { return !mta.Hosts.Has(ip) }); others && mta.OneAddress() {
			h.Problem = policy.Unreachable // it depends on the order of the addresses
		}
		return h
	}
	ips = a.order(ips, mta.OneAddress())
	f.update(h)
	var beyond []netip.Addr
	if len(ips) > maxAddresses && !a.c.AllAddresses {
		ips, beyond = ips[:maxAddresses], ips[maxAddresses:]
	}

	if err := a.slots.Acquire(a.ctx, 1); err != nil {
		h.Problem, h.Detail = policy.Unreachable, "shutting down"
		return h
	}
	defer a.slots.Release(1)
	a.findTLSA(key, &h)
	h.Observations = a.probeAll(key, &h, ips)
	if len(h.Observations) == maxAddresses && len(beyond) > 0 && !slices.ContainsFunc(h.Observations, a.final(&h)) {
		// The MTA may get to them.
		h.Observations = append(h.Observations, policy.Observation{Address: netip.AddrPortFrom(beyond[0], key.port), When: a.c.Now(),
			Outcome: policy.SawUnreachable, Stage: policy.StageConnect, Detail: fmt.Sprintf("not probed: it comes after %d others", maxAddresses)})
	}
	return h
}

// findTLSA asks for a host's TLSA records, where DNSSEC vouches for its addresses, or for its being an alias: without that a
// record would be worth nothing, and asking for it is what breaks with some name servers (RFC 7672, sections 2.1.3 and 2.2.3).
func (a *Assessor) findTLSA(key hostKey, h *policy.Host) {
	bases := []addr.Domain{key.name}
	switch {
	case key.name.IsLiteral() || !h.Secure && h.Alias.IsZero():
		return
	case h.Secure && !h.Alias.IsZero():
		// RFC 7672, section 2.2.3: of an alias the name at its end is tried first, then the alias itself.
		bases = []addr.Domain{h.Alias, key.name}
	case !h.Secure:
		// An alias that leads out of the signed zones: the records are the alias's own, if that is signed.
		secure, err := a.c.Resolver.SecureAlias(a.ctx, key.name)
		if err != nil {
			h.DANE, h.DANEDetail = policy.DANEUnknown, err.Error()
		}
		if !secure {
			return
		}
	}
	for _, base := range bases {
		h.TLSABase = base
		name, err := dane.Owner(base, key.port)
		if err != nil {
			continue // no name of records, so no records
		}
		found, err := a.c.Resolver.TLSA(a.ctx, name)
		if err != nil {
			h.DANE, h.DANEDetail = policy.DANEUnknown, err.Error()
			return
		}
		if found.Status != dns.OK || !found.Secure {
			continue
		}
		h.TLSA = found.Records
		result := dane.Verify(h.TLSA, nil, a.c.Now())
		if h.DANE = result.DANE; h.DANE == policy.DANEUnusable {
			h.DANEDetail = result.Detail
		}
		return
	}
	h.TLSABase = key.name
}

// order puts the preferred family first, and takes the families in turn after
// that, so that a bounded look sees both. An MTA that tries one address has an
// order of its own, which is Sendmail's: all of IPv6 first.
func (a *Assessor) order(ips []netip.Addr, one bool) []netip.Addr {
	if one {
		slices.SortStableFunc(ips, func(x, y netip.Addr) int { return y.BitLen() - x.BitLen() })
		return ips
	}
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
	return ordered
}

// probeAll looks at the addresses in order, PerHost at a time, within the time for the whole host. One address
// that is silent must not eat the time of the next: each gets its share of what is left.
func (a *Assessor) probeAll(key hostKey, h *policy.Host, ips []netip.Addr) []policy.Observation {
	ctx, cancel := context.WithTimeout(a.ctx, a.c.Timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	name := ""
	switch {
	case key.name.IsLiteral():
	case h.DANE == policy.DANEUsable:
		name = h.TLSABase.String() // RFC 7672, section 8.1
	default:
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
				results[i] = a.probe(ctx, h, starttls.Target{Address: netip.AddrPortFrom(ip, key.port), Name: name,
					Fixed: h.DANE == policy.DANEUsable})
			})
		}
		group.Wait()
		observations = append(observations, results...)
		if !a.c.AllAddresses && slices.ContainsFunc(results, a.final(h)) {
			break
		}
	}
	return observations
}

// probe looks at one address. A host that makes us panic is one we know nothing of.
func (a *Assessor) probe(ctx context.Context, h *policy.Host, t starttls.Target) (o policy.Observation) {
	defer func() {
		if p := recover(); p != nil {
			a.c.Log.Error("panic in an assessment", "host", t.Name, "address", t.Address.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			o = policy.Observation{Address: t.Address, Outcome: policy.SawUnreachable, Detail: "the look went wrong", When: a.c.Now()}
		}
	}()
	o = a.c.Prober.Probe(ctx, t)
	if a.c.Probed != nil {
		a.c.Probed(o)
	}
	if len(o.Chain) > 0 {
		a.verify(h, &o)
		a.needsName(ctx, h, t, &o)
	}
	if a.c.Versions != nil && o.Outcome == policy.SawTLS {
		ctx, cancel := context.WithTimeout(a.ctx, a.c.Timeout) // what one connection took is not to the others' cost
		defer cancel()
		tried := a.c.Versions(ctx, t)
		o.Accepts, o.AcceptsUnknown = tried.Accepted, tried.Unknown
	}
	return o
}

// needsName finds out whether a host that was not named, because the MTA names none,
// would have shown the right certificate if it had been.
func (a *Assessor) needsName(ctx context.Context, h *policy.Host, t starttls.Target, o *policy.Observation) {
	if o.Outcome != policy.SawTLS || !o.Unsent || judge.Proves(*h, *o) {
		return
	}
	t.Forced = true
	named := a.c.Prober.Probe(ctx, t)
	if named.Outcome != policy.SawTLS || len(named.Chain) == 0 {
		return
	}
	a.verify(h, &named)
	o.NeedsName = judge.Proves(*h, named)
}

// verify says what the chain that was shown proves. The certificates themselves aren't kept: over a day they would be most
// of our memory.
func (a *Assessor) verify(h *policy.Host, o *policy.Observation) {
	chain := make([][]byte, len(o.Chain))
	for i := range o.Chain {
		chain[i], o.Chain[i].Raw = o.Chain[i].Raw, nil
	}
	now := a.c.Now()
	if a.c.Versions != nil {
		o.KeyDigest = dane.KeyDigest(chain[0])
	}
	o.Trust, o.TrustDetail = webpki.Judge(chain, a.c.Roots, now)
	if h.DANE == policy.DANEUsable {
		result := dane.Verify(h.TLSA, chain, now)
		o.DANE, o.DANEDetail = result.Match, result.Detail
		if result.Match != policy.DANEMismatch {
			o.DANERecord = result.Record.String()
		}
	}
	o.Chain = bounded(o.Chain)
}

// bounded leaves of a chain what anybody could need of it: a host can show a quarter of a megabyte, and it is kept. A name that
// is left out makes a match fail, never hold.
func bounded(chain []policy.Certificate) []policy.Certificate {
	if len(chain) > maxChain {
		chain = slices.Clone(chain[:maxChain])
	}
	for i := range chain {
		c := &chain[i]
		if len(c.Names) > maxNames {
			c.Names = slices.Clone(c.Names[:maxNames])
		}
		if len(c.Subject) > maxSubject {
			c.Subject = "" // a part could be the name of somebody else
		}
		if len(c.Issuer) > maxSubject {
			c.Issuer = ""
		}
	}
	return chain
}

// final reports whether an address offers what every rule of today would take,
// so that others need no look.
func (a *Assessor) final(h *policy.Host) func(policy.Observation) bool {
	wanted := policy.DefaultDemand()
	if a.c.Wanted != nil {
		wanted = a.c.Wanted()
	}
	return func(o policy.Observation) bool { return judge.Final(wanted, *h, o) }
}
