package mtasts

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
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/policy"
)

// Resolver is the part of dns.Resolver that a Keeper needs.
type Resolver interface {
	TXT(ctx context.Context, name addr.Domain) (dns.Answer[string], error)
	Addrs(ctx context.Context, host addr.Domain) (dns.Answer[netip.Addr], error)
}

// Saved is a policy as it was fetched: what outlives the process.
type Saved struct {
	Domain  addr.Domain
	ID      string // of the record
	Text    string // of the policy file
	Fetched time.Time
	Until   time.Time // fetched and max_age
}

// Config is what a Keeper works with. Resolver is needed; zero fields mean the defaults named.
type Config struct {
	Resolver Resolver
	Roots    *x509.CertPool // nil: the system's
	// Save makes a policy outlive the process; it is called for every policy fetched, one of a domain at a time. nil: none does.
	Save func(Saved) error

	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // net.Dialer's
	Port    uint16                                                               // of policy hosts; 443
	Timeout time.Duration                                                        // one fetch altogether; 1 min
	Refresh time.Duration                                                        // a policy is fetched again after; 24 h
	Retry   time.Duration                                                        // … and one that could not be had; 5 min

	Concurrency int // fetches under way at the same time; 32
	Entries     int // policies kept; 100,000

	Now func() time.Time
	Log *slog.Logger
}

// Keeper knows domains' policies. Make one with New. It is safe for concurrent use.
type Keeper struct {
	c     Config
	fetch fetcher
	ctx   context.Context
	stop  context.CancelFunc
	slots *semaphore.Weighted
	wg    sync.WaitGroup

	mu     sync.Mutex
	kept   map[addr.Domain]policy.STS // Problem is ""
	failed map[addr.Domain]failure
	calls  map[addr.Domain]*call
}

// failure is a version of a policy that could not be had.
type failure struct {
	id      string
	problem string
	until   time.Time // it isn't tried again before
}

// call is a look at a domain under way.
type call struct {
	done   chan struct{}
	policy policy.STS // once done is closed
}

// What a Lookup says that ends before the look it waits for.
const late = "not known by the deadline"

// New returns a Keeper, or an error when c lacks what it needs.
func New(c Config) (*Keeper, error) {
	if c.Resolver == nil {
		return nil, errors.New("mtasts: a resolver is needed")
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	c.Port = cmp.Or(c.Port, 443)
	c.Timeout = cmp.Or(c.Timeout, time.Minute)  // RFC 8461, section 3.3
	c.Refresh = cmp.Or(c.Refresh, 24*time.Hour) // RFC 8461, section 3.3
	c.Retry = cmp.Or(c.Retry, 5*time.Minute)    // RFC 8461, section 3.3
	c.Concurrency = cmp.Or(c.Concurrency, 32)
	c.Entries = cmp.Or(c.Entries, 100_000)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{
		c:      c,
		fetch:  fetcher{resolver: c.Resolver, roots: c.Roots, dial: c.Dial, port: c.Port, timeout: c.Timeout},
		slots:  semaphore.NewWeighted(int64(c.Concurrency)),
		kept:   map[addr.Domain]policy.STS{},
		failed: map[addr.Domain]failure{},
		calls:  map[addr.Domain]*call{},
	}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k, nil
}

// Close ends all fetches and waits until they have. A Lookup afterwards answers from memory.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.stop() // under the lock, so that nobody begins a flight after it
	k.mu.Unlock()
	k.wg.Wait()
	return nil
}

// Seed puts policies into memory that were saved before. Those that are over are left out, those that can't be read logged.
func (k *Keeper) Seed(saved ...Saved) {
	now := k.c.Now()
	for _, s := range saved {
		if !now.Before(s.Until) {
			continue
		}
		p, err := ParsePolicy([]byte(s.Text))
		if err != nil {
			k.c.Log.Warn("saved mta-sts policy can't be read", "destination", s.Domain.String(), "err", err)
			continue
		}
		sts := p.sts(s.ID, s.Fetched)
		if s.Until.Before(sts.Until) {
			sts.Until = s.Until
		}
		k.mu.Lock()
		if old, ok := k.kept[s.Domain]; !ok || old.Fetched.Before(sts.Fetched) {
			k.keep(s.Domain, sts, now)
		}
		k.mu.Unlock()
	}
}

