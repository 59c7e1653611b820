package web

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Every combination that matters, by its first sentence, its colour and what
// else it says. What is promised depends on the binding alone.
func TestVerdict(t *testing.T) {
	eight := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	bound := Binding{MTA: "postfix", Known: true, OK: true}
	hole := mta.Finding{Severity: mta.Hole, Code: "milter-missing"}
	broken := mta.Finding{Severity: mta.Broken, Code: "transport-missing"}
	down := mta.Finding{Severity: mta.Down, Code: "postfix-down"}
	well := situation{Now: noon, Since: eight, Enforcing: 1, Binding: bound, Watched: true, Accepted: 412, Refused: 3}
	with := func(change func(*situation)) situation {
		s := well
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		s     situation
		state state
		want  []string // the lines, in order
	}{
		"all is well": {well, stateOK, []string{"Since 08:00 mail of protected senders to 412 recipients was accepted, and leaves over TLS or not at all; 3 were refused."}},
		"one of each": {with(func(s *situation) { s.Accepted, s.Refused = 1, 1 }), stateOK,
			[]string{"Since 08:00 mail of protected senders to 1 recipient was accepted, and leaves over TLS or not at all; 1 was refused."}},
		"all refused": {with(func(s *situation) { s.Accepted = 0 }), stateOK, []string{"Since 08:00 no mail of protected senders was accepted; 3 were refused."}},
		"nothing judged yet": {with(func(s *situation) { s.Accepted, s.Refused = 0, 0 }), stateOK,
			[]string{"Mail of protected senders leaves over TLS or not at all; since 08:00 there was none."}},
		"a day and more": {with(func(s *situation) { s.Since = noon.Add(-24 * time.Hour) }), stateOK,
			[]string{"In the last 24 hours mail of protected senders to 412 recipients was accepted, and leaves over TLS or not at all; 3 were refused."}},
		"since yesterday": {with(func(s *situation) { s.Since = noon.Add(-13 * time.Hour) }), stateOK,
			[]string{"Since yesterday 23:00 mail of protected senders to 412 recipients was accepted, and leaves over TLS or not at all; 3 were refused."}},
		"lost TLS": {with(func(s *situation) { s.Lost, s.LostAll = []string{"hospital.example"}, 1 }), stateAttention, []string{"Since 08:00 mail of",
			"1 destination lost TLS, its protected mail waits: hospital.example."}},
		"many lost TLS": {with(func(s *situation) { s.Lost, s.LostAll = []string{"a.example", "b.example", "c.example"}, 7 }), stateAttention,
			[]string{"Since 08:00 mail of", "7 destinations lost TLS, their protected mail waits: a.example, b.example, c.example and 4 more."}},
		"held": {with(func(s *situation) { s.Held = 2 }), stateAttention, []string{"Since 08:00 mail of", "Because of a rule mail has to wait: 2 recipients were held."}},
		"deferred now": {with(func(s *situation) { s.Deferred, s.Deferring = 1, true }), stateAttention,
			[]string{"Since 08:00 mail of", "Because of a rule mail has to wait: 1 recipient was deferred."}},
		"deferred long ago": {with(func(s *situation) { s.Deferred = 1 }), stateOK,
			[]string{"Since 08:00 mail of", "Because of a rule mail had to wait: 1 recipient was deferred."}},
		"exceptions": {with(func(s *situation) { s.Excepted = 5 }), stateOK,
			[]string{"Since 08:00 mail of", "By exceptions mail to 5 recipients was accepted that may leave without TLS."}},
		"some observe": {with(func(s *situation) { s.Observing = 2 }), stateOK, []string{"Since 08:00 mail of", "2 rules only observe, and protect nobody."}},
		"all observe": {with(func(s *situation) { s.Enforcing, s.Observing, s.Accepted, s.Refused = 0, 1, 0, 0 }), stateAttention,
			[]string{"Nobody is protected yet: 1 rule only observes."}},
		"no rules": {with(func(s *situation) { s.Enforcing = 0 }), stateAttention, []string{"Nobody is protected: no rule requires TLS."}},
		"no rules, and lost TLS": {with(func(s *situation) { s.Enforcing, s.Lost, s.LostAll = 0, []string{"a.example"}, 1 }), stateAttention,
			[]string{"Nobody is protected: no rule requires TLS.", "1 destination lost TLS: a.example."}},
		"unbound": {with(func(s *situation) { s.Binding = Binding{MTA: "postfix", Known: true, Findings: []mta.Finding{hole}} }), stateDanger,
			[]string{"Protected mail may leave without TLS: postfix isn’t bound.", "Since 08:00 mail of protected senders to 412 recipients was accepted; 3 were refused."}},
		"unbound and down": {with(func(s *situation) {
			s.Binding = Binding{MTA: "sendmail", Known: true, Findings: []mta.Finding{hole, down}}
		}), stateDanger, []string{"Protected mail may leave without TLS: sendmail isn’t bound. It isn’t running now.", "Since 08:00"}},
		"broken": {with(func(s *situation) { s.Binding = Binding{MTA: "postfix", Known: true, Findings: []mta.Finding{broken}} }), stateDanger,
			[]string{"Mail waits or is refused: postfix isn’t set up as it must be.", "Since 08:00 mail of protected senders to 412 recipients was accepted; 3"}},
		"down": {with(func(s *situation) {
			s.Binding = Binding{MTA: "postfix", Known: true, OK: true, Findings: []mta.Finding{down}}
		}), stateAttention, []string{"postfix isn’t running: no mail is accepted, and none leaves.", "Since 08:00"}},
		"not known yet": {with(func(s *situation) { s.Binding = Binding{MTA: "postfix"} }), stateAttention,
			[]string{"It isn’t known yet whether postfix is bound.", "Since 08:00 mail of protected senders to 412 recipients was accepted; 3 were refused."}},
		"not to be seen": {with(func(s *situation) { s.Binding = Binding{MTA: "postfix", Problem: "permission denied."} }), stateAttention,
			[]string{"It isn’t known whether postfix is bound: permission denied.", "Since 08:00"}},
		"not watched": {with(func(s *situation) { s.Watched = false }), stateAttention, []string{"The MTA isn’t watched here, so it isn’t known whether it is bound.", "Since 08:00"}},
		"a transport astray": {with(func(s *situation) { s.Astray = 2 }), stateDanger,
			[]string{"Protected mail may leave without TLS: the MTA meant to send that of 2 recipients by a transport that isn’t bound.",
				"Since 08:00 mail of protected senders to 412 recipients was accepted; 3"}},
		"store down": {with(func(s *situation) { s.StoreErr = "disk full" }), stateDanger,
			[]string{"tlsonly doesn’t work as it should, and protected mail may wait: store.", "Since 08:00 mail of"}},
		"store and resolver down": {with(func(s *situation) {
			s.StoreErr, s.Failed = "disk full", []checkState{{Name: "store"}, {Name: "resolver"}}
		}), stateDanger, []string{"tlsonly doesn’t work as it should, and protected mail may wait: store, resolver.", "Since 08:00"}},
		"own network": {with(func(s *situation) { s.Network = "port 25 is closed" }), stateAttention,
			[]string{"Since 08:00", "Your own network may be at fault, so bad results don’t count against destinations: port 25 is closed."}},
		"resolver not trusted about DNSSEC": {with(func(s *situation) { s.Resolver = "it doesn't validate" }), stateAttention,
			[]string{"Since 08:00", "DANE isn’t used, because the resolver isn’t trusted: it doesn't validate."}},
		"file refused": {with(func(s *situation) { s.Refusal = errors.New("x") }), stateAttention,
			[]string{"Since 08:00", "The configuration file was refused, and the rules before it stay in force."}},
		"everything": {situation{Now: noon, Since: eight, Enforcing: 1, Observing: 1, Watched: true, Accepted: 4, Refused: 3, Deferred: 2, Held: 1, Excepted: 1, Deferring: true,
			Binding: Binding{MTA: "postfix", Known: true, Findings: []mta.Finding{hole}}, Astray: 1, StoreErr: "x", Lost: []string{"a.example"}, LostAll: 1,
			Network: "x", Resolver: "x", Refusal: errors.New("x")}, stateDanger,
			[]string{"Protected mail may leave", "tlsonly doesn’t work", "Since 08:00", "Because of a rule mail has to wait: 2 recipients were deferred and 1 recipient was held.",
				"By exceptions", "1 rule only observes, and protects nobody.", "1 destination lost TLS", "Your own network", "DANE isn’t used", "The configuration file"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.s.judged()
			if v.State != c.state {
				t.Errorf("state %s, want %s", v.State, c.state)
			}
			if !slices.EqualFunc(v.Lines, c.want, func(l line, want string) bool { return strings.HasPrefix(l.Text, want) }) {
				t.Errorf("%q, want %q", v.Text, c.want)
			}
			promised := strings.Contains(v.Text, "leaves over TLS or not at all")
			b := c.s.Binding
			if may := c.s.Watched && b.Known && b.OK && c.s.Astray == 0; promised && !may {
				t.Errorf("it promises what nobody knows: %s", v.Text)
			}
			for _, l := range v.Lines {
				if !strings.HasSuffix(l.Text, ".") || strings.Contains(l.Text, "..") {
					t.Errorf("%q isn't a sentence", l.Text)
				}
			}
		})
	}
}

