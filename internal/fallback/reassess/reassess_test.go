package reassess

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/policy"
	"tlsonly/milter"
	"tlsonly/rules"
)

var (
	sender    = addr.MustAddress("doctor@clinic.example")
	recipient = addr.MustAddress("u@plain.example")
)

// seen is an assessment of plain.example whose one host showed this, each time.
func seen(outcomes ...policy.Outcome) policy.Assessment {
	host := policy.Host{Name: addr.MustDomain("mx.plain.example"), Once: len(outcomes) == 1}
	for i, o := range outcomes {
		o := policy.Observation{Outcome: o, Version: policy.TLS13, Bits: 128}
		if i == 0 {
			host.Observations = []policy.Observation{o}
		} else {
			host.Earlier = []policy.Observation{o}
		}
	}
	return policy.Assessment{Destination: addr.MustDestination("plain.example"), Hosts: []policy.Host{host}, When: time.Now()}
}

// assessor gives one answer after the other, the last again and again.
type assessor struct {
	answers []policy.Assessment
	calls   []string
}

func (a *assessor) next(call string) policy.Assessment {
	a.calls = append(a.calls, call)
	answer := a.answers[0]
	if len(a.answers) > 1 {
		a.answers = a.answers[1:]
	}
	return answer
}

func (a *assessor) Assess(context.Context, addr.Destination, func(policy.Assessment) bool) policy.Assessment {
	return a.next("assess")
}

func (a *assessor) Refresh(_ context.Context, _ addr.Destination, age time.Duration) policy.Assessment {
	return a.next("refresh " + age.String())
}

// methods is a milter.Protector that knows one answer.
type methods struct {
	state fallback.State
	err   error
}

type method struct{ fallback.Method }

func (m methods) First(_ context.Context, names []policy.Method, _, _ addr.Address) (fallback.Method, fallback.State, error) {
	if m.state == fallback.Certain {
		return method{}, m.state, nil
	}
	return nil, m.state, m.err
}

// pinned is a ledger that has pinned everything.
type pinned struct{ is bool }

func (p pinned) Pinned(addr.Destination) bool { return p.is }
func (pinned) Owe(context.Context, addr.Destination, string, policy.Demand, bool) error {
	return nil
}

