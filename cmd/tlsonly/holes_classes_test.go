package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

// Rules that change while mail waits: nothing that was accepted becomes
// weaker, whatever is put before, taken away, reordered or ended.

const (
	legacyRule = "\n[[rule]]\nname = \"legacy\"\nfrom = [\"@legacy.example\"]\nto = [\"@good.example\", \"@none.example\"]\ntls = \"may\"\n" +
		"[[rule]]\nname = \"legacy too\"\nfrom = [\"@legacy.example\"]\ntls = \"encrypt\"\n"
	shopRule = "\n[[rule]]\nname = \"shop\"\nfrom = [\"@shop.example\"]\ntls = \"encrypt\"\n"
	// exceptRule is about the clinic's own mail.
	exceptRule = "\n[[rule]]\nname = \"except\"\nfrom = [\"@clinic.example\"]\nto = [\"@good.example\", \"@none.example\"]\ntls = \"may\"\n"
)

// unjudged is where a Postfix of these tests takes mail without a milter.
const unjudged = "127.0.0.1:2526"

// hup has the daemon read a file and waits until it says so.
func (w *wire) hup(text, said string) {
	w.t.Helper()
	w.daemon.write(daemonHead + text)
	before := strings.Count(w.daemon.log(), said)
	if err := w.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
	waitFor(w.t, said, func() bool { return strings.Count(w.daemon.log(), said) > before })
}

func TestMTAHolesClasses(t *testing.T) {
	long(t)
	audit := func(dir string) map[string]string {
		return map[string]string{"always_bcc": "audit@none.example", "defer_transports": "smtp tlsonly tlsonly1 tlsonly2 tlsonly3"}
	}
	both := func(w *wire) {
		w.waits("u@good.example", noOffer)
		w.waits("audit@none.example", noOffer)
	}
	reload := func(text string) func(w *wire) {
		return later(func(w *wire) { w.hup(text, "msg=reloaded") })
	}
	restart := func(text string) func(w *wire) {
		return later(func(w *wire) {
			w.daemon.stop(syscall.SIGTERM)
			w.daemon.write(daemonHead + text)
			w.daemon.start()
		})
	}
	again := func(w *wire) { // setup and reload as the manual says
		if w.bound {
			w.setup()
			w.reload()
		}
	}
	inTable := sendersTable
	runWire(t, []wireCase{
		{name: "exempt senders put before", setup: true, main: audit, send: reload(legacyRule + clinicRule), check: both},
		{name: "exempt senders put before, restart", setup: true, main: audit, send: restart(legacyRule + clinicRule), check: both},
		{name: "exception for the same senders put before", setup: true, main: audit, send: reload(exceptRule + clinicRule), check: both},
		{name: "rule taken away", setup: true, main: audit, rules: clinicRule + shopRule, send: reload(shopRule), check: both},
		{name: "rule taken away, restart", setup: true, main: audit, rules: clinicRule + shopRule, send: restart(shopRule), check: both},
		{name: "rule taken away, setup", setup: true, main: audit, rules: clinicRule + shopRule,
			send: later(func(w *wire) { w.hup(shopRule, "msg=reloaded"); again(w) }), check: both},
		{name: "rule only observes", setup: true, main: audit, rules: clinicRule + shopRule,
			send: reload(clinicRule + "mode = \"observe\"\n" + shopRule), check: both},
		{name: "reordered", setup: true, main: audit, rules: clinicRule + exceptRule[:0] + shopRule, send: reload(shopRule + exceptRule + clinicRule), check: both},
		{name: "rule before taken away", setup: true, main: audit, rules: shopRule + clinicRule, send: reload(clinicRule + legacyRule), check: both},
		{name: "setup before the reload", setup: true, main: audit,
			send: later(func(w *wire) {
				w.daemon.write(daemonHead + legacyRule + clinicRule)
				again(w)
				w.hup(legacyRule+clinicRule, "msg=reloaded")
			}), check: both},
		{name: "table: rule put before, no setup", setup: true, main: audit, tables: inTable, send: reload(inTable + legacyRule + clinicRule), check: both},
		{name: "table: setup, then reload", setup: true, main: audit, tables: inTable,
			send: later(func(w *wire) {
				w.daemon.write(daemonHead + inTable + legacyRule + clinicRule)
				again(w)
				w.hup(inTable+legacyRule+clinicRule, "msg=reloaded")
			}), check: both},
		{name: "table: rule before taken away, reload, then setup", setup: true, main: audit, tables: inTable, rules: legacyRule + clinicRule,
			send: later(func(w *wire) { w.hup(inTable+clinicRule, "msg=reloaded"); again(w) }), check: both},
		{name: "table: rule before taken away, setup, then reload", setup: true, main: audit, tables: inTable, rules: legacyRule + clinicRule,
			send: later(func(w *wire) {
				w.daemon.write(daemonHead + inTable + clinicRule)
				again(w)
				w.hup(inTable+clinicRule, "msg=reloaded")
			}), check: both},
		// In the queue manager's memory a message has its number already.
		{name: "numbers in the active queue", setup: true,
			main: func(string) map[string]string {
				return map[string]string{"tlsonly1_destination_rate_delay": "8s", "smtp_destination_rate_delay": "8s",
					"initial_destination_concurrency": "1"}
			},
			send: func(w *wire) {
				for _, to := range []string{"a", "b", "c"} {
					w.message(doctor, []string{to + "@good.example"}, nil)
				}
				waitFor(w.t, "one message to leave", func() bool { return len(w.world.Messages("good.example")) > 0 })
				w.hup(legacyRule+clinicRule, "msg=reloaded")
				w.fault("good.example", testnet.NoSTARTTLS)
			},
			check: func(w *wire) { w.waits("c@good.example", noOffer) }},
	})
}

