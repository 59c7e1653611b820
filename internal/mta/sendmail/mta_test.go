package sendmail

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// A tagged message leaves over TLS or not at all, and where there is no TLS nobody is asked.
func TestTagged(t *testing.T) {
	startMilter(t)
	m := startMap(t, netstring("OK PASS"))
	l := newLab(t, bound())
	for _, c := range []struct{ domain, stat, refused string }{
		{"none.example", "stat=Deferred", "451 4.7.10 TLS required: no TLS at mx1.none.example, verify=NONE"},
		{"refused.example", "stat=Deferred", "451 4.7.10 TLS required: no TLS at mx1.refused.example, verify=TEMP"},
		{"old.example", "stat=Deferred", ""},
		{"good.example", "stat=Sent", ""},
		{"self.example", "stat=Sent", ""},
		{"mixed.example", "stat=Sent", "451 4.7.10 TLS required: no TLS at mx1.mixed.example, verify=NONE"},
	} {
		to := "bob@" + c.domain
		marker := l.send("alice@clinic.example ENVID=abc RET=FULL BODY=8BITMIME", to)
		l.logged("to=<"+to+">", c.stat)
		if c.refused != "" {
			l.logged("ruleset=tls_rcpt", to, c.refused)
		}
		if got, tls := l.took(c.domain, marker); got != (c.stat == "stat=Sent") || got && !tls || l.clear(marker) {
			t.Errorf("%s: took %t, TLS %t, in the clear %t", c.domain, got, tls, l.clear(marker))
		}
	}
	for _, q := range m.questions() {
		if !strings.HasPrefix(q, "tls_rcpt v3<FAIL><") || !strings.Contains(q, "><encrypt><alice@clinic.example><") {
			t.Errorf("asked %q", q)
		}
	}
	wire := strings.Join(l.world.Hosts("good.example")[0].Commands(), "\n") + "\n"
	if !strings.Contains(wire, " ENVID=TLSONLY.encrypt.abc") || !strings.Contains(wire, " RET=HDRS") || !strings.Contains(wire, " BODY=8BITMIME") {
		t.Errorf("on the wire:\n%s", wire)
	}
}

// The tag outlives the queue, the process and an owner-alias; the message goes when TLS comes.
func TestTagStays(t *testing.T) {
	startMilter(t)
	startMap(t, netstring("OK PASS"))
	l := newLab(t, bound())
	l.aliases("list: bob@late.example, carol@good.example\nowner-list: admin@clinic.example\n")
	marker := l.send("alice@clinic.example", "list@mta.test")
	l.logged("clone: owner=admin@clinic.example")
	l.logged("to=carol@good.example", "stat=Sent")
	l.logged("relay=mx1.late.example", "reject=451 4.7.10 TLS required")
	if err := l.QueueRun(l.ctx); err != nil {
		t.Fatal(err)
	}
	if got, _ := l.took("late.example", marker); got || l.clear(marker) {
		t.Errorf("took %t, in the clear %t", got, l.clear(marker))
	}
	if queue, err := l.Queue(l.ctx, false); err != nil || !strings.Contains(queue, "bob@late.example") {
		t.Errorf("queue %q, %v", queue, err)
	}
	l.world.Hosts("late.example")[0].SetFault(testnet.NoFault)
	if err := l.QueueRun(l.ctx); err != nil {
		t.Fatal(err)
	}
	if got, tls := l.took("late.example", marker); !got || !tls || l.clear(marker) {
		t.Errorf("took %t, TLS %t, in the clear %t", got, tls, l.clear(marker))
	}
	wire := strings.Join(l.world.Hosts("late.example")[0].Commands(), "\n")
	if !strings.Contains(wire, "ENVID=TLSONLY.encrypt.") || strings.Contains(wire, "AUTH=") {
		t.Errorf("on the wire:\n%s", wire)
	}
}