// The JSON says the same as the page, and counts what it says.
func TestStatus(t *testing.T) {
	s := newTest(t, populated(), nil)
	got := answer[statusNow](t, s, "GET", "/v1/status", "")
	if got.State != stateAttention || got.Bound == nil || !*got.Bound || got.Accepted != 2083 || got.Refused != 37 || got.Deferred != 16 || got.Held != 21 ||
		got.Excepted != 61 || got.LostTLS != 1 || got.Enforcing != 2 || got.Observing != 1 {
		t.Errorf("%+v", got)
	}
	page := ask(s, "GET", "/", "").Body.String()
	for _, l := range got.Lines {
		if !strings.Contains(page, l.Text) {
			t.Errorf("the page lacks %q", l.Text)
		}
	}
	s = newTest(t, populated(), func(c *Config) {
		c.Binding = nil
		c.Rules = func() *rules.Set { return rules.New(nil) }
	})
	body := ask(s, "GET", "/v1/status", "").Body.Bytes()
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil || fields["bound"] != nil || fields["state"] != "attention" {
		t.Errorf("%v %s", err, body)
	}
}

// Only decisions of the last day count, each hour of it apart, whatever the
// clock does: one that is set back by an hour loses the one of a day before.
func TestMeterRecent(t *testing.T) {
	at := noon
	m := NewMeter(func() time.Time { return at })
	d := Decision{"clinic", policy.Accept, "", policy.Enforce}
	for _, step := range []struct {
		ago  time.Duration // of the decision, to noon two days later
		want uint64        // counted at noon two days later
	}{{48 * time.Hour, 0}, {25 * time.Hour, 0}, {24 * time.Hour, 1}, {time.Hour, 2}, {0, 3}, {-time.Hour, 2}} {
		at = noon.Add(48*time.Hour - step.ago)
		m.Decided(d, 0)
		at = noon.Add(48 * time.Hour)
		counts, since := m.recent(recentHours)
		if counts[d] != step.want || !since.Equal(noon.Add(24*time.Hour)) {
			t.Errorf("a decision %v ago: %d since %v, want %d", step.ago, counts[d], since, step.want)
		}
	}
	if counts, since := m.recent(2); counts[d] != 2 || !since.Equal(noon.Add(47*time.Hour)) {
		t.Errorf("in two hours %d since %v", counts[d], since)
	}
}

