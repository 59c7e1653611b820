package main

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

// What Sendmail writes itself, bounces and warnings and copies of them, is held
// wherever it goes, by whatever alias or table, from the first try to the last;
// and it is still in the queue after a refusal.

// reportSites are hosts that make Sendmail write, and such that get it.
func reportSites() []testnet.Site {
	refuses := func(string) string { return "550 5.1.1 no such user" }
	return []testnet.Site{
		{Domain: "refusing.example", Hosts: []testnet.Host{{Reject: refuses}}},
		// Nobody listens there, until it moves.
		{Domain: "late.example", Zone: "@ MX 10 gone.late.example.\ngone.late.example. 60 IN A 127.0.9.9"},
		// These have no TLS yet.
		{Domain: "ops.example", Hosts: []testnet.Host{{Fault: testnet.NoSTARTTLS}}},
		{Domain: "clinic.example", Hosts: []testnet.Host{{Fault: testnet.NoSTARTTLS}}},
		// A home that takes no bounce.
		{Domain: "strict.example", Hosts: []testnet.Host{{Reject: refuses}}},
		// Somebody else's host, which says no to one.
		{Domain: "plain.example", Hosts: []testnet.Host{{NoTLS: true, Reject: func(rcpt string) string {
			if strings.Contains(rcpt, "nobody@") {
				return "550 5.1.1 no such user"
			}
			return ""
		}}}},
	}
}

// delivering has Sendmail deliver here, by a program that fails.
func delivering(lines ...string) func(string) []string {
	return func(string) []string {
		return append(lines, "define(`LOCAL_MAILER_PATH', `/bin/false')dnl", "MAILER(`local')dnl")
	}
}

// ruleFor is a rule for senders.
func ruleFor(senders string) string {
	return "[[rule]]\nname = \"held\"\nfrom = [" + senders + "]\ntls = \"encrypt\"\n"
}

// arrives has late.example reached, in the clear, and a queue run try it.
func arrives(w *wire) {
	w.move("late.example", "mx1.none.example")
	w.anyRun()
}

// anyRun is queueRun, also where Sendmail gives mail back in it, which it tells
// by its exit status.
func (w *wire) anyRun() {
	w.t.Helper()
	waitFor(w.t, "Sendmail's first try", func() bool { return strings.Contains(w.sendmail.Log(), ", stat=") })
	if err := w.sendmail.QueueRun(patient(w.t)); err != nil && !strings.Contains(err.Error(), "exit status") {
		w.t.Fatal(err)
	}
}

