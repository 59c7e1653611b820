package milter

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
	"tlsonly/rules"
)

// Real Postfix takes the change of the sender: its bounces carry headers only, the client's envelope id stays, and the null
// sender can be changed to itself. Without it the bounce has the text. (Real Sendmail: internal/mta/sendmail.)
func TestPostfixRedacts(t *testing.T) {
	if err := rig.Isolated(); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	world, err := testnet.StartWorld("127.0.0.1:53", 25, []testnet.Site{
		{Domain: "good.example", Hosts: []testnet.Host{{}}},
		{Domain: "strict.example", Hosts: []testnet.Host{{Reject: func(string) string { return "550 5.1.1 no such user" }}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer world.Close()
	protect := rules.New([]*rules.Rule{rule("site", "@good.example", nil), rule("bounces", "<>", nil)})
	b := start(t, func(c *Config) { c.Rules = func() *rules.Set { return protect } })
	open := start(t, func(c *Config) {
		c.Rules = b.c.Rules
		c.RedactBounces = false
	})
	p, err := rig.StartPostfix(ctx, rig.PostfixConfig{Main: map[string]string{
		"smtpd_milters":           "inet:" + b.addr,
		"smtp_tls_security_level": "may",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	host := world.Hosts("good.example")[0]

	send := func(mail, to string) string {
		t.Helper()
		marker := rand.Text()
		c, err := textproto.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, _, err := c.ReadResponse(220); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			line string
			want int
		}{{"EHLO client.example", 250}, {"MAIL FROM:" + mail, 250}, {"RCPT TO:<" + to + ">", 250}, {"DATA", 354},
			{"Subject: head " + marker + "\r\n\r\ntext " + marker + "\r\n.", 250}, {"QUIT", 221}} {
			if err := c.PrintfLine("%s", step.line); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.ReadResponse(step.want); err != nil {
				t.Fatalf("%s: %v\n%s", step.line, err, p.Log())
			}
		}
		return marker
	}
	bounce := func(n int, marker string) []byte {
		t.Helper()
		if err := host.WaitMessages(ctx, n); err != nil {
			t.Fatalf("%v\n%s", err, p.Log())
		}
		m := host.Messages()[n-1]
		if m.From != "" || !bytes.Contains(m.Data, []byte("head "+marker)) {
			t.Fatalf("no bounce: from %q\n%s", m.From, m.Data)
		}
		return m.Data
	}

	marker := send("<alice@good.example> RET=FULL ENVID=abc", "bob@strict.example")
	got := bounce(1, marker)
	if bytes.Contains(got, []byte("text "+marker)) || !bytes.Contains(got, []byte("Original-Envelope-Id: abc")) {
		t.Errorf("bounce:\n%s", got)
	}
	marker = send("<>", "bob@good.example")
	if err := host.WaitMessages(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if m := host.Messages()[1]; m.From != "" || !bytes.Contains(m.Data, []byte("text "+marker)) {
		t.Errorf("from %q:\n%s", m.From, m.Data)
	}
	if wire := strings.Join(host.Commands(), "\n"); !strings.Contains(wire, "MAIL FROM:<> SIZE=") || !strings.Contains(wire, "RET=HDRS") {
		t.Errorf("on the wire:\n%s", wire)
	}
	if lines := p.LogLines("warning"); len(lines) > 0 {
		t.Errorf("Postfix warns: %q", lines)
	}

	if err := p.Set(ctx, map[string]string{"smtpd_milters": "inet:" + open.addr}); err != nil {
		t.Fatal(err)
	}
	marker = send("<alice@good.example> RET=FULL", "bob@strict.example")
	if got := bounce(3, marker); !bytes.Contains(got, []byte("text "+marker)) {
		t.Errorf("bounce without a change of the sender:\n%s", got)
	}
}
