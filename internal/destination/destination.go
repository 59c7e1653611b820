// Package destination finds out what is known of one destination: where its mail hosts are and what each of them
// does when an MTA would come to deliver. It answers with a policy.Assessment and judges nothing.
//
// The walk is an MTA's own: MX by preference, the domain's own address where there is no MX (RFC 5321, section
// 5.1), null MX (RFC 7505), no MX look-up for a host in brackets. Every host is looked at once, however many
// destinations share it, and every destination is assessed once, however many recipients wait for it. Answers
// serve from memory until their end; how long that is depends on what was seen: success, failure or nothing. A look
// that found out nothing never replaces a good answer before its end.
//
// A look goes on when the caller stops waiting, so that the next one finds its result. Callers hold an Assessor for
// the life of the program and Close it at the end.
//
// SECURITY: what a resolver or a mail host says is untrusted; the number of hosts and addresses looked at is
// bounded here, the size and time of each dialogue in the packages dns and starttls.
package destination

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// Resolver is the part of dns.Resolver that a walk needs.
type Resolver interface {
	MX(ctx context.Context, d addr.Domain) (dns.Answer[dns.MX], error)
	Addrs(ctx context.Context, d addr.Domain) (dns.Answer[netip.Addr], error)
	TLSA(ctx context.Context, name addr.Domain) (dns.Answer[policy.TLSA], error)
	SecureAlias(ctx context.Context, name addr.Domain) (bool, error)
}

// Policies is the part of mtasts.Keeper that a walk needs.
type Policies interface {
	// Lookup returns what d publishes by MTA-STS, by the end of ctx.
	Lookup(ctx context.Context, d addr.Domain) policy.STS
}

// Prober is starttls.Prober.
type Prober interface {
	Probe(ctx context.Context, t starttls.Target) policy.Observation
}

// Config is what an Assessor works with. Resolver and Prober are needed; zero fields mean the defaults named.
type Config struct {
	Resolver Resolver
	Prober   Prober
	Policies Policies       // nil: nobody is asked for MTA-STS
	Roots    *x509.CertPool // of public key infrastructure; nil: the system's
	Port     uint16         // of mail hosts; 25
	IPv6     bool           // try a host's IPv6 addresses first
	Timeout  time.Duration  // one host, all its addresses together; 15 s

	Concurrency int // hosts looked at at the same time; 64
	PerHost     int // addresses of one host tried at the same time; 1
	// Wanted is the most that a rule asks of any destination: a look at a host ends
	// at the first address that meets it. nil: policy.DefaultDemand.
	Wanted func() policy.Demand
	// AllAddresses looks at every address of a host; otherwise a look ends at the first that offers good TLS.
	AllAddresses bool

	// MTA says what the MTA can do that is to deliver; nil: nothing is known of it.
	// Expire is to be called when that changes.
	MTA func() profile.MTA
	// Native looks up addresses as other programs do, where the MTA does so; nil: the
	// system's resolver.
	Native func(ctx context.Context, name string) ([]netip.Addr, error)

	// Confirm is the least time between two probes of a host that shows no good
	// TLS; until both agree nobody is to be refused for it (judge.Confirmed). 0: no
	// host is probed again for that.
	Confirm time.Duration

	Success time.Duration // how long an answer serves when a host offered TLS; 24 h
	Failure time.Duration // … when every host was seen not to; 15 min
	Unknown time.Duration // … when that isn't known; 1 min
	Entries int           // answers kept; 1,000,000

	// Versions, where set, says which TLS versions an address takes, each tried on a connection of its own.
	Versions func(ctx context.Context, t starttls.Target) starttls.Versions

	// OnResult gets every finished assessment, before those who wait for it. It
	// must not block. It may be nil.
	OnResult func(policy.Assessment)
	// OnAssessed gets every finished assessment and how long it took, Probed
	// every finished probe. They must not block. They may be nil.
	OnAssessed func(policy.Assessment, time.Duration)
	Probed     func(policy.Observation)
	// Confirmed gets what a second probe of a destination's hosts came to.
	Confirmed func(Second)

	Now func() time.Time
	Log *slog.Logger
}

// The walk is bounded: nobody needs more hosts than this, and an MTA gives up earlier.
const (
	maxHosts     = 20
	maxAddresses = 8
	maxChain     = 10   // certificates kept of a host
	maxNames     = 1000 // of each
	maxSubject   = 4096 // octets
)