// newReportWire is newSendmailWire with these sites, and rules in place of the
// clinic's.
func newReportWire(t *testing.T, c sendmailCase, bound bool) *wire {
	t.Helper()
	world, err := testnet.StartWorld("127.0.0.1:53", 25, append(testnet.Sites(), append(reportSites(), c.sites...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	if c.rules == "" {
		c.rules = clinicRule
	}
	return newSendmailWireIn(t, c, bound, world, c.rules)
}

// runSendmailReports runs the cases with the binding and, as a counter-test,
// without.
func runSendmailReports(t *testing.T, cases []sendmailCase) {
	t.Helper()
	isolated(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Run("bound", func(t *testing.T) {
				w := newReportWire(t, c, true)
				c.send(w)
				c.check(w)
				for range 2 {
					w.anyRun()
				}
				if host, at := w.leak(); host != "" {
					t.Errorf("%s saw the message in the clear: …%q…", host, at)
				}
			})
			t.Run("unbound", func(t *testing.T) {
				w := newReportWire(t, c, false)
				c.send(w)
				waitFor(t, "the marker to be seen in the clear", func() bool {
					w.anyRun()
					host, _ := w.leak()
					return host != ""
				})
			})
		})
	}
}

// refusedFor waits until a recipient is not named to a host.
func refusedFor(rcpt string) func(w *wire) {
	return func(w *wire) {
		w.t.Helper()
		waitFor(w.t, "a refusal of "+rcpt, func() bool {
			w.anyRun()
			return len(w.sendmail.LogLines("ruleset=tls_rcpt, arg1="+rcpt)) > 0
		})
		w.logged("ruleset=tls_rcpt", "arg1="+rcpt, "reject=451 4.7.10")
	}
}

// waiting is refused for a report, which must still be in the queue.
func waiting(rcpt string) func(w *wire) {
	return func(w *wire) {
		w.t.Helper()
		refusedFor(rcpt)(w)
		text, err := w.sendmail.Queue(patient(w.t), false)
		if err != nil || !strings.Contains(text, "MAILER-DAEMON") || !strings.Contains(text, rcpt) {
			w.t.Errorf("no report for %s in the queue: %v\n%s", rcpt, err, text)
		}
	}
}

func TestMTAHolesSendmailReports(t *testing.T) {
	long(t)
	const own = `"@mta.test"`
	aliases := func(text string) map[string]string { return map[string]string{"aliases": text} }
	fails := func(from string) func(w *wire) {
		return func(w *wire) {
			w.message(from, []string{"u@refusing.example"}, nil)
			w.queueRun()
			arrives(w)
		}
	}
	copies := delivering("define(`confCOPY_ERRORS_TO', `x@late.example')dnl")
	warned := func(w *wire) {
		w.message("doctor@mta.test", []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		if w.bound {
			w.queueRun()
			w.age(time.Minute)
			w.queueRun()
			arrives(w)
		}
	}
	runSendmailReports(t, []sendmailCase{
		{name: "alias of the sender", mc: delivering(), rules: ruleFor(own), files: aliases("doctor: x@late.example\n"),
			send: fails("doctor@mta.test"), check: waiting("x@late.example")},
		{name: "copies of errors", mc: copies, send: fails(doctor), check: waiting("x@late.example")},
		{name: "delay warning", mc: delivering("define(`confTO_QUEUEWARN', `1s')dnl"), rules: ruleFor(own),
			files: aliases("doctor: x@late.example\n"), send: warned, check: waiting("x@late.example")},
		{name: "owner of an alias", mc: delivering(), files: aliases("list: u@refusing.example\nowner-list: boss@late.example\n"),
			send: func(w *wire) {
				w.message(doctor, []string{"list@mta.test"}, nil)
				w.queueRun()
				arrives(w)
			}, check: waiting("boss@late.example")},
		{name: "a rule for the null sender, alias", mc: delivering(), rules: ruleFor(own + `, "<>"`),
			files: aliases("doctor: x@late.example\n"), send: fails("doctor@mta.test"), check: waiting("x@late.example")},
		{name: "a rule for the null sender, copies of errors", mc: copies, rules: ruleFor(`"@clinic.example", "<>"`),
			send: fails(doctor), check: waiting("x@late.example")},
		{name: "a rule for the null sender, where reports are like other mail", mc: copies,
			rules: "[binding]\nbounces = \"others\"\n" + ruleFor(`"@clinic.example", "<>"`),
			send:  fails(doctor), check: waiting("x@late.example")},

		{name: ":include: of the sender", mc: delivering(), rules: ruleFor(own),
			send: func(w *wire) {
				write(w.sendmail.Dir, "list", "x@late.example\n")
				write(w.sendmail.Dir, "aliases", "doctor: :include:"+w.sendmail.Dir+"/list\n")
				if _, err := w.sendmail.Run(patient(w.t), "", "-bi"); err != nil {
					w.t.Fatal(err)
				}
				fails("doctor@mta.test")(w)
			}, check: waiting("x@late.example")},
		{name: ".forward of the sender", mc: func(dir string) []string {
			return append(delivering()(dir), "define(`confFORWARD_PATH', `"+dir+"/$u.forward')dnl")
		}, rules: ruleFor(own), send: func(w *wire) {
			if err := os.Chown(write(w.dir, "nobody.forward", "x@late.example\n"), 65534, 65534); err != nil {
				w.t.Fatal(err)
			}
			fails("nobody@mta.test")(w)
		}, check: waiting("x@late.example")},
		{name: "home by mailertable", table: map[string]string{"clinic.example": "esmtp:[mx1.ops.example]"},
			send: fails(doctor), check: waiting("doctor@clinic.example")},
		{name: "home by mailertable, with another mailer", table: map[string]string{"clinic.example": "relay:[mx1.ops.example]"},
			send: fails(doctor), check: waiting("doctor@clinic.example")},
		{name: "a local program that fails, so that the report is the first to leave", mc: delivering(),
			send: func(w *wire) { w.message(doctor, []string{"nobody@mta.test"}, nil) },
			check: func(w *wire) {
				waiting("doctor@clinic.example")(w)
				w.logged("ruleset=tls_server", "reject=451 4.7.10 a report waits for a queue run")
			}},
		{name: "time is up", mc: queueOnly, send: func(w *wire) {
			w.message(doctor, []string{"u@good.example"}, nil)
			w.fault("good.example", testnet.NoSTARTTLS)
			if w.bound {
				if err := w.sendmail.QueueRun(patient(w.t)); err != nil {
					w.t.Fatal(err)
				}
				w.age(6 * 24 * time.Hour)
			}
		}, check: waiting("doctor@clinic.example")},
		{name: "a report of another host that passes through", rules: ruleFor(`"@clinic.example"`),
			send:  func(w *wire) { w.message("", []string{"u@none.example"}, nil) },
			check: refusedFor("u@none.example")},
		{name: "notice of success", mc: takesLMTP, send: func(w *wire) {
			c := dial(w.t, w.address)
			c.expect("MAIL FROM:<"+doctor+">", "250")
			c.expect("RCPT TO:<nobody@mta.test> NOTIFY=SUCCESS", "250")
			c.data("250", "Subject: "+w.marker)
		}, check: waiting("doctor@clinic.example")},
		{name: "mail hub", mc: func(string) []string {
			return []string{"define(`MAIL_HUB', `relay:[mx1.ops.example]')dnl", "MAILER(`local')dnl"}
		}, rules: ruleFor(own), send: func(w *wire) { w.message("doctor@mta.test", []string{"u@refusing.example"}, nil) },
			check: func(w *wire) {
				refusedFor("doctor@[mx1.ops.example]")(w)
				w.fault("ops.example", testnet.NoFault)
				w.anyRun()
				w.delivered("ops.example", 1)
			}},
		{name: "smart host", mc: func(string) []string { return []string{"define(`SMART_HOST', `[mx1.ops.example]')dnl"} },
			table: map[string]string{"refusing.example": "esmtp:refusing.example"},
			send:  func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) }, check: waiting("doctor@clinic.example")},
		{name: "Errors-To", mc: func(string) []string { return []string{"define(`confUSE_ERRORS_TO', `True')dnl"} },
			send: func(w *wire) {
				w.messageBy(dial(w.t, w.address), "doctor@good.example", []string{"u@refusing.example"}, nil, "Errors-To: <x@late.example>")
				w.anyRun()
				arrives(w)
			}, rules: ruleFor(`"@good.example"`), check: waiting("x@late.example")},
		{name: "delivered while the client waits", mc: func(string) []string {
			return []string{"define(`confDELIVERY_MODE', `interactive')dnl"}
		}, send: func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) }, check: waiting("doctor@clinic.example")},
		{name: "an envelope for each recipient", mc: func(dir string) []string {
			return []string{"QUEUE_GROUP(`mqueue', `P='MAIL_SETTINGS_DIR`mq, F=f, r=1')dnl"}
		}, send: func(w *wire) { w.message(doctor, []string{"u@refusing.example", "v@refusing.example"}, nil) },
			check: waiting("doctor@clinic.example")},
		{name: "a mail host to fall back to", mc: func(dir string) []string {
			return append(queueOnly(dir), "define(`confFALLBACK_MX', `mx1.none.example')dnl")
		}, send: func(w *wire) {
			w.message(doctor, []string{"u@good.example"}, nil)
			w.fault("good.example", testnet.Banner421)
		}, check: refusedFor("u@good.example")},
		{name: "another name for errors", mc: func(dir string) []string {
			return append(copies(dir), "define(`confMAILER_NAME', `Robot')dnl")
		}, send: fails(doctor), check: refusedFor("x@late.example")},
		{name: "daemon away when it is written", mc: delivering(), rules: ruleFor(own), files: aliases("doctor: x@late.example\n"),
			send: func(w *wire) {
				w.message("doctor@mta.test", []string{"u@refusing.example"}, func() {})
				w.daemon.stop(syscall.SIGTERM)
				w.anyRun()
				w.daemon.start()
				arrives(w)
			}, check: waiting("x@late.example")},
	})
}

