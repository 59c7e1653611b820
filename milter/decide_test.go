package milter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Where mail goes, by what the MTA says, the configuration, and MX, in this order.
func TestHops(t *testing.T) {
	d := &Decider{
		Local: func(d addr.Domain) bool { return d.String() == "local.example" },
		Relay: func(d addr.Domain) (addr.Destination, bool) {
			return addr.MustDestination("[smart.example]:587"), d.String() == "relayed.example"
		},
	}
	for _, c := range []struct{ to, mailer, host, want string }{
		{"a@b.example", "", "", "b.example"},
		{"a@local.example", "", "", "local"},
		{"a@relayed.example", "", "", "[smart.example]:587"},
		{"root", "", "", "local"},
		{"a@[192.0.2.1]", "", "", "[192.0.2.1]"},
		// Postfix
		{"a@b.example", "smtp", "b.example", "b.example"},
		{"a@b.example", "smtp", "[10.0.0.1]:2525", "[10.0.0.1]:2525"},
		{"a@b.example", "smtp", "[2001:db8::1]", "[IPv6:2001:db8::1]"},
		{"a@b.example", "relay", "x.example, [y.example]:587", "x.example [y.example]:587"},
		{"a@b.example", "local", "mail.b.example", "local"},
		{"a@b.example", "virtual", "b.example", "local"},
		{"a@b.example", "lmtp", "unix:private/dovecot-lmtp", "local"},
		{"a@b.example", "lmtp", "inet:127.0.0.1:24", "local"},
		{"a@b.example", "error", "5.1.1 User unknown in virtual alias table", "local"},
		{"a@b.example", "discard", "b.example", "local"},
		{"a@b.example", "mylmtp", "unix:private/lmtp", "local"},
		{"a@b.example", "mylmtp", "inet:store:24", "error"},
		{"a@relayed.example", "smtp", "relayed.example", "relayed.example"}, // the MTA sends, so the MTA is believed
		{"a@local.example", "smtp", "local.example", "local.example"},
		{"a@local.example", "tlsonly", "local.example", "local.example"},
		{"a@local.example", "tlsonly1", "b.example", "b.example"},
		{"a@local.example", "tlsonlybox", "local.example", "local"},
		{"a@local.example", "mybox", "local.example", "local"}, // a pipe of the site's own
		{"a@b.example", "mybox", "b.example", "b.example"},     // it may be an smtp by another name
		// Sendmail
		{"a@b.example", "esmtp", "b.example.", "b.example"},
		{"a@b.example", "relay", "mx.smart.example", "mx.smart.example"},
		{"a@b.example", "esmtp", "[10.77.0.11]", "[10.77.0.11]"},
		{"a@b.example", "esmtp", "x.example.:[10.0.0.1]", "x.example [10.0.0.1]"},
		{"list", "local", "", "local"},
		{"a@b.example", "prog", "", "local"},
		{"a@b.example", "*file*", "", "local"},
		{"bob", "relay", "hub.example", "hub.example"},
		{"bob", "esmtp", "", "error"},
		{"a@b.example", "esmtp", "b.example", "b.example"},
		{"a@b.example", "smtp", "b..example", "error"},
		{"a@b.example", "smtp", "[b.example", "error"},
		{"a@b.example", "smtp", " , ", "error"},
	} {
		hops, err := d.hops(addr.MustAddress(c.to), Route{c.mailer, c.host})
		var got []string
		for _, h := range hops {
			got = append(got, h.String())
		}
		text := strings.Join(got, " ")
		switch {
		case err != nil:
			text = "error"
		case len(hops) == 0:
			text = "local"
		}
		if text != c.want {
			t.Errorf("%s by %s %q: %s (%v), want %s", c.to, c.mailer, c.host, text, err, c.want)
		}
	}
}

func TestDecide(t *testing.T) {
	f := &fakeAssessor{}
	d := &Decider{Assessor: f, Help: "https://help.example/%20tls"}
	set := testRules()
	for _, c := range []struct {
		from, to, host string
		want           string // rule verdict reason
		reply          string
		asked          string
	}{
		{"x@other.example", "a@plain.example", "", "- accept ", "", ""},
		{"a@clinic.example", "b@good.example", "", "clinic accept ", "", "good.example"},
		{"a@clinic.example", "b@plain.example", "", "clinic reject no-starttls",
			"550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example); see https://help.example/%20tls", "plain.example"},
		{"a@clinic.example", "b@legacy.example", "", "legacy accept ", "", ""}, // level none: nobody waits for a look
		{"a@clinic.example", "b@legacy.example", "b..d", "legacy accept ", "", ""},
		{"a@clinic.example", "b@x.example", "good.example, nx.example", "clinic reject no-such-domain",
			"550 5.1.2 nx.example does not exist; see https://help.example/%20tls", "good.example nx.example"},
		{"a@observe.example", "b@plain.example", "", "observe accept no-starttls", "", "plain.example"},
		{"a@clinic.example", "b@good.example", "b..d", "clinic defer no-route",
			"451 4.4.4 where mail for b@good.example is sent next isn't known here; see https://help.example/%20tls", ""},
	} {
		f.asked = nil
		got := d.Decide(t.Context(), set.Sender(addr.MustAddress(c.from), "", time.Now()), addr.MustAddress(c.to), Route{Host: c.host})
		name := "-"
		if got.Rule != nil {
			name = got.Rule.Name
		}
		if s := fmt.Sprintf("%s %s %s", name, got.Verdict, got.Reason); s != c.want {
			t.Errorf("%s to %s: %q, want %q", c.from, c.to, s, c.want)
		}
		reply := ""
		if got.Reply.Code != 0 {
			reply = got.Reply.String()
		}
		if reply != c.reply {
			t.Errorf("%s to %s: reply %q, want %q", c.from, c.to, reply, c.reply)
		}
		asked := f.questions()
		slices.Sort(asked)
		if s := strings.Join(asked, " "); s != c.asked {
			t.Errorf("%s to %s: asked %q, want %q", c.from, c.to, s, c.asked)
		}
		if (got.Reason != "" && got.Reason != policy.NoSuchDomain) != (got.Cause != "") {
			t.Errorf("%s to %s: reason %q with cause %q", c.from, c.to, got.Reason, got.Cause)
		}
	}
}

