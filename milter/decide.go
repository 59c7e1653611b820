package milter

// A decision about one recipient is made in four steps. Each is a function of the
// value that the step before returned, and all are kept in the Decision, so that
// Decision.Trace can tell how it came about.
//
//	plan     The rule for the sender and the recipient, and the places that the
//	         mail goes to: the next hop that the MTA names, [relay], or the
//	         recipient's domain; and the ends of each forward, with the rule for
//	         who forwards. A place may be unknown: its forward can't be read, or
//	         its next hop isn't one.
//	observe  What is known of each place, from memory or by a probe, all at the
//	         same time and by the deadline. Places of which no rule asks anything
//	         are left out.
//	judge    What each rule makes of each place. This is pure. The strictest
//	         verdict decides, and gives the reason and the reply. The session may
//	         make it stricter: its MTA can't hold a message, or wouldn't enforce
//	         TLS on it.
//	protect  Before the strictest is taken: where a rule falls back, which method
//	         can encrypt to whom the mail goes to (protect.go).
//	commit   What was demanded of the places of an accepted recipient is stored.
//	         Where that fails, the recipient is deferred.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Assessor finds out what a destination does.
type Assessor interface {
	// Assess returns what is known of d when enough is true of it, when all is known, or when ctx ends: then what is
	// known by then with Partial set, or Problem policy.Timeout where nothing is. It returns soon after ctx ends.
	Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment
}

// Ledger remembers what was promised.
type Ledger interface {
	// Pinned reports whether d was seen to offer TLS and must not fall back.
	Pinned(d addr.Destination) bool
	// Owe makes durable, before it returns nil, that a message for d was accepted under demand; with pin it pins d, which
	// was seen to satisfy it.
	Owe(ctx context.Context, d addr.Destination, rule string, demand policy.Demand, pin bool) error
}

// Forwards follows forwards, as forward.Expander does.
type Forwards interface {
	// Expand says where mail of from for to ends; by the end of ctx, and then with what isn't known as forward.Unknown.
	Expand(ctx context.Context, to, from addr.Address) forward.Expansion
}

// Decider decides for one recipient. Its fields don't change while it is in use.
type Decider struct {
	Assessor Assessor
	Ledger   Ledger // nil: nothing is pinned and nothing stored
	// Local reports whether a domain is delivered here; nil: none is.
	Local func(addr.Domain) bool
	// Relay is where mail for a domain goes when it doesn't go by MX; nil: all does.
	Relay func(addr.Domain) (addr.Destination, bool)
	// Forwards says where a recipient's mail ends; nil: all of it at the recipient's own address.
	Forwards Forwards
	// EnforcedAtDelivery reports whether delivery holds mail for a recipient to all that a
	// rule asks, wherever it is sent on to; then a forward that can't be read
	// (forward.Leaf.Unread) and is held there keeps nobody waiting. nil: it
	// isn't.
	EnforcedAtDelivery func(c rules.Candidates, r *rules.Rule) bool
	Deadline           time.Duration // a recipient is decided by then; 20 s
	Help               string        // a URL added to refusals, or ""
	// Dry says that Ledger.Owe stores nothing: it says whether it could.
	Dry bool
	// FailingSince is when the first of the assessments of a destination was that have
	// failed since one succeeded, zero for none; nil: none has failed.
	FailingSince func(addr.Destination) time.Time
	// Protect has the methods of rules that fall back; nil: there is none.
	Protect Protector
	// Gateway reports whether what the MTA can't deliver by a route comes to the
	// gateway of package fallback; nil: it never does.
	Gateway func(Route) bool
}

const defaultDeadline = 20 * time.Second

// storeTime is how long a demand may take to be stored.
const storeTime = 5 * time.Second

// Decide finds the rules for a recipient and judges by them the places its mail
// goes to. It takes no longer than the deadline, and a moment for the store.
// Where a level asks nothing of a destination, none is probed.
//
// The rule for the sender judges all places. A rule for who forwards judges the
// places that a forward leads to. The strictest outcome counts.
func (d *Decider) Decide(ctx context.Context, c rules.Candidates, to addr.Address, route Route) Decision {
	return d.decide(ctx, c, to, route, nil)
}

// decide is Decide; session, if not nil, may make a verdict stricter before
// anything is promised.
func (d *Decider) decide(
	ctx context.Context, c rules.Candidates, to addr.Address, route Route, session func(*Decision),
) Decision {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(max(d.Deadline, 0), defaultDeadline))
	defer cancel()
	p := d.observe(ctx, d.plan(ctx, c, to, route))
	rulings := d.rulings(p)
	d.protect(ctx, p, rulings)
	out := d.judge(p, rulings)
	if session != nil && out.Rule != nil {
		session(&out)
	}
	d.commit(ctx, &out)
	return out
}

