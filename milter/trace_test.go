package milter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Each step leaves its line: who decides, where the mail goes, what was seen, what
// the rules say, what is stored, and what comes of it.
func TestTrace(t *testing.T) {
	set := rules.New([]*rules.Rule{
		rule("clinic", "@clinic.example", func(r *rules.Rule) { r.Line, r.Pin = 7, true }),
		rule("watch", "@watch.example", func(r *rules.Rule) { r.Mode = policy.Observe }),
		rule("staff", "", func(r *rules.Rule) { r.Line, r.Forwarder = 20, []addr.Pattern{addr.MustPattern("@home.example")} }),
	})
	for _, c := range []struct {
		name     string
		from, to string
		route    Route
		change   func(*Decider)
		want     []string // "stage words", in this order
	}{
		{"accepted", "a@clinic.example", "b@good.example", Route{"smtp", "good.example"}, nil, []string{
			`plan rule "clinic" (line 7) asks for encrypt, TLS 1.2, 128 bits, mode enforce`,
			`plan goes to good.example, by what the MTA says (mailer "smtp", next hop "good.example")`,
			"observe good.example: ", "observe TLS 1.3", `judge rule "clinic" lets`,
			`commit good.example is held to encrypt, TLS 1.2, 128 bits by rule "clinic", and is pinned`, "verdict accept"}},
		{"asked only", "a@clinic.example", "b@good.example", Route{}, func(d *Decider) { d.Dry = true }, []string{
			"plan by [relay] or its domain", "commit good.example would be held to encrypt"}},
		{"refused", "a@clinic.example", "b@plain.example", Route{}, nil, []string{
			`judge rule "clinic" says reject of the recipient's own mail: no-starttls at plain.example`, "verdict reject: no-starttls, 550"}},
		{"observed", "a@watch.example", "b@plain.example", Route{}, nil, []string{
			"plan mode observe", `judge rule "watch" would reject`, "verdict accept (enforcing would reject): no-starttls"}},
		{"pinned", "a@clinic.example", "b@plain.example", Route{}, func(d *Decider) {
			d.Ledger = &fakeLedger{pinned: map[string]bool{"plain.example": true}}
		}, []string{"observe plain.example: ", "observe pinned", "judge lost-tls", "verdict defer: lost-tls"}},
		{"not stored", "a@clinic.example", "b@good.example", Route{}, func(d *Decider) { d.Ledger = &fakeLedger{err: errors.New("disk full")} },
			[]string{`judge rule "clinic" lets`, "commit defer: store: demand not stored: disk full", "verdict defer: store, 451 4.3.0"}},
		{"forwarded", "x@far.example", "u@home.example", Route{"local", ""}, func(d *Decider) {
			d.Forwards = fixedForwards{{Kind: forward.Leaves, Address: addr.MustAddress("u@plain.example"),
				Path: []forward.Step{{From: "u@home.example", Origin: policy.Origin{Source: "hash:/etc/aliases", File: "/etc/aliases", Line: 7}}}}}
		}, []string{"plan no rule for the sender", `plan u@home.example (hash:/etc/aliases:7) -> u@plain.example by plain.example; rule "staff" governs who forwards (line 20)`,
			"observe plain.example: ", `judge rule "staff" says reject of the forward to u@plain.example: no-starttls`, "verdict reject: forward (no-starttls), 550"}},
		{"no next hop", "a@clinic.example", "b@good.example", Route{"smtp", "b..d"}, nil, []string{
			"plan goes nobody knows where", "judge no-route", "verdict defer: no-route, 451 4.4.4"}},
		{"delivered here", "a@clinic.example", "b@good.example", Route{"local", ""}, nil, []string{"plan is delivered here", "verdict accept"}},
		{"nobody's business", "x@far.example", "b@good.example", Route{}, nil, []string{"plan no rule", "verdict accept"}},
	} {
		d := &Decider{Assessor: &fakeAssessor{}, Ledger: &fakeLedger{}}
		if c.change != nil {
			c.change(d)
		}
		got := d.Decide(t.Context(), set.Sender(addr.MustAddress(c.from), "", time.Now()), addr.MustAddress(c.to), c.route)
		trace := got.Trace()
		at := 0
		for _, want := range c.want {
			stage, words, _ := strings.Cut(want, " ")
			i := slices.IndexFunc(trace[at:], func(s policy.Step) bool { return s.Stage == stage && strings.Contains(s.Text, words) })
			if i < 0 {
				t.Errorf("%s: no %q in this place of\n%s", c.name, want, lines(trace))
				break
			}
			at += i
		}
		order := []string{stagePlan, stageObserve, stageJudge, stageSession, stageCommit, stageVerdict}
		if !slices.IsSortedFunc(trace, func(a, b policy.Step) int { return slices.Index(order, a.Stage) - slices.Index(order, b.Stage) }) {
			t.Errorf("%s: the steps are out of order:\n%s", c.name, lines(trace))
		}
	}
}