// shortestTTL is how often the MX of a destination in use are asked for at most.
const shortestTTL = 5 * time.Minute

// Assessor assesses destinations and remembers the answers. Make one with New.
type Assessor struct {
	c     Config
	ctx   context.Context
	stop  context.CancelFunc
	slots *semaphore.Weighted
	wg    sync.WaitGroup

	counts       counters
	destinations cache[addr.Destination, policy.Assessment]
	hosts        cache[hostKey, policy.Host]
}

type hostKey struct {
	name addr.Domain
	port uint16
}

// New returns an Assessor, or an error when c lacks what it needs.
func New(c Config) (*Assessor, error) {
	if c.Resolver == nil || c.Prober == nil {
		return nil, errors.New("destination: a resolver and a prober are needed")
	}
	c.Port = cmp.Or(c.Port, 25)
	c.Timeout = cmp.Or(c.Timeout, 15*time.Second)
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.PerHost = cmp.Or(c.PerHost, 1)
	c.Success = cmp.Or(c.Success, 24*time.Hour)
	c.Failure = cmp.Or(c.Failure, 15*time.Minute)
	c.Unknown = cmp.Or(c.Unknown, time.Minute)
	c.Entries = cmp.Or(c.Entries, 1_000_000)
	if c.MTA == nil {
		c.MTA = func() profile.MTA { return profile.MTA{} }
	}
	if c.Native == nil {
		c.Native = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &Assessor{c: c, slots: semaphore.NewWeighted(int64(c.Concurrency))}
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.destinations.init(c.Entries)
	a.hosts.init(c.Entries)
	return a, nil
}

// Close ends all looks under way and waits until they have.
func (a *Assessor) Close() error {
	a.stop()
	a.wg.Wait()
	return nil
}

// Assess returns what is known of d: from memory while that serves, else by
// looking. It returns as soon as enough says that what is known so far suffices
// (nil: only all of it does), when all is known, or when ctx ends; then with
// what is known by then and Partial set, or with Problem Timeout where nothing
// is. Memory that is older than Config.Failure and doesn't suffice is looked at
// again first, because the destination may have been mended. What doesn't suffice
// and was seen once only is looked at twice, Config.Confirm apart. Safe for
// concurrent use.
func (a *Assessor) Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment {
	known := a.assess(ctx, d, enough)
	if enough == nil || a.c.Confirm == 0 || ctx.Err() != nil || enough(known) || !judge.Repeatable(known) {
		return known
	}
	second := a.confirm(ctx, d, enough)
	if second.Partial && !enough(second) {
		return known // what was seen; the second probe goes on, and serves the next caller
	}
	return second
}

func (a *Assessor) assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment {
	if answer, ok := a.nowhere(d); ok {
		return answer
	}
	known, f, mine := a.destinations.get(d, a.c.Now(), time.Time{})
	a.counts.count(f != nil, mine)
	if f == nil {
		// At the end of the MX answer it is asked for again, while what is known goes on to serve; hosts are known still.
		if now := a.c.Now(); a.destinations.stale(d, now, a.c.Unknown) {
			a.begin(d, now.Add(time.Hour), time.Time{})
		}
		if enough == nil || enough(known) {
			return known
		}
		since := a.c.Now().Add(-a.c.Failure)
		if !known.When.Before(since) || !a.destinations.again(d, a.c.Now(), a.c.Unknown) {
			return known
		}
		return await(ctx, d, a.begin(d, since, since), enough)
	}
	if mine {
		close(f.begun)
		a.wg.Go(func() { a.walk(d, f, time.Time{}) })
	}
	return await(ctx, d, f, enough)
}

// begin begins a look, or joins one, unless an answer found since after serves; hosts seen since hostsAfter serve.
func (a *Assessor) begin(d addr.Destination, after, hostsAfter time.Time) *call[policy.Assessment] {
	_, f, mine := a.destinations.get(d, a.c.Now(), after)
	if mine {
		f.after = hostsAfter
		close(f.begun)
		a.wg.Go(func() { a.walk(d, f, hostsAfter) })
	}
	<-f.begun
	return f
}

// Refresh looks at d now, whatever is known, joining a look under way; what was seen of a mail host within age is
// taken for it, for hosts are shared. It returns what the look found, which memory may have good reason not to keep.
func (a *Assessor) Refresh(ctx context.Context, d addr.Destination, age time.Duration) policy.Assessment {
	if answer, ok := a.nowhere(d); ok {
		if a.c.OnResult != nil {
			a.c.OnResult(answer) // a store of old may know the name, and wants to hear of it
		}
		return answer
	}
	now := a.c.Now()
	// Nothing kept was found after now, so this is a flight always.
	f := a.begin(d, now.Add(time.Hour), now.Add(-age))
	if f.after.Before(now.Add(-age)) {
		// One that takes older looks at the hosts: not what is asked for.
		await(ctx, d, f, nil)
		f = a.begin(d, now.Add(time.Hour), now.Add(-age))
	}
	return await(ctx, d, f, nil)
}

// Seed puts answers into memory that were found before this process began, or by
// another one. Those that were found for an MTA that could do other things serve
// no more, and are compared with what is found next.
func (a *Assessor) Seed(known ...policy.Assessment) {
	digest := a.c.MTA().Digest()
	for _, k := range known {
		if k.For != digest || slices.ContainsFunc(k.Hosts, personal) {
			a.destinations.put(k.Destination, entry[policy.Assessment]{value: k, when: k.When, expires: k.When})
			continue
		}
		a.destinations.put(k.Destination, entry[policy.Assessment]{value: k, when: k.When, expires: k.Until, refreshAfter: k.DNSUntil})
		for _, h := range k.Hosts {
			if len(h.Observations) > 0 {
				when := h.Observations[0].When
				h.Preference, h.Implicit = 0, false
				a.hosts.put(hostKey{h.Name, k.Destination.PortOr(a.c.Port)}, entry[policy.Host]{value: h, when: when, expires: a.until(when, "", []policy.Host{h})})
			}
		}
	}
}

// personal reports whether what is known of a host is true of one MTA only.
func personal(h policy.Host) bool { return h.Problem == policy.Loop || h.Problem == policy.NotTried }

// Expire lets nothing in memory serve any more, because the MTA can do other
// things than when it was found.
func (a *Assessor) Expire() {
	a.destinations.expire(a.c.Now())
	a.hosts.expire(a.c.Now())
}

// Remembered returns what memory has of d, also when that is too old to serve;
// false for nothing. It never looks.
func (a *Assessor) Remembered(d addr.Destination) (policy.Assessment, bool) {
	return a.destinations.peek(d)
}

// Drop forgets what is known of d.
func (a *Assessor) Drop(d addr.Destination) { a.destinations.drop(d) }

func await(ctx context.Context, d addr.Destination, f *call[policy.Assessment], enough func(policy.Assessment) bool) policy.Assessment {
	for {
		known, changed, done := f.state()
		if done || enough != nil && known.Partial && enough(known) {
			return known
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !known.Partial {
				known = policy.Assessment{Destination: d, Problem: policy.Timeout, Detail: "no answer by the deadline", Partial: true}
			}
			return known
		}
	}
}

// walk assesses d, telling f of each step and in the end memory. Hosts seen since after serve from memory.
func (a *Assessor) walk(d addr.Destination, f *call[policy.Assessment], after time.Time) {
	start := time.Now()
	mta := a.c.MTA()
	result := policy.Assessment{Destination: d, Problem: policy.Unreachable, Detail: "the look ended unfinished"}
	defer func() { // deferred, so that a panic in a look leaves nobody waiting
		if p := recover(); p != nil {
			a.c.Log.Error("panic in an assessment", "destination", d.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		result.Partial = false
		result.When = a.c.Now()
		result.Until = a.until(result.When, result.Problem, result.Hosts)
		if end := result.When.Add(a.c.Failure); judge.Broken(result) && end.Before(result.Until) {
			result.Until = end // for mail is refused until then, and somebody is mending it
		}
		if end := result.MTASTS.Until; result.MTASTS.Enforces() && end.Before(result.Until) {
			result.Until = end // RFC 8461, section 5.1: a policy that is over neither binds nor proves anything
		}
		a.destinations.complete(d, entry[policy.Assessment]{value: result, when: result.When, expires: result.Until, refreshAfter: result.DNSUntil}, keepAssessment)
		if a.c.OnResult != nil && a.ctx.Err() == nil {
			a.c.OnResult(result)
		}
		if a.c.OnAssessed != nil {
			a.c.OnAssessed(result, time.Since(start))
		}
		f.finish(result)
	}()

	if old, ok := a.destinations.peek(d); ok && judge.Broken(old) {
		if since := a.c.Now().Add(-a.c.Failure); since.After(after) {
			after = since
		}
	}
	published := make(chan policy.STS, 1)
	if a.c.Policies != nil && !d.Direct() { // a policy is a domain's: RFC 8461, section 3
		a.wg.Go(func() { published <- a.published(d.Host()) })
	} else {
		published <- policy.STS{}
	}
	hosts, answer := a.mailHosts(d, mta)
	answer.For, answer.OneAddress = mta.Digest(), mta.OneAddress()
	if len(hosts) == 0 {
		// Who can forge such an answer doesn't get rid of the policy by it: delivery may see another (RFC 8461, section 10.2).
		answer.MTASTS = <-published
		result = answer
		return
	}
	answer.Hosts = hosts
	answer.Partial = true
	f.update(clone(answer))

	type found struct {
		i    int
		host policy.Host
		done bool
	}
	results := make(chan found, 2*len(hosts))
	look := a.host
	if f.twice {
		look = a.hostTwice
	}
	list := newList(mta, hosts, d.PortOr(a.c.Port))
	for i, h := range hosts {
		if list.isProbed(i) {
			continue // by its name alone
		}
		a.wg.Go(func() {
			key := hostKey{h.Name, d.PortOr(a.c.Port)}
			results <- found{i, look(key, after, func(h policy.Host) { results <- found{i, h, false} }), true}
		})
	}
	// Without the policy nobody can say that a host is good enough, so what is seen of hosts isn't told before.
	asked := false
	greeted := time.NewTimer(greeting)
	defer greeted.Stop()
	for left := list.left(); left > 0 || !asked; {
		select {
		case answer.MTASTS = <-published:
			asked = true
		case <-greeted.C:
			list.late = true
		case r := <-results:
			list.set(r.i, r.host, r.done)
			if r.done {
				left--
			}
		}
		if asked {
			answer.Hosts = list.tried()
			f.update(clone(answer))
		}
	}
	answer.Hosts = list.tried()
	list.judge(&answer)
	if answer.MTASTS.Mode == "" && answer.MTASTS.Problem != "" {
		// There may be a policy: it is asked for again as soon as a fetch may be tried again (RFC 8461, section 3.3).
		if soon := a.c.Now().Add(shortestTTL); soon.Before(answer.DNSUntil) {
			answer.DNSUntil = soon
		}
	}
	result = answer
}

// published asks for a domain's MTA-STS policy. One that panics or takes too long is one we know nothing of.
func (a *Assessor) published(d addr.Domain) (found policy.STS) {
	defer func() {
		if p := recover(); p != nil {
			a.c.Log.Error("panic in an assessment", "domain", d.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			found = policy.STS{Problem: "the look went wrong"}
		}
	}()
	ctx, cancel := context.WithTimeout(a.ctx, a.c.Timeout)
	defer cancel()
	return a.c.Policies.Lookup(ctx, d)
}

func clone(a policy.Assessment) policy.Assessment {
	a.Hosts = append([]policy.Host(nil), a.Hosts...)
	return a
}

// reasonOf gives the reason that an error of the resolver carries.
func reasonOf(err error) policy.Reason {
	var e *dns.Error
	if errors.As(err, &e) {
		return e.Reason()
	}
	return policy.DNSFailure
}

// host returns what is known of one mail host, by looking where needed; it waits
// for a look under way. Of one that is looked at resolved is told once its
// addresses are known, if it isn't nil.
func (a *Assessor) host(key hostKey, after time.Time, resolved func(policy.Host)) policy.Host {
	known, f, mine := a.hosts.get(key, a.c.Now(), after)
	if f == nil {
		return known
	}
	if mine {
		a.wg.Go(func() { a.assessHost(key, f) })
	}
	for {
		known, changed, done := f.state()
		if done {
			return known
		}
		if resolved != nil && !known.Name.IsZero() {
			resolved(known)
			resolved = nil
		}
		<-changed
	}
}

func (a *Assessor) assessHost(key hostKey, f *call[policy.Host]) {
	h := policy.Host{Name: key.name, Problem: policy.Unreachable, Detail: "the look ended unfinished"}
	defer func() {
		if p := recover(); p != nil {
			a.c.Log.Error("panic in an assessment", "host", key.name.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		now := a.c.Now()
		a.hosts.complete(key, entry[policy.Host]{value: h, when: now, expires: a.until(now, "", []policy.Host{h})}, keepHost)
		f.finish(h)
	}()
	old, _ := a.hosts.peek(key)
	h = a.probeHost(key, f)
	a.compare(&h, old)
}
