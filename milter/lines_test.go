package milter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet/rig"
	"tlsonly/rules"
)

// refusals are the lines of a log that say why a client was answered 4xx or 5xx.
func refusals(log string) (found []string) {
	for line := range strings.Lines(log) {
		if (strings.Contains(line, "msg=decision") || strings.Contains(line, "msg=inbound")) &&
			(strings.Contains(line, " verdict=defer") || strings.Contains(line, " verdict=reject")) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// failingLedger fails as fakeLedger does, but for the first destinations.
type failingLedger struct {
	fakeLedger
	good int
}

func (l *failingLedger) Owe(ctx context.Context, d addr.Destination, rule string, demand policy.Demand, pin bool) error {
	if l.good--; l.good >= 0 {
		return nil
	}
	return errors.New("disk full")
}

// Each way to an answer of 4xx or 5xx has one line in the log, and the line says
// the reason and the queue ID.
func TestRefusalsHaveTheirLine(t *testing.T) {
	const (
		head     = "> O 6 0x1ff 0x1fffff"
		mail     = "> M <alice@clinic.example>"
		good     = "> R <bob@good.example>"
		internal = "< y 451 4.3.0 internal error, try again"
		store    = "< y 451 4.3.0 what TLS this mail needs can't be recorded here now, try again"
		unbound  = "< y 451 4.3.0 the TLS that this mail needs can't be enforced here yet, try again"
		added    = `< i 0x0 TLS-Only "pass; rule=\"clinic\"; tls=encrypt"`
	)
	route := func(host string) string { return "> DR i Q1 {rcpt_mailer} smtp {rcpt_host} " + host }
	full := func(c *Config) { c.Decider.Ledger = &fakeLedger{err: errors.New("disk full")} }
	forwards := func(leaves ...forward.Leaf) func(*Config) {
		return func(c *Config) { c.Decider.Forwards = fixedForwards(leaves) }
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		lines  []string
		want   []string // in each line, in their order
	}{
		{"a sender that can't be read", nil, []string{"> DM i Q1", "> M <a@b..d>", "< y 501 5.1.7 Bad sender address syntax"},
			[]string{`qid=Q1 from=a@b..d rcpt="" verdict=reject reason=bad-address`}},
		{"a recipient that can't be read", nil, []string{mail, "< c", "> DR i Q1 {rcpt_mailer} smtp", "> R <a@b..d>", "< y 501 5.1.3 Bad recipient address syntax"},
			[]string{"qid=Q1 from=alice@clinic.example rcpt=a@b..d reason=bad-address"}},
		{"the null recipient", nil, []string{mail, "< c", "> R <>", "< y 501 5.1.3 Bad recipient address syntax"},
			[]string{"reason=bad-address"}},
		{"the same without a client", nil, []string{"> DM i Q1", "> M alice@clinic.example", "< c", "> R a@b..d", "< c", "> E",
			"< y 501 5.1.3 Bad recipient address syntax"}, []string{"qid=Q1 rcpt=a@b..d reason=bad-address"}},
		{"no MAIL", nil, []string{"> R <a@b.example>", internal, "> E", internal},
			[]string{"rcpt=a@b.example reason=internal", `rcpt="" reason=internal`}},
		{"by a rule", nil, []string{mail, "< c", route("plain.example"), good, "< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)"},
			[]string{"qid=Q1 rule=clinic reason=no-starttls"}},
		{"unknown", nil, []string{mail, "< c", route("servfail.example"), good, "< y 451 4.7.5 TLS capability of servfail.example is not known yet, try again"},
			[]string{"qid=Q1 rule=clinic reason=dns-failure"}},
		{"no next hop", nil, []string{mail, "< c", route("b..d"), good, "< y 451 4.4.4 where mail for bob@good.example is sent next isn't known here"},
			[]string{"qid=Q1 rule=clinic reason=no-route"}},
		{"a forward that can't be read", forwards(forward.Leaf{Kind: forward.Unknown, Address: addr.MustAddress("bob@good.example"), Detail: "permission denied"}),
			[]string{mail, "< c", route("good.example"), good, "< y 451 4.7.5 where mail for bob@good.example is forwarded to can't be read here"},
			[]string{"qid=Q1 rule=clinic reason=unreadable"}},
		{"the store fails", full, []string{mail, "< c", route("good.example"), good, store}, []string{"qid=Q1 rule=clinic destination=good.example reason=store disk full"}},
		{"the store fails at the second destination", func(c *Config) { c.Decider.Ledger = &failingLedger{good: 1} },
			[]string{mail, "< c", `> DR i Q1 {rcpt_mailer} smtp {rcpt_host} "good.example, other.example"`, good, store},
			[]string{"qid=Q1 destination=other.example reason=store"}},
		{"the store fails at a forward", func(c *Config) {
			full(c)
			forwards(forward.Leaf{Kind: forward.Leaves, Address: addr.MustAddress("x@good.example"),
				Path: []forward.Step{{From: "bob@good.example", Origin: policy.Origin{Source: "hash:/etc/aliases"}}}})(c)
		}, []string{mail, "< c", route("good.example"), good, store}, []string{"reason=store hash:/etc/aliases"}},
		{"what delivery must know isn't stored", func(c *Config) {
			c.Relayed = func(context.Context, addr.Destination) error { return errors.New("disk full") }
		}, []string{mail, "< c", route("relay.example"), good, store}, []string{"qid=Q1 destination=relay.example reason=store"}},
		{"the transport isn't bound", func(c *Config) { c.Attest = AttestEnforce },
			[]string{`> DM {mail_mailer} smtp v "Postfix 3.7.11"`, mail, "< c", route("good.example"), good, unbound},
			[]string{"qid=Q1 destination=good.example reason=not-bound transport smtp"}},
		{"routed as before", func(c *Config) { c.Settled = func(addr.Address) bool { return false } },
			[]string{mail, "< c", route("good.example"), good, "< y 451 4.3.0 TLS rules have just changed here, try again in a minute"},
			[]string{"qid=Q1 reason=not-bound"}},
		{"no quarantine", nil, []string{"* > O 6 0 0x1fffff", "> M <a@hold.example>", "< c", route("plain.example"), good,
			"< y 451 4.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)"}, []string{"qid=Q1 rule=hold reason=no-starttls"}},
		{"TLS-Required: no", nil, []string{mail, "< c", route("good.example"), good, "< c", "> L TLS-Required no", "> E",
			"< y 550 5.7.10 TLS required: this site does not honor TLS-Required: no"}, []string{"qid=Q1 rule=clinic reason=tls-required-no"}},
		{"a panic at RCPT, then nothing passes", nil, []string{mail, "< c", route("good.example"), "> R <bob@panic.example>", "< c",
			route("panic.example"), good, internal, route("good.example"), good, internal, "> DE i Q1", "> E", internal},
			[]string{"qid=Q1 rcpt=bob@good.example reason=internal panic:", "qid=Q1 rcpt=bob@good.example reason=internal panic:",
				"qid=Q1 rcpt=bob@panic.example rule=clinic reason=internal panic:"}},
		{"a panic in the background", nil, []string{"> DM i Q1", "> M alice@clinic.example", "< c", "> R bob@panic.example", "< c", "> E", internal},
			[]string{"qid=Q1 rcpt=bob@panic.example reason=internal panic:"}},
		{"a panic at MAIL", func(c *Config) { c.OnMessage = func() { panic("a test's") } }, []string{"> DM i Q1", mail, internal},
			[]string{"qid=Q1 from=alice@clinic.example reason=internal panic:"}},
		{"a panic at the end", func(c *Config) { c.SenderTaken = func() bool { panic("a test's") } },
			[]string{`> DM v "Postfix 3.7.11" {mail_mailer} smtp`, mail, "< c", route("good.example"), good, "< c", "> DE i Q1", "> E",
				added, internal},
			[]string{"qid=Q1 rcpt=bob@good.example rule=clinic reason=internal panic:"}},
		{"a panic where a decision is counted", func(c *Config) {
			once := false
			c.Observe = func(*Decision, time.Duration) {
				if !once {
					once = true
					panic("a test's")
				}
			}
		}, []string{mail, "< c", route("plain.example"), good, internal}, []string{"qid=Q1 reason=internal panic:"}},
		{"the deadline", func(c *Config) { c.Decider.Deadline = 50 * time.Millisecond },
			[]string{mail, "< c", route("hang.example"), good, "< y 451 4.7.5 TLS capability of hang.example is not known yet, try again"},
			[]string{"qid=Q1 rule=clinic destination=hang.example reason=timeout"}},
		{"in UTF-8", nil, []string{"> M <ärztin@clinic.example> SMTPUTF8", "< c", route("plain.example"), "> R <bücher@good.example>",
			"< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)"},
			[]string{"qid=Q1 from=ärztin@clinic.example rcpt=bücher@good.example rule=clinic reason=no-starttls"}},
		{"after RSET", nil, []string{mail, "< c", route("plain.example"), good,
			"< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)", route("good.example"), good, "< c", "> A",
			"> DM i Q2", mail, "< c", "> DR i Q2 {rcpt_mailer} smtp {rcpt_host} servfail.example", good,
			"< y 451 4.7.5 TLS capability of servfail.example is not known yet, try again", "> A"},
			[]string{"qid=Q1 reason=no-starttls", "qid=Q2 reason=dns-failure"}},
		{"the second message of a session", nil, []string{mail, "< c", route("good.example"), good, "< c", "> DE i Q1", "> E", added, "< a",
			"> DM i Q2", mail, "< c", "> DR i Q2 {rcpt_mailer} smtp {rcpt_host} plain.example", good,
			"< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)", "> DE i Q2", "> E", "< a"},
			[]string{"qid=Q2 reason=no-starttls"}},
		{"a reload in the middle of a message", reloads(), []string{mail, "< c", route("plain.example"), good,
			"< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)"},
			[]string{"qid=Q1 rule=clinic reason=no-starttls"}},
		{"inbound, where it would be held, without quarantine", func(c *Config) {
			set := inbound.New([]*inbound.Rule{{Name: "held", Level: inbound.Encrypt, MinVersion: policy.TLS12, MinBits: 128,
				OnFail: policy.ActionHold, Mode: policy.Enforce, To: []addr.Pattern{addr.MustPattern("@patients.example")}}})
			c.Inbound = func() *inbound.Set { return set }
		}, []string{"* > O 6 0x100 0x1fffff", `> DM {client_addr} 192.0.2.1 v "Postfix 3.7.11" {mail_mailer} smtp`, "> M <x@other.example>", "< c",
			"> DR i Q1 {rcpt_mailer} local", "> R <bob@patients.example>",
			"< y 451 4.7.10 TLS required: STARTTLS must come first for mail to bob@patients.example"},
			[]string{"msg=inbound qid=Q1 rule=held verdict=defer reason=no-tls"}},
		{"inbound", withInbound, []string{`> DM {client_addr} 192.0.2.1 v "Postfix 3.7.11" {mail_mailer} smtp`, "> M <x@other.example>", "< c",
			"> DR i Q1 {rcpt_mailer} local", "> R <bob@patients.example>",
			"< y 550 5.7.10 TLS required: STARTTLS must come first for mail to bob@patients.example"},
			[]string{"msg=inbound qid=Q1 rule=patients reason=no-tls"}},
		{"inbound, from an MTA that can't be asked", withInbound, []string{"* > O 2 0x1f 0x7f", "> DM i Q1", "> M <x@other.example>", unbound},
			[]string{"qid=Q1 from=x@other.example reason=not-bound"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, c.change)
			conn := b.dial(t)
			first := head
			if own, ok := strings.CutPrefix(c.lines[0], "* "); ok {
				first, c.lines = own, c.lines[1:]
			}
			talk(t, b, conn, first)
			if _, err := readPacketText(conn); err != nil {
				t.Fatal(err)
			}
			talk(t, b, conn, c.lines...)
			replies := 0
			for _, line := range c.lines {
				if strings.HasPrefix(line, "< y") {
					replies++
				}
			}
			// The line is written before the answer.
			lines := refusals(b.log.String())
			if len(lines) != replies || len(c.want) != replies {
				t.Fatalf("%d lines of %d expected for %d replies:\n%s\nlog:\n%s", len(lines), len(c.want), replies, strings.Join(lines, "\n"), b.log)
			}
			for i, want := range c.want {
				for word := range strings.FieldsSeq(want) {
					if !strings.Contains(lines[i], word) {
						t.Errorf("line %d lacks %s: %s", i+1, word, lines[i])
					}
				}
			}
			talk(t, b, conn, "> A", "> Q", "< close")
			if again := refusals(b.log.String()); len(again) != replies {
				t.Errorf("%d lines after the message was dropped:\n%s", len(again), strings.Join(again, "\n"))
			}
		})
	}
}

// reloads has each message but the first question meet other rules than its MAIL
// did.
func reloads() func(*Config) {
	return func(c *Config) {
		old, asked := c.Rules(), false
		c.Rules = func() *rules.Set {
			if asked {
				return rules.New([]*rules.Rule{rule("new", "@other.example", nil)})
			}
			asked = true
			return old
		}
	}
}

// A client that leaves, resets or begins anew after RCPT was refused nothing: each
// recipient that was accepted has one line, and none says otherwise.
func TestDroppedHasOneLine(t *testing.T) {
	const mail, rcpt = "> M <alice@clinic.example>", "> R <bob@good.example>"
	for name, after := range map[string][]string{
		"the client leaves, as Postfix says it":  {"> A", "> Q", "< close"},
		"the client leaves, as Sendmail says it": {"> Q", "< close"},
		"the MTA leaves":                         nil,
		"RSET":                                   {"> A"},
		"RSET twice":                             {"> A", "> A"},
		"another MAIL":                           {"> M <x@elsewhere.example>", "< a"},
		"another client":                         {"> K", mail, "< c"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			conn := b.dial(t)
			talk(t, b, conn, "> O 6 0x1ff 0x1fffff")
			if _, err := readPacketText(conn); err != nil {
				t.Fatal(err)
			}
			talk(t, b, conn, mail, "< c", "> DR i Q1 {rcpt_mailer} smtp {rcpt_host} good.example", rcpt, "< c")
			talk(t, b, conn, after...)
			if len(after) == 0 || after[len(after)-1] != "< close" {
				conn.Close()
			}
			wait(t, b, func() bool { return b.Stats().Sessions == 0 })
			log := b.log.String()
			if n := strings.Count(log, "msg=decision"); n != 1 || !strings.Contains(log, "qid=Q1 from=alice@clinic.example rcpt=bob@good.example") ||
				len(refusals(log)) != 0 {
				t.Errorf("%d lines:\n%s", n, log)
			}
		})
	}
}

