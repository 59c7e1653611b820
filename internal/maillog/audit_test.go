package maillog

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

func pattern(t *testing.T, s string) []addr.Pattern {
	t.Helper()
	p, err := addr.ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return []addr.Pattern{p}
}

func testRules(t *testing.T) *rules.Set {
	rule := func(name, from, to string, level policy.Level, mode policy.Mode) *rules.Rule {
		return &rules.Rule{Name: name, From: pattern(t, from), To: pattern(t, to), Level: level, Mode: mode, MinVersion: policy.TLS12, MinBits: 128}
	}
	ended := rule("ended", "@once.example", "*", policy.LevelEncrypt, policy.Enforce)
	ended.Until = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	login := rule("login", "nobody@never.example", "*", policy.LevelEncrypt, policy.Enforce)
	login.User = []string{"alice"}
	return rules.New([]*rules.Rule{
		rule("exception", "@clinic.example", "@legacy.example", policy.LevelNone, policy.Enforce),
		rule("partner", "@clinic.example", "@bank.example", policy.LevelSecure, policy.Enforce),
		rule("clinic", "@clinic.example", "*", policy.LevelEncrypt, policy.Enforce),
		rule("watch", "@watched.example", "*", policy.LevelEncrypt, policy.Observe),
		ended, login,
	})
}