// plan is the rule for a recipient, nil for none, and where its mail goes.
type plan struct {
	from   addr.Address
	to     addr.Address
	rule   *rules.Rule
	route  Route
	began  time.Time
	dry    bool // nothing is stored
	places []place
}

// place is one that a recipient's mail leaves to.
type place struct {
	leaf      *forward.Leaf // nil: it is the recipient's own
	hops      []addr.Destination
	err       error       // where it leaves to isn't known
	unread    bool        // because what says so can't be read
	enforced  bool        // and delivery holds it, so that it isn't judged
	governing *rules.Rule // of a forward: the rule for who forwards
	as        []policy.Assessment
	// dead are hops that nothing can be sent on to now: the MTA itself says so, or the resolver was lied to.
	dead []policy.Assessment
}

// plan finds the rule and the places, as far as a rule may ask something of them.
func (d *Decider) plan(ctx context.Context, c rules.Candidates, to addr.Address, route Route) plan {
	p := plan{from: c.From(), to: to, rule: c.Match(to), route: route, began: time.Now(), dry: d.Dry}
	if p.rule != nil || c.Forwarders() {
		p.places = d.places(ctx, c, p.rule, to, route)
	}
	return p
}

// commit stores what is demanded of the destinations of a recipient about to be
// accepted. Where that can't be done the recipient is deferred: a promise that a
// restart could forget is none.
func (d *Decider) commit(ctx context.Context, out *Decision) {
	if d.Ledger == nil || out.Verdict != policy.Accept && out.Verdict != policy.Fallback {
		return
	}
	for i := range out.rulings {
		j := &out.rulings[i]
		if !j.promises() {
			continue
		}
		at := &out.plan.places[j.place]
		to, err := d.owe(ctx, j.rule, at.owing())
		if err != nil {
			why := fmt.Sprintf("demand not stored: %v", err)
			if at.leaf != nil {
				why = forwardPath(at.leaf) + ": " + why
			}
			out.Rule = j.rule
			d.deferFor(out, policy.StoreFailed, to, why)
			return
		}
		j.owed = true
	}
}

// reply is what the client is told of a decision.
func (d *Decider) reply(out *Decision) policy.Reply {
	if r, ok := d.unprotected(out); ok {
		return r
	}
	if out.Reason == policy.Forward || out.Underlying == policy.Unreadable || out.Underlying == policy.NoRoute {
		return policy.ForwardReply(out.Verdict, out.Underlying, out.Recipient, d.Help)
	}
	return policy.ReplyFor(out.Verdict, out.Reason, out.Destination, "").Naming(out.Host, out.Destination).WithHelp(d.Help)
}

// places returns where a recipient's mail leaves to, as far as a rule may ask
// something of that; rule is the one for the sender, or nil.
func (d *Decider) places(ctx context.Context, c rules.Candidates, rule *rules.Rule, to addr.Address, route Route) []place {
	own := func() place {
		hops, err := d.hops(to, route)
		return place{hops: hops, err: err}
	}
	enforces := rule != nil && rule.Level.Enforces()
	if d.Forwards == nil || !enforces && !c.Forwarders() {
		return []place{own()}
	}
	var found []place
	for _, leaf := range d.Forwards.Expand(ctx, to, c.From()).Leaves {
		var e place
		switch {
		case leaf.Forwarded() && leaf.Kind.Here():
			continue
		case leaf.Forwarded():
			e = place{leaf: &leaf, hops: leaf.Hops, governing: c.Forwarder(to, leaf.Owners(to))}
		case leaf.Kind == forward.Unknown:
			// What becomes of its own mail can't be read: it may go anywhere, so it may be sent on, too.
			if e.governing = c.Forwarder(to, leaf.Owners(to)); e.governing != nil {
				e.leaf = &leaf
			}
		case rule == nil:
			continue // its own mail: nobody asks anything of it
		case route == (Route{}) && leaf.Kind.Here():
			continue // delivered here, and no MTA knows better
		case route == (Route{}) && len(leaf.Hops) > 0:
			found = append(found, place{hops: leaf.Hops})
			continue
		default:
			found = append(found, own())
			continue
		}
		switch {
		case e.governing == nil && !enforces:
			continue
		case leaf.Enforced && e.governing == nil && d.EnforcedAtDelivery != nil && d.EnforcedAtDelivery(c, rule):
			e.leaf, e.enforced = &leaf, true
		case leaf.Kind == forward.Unknown:
			e.err, e.unread = errors.New(leaf.Detail), true
		case len(e.hops) == 0 && leaf.Address.Domain.IsZero():
			e.err = fmt.Errorf("no next hop for the bare name %s", leaf.Address)
		case len(e.hops) == 0:
			e.hops, e.err = d.hops(leaf.Address, Route{})
		}
		found = append(found, e)
	}
	return found
}