// A connection that is closed here in the middle of a message has its MTA defer
// that message: the log says so. Between messages nobody is deferred.
func TestClosedConnectionHasItsLine(t *testing.T) {
	const says = "its MTA defers the message"
	for _, c := range []struct {
		name   string
		change func(*Config)
		lines  []string
		want   int
	}{
		{"garbage in a message", nil, []string{"> M <alice@clinic.example>", "< c", "> X"}, 1},
		{"garbage between messages", nil, []string{"> M <x@elsewhere.example>", "< a", "> X"}, 0},
		{"silence in a message", func(c *Config) { c.IdleTimeout = 50 * time.Millisecond }, []string{"> M <alice@clinic.example>", "< c"}, 1},
		{"silence between messages", func(c *Config) { c.IdleTimeout = 50 * time.Millisecond }, []string{"> M <x@elsewhere.example>", "< a"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, c.change)
			conn := b.dial(t)
			talk(t, b, conn, "> O 6 0x1ff 0x1fffff")
			if _, err := readPacketText(conn); err != nil {
				t.Fatal(err)
			}
			talk(t, b, conn, append(c.lines, "< close")...)
			wait(t, b, func() bool { return b.Stats().Sessions == 0 })
			if n := strings.Count(b.log.String(), says); n != c.want {
				t.Errorf("%d lines, want %d:\n%s", n, c.want, b.log)
			}
		})
	}
}

