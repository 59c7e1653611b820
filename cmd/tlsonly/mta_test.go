package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/store/storetest"
	"tlsonly/internal/testnet"
)

// One message, five destinations: each recipient is answered for itself, and the good ones get the message.
func TestMTAFiveRecipients(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		world := newWorld(t)
		d := startDaemon(t, daemonHead+clinicRule)
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		for _, r := range []struct{ rcpt, code, want string }{
			{"a@good.example", "250", ""},
			{"b@none.example", "550 5.7.10 ", "TLS required: none.example does not offer STARTTLS (mail host mx1.none.example)"},
			{"c@mixed.example", "250", ""},
			{"d@old.example", "550 5.7.10 ", "TLS required: old.example offers only TLS below this site's minimum (mail host mx1.old.example)"},
			{"e@refused.example", "550 5.7.10 ", "TLS required: refused.example cannot complete a TLS handshake (mail host mx1.refused.example)"},
			{"f@nullmx.example", "556 5.1.10 ", "nullmx.example does not accept mail"},
			{"g@silent.example", "451 4.7.5 ", "TLS capability of silent.example is not known yet, try again"},
		} {
			want := r.code
			if r.code[:3] == "550" { // Sendmail names the recipient with this code, not with 451 and 556
				want += m.prefix(r.rcpt)
			}
			want += r.want
			reply := c.expect("RCPT TO:<"+r.rcpt+">", want)
			t.Logf("%s: %s", r.rcpt, reply)
		}
		c.data("250", "Subject: five", "From: doctor@clinic.example", "To: a@good.example, c@mixed.example")
		waitMessages(t, world, "good.example", 1)
		waitMessages(t, world, "mixed.example", 1)
		for _, domain := range []string{"none.example", "old.example", "refused.example"} {
			if got := world.Messages(domain); len(got) != 0 {
				t.Errorf("%s got %d messages", domain, len(got))
			}
		}
		d.waitDecision("from=doctor@clinic.example", "rcpt=a@good.example", "rule=clinic", "verdict=accept", "level=encrypt", "destination=good.example")
		d.waitDecision("rcpt=b@none.example", "verdict=reject", "reason=no-starttls")
		line := d.waitDecision("rcpt=g@silent.example", "verdict=defer", "reason=timeout")
		if !strings.Contains(line, "err=") {
			t.Errorf("no cause in %s", line)
		}
	})
}

// The header says what was found, stands first, and copies that came with the message are gone.
func TestMTATags(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		world := newWorld(t)
		daemon := startDaemon(t, daemonHead+`
[[rule]]
name = "watch"
from = ["@watched.example"]
tls = "encrypt"
mode = "observe"
[[rule]]
name = "tag"
from = ["@tagged.example"]
tls = "encrypt"
on_fail = "tag"
`+clinicRule)
		m := start()
		for _, r := range []struct{ from, domain, want string }{
			{"doctor@clinic.example", "good.example", `TLS-Only: pass; rule="clinic"; tls=encrypt`},
			{"x@watched.example", "none.example", `TLS-Only: observe; rule="watch"; tls=encrypt; reason=no-starttls; would=reject`},
			{"x@tagged.example", "none.example", `TLS-Only: fail; rule="tag"; tls=encrypt; reason=no-starttls`},
			{"x@nobody.example", "good.example", ""},
		} {
			before := len(world.Messages(r.domain))
			if r.from == "x@watched.example" {
				// The header doesn't wait for what isn't known yet.
				c := dial(t, m.address)
				c.expect("MAIL FROM:<"+r.from+">", "250")
				c.expect("RCPT TO:<u@"+r.domain+">", "250")
				c.data("250", "Subject: first")
				daemon.waitDecision("rcpt=u@"+r.domain, "would=reject")
				first := named(headerOf(t, waitMessages(t, world, r.domain, before+1)[before]), "TLS-Only")
				if len(first) != 1 || !strings.HasPrefix(first[0], `TLS-Only: observe; rule="watch"; tls=encrypt`) {
					t.Errorf("first: %q", first)
				}
				before++
			}
			c := dial(t, m.address)
			c.expect("MAIL FROM:<"+r.from+">", "250")
			c.expect("RCPT TO:<u@"+r.domain+">", "250")
			c.data("250", "TLS-Only: pass; forged=1", "Subject: tags", "tls-only: forged=2", "From: x@clinic.example", "TLS-ONLY: pass;", " forged=3")
			fields := headerOf(t, waitMessages(t, world, r.domain, before+1)[before])
			got := named(fields, "TLS-Only")
			if r.want == "" {
				if len(got) != 3 {
					t.Errorf("%s: an unprotected sender's header was touched: %q", r.from, got)
				}
				continue
			}
			if len(got) != 1 || got[0] != r.want || !strings.EqualFold(fields[0], r.want) {
				t.Errorf("%s: got %q, first field %q, want %q", r.from, got, fields[0], r.want)
			}
		}
	})
}

