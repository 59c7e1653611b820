package rules

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

func TestRuleJudge(t *testing.T) {
	saw := func(o policy.Outcome) policy.Assessment {
		seen := policy.Observation{Outcome: o, Version: policy.TLS13, Bits: 128}
		return policy.Assessment{Hosts: []policy.Host{{Observations: []policy.Observation{seen}}}}
	}
	good, plain, silent := saw(policy.SawTLS), saw(policy.SawNoSTARTTLS), saw(policy.SawTimeout)
	null := policy.Assessment{Problem: policy.NullMX}
	once := saw(policy.SawNoSTARTTLS)
	once.Hosts[0].Once, once.Destination = true, addr.MustDestination("once.example")
	back := saw(policy.SawNoSTARTTLS)
	back.Hosts[0].Earlier, back.Destination = good.Hosts[0].Observations, addr.MustDestination("back.example")
	twice := saw(policy.SawNoSTARTTLS)
	twice.Hosts[0].Earlier, twice.Destination = plain.Hosts[0].Observations, addr.MustDestination("twice.example")
	plain.Destination = addr.MustDestination("plain.example")
	silent.Destination = addr.MustDestination("silent.example")
	null.Destination = addr.MustDestination("null.example")
	type as = []policy.Assessment
	for _, c := range []struct {
		name          string
		fail, unknown policy.Action
		as            as
		verdict       policy.Verdict
		reason        policy.Reason
		tag           policy.Tag
		whose         string
	}{
		{"delivered here", "reject", "defer", nil, policy.Accept, "", policy.TagPass, ""},
		{"good", "reject", "defer", as{good}, policy.Accept, "", policy.TagPass, ""},
		{"bad, reject", "reject", "defer", as{plain}, policy.Reject, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"bad, defer", "defer", "defer", as{plain}, policy.Defer, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"bad, hold", "hold", "defer", as{plain}, policy.Hold, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"bad, tag", "tag", "defer", as{plain}, policy.Accept, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"bad once, reject", "reject", "defer", as{once}, policy.Defer, policy.NoSTARTTLS, policy.TagFail, "once.example"},
		{"bad once, hold", "hold", "defer", as{once}, policy.Hold, policy.NoSTARTTLS, policy.TagFail, "once.example"},
		{"bad once, tag", "tag", "defer", as{once}, policy.Accept, policy.NoSTARTTLS, policy.TagFail, "once.example"},
		{"bad now, good before", "reject", "defer", as{back}, policy.Defer, policy.NoSTARTTLS, policy.TagFail, "back.example"},
		{"bad twice", "reject", "defer", as{twice}, policy.Reject, policy.NoSTARTTLS, policy.TagFail, "twice.example"},
		{"bad once, and bad twice", "reject", "defer", as{once, twice}, policy.Reject, policy.NoSTARTTLS, policy.TagFail, "twice.example"},
		{"unknown, reject", "tag", "reject", as{silent}, policy.Reject, policy.Timeout, policy.TagFail, "silent.example"},
		{"unknown, defer", "reject", "defer", as{silent}, policy.Defer, policy.Timeout, policy.TagFail, "silent.example"},
		{"unknown, accept", "reject", "accept", as{silent}, policy.Accept, policy.Timeout, policy.TagFail, "silent.example"},
		{"null MX, tag", "tag", "accept", as{null}, policy.Reject, policy.NullMX, policy.TagFail, "null.example"},
		{"good and bad", "reject", "defer", as{good, plain}, policy.Reject, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"bad and good", "reject", "defer", as{plain, good}, policy.Reject, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"unknown and bad", "reject", "defer", as{silent, plain}, policy.Reject, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
		{"tagged, then null MX", "tag", "accept", as{plain, null}, policy.Reject, policy.NullMX, policy.TagFail, "null.example"},
		{"two tagged: the first is told", "tag", "accept", as{good, plain, silent}, policy.Accept, policy.NoSTARTTLS, policy.TagFail, "plain.example"},
	} {
		for _, mode := range []policy.Mode{policy.Enforce, policy.Observe} {
			r := Rule{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128, OnFail: c.fail, OnUnknown: c.unknown, Mode: mode}
			want := Judgement{Verdict: c.verdict, Reason: c.reason, Tag: c.tag, Would: c.verdict}
			if c.whose != "" {
				want.Destination = addr.MustDestination(c.whose)
			}
			if mode == policy.Observe && c.reason != "" {
				want.Verdict, want.Tag = policy.Accept, policy.TagObserve
			}
			if got := r.Judge(c.as); got != want {
				t.Errorf("%s, %s: %+v, want %+v", c.name, mode, got, want)
			}
		}
	}
}

// TestLostTLS: a pin is never undone by one bad day, whatever the rule says.
func TestLostTLS(t *testing.T) {
	r := Rule{OnFail: policy.ActionTag, OnUnknown: policy.ActionAccept}
	if v, tag := r.act(policy.LostTLS, 0); v != policy.Defer || tag != policy.TagFail {
		t.Errorf("lost TLS: %s %s", v, tag)
	}
}