type fixedForwards []forward.Leaf

func (f fixedForwards) Expand(context.Context, addr.Address, addr.Address) forward.Expansion {
	return forward.Expansion{Leaves: f}
}

// stubborn is an MTA that doesn't let itself be told one thing.
type stubborn struct {
	gomilter.Modifier
	fails string
}

func (m stubborn) Get(name gomilter.MacroName) string {
	return map[gomilter.MacroName]string{gomilter.MacroQueueId: "Q1", gomilter.MacroRcptMailer: "smtp",
		gomilter.MacroMailMailer: "smtp", gomilter.MacroMTAVersion: "Postfix 3.7.11"}[name]
}

func (m stubborn) Actions() gomilter.OptAction {
	return gomilter.OptAddHeader | gomilter.OptChangeHeader | gomilter.OptQuarantine | gomilter.OptChangeFrom
}

func (m stubborn) fail(what string) error {
	if what == m.fails {
		return errors.New("broken pipe")
	}
	return nil
}

func (m stubborn) ChangeHeader(int, string, string) error { return m.fail("change") }
func (m stubborn) InsertHeader(int, string, string) error { return m.fail("insert") }
func (m stubborn) Quarantine(string) error                { return m.fail("quarantine") }
func (m stubborn) ChangeFrom(string, string) error        { return m.fail("sender") }

