package milter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// fakeForwards says of an address what its forwards are: "kind address by path", the path's steps with commas between. An
// address that isn't listed is a mailbox here when it is of clinic.example, and leaves otherwise.
type fakeForwards map[string][]string

func (f fakeForwards) Expand(_ context.Context, to, _ addr.Address) forward.Expansion {
	lines, ok := f[to.String()]
	if !ok {
		leaf := forward.Leaf{Kind: forward.Leaves, Address: to}
		if to.Domain.String() == "clinic.example" {
			leaf.Kind = forward.Mailbox
		}
		return forward.Expansion{Leaves: []forward.Leaf{leaf}}
	}
	var x forward.Expansion
	for _, line := range lines {
		words := strings.Fields(line)
		leaf := forward.Leaf{Kind: forward.Kind(words[0]), Address: addr.MustAddress(words[1]), Detail: "a file that can't be read"}
		if len(words) > 2 {
			for step := range strings.SplitSeq(words[2], ",") {
				leaf.Path = append(leaf.Path, forward.Step{From: step, Origin: policy.Origin{Source: "aliases"}})
			}
		}
		if len(words) > 3 {
			leaf.Hops = []addr.Destination{addr.MustDestination(words[3])}
		}
		x.Leaves = append(x.Leaves, leaf)
	}
	return x
}

// A recipient's mail is judged by where it ends: by the rule of its sender, and by that of who forwards it.
func TestForwards(t *testing.T) {
	forwards := fakeForwards{
		"good@clinic.example":   {"leaves x@good.example good@clinic.example"},
		"plain@clinic.example":  {"leaves x@plain.example plain@clinic.example"},
		"both@clinic.example":   {"mailbox both@clinic.example", "leaves x@plain.example both@clinic.example"},
		"lab@clinic.example":    {"leaves x@plain.example lab@clinic.example,staff,doctor"},
		"relay@clinic.example":  {"leaves x@plain.example relay@clinic.example [good.example]:26"},
		"dead@clinic.example":   {"leaves x@nx.example dead@clinic.example"},
		"odd@clinic.example":    {"unknown odd@clinic.example odd@clinic.example"},
		"bare@clinic.example":   {"leaves joe bare@clinic.example"},
		"late@clinic.example":   {"unknown late@clinic.example"}, // not even the first table answered
		"free@clinic.example":   {"unknown free@clinic.example"},
		"slow@clinic.example":   {"leaves x@servfail.example slow@clinic.example"},
		"inside@clinic.example": {"mailbox other@clinic.example inside@clinic.example"},
		"far@other.example":     {"leaves y@plain.example far@other.example"}, // a virtual alias, though it looks like any address
		"copied@good.example":   {"leaves copied@good.example", "leaves audit@plain.example copied@good.example"},
	}
	set := rules.New([]*rules.Rule{
		rule("doctors", "@clinic.example", nil),
		rule("staff", "", func(r *rules.Rule) {
			r.Forwarder = []addr.Pattern{addr.MustPattern("doctor@clinic.example"), addr.MustPattern("both@clinic.example"), addr.MustPattern("slow@clinic.example"),
				addr.MustPattern("odd@clinic.example"), addr.MustPattern("late@clinic.example"), addr.MustPattern("good@clinic.example"), addr.MustPattern("dead@clinic.example"), addr.MustPattern("plain@clinic.example")}
			r.OnFail = policy.ActionDefer
		}),
		rule("lenient", "", func(r *rules.Rule) {
			r.Forwarder, r.OnUnknown = []addr.Pattern{addr.MustPattern("free@clinic.example")}, policy.ActionAccept
		}),
		rule("watched", "@watch.example", func(r *rules.Rule) { r.Mode = policy.Observe }),
	})
	const blamed = "451 4.7.10 TLS required: %s@clinic.example does not offer STARTTLS (forwarded)"
	for _, c := range []struct {
		from, to string
		route    Route
		want     string // rule verdict reason
		reply    string
		owed     string
	}{
		// What strangers send, by the rule of who forwards.
		{"x@other.example", "good@clinic.example", Route{Mailer: "local"}, "staff accept ", "", "good.example"},
		{"x@other.example", "plain@clinic.example", Route{Mailer: "local"}, "staff defer forward", fmt.Sprintf(blamed, "plain"), ""},
		{"x@other.example", "both@clinic.example", Route{Mailer: "local"}, "staff defer forward", fmt.Sprintf(blamed, "both"), ""},
		{"x@other.example", "lab@clinic.example", Route{}, "staff defer forward", fmt.Sprintf(blamed, "lab"), ""}, // by way of the doctor
		{"x@other.example", "odd@clinic.example", Route{}, "staff defer forward", "451 4.7.5 where mail for odd@clinic.example is forwarded to can't be read here", ""},
		{"x@other.example", "slow@clinic.example", Route{}, "staff defer forward", "451 4.7.5 TLS capability of slow@clinic.example is not known yet, try again (forwarded)", ""},
		{"x@other.example", "dead@clinic.example", Route{}, "staff accept ", "", "nx.example"}, // nobody gets it, unless the resolver was lied to
		{"x@other.example", "late@clinic.example", Route{Mailer: "local"}, "staff defer forward", "451 4.7.5 where mail for late@clinic.example is forwarded to can't be read here", ""},
		{"x@other.example", "free@clinic.example", Route{Mailer: "local"}, "lenient accept forward", "", ""},                         // nobody knows of whom anything could be demanded
		{"x@watch.example", "plain@clinic.example", Route{Mailer: "local"}, "staff defer forward", fmt.Sprintf(blamed, "plain"), ""}, // the sender's rule only watches
		{"x@watch.example", "x@plain.example", Route{}, "watched accept no-starttls", "", ""},
		{"x@other.example", "relay@clinic.example", Route{}, "- accept ", "", ""}, // forwards, but nobody governs that
		{"x@other.example", "inside@clinic.example", Route{}, "- accept ", "", ""},
		{"x@other.example", "alice@clinic.example", Route{Mailer: "local"}, "- accept ", "", ""},
		{"x@other.example", "y@plain.example", Route{Mailer: "smtp", Host: "plain.example"}, "- accept ", "", ""},
		// What protected senders send.
		{"a@clinic.example", "bare@clinic.example", Route{Mailer: "local"}, "doctors defer forward", "451 4.4.4 where mail for bare@clinic.example is sent next isn't known here", ""},
		{"a@clinic.example", "late@clinic.example", Route{Mailer: "local"}, "doctors defer forward", "451 4.7.5 where mail for late@clinic.example is forwarded to can't be read here", ""},
		{"a@clinic.example", "free@clinic.example", Route{Mailer: "local"}, "doctors defer forward", "451 4.7.5 where mail for free@clinic.example is forwarded to can't be read here", ""},
		{"a@clinic.example", "relay@clinic.example", Route{Mailer: "local"}, "doctors accept ", "", "[good.example]:26"},
		{"a@clinic.example", "plain@clinic.example", Route{Mailer: "local"}, "doctors reject forward",
			"550 5.7.10 TLS required: plain@clinic.example does not offer STARTTLS (forwarded)", ""},
		{"a@clinic.example", "far@other.example", Route{Mailer: "smtp", Host: "other.example"}, "doctors reject forward",
			"550 5.7.10 TLS required: far@other.example does not offer STARTTLS (forwarded)", ""},
		{"a@clinic.example", "copied@good.example", Route{Mailer: "smtp", Host: "good.example"}, "doctors reject forward",
			"550 5.7.10 TLS required: copied@good.example does not offer STARTTLS (forwarded)", ""},
		{"a@clinic.example", "x@plain.example", Route{}, "doctors reject no-starttls", "550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)", ""},
		{"a@clinic.example", "x@good.example", Route{Mailer: "smtp", Host: "[good.example]"}, "doctors accept ", "", "[good.example]"},
		{"a@clinic.example", "alice@clinic.example", Route{Mailer: "local"}, "doctors accept ", "", ""},
		{"a@clinic.example", "alice@clinic.example", Route{}, "doctors accept ", "", ""},
		{"a@clinic.example", "good@clinic.example", Route{}, "doctors accept ", "", "good.example good.example"}, // by both rules
	} {
		l := &fakeLedger{}
		d := &Decider{Assessor: &fakeAssessor{}, Ledger: l, Forwards: forwards}
		got := d.Decide(t.Context(), set.Sender(addr.MustAddress(c.from), "", time.Now()), addr.MustAddress(c.to), c.route)
		name := "-"
		if got.Rule != nil {
			name = got.Rule.Name
		}
		if s := fmt.Sprintf("%s %s %s", name, got.Verdict, got.Reason); s != c.want {
			t.Errorf("%s to %s: %q, want %q (%s)", c.from, c.to, s, c.want, got.Cause)
		}
		reply := ""
		if got.Reply.Code != 0 {
			reply = got.Reply.String()
		}
		if reply != c.reply {
			t.Errorf("%s to %s: reply %q, want %q", c.from, c.to, reply, c.reply)
		}
		var owed []string
		for _, line := range l.owed {
			owed = append(owed, strings.Fields(line)[0])
		}
		slices.Sort(owed)
		if s := strings.Join(owed, " "); s != c.owed {
			t.Errorf("%s to %s: owed %q, want %q", c.from, c.to, s, c.owed)
		}
		if got.Reason == policy.Forward && !strings.Contains(got.Cause, " by aliases") && !strings.HasPrefix(got.Cause, "forwards of "+c.to) {
			t.Errorf("%s to %s: cause %q", c.from, c.to, got.Cause)
		}
	}
}

