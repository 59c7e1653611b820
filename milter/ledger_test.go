package milter

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// fakeLedger remembers what is owed.
type fakeLedger struct {
	pinned map[string]bool
	owed   []string
	err    error
}

func (l *fakeLedger) Pinned(d addr.Destination) bool { return l.pinned[d.String()] }

func (l *fakeLedger) Owe(_ context.Context, d addr.Destination, rule string, demand policy.Demand, pin bool) error {
	if l.err != nil {
		return l.err
	}
	l.owed = append(l.owed, fmt.Sprintf("%s %s %s %s %d pin=%t", d, rule, demand.Level, demand.MinVersion, demand.MinBits, pin))
	return nil
}

// What is promised is stored before the recipient is accepted, and nothing else is.
func TestOwe(t *testing.T) {
	const good = "good.example r encrypt 1.2 128 pin="
	for _, c := range []struct {
		name, host string
		change     func(*rules.Rule)
		want       string // verdict and reason
		owed       []string
	}{
		{"accepted", "good.example", nil, "accept ", []string{good + "false"}},
		{"accepted and pinned", "good.example", func(r *rules.Rule) { r.Pin = true }, "accept ", []string{good + "true"}},
		{"every destination", "good.example, mixed.example", func(r *rules.Rule) { r.MinBits = 256; r.Pin = true }, "accept ",
			[]string{"good.example r encrypt 1.2 256 pin=true", "mixed.example r encrypt 1.2 256 pin=true"}},
		{"refused", "plain.example", func(r *rules.Rule) { r.Pin = true }, "reject no-starttls", nil},
		{"one of two refused", "good.example, plain.example", nil, "reject no-starttls", nil},
		{"unknown, deferred", "servfail.example", nil, "defer dns-failure", nil},
		{"unknown, accepted: the MTA is held to it, nothing was seen that could be pinned", "servfail.example",
			func(r *rules.Rule) { r.OnUnknown, r.Pin = policy.ActionAccept, true }, "accept dns-failure",
			[]string{"servfail.example r encrypt 1.2 128 pin=false"}},
		{"tagged", "plain.example", func(r *rules.Rule) { r.OnFail = policy.ActionTag }, "accept no-starttls", nil},
		{"held", "plain.example", func(r *rules.Rule) { r.OnFail = policy.ActionHold }, "hold no-starttls", nil},
		{"observed", "good.example", func(r *rules.Rule) { r.Mode = policy.Observe }, "accept ", nil},
		{"nothing asked", "good.example", func(r *rules.Rule) { r.Level = policy.LevelMay }, "accept ", nil},
		{"pinned, lost", "plain.example:26", func(r *rules.Rule) { r.Pin = true }, "defer lost-tls", nil},
		{"pinned, but the rule doesn't heed pins", "plain.example:26", nil, "reject no-starttls", nil},
	} {
		l := &fakeLedger{pinned: map[string]bool{"plain.example:26": true}}
		d := &Decider{Assessor: &fakeAssessor{}, Ledger: l}
		set := rules.New([]*rules.Rule{rule("r", "*", c.change)})
		got := d.Decide(t.Context(), set.Sender(addr.MustAddress("a@b.example"), "", time.Now()), addr.MustAddress("u@x.example"),
			Route{Mailer: "smtp", Host: c.host})
		if s := fmt.Sprintf("%s %s", got.Verdict, got.Reason); s != c.want || !reflect.DeepEqual(l.owed, c.owed) {
			t.Errorf("%s: %s, owed %q; want %s, %q", c.name, s, l.owed, c.want, c.owed)
		}
	}
}

// A promise that can't be stored isn't made.
func TestOweFails(t *testing.T) {
	d := &Decider{Assessor: &fakeAssessor{}, Ledger: &fakeLedger{err: errors.New("disk full")}}
	set := rules.New([]*rules.Rule{rule("r", "*", nil)})
	got := d.Decide(t.Context(), set.Sender(addr.MustAddress("a@b.example"), "", time.Now()), addr.MustAddress("u@good.example"), Route{})
	if got.Verdict != policy.Defer || got.Reply.String() != "451 4.3.0 what TLS this mail needs can't be recorded here now, try again" ||
		got.Cause != "demand not stored: disk full" {
		t.Errorf("%s %q %q", got.Verdict, got.Reply, got.Cause)
	}
}
