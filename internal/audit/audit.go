// Package audit answers which forwards on this host break the rules: before mail comes, for all of them, and for one that
// somebody wants to set up. It finds forwards by package forward, has their destinations assessed, each once, and judges
// them by the rules that name who forwards.
//
// It decides nothing about a message: what becomes of one is decided at RCPT, by the same rules and for its sender. A rule
// that names senders besides who forwards is taken here for what it asks of them.
//
// The caller hands in the Forwards and the Assessor for as long as the Auditor is in use.
package audit

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Forwards is what forward.Expander is.
type Forwards interface {
	All(ctx context.Context, yield func(forward.Forwarder) bool) ([]forward.Unlisted, error)
	ExpandAll(ctx context.Context, all []addr.Address, from addr.Address, yield func(addr.Address, forward.Expansion) bool)
	Through(ctx context.Context, owner, target addr.Address) forward.Expansion
}

// Assessor finds out what a destination does.
type Assessor interface {
	Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment
}

// Auditor audits. The fields of which no nil is told of are needed.
type Auditor struct {
	Forwards Forwards
	Assessor Assessor
	Rules    func() *rules.Set
	Pinned   func(addr.Destination) bool                // nil: none is
	Relay    func(addr.Domain) (addr.Destination, bool) // nil: all mail goes by MX
	Local    func(addr.Domain) bool                     // delivered here; nil: what forward says
	Now      func() time.Time                           // nil: time.Now
	Progress func(done, total int)                      // told now and then; nil: nobody is
}

// Finding is one place that mail for one owner leaves to, or an entry of which that can't be said.
type Finding struct {
	Owner string `json:"owner"` // an address, or the pattern of an entry for many
	policy.Origin
	Path   []forward.Step `json:"path,omitempty"`   // how the mail gets there
	Leaves string         `json:"leaves,omitempty"` // the address it leaves to
	// Destination is the next hop that decided.
	Destination addr.Destination `json:"destination,omitzero"`
	Level       policy.Level     `json:"level,omitempty"` // the highest that is reached there; "" where that isn't known
	Rule        string           `json:"rule,omitempty"`  // "" where none governs it
	Verdict     policy.Verdict   `json:"verdict,omitempty"`
	Reason      policy.Reason    `json:"reason,omitempty"`
	Detail      string           `json:"detail,omitempty"`
}

// Fails reports whether a rule governs the forward and isn't satisfied.
func (f Finding) Fails() bool { return f.Rule != "" && f.Reason != "" }

// Unknown reports whether it isn't known where the mail leaves to, or what is there.
func (f Finding) Unknown() bool { return f.Reason.Unknown() }

// key tells findings apart from one audit to the next.
func (f Finding) key() string { return f.Owner + "\x00" + f.Leaves + "\x00" + f.Destination.String() }

// Summary is how an audit went.
type Summary struct {
	Owners       int                `json:"owners"`       // looked at
	Forwards     int                `json:"forwards"`     // places that mail leaves to, or may
	Failing      int                `json:"failing"`      // of them
	Destinations int                `json:"destinations"` // assessed
	Unlisted     []forward.Unlisted `json:"unlisted,omitempty"`
}

// maxAssessments is how many destinations are assessed at the same time.
const maxAssessments = 256

// Run tells of every forward on this host, or only of those of some owners, in the order of owners. each isn't called
// concurrently.
func (a *Auditor) Run(ctx context.Context, only []addr.Address, each func(Finding)) (Summary, error) {
	var sum Summary
	origins := map[addr.Address]policy.Origin{}
	var owners []addr.Address
	if len(only) > 0 {
		for _, o := range only {
			if _, ok := origins[o.Fold()]; !ok {
				origins[o.Fold()] = policy.Origin{}
				owners = append(owners, o)
			}
		}
	} else {
		unlisted, err := a.Forwards.All(ctx, func(f forward.Forwarder) bool {
			switch _, seen := origins[f.Address.Fold()]; {
			case f.Pattern != "":
				sum.Owners++
				sum.Forwards++
				each(Finding{Owner: f.Pattern, Origin: f.Origin, Detail: "an entry for many addresses: name one to see where its mail goes"})
			case !seen:
				origins[f.Address.Fold()] = f.Origin
				owners = append(owners, f.Address)
			}
			return true
		})
		if err != nil {
			return sum, err
		}
		sum.Unlisted = unlisted
	}
	slices.SortFunc(owners, func(x, y addr.Address) int {
		return cmp.Or(strings.Compare(x.Domain.String(), y.Domain.String()), strings.Compare(x.Local, y.Local))
	})
	known := map[addr.Destination]policy.Assessment{}
	done := 0
	var chunk []Finding
	flush := func() {
		a.judge(ctx, chunk, known)
		for _, f := range chunk {
			if f.Fails() {
				sum.Failing++
			}
			each(f)
		}
		chunk = chunk[:0]
	}
	a.Forwards.ExpandAll(ctx, owners, addr.Address{}, func(owner addr.Address, x forward.Expansion) bool {
		sum.Owners++
		for _, f := range a.findings(owner, x) {
			if o := origins[owner.Fold()]; o.Source != "" && (o.Source != f.Source || f.Line == 0) {
				f.Origin = o
			}
			sum.Forwards++
			chunk = append(chunk, f)
		}
		if done++; len(chunk) >= 1000 || done%1000 == 0 {
			flush()
			a.progress(done, len(owners))
		}
		return ctx.Err() == nil
	})
	flush()
	a.progress(done, len(owners))
	sum.Destinations = len(known)
	return sum, ctx.Err()
}