func (p Policy) sts(id string, fetched time.Time) policy.STS {
	return policy.STS{ID: id, Mode: p.Mode, MX: p.MX, Fetched: fetched, Until: fetched.Add(p.MaxAge)}
}

// Lookup finds out what d's policy is now: it asks for the record, and fetches the policy when the record is another
// one or the policy wasn't fetched for a day. Those who ask for one domain at a time share the answer. When ctx ends
// first the answer is what is known so far, and the look goes on for the next who asks.
//
// The zero STS is a domain without a policy. With Problem set it isn't known what the domain publishes now; what else is in
// the STS is the policy that holds still, if there is one.
func (k *Keeper) Lookup(ctx context.Context, d addr.Domain) policy.STS {
	if d.IsZero() || d.IsLiteral() { // RFC 8461, section 3.4
		return policy.STS{}
	}
	f := k.join(d)
	if f == nil {
		return k.current(d, "closed")
	}
	select {
	case <-f.done:
		return f.policy
	case <-ctx.Done():
		return k.current(d, late)
	}
}

// join returns the look at d under way, or begins one; nil after Close.
func (k *Keeper) join(d addr.Domain) *call {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.calls[d]
	if !ok && k.ctx.Err() == nil {
		f = &call{done: make(chan struct{})}
		k.calls[d] = f
		k.wg.Go(func() { k.run(d, f) })
	}
	return f
}