// A report that is refused is still there, and goes when the host has TLS.
func TestMTAHolesSendmailKept(t *testing.T) {
	long(t)
	var cases []sendmailCase
	for _, c := range []struct {
		sendmailCase
		domain, rcpt string // where it goes in the end
	}{
		{sendmailCase{name: "home without TLS",
			send: func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) }}, "clinic.example", doctor},
		{sendmailCase{name: "alias of the sender", mc: delivering(), rules: ruleFor(`"@mta.test"`),
			files: map[string]string{"aliases": "doctor: x@ops.example\n"},
			send:  func(w *wire) { w.message("doctor@mta.test", []string{"u@refusing.example"}, nil) }}, "ops.example", "x@ops.example"},
		{sendmailCase{name: "copies of errors", mc: delivering("define(`confCOPY_ERRORS_TO', `x@ops.example')dnl"),
			send: func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) }}, "ops.example", "x@ops.example"},
		{sendmailCase{name: "mailertable of the sender's domain", table: map[string]string{"clinic.example": "esmtp:[mx1.ops.example]"},
			send: func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) }}, "ops.example", doctor},
		{sendmailCase{name: "a local program that fails", mc: delivering(),
			send: func(w *wire) { w.message(doctor, []string{"nobody@mta.test"}, nil) }}, "clinic.example", doctor},
	} {
		c.check = func(w *wire) {
			waiting(c.rcpt)(w)
			for _, d := range []string{"ops.example", "clinic.example"} {
				w.fault(d, testnet.NoFault)
			}
			w.queueRun()
			w.delivered(c.domain, 1)
		}
		cases = append(cases, c.sendmailCase)
	}
	runSendmailReports(t, cases)
}

