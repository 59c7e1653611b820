package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

const staffRule = `
[[rule]]
name = "staff"
forwarder = ["@local.example"]
tls = "encrypt"
`

// Mail from anybody to a mailbox that forwards into the clear waits, by the client's own queue; its neighbour's comes in, and
// so does that of a mailbox which forwards to a host with TLS. A forward that is changed counts at once.
func TestMTAForwards(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	aliases := filepath.Join(dir, "aliases")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(aliases, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("doctor u@none.example\nnurse u@good.example\nneighbour /dev/null\nboth u@none.example, neighbour\n")
	p, m := startPostfix(t, map[string]string{
		"mydestination":   "local.example",
		"local_transport": "local",
		"alias_maps":      "texthash:" + aliases,
	}, nil)
	d := startDaemon(t, daemonHead+"[forwarding]\npostfix = \""+p.Etc+"\"\n"+clinicRule+staffRule)

	c := dial(t, m.address)
	c.expect("MAIL FROM:<stranger@far.example>", "250")
	for _, r := range []struct{ to, want string }{
		{"doctor", "451 4.7.10 TLS required: doctor@local.example does not offer STARTTLS (forwarded)"},
		{"neighbour", "250"},
		{"nurse", "250"},
		{"both", "451 4.7.10 TLS required: both@local.example does not offer STARTTLS (forwarded)"},
	} {
		got := c.expect("RCPT TO:<"+r.to+"@local.example>", r.want)
		if strings.Contains(got, "none.example") {
			t.Errorf("the stranger is told where the mail goes: %s", got)
		}
	}
	c.data("250", "Subject: x")
	waitMessages(t, world, "good.example", 1)
	d.waitDecision("rcpt=doctor@local.example", "rule=staff", "verdict=defer", "reason=forward", "u@none.example")

	// What protected senders send inside is followed, too, by their own rule.
	c = dial(t, m.address)
	c.expect("MAIL FROM:<a@clinic.example>", "250")
	c.expect("RCPT TO:<doctor@local.example>", "550 5.7.10 TLS required: doctor@local.example does not offer STARTTLS (forwarded)")
	c.expect("RCPT TO:<nurse@local.example>", "250")

	// The table changes, Postfix reads it anew, and so do we.
	write("doctor u@good.example\nnurse u@none.example\n")
	if err := os.Chtimes(aliases, time.Now(), time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	c = dial(t, m.address)
	c.expect("MAIL FROM:<stranger@far.example>", "250")
	c.expect("RCPT TO:<doctor@local.example>", "250")
	c.expect("RCPT TO:<nurse@local.example>", "451 4.7.10 TLS required: nurse@local.example does not offer STARTTLS (forwarded)")
	// The audit tells of what began to break the rule, and of what no longer does.
	d.wait("the change to be told", func() bool {
		log := d.log()
		return strings.Contains(log, "what=forward from=nurse@local.example to=u@none.example") &&
			strings.Contains(log, "what=forward-ok from=doctor@local.example to=u@none.example")
	})
	if n := len(world.Messages("none.example")); n != 0 {
		t.Errorf("%d messages left in the clear", n)
	}
}

// A forward that the rules held at acceptance is held at delivery: the destination that was promised TLS keeps the mail of
// strangers, which no transport of ours carries, when it loses it.
func TestMTAForwardBoundAtDelivery(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	aliases := filepath.Join(dir, "aliases")
	if err := os.WriteFile(aliases, []byte("doctor u@good.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, m := startPostfix(t, map[string]string{
		"mydestination":        "local.example",
		"local_transport":      "local",
		"alias_maps":           "texthash:" + aliases,
		"smtp_tls_policy_maps": "socketmap:inet:127.0.0.1:8690:policy",
	}, nil)
	startDaemon(t, daemonHead+"[forwarding]\npostfix = \""+p.Etc+"\"\n"+staffRule)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<stranger@far.example>", "250")
	c.expect("RCPT TO:<doctor@local.example>", "250")
	world.Hosts("good.example")[0].SetFault(testnet.NoSTARTTLS)
	c.data("250", "Subject: x")
	waitFor(t, "the mail to be held", func() bool {
		return len(m.logs("TLS is required, but was not offered by host mx1.good.example")) > 0
	})
	if n := len(world.Messages("good.example")); n != 0 {
		t.Errorf("%d messages left in the clear", n)
	}
}