func (k *Keeper) run(d addr.Domain, f *call) {
	defer func() { // deferred, so that a panic in a look leaves nobody waiting
		if p := recover(); p != nil {
			k.c.Log.Error("panic in an assessment", "destination", d.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			f.policy = k.current(d, "the look ended unfinished")
		}
		k.mu.Lock()
		delete(k.calls, d)
		k.mu.Unlock()
		close(f.done)
	}()
	f.policy = k.assess(d)
}

func (k *Keeper) assess(d addr.Domain) policy.STS {
	record, err := addr.ParseDomain("_mta-sts." + d.String())
	host, err2 := addr.ParseDomain("mta-sts." + d.String())
	if err != nil || err2 != nil {
		return policy.STS{} // so long a name that nothing can be published below it
	}
	ctx, cancel := context.WithTimeout(k.ctx, k.c.Timeout)
	txt, err := k.c.Resolver.TXT(ctx, record)
	cancel()
	if err != nil {
		return k.current(d, printable(err))
	}
	id, found, err := ParseRecord(txt.Records)
	if err != nil {
		return k.current(d, printable(err))
	}
	if !found {
		// RFC 8461, section 3.1: without a record there is no policy to look for, but that doesn't remove the one kept.
		return k.current(d, "")
	}
	now := k.c.Now()
	sts := k.current(d, "")
	if sts.ID == id && sts.Mode != "" && !k.due(sts, now) {
		return sts
	}
	k.mu.Lock()
	last, failed := k.failed[d]
	k.mu.Unlock()
	// RFC 8461, section 3.3: no more than one attempt in five minutes for one version. An end that is further away than
	// that was set before the clock was set back.
	if failed && last.id == id && now.Before(last.until) && !last.until.After(now.Add(k.c.Retry)) {
		return k.current(d, last.problem)
	}
	return k.renew(d, host, id)
}

// due reports whether a policy wants to be fetched again though its record is the same: RFC 8461, section 3.3, so that who
// interferes has to do so for all of max_age; and some change the policy and forget the id. One from the future was fetched
// before the clock was set back: nobody knows how old it is.
func (k *Keeper) due(sts policy.STS, now time.Time) bool {
	return now.Sub(sts.Fetched) >= k.c.Refresh || sts.Fetched.After(now.Add(time.Minute))
}

// renew fetches d's policy, whose version is id.
func (k *Keeper) renew(d, host addr.Domain, id string) policy.STS {
	var p Policy
	text, err := k.get(host)
	if err == nil {
		p, err = ParsePolicy(text)
	}
	now := k.c.Now()
	if err != nil {
		return k.fail(d, id, printable(err), now)
	}
	sts := p.sts(id, now)
	k.mu.Lock()
	delete(k.failed, d)
	k.keep(d, sts, now)
	k.mu.Unlock()
	if k.c.Save != nil {
		if err := k.c.Save(Saved{Domain: d, ID: id, Text: string(text), Fetched: sts.Fetched, Until: sts.Until}); err != nil {
			k.c.Log.Warn("mta-sts policy not saved", "destination", d.String(), "err", err)
		}
	}
	return sts
}

// get fetches when its turn comes.
func (k *Keeper) get(host addr.Domain) ([]byte, error) {
	if err := k.slots.Acquire(k.ctx, 1); err != nil {
		return nil, err
	}
	defer k.slots.Release(1)
	return k.fetch.fetch(k.ctx, host)
}

// fail notes that the version id could not be had and returns what holds still.
func (k *Keeper) fail(d addr.Domain, id, problem string, now time.Time) policy.STS {
	sts := k.current(d, problem)
	if k.ctx.Err() != nil {
		return sts // it was us
	}
	k.mu.Lock()
	makeRoom(k.failed, k.c.Entries, func(f failure) bool { return !now.Before(f.until) })
	k.failed[d] = failure{id, problem, now.Add(k.c.Retry)}
	k.mu.Unlock()
	// RFC 8461, section 3.3: administrators are told, unless the policy that holds is none.
	level := slog.LevelInfo
	if sts.Mode == policy.STSEnforce || sts.Mode == policy.STSTesting {
		level = slog.LevelWarn
	}
	k.c.Log.Log(k.ctx, level, "mta-sts policy not fetched", "destination", d.String(), "id", id, "until", sts.Until, "err", problem)
	return sts
}

// current returns the policy of d that holds now, and why it may not be what d publishes now.
func (k *Keeper) current(d addr.Domain, problem string) policy.STS {
	k.mu.Lock()
	defer k.mu.Unlock()
	sts, ok := k.kept[d]
	// RFC 8461, section 5.1: until max_age after the fetch.
	if ok && !k.c.Now().Before(sts.Until) {
		delete(k.kept, d)
		sts = policy.STS{}
	}
	sts.Problem = problem
	return sts
}

// keep puts a policy into memory, in place of the one before; k.mu is held.
func (k *Keeper) keep(d addr.Domain, sts policy.STS, now time.Time) {
	delete(k.kept, d)
	if !now.Before(sts.Until) {
		return
	}
	makeRoom(k.kept, k.c.Entries,
		func(s policy.STS) bool { return !now.Before(s.Until) },
		func(s policy.STS) bool { return !s.Enforces() })
	k.kept[d] = sts
}

// makeRoom drops from a full map what one test after the other says may go, until a hundredth is free; what comes first
// goes if all else is needed. So a stranger with many domains can't drive out policies that bind by ones that don't.
func makeRoom[V any](m map[addr.Domain]V, limit int, tests ...func(V) bool) {
	if len(m) < limit {
		return
	}
	for _, test := range append(tests, func(V) bool { return true }) {
		for d, v := range m {
			if len(m) < limit-limit/100 {
				return
			}
			if test(v) {
				delete(m, d)
			}
		}
	}
}

// printable makes one line of an error for logs and terminals: certificates and answers are a stranger's to write.
func printable(err error) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufffd' {
			return '?'
		}
		return r
	}, err.Error())
	const most = 400
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
