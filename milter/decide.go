package milter

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
	// Held reports whether delivery holds mail for a recipient to all that a
	// rule asks, wherever it is sent on to; then a forward that can't be read
	// (forward.Leaf.Unread) and is held there keeps nobody waiting. nil: it
	// isn't.
	Held     func(c rules.Candidates, r *rules.Rule) bool
	Deadline time.Duration // a recipient is decided by then; 20 s
	Help     string        // a URL added to refusals, or ""
}

const defaultDeadline = 20 * time.Second

// storeTime is how long a demand may take to be stored.
const storeTime = 5 * time.Second

// Decision is what was decided for one recipient, and from what.
type Decision struct {
	// Rule is the one that decided; nil: no rule concerns the recipient, and nothing was asked.
	Rule         *rules.Rule
	Recipient    addr.Address
	Sender       addr.Address       // as the message has it; filled in when the decision is logged
	Destinations []addr.Destination // of the recipient itself; none: delivered here, or sent on
	Forwards     []forward.Leaf     // where else its mail leaves to, as far as a rule asked for that
	Unread       []forward.Leaf     // what can't be read here and is held at delivery
	Assessments  []policy.Assessment
	rules.Judgement
	// Underlying is the reason that a forward has which decided: Reason is policy.Forward then. Otherwise it is Reason.
	Underlying policy.Reason
	Reply      policy.Reply // what the client is told; zero for accept and hold
	Cause      string       // in words, for the log; never for the client

	took time.Duration
}

// end is a place where a recipient's mail leaves to.
type end struct {
	leaf      *forward.Leaf // nil: it is the recipient's own
	hops      []addr.Destination
	err       error       // where it leaves to isn't known
	unread    bool        // because what says so can't be read
	held      bool        // and delivery holds it
	governing *rules.Rule // of a forward: the rule for who forwards
	as        []policy.Assessment
	// dead are hops that nothing can be sent on to now: the MTA itself says so, or the resolver was lied to.
	dead []policy.Assessment
}

// owing are the hops that may get the mail. Of a forward that leads nobody knows where, none is known.
func (e *end) owing() []policy.Assessment {
	switch {
	case e.leaf != nil && e.err != nil:
		return nil
	case len(e.dead) == 0:
		return e.as
	}
	return slices.Concat(e.as, e.dead)
}

// Decide finds the rules for a recipient and judges by them the places its mail goes to. It takes no longer than the
// deadline, and a moment for the store. Where a level asks nothing of a destination, none is looked at.
//
// The rule for the sender judges all places. A rule for who forwards judges the places that a forward leads to. The
// strictest outcome counts.
func (d *Decider) Decide(ctx context.Context, c rules.Candidates, to addr.Address, route Route) Decision {
	out := Decision{Recipient: to, Rule: c.Match(to), Judgement: rules.Judgement{Verdict: policy.Accept, Would: policy.Accept}}
	if out.Rule == nil && !c.Forwarders() {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(max(d.Deadline, 0), defaultDeadline))
	defer cancel()
	ends := d.ends(ctx, c, out.Rule, to, route)
	for _, e := range ends {
		if e.held {
			out.Unread = append(out.Unread, *e.leaf)
		} else if e.leaf == nil {
			out.Destinations = append(out.Destinations, e.hops...)
		} else {
			out.Forwards = append(out.Forwards, *e.leaf)
		}
	}
	ends = slices.DeleteFunc(ends, func(e end) bool { return e.held })
	d.assessAll(ctx, out.Rule, to, ends)

	type judged struct {
		rule *rules.Rule
		rules.Judgement
		end
	}
	var all []judged
	for _, e := range ends {
		out.Assessments = append(out.Assessments, e.as...)
		for _, r := range []*rules.Rule{out.Rule, e.governing} {
			if r != nil {
				all = append(all, judged{r, r.Judge(e.as), e})
			}
		}
	}
	var decides *judged
	for i := range all {
		if j := &all[i]; decides == nil || stricter(j.Judgement, decides.Judgement) {
			decides = j
		}
	}
	switch {
	case decides == nil && out.Rule == nil:
		return out // a recipient that doesn't forward, or whose forwards nobody governs
	case decides == nil: // delivered here
		out.Judgement = out.Rule.Judge(nil)
		return out
	}
	out.Rule, out.Judgement, out.Underlying = decides.rule, decides.Judgement, decides.Reason

	var owed error
	for _, j := range all {
		if owed = d.owe(ctx, out.Verdict, j.rule, j.Judgement, j.owing()); owed != nil {
			out.Rule, decides = j.rule, &j
			out.Verdict, out.Would, out.Tag = policy.Defer, policy.Defer, policy.TagFail
			out.Reason, out.Underlying = policy.Unstored, policy.Unstored
			out.Destination = j.owing()[0].Destination
			break
		}
	}
	out.Cause = cause(out.Rule.Demand(), out.Judgement, decides.as)
	if owed != nil {
		out.Cause = owed.Error()
	}
	if decides.leaf != nil && out.Reason != "" {
		out.Cause = limited(fmt.Sprintf("%s: %s: %s", way(decides.leaf), out.Reason, out.Cause))
		out.Reason = policy.Forward
	}
	if out.Rule.Former && out.Reason != "" {
		out.Cause = limited("the rule is not in force any more but binds mail accepted under it, see tlsonly classes: " + out.Cause)
	}
	out.Reply = d.reply(&out)
	return out
}