// The null sender's message is tagged, too; one with an exception among its recipients is not, and is asked about.
func TestNullSenderAndException(t *testing.T) {
	startMilter(t)
	m := startMap(t, netstring("OK PASS"))
	l := newLab(t, bound())
	marker := l.send("", "bob@none.example")
	l.logged("ruleset=tls_rcpt", "bob@none.example", "451 4.7.10")
	if l.clear(marker) || len(m.questions()) > 0 {
		t.Errorf("in the clear %t, asked %q", l.clear(marker), m.questions())
	}
	marker = l.send("alice@clinic.example", "legacy@none.example")
	l.logged("to=<legacy@none.example>", "stat=Sent")
	if !l.clear(marker) || len(m.questions()) != 1 {
		t.Errorf("in the clear %t, asked %q", l.clear(marker), m.questions())
	}
}

// A bounce of a protected message has headers only, which is the milter's doing
// alone here. It waits for a queue run, whose refusals are its own: where there
// is no TLS it stays.
func TestBounce(t *testing.T) {
	startMilter(t)
	m := startMap(t, netstring("OK PASS"))
	plain := settings()
	plain.RedactBounces = false
	l := newLab(t, rig.SendmailConfig{Rules: strings.Split(Snippet(plain), "\n")})
	run := func() {
		t.Helper()
		l.logged("DSN: User unknown")
		if err := l.QueueRun(l.ctx); err != nil {
			t.Fatal(err)
		}
	}
	marker := l.send("alice@clinic.example", "bob@strict.example")
	waited := func() bool { return len(l.LogLines("to=<alice@clinic.example>")) == 0 }
	l.logged("DSN: User unknown")
	if !waited() {
		t.Error("the bounce was tried by the process that wrote it")
	}
	for waited() {
		run()
	}
	l.logged("to=<alice@clinic.example>", "stat=Sent")
	if got, tls := l.took("clinic.example", marker); !got || !tls {
		t.Errorf("took %t, TLS %t", got, tls)
	}
	for _, m := range l.world.Messages("clinic.example") {
		if strings.Contains(string(m.Data), "text "+marker) {
			t.Errorf("bounce with text:\n%s", m.Data)
		}
	}
	marker = l.send("alice@late.example", "bob@strict.example")
	for len(l.LogLines("DSN: User unknown")) < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	m.say(netstring("OK DEFER"))
	for len(l.LogLines("ruleset=tls_rcpt, arg1=alice@late.example")) < 2 {
		run()
	}
	line := l.logged("to=<alice@late.example>", "stat=", "delay=")
	if !strings.Contains(line, "stat=Deferred") || l.clear(marker) {
		t.Errorf("in the clear %t: %s", l.clear(marker), line)
	}
}

