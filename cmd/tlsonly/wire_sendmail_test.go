package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
	table map[string]string         // mailertable
	rules string                    // other tables of the daemon's file
	files map[string]string         // in Sendmail's own directory; "aliases" is made into its database
	send  func(w *wire)
	check func(w *wire)
}

// clearAfterwards has Sendmail try in the clear where a handshake failed.
func clearAfterwards(string) []string {
	return []string{"define(`confTLS_FALLBACK_TO_CLEAR', `true')dnl"}
}

// queueOnly has Sendmail take mail and wait for a queue run.
func queueOnly(string) []string { return []string{"define(`confDELIVERY_MODE', `queueonly')dnl"} }

func TestMTAWireSendmail(t *testing.T) {
	long(t)
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
		{name: "502 to STARTTLS", send: lost(testnet.STARTTLS502), check: refused},
		{name: "502 to EHLO", send: lost(testnet.EHLO502), check: refused},
		{name: "closed instead of TLS", mc: clearAfterwards, send: lost(testnet.CloseAfter)},
		{name: "reset instead of TLS", mc: clearAfterwards, send: lost(testnet.ResetAfter)},
		{name: "garbage instead of TLS", mc: func(dir string) []string {
			return append(clearAfterwards(dir), "define(`confTO_QUIT', `1s')dnl") // which that host doesn't answer
		}, send: lost(testnet.GarbageAfter)},
		{name: "handshake refused", mc: clearAfterwards, send: lost(testnet.HandshakeAlert)},
		{name: "moved to a host with TLS 1.0 only", mc: clearAfterwards,
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
		{name: "mailertable", table: map[string]string{"good.example": "esmtp:[mx1.good.example]"}, send: lost(testnet.NoSTARTTLS), check: refused},
		{name: "mailertable to another domain", table: map[string]string{"elsewhere.example": "esmtp:good.example"},
			send: func(w *wire) {
				w.message(doctor, []string{"u@elsewhere.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			}, check: refused},
		{name: "queue that waited for days, store that forgot", sites: []testnet.Site{{Domain: "clinic.example", Hosts: []testnet.Host{{NoTLS: true}}}},
			send: func(w *wire) {
				lost(testnet.NoSTARTTLS)(w)
				w.queueRun()
				w.daemon.stop(syscall.SIGTERM)
				const days = 3 * 24 * time.Hour
				age := fmt.Sprintf("%d", days.Microseconds())
				w.daemon.change("UPDATE destination SET born = born - "+age+", seen = seen - "+age+", ends = ends - "+age,
					"UPDATE host SET seen = seen - "+age+", ends = ends - "+age)
				w.daemon.start()
				w.age(days)
			}, check: refused},
		{name: "a connection in the clear, kept open by other mail", rules: "[binding]\nothers = \"off\"\n", mc: queueOnly, send: func(w *wire) {
			protected := w.marker
			for i := range 3 {
				w.marker = fmt.Sprintf("other-%d", i)
				w.message("x@other.example", []string{"u@good.example"}, nil)
				if i == 1 {
					w.marker = protected
					w.message(doctor, []string{"u@good.example"}, nil)
				}
			}
			w.marker = protected
			w.fault("good.example", testnet.NoSTARTTLS)
		}, check: func(w *wire) {
			refused(w)
			if !w.reused("good.example", doctor) {
				w.t.Errorf("no connection of other mail was used for the protected message:\n%s", strings.Join(w.world.Hosts("good.example")[0].Commands(), "\n"))
			}
		}},
		{name: "sendmail(1), delivering by itself", mc: queueOnly, send: func(w *wire) {
			// No milter sees it: what holds it is the question alone.
			if _, err := w.sendmail.Run(patient(w.t), w.text(), "-Am", "-i", "-f", doctor, "u@good.example"); err != nil {
				w.t.Fatal(err)
			}
			w.fault("good.example", testnet.NoSTARTTLS)
		}, check: refused},
		{name: "sendmail(1), submitting", mc: queueOnly, send: func(w *wire) {
			w.submit(doctor, "u@good.example")
			w.fault("good.example", testnet.NoSTARTTLS)
		}, check: func(w *wire) {
			refused(w)
			w.daemon.waitDecision("from="+doctor, "rcpt=u@good.example", "verdict=accept")
		}},
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
	world, err := testnet.StartWorld("127.0.0.1:53", 25, append(testnet.Sites(), c.sites...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	return newSendmailWireIn(t, c, bound, world, c.rules+clinicRule)
}

// newSendmailWireIn is newSendmailWire in a world that is there already; text is the rest of the daemon's file.
func newSendmailWireIn(t *testing.T, c sendmailCase, bound bool, world *testnet.World, text string) *wire {
	t.Helper()
	w := &wire{t: t, bound: bound, world: world, marker: "marker-" + strings.ToLower(rand.Text())}
	var err error
	if w.dir, err = rig.TempDir(); err != nil {
		t.Fatal(err)
	}
	w.daemon = startDaemon(t, daemonHead+text)
	config := rig.SendmailConfig{Mailertable: c.table}
	if c.mc != nil {
		config.Mc = c.mc(w.dir)
	}
	if bound {
		config.Rules = strings.Split(sendmail.Snippet(sendmail.Settings{
			Milter: "inet:8689@127.0.0.1", Socketmap: "inet:8690@127.0.0.1", Deadline: 3 * time.Second,
			MinVersion: policy.TLS12, RedactBounces: true,
		}), "\n")
	} else {
		config.Milter = "inet:8689@127.0.0.1"
	}
	if w.sendmail, err = rig.StartSendmail(patient(t), config); err != nil {
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
			if _, err := w.sendmail.Run(patient(t), "", "-bi"); err != nil {
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
	if err := w.sendmail.QueueRun(patient(w.t)); err != nil {
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

// text is a message as sendmail(1) reads it.
func (w *wire) text() string { return fmt.Sprintf("Subject: %s\n\n%s\n", w.marker, w.marker) }

// age makes what is in the queue older, by the times in the files and by those of the files.
func (w *wire) age(by time.Duration) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.sendmail.Dir, "mq", "[qd]f*"))
	if err != nil || len(files) == 0 && w.bound {
		w.t.Fatalf("nothing in the queue: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasPrefix(filepath.Base(path), "qf") {
			var b strings.Builder
			for line := range strings.Lines(string(text)) {
				// T: when it came, K: when it was tried last.
				if at, err := strconv.ParseInt(strings.TrimSpace(line[1:]), 10, 64); err == nil && strings.ContainsAny(line[:1], "TK") && at > 0 {
					line = fmt.Sprintf("%s%d\n", line[:1], at-int64(by.Seconds()))
				}
				b.WriteString(line)
			}
			if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
				w.t.Fatal(err)
			}
		}
		then := time.Now().Add(-by)
		if err := os.Chtimes(path, then, then); err != nil {
			w.t.Fatal(err)
		}
	}
}

// reused reports whether the sender was named on a connection that had carried another's message.
func (w *wire) reused(domain, sender string) bool {
	others := false
	for _, command := range w.world.Hosts(domain)[0].Commands() {
		switch verb, _, _ := strings.Cut(strings.ToUpper(command), " "); {
		case verb == "EHLO" || verb == "HELO":
			others = false
		case verb == "MAIL" && strings.Contains(command, sender):
			if others {
				return true
			}
		case verb == "MAIL":
			others = true
		}
	}
	return false
}

// submit sends as Debian's sendmail(1) does: a program of its own, with submit.cf, gives the message to the MTA by SMTP.
func (w *wire) submit(from, to string) {
	w.t.Helper()
	host, port, err := net.SplitHostPort(w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	program := w.sendmail.Command(patient(w.t), "sendmail").Path
	cf := filepath.Join(strings.TrimSuffix(program, "/usr/libexec/sendmail/sendmail"), "usr/share/sendmail/cf") + "/"
	queue := filepath.Join(w.sendmail.Dir, "msp")
	if err := errors.Join(os.Mkdir(queue, 0o700), os.Chown(queue, 65534, 65534)); err != nil {
		w.t.Fatal(err)
	}
	var mc strings.Builder
	for _, define := range [][2]string{
		{"confCF_VERSION", "Submit"}, {"__OSTYPE__", ""}, {"MSP_QUEUE_DIR", queue}, {"STATUS_FILE", w.sendmail.Dir + "/statistics"},
		{"confPID_FILE", w.sendmail.Dir + "/msp.pid"}, {"confDOMAIN_NAME", "mta.test"}, {"confRUN_AS_USER", "nobody"}, {"confTRUSTED_USER", "nobody"},
		{"confDONT_PROBE_INTERFACES", "True"}, {"confSERVICE_SWITCH_FILE", w.sendmail.Dir + "/service.switch"}, {"RELAY_MAILER_ARGS", "TCP $h " + port},
	} {
		fmt.Fprintf(&mc, "define(`%s', `%s')dnl\n", define[0], define[1])
	}
	fmt.Fprintf(&mc, "FEATURE(`msp', `[%s]')dnl\n", host)
	text, err := exec.CommandContext(patient(w.t), "m4", "-D_CF_DIR_="+cf, cf+"m4/cf.m4", write(w.sendmail.Dir, "submit.mc", mc.String())).Output()
	if err != nil {
		w.t.Fatalf("m4: %v", err)
	}
	submit := w.sendmail.Command(patient(w.t), "sendmail", "-Ac", "-C", write(w.sendmail.Dir, "submit.cf", string(text)), "-i", "-f", from, to)
	submit.Stdin = strings.NewReader(w.text())
	if out, err := submit.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
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
}
