package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/mta/postfix"
)

// A bounce to a protected sender is sent on as the sender's other mail is: by
// aliases, virtual aliases, .forward files and scripts. Where that leads to a
// route that doesn't depend on who sends, all mail by that route is held to TLS.

// homeRoute is where bounces leave by a next hop.
type homeRoute struct {
	of addr.Domain // whose they are; zero: anybody's
	at addr.Domain // of the recipients there
}

// onward remembers what bounces and notices are sent on to. To follow all who
// are protected can take long where tables are databases, so it is done as often
// as it costs a twentieth of the time.
type onward struct {
	follow    *forward.Expander
	protected func() []addr.Pattern
	log       *slog.Logger

	mu      sync.Mutex
	of      []addr.Pattern // what was asked for the last time
	notices []addr.Address
	last    []postfix.Onward
	whole   bool // all of it is known
	began   time.Time
	took    time.Duration
}

// Limits of one search. At the start others wait for it.
const (
	onwardFirst = time.Second
	onwardTime  = aroundTime / 2
	onwardShare = 20
)

// late reports whether the first search wasn't over in time.
func (o *onward) late() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.began.IsZero() && !o.whole
}

// find is a postfix.Forwarding. What can't be found out now is as it was.
func (o *onward) find(ctx context.Context, notices []addr.Address) []postfix.Onward {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.protected()
	same := slices.Equal(of, o.of) && slices.Equal(notices, o.notices)
	if same && o.whole && time.Since(o.began) < onwardShare*o.took {
		return o.last
	}
	limit := onwardTime
	if o.began.IsZero() {
		limit = onwardFirst
	}
	o.began = time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := sentOn(ctx, o.follow, of, notices)
	o.took = time.Since(o.began)
	if err != nil {
		if limit != onwardFirst {
			o.log.Warn("where bounces to protected senders are sent on to is not known in full", "err", err)
		}
		o.whole = false
		for _, one := range o.last {
			if !slices.Contains(found, one) {
				found = append(found, one)
			}
		}
		o.last = found
		return found
	}
	o.of, o.notices, o.last, o.whole = of, notices, found, true
	return found
}

// onwardOf is find for a command, which follows the tables of one Postfix.
func onwardOf(i postfix.Instance, protected []addr.Pattern) postfix.Forwarding {
	return func(ctx context.Context, notices []addr.Address) []postfix.Onward {
		follow, err := forward.New(forward.Config{Tables: &postfix.Tables{Instance: i}})
		if err != nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, onwardTime)
		defer cancel()
		found, _ := sentOn(ctx, follow, protected, notices) // forwards-read says what can't be followed
		return found
	}
}

// anyone stands for those of a domain who have no entry of their own.
const anyone = "tlsonly-home"

// sentOn follows all protected senders who have an entry of their own, one of
// those who have none, and those who get notices. The error is for what ctx cut
// off, or tables that don't answer; what was found is returned with it.
func sentOn(
	ctx context.Context, follow *forward.Expander, protected []addr.Pattern, notices []addr.Address,
) (found []postfix.Onward, err error) {
	var who []addr.Address
	known := map[addr.Address]bool{}
	add := func(a addr.Address) {
		if a = a.Fold(); !known[a] {
			known[a] = true
			who = append(who, a)
		}
	}
	domains := map[addr.Domain]bool{}
	exact := map[addr.Address]bool{}
	var below []addr.Pattern
	for _, p := range protected {
		switch p.Kind() {
		case addr.Exact:
			exact[p.Address()] = true
			add(p.Address())
		case addr.InDomain:
			domains[p.Domain()] = true
			add(addr.Address{Local: anyone, Domain: p.Domain()})
		case addr.Below:
			below = append(below, p)
		}
	}
	own, err := follow.Own(ctx)
	if err != nil {
		return nil, err
	}
	consider := func(a addr.Address) {
		if domains[a.Domain] || exact[a.Fold()] ||
			slices.ContainsFunc(below, func(p addr.Pattern) bool { return p.Match(a) }) {
			add(a)
		}
	}
	_, err = follow.All(ctx, func(f forward.Forwarder) bool {
		if f.Address.IsNull() {
			return true
		}
		consider(f.Address)
		if f.Everywhere {
			for _, d := range own {
				consider(addr.Address{Local: f.Address.Local, Domain: d})
			}
		}
		return true
	})
	follow.Bounces(ctx, who, func(a addr.Address, x forward.Expansion) bool {
		for _, leaf := range x.Leaves {
			if leaf.Kind == forward.Leaves && leaf.Forwarded() {
				found = append(found, postfix.Onward{From: a, To: leaf.Address})
			}
		}
		return ctx.Err() == nil
	})
	follow.Bounces(ctx, notices, func(_ addr.Address, x forward.Expansion) bool {
		for _, leaf := range x.Leaves {
			if leaf.Kind == forward.Leaves {
				found = append(found, postfix.Onward{To: leaf.Address})
			}
		}
		return ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	return found, err
}