// A held message waits in the MTA's quarantine.
func TestMTAHold(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		world := newWorld(t)
		startDaemon(t, daemonHead+clinicRule+`on_fail = "hold"`)
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.data("250", "Subject: hold")
		waitFor(t, "a message in quarantine", func() bool { return m.held() == 1 })
		if got := world.Messages("none.example"); len(got) != 0 {
			t.Errorf("%d held messages were delivered", len(got))
		}
	})
}

// Several messages on one connection, aborted ones between: nothing of one is left in the next.
func TestMTASeveralMessages(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		world := newWorld(t)
		startDaemon(t, daemonHead+clinicRule)
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.expect("RSET", "250")
		c.expect("MAIL FROM:<x@nobody.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.data("250", "Subject: unprotected")
		c.expect("MAIL FROM:<DOCTOR+tag@Clinic.EXAMPLE>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.expect("EHLO again.example", "250")
		c.expect("MAIL FROM:<>", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.expect("RSET", "250")
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@good.example>", "250")
		c.data("250", "Subject: protected")
		got := waitMessages(t, world, "good.example", 1)
		if len(named(headerOf(t, got[0]), "TLS-Only")) != 1 {
			t.Errorf("no tag: %s", got[0].Data)
		}
		plain := waitMessages(t, world, "none.example", 1)
		if !strings.Contains(string(plain[0].Data), "Subject: unprotected") || len(plain) != 1 {
			t.Errorf("none.example got %d messages: %s", len(plain), plain[0].Data)
		}
	})
}

// Without the daemon nothing is accepted; when it is back, no restart of the MTA is needed.
func TestMTADaemonAway(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		newWorld(t)
		d := startDaemon(t, daemonHead+clinicRule)
		m := start()
		d.stop(syscall.SIGTERM)
		c := dial(t, m.address)
		got, err := c.say("MAIL FROM:<doctor@clinic.example>")
		if err != nil || !strings.HasPrefix(got, "451") {
			t.Fatalf("without the daemon: %q, %v", got, err)
		}
		d.start()
		c = dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
	})
}

// SIGHUP changes the rules for the next message; a bad file changes nothing.
func TestMTAReload(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, nil, nil)
	c := dial(t, m.address)
	try := func(want string) {
		t.Helper()
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", want)
		c.expect("RSET", "250")
	}
	hup := func(text, said string) {
		t.Helper()
		d.write(text)
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.wait(said, func() bool { return strings.Contains(d.log(), said) })
	}
	try("550")
	hup(daemonHead+clinicRule+`on_fail = "defer"`, "msg=reloaded")
	try("451 4.7.10 TLS required: none.example does not offer STARTTLS (mail host mx1.none.example)")
	hup(daemonHead+clinicRule+`on_fail = "explode"`, "reload refused")
	if !strings.Contains(d.log(), "want reject, defer, hold, tag or fallback") {
		t.Error("the fault is not in the log")
	}
	try("451")
}