// What has no tag is asked about where there is no TLS, and only PASS lets it go.
func TestQuestion(t *testing.T) {
	startMilter(t)
	m := startMap(t, "")
	l := newLab(t, bound())
	const deferred, answerless = "451 4.7.10 TLS required: no TLS at mx1.none.example", "451 4.7.5 TLS required or not: tlsonly does not answer"
	for _, c := range []struct {
		to, says, stat, refused string
	}{
		{"pass", netstring("OK PASS"), "stat=Sent", ""},
		{"defer", netstring("OK DEFER"), "stat=Deferred", deferred},
		{"reject", netstring("OK REJECT"), "dsn=5.", "550 5.7.10 <reject@none.example>... TLS required: no TLS at mx1.none.example"},
		{"lower", netstring("OK passed"), "stat=Deferred", answerless},
		{"words", netstring("OK PASS PASS"), "stat=Deferred", answerless},
		{"unknown", netstring("NOTFOUND "), "stat=Deferred", answerless},
		{"trouble", netstring("TEMP store"), "stat=Deferred", answerless},
		{"perm", netstring("PERM no"), "stat=Deferred", answerless},
		{"closed", "", "stat=Deferred", ""},
		{"garbage", "220 not.a.netstring ESMTP\r\n", "stat=", ""},
	} {
		m.say(c.says)
		to := c.to + "@none.example"
		marker := l.send("eve@good.example", to)
		line := l.logged("to=<"+to+">", "stat=", "delay=")
		if !strings.Contains(line, c.stat) || strings.Contains(line, "stat=Sent") != (c.to == "pass") {
			t.Errorf("%s: %s", c.to, line)
		}
		if c.refused != "" {
			l.logged("ruleset=tls_rcpt", to, c.refused)
		}
		if l.clear(marker) != (c.to == "pass") {
			t.Errorf("%s: in the clear %t", c.to, l.clear(marker))
		}
	}
	m.stop()
	marker := l.send("eve@good.example", "away@none.example")
	if line := l.logged("to=<away@none.example>", "stat=", "delay="); !strings.Contains(line, "stat=Deferred") || l.clear(marker) {
		t.Errorf("daemon away: %s", line)
	}
	l.logged("ruleset=tls_rcpt", "away@none.example", answerless)
	marker = l.send("eve@good.example", "away@good.example")
	l.logged("to=<away@good.example>", "stat=Sent")
	if got, tls := l.took("good.example", marker); !got || !tls {
		t.Errorf("daemon away, TLS: took %t, TLS %t", got, tls)
	}
	first := m.questions()[0]
	if first != "tls_rcpt v3<NONE><><mx1.none.example><none.example.><free><eve@good.example><eve@good.example><mta.test><MAILER-DAEMON><pass@none.example>" {
		t.Errorf("asked %q", first)
	}
}

// Over TLS, too, only PASS lets a tagged message go. What has no tag doesn't wait where nobody answers, but for a host that the
// daemon knows to be another's.
func TestQuestionOverTLS(t *testing.T) {
	startMilter(t)
	m := startMap(t, "")
	l := newLab(t, bound())
	const right, answerless = "451 4.7.10 TLS required: mx1.good.example is not authenticated", "451 4.7.5 TLS required or not: tlsonly does not answer"
	// try sends a message with each envelope id; refused is what becomes of all of them.
	try := func(says, refused string, envids ...string) {
		t.Helper()
		m.say(says)
		markers := map[string]string{}
		for _, envid := range envids {
			to := strings.ToLower(rand.Text()) + "@good.example"
			markers[to] = l.send(strings.TrimSpace("eve@good.example "+envid), to)
		}
		for to, marker := range markers {
			line := l.logged("to=<"+to+">", "stat=", "delay=")
			if got, _ := l.took("good.example", marker); got != (refused == "") || l.clear(marker) {
				t.Errorf("daemon says %q: %s", says, line)
			}
			if refused != "" {
				l.logged("ruleset=tls_rcpt", to, refused)
			}
		}
	}
	levels := map[string]string{"ENVID=TLSONLY.ask.x": "ask", "ENVID=TLSONLY.encrypt.x": "encrypt", "ENVID=TLSONLY.name.x": "name",
		"ENVID=TLSONLY.later.x": "name", "ENVID=x": "free"}
	for envid, level := range levels {
		before := len(m.questions())
		try(netstring("OK PASS"), "", envid)
		if q := m.questions()[before]; !strings.Contains(q, "><mx1.good.example><good.example.><"+level+"><eve@good.example><") {
			t.Errorf("asked %q, want level %s", q, level)
		}
	}
	tags := []string{"ENVID=TLSONLY.ask.x", "ENVID=TLSONLY.encrypt.x", "ENVID=TLSONLY.name.x", "ENVID=TLSONLY.later.x"}
	try(netstring("OK DEFER"), right, append(tags, "ENVID=x")...)
	try(netstring("OK REJECT"), right, "", tags[1])
	for _, says := range []string{netstring("NOTFOUND "), netstring("TEMP store"), netstring("OK PASS PASS")} {
		try(says, "", "")
		try(says, answerless, tags[1])
	}
	m.stop()
	try("", "", "")
	try("", answerless, tags...)
}