// A recipient whose transport wasn't bound is forgotten when the MTA is found
// bound and an hour has passed without another one, and not before.
func TestAstray(t *testing.T) {
	ok := Binding{Known: true, OK: true}
	for _, c := range []struct {
		ago     time.Duration
		b       Binding
		watched bool
		want    uint64
	}{{time.Minute, ok, true, 2}, {2 * time.Hour, ok, true, 0}, {2 * time.Hour, ok, false, 2}, {2 * time.Hour, Binding{}, true, 2}, {2 * time.Hour, Binding{Known: true}, true, 2}} {
		if got := astray(Counts{Unattested: 2, UnattestedAt: noon.Add(-c.ago)}, c.b, c.watched, noon); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// A third fills a third of the bar, and a share is one of all.
func TestLevelBars(t *testing.T) {
	for _, row := range levelBars(totals{Known: 300, Levels: map[string]int{"dane": 100, "encrypt": 50, "may": 150}}) {
		want := map[string]float64{"dane": 100. / 3, "encrypt": 50. / 3, "may": 50}[row.Level]
		if want > 0 && (len(row.Bars) != 1 || row.Bars[0].Width < want-0.01 || row.Bars[0].Width > want+0.01) {
			t.Errorf("%s: %+v, want %.2f", row.Level, row.Bars, want)
		}
	}
}

// What a rule decided while it only observed isn't in the bar of what it
// enforces, also for rules that are gone and for those about how mail comes in.
func TestModesApart(t *testing.T) {
	s := newTest(t, populated(), func(c *Config) {
		for _, mode := range []policy.Mode{policy.Observe, policy.Enforce} {
			c.Meter.Decided(Decision{"gone", policy.Reject, policy.NoSTARTTLS, mode}, 0)
			c.Meter.Admitted(Decision{"insurer", policy.Accept, "", mode})
		}
		c.Meter.Decided(Decision{"gone", policy.Accept, "", policy.Enforce}, 0)
	})
	page := ask(s, "GET", "/", "").Body.String()
	for _, part := range []string{"reject 100 %", "accept 50 %, reject 50 %", "accept 17 %, reject 83 %"} {
		if !strings.Contains(page, part) {
			t.Errorf("no bar of %q", part)
		}
	}
}