// A rule by SASL login binds whatever address the client claims.
func TestMTALogin(t *testing.T) {
	isolated(t)
	newWorld(t)
	startDaemon(t, daemonHead+"\n[[rule]]\nname = \"login\"\nuser = [\"Alice\"]\ntls = \"encrypt\"\n")
	_, m := startPostfix(t, nil, map[string]string{"alice": "secret", "bob": "secret"})
	for _, r := range []struct{ user, want string }{{"alice", "550 5.7.10"}, {"bob", "250"}, {"", "250"}} {
		c := dial(t, m.address)
		if r.user != "" {
			c.login(r.user, "secret")
		}
		c.expect("MAIL FROM:<any@other.example>", "250")
		c.expect("RCPT TO:<u@none.example>", r.want)
	}
}

// Mail handed in by sendmail(1): Postfix takes no refusal of a recipient there, so the answer comes at the end.
func TestMTAPickup(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	p, m := startPostfix(t, map[string]string{"bounce_queue_lifetime": "0"}, nil)
	submit := func(from string, to ...string) {
		t.Helper()
		if _, err := p.Run(patient(t), "Subject: pickup\n\nHello.\n", "sendmail", append([]string{"-i", "-f", from}, to...)...); err != nil {
			t.Fatal(err)
		}
	}
	submit("doctor@clinic.example", "u@good.example")
	got := waitMessages(t, world, "good.example", 1)
	if len(named(headerOf(t, got[0]), "TLS-Only")) != 1 {
		t.Errorf("no tag: %s", got[0].Data)
	}
	submit("doctor@clinic.example", "u@good.example", "v@none.example")
	if _, err := p.WaitLog(patient(t), "status=bounced (TLS required: none.example does not offer STARTTLS (mail host mx1.none.example))"); err != nil {
		t.Error(err)
	}
	d.waitDecision("rcpt=v@none.example", "verdict=reject")
	submit("x@nobody.example", "w@none.example")
	waitMessages(t, world, "none.example", 1)
	if n := len(world.Messages("good.example")); n != 1 {
		t.Errorf("good.example has %d messages, want 1: the refused message is refused as a whole", n)
	}
	if bad := m.logs("milter configuration error"); len(bad) > 0 {
		t.Errorf("%q", bad)
	}
	submit("doctor@clinic.example", "u@silent.example")
	d.waitDecision("rcpt=u@silent.example", "verdict=defer")
	waitFor(t, "the deferred message in maildrop", func() bool {
		queue, err := p.Queue(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		return len(queue) == 1 && queue[0].Queue == "maildrop"
	})
}

// What Postfix delivers itself needs no TLS; where the daemon can't tell by the transport, the file says it.
func TestMTALocal(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+"[forwarding]\nlocal = [\"local.example\", \"box.example\"]\n"+clinicRule)
	_, m := startPostfix(t, map[string]string{"virtual_alias_domains": "alias.example", "virtual_alias_maps": "inline:{a@alias.example=root@local.example}"}, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<u@local.example>", "250")
	c.expect("RCPT TO:<u@box.example>", "250")
	c.expect("RCPT TO:<a@alias.example>", "250")
	c.data("250", "Subject: local")
	d.waitDecision("rcpt=a@alias.example", "verdict=accept")
}

// relayhost: the daemon asks what Postfix will ask, not the recipient's MX.
func TestMTARelayhost(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, map[string]string{"relayhost": "[mx1.none.example]"}, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<u@good.example>", "550 5.7.10 TLS required: [mx1.none.example] does not offer STARTTLS")
	d.waitDecision("rcpt=u@good.example", "destination=[mx1.none.example]")
}

// headers = true: a message may not take its own protection off.
func TestMTATLSRequiredNo(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		newWorld(t)
		startDaemon(t, strings.Replace(daemonHead, "[dns]", "headers = true\n[dns]", 1)+clinicRule)
		m := start()
		for _, r := range []struct{ from, want string }{{"doctor@clinic.example", "550 5.7.10"}, {"x@nobody.example", "250"}} {
			c := dial(t, m.address)
			c.expect("MAIL FROM:<"+r.from+">", "250")
			c.expect("RCPT TO:<u@good.example>", "250")
			c.data(r.want, "Subject: x", "tls-required:  No")
		}
	})
}

