package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// sendmailCase is a wireCase for a real Sendmail. The binding is what setup sendmail writes.
type sendmailCase struct {
	name  string
	sites []testnet.Site
	mc    func(dir string) []string // lines of m4
	files map[string]string         // in Sendmail's own directory; "aliases" is made into its database
	send  func(w *wire)
	check func(w *wire)
}

// fallback has Sendmail try in the clear where a handshake failed.
func fallback(string) []string { return []string{"define(`confTLS_FALLBACK_TO_CLEAR', `true')dnl"} }

func TestMTAWireSendmail(t *testing.T) {
	isolated(t)
	lost := func(f testnet.Fault) func(w *wire) {
		return func(w *wire) {
			w.message(doctor, []string{"u@good.example"}, func() { w.fault("good.example", f) })
		}
	}
	refused := func(w *wire) { w.logged("ruleset=tls_rcpt", "reject=451 4.7.") }
	local := func(string) []string {
		return []string{"define(`LOCAL_MAILER_PATH', `/bin/false')dnl", "MAILER(`local')dnl"}
	}
	for _, c := range []sendmailCase{
		{name: "STARTTLS gone", send: lost(testnet.NoSTARTTLS), check: func(w *wire) {
			refused(w)
			w.fault("good.example", testnet.NoFault)
			w.queueRun()
			w.delivered("good.example", 1)
		}},
		{name: "STARTTLS mangled by a device between", send: lost(testnet.EHLOMangled), check: refused},
		{name: "454 to STARTTLS", send: lost(testnet.STARTTLS454), check: refused},
		{name: "closed instead of TLS", mc: fallback, send: lost(testnet.CloseAfter)},
		{name: "handshake refused", mc: fallback, send: lost(testnet.HandshakeAlert)},
		{name: "moved to a host with TLS 1.0 only", mc: fallback,
			sites: []testnet.Site{{Domain: "moving.example", Zone: "@ MX 10 mx1.good.example."}},
			send: func(w *wire) {
				w.message(doctor, []string{"u@moving.example"}, func() { w.move("moving.example", "mx1.old.example") })
			}},
		{name: "moved to a host without TLS",
			sites: []testnet.Site{{Domain: "moving.example", Zone: "@ MX 10 mx1.good.example."}},
			send: func(w *wire) {
				w.message(doctor, []string{"u@moving.example"}, func() { w.move("moving.example", "mx1.none.example") })
			}, check: refused},
		{name: "two hosts, the first without TLS",
			send: func(w *wire) { w.message(doctor, []string{"u@mixed.example"}, nil) },
			check: func(w *wire) {
				waitMessages(w.t, w.world, "mixed.example", 1)
				w.delivered("mixed.example", 1)
			}},
		{name: "smart host", mc: func(string) []string { return []string{"define(`SMART_HOST', `[mx1.good.example]')dnl"} },
			send: func(w *wire) {
				w.message(doctor, []string{"u@elsewhere.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			}, check: refused},
		{name: "alias", mc: local, files: map[string]string{"aliases": "list: u@none.example\n"},
			send: func(w *wire) { w.message(doctor, []string{"list@mta.test"}, nil) }, check: refused},
		{name: "alias with an owner", mc: local, files: map[string]string{"aliases": "list: u@none.example\nowner-list: boss@mta.test\nboss: /dev/null\n"},
			send: func(w *wire) { w.message(doctor, []string{"list@mta.test"}, nil) }, check: refused},
		{name: ".forward", mc: func(dir string) []string {
			return append(local(dir), "define(`confFORWARD_PATH', `"+dir+"/$u.forward')dnl")
		},
			send: func(w *wire) {
				if err := os.Chown(write(w.dir, "nobody.forward", "u@none.example\n"), 65534, 65534); err != nil {
					w.t.Fatal(err)
				}
				w.message(doctor, []string{"nobody@mta.test"}, nil)
			}, check: refused},
		{name: "other case, extension", send: func(w *wire) {
			w.message("DOCTOR+x@Clinic.Example", []string{"u@Good.EXAMPLE"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		}, check: refused},
		{name: "daemon away", send: func(w *wire) {
			w.message(doctor, []string{"u@good.example"}, func() {
				w.fault("good.example", testnet.NoSTARTTLS)
			})
			w.daemon.stop(syscall.SIGTERM)
			w.queueRun()
		}, check: refused},
		{name: "bounce", sites: []testnet.Site{
			{Domain: "clinic.example", Hosts: []testnet.Host{{NoTLS: true}}},
			{Domain: "refusing.example", Hosts: []testnet.Host{{Reject: func(string) string { return "550 5.1.1 no such user" }}}},
		}, send: func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) }, check: refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Run("bound", func(t *testing.T) {
				w := newSendmailWire(t, c, true)
				c.send(w)
				w.queueRun()
				if host, at := w.leak(); host != "" {
					t.Errorf("%s saw the message in the clear: …%q…", host, at)
				}
				if c.check != nil {
					c.check(w)
				}
			})
			t.Run("unbound", func(t *testing.T) {
				w := newSendmailWire(t, c, false)
				c.send(w)
				waitFor(t, "the marker to be seen in the clear", func() bool {
					w.queueRun()
					host, _ := w.leak()
					return host != ""
				})
			})
		})
	}
}

func newSendmailWire(t *testing.T, c sendmailCase, bound bool) *wire {
	t.Helper()
	w := &wire{t: t, bound: bound, marker: "marker-" + strings.ToLower(rand.Text())}
	var err error
	if w.world, err = testnet.StartWorld("127.0.0.1:53", 25, append(testnet.Sites(), c.sites...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.world.Close() })
	if w.dir, err = rig.TempDir(); err != nil {
		t.Fatal(err)
	}
	w.daemon = startDaemon(t, daemonHead+clinicRule)
	config := rig.SendmailConfig{}
	if c.mc != nil {
		config.Mc = c.mc(w.dir)
	}
	if bound {
		config.Rules = strings.Split(sendmail.Snippet(sendmail.Settings{
			Milter: "inet:8891@127.0.0.1", Socketmap: "inet:8892@127.0.0.1", Deadline: 3 * time.Second,
			MinVersion: policy.TLS12, RedactBounces: true,
		}), "\n")
	} else {
		config.Milter = "inet:8891@127.0.0.1"
	}
	if w.sendmail, err = rig.StartSendmail(context30(t), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Sendmail's log:\n%s", w.sendmail.Log())
		}
		if err := w.sendmail.Stop(); err != nil {
			t.Error(err)
		}
	})
	w.address = w.sendmail.Addr
	for name, text := range c.files {
		write(w.sendmail.Dir, name, text)
		if name == "aliases" {
			if _, err := w.sendmail.Run(context30(t), "", "-bi"); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// queueRun has Sendmail try what waits, after its own first try is over.
func (w *wire) queueRun() {
	w.t.Helper()
	waitFor(w.t, "Sendmail's first try", func() bool { return strings.Contains(w.sendmail.Log(), ", stat=") })
	if err := w.sendmail.QueueRun(context30(w.t)); err != nil {
		w.t.Fatal(err)
	}
}

// logged checks that a line of Sendmail's log has all the words.
func (w *wire) logged(words ...string) {
	w.t.Helper()
	for line := range strings.Lines(w.sendmail.Log()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			return
		}
	}
	w.t.Errorf("no line with %s in Sendmail's log", fmt.Sprintf("%q", words))
}

// What is not to be held goes as ever, through Sendmail too.
func TestMTAWireSendmailOthers(t *testing.T) {
	isolated(t)
	t.Run("unprotected mail goes in the clear where that is all there is", func(t *testing.T) {
		w := newSendmailWire(t, sendmailCase{}, true)
		w.message("x@other.example", []string{"u@none.example", "u@good.example"}, nil)
		waitMessages(t, w.world, "none.example", 1)
		waitMessages(t, w.world, "good.example", 1)
		if host, _ := w.leak(); host != "mail host 1 of none.example" {
			t.Errorf("seen in the clear by %q", host)
		}
		w.delivered("good.example", 1)
	})
	t.Run("good and bad recipients of one message", func(t *testing.T) {
		w := newSendmailWire(t, sendmailCase{}, true)
		c := dial(t, w.address)
		c.expect("MAIL FROM:<"+doctor+">", "250")
		c.expect("RCPT TO:<u@good.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.expect("RCPT TO:<u@mixed.example>", "250")
		c.data("250", "Subject: "+w.marker)
		waitMessages(t, w.world, "good.example", 1)
		waitMessages(t, w.world, "mixed.example", 1)
		w.delivered("good.example", 1)
		w.delivered("mixed.example", 1)
		if host, _ := w.leak(); host != "" {
			t.Errorf("seen in the clear by %s", host)
		}
	})
	t.Run("a connection in the clear of other mail is not for protected mail", func(t *testing.T) {
		w := newSendmailWire(t, sendmailCase{}, true)
		w.message(doctor, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		protected := w.marker
		w.marker = "unprotected"
		for i := range 3 {
			w.message("x@other.example", []string{fmt.Sprintf("u%d@none.example", i)}, nil)
		}
		w.queueRun()
		waitFor(t, "the unprotected messages in the clear", func() bool { host, _ := w.leak(); return host != "" })
		w.marker = protected
		w.queueRun()
		if host, at := w.leak(); host != "" {
			t.Errorf("%s saw the message in the clear: %q", host, at)
		}
	})
}