func (a *Auditor) progress(done, total int) {
	if a.Progress != nil {
		a.Progress(done, total)
	}
}

// Test tells what would become of mail for owner if it were forwarded to target.
func (a *Auditor) Test(ctx context.Context, owner, target addr.Address) []Finding {
	found := a.findings(owner, a.Forwards.Through(ctx, owner, target))
	a.judge(ctx, found, map[addr.Destination]policy.Assessment{})
	return found
}

// findings lists the places that an owner's mail leaves to by forwards, not judged.
func (a *Auditor) findings(owner addr.Address, x forward.Expansion) []Finding {
	var found []Finding
	for _, leaf := range x.Leaving() {
		if !leaf.Forwarded() && leaf.Kind != forward.Unknown {
			continue // an address of somewhere else, which forwards nothing
		}
		f := Finding{Owner: owner.String(), Path: leaf.Path, Detail: leaf.Detail}
		if len(leaf.Path) > 0 {
			f.Origin = leaf.Path[0].Origin
		}
		if r := a.Rules().Governs(owner, leaf.Owners(owner), a.now()); r != nil {
			f.Rule = r.Name
		}
		if leaf.Kind == forward.Unknown {
			f.Reason = policy.Unreadable
			found = append(found, f)
			continue
		}
		f.Leaves = leaf.Address.String()
		for _, hop := range a.hops(leaf) {
			f.Destination = hop
			found = append(found, f)
		}
	}
	return found
}

func (a *Auditor) hops(leaf forward.Leaf) []addr.Destination {
	if len(leaf.Hops) > 0 {
		return leaf.Hops
	}
	if a.Local != nil && a.Local(leaf.Address.Domain) {
		return nil // as at RCPT
	}
	if a.Relay != nil {
		if hop, ok := a.Relay(leaf.Address.Domain); ok {
			return []addr.Destination{hop}
		}
	}
	return []addr.Destination{addr.DomainDestination(leaf.Address.Domain)}
}

// judge has destinations assessed that aren't known, all at the same time, and judges the findings.
func (a *Auditor) judge(ctx context.Context, found []Finding, known map[addr.Destination]policy.Assessment) {
	named := map[string]*rules.Rule{}
	for _, r := range a.Rules().Rules() {
		named[r.Name] = r
	}
	var ask []addr.Destination
	for _, f := range found {
		if _, ok := known[f.Destination]; !ok && !f.Destination.IsZero() {
			known[f.Destination] = policy.Assessment{}
			ask = append(ask, f.Destination)
		}
	}
	seen := make([]policy.Assessment, len(ask))
	var group errgroup.Group
	group.SetLimit(maxAssessments)
	for i, d := range ask {
		group.Go(func() error {
			seen[i] = a.Assessor.Assess(ctx, d, nil)
			seen[i].Destination = d
			seen[i].Pinned = a.Pinned != nil && a.Pinned(d)
			return nil
		})
	}
	group.Wait()
	for i, d := range ask {
		known[d] = seen[i]
	}
	for i := range found {
		f := &found[i]
		r := named[f.Rule]
		if f.Destination.IsZero() {
			if r != nil {
				f.Verdict = r.Judge([]policy.Assessment{{Problem: f.Reason}}).Would
			}
			continue
		}
		as := known[f.Destination]
		f.Level = judge.Reached(as)
		if as.Problem.Permanent() {
			// The MTA can't send it on, and says so to whoever sent it: nothing leaves.
			f.Detail = string(as.Problem)
			if r != nil {
				f.Verdict = policy.Accept
			}
			continue
		}
		if r == nil {
			continue
		}
		j := r.Judge([]policy.Assessment{as})
		f.Verdict, f.Reason = j.Would, j.Reason
		if f.Reason != "" && as.Detail != "" {
			f.Detail = as.Detail
		}
	}
}

func (a *Auditor) now() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}
