package milter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// methodNamed is a method by its name alone.
type methodNamed struct {
	fallback.Method
	name string
}

func (n methodNamed) Name() string { return n.name }

// keysOf answers by the recipient's local part: "none", "unknown", "panic",
// "silent", or the name of a method.
type keysOf struct{ asked []string }

func (k *keysOf) First(ctx context.Context, names []policy.Method, sender, to addr.Address) (fallback.Method, fallback.State, error) {
	k.asked = append(k.asked, fmt.Sprintf("%v %s %s", names, sender, to))
	switch to.Local {
	case "none":
		return nil, fallback.None, errors.New("openpgp: HTTP status 404\nsmime: no record")
	case "unknown":
		return nil, fallback.Unknown, errors.New("SERVFAIL")
	case "silent":
		return nil, fallback.Certain, nil // a fault of its own
	case "slow":
		<-ctx.Done()
		return nil, fallback.Unknown, ctx.Err()
	}
	return methodNamed{name: to.Local}, fallback.Certain, nil
}

func fallsBack(r *rules.Rule) {
	r.OnFail, r.Fallback, r.FallbackElse = policy.ActionFallback, []policy.Method{policy.OpenPGP, policy.SMIME}, policy.ActionReject
	r.Pin, r.FallbackAfter = true, time.Hour
}