// A sender without a domain gets the one that the MTA will give it.
func TestMTABareSender(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() realMTA) {
		newWorld(t)
		startDaemon(t, daemonHead+strings.Replace(clinicRule, `"@clinic.example"`, `"@.test", "@clinic.example"`, 1))
		m := start()
		for _, from := range []string{"operator", "clinic.example!doctor", "doctor%clinic.example"} {
			c := dial(t, m.address)
			c.expect("MAIL FROM:<"+from+">", "250")
			c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
		}
	})
}

// A destination that loses TLS is a loss, not a new truth: across the end of memory, a restart and a kill, until an
// administrator unpins it.
func TestMTALostTLS(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	d := startDaemon(t, daemonHead+"[cache]\nsuccess = \"1s\"\nfailure = \"1s\"\n"+clinicRule)
	_, m := startPostfix(t, nil, nil)
	rcpt := func(user string) string {
		t.Helper()
		c := dial(t, m.address)
		defer c.conn.Close()
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		got, err := c.say("RCPT TO:<" + user + "@good.example>")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := rcpt("first"); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	if got := d.command("domains", "list"); !strings.Contains(got, "good.example") || !strings.Contains(got, "rule:clinic") {
		t.Errorf("domains list:\n%s", got)
	}
	world.Hosts("good.example")[0].SetFault(testnet.NoSTARTTLS)
	const lost = "451 4.7.10 TLS required: good.example offered TLS before and does not now (mail host mx1.good.example)"
	waitFor(t, "the loss to be seen", func() bool { return rcpt("second") == lost })
	d.wait("the loss in the history", func() bool { return strings.Contains(d.command("domains", "history", "good.example"), "lost-tls") })
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		d.stop(signal)
		d.start()
		if got := rcpt("third"); got != lost {
			t.Errorf("after %s: %s", signal, got)
		}
	}
	if got := d.command("domains", "show", "good.example"); !strings.Contains(got, "rule:clinic") || !strings.Contains(got, "encrypt 1.2 128") {
		t.Errorf("domains show:\n%s", got)
	}
	t.Logf("domains history:\n%s", d.command("domains", "history", "good.example"))
	d.command("domains", "unpin", "good.example", "--why", "they gave it up")
	waitFor(t, "the unpinning to reach the daemon", func() bool {
		return rcpt("fourth") == "550 5.7.10 TLS required: good.example does not offer STARTTLS (mail host mx1.good.example)"
	})
	if got := d.command("domains", "history", "good.example"); !strings.Contains(got, "they gave it up") {
		t.Errorf("domains history:\n%s", got)
	}
}

// A recipient whose demand can't be stored is deferred; what stands already costs no store.
func TestMTAStoreAway(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, nil, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<u@good.example>", "250")
	lock := d.lockStore()
	c.expect("RCPT TO:<v@good.example>", "250")
	c.expect("RCPT TO:<u@self.example>", "451 4.3.0 what TLS this mail needs can't be recorded here now, try again")
	d.waitDecision("rcpt=u@self.example", "verdict=defer", "demand not stored")
	lock()
	c.expect("RCPT TO:<u@self.example>", "250")
}

// A fleet's PostgreSQL goes away under load and comes back: mail to known destinations goes on, unknown ones are
// deferred, and nobody has to restart anything.
func TestMTAPostgres(t *testing.T) {
	isolated(t)
	newWorld(t)
	postgres := storetest.StartPostgres(t)
	d := startDaemonOn(t, daemonHead+clinicRule, postgres.URL(t))
	_, m := startPostfix(t, nil, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<first@good.example>", "250")
	postgres.Stop(t)
	for i := range 20 {
		c.expect(fmt.Sprintf("RCPT TO:<known%d@good.example>", i), "250")
	}
	c.expect("RCPT TO:<u@self.example>", "451 4.3.0 what TLS this mail needs can't be recorded here now, try again")
	c.expect("RCPT TO:<u@none.example>", "550 5.7.10 TLS required: none.example does not offer STARTTLS (mail host mx1.none.example)")
	postgres.Start(t)
	waitFor(t, "the store to be used again", func() bool {
		got, err := c.say("RCPT TO:<u@self.example>")
		return err == nil && strings.HasPrefix(got, "250")
	})
	if got := d.command("domains", "list"); !strings.Contains(got, "self.example") {
		t.Errorf("domains list:\n%s", got)
	}
}
