package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet/rig"
)

// The same with a real Sendmail, which reads .forward within the message: its
// tag goes with what is sent on.
func TestMTAWireHomesSendmail(t *testing.T) {
	isolated(t)
	w, spool := newHomes(t)
	mailer := write(w.dir, "mailer", "#!/bin/sh\nfor user; do :; done\nexec cat >>\""+spool+"/$user\"\n")
	if err := os.Chmod(mailer, 0o755); err != nil {
		t.Fatal(err)
	}
	start := func(bound bool) {
		t.Helper()
		config := rig.SendmailConfig{Mc: []string{
			"define(`confDELIVERY_MODE', `i')dnl",
			"define(`LOCAL_MAILER_PATH', `" + mailer + "')dnl",
			"define(`LOCAL_MAILER_ARGS', `mailer $u')dnl",
			"LOCAL_DOMAIN(`local.example')dnl",
			"MAILER(`local')dnl",
		}, Milter: "inet:8689@127.0.0.1"}
		if bound {
			config.Milter = ""
			config.Rules = strings.Split(sendmail.Snippet(sendmail.Settings{
				Milter: "inet:8689@127.0.0.1", Socketmap: "inet:8690@127.0.0.1", Deadline: 3 * time.Second,
				MinVersion: policy.TLS12, RedactBounces: true,
			}), "\n")
		}
		var err error
		if w.sendmail, err = rig.StartSendmail(patient(t), config); err != nil {
			t.Fatal(err)
		}
		w.address = w.sendmail.Addr
		write(w.sendmail.Dir, "aliases", "team: nurse\nowner-team: porter\nfriends: nurse\n")
		if _, err := w.sendmail.Run(patient(t), "", "-bi"); err != nil {
			t.Fatal(err)
		}
	}
	start(true)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Sendmail's log:\n%s", w.sendmail.Log())
		}
		if err := w.sendmail.Stop(); err != nil {
			t.Error(err)
		}
	})
	cmd := w.sendmail.Command(patient(t), "sendmail")
	library := ""
	for _, v := range cmd.Env {
		if strings.HasPrefix(v, "LD_LIBRARY_PATH=") {
			library = v
		}
	}
	over(t, "/usr/sbin/sendmail", "#!/bin/sh\nexec env "+library+" "+cmd.Path+" \"$@\"\n")
	if err := os.Chmod("/usr/sbin/sendmail", 0o755); err != nil {
		t.Fatal(err)
	}
	config := func(cf, more string) string {
		return daemonHead + "[forwarding]\npostfix = \"off\"\nsendmail = \"" + cf + "\"\n" + more + homeRules
	}
	w.daemon = startDaemonAs(t, config(w.sendmail.Cf, ""))

	again := func() { w.marker = "marker-" + strings.ToLower(rand.Text()) }
	delivered := func(name string) {
		t.Helper()
		waitFor(t, "the mail of "+name, func() bool {
			text, err := os.ReadFile(filepath.Join(spool, name))
			return err == nil && bytes.Contains(text, []byte(w.marker))
		})
	}
	refused := func(to, want string) { t.Helper(); w.refusesAt(doctor, to+"@local.example", want) }
	const refusal = "ruleset=tls_rcpt, arg1=u@none.example, relay=mx1.none.example., reject=451 4.7."
	const unread = "451 4.7.5 where mail for "
	for _, name := range []string{"porter", "root"} {
		again()
		w.message(doctor, []string{name + "@local.example"}, nil)
		delivered(name)
	}
	w.daemon.waitDecision("rcpt=porter@local.example", "verdict=accept", "unread="+w.dir+"/porter/.forward")
	again()
	w.message(doctor, []string{"cook@local.example"}, nil)
	w.arrives("good.example")
	w.delivered("good.example", 1)
	for _, to := range []string{"nurse", "friends"} {
		again()
		protected, before := w.marker, strings.Count(w.sendmail.Log(), refusal)
		w.message(doctor, []string{to + "@local.example"}, nil)
		waitFor(t, "the first try", func() bool { return strings.Count(w.sendmail.Log(), refusal) > before })
		w.queueRun()
		again()
		w.message("news@shop.example", []string{to + "@local.example"}, nil)
		waitFor(t, "other mail to leave in the clear", w.hasLeaked)
		if w.marker = protected; w.hasLeaked() {
			t.Errorf("mail to %s left in the clear", to)
		}
	}
	refused("team", unread+"team@local.example is forwarded to can't be read here")
	refused("porter", "250")

	// A Sendmail without the rules holds nothing.
	if err := w.sendmail.Stop(); err != nil {
		t.Fatal(err)
	}
	start(false)
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(config(w.sendmail.Cf, ""))
	w.daemon.start()
	refused("porter", unread)
	w.daemon.waitDecision("rcpt=porter@local.example", "verdict=defer", "the MTA doesn't ask tlsonly")
	for _, name := range []string{"nurse", "root"} {
		refused(name, unread)
	}
}