func TestJudge(t *testing.T) {
	rule := func() *rules.Rule {
		return &rules.Rule{Name: "clinic", Level: policy.LevelEncrypt, OnFail: policy.ActionReject, OnUnknown: policy.ActionDefer, Mode: policy.Enforce, Pin: true}
	}
	falls := func(otherwise policy.Action) *rules.Rule {
		r := rule()
		r.OnFail, r.Fallback, r.FallbackElse = policy.ActionFallback, []policy.Method{policy.OpenPGP}, otherwise
		return r
	}
	none, certain, unknown := methods{fallback.None, errors.New("no key")}, methods{state: fallback.Certain}, methods{fallback.Unknown, errors.New("SERVFAIL")}
	plain := seen(policy.SawNoSTARTTLS, policy.SawNoSTARTTLS)
	for _, c := range []struct {
		name    string
		rule    *rules.Rule
		seen    policy.Assessment
		methods methods
		pinned  bool
		bounce  bool
		want    fallback.Action
		code    string
		cause   string
	}{
		{"TLS is there", falls(policy.ActionReject), seen(policy.SawTLS), certain, false, true, fallback.Again, "4.4.0", "satisfies the rule now"},
		{"no STARTTLS", rule(), plain, certain, false, false, fallback.Again, "5.7.10", "does not offer STARTTLS"},
		{"no STARTTLS, bounced", rule(), plain, none, false, true, fallback.Refuse, "5.7.10", "does not offer STARTTLS"},
		{"seen once", rule(), seen(policy.SawNoSTARTTLS), none, false, true, fallback.Again, "4.7.10", "does not offer STARTTLS"},
		{"seen otherwise before", falls(policy.ActionReject), seen(policy.SawNoSTARTTLS, policy.SawTLS), certain, false, true, fallback.Again, "4.7.10", ""},
		{"nobody there", falls(policy.ActionReject), seen(policy.SawUnreachable, policy.SawUnreachable), certain, false, true, fallback.Again, "4.7.5", "not known"},
		{"key", falls(policy.ActionReject), plain, certain, false, false, fallback.Encrypt, "", ""},
		{"no key", falls(policy.ActionReject), plain, none, false, false, fallback.Refuse, "5.7.10", "no other way to protect it is known"},
		{"no key, deferred", falls(policy.ActionDefer), plain, none, false, false, fallback.Again, "", "no other way to protect it is known"},
		{"key not known", falls(policy.ActionReject), plain, unknown, false, true, fallback.Again, "4.7.5", "SERVFAIL"},
		{"lost", rule(), plain, none, true, false, fallback.Again, "", "offered TLS before"},
		{"lost, bounced", rule(), plain, none, true, true, fallback.Refuse, "5.7.10", "offered TLS before"},
		{"null MX", rule(), policy.Assessment{Destination: plain.Destination, Problem: policy.NullMX}, none, false, false, fallback.Refuse, "5.1.10", "does not accept mail"},
		{"DNS failure", falls(policy.ActionReject), policy.Assessment{Destination: plain.Destination, Problem: policy.DNSFailure}, certain, false, true, fallback.Again, "4.7.5", "not known"},
	} {
		if c.code != "" && c.want == fallback.Again {
			c.code = "4" + c.code[1:]
		}
		set := rules.New([]*rules.Rule{c.rule})
		j := Judge{
			Decider:    milter.Decider{Assessor: Fresh(&assessor{answers: []policy.Assessment{c.seen}}, time.Millisecond), Ledger: pinned{c.pinned}, Dry: true},
			Candidates: func(a addr.Address) (rules.Candidates, error) { return set.Sender(a, "", time.Now()), nil },
			Methods:    c.methods, Bounce: c.bounce,
		}
		w, err := j.Judge(t.Context(), sender, recipient)
		if err != nil || w.Action != c.want || c.code != "" && w.Code != c.code || !strings.Contains(w.Cause, c.cause) {
			t.Errorf("%s: %+v, %v; want %s %s %q", c.name, w, err, c.want, c.code, c.cause)
		}
		if w.Action == fallback.Encrypt && w.Method == nil || w.Action != fallback.Encrypt && w.Method != nil {
			t.Errorf("%s: method %v", c.name, w.Method)
		}
	}
	j := Judge{Candidates: func(addr.Address) (rules.Candidates, error) { return rules.Candidates{}, errors.New("whose?") }}
	if _, err := j.Judge(t.Context(), sender, recipient); err == nil {
		t.Error("a sender that can't be told was judged")
	}
	j.Candidates = func(addr.Address) (rules.Candidates, error) { return rules.Candidates{}, nil }
	if w, err := j.Judge(t.Context(), sender, recipient); err != nil || w.Action != fallback.Again || w.Cause == "" {
		t.Errorf("without a rule: %+v, %v", w, err)
	}
}

// What suffices by memory is probed now; what doesn't is enough to know.
func TestFresh(t *testing.T) {
	enough := func(a policy.Assessment) bool { return a.Hosts[0].Observations[0].Outcome == policy.SawTLS }
	good, bad := seen(policy.SawTLS), seen(policy.SawNoSTARTTLS)
	for _, c := range []struct {
		answers []policy.Assessment
		calls   string
		good    bool
	}{
		{[]policy.Assessment{good, good}, "refresh 30s, refresh 0s", true},
		{[]policy.Assessment{good, bad, good}, "refresh 30s, refresh 0s, refresh 0s", true},
		{[]policy.Assessment{good, bad, bad}, "refresh 30s, refresh 0s, refresh 0s, assess", false},
		{[]policy.Assessment{bad, bad}, "refresh 30s, assess", false},
	} {
		a := &assessor{answers: c.answers}
		got := Fresh(a, time.Millisecond).Assess(t.Context(), addr.MustDestination("plain.example"), enough)
		if calls := strings.Join(a.calls, ", "); calls != c.calls || enough(got) != c.good {
			t.Errorf("%s, %t; want %s, %t", calls, enough(got), c.calls, c.good)
		}
	}
}