// What the destination lacks is made up for by a method that is certain, where
// the MTA's transport ends at the gateway; else the rule's own word counts, and
// "try again" where it isn't known.
func TestProtect(t *testing.T) {
	const plain = "TLS required: plain.example does not offer STARTTLS"
	const none, yet = ", and no other way to protect it is known", ", and no other way to protect it is known yet, try again"
	for name, c := range map[string]struct {
		to, mailer string
		change     func(*rules.Rule)
		want       string // verdict, what enforcing would do, reason, method
		reply      string
		asked      int
	}{
		"good TLS":          {"openpgp@good.example", "tlsonly1", nil, "accept accept  ", "", 0},
		"a key":             {"openpgp@plain.example", "tlsonly1", nil, "fallback fallback no-starttls openpgp", "", 1},
		"a certificate":     {"smime@plain.example", "tlsonly1", nil, "fallback fallback no-starttls smime", "", 1},
		"weak TLS":          {"smime@old.example", "tlsonly1", nil, "fallback fallback weak-tls smime", "", 1},
		"none":              {"none@plain.example", "tlsonly1", nil, "reject reject no-starttls ", "550 5.7.10 " + plain + none, 1},
		"none, else defer":  {"none@plain.example", "tlsonly1", func(r *rules.Rule) { r.FallbackElse = policy.ActionDefer }, "defer defer no-starttls ", "451 4.7.10 " + plain + yet, 1},
		"none, else hold":   {"none@plain.example", "tlsonly1", func(r *rules.Rule) { r.FallbackElse = policy.ActionHold }, "hold hold no-starttls ", "", 1},
		"not known":         {"unknown@plain.example", "tlsonly1", nil, "defer defer no-starttls ", "451 4.7.10 " + plain + yet, 1},
		"a fault":           {"silent@plain.example", "tlsonly1", nil, "defer defer no-starttls ", "451 4.7.10 " + plain + yet, 1},
		"no answer in time": {"slow@plain.example", "tlsonly1", nil, "defer defer no-starttls ", "451 4.7.10 " + plain + yet, 1},
		"no gateway":        {"openpgp@plain.example", "smtp", nil, "reject reject no-starttls ", "550 5.7.10 " + plain + none, 0},
		"no transport":      {"openpgp@plain.example", "", nil, "reject reject no-starttls ", "550 5.7.10 " + plain + none, 0},
		"SERVFAIL":          {"openpgp@servfail.example", "tlsonly1", nil, "defer defer dns-failure ", "451 4.7.5 TLS capability of servfail.example is not known yet, try again", 0},
		"null MX":           {"openpgp@null.example", "tlsonly1", nil, "reject reject null-mx ", "556 5.1.10 null.example does not accept mail", 0},
		"lost TLS":          {"openpgp@tls-none.test", "tlsonly1", nil, "defer defer lost-tls ", "451 4.7.10 TLS required: tls-none.test offered TLS before and does not now (mail host mx.tls-none.test)", 0},
		"lost for long":     {"openpgp@tls-none.test", "tlsonly1", func(r *rules.Rule) { r.FallbackAfter = time.Minute }, "fallback fallback lost-tls openpgp", "", 1},
		"lost, none":        {"none@tls-none.test", "tlsonly1", func(r *rules.Rule) { r.FallbackAfter = 0 }, "defer defer lost-tls ", "451 4.7.10 TLS required: tls-none.test offered TLS before and does not now" + yet, 1},
		"observed":          {"openpgp@plain.example", "smtp", func(r *rules.Rule) { r.Mode = policy.Observe }, "accept fallback no-starttls openpgp", "", 1},
		"observed, none":    {"none@plain.example", "smtp", func(r *rules.Rule) { r.Mode = policy.Observe }, "accept reject no-starttls ", "", 1},
		"observed, unknown": {"unknown@plain.example", "smtp", func(r *rules.Rule) { r.Mode = policy.Observe }, "accept defer no-starttls ", "", 1},
		"rejects":           {"openpgp@plain.example", "tlsonly1", func(r *rules.Rule) { r.OnFail = policy.ActionReject }, "reject reject no-starttls ", "550 5.7.10 " + plain + " (mail host mx.plain.example)", 0},
	} {
		keys, ledger := &keysOf{}, &fakeLedger{pinned: map[string]bool{"tls-none.test": true}}
		d := &Decider{Assessor: &fakeAssessor{}, Ledger: ledger, Protect: keys, Deadline: time.Second / 5,
			FailingSince: func(addr.Destination) time.Time { return time.Now().Add(-30 * time.Minute) },
			Gateway:      func(r Route) bool { return strings.HasPrefix(r.Mailer, "tlsonly") }}
		set := rules.New([]*rules.Rule{rule("clinic", "@clinic.example", func(r *rules.Rule) {
			fallsBack(r)
			if c.change != nil {
				c.change(r)
			}
		})})
		to := addr.MustAddress(c.to)
		route := Route{Mailer: c.mailer, Host: to.Domain.String()}
		if c.mailer == "" {
			route = Route{}
		}
		got := d.Decide(t.Context(), set.Sender(addr.MustAddress("Dr@clinic.example"), "", time.Now()), to, route)
		if s := fmt.Sprintf("%s %s %s %s", got.Verdict, got.Would, got.Reason, got.Method); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
		reply := ""
		if got.Reply.Code != 0 {
			reply = got.Reply.String()
		}
		if reply != c.reply || len(keys.asked) != c.asked {
			t.Errorf("%s: reply %q after %q, want %q", name, reply, keys.asked, c.reply)
		}
		if (got.Method != "") != (got.Would == policy.Fallback) || got.Method != "" && got.Unprotected != nil {
			t.Errorf("%s: method %q, %v", name, got.Method, got.Unprotected)
		}
		for _, asked := range keys.asked {
			if want := fmt.Sprintf("[openpgp smime] Dr@clinic.example %s", c.to); asked != want {
				t.Errorf("%s: asked %q, want %q", name, asked, want)
			}
		}
		// Of a destination that doesn't satisfy the rule nothing is owed.
		if owes := len(ledger.owed) > 0; owes != (name == "good TLS") {
			t.Errorf("%s: owed %q", name, ledger.owed)
		}
		trace := fmt.Sprint(got.Trace())
		if c.asked > 0 && !strings.Contains(trace, "can encrypt to "+c.to) {
			t.Errorf("%s: the trace says nothing of methods: %s", name, trace)
		}
	}
}