// forwardPath says where mail is sent on to, and by which files and tables.
func forwardPath(leaf *forward.Leaf) string {
	if len(leaf.Path) == 0 {
		return "forwards of " + leaf.Address.String()
	}
	var sources []string
	for _, step := range leaf.Path {
		sources = append(sources, step.Origin.String())
	}
	return fmt.Sprintf("forward to %s by %s", leaf.Address, strings.Join(sources, ", "))
}

// observe finds out what all places do at the same time, from memory or by a
// probe, where a rule asks something of them.
func (d *Decider) observe(ctx context.Context, p plan) plan {
	var hops []addr.Destination
	asked := map[addr.Destination][]policy.Demand{}
	for i := range p.places {
		at := &p.places[i]
		for _, r := range [...]*rules.Rule{p.rule, at.governing} {
			if r == nil || !r.Level.Enforces() || at.err != nil || at.enforced {
				continue
			}
			for _, hop := range at.hops {
				if len(asked[hop]) == 0 {
					hops = append(hops, hop)
				}
				asked[hop] = append(asked[hop], r.Demand())
			}
		}
	}
	known := map[addr.Destination]policy.Assessment{}
	for i, a := range d.assess(ctx, hops, asked) {
		known[hops[i]] = a
	}
	enforces := p.rule != nil && p.rule.Level.Enforces()
	for i := range p.places {
		at := &p.places[i]
		for _, hop := range at.hops {
			switch a, ok := known[hop]; {
			case !ok: // nobody asks
			case at.leaf != nil && a.Problem.Permanent():
				at.dead = append(at.dead, a)
			default:
				at.as = append(at.as, a)
			}
		}
		if at.err != nil && !at.enforced && (enforces || at.governing != nil) {
			// Where the mail goes isn't known, so nothing is known of it: neither "fine" nor "no TLS".
			problem := policy.NoRoute
			if at.unread {
				problem = policy.Unreadable
			}
			at.as = []policy.Assessment{{
				Destination: addr.DomainDestination(p.to.Domain),
				Problem:     problem,
				Detail:      at.err.Error(),
			}}
		}
	}
	return p
}

// owe stores what a rule demands of destinations; on an error it returns the one
// of which that failed.
func (d *Decider) owe(ctx context.Context, r *rules.Rule, as []policy.Assessment) (addr.Destination, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	for _, a := range as {
		seen := judge.Destination(r.Demand(), a) == ""
		if err := d.Ledger.Owe(ctx, a.Destination, r.Name, r.Demand(), r.Pin && seen); err != nil {
			return a.Destination, err
		}
	}
	return addr.Destination{}, nil
}

// assess returns what is known of all hops, asked for at the same time, until ctx ends.
func (d *Decider) assess(ctx context.Context, hops []addr.Destination, asked map[addr.Destination][]policy.Demand) []policy.Assessment {
	if len(hops) == 0 {
		return nil
	}
	out := make([]policy.Assessment, len(hops))
	look := func(i int) {
		enough := func(a policy.Assessment) bool {
			return !slices.ContainsFunc(asked[hops[i]], func(d policy.Demand) bool { return judge.Destination(d, a) != "" })
		}
		out[i] = d.Assessor.Assess(ctx, hops[i], enough)
		out[i].Destination = hops[i]
		out[i].Pinned = d.Ledger != nil && d.Ledger.Pinned(hops[i])
		if d.FailingSince != nil && out[i].Pinned {
			if since := d.FailingSince(hops[i]); !since.IsZero() {
				out[i].LostFor = max(0, time.Since(since))
			}
		}
	}
	var wg sync.WaitGroup
	panics := make([]any, len(hops))
	for i := range hops[1:] {
		wg.Go(func() {
			defer func() { panics[i] = recover() }()
			look(i + 1)
		})
	}
	func() {
		defer wg.Wait() // when the first look panics, too: out is in use until then
		look(0)
	}()
	for _, p := range panics {
		if p != nil {
			panic(p) // in the caller's goroutine, where it is expected
		}
	}
	return out
}
