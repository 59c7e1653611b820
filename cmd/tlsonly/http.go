package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/audit"
	"tlsonly/internal/config"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/inbound"
	"tlsonly/internal/judge"
	"tlsonly/internal/ledger"
	"tlsonly/internal/observe"
	"tlsonly/internal/policy"
	"tlsonly/internal/web"
	"tlsonly/milter"
	"tlsonly/rules"
)

// stats is what is counted and changed at run time, whether it is shown or not.
type stats struct {
	meter *web.Meter
	level *slog.LevelVar // of the log
}

func newTally(now func() time.Time) stats {
	return stats{web.NewMeter(now), new(slog.LevelVar)}
}

// watch has an engine tell of its looks.
func (s stats) watch(c *destination.Config) {
	c.OnAssessed, c.Probed = s.meter.Assessed, s.meter.Probed
	c.Confirmed = func(second destination.Second) { s.meter.Second(string(second)) }
}

// observe counts a decision.
func (s stats) observe(d *milter.Decision, took time.Duration) {
	one := web.Decision{Rule: d.Rule.Name, Verdict: d.Verdict, Reason: d.Reason, Mode: d.Rule.Mode}
	if one.Mode == policy.Observe {
		one.Verdict = d.Would
	}
	s.meter.Decided(one, took)
}

// observeInbound counts a decision about how mail comes in.
func (s stats) observeInbound(rule *inbound.Rule, would policy.Verdict, reason inbound.Reason) {
	s.meter.Admitted(web.Decision{Rule: rule.Name, Verdict: would, Reason: policy.Reason(reason), Mode: rule.Mode})
}