// In a conversation: what nobody asks about passes, a forward into the clear doesn't, with and without a client.
func TestForwardsInSession(t *testing.T) {
	b := start(t, func(c *Config) {
		c.Decider.Forwards = fakeForwards{"staff@clinic.example": {"mailbox staff@clinic.example", "leaves x@plain.example staff@clinic.example"}}
		governed := rule("forwards", "", func(r *rules.Rule) {
			r.Forwarder, r.OnFail = []addr.Pattern{addr.MustPattern("@clinic.example")}, policy.ActionDefer
		})
		set := rules.New([]*rules.Rule{governed})
		c.Rules = func() *rules.Set { return set }
	})
	talk(t, b, b.dial(t), "> O 6 0x1 0x1fffff", "< O 0x6 0x1 0x3d3",
		"> M <x@other.example>", "< c",
		`> DR {rcpt_mailer} local v "Postfix 3.7.11"`, "> R <alice@clinic.example>", "< c",
		"> R <staff@clinic.example>", "< y 451 4.7.10 TLS required: staff@clinic.example does not offer STARTTLS (forwarded)",
		"> E", "< a",
		// Without a client the message is answered at its end.
		"> DM i 4XYZ", "> M <x@other.example>", "< c", "> DR i 4XYZ", "> R <staff@clinic.example>", "< c",
		"> E", "< y 451 4.7.10 TLS required: staff@clinic.example does not offer STARTTLS (forwarded)",
		"> DM i 4XYZ", "> M <x@other.example>", "< c", "> DR i 4XYZ", "> R <alice@clinic.example>", "< c", "> E", "< a")
}
