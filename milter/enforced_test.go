package milter

import (
	"context"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// closedHome is a mailbox with a file that can't be read.
type closedHome struct{ held bool }

func (f closedHome) Expand(_ context.Context, to, _ addr.Address) forward.Expansion {
	return forward.Expansion{Leaves: []forward.Leaf{
		{Kind: forward.Mailbox, Address: to},
		{Kind: forward.Unknown, Address: to, Detail: "permission denied", Unread: "/home/u/.forward", Enforced: f.held},
	}}
}

// What can't be read keeps a recipient waiting, but for what delivery holds;
// a rule for who forwards isn't known at delivery.
func TestUnreadForward(t *testing.T) {
	const unreadable = "451 4.7.5 where mail for u@clinic.example is forwarded to can't be read here"
	forwarder := rule("staff", "", func(r *rules.Rule) {
		r.Forwarder = []addr.Pattern{addr.MustPattern("@clinic.example")}
		r.OnFail = policy.ActionDefer
	})
	for _, c := range []struct {
		name            string
		leaf, delivered bool // whether each holds it
		governed        bool
		want            string
	}{
		{"held", true, true, false, ""},
		{"not by the way it takes", false, true, false, unreadable},
		{"not by the rules", true, false, false, unreadable},
		{"governed by who forwards", true, true, true, unreadable},
	} {
		rs := []*rules.Rule{rule("clinic", "@clinic.example", nil)}
		if c.governed {
			rs = append(rs, forwarder)
		}
		d := &Decider{Assessor: &fakeAssessor{}, Ledger: &fakeLedger{}, Forwards: closedHome{c.leaf},
			EnforcedAtDelivery: func(rules.Candidates, *rules.Rule) bool { return c.delivered }}
		from := rules.New(rs).Sender(addr.MustAddress("a@clinic.example"), "", time.Now())
		got := d.Decide(t.Context(), from, addr.MustAddress("u@clinic.example"), Route{Mailer: "local"})
		reply := ""
		if got.Reply.Code != 0 {
			reply = got.Reply.String()
		}
		if reply != c.want || (c.want == "") != (len(got.Unread) == 1 && got.Verdict == policy.Accept) {
			t.Errorf("%s: %s %q, unread %v", c.name, got.Verdict, reply, got.Unread)
		}
	}
}