func TestAudit(t *testing.T) {
	day := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	tls := func(v policy.Version, bits int, trust Trust) *Session {
		return &Session{Version: v, Bits: bits, Trust: trust}
	}
	good := tls(policy.TLS13, 256, Untrusted)
	for _, c := range []struct {
		name      string
		d         Delivery
		rule      string // "": not protected
		violation Violation
	}{
		{"encrypted", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Encrypted, TLS: good}, "clinic", ""},
		{"clear", Delivery{From: "D+x@CLINIC.example", To: "u@a.example", Outcome: Sent, Security: Clear}, "clinic", InClear},
		{"unknown", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Unknown}, "clinic", ""},
		{"old", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Encrypted, TLS: tls(policy.TLS11, 256, Verified)}, "clinic", WeakTLS},
		{"few bits", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Encrypted, TLS: tls(policy.TLS12, 112, Verified)}, "clinic", WeakTLS},
		{"not told", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Encrypted, TLS: &Session{}}, "clinic", ""},
		{"not verified", Delivery{From: "d@clinic.example", To: "u@bank.example", Outcome: Sent, Security: Encrypted, TLS: tls(policy.TLS13, 256, Trusted)}, "partner", NotAuthenticated},
		{"verified", Delivery{From: "d@clinic.example", To: "u@bank.example", Outcome: Sent, Security: Encrypted, TLS: tls(policy.TLS13, 256, Verified)}, "partner", ""},
		{"refused after the text", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Bounced, Security: Clear}, "clinic", InClear},
		{"refused", Delivery{From: "d@clinic.example", To: "u@a.example", Outcome: Bounced}, "clinic", ""},
		{"exempt", Delivery{From: "d@clinic.example", To: "u@legacy.example", Outcome: Sent, Security: Clear}, "", ""},
		{"an alias of something exempt", Delivery{From: "d@clinic.example", To: "u@legacy.example", OrigTo: "u@a.example", Outcome: Sent, Security: Clear}, "clinic", InClear},
		{"an exempt alias", Delivery{From: "d@clinic.example", To: "u@a.example", OrigTo: "u@legacy.example", Outcome: Sent, Security: Clear}, "clinic", InClear},
		{"the stricter of two", Delivery{From: "d@clinic.example", To: "u@a.example", OrigTo: "u@bank.example", Outcome: Sent, Security: Encrypted, TLS: good}, "partner", NotAuthenticated},
		{"observed", Delivery{From: "d@watched.example", To: "u@a.example", Outcome: Sent, Security: Clear}, "", ""},
		{"the rule is over", Delivery{From: "d@once.example", To: "u@a.example", Outcome: Sent, Security: Clear}, "", ""},
		{"it wasn't then", Delivery{From: "d@once.example", To: "u@a.example", Outcome: Sent, Security: Clear, Time: day.AddDate(0, 0, -1)}, "ended", InClear},
		{"by login", Delivery{From: "d@other.example", User: "Alice", To: "u@a.example", Outcome: Sent, Security: Clear}, "login", InClear},
		{"nobody's", Delivery{From: "d@other.example", To: "u@a.example", Outcome: Sent, Security: Clear}, "", ""},
		{"no address", Delivery{From: "d@clinic.example", To: `"|/bin/x`, Outcome: Here}, "clinic", ""},
	} {
		a := NewAudit(testRules(t))
		if c.d.Time.IsZero() {
			c.d.Time = day
		}
		c.d.msg = &message{}
		if c.rule != "" && !a.Wanted([]byte(c.d.From), c.d.User) {
			t.Errorf("%s: not wanted", c.name)
		}
		e, ok := a.Add(&c.d)
		if ok != (c.rule != "") || e.Rule != c.rule || e.Violation != c.violation {
			t.Errorf("%s: rule %q, violation %q", c.name, e.Rule, e.Violation)
		}
		p := a.Report(New(Config{}), nil)
		if got, want := p.Deliveries.All(), map[bool]int64{true: 1}[ok]; got != want || p.Messages != want || (p.Deliveries.Violations == 1) != (c.violation != "") ||
			int64(len(p.Violations)) != p.Deliveries.Violations {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
	if a := NewAudit(testRules(t)); a.Wanted([]byte("x@other.example"), "") || a.Wanted([]byte("x@other.example"), "bob") {
		t.Error("wanted though no rule names it")
	}
}

// What is listed and remembered is bounded, and what is beyond is counted.
func TestAuditBounds(t *testing.T) {
	a := NewAudit(testRules(t))
	const n = maxDestinations + 10
	m := &message{}
	for i := range n {
		d := Delivery{Time: time.Date(2026, 11, 1+i%3, 0, 0, 0, 0, time.UTC), From: "d@clinic.example", To: fmt.Sprintf("u@d%d.example", i), Outcome: Sent, Security: Clear, msg: m}
		a.Add(&d)
		a.Wanted(fmt.Appendf(nil, "u@d%d.example", i), "")
	}
	p := a.Report(New(Config{}), nil)
	if p.Messages != 1 || p.Deliveries.Violations != n || len(p.Violations) != maxListed || len(p.Destinations) != maxDestinations+1 || len(p.Days) != 3 {
		t.Fatalf("%d messages, %d violations, %d listed, %d destinations, %d days", p.Messages, p.Deliveries.Violations, len(p.Violations), len(p.Destinations), len(p.Days))
	}
	if first := p.Destinations[0]; first.Name != Elsewhere || first.Clear != 10 {
		t.Errorf("%+v", first)
	}
	if p.Days[0].Name != "2026-11-01" || p.Days[2].Name != "2026-11-03" {
		t.Errorf("%+v", p.Days)
	}
}

// The page shows what was found, needs nothing else, and what strangers wrote stays text.
func TestHTML(t *testing.T) {
	a := NewAudit(testRules(t))
	for i, d := range []Delivery{
		{From: "d@clinic.example", To: "<script>alert(1)</script>@a.example", Relay: `mx"><b>[192.0.2.1]:25`, Outcome: Sent, Security: Clear, QueueID: "AAAAA1"},
		{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Encrypted, TLS: &Session{Version: policy.TLS10, Cipher: "AES128-SHA", Bits: 128, Trust: Trusted}},
		{From: "d@clinic.example", To: "u@a.example", Outcome: Sent, Security: Unknown, QueueID: "AAAAA3"},
		{From: "d@clinic.example", To: "u@a.example", Outcome: Here},
	} {
		d.Time, d.msg = time.Date(2026, 11, 20+i, 0, 0, 0, 0, time.UTC), &message{}
		a.Add(&d)
	}
	p := a.Report(New(Config{}), []Stats{{Name: "mail<i>.log", Lines: 9, Mail: 7, Others: 1, Missed: 1, filled: true, First: modTime, Last: modTime,
		Examples: []Missed{{Line: 3, Why: "it has no time of day", Text: "<u>to=</u>"}}}, {Name: "strange.log", Lines: 1, Others: 1, filled: true}})
	var b strings.Builder
	if err := p.HTML(&b, "Title & more", modTime); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{
		"Title &amp; more", `<p class="verdict bad">2 of 4 deliveries of protected mail broke their rule; besides, 1 line that may belong to deliveries was not understood; 1 file was in no known format; whether one delivery used TLS isn’t in these logs.</p>`, "&lt;script&gt;alert(1)&lt;/script&gt;@<wbr>a.<wbr>example</td>", "mail&lt;i&gt;.<wbr>log", "&lt;b&gt;<wbr>[192.0.2.1]:25</td>", "AAAAA3", "weak-tls: TLS 1.0 AES128-SHA 128 bits, trusted", "<td class=\"long\">TLS 1.0</td><td class=\"n\">1</td>",
		`<td class="long">trusted</td>`, `<rect class="clear" x="0.00" y="0" width="240.00"`, `<td class="t">2026-11-23</td>`, `<rect class="clear" x="8.57" y="0.00" width="68.57" height="120.00"><title>2026-11-20: 1 in the clear</title>`, "prefers-color-scheme: dark", "@media print", "smtp_tls_loglevel = 1",
		"<p>10 lines: 7 of Postfix or Sendmail, 1 not understood, 2 of others.</p>", "strange.<wbr>log (in no known format)</td>", `<td class="n">3</td><td class="long">it has no time of day</td><td class="long">&lt;u&gt;to=&lt;/u&gt;</td>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, not := range []string{"<script", "<i>", "<b>[", "http:", "https:", "src=", "href=", "@import", "ZgotmplZ"} {
		if strings.Contains(page, not) {
			t.Errorf("%q is in the page", not)
		}
	}
	if text, err := json.Marshal(p); err != nil || !strings.Contains(string(text), `"violation":"clear"`) || !strings.Contains(string(text), `"version":"1.0"`) {
		t.Errorf("%s %v", text, err)
	}
}

// One sentence for each outcome; "all over TLS" only where each is known to be.
func TestReportVerdict(t *testing.T) {
	good := Lines{Read: 9, Mail: 9}
	for _, c := range []struct {
		d     Counts
		lines Lines
		text  string
		state string
	}{
		{Counts{Encrypted: 412, Here: 3, Deferred: 2}, good, "All 412 deliveries of protected mail to other hosts were over TLS.", "good"},
		{Counts{Encrypted: 1}, good, "The one delivery of protected mail to another host was over TLS.", "good"},
		{Counts{Encrypted: 1}, Lines{Mail: 9, Missed: 1}, "It isn’t known whether all protected mail left over TLS: 1 line that may belong to deliveries was not understood.", "open"},
		{Counts{}, Lines{Mail: 9, Missed: 2}, "It isn’t known whether all protected mail left over TLS: 2 lines that may belong to deliveries were not understood.", "open"},
		{Counts{Here: 1}, Lines{Mail: 9, FilesUnread: []string{"x"}}, "It isn’t known whether all protected mail left over TLS: 1 file was in no known format.", "open"},
		{Counts{}, Lines{Read: 9}, "It isn’t known whether all protected mail left over TLS: these logs have no line of Postfix or Sendmail.", "open"},
		{Counts{Clear: 1, Violations: 1}, Lines{Mail: 9, Missed: 1}, "The one delivery of protected mail broke its rule; besides, 1 line that may belong to deliveries was not understood.", "bad"},
		{Counts{Encrypted: 4, ByTransport: 2}, good, "No violation was found in 6 deliveries of protected mail to other hosts: 4 over TLS, 2 by transports that send over TLS or not at all.", "good"},
		{Counts{ByTransport: 1}, good, "No violation was found in 1 delivery of protected mail to other hosts: 1 by transports that send over TLS or not at all.", "good"},
		{Counts{Encrypted: 4, Unknown: 1}, good, "It isn’t known whether 5 deliveries of protected mail to other hosts kept their rules: 4 over TLS, 1 in a way that these logs don’t tell.", "open"},
		{Counts{Encrypted: 4, Clear: 1, Violations: 1}, good, "1 of 5 deliveries of protected mail broke their rule.", "bad"},
		{Counts{Clear: 1, Violations: 1}, good, "The one delivery of protected mail broke its rule.", "bad"},
		{Counts{Here: 2}, good, "No protected mail left for another host.", "good"},
		{Counts{}, good, "These logs have no delivery of protected mail.", "open"},
	} {
		if text, state := (&Report{Deliveries: c.d, Lines: c.lines}).Verdict(); text != c.text || state != c.state {
			t.Errorf("%+v %+v: %s %q, want %s %q", c.d, c.lines, state, text, c.state, c.text)
		}
	}
}

// The chart in text shows the last days, each kind that a day has, and in
// proportion to the busiest.
func TestChart(t *testing.T) {
	p := &Report{Days: []Row{{"2026-11-22", Counts{Encrypted: 100}}, {"2026-11-23", Counts{Encrypted: 40, ByTransport: 9, Clear: 1}}}}
	want := "2026-11-22 " + strings.Repeat("=", 50) + " 100\n2026-11-23 " + strings.Repeat("=", 20) + "----! 50\n= over TLS, - by transport, ! in the clear\n"
	if got := p.Chart(50); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := (&Report{}).Chart(50); got != "" {
		t.Errorf("%q of nothing", got)
	}
	for range 2 * chartDays {
		p.Days = append(p.Days, Row{"day", Counts{Here: 1}})
	}
	if got := strings.Count(p.Chart(50), "day "); got != chartDays {
		t.Errorf("%d days", got)
	}
	if c := newChart(p.Days); len(c.Columns) != chartDays || c.Earlier != chartDays+2 {
		t.Errorf("%d columns, %d earlier", len(c.Columns), c.Earlier)
	}
}
