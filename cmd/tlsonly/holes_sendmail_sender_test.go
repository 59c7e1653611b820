package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tlsonly/internal/testnet"
)

// The sender that a host is told, and whom Sendmail makes of a bare name, are
// judged like the one in the queue, at acceptance and at delivery.

// knowsSendmail starts the daemon anew with this Sendmail's settings.
func (w *wire) knowsSendmail(rules string) {
	w.t.Helper()
	cmd := w.sendmail.Command(patient(w.t), "sendmail")
	script := "#!/bin/sh\nexec env"
	for _, v := range cmd.Env {
		if strings.HasPrefix(v, "LD_LIBRARY_PATH=") {
			script += " " + v
		}
	}
	own := write(w.dir, "sendmail", script+" "+cmd.Path+" \"$@\"\n")
	const program = "/usr/sbin/sendmail"
	if err := os.Chmod(own, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mount(own, program, "", unix.MS_BIND, ""); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(program, 0); err != nil {
			w.t.Error(err)
		}
	})
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + "[forwarding]\npostfix = \"off\"\nsendmail = \"" + w.sendmail.Cf + "\"\n" + rules)
	w.daemon.start()
}

// masquerading has Sendmail name senders here as the clinic's to hosts.
func masquerading(string) []string {
	return append(queueOnly(""), "MASQUERADE_AS(`clinic.example')dnl", "MASQUERADE_DOMAIN(`mta.test')dnl",
		"FEATURE(`masquerade_envelope')dnl", "FEATURE(`masquerade_entire_domain')dnl", "FEATURE(`accept_unqualified_senders')dnl")
}

// generics has Sendmail name senders at inside.example as a table says.
func generics(table string) func(dir string) []string {
	return func(dir string) []string {
		return append(queueOnly(dir), "GENERICS_DOMAIN(`inside.example')dnl", "FEATURE(`masquerade_envelope')dnl",
			"FEATURE(`genericstable', `text -o "+write(dir, "genericstable", table)+"')dnl")
	}
}

func TestMTAHolesSendmailSender(t *testing.T) {
	long(t)
	isolated(t)
	smtp := func(from string) func(w *wire) {
		return func(w *wire) { w.message(from, []string{"u@good.example"}, nil) }
	}
	command := func(args ...string) func(w *wire) {
		return func(w *wire) {
			if _, err := w.sendmail.Run(patient(w.t), w.text(), append(args, "u@good.example")...); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	own := ruleFor(`"@mta.test"`)
	for _, c := range []struct {
		sendmailCase
		judged string // at acceptance, as this; "" where no milter is asked
	}{
		{sendmailCase{name: "masqueraded", mc: masquerading, send: smtp("doctor@mta.test")}, "doctor@mta.test"},
		{sendmailCase{name: "masqueraded from below", mc: masquerading, send: smtp("doctor@ward.mta.test")}, "doctor@ward.mta.test"},
		{sendmailCase{name: "bare, masqueraded", mc: masquerading, send: smtp("doctor")}, "doctor@mta.test"},
		{sendmailCase{name: "by the generics table", mc: generics("doc@inside.example doctor@clinic.example\n"),
			send: smtp("doc@inside.example")}, "doc@inside.example"},
		{sendmailCase{name: "by the generics table, with a detail", mc: generics("doc@inside.example doctor@clinic.example\n"),
			send: smtp("Doc+ward@inside.example")}, "Doc+ward@inside.example"},
		{sendmailCase{name: "by the generics table, away from it", mc: generics("doctor@inside.example x@other.example\n"),
			rules: ruleFor(`"@inside.example"`), send: smtp("doctor@inside.example")}, "doctor@inside.example"},
		{sendmailCase{name: "sendmail(1), bare", mc: queueOnly, rules: own, send: command("-Am", "-f", "doctor")}, ""},
		{sendmailCase{name: "sendmail(1), nobody named", mc: queueOnly, rules: own, send: command("-Am")}, ""},
		{sendmailCase{name: "sendmail(1), bare and masqueraded", mc: masquerading, send: command("-Am", "-f", "doctor")}, ""},
		{sendmailCase{name: "sendmail(1), submitting a bare sender", mc: queueOnly, rules: own,
			send: func(w *wire) { w.submit("doctor", "u@good.example") }}, "doctor@mta.test"},
	} {
		if c.rules == "" {
			c.rules = clinicRule
		}
		t.Run(c.name, func(t *testing.T) {
			t.Run("bound", func(t *testing.T) {
				w := newReportWire(t, c.sendmailCase, true)
				w.knowsSendmail(c.rules)
				c.send(w)
				if c.judged != "" {
					w.daemon.waitDecision("from="+c.judged+" ", "rcpt=u@good.example", "verdict=accept")
				}
				w.fault("good.example", testnet.NoSTARTTLS)
				refusedFor("u@good.example")(w)
				if host, at := w.leak(); host != "" {
					t.Errorf("%s saw the message in the clear: …%q…", host, at)
				}
				w.fault("good.example", testnet.NoFault)
				w.anyRun()
				w.delivered("good.example", 1)
			})
			t.Run("unbound", func(t *testing.T) {
				w := newReportWire(t, c.sendmailCase, false)
				c.send(w)
				w.fault("good.example", testnet.NoSTARTTLS)
				waitFor(t, "the marker to be seen in the clear", func() bool {
					if err := w.sendmail.QueueRun(patient(t)); err != nil {
						t.Fatal(err)
					}
					host, _ := w.leak()
					return host != ""
				})
			})
		})
	}
}

// A destination without TLS is refused at once to who will be the clinic's, and
// to nobody else.
func TestMTAHolesSendmailSenderRefused(t *testing.T) {
	isolated(t)
	w := newReportWire(t, sendmailCase{mc: func(dir string) []string { return append(masquerading(dir), "EXPOSED_USER(`root')dnl") }}, true)
	w.knowsSendmail(clinicRule)
	for from, code := range map[string]string{"doctor@mta.test": "550", "doctor@ward.mta.test": "550", "doctor": "550",
		"root@mta.test": "250", "doctor@other.example": "250", "doctor@xmta.test": "250"} {
		c := dial(t, w.address)
		c.expect("MAIL FROM:<"+from+">", "250")
		c.expect("RCPT TO:<u@none.example>", code)
		c.expect("QUIT", "221")
	}
	if got := w.daemon.command("explain", "--from", "doctor@mta.test", "--to", "u@good.example"); !strings.Contains(got, "clinic") {
		t.Errorf("explain says\n%s", got)
	}
}