// No look takes longer than the deadline.
func TestDecideDeadline(t *testing.T) {
	f := &fakeAssessor{waiting: make(chan struct{}, 2)}
	d := &Decider{Assessor: f, Deadline: 20 * time.Millisecond}
	c := testRules().Sender(addr.MustAddress("a@clinic.example"), "", time.Now())
	got := d.Decide(t.Context(), c, addr.MustAddress("b@hang.example"), Route{})
	if got.Verdict != policy.Defer || got.Reason != policy.Timeout {
		t.Fatalf("verdict %s for %q", got.Verdict, got.Reason)
	}
}

// All hops are looked at together: both wait before either ends.
func TestDecideTogether(t *testing.T) {
	f := &fakeAssessor{waiting: make(chan struct{})}
	d := &Decider{Assessor: f}
	c := testRules().Sender(addr.MustAddress("a@clinic.example"), "", time.Now())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	together := make(chan bool, 1)
	go func() {
		<-f.waiting
		<-f.waiting
		together <- ctx.Err() == nil
		cancel()
	}()
	d.Decide(ctx, c, addr.MustAddress("b@x.example"), Route{Host: "hang.example:25, [hang.example]"})
	if !<-together {
		t.Error("one look waited for the other")
	}
}

// A panic in any of the looks arrives in the caller, when no look runs any more.
func TestDecidePanic(t *testing.T) {
	c := testRules().Sender(addr.MustAddress("a@clinic.example"), "", time.Now())
	for _, host := range []string{"panic.example, hang.example", "hang.example, panic.example"} {
		f := &fakeAssessor{waiting: make(chan struct{}, 1)}
		d := &Decider{Assessor: f, Deadline: 20 * time.Millisecond}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", host)
				}
			}()
			d.Decide(context.Background(), c, addr.MustAddress("b@x.example"), Route{Host: host})
		}()
		if len(f.waiting) != 1 {
			t.Errorf("%s: the other look wasn't awaited", host)
		}
	}
}

func TestSaysNo(t *testing.T) {
	for _, c := range []struct {
		value string
		want  bool
	}{
		{"No", true}, {" no ", true}, {"(a (nested) one)no(x)", true}, {"no\n", true},
		{"yes", false}, {"", false}, {"(no)", false}, {"no way", false},
	} {
		if got := saysNo(c.value); got != c.want {
			t.Errorf("saysNo(%q) = %v", c.value, got)
		}
	}
}

// The log is told of every host that failed, within bounds.
func TestCause(t *testing.T) {
	mx := func(name string, h policy.Host) policy.Host {
		h.Name = addr.MustDomain(name)
		return h
	}
	a := policy.Assessment{Destination: addr.MustDestination("d.example"), Hosts: []policy.Host{
		mx("mx1.d.example", policy.Host{Observations: []policy.Observation{{Outcome: policy.SawTLS, Version: policy.TLS10, Bits: 112}}}),
		mx("mx2.d.example", policy.Host{Observations: []policy.Observation{{Outcome: policy.SawUnreachable, Detail: "refused"}}}),
		mx("mx3.d.example", policy.Host{Problem: policy.NoSuchDomain}),
		mx("mx4.d.example", policy.Host{Problem: policy.DNSFailure, Detail: "SERVFAIL"}),
		mx("mx5.d.example", policy.Host{}),
	}}
	r := testRules().Rules()[1]
	got := cause(r.Demand(), r.Judge([]policy.Assessment{a}), []policy.Assessment{{}, a})
	want := "mx1.d.example: TLS 1.0 with 112 bits; mx2.d.example: unreachable: refused; mx3.d.example: no-such-domain; " +
		"mx4.d.example: SERVFAIL; mx5.d.example: not looked at yet"
	if got != want {
		t.Errorf("cause %q\nwant  %q", got, want)
	}
	a.Detail = strings.Repeat("ä", maxCause)
	if got := cause(r.Demand(), r.Judge([]policy.Assessment{a}), []policy.Assessment{a}); len(got) > maxCause+len("…") || !strings.HasSuffix(got, "ä…") {
		t.Errorf("long cause: %d octets, %q", len(got), got)
	}
}
