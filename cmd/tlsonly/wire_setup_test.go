package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

const sendersTable = "[binding]\nsenders = \"table\"\n"

// The sender map as a static table that setup writes.
func TestMTAWireSendersTable(t *testing.T) {
	long(t)
	lost := func(w *wire) { w.waits("u@good.example", noOffer) }
	send := func(from string) func(w *wire) {
		return func(w *wire) {
			w.message(from, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		}
	}
	above := strings.Replace(clinicRule, "@clinic", "@.clinic", 1)
	runWire(t, []wireCase{
		{name: "domain", setup: true, tables: sendersTable, send: send(doctor), check: lost},
		{name: "other case, extension", setup: true, tables: sendersTable, send: send("DOCTOR+x@Clinic.Example"), check: lost},
		{name: "quoted", setup: true, tables: sendersTable, rules: strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1),
			send: send(`"doctor+at the@desk"@clinic.example`), check: lost},
		{name: "below a domain", setup: true, tables: sendersTable, rules: above, send: send("doctor@ward.clinic.example"), check: lost},
		// Delivery itself asks nobody: the table binds without the daemon.
		{name: "daemon away", setup: true, tables: sendersTable, main: deferred, send: later(func(w *wire) { w.daemon.stop(syscall.SIGTERM) }),
			check: func(w *wire) {
				w.waits("u@good.example", "")
				if got := w.postfix.LogLines("warning: problem talking to service rewrite"); len(got) > 0 {
					w.t.Errorf("senders can't be looked up: %q", got)
				}
			}},
	})
}

// With a static table, and nothing to hold others to, unprotected mail doesn't wait for the daemon.
func TestMTAWireSendersTableOthers(t *testing.T) {
	long(t)
	isolated(t)
	for _, c := range []struct {
		tables string
		goes   bool
	}{
		{"[binding]\nsenders = \"table\"\nothers = \"off\"\n", true},
		{"[binding]\nothers = \"off\"\n", false}, // asked, and nobody answers
	} {
		w := newWire(t, wireCase{setup: true, tables: c.tables, main: deferred}, true)
		w.message("x@other.example", []string{"u@none.example"}, nil)
		w.marker += "-doctor"
		w.message(doctor, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		w.settle()
		w.daemon.stop(syscall.SIGTERM)
		if err := w.postfix.Set(patient(t), map[string]string{"defer_transports": ""}); err != nil {
			t.Fatal(err)
		}
		w.run("postqueue", "-f")
		if c.goes {
			waitMessages(t, w.world, "none.example", 1)
			w.tried()
		} else {
			waitFor(t, "the failed look-up", func() bool { return len(w.postfix.LogLines("sender_dependent_default_transport_maps")) > 0 })
		}
		w.settle()
		if got := len(w.world.Messages("none.example")); (got == 1) != c.goes {
			t.Errorf("%s: %d unprotected messages went", c.tables, got)
		}
		if host, at := w.leak(); host != "" {
			t.Errorf("%s: %s saw the protected message in the clear: …%q…", c.tables, host, at)
		}
		if err := w.postfix.Stop(); err != nil {
			t.Error(err)
		}
		w.world.Close()
	}
}

// doctor finds a table that the rules have left behind, and says what of it matters.
func TestMTASendersTableStale(t *testing.T) {
	long(t)
	isolated(t)
	later := time.Now().AddDate(0, 1, 0).Format(time.DateOnly)
	bank := strings.NewReplacer("clinic", "bank").Replace(clinicRule)
	w := newWire(t, wireCase{setup: true, tables: sendersTable, rules: clinicRule}, true)
	finds := func(want string, status int) {
		t.Helper()
		out, got := w.program("doctor", "postfix")
		if found := strings.Contains(out, "sender-table-"); got != status || found == (want == "") || !strings.Contains(out, want) {
			t.Errorf("doctor: exit status %d, want %d and %q\n%s", got, status, want, out)
		}
	}
	finds("", exitOK)
	w.daemon.write(daemonHead + sendersTable + clinicRule + bank)
	finds("tlsonly_senders.regexp doesn't say what the rules say now", exitNo)
	out, status := w.program("setup", "postfix", "--apply", "--no-reload")
	if status != exitOK || !strings.Contains(out, "run setup again when senders in them change") ||
		!strings.Contains(out, `[binding] others = "off" takes that away`) {
		t.Errorf("setup: exit status %d\n%s", status, out)
	}
	w.reload()
	finds("", exitOK)
	// A rule that ends is told of, and leaves a table that holds too much.
	w.daemon.write(daemonHead + sendersTable + clinicRule + bank + "until = " + later + "\n")
	ends := `rule "bank" ends with ` + later + ": its senders stay in the table until setup is run again"
	if out, _ := w.program("setup", "postfix"); !strings.Contains(out, ends) {
		t.Errorf("setup:\n%s", out)
	}
	finds("", exitOK)
	// It binds what was accepted before, until former rules are released.
	w.hup(sendersTable+clinicRule+bank+"until = 2026-01-31\n", "msg=reloaded")
	finds("", exitOK)
	if out, status := w.program("classes", "release", "--force"); status != exitOK {
		t.Fatalf("release: exit status %d\n%s", status, out)
	}
	finds("tlsonly_senders.regexp is from before a rule ended", exitOK)
}

// When rules make more classes than Postfix has transports, mail of the surplus ones goes by the strict transport, also when
// the daemon was started anew and nobody has run setup.
func TestMTAWireSurplusClass(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + strings.NewReplacer("clinic", "bank").Replace(clinicRule) + "min_version = \"1.3\"\n" + clinicRule)
	w.daemon.start()
	w.message("teller@bank.example", []string{"u@good.example"}, nil) // its class is new: the clinic keeps its number
	w.settle()
	w.delivered("good.example", 1)
	if lines := w.postfix.LogLines("postfix/tlsonly/smtp"); len(lines) == 0 {
		t.Errorf("not by the strict transport:\n%s", w.postfix.Log())
	}
	if !strings.Contains(w.daemon.log(), "more sender classes than transports") {
		t.Error("the daemon says nothing")
	}
	if out, _ := w.program("doctor", "postfix"); !strings.Contains(out, "the daemon doesn't know which transports there are") {
		t.Errorf("doctor:\n%s", out)
	}
}

// A client of the site's own may name another host in the local part of an address here: its mail leaves, and is judged by
// where it goes.
func TestMTARoutedRecipient(t *testing.T) {
	long(t)
	isolated(t)
	const local = "[forwarding]\nlocal = [\"local.example\", \"mta.test\"]\n"
	try := func(t *testing.T, d *daemonProcess, address, here string) {
		t.Helper()
		c := dial(t, address)
		c.expect("MAIL FROM:<"+doctor+">", "250")
		c.expect("RCPT TO:<u%none.example@"+here+">", "550 5.7.10")
		d.waitDecision("rcpt=u@none.example", "destination=none.example", "verdict=reject")
		c.expect("RCPT TO:<u%good.example@"+here+">", "250")
		c.data("250", "Subject: routed")
		d.waitDecision("rcpt=u@good.example", "destination=good.example", "verdict=accept")
	}
	t.Run("postfix", func(t *testing.T) {
		w := newWire(t, wireCase{setup: true, tables: local}, true)
		try(t, w.daemon, w.address, "local.example")
		waitMessages(t, w.world, "good.example", 1)
	})
	t.Run("sendmail", func(t *testing.T) {
		w := newSendmailWire(t, sendmailCase{rules: local}, true)
		try(t, w.daemon, w.address, "mta.test")
		waitMessages(t, w.world, "good.example", 1)
	})
}
