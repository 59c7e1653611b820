package socketmap

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// told writes what Explain says, a line for each answer and each step.
func told(all []Told) string {
	var b strings.Builder
	for _, one := range all {
		fmt.Fprintf(&b, "%s %s %s = %s (%s)\n", one.MTA, one.Map, one.Key, one.Answer, one.Means)
		for _, step := range one.Trace {
			fmt.Fprintf(&b, "  %s: %s\n", step.Stage, step.Text)
		}
	}
	return b.String()
}

func sentBy(text string) *addr.Address {
	a := addr.MustAddress(text)
	return &a
}

// Each answer that is explained is the one that an MTA gets, and the trace names
// who decided.
func TestExplain(t *testing.T) {
	pinned := book{pinned: map[string]bool{"pinned.example": true},
		owed: map[string]policy.Demand{"owed.example": encrypt(policy.TLS13, 256)}}
	history := func(_ context.Context, d addr.Destination) (History, error) {
		return History{Pinned: noon(), PinnedBy: "two successes", Demanded: noon().Add(time.Hour)}, nil
	}
	rs := clinic()
	for i, r := range rs {
		r.Name, r.Line = fmt.Sprintf("r%d", i+1), 10*(i+1)
	}
	s := server(t, Config{Transports: 3, Ledger: pinned, History: history}, rs...)
	for _, c := range []struct {
		to, from string
		want     []string
	}{
		{"good.example", "doctor@clinic.example", []string{
			"postfix sender doctor@clinic.example = OK tlsonly1: (the mail goes by the transport tlsonly1)",
			"  class: class 1: senders @clinic.example; rules \"r1\" \"r2\" \"r3\"; in force",
			"postfix forced1 good.example = " + plain + " (TLS, or the mail waits)",
			"  rule: rule \"r3\" (line 30) asks for encrypt, TLS 1.2, 128 bits",
			"= OK DEFER (the mail waits)", "= OK PASS (the mail may go)"}},
		{"legacy.example", "doctor@clinic.example", []string{
			"postfix forced1 legacy.example = OK may (", "  rule: rule \"r1\" (line 10) asks for nothing (tls = \"may\")", "  rule: it is an exception"}},
		{"[good.example]:587", "doctor@clinic.example", []string{"postfix forced1 [good.example]:587 = " + plain,
			"  class: [good.example]:587 carries mail for any domain, so the strictest rule of the class holds"}},
		{"pinned.example", "x@other.example", []string{"postfix sender x@other.example = NOTFOUND ", "  nobody: no rule that enforces names the sender",
			"postfix policy pinned.example = OK encrypt servername=hostname (TLS", "  pin: pinned.example is pinned since 2026-11-01T12:00:00Z, by two successes: TLS",
			"= OK DEFER (the mail waits)"}},
		{"owed.example", "", []string{"postfix forced1 owed.example", "postfix forced3 owed.example",
			"postfix policy owed.example = OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=high exclude=AES128:ARIA128:CAMELLIA128",
			"  demand: mail for owed.example was accepted under a demand since 2026-11-01T13:00:00Z: encrypt, TLS 1.3, 256 bits"}},
		{"free.example", "x@other.example", []string{"postfix policy free.example = NOTFOUND ", "  nobody: free.example is not pinned"}},
		{"good.example", "<>", []string{"postfix sender \"<>\" = OK tlsonly:", "  bounces: ", "postfix forced good.example = " + plain,
			"sendmail tls_report <> = TEMP"}},
		{"good.example", "root", []string{"postfix sender root = OK tlsonly:", "  doubt: "}},
	} {
		q := Delivery{To: addr.MustDestination(c.to)}
		if c.from != "" {
			q.From = sentBy(c.from)
		}
		all := s.Explain(t.Context(), q)
		got := told(all)
		rest := got
		for _, want := range c.want {
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Errorf("%s from %s: no %q in order in\n%s", c.to, c.from, want, got)
				break
			}
			rest = after
		}
		for _, one := range all {
			if real := string(s.reply(nil, []byte(one.Map+" "+one.Key))); real != one.Answer {
				t.Errorf("%s %s: explained as %q, answered %q", one.Map, one.Key, one.Answer, real)
			}
			if len(one.Trace) == 0 {
				t.Errorf("%s %s: nobody decided", one.Map, one.Key)
			}
		}
	}
}

// A former rule is named as one, and so is what Postfix may remember.
func TestExplainFormer(t *testing.T) {
	before, now := rules.New([]*rules.Rule{with(rule("encrypt", "@clinic.example", ""), func(r *rules.Rule) { r.Name = "old" })}), rules.New(nil)
	d := rules.NewDelivery(rules.Stage{Set: now}, []rules.Stage{{Set: before, Numbers: rules.Assign(before, nil), Until: noon().Add(-time.Hour)}}, 24*time.Hour)
	s, err := New(Config{Rules: func() *rules.Delivery { return d }, Ledger: book{}, Transports: 1, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	s.recent.add(addr.MustAddress("x@clinic.example"), noon())
	got := told(s.Explain(t.Context(), Delivery{To: addr.MustDestination("good.example"), From: sentBy("x@clinic.example")}))
	for _, want := range []string{
		"binds mail accepted before, until 2026-11-02T11:00:00Z",
		`  former: rule "old" asks for encrypt, TLS 1.2, 128 bits, not in force any more, binds until 2026-11-02T11:00:00Z`,
		"  recent: within the last 31 seconds this sender had no class",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// To explain leaves no trace of its own: nothing is counted, told or remembered.
func TestExplainLeavesNothing(t *testing.T) {
	asked := 0
	s := server(t, Config{Transports: 3, OnQuestion: func(Map, addr.Address) { asked++ }}, clinic()...)
	s.Explain(t.Context(), Delivery{To: addr.MustDestination("good.example"), From: sentBy("x@other.example")})
	for _, r := range s.Stats().Requests {
		if r.Count != 0 {
			t.Errorf("%d questions to %s counted", r.Count, r.Map)
		}
	}
	if asked != 0 || s.recent.has(addr.MustAddress("x@other.example"), noon()) || s.trace != nil {
		t.Errorf("%d questions told of, remembered %t", asked, s.recent.has(addr.MustAddress("x@other.example"), noon()))
	}
}

// It asks by the names by which the MTA does, and not by doctor's.
func TestExplainAsksAsTheMTA(t *testing.T) {
	s := server(t, Config{Transports: 9}, clinic()...)
	for _, q := range []string{"sender2 a@b.example", "sender2 c@d.example", "forced1/secure good.example", "forced1/bad x", "sender7 tlsonly-doctor@clinic.example"} {
		s.reply(nil, []byte(q))
	}
	got := told(s.Explain(t.Context(), Delivery{To: addr.MustDestination("good.example"), From: sentBy("doctor@clinic.example")}))
	for _, want := range []string{"postfix sender2 doctor@clinic.example = OK tlsonly1:", "postfix forced1/secure good.example = OK secure", "  floor: "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "sender7") || strings.Contains(got, "forced1 ") {
		t.Errorf("other names:\n%s", got)
	}
	for i := range 2 * mostHeard {
		s.reply(nil, fmt.Appendf(nil, "sender%d a@b.example", i+1))
	}
	if n := len(*s.heard.names.Load()); n != mostHeard {
		t.Errorf("%d names kept", n)
	}
}