// A rule that has ended binds what was accepted before its end.
func TestMTAHolesRuleEnds(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"always_bcc": "audit@none.example"}
	}, rules: clinicRule + "until = " + time.Now().AddDate(0, 0, -1).Format(time.DateOnly) + "\n" + shopRule}, true)
	// The milter lets it pass by now; the copy stands for one that has waited.
	w.message(doctor, []string{"u@good.example"}, nil)
	w.settle()
	w.waits("audit@none.example", noOffer)
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
}

// A file that is being written is not taken for whole, and what a whole one
// takes away is named.
func TestMTAHolesHalfAFile(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, rules: shopRule + clinicRule, master: []string{unjudged + " inet n - n - - smtpd -o smtpd_milters="}}, true)
	whole, err := os.ReadFile(w.daemon.file)
	if err != nil {
		t.Fatal(err)
	}
	half := slices.Clone(whole[:strings.Index(string(whole), clinicRule)])
	if err := os.WriteFile(w.daemon.file, half, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	// The editor goes on writing until the daemon must have seen half of it.
	writing := time.Now()
	for time.Since(writing) < 2*time.Second {
		time.Sleep(300 * time.Millisecond)
		if err := os.WriteFile(w.daemon.file, append(slices.Clone(half), fmt.Sprintf("# %s\n", time.Since(writing))...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.daemon.file, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the reload", func() bool { return strings.Contains(w.daemon.log(), "msg=reloaded rules=2") })
	if strings.Contains(w.daemon.log(), "not protected any more") {
		t.Error("the daemon believed half a file")
	}
	// A file that stays half is believed, with a warning, and binds all the same.
	w.hup(shopRule, "senders not protected any more")
	if log := w.daemon.log(); !strings.Contains(log, `level=WARN msg="senders not protected any more, but mail accepted before stays bound" senders=@clinic.example`) ||
		!strings.Contains(log, `rule=clinic why="it is gone"`) {
		t.Errorf("not named:\n%s", log)
	}
	// What would only wait isn't accepted: the client is told.
	c := dial(t, w.address)
	c.expect("MAIL FROM:<"+doctor+">", "250")
	c.expect("RCPT TO:<u@good.example>", "250")
	c.expect("RCPT TO:<u@none.example>", "451 4.7.10 TLS required: none.example does not offer STARTTLS (mail host mx1.none.example)")
	w.daemon.waitDecision("rcpt=u@none.example", "rule=clinic", "verdict=defer", "the rule is not in force any more")
	c.expect("QUIT", "221")
	if out, status := w.program("explain", "--from", doctor, "--to", "u@none.example"); status != exitNo || !strings.Contains(out, "not in force any more") {
		t.Errorf("explain: exit status %d\n%s", status, out)
	}
	// What came in unjudged waits.
	w.messageBy(dial(t, unjudged), doctor, []string{"u@none.example"}, nil)
	w.settle()
	w.waits("u@none.example", noOffer)
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
}

// For half a minute Postfix may route a sender as before it had a rule: by
// that, what is accepted by a new rule would leave.
func TestMTAHolesRouteCache(t *testing.T) {
	long(t)
	isolated(t)
	for _, others := range []string{"off", "published", "pinned"} {
		t.Run(others, func(t *testing.T) {
			tables := "[binding]\nothers = \"" + others + "\"\n"
			w := newWire(t, wireCase{setup: true, tables: tables, rules: shopRule,
				master: []string{unjudged + " inet n - n - - smtpd -o smtpd_milters="}}, true)
			w.message(doctor, []string{"u@good.example"}, nil)
			waitFor(t, "the unprotected message", func() bool { return len(w.world.Messages("good.example")) > 0 })
			routed := time.Now()
			w.hup(tables+shopRule+clinicRule, "msg=reloaded")
			c := dial(t, w.address)
			c.expect("MAIL FROM:<"+doctor+">", "250")
			c.expect("RCPT TO:<u@good.example>", "451 4.3.0 TLS rules have just changed here")
			c.expect("RSET", "250")
			// Whoever wasn't routed a moment ago doesn't wait, nor does who had a rule before.
			c.expect("MAIL FROM:<nurse@clinic.example>", "250")
			c.expect("RCPT TO:<u@mixed.example>", "250")
			c.expect("QUIT", "221")
			if others != "off" {
				return
			}
			// What comes in unjudged shows that the danger is real.
			w.fault("good.example", testnet.NoSTARTTLS)
			w.messageBy(dial(t, unjudged), doctor, []string{"u@good.example"}, nil)
			w.settle()
			if host, _ := w.leak(); host == "" && time.Since(routed) < 25*time.Second {
				t.Error("Postfix had no route in memory: the test shows nothing")
			}
		})
	}
}

// An exception that is added holds at delivery once former rules are
// released, which takes more than a reload while mail waits.
func TestMTAHolesRelease(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"always_bcc": "audit@none.example"}
	}}, true)
	w.message(doctor, []string{"u@good.example"}, nil)
	w.settle()
	w.waits("audit@none.example", noOffer)
	release := func(want string, status int, flags ...string) {
		t.Helper()
		out, got := w.program(append([]string{"classes", "release", "--config-directory", w.postfix.Etc}, flags...)...)
		if got != status || !strings.Contains(out, want) {
			t.Errorf("classes release %v: exit status %d, want %d and %q\n%s", flags, got, status, want, out)
		}
	}
	release("no former rules bind anything", exitOK)
	w.daemon.write(daemonHead + exceptRule + clinicRule)
	release("the daemon has not read this file yet", exitNo)
	w.hup(exceptRule+clinicRule, `msg="exception does not apply at delivery yet, because former rules still bind" rule=except`)
	if out, _ := w.program("classes"); !strings.Contains(out, "tlsonly1  @clinic.example  in force; rules except (may), clinic (encrypt)") ||
		!strings.Contains(out, "tlsonly1  @clinic.example  binds mail accepted before, until ") {
		t.Errorf("classes:\n%s", out)
	}
	w.retry("status=deferred")
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
	release("mail that was accepted before the rules changed still waits: 1 message", exitNo)
	release("released: 1 former set", exitOK, "--force")
	waitFor(t, "the exception to hold at delivery", func() bool {
		w.run("postqueue", "-f")
		time.Sleep(200 * time.Millisecond)
		host, _ := w.leak()
		return host != ""
	})
}