// stricter reports whether a counts before b: by what is done first, for a rule that only observes takes nothing from one that
// doesn't, whatever it would do.
func stricter(a, b rules.Judgement) bool {
	switch {
	case a.Verdict != b.Verdict:
		return a.Verdict.Rank() > b.Verdict.Rank()
	case a.Would != b.Would:
		return a.Would.Rank() > b.Would.Rank()
	}
	return a.Reason != "" && b.Reason == ""
}

// reply is what the client is told of a decision.
func (d *Decider) reply(out *Decision) policy.Reply {
	if out.Reason == policy.Forward || out.Underlying == policy.Unreadable {
		return policy.ForwardReply(out.Verdict, out.Underlying, out.Recipient, d.Help)
	}
	return policy.ReplyFor(out.Verdict, out.Reason, out.Destination, d.Help)
}

// ends returns the places where a recipient's mail leaves to, as far as a rule may ask something of them; rule is the one for
// the sender, or nil.
func (d *Decider) ends(ctx context.Context, c rules.Candidates, rule *rules.Rule, to addr.Address, route Route) []end {
	own := func() end {
		hops, err := d.hops(to, route)
		return end{hops: hops, err: err}
	}
	enforces := rule != nil && rule.Level.Enforces()
	if d.Forwards == nil || !enforces && !c.Forwarders() {
		return []end{own()}
	}
	var found []end
	for _, leaf := range d.Forwards.Expand(ctx, to, c.From()).Leaves {
		var e end
		switch {
		case leaf.Forwarded() && leaf.Kind.Here():
			continue
		case leaf.Forwarded():
			e = end{leaf: &leaf, hops: leaf.Hops, governing: c.Forwarder(to, leaf.Owners(to))}
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
			found = append(found, end{hops: leaf.Hops})
			continue
		default:
			found = append(found, own())
			continue
		}
		switch {
		case e.governing == nil && !enforces:
			continue
		case leaf.Held && e.governing == nil && d.Held != nil && d.Held(c, rule):
			e.leaf, e.held = &leaf, true
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

// way says where mail is sent on to, and by which files and tables.
func way(leaf *forward.Leaf) string {
	if len(leaf.Path) == 0 {
		return "forwards of " + leaf.Address.String()
	}
	var sources []string
	for _, step := range leaf.Path {
		sources = append(sources, step.Source)
	}
	return fmt.Sprintf("forward to %s by %s", leaf.Address, strings.Join(sources, ", "))
}

// assessAll looks at all hops of all ends at the same time.
func (d *Decider) assessAll(ctx context.Context, rule *rules.Rule, to addr.Address, ends []end) {
	var hops []addr.Destination
	asked := map[addr.Destination][]policy.Demand{}
	for _, e := range ends {
		for _, r := range []*rules.Rule{rule, e.governing} {
			if r == nil || !r.Level.Enforces() || e.err != nil {
				continue
			}
			for _, hop := range e.hops {
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
	for i := range ends {
		e := &ends[i]
		for _, hop := range e.hops {
			switch a, ok := known[hop]; {
			case !ok: // nobody asks
			case e.leaf != nil && a.Problem.Permanent():
				e.dead = append(e.dead, a)
			default:
				e.as = append(e.as, a)
			}
		}
		if enforces := rule != nil && rule.Level.Enforces(); e.err != nil && (enforces || e.governing != nil) {
			// Where the mail goes isn't known, so nothing is known of it: neither "fine" nor "no TLS".
			problem := policy.Unreachable
			if e.unread {
				problem = policy.Unreadable
			}
			e.as = []policy.Assessment{{
				Destination: addr.DomainDestination(to.Domain),
				Problem:     problem,
				Detail:      e.err.Error(),
			}}
		}
	}
}

// owe stores what is demanded of the destinations of a recipient about to be accepted. Where that can't be done the
// recipient is deferred: a promise that a restart could forget is none.
func (d *Decider) owe(ctx context.Context, verdict policy.Verdict, r *rules.Rule, j rules.Judgement, as []policy.Assessment) error {
	binds := r.Mode == policy.Enforce && r.Level.Enforces() && verdict == policy.Accept &&
		(j.Reason == "" || j.Reason.Unknown() && r.OnUnknown == policy.ActionAccept)
	if d.Ledger == nil || !binds {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	for _, a := range as {
		seen := judge.Destination(r.Demand(), a) == ""
		if err := d.Ledger.Owe(ctx, a.Destination, r.Name, r.Demand(), r.Pin && seen); err != nil {
			return fmt.Errorf("demand not stored: %w", err)
		}
	}
	return nil
}

// assess looks at all hops at the same time, until ctx ends.
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

// maxCause bounds what one decision puts into the log.
const maxCause = 400

// cause says in words what made the deciding destination fail.
func cause(demand policy.Demand, j rules.Judgement, as []policy.Assessment) string {
	if j.Reason == "" {
		return ""
	}
	var parts []string
	for _, a := range as {
		if a.Destination != j.Destination {
			continue
		}
		if a.Detail != "" {
			parts = append(parts, a.Detail)
		}
		for _, f := range judge.Findings(demand, a) {
			parts = append(parts, f.Host.String()+": "+f.Words)
		}
		break
	}
	return limited(strings.Join(parts, "; "))
}

func limited(text string) string {
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "…"
	}
	return text
}
