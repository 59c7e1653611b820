package rules

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// A rule that falls back says so of what its destination lacks, and of nothing
// else: what isn't known waits, what can't be delivered at all is refused, and a
// pinned destination that lost TLS is waited for.
func TestFallbackJudged(t *testing.T) {
	plain := policy.Assessment{Destination: addr.MustDestination("far.example"), Hosts: []policy.Host{{
		Name: addr.MustDomain("mx.far.example"), Addresses: 1, Observations: []policy.Observation{{Outcome: policy.SawNoSTARTTLS}},
	}}}
	with := func(change func(*policy.Assessment)) policy.Assessment {
		a := plain
		a.Hosts = []policy.Host{plain.Hosts[0]}
		a.Hosts[0].Observations = slices.Clone(plain.Hosts[0].Observations)
		change(&a)
		return a
	}
	once := with(func(a *policy.Assessment) { a.Hosts[0].Once = true })
	problem := func(reason policy.Reason) policy.Assessment {
		return policy.Assessment{Destination: plain.Destination, Problem: reason}
	}
	lost := func(d time.Duration) policy.Assessment {
		return with(func(a *policy.Assessment) { a.Pinned, a.LostFor = true, d })
	}
	both := []policy.Method{policy.OpenPGP, policy.SMIME}
	for name, c := range map[string]struct {
		methods   []policy.Method
		otherwise policy.Action
		after     time.Duration
		a         policy.Assessment
		want      policy.Verdict
		without   policy.Verdict
	}{
		"no STARTTLS":          {both, policy.ActionReject, time.Hour, plain, policy.Fallback, policy.Reject},
		"seen once":            {both, policy.ActionReject, time.Hour, once, policy.Fallback, policy.Defer},
		"else defer":           {both, policy.ActionDefer, time.Hour, plain, policy.Fallback, policy.Defer},
		"else hold":            {both, policy.ActionHold, time.Hour, once, policy.Fallback, policy.Hold},
		"no method in common":  {nil, policy.ActionReject, 0, plain, policy.Reject, policy.Reject},
		"not known":            {both, policy.ActionReject, 0, problem(policy.Timeout), policy.Defer, policy.Defer},
		"SERVFAIL":             {both, policy.ActionReject, 0, problem(policy.DNSFailure), policy.Defer, policy.Defer},
		"null MX":              {both, policy.ActionReject, 0, problem(policy.NullMX), policy.Reject, policy.Reject},
		"no such domain":       {both, policy.ActionReject, 0, problem(policy.NoSuchDomain), policy.Reject, policy.Reject},
		"lost just now":        {both, policy.ActionReject, time.Hour, lost(0), policy.Defer, policy.Defer},
		"lost for a while":     {both, policy.ActionReject, time.Hour, lost(59 * time.Minute), policy.Defer, policy.Defer},
		"lost for long":        {both, policy.ActionReject, time.Hour, lost(time.Hour), policy.Fallback, policy.Defer},
		"lost, at once":        {both, policy.ActionReject, 0, lost(0), policy.Fallback, policy.Defer},
		"lost, never":          {both, policy.ActionReject, Never, lost(1000 * time.Hour), policy.Defer, policy.Defer},
		"lost, none in common": {nil, policy.ActionReject, 0, lost(time.Hour), policy.Defer, policy.Defer},
	} {
		r := Rule{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, Pin: true, OnFail: policy.ActionFallback,
			OnUnknown: policy.ActionDefer, Mode: policy.Enforce, Fallback: c.methods, FallbackElse: c.otherwise, FallbackAfter: c.after}
		j := r.Judge([]policy.Assessment{c.a})
		if j.Verdict != c.want || j.Would != c.want || (j.Else != "") != (c.want == policy.Fallback) {
			t.Errorf("%s: %+v, want %s", name, j, c.want)
		}
		if w := j.Without(); w.Verdict != c.without || w.Would != c.without || w.Else != "" || w.Reason != j.Reason {
			t.Errorf("%s: without a method %+v, want %s", name, w, c.without)
		}
		r.Mode = policy.Observe
		if j := r.Judge([]policy.Assessment{c.a}); j.Verdict != policy.Accept || j.Would != c.want || j.Without().Verdict != policy.Accept {
			t.Errorf("%s, observed: %+v, want %s", name, j, c.want)
		}
	}
	// Of several destinations the strictest word counts, with a method and without.
	r := Rule{Level: policy.LevelEncrypt, OnFail: policy.ActionFallback, OnUnknown: policy.ActionDefer, Mode: policy.Enforce,
		Fallback: both, FallbackElse: policy.ActionReject}
	for _, as := range [][]policy.Assessment{{plain, once}, {once, plain}} {
		if j := r.Judge(as); j.Would != policy.Fallback || j.Else != policy.Reject {
			t.Errorf("two destinations: %+v", j)
		}
	}
	if j := r.Judge([]policy.Assessment{plain, problem(policy.Timeout)}); j.Would != policy.Defer || j.Else != "" {
		t.Errorf("one isn't known: %+v", j)
	}
}