// Mail that never met the milter is held all the same.
func TestCommandLine(t *testing.T) {
	startMap(t, netstring("OK DEFER"))
	l := newLab(t, bound())
	if _, err := l.Run(l.ctx, "Subject: MARKER\n\nMARKER\n", "-Am", "-f", "alice@clinic.example", "bob@none.example"); err != nil {
		t.Fatal(err)
	}
	l.logged("ruleset=tls_rcpt", "bob@none.example", "451 4.7.10")
	if l.clear("MARKER") {
		t.Error("in the clear")
	}
}

// Whatever a client writes into its envelope, nothing passes that the daemon holds.
func TestHostileEnvelopes(t *testing.T) {
	startMilter(t)
	startMap(t, netstring("OK DEFER"))
	l := newLab(t, bound())
	long := strings.Repeat("a.", 110)
	markers, recipients := map[string]string{}, []string(nil)
	for i, from := range []string{
		"eve@good.example ENVID=a(b",
		"eve@good.example ENVID=a)b",
		"eve@good.example ENVID=\"a",
		"eve@good.example ENVID=a\\",
		"eve@good.example ENVID=<<a",
		"eve@good.example ENVID=PASS",
		"eve@good.example ENVID=$|",
		"eve@good.example ENVID=TLSONLY",
		"eve@good.example ENVID=TLSONLY.(",
		"eve@good.example ENVID=TLSONLY.encrypt.(",
		"eve@good.example ENVID=tlsonly.may.x",
		`"a(b"@good.example`,
		`"a<b>c"@good.example`,
		`"a\"b"@good.example`,
		long + "a@good.example",
	} {
		to := fmt.Sprintf("%sb%d@none.example", long, i)
		markers[from] = l.send(from, to)
		recipients = append(recipients, to)
	}
	for _, to := range recipients {
		l.logged("ruleset=tls_rcpt", to, "451 4.7.")
		l.logged("to=<"+to, "stat=Deferred")
	}
	if err := l.QueueRun(l.ctx); err != nil {
		t.Fatal(err)
	}
	for from, marker := range markers {
		if l.clear(marker) {
			t.Errorf("%s: in the clear", from)
		}
	}
}

// Rules that break off, here by a rule that makes long addresses too long to rewrite, let nothing pass: Sendmail itself would
// let it, as it does without the last rule.
func TestRulesBreakOff(t *testing.T) {
	startMilter(t)
	startMap(t, netstring("OK PASS"))
	snippet := strings.Replace(Snippet(settings()), "\nR<?> $*\t", "\nR<?> $*\t$@ $1 $1 $1 $1 $1 $1 $1 $1\nR<?> $*\t", 1)
	for _, c := range []struct {
		rules string
		clear bool
	}{
		{snippet, false},
		{strings.Replace(snippet, "\nR$*\t\t\t$#error $@ 4.7.5", "\nR$*\t\t\t$@ OK #error $@ 4.7.5", 1), true},
	} {
		l := newLab(t, rig.SendmailConfig{Rules: strings.Split(c.rules, "\n")})
		to := strings.Repeat("b.", 117) + "b@none.example"
		marker := l.send("eve@good.example", to)
		l.logged("SYSERR", "expansion too long")
		l.logged("to=<"+to, "stat=")
		if l.clear(marker) != c.clear {
			t.Errorf("in the clear %t, want %t", l.clear(marker), c.clear)
		}
		l.stop()
	}
}

// Without the lines the same messages do leave in the clear: these tests can fail.
func TestUnbound(t *testing.T) {
	startMilter(t)
	config := rig.SendmailConfig{Milter: settings().Milter}
	l := newLab(t, config)
	marker := l.send("alice@clinic.example", "bob@none.example")
	l.logged("to=<bob@none.example>", "stat=Sent")
	if !l.clear(marker) {
		t.Error("not in the clear without the lines")
	}
}