// A bounce that its addressee's host refuses is about a protected message, too,
// though no more than the bounce's headers are in what the postmaster gets.
func TestMTAHolesSendmailDoubleBounce(t *testing.T) {
	isolated(t)
	for _, bound := range []bool{true, false} {
		t.Run(map[bool]string{true: "bound", false: "unbound"}[bound], func(t *testing.T) {
			w := newReportWire(t, sendmailCase{mc: delivering(), rules: ruleFor(`"@strict.example"`),
				files: map[string]string{"aliases": "postmaster: x@ops.example\n"}}, bound)
			w.message("doctor@strict.example", []string{"u@refusing.example"}, nil)
			seen := func() bool { return bytes.Contains(w.world.Hosts("ops.example")[0].Plaintext(), []byte("Subject: ")) }
			if !bound {
				waitFor(t, "the double bounce to be seen in the clear", seen)
				return
			}
			waitFor(t, "the double bounce to be refused", func() bool {
				w.anyRun()
				return len(w.sendmail.LogLines("ruleset=tls_rcpt, arg1=x@ops.example")) > 1
			})
			if seen() {
				t.Error("seen in the clear")
			}
			waiting("x@ops.example")(w)
			w.fault("ops.example", testnet.NoFault)
			w.queueRun()
			if got := w.world.Messages("ops.example"); len(got) != 1 || !got[0].TLS {
				t.Errorf("ops.example got %v", got)
			}
		})
	}
}

// Nobody's bounce is lost either, where it was to go by a connection in the
// clear that its own message has used; nor is it held where the file says so.
func TestMTAHolesSendmailOthersReports(t *testing.T) {
	isolated(t)
	bounced := func(t *testing.T, rules string) *wire {
		t.Helper()
		w := newReportWire(t, sendmailCase{rules: rules}, true)
		w.message("x@plain.example", []string{"nobody@plain.example"}, nil)
		waitFor(t, "the bounce to be tried", func() bool {
			w.anyRun()
			return len(w.sendmail.LogLines("to=<x@plain.example>")) > 0
		})
		return w
	}
	t.Run("held", func(t *testing.T) { waiting("x@plain.example")(bounced(t, clinicRule)) })
	for name, rules := range map[string]string{
		"like other mail": "[binding]\nbounces = \"others\"\n" + clinicRule,
		"exempt":          strings.Replace(ruleFor(`"<>"`), "encrypt", "may", 1) + clinicRule,
		"nothing to hold": clinicRule + "mode = \"observe\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := bounced(t, rules)
			host, _ := w.leak()
			if host != "mail host 1 of plain.example" || len(w.world.Messages("plain.example")) != 1 {
				t.Errorf("the bounce was held: %q saw it", host)
			}
		})
	}
}