// Of several rules for one sender only what all of them let go is let go.
func TestFallbackJoined(t *testing.T) {
	rule := func(change func(*Rule)) *Rule {
		r := &Rule{Level: policy.LevelEncrypt, Mode: policy.Enforce, OnFail: policy.ActionFallback, FallbackElse: policy.ActionReject,
			FallbackAfter: time.Hour, Fallback: []policy.Method{policy.OpenPGP, policy.SMIME}}
		change(r)
		return r
	}
	dane := func(r *Rule) { r.Level = policy.LevelDane }
	for name, c := range map[string]struct {
		other   func(*Rule)
		methods []policy.Method
		word    policy.Action
		after   time.Duration
	}{
		"alike":         {func(*Rule) {}, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, time.Hour},
		"one method":    {func(r *Rule) { r.Fallback = []policy.Method{policy.SMIME} }, []policy.Method{policy.SMIME}, policy.ActionReject, time.Hour},
		"other order":   {func(r *Rule) { r.Fallback = []policy.Method{policy.SMIME, policy.OpenPGP} }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, time.Hour},
		"longer wait":   {func(r *Rule) { r.FallbackAfter = 2 * time.Hour }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, 2 * time.Hour},
		"endless wait":  {func(r *Rule) { r.FallbackAfter = Never }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, Never},
		"milder else":   {func(r *Rule) { r.FallbackElse = policy.ActionDefer }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, time.Hour},
		"rejects":       {func(r *Rule) { r.OnFail = policy.ActionReject; r.Fallback = nil }, []policy.Method{}, policy.ActionReject, time.Hour},
		"tags":          {func(r *Rule) { r.OnFail = policy.ActionTag; r.Fallback = nil }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, time.Hour},
		"only observes": {func(r *Rule) { r.Mode = policy.Observe; r.Fallback = nil }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, time.Hour},
		"an exception":  {func(r *Rule) { r.Level = policy.LevelMay; r.Fallback = nil }, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject, time.Hour},
	} {
		a, b := rule(dane), rule(c.other)
		for _, got := range []*Rule{strictest(a, b), strictest(b, a)} {
			if got.Level != policy.LevelDane || !slices.Equal(got.Fallback, c.methods) || got.FallbackElse != c.word || got.FallbackAfter != c.after {
				t.Errorf("%s: %v, else %s, after %v; want %v, %s, %v", name, got.Fallback, got.FallbackElse, got.FallbackAfter, c.methods, c.word, c.after)
			}
		}
	}
	// One that holds less than the other asks what the other says of failure.
	strict := rule(func(r *Rule) { r.Level, r.FallbackElse = policy.LevelDane, policy.ActionDefer })
	if got := strictest(strict, rule(func(r *Rule) { r.OnFail = policy.ActionReject })); got.FallbackElse != policy.ActionReject {
		t.Errorf("else %s, want reject", got.FallbackElse)
	}
}

// What was saved before rules could fall back has the same key now, and what
// falls back comes back whole.
func TestFallbackSaved(t *testing.T) {
	plain := &Rule{Name: "clinic", Level: policy.LevelEncrypt, OnFail: policy.ActionReject}
	_, doc, err := New([]*Rule{plain}).Save()
	if err != nil || bytes.Contains(bytes.ToLower(doc), []byte("fallback")) {
		t.Errorf("%s, %v", doc, err)
	}
	falls := *plain
	falls.OnFail, falls.Fallback = policy.ActionFallback, []policy.Method{policy.SMIME}
	falls.FallbackElse, falls.FallbackAfter = policy.ActionHold, Never
	key, doc, err := New([]*Rule{&falls}).Save()
	if err != nil {
		t.Fatal(err)
	}
	set, err := Restore(doc)
	if err != nil {
		t.Fatal(err)
	}
	again, _, _ := set.Save()
	if r := set.Rules()[0]; again != key || !slices.Equal(r.Fallback, falls.Fallback) || r.FallbackElse != policy.ActionHold || r.FallbackAfter != Never {
		t.Errorf("%+v from %s", r, doc)
	}
}

// A message of a sender of whom nobody knows which it is goes by the strict
// transport, behind which no gateway is.
func TestFallbackInDoubt(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	set := New([]*Rule{
		{Name: "a", From: []addr.Pattern{addr.MustPattern("a@clinic.example")}, To: []addr.Pattern{addr.MustPattern("@else.example")},
			Level: policy.LevelEncrypt, Mode: policy.Enforce, OnFail: policy.ActionFallback, Fallback: []policy.Method{policy.OpenPGP}, FallbackElse: policy.ActionHold},
		{Name: "b", From: []addr.Pattern{addr.MustPattern("b@clinic.example")}, To: []addr.Pattern{addr.MustPattern("@other.example")},
			Level: policy.LevelEncrypt, Mode: policy.Enforce, OnFail: policy.ActionReject},
	})
	whose := []addr.Address{addr.MustAddress("a@clinic.example"), addr.MustAddress("b@clinic.example")}
	c := Alone(set).Doubt(set.SenderOf(whose[0], whose, "", now), whose)
	r := c.Match(addr.MustAddress("x@third.example"))
	if r == nil || r.FallsBack() {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(string(r.OnFail), "hold") && !strings.Contains(string(r.OnFail), "reject") {
		t.Errorf("on_fail %q", r.OnFail)
	}
}