func lines(trace policy.Trace) string {
	var b strings.Builder
	for _, s := range trace {
		fmt.Fprintf(&b, "%s %s\n", s.Stage, s.Text)
	}
	return b.String()
}

// infoOnly leaves out what is below level info.
type infoOnly struct{ slog.Handler }

func (infoOnly) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// The log has the steps only at level debug.
func TestTraceInTheLog(t *testing.T) {
	for _, c := range []struct {
		level string
		want  bool
	}{{"DEBUG", true}, {"INFO", false}} {
		b := start(t, func(conf *Config) {
			if c.level == "INFO" {
				conf.Log = slog.New(infoOnly{conf.Log.Handler()})
			}
		})
		talk(t, b, b.dial(t), "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@clinic.example>", "< c", "> R <bob@plain.example>",
			"< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)")
		if got := strings.Contains(b.log.String(), "msg=trace"); got != c.want || !strings.Contains(b.log.String(), "msg=decision") {
			t.Errorf("level %s: steps %t\n%s", c.level, got, b.log)
		}
	}
}

// Nothing is promised to a recipient that the session turns down.
func TestUnboundPromisesNothing(t *testing.T) {
	l := &fakeLedger{}
	b := start(t, func(c *Config) { c.Attest, c.Decider.Ledger = AttestEnforce, l })
	talk(t, b, b.dial(t), "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", `> DM {mail_mailer} smtp v "Postfix 3.7.11"`, "> M <alice@clinic.example>", "< c",
		"> DR {rcpt_mailer} smtp {rcpt_host} good.example", "> R <bob@good.example>",
		"< y 451 4.3.0 the TLS that this mail needs can't be enforced here yet, try again")
	if len(l.owed) != 0 {
		t.Errorf("promised %q", l.owed)
	}
}

// A former rule is named as the cause of what it refuses, and of nothing else.
func TestFormerIsTheCause(t *testing.T) {
	for to, want := range map[string]bool{"b@plain.example": true, "b@good.example": false} {
		former := rule("clinic", "@clinic.example", func(r *rules.Rule) { r.Former = true })
		d := &Decider{Assessor: &fakeAssessor{}}
		c := rules.New([]*rules.Rule{former}).Sender(addr.MustAddress("a@clinic.example"), "", time.Now())
		got := d.Decide(t.Context(), c, addr.MustAddress(to), Route{})
		if strings.HasPrefix(got.Cause, "the rule is not in force any more") != want || (got.Cause == "") == want {
			t.Errorf("%s: cause %q", to, got.Cause)
		}
	}
}

// What is done counts first, then what would be, then whether there is a reason.
func TestStricterJudgement(t *testing.T) {
	j := func(verdict, would policy.Verdict, reason policy.Reason) rules.Judgement {
		return rules.Judgement{Verdict: verdict, Would: would, Reason: reason}
	}
	order := []rules.Judgement{
		j(policy.Accept, policy.Accept, ""),
		j(policy.Accept, policy.Accept, policy.NoSTARTTLS),
		j(policy.Accept, policy.Reject, policy.NoSTARTTLS), // one that only observes
		j(policy.Reject, policy.Reject, policy.NoSTARTTLS),
	}
	for i, a := range order {
		for k, b := range order {
			if got := stricter(a, b); got != (i > k) {
				t.Errorf("%+v before %+v: %t", a, b, got)
			}
		}
	}
	later, refused := j(policy.Accept, policy.Defer, policy.Timeout), j(policy.Accept, policy.Reject, policy.NoSTARTTLS)
	if policy.Reject.Rank() < policy.Defer.Rank() {
		later, refused = refused, later
	}
	if !stricter(refused, later) || stricter(later, refused) {
		t.Error("of two that only observe, what they would do doesn't count")
	}
}