// A change that the MTA doesn't take defers the message, and each of its
// recipients has its line.
func TestFailedEditHasItsLine(t *testing.T) {
	for _, fails := range []string{"change", "insert", "quarantine", "sender", ""} {
		b := start(t, nil)
		s := b.newSession(gomilter.OptQuarantine | gomilter.OptSetMacros)
		m := stubborn{fails: fails}
		must := func(resp *gomilter.Response, err error) *gomilter.Response {
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		must(s.MailFrom("a@hold.example", "", m))
		must(s.RcptTo("x@plain.example", "", m))
		must(s.RcptTo("y@good.example", "", m))
		must(s.Header(tagHeader, "pass; forged", m))
		resp := must(s.EndOfMessage(m))
		lines := refusals(b.log.String())
		if fails == "" {
			if resp != gomilter.RespAccept || len(lines) != 0 {
				t.Errorf("nothing fails: %s, %q", resp, lines)
			}
			continue
		}
		if !strings.Contains(resp.String(), "451 4.3.0 internal error, try again") || len(lines) != 2 {
			t.Fatalf("%s fails: %s, lines %q", fails, resp, lines)
		}
		for i, rcpt := range []string{"x@plain.example", "y@good.example"} {
			for _, want := range []string{"qid=Q1", "rcpt=" + rcpt, "reason=internal", "broken pipe"} {
				if !strings.Contains(lines[i], want) {
					t.Errorf("%s fails: no %s in %s", fails, want, lines[i])
				}
			}
		}
		if s.msg != nil {
			t.Errorf("%s fails: the message isn't over", fails)
		}
	}
}

// What real MTAs say is answered with as many lines as refusals, too.
func TestRecordedRefusalsHaveTheirLine(t *testing.T) {
	files, err := filepath.Glob("../testdata/milter/*.session")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded sessions: %v", err)
	}
	set := rules.New([]*rules.Rule{rule("site", "@sender.test", nil), rule("bounces", "<>", nil)})
	some := 0
	for _, how := range []string{"as they are", "the store fails"} {
		for _, file := range files {
			name := fmt.Sprintf("%s, %s", filepath.Base(file), how)
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			session, err := rig.ParseSession(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			b := start(t, func(c *Config) {
				c.Rules = func() *rules.Set { return set }
				if how != "as they are" {
					c.Decider.Ledger = &fakeLedger{err: errors.New("disk full")}
				}
			})
			conn, err := net.Dial("tcp", b.addr)
			if err != nil {
				t.Fatal(err)
			}
			answers, err := rig.Play(t.Context(), conn, session)
			conn.Close()
			if err != nil && how == "as they are" {
				t.Fatalf("%s: %v", name, err)
			}
			replies := 0
			for _, a := range answers {
				if strings.ContainsRune("yt", rune(a.Kind)) {
					replies++
				}
			}
			some += replies
			// A recipient with another verdict than its message shares the reply.
			lines := slices.DeleteFunc(refusals(b.log.String()), func(l string) bool { return strings.Contains(l, " message=") })
			if len(lines) != replies {
				t.Errorf("%s: %d lines for %d replies: %q", name, len(lines), replies, lines)
			}
		}
	}
	if some < len(files) {
		t.Errorf("only %d refusals in all", some)
	}
}

// No reason is said of what wasn't found out: "unreachable" needs a probe.
func TestReasonsOfOurOwn(t *testing.T) {
	if !slices.Contains(policy.Reasons(), policy.StoreFailed) || policy.StoreFailed != "store" || policy.NotBound != "not-bound" {
		t.Fatal("reasons store and not-bound are gone")
	}
	for _, r := range policy.Reasons() {
		if r.Ours() && (r.Unknown() || r.Permanent()) {
			t.Errorf("%s is ours, and a rule decides", r)
		}
	}
	d := &Decider{}
	for _, r := range []policy.Reason{policy.StoreFailed, policy.NotBound, policy.Internal} {
		out := Decision{}
		d.deferFor(&out, r, addr.Destination{}, "why")
		if out.Verdict != policy.Defer || out.Reason != r || out.Reply.Code != 451 || strings.Contains(out.Reply.Text, "TLS capability") {
			t.Errorf("%s: %s %s, %s", r, out.Verdict, out.Reason, out.Reply)
		}
	}
}