// Without methods nothing falls back, and a failed attestation, a change of
// rules or a store that fails count as with any accepted recipient.
func TestProtectFailsClosed(t *testing.T) {
	set := rules.New([]*rules.Rule{rule("clinic", "@clinic.example", fallsBack)})
	from := set.Sender(addr.MustAddress("a@clinic.example"), "", time.Now())
	to, route := addr.MustAddress("openpgp@plain.example"), Route{Mailer: "tlsonly1", Host: "plain.example"}
	d := &Decider{Assessor: &fakeAssessor{}, Gateway: func(Route) bool { return true }}
	if got := d.Decide(t.Context(), from, to, route); got.Verdict != policy.Reject || !errors.Is(got.Unprotected, errNoMethods) {
		t.Errorf("no methods: %s, %v", got.Verdict, got.Unprotected)
	}
	// Two next hops, one good: the demand of that one is stored, and must be.
	d.Protect = &keysOf{}
	route.Host = "good.example, plain.example"
	ledger := &fakeLedger{}
	d.Ledger = ledger
	if got := d.Decide(t.Context(), from, to, route); got.Verdict != policy.Fallback {
		t.Errorf("two hops: %s", got.Verdict)
	}
}

// The client hears 250, the log names verdict and method, the header the verdict
// alone: who reads it may be another recipient.
func TestProtectSession(t *testing.T) {
	set := rules.New([]*rules.Rule{rule("clinic", "@clinic.example", fallsBack)})
	settled := true
	b := start(t, func(c *Config) {
		c.Rules = func() *rules.Set { return set }
		c.Decider.Protect = &keysOf{}
		c.Decider.Gateway = func(r Route) bool { return r.Mailer == "tlsonly1" }
		c.Settled = func(addr.Address) bool { return settled }
	})
	macros := gomilter.NewMacroBag()
	s, err := gomilter.NewClient("tcp", b.addr).Session(macros)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	must := func(a *gomilter.Action, err error) *gomilter.Action {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	must(s.Conn("client.example", gomilter.FamilyInet, 25, "192.0.2.1"))
	must(s.Helo("client.example"))
	macros.Set(gomilter.MacroMTAVersion, "Postfix 3.7.11")
	macros.Set(gomilter.MacroMailMailer, "smtp")
	must(s.Mail("dr@clinic.example", ""))
	macros.Set(gomilter.MacroRcptMailer, "tlsonly1")
	macros.Set(gomilter.MacroRcptHost, "plain.example")
	if a := must(s.Rcpt("openpgp@plain.example", "")); a.Type != gomilter.ActionContinue {
		t.Fatalf("a key: %s", a)
	}
	if a := must(s.Rcpt("none@plain.example", "")); a.SMTPReply != "550 5.7.10 TLS required: plain.example does not offer STARTTLS, and no other way to protect it is known" {
		t.Fatalf("none: %s %s", a, a.SMTPReply)
	}
	if a := must(s.Rcpt("unknown@plain.example", "")); !strings.HasPrefix(a.SMTPReply, "451 4.7.10 ") {
		t.Fatalf("unknown: %s", a.SMTPReply)
	}
	settled = false
	if a := must(s.Rcpt("smime@plain.example", "")); !strings.HasPrefix(a.SMTPReply, "451 4.3.0 ") {
		t.Fatalf("rules have just changed: %s", a.SMTPReply)
	}
	must(s.DataStart())
	must(s.HeaderEnd())
	macros.Set(gomilter.MacroQueueId, "4711")
	changes, a, err := s.BodyReadFrom(strings.NewReader("hello\r\n"))
	if must(a, err).Type != gomilter.ActionAccept {
		t.Fatalf("end of message: %s", a)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	if want := `InsertHeader 0 "TLS-Only" "fail; rule=\"clinic\"; tls=encrypt; reason=no-starttls; verdict=fallback"`; !slices.Contains(got, want) {
		t.Errorf("changes %q, want %s", got, want)
	}
	if log := b.log.String(); !strings.Contains(log, "rcpt=openpgp@plain.example rule=clinic destination=plain.example level=encrypt verdict=fallback reason=no-starttls method=openpgp") {
		t.Errorf("log:\n%s", log)
	}
}
