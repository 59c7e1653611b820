package milter

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/policy"
)

// Protector has methods that encrypt a message itself, as keyring.Methods does.
type Protector interface {
	// First returns the first of the methods named that is certain for this mail.
	// Without one the state says whether that is certain, and the error why.
	First(ctx context.Context, names []policy.Method, sender, recipient addr.Address) (fallback.Method, fallback.State, error)
}

var (
	errNoGateway = errors.New("the MTA doesn't send this recipient's mail by a transport that ends at the gateway")
	errNoMethods = errors.New("no method is ready here")
)

// protect looks, where a rule falls back, for a method that can encrypt to whom
// the place is. Without one the rule's own word for that counts, or "try again"
// where it isn't known whether there is one.
func (d *Decider) protect(ctx context.Context, p plan, rulings []ruling) {
	for i := range rulings {
		j := &rulings[i]
		if j.Would != policy.Fallback {
			continue
		}
		method, state, err := d.method(ctx, p, j)
		switch state {
		case fallback.Certain:
			j.method = policy.Method(method.Name())
		case fallback.None:
			j.Judgement, j.unprotected = j.Without(), err
		default:
			j.unprotected = err
			if j.Verdict == j.Would {
				j.Verdict = policy.Defer
			}
			j.Would, j.Else = policy.Defer, ""
		}
	}
}

// method returns what encrypts the mail of one ruling.
func (d *Decider) method(ctx context.Context, p plan, j *ruling) (fallback.Method, fallback.State, error) {
	to := p.to
	if leaf := p.places[j.place].leaf; leaf != nil {
		to = leaf.Address
	}
	switch {
	case d.Protect == nil:
		return nil, fallback.None, errNoMethods
	// A rule that only observes says what a gateway would do, which isn't needed yet.
	case j.Verdict == policy.Fallback && (d.Gateway == nil || !d.Gateway(p.route)):
		return nil, fallback.None, errNoGateway
	}
	method, state, err := d.Protect.First(ctx, j.rule.Fallback, p.from, to)
	if state == fallback.Certain && method == nil || state != fallback.Certain && err == nil {
		return nil, fallback.Unknown, fmt.Errorf("state %s without a word", state)
	}
	return method, state, err
}

// unprotected is the reply to a recipient for whom no method can be had; ok is
// false where that isn't why it is turned down. As everywhere, of a forward it
// doesn't say where that leads.
func (d *Decider) unprotected(out *Decision) (r policy.Reply, ok bool) {
	if out.Unprotected == nil || out.Reason.Ours() {
		return policy.Reply{}, false
	}
	if out.Reason == policy.Forward {
		r = policy.ForwardReply(out.Verdict, out.Underlying, out.Recipient, "")
	} else {
		r = policy.ReplyFor(out.Verdict, out.Reason, out.Destination, "")
	}
	return r.Unprotected().WithHelp(d.Help), true
}

// traceProtect says which methods were found.
func (d *Decision) traceProtect(t *policy.Trace) {
	for i := range d.rulings {
		j := &d.rulings[i]
		to := d.plan.to
		if leaf := d.plan.places[j.place].leaf; leaf != nil {
			to = leaf.Address
		}
		switch {
		case j.method != "":
			t.Add(stageProtect, "%s can encrypt to %s", j.method, to)
		case j.unprotected != nil:
			t.Add(stageProtect, "nothing can encrypt to %s, so rule %q says %s: %s", to, j.rule.Name, j.Would, oneLine(j.unprotected))
		}
	}
}

// oneLine writes an error that is several as one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