// serveHTTP serves what [http] asks for until stop is called; an error that ends that is sent to served.
func (d *service) serveHTTP(ctx context.Context, passed *sockets, served chan<- error) (stop func(), err error) {
	c := d.config.Load()
	if c.HTTP.Listen == "" {
		return func() {}, nil
	}
	var disbelieved atomic.Pointer[string]
	s, err := newWeb(d, c, func() error { return ctx.Err() }, func() string {
		if why := disbelieved.Load(); why != nil {
			return *why
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	listener, err := passed.listen("http", config.Endpoint{Network: "tcp", Address: c.HTTP.Listen})
	if err != nil {
		return nil, fmt.Errorf("[http] listen: %w", err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		if err := s.Serve(listener); err != nil {
			served <- err
		}
	})
	watching, enough := context.WithCancel(ctx)
	work.Go(func() {
		for again := time.NewTicker(believeEvery); ; {
			if why := resolverProblem(watching, c); watching.Err() == nil {
				disbelieved.Store(&why)
			}
			select {
			case <-again.C:
			case <-watching.Done():
				again.Stop()
				return
			}
		}
	})
	return func() {
		enough()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if err := s.Shutdown(end); err != nil {
			d.log.Warn("http connections cut", "err", err)
		}
		work.Wait()
	}, nil
}

// believeEvery is how often the resolver is checked for the status page.
const believeEvery = 10 * time.Minute

// lines are pieces of advice as they stand on a page.
func lines(found []judge.Advice) []string {
	var all []string
	for _, f := range found {
		all = append(all, f.String())
	}
	return all
}

// newWeb builds what is served over HTTP. stopping returns an error once the daemon takes no more sessions.
// disbelief says why nothing can be said of DNSSEC from here, "" where it can.
func newWeb(d *service, c *config.Config, stopping func() error, disbelief func() string) (*web.Server, error) {
	resolver, err := dns.New(dns.Config{Server: c.DNS.Resolver, DNSSEC: c.DNS.DNSSEC, TrustResolver: c.DNS.TrustResolver})
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	w := web.Config{
		Version: buildVersion(),
		Survey: func(each func(web.Summary) bool) {
			d.ledger.All(func(k ledger.Summary) bool { return each(web.Summary(k)) })
		},
		Remembered: d.assessor.Remembered,
		Assess: func(ctx context.Context, to addr.Destination) policy.Assessment {
			return d.assessor.Refresh(ctx, to, 0)
		},
		Store:   d.store,
		Rules:   d.ruleSet,
		Inbound: func() *inbound.Set { return d.config.Load().Inbound },
		Meter:   d.stats.meter,
		Counts:  d.counts,
		Checks: []web.Check{
			{Name: "store", Test: func(context.Context) error { return d.store.Healthy() }},
			{Name: "resolver", Test: func(ctx context.Context) error { return answers(ctx, resolver) }},
			{Name: "forwards", Test: d.sources.Test},
			{Name: "sessions", Test: func(context.Context) error { return stopping() }},
		},
		Explain: func(ctx context.Context, from, to addr.Address, user string) web.Explanation {
			decider := newDecider(d.config.Load(), d.assessor, readOnly{d})
			decider.Dry = true
			decider.Forwards, decider.EnforcedAtDelivery = d.forwards, enforcedAtDelivery(d.config.Load(), d.delivery.Load)
			e := explained(ctx, decider, d.delivery.Load(), append([]addr.Address{from}, d.senders.Written(from)...), to, user)
			e.By, e.Config = "the running daemon, "+answeredBy(), d.state.Load()
			return e.shown()
		},
		Advice: func(a policy.Assessment) []string {
			_, found := judge.Missing(policy.DefaultDemand(), a, disbelief() != "")
			return lines(found)
		},
		Resolver:    disbelief,
		Outage:      d.ledger.Suspect,
		Binding:     d.bindingState,
		LastAsked:   d.activity.Last,
		LogLevel:    d.stats.level,
		Host:        c.HTTP.Host(),
		Password:    c.HTTP.Password,
		Cert:        c.HTTP.Cert,
		Key:         c.HTTP.Key,
		BehindProxy: c.HTTP.BehindProxy,
		Log:         d.log,
		Now:         d.now,
	}
	if d.maps != nil {
		w.ExplainDelivery = d.explainDelivery
	}
	w.Observed = func(ctx context.Context, since time.Time) (observe.Summary, error) {
		rows, err := d.store.ObservedSince(ctx, since)
		return observe.Summarize(d.ruleSet(), rows, since, d.now(), d.assessor.Remembered), err
	}
	w.Forwards = func() []web.Forward {
		failing, _, _ := d.audit.Failing()
		list := make([]web.Forward, len(failing))
		for i, f := range failing {
			list[i] = web.Forward{Owner: f.Owner, Origin: f.Origin, Leaves: f.Leaves, Destination: f.Destination, Rule: f.Rule, Reason: f.Reason, Detail: f.Detail}
		}
		return list
	}
	w.TestForward = func(ctx context.Context, owner, target addr.Address) (any, error) {
		found := d.audit.Auditor.Test(ctx, owner, target)
		if found == nil {
			found = []audit.Finding{} // the mail stays here
		}
		return map[string][]audit.Finding{"findings": found}, ctx.Err()
	}
	return web.New(w)
}

// answers asks a resolver what every one knows (RFC 6761, section 6.3): that it answers is what counts, not what.
func answers(ctx context.Context, r *dns.Resolver) error {
	localhost, err := addr.ParseDomain("localhost")
	if err != nil {
		return err
	}
	if _, err = r.Addrs(ctx, localhost); err != nil {
		return fmt.Errorf("%s doesn't answer: %w", r.Server(), err)
	}
	return nil
}

func (d *service) ruleSet() *rules.Set { return d.config.Load().Rules }

// counts collects what the parts of the daemon count.
func (d *service) counts() web.Counts {
	m, l, a := d.server.Stats(), d.ledger.Stats(), d.assessor.Stats()
	n := web.Counts{
		Sessions: m.Sessions, Connections: m.Connections, Messages: m.Messages, Malformed: m.Malformed, Unattested: m.Unattested, UnattestedAt: m.UnattestedAt,
		Unwatched: m.Unwatched,
		Panics:    map[string]uint64{"milter": m.Panics},
		Cached:    map[string]int{"destinations": a.Destinations, "hosts": a.Hosts},
		Lookups:   map[string]uint64{"memory": a.Served, "joined": a.Joined, "look": a.Assessed},
		Changes:   map[string]int64{},
		Waiting:   l.Waiting,
	}
	for what, times := range l.Events {
		n.Changes[string(what)] = times
	}
	d.keys.count(&n)
	if d.gateway != nil {
		g := d.gateway.Stats()
		n.Fallback = map[string]uint64{"again": g.Again, "refused": g.Refused, "handed": g.Handed, "repeated": g.Repeated}
	}
	if d.maps == nil {
		return n
	}
	s := d.maps.Stats()
	n.Panics["socketmap"] = s.Panics
	n.SocketmapSessions, n.SocketmapRefused, n.SocketmapMalformed = s.Open, s.Refused, s.Garbage
	for _, r := range s.Requests {
		n.Socketmap = append(n.Socketmap, web.Answers{Map: string(r.Map), Answer: string(r.Answer), Count: r.Count})
	}
	return n
}
