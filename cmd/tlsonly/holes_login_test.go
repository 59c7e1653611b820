package main

import (
	"os"
	"syscall"
	"testing"

	"tlsonly/internal/testnet"
)

const aliceRule = `
[[rule]]
name = "alice"
user = ["alice"]
tls = "encrypt"
`

// Rules by login, of which delivery sees nothing: what they ask binds copies,
// forwards and bounces, too.
func TestMTAHolesLogins(t *testing.T) {
	long(t)
	logins := map[string]string{"alice": "secret"}
	login := func(w *wire) *client {
		c := dial(w.t, w.address)
		c.expect("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235")
		return c
	}
	send := func(from, to string) func(w *wire) {
		return func(w *wire) { w.messageBy(login(w), from, []string{to}, nil) }
	}
	main := func(more ...string) func(string) map[string]string {
		return func(string) map[string]string {
			m := map[string]string{}
			for i := 0; i < len(more); i += 2 {
				m[more[i]] = more[i+1]
			}
			return m
		}
	}
	// A rule besides, so that there is a class and its transport.
	rules := aliceRule + `
[[rule]]
name = "bank"
from = ["@bank.example"]
tls = "encrypt"
`
	audit := func(w *wire) {
		w.delivered("good.example", 1)
		w.waits("audit@none.example", noOffer)
	}
	refusing := []testnet.Site{answering("refusing.example", "550 5.1.1 no such user")}
	runWire(t, []wireCase{
		{name: "always_bcc", setup: true, rules: rules, logins: logins, send: send(doctor, "u@good.example"), check: audit,
			main: main("always_bcc", "audit@none.example", "smtpd_sender_login_maps", "static:alice")},
		{name: "sender_bcc_maps", setup: true, rules: rules, logins: logins, send: send(doctor, "u@good.example"), check: audit,
			main: main("sender_bcc_maps", "inline:{ {doctor@clinic.example = audit@none.example} }")},
		{name: "sender of another rule, with an exception", setup: true, logins: logins, send: send("x@bank.example", "u@good.example"), check: audit,
			rules: aliceRule + "[[rule]]\nname = \"may\"\nfrom = [\"@bank.example\"]\nto = [\"@none.example\"]\ntls = \"may\"\n" +
				"[[rule]]\nname = \"bank\"\nfrom = [\"@bank.example\"]\ntls = \"encrypt\"\n",
			main: main("always_bcc", "audit@none.example")},
		{name: ".forward", setup: true, rules: rules, logins: logins,
			main: func(dir string) map[string]string { return map[string]string{"forward_path": dir + "/$user.forward"} },
			send: func(w *wire) {
				path := write(w.dir, "nobody.forward", "u@none.example\n")
				if err := os.Chown(path, 65534, 65534); err != nil {
					w.t.Fatal(err)
				}
				send(doctor, "nobody@local.example")(w)
			},
			check: func(w *wire) { w.waits("u@none.example", noOffer) }},
		{name: "bounce", setup: true, rules: rules, logins: logins, sites: refusing, send: send(doctor, "u@refusing.example"),
			main:  main("virtual_alias_domains", "clinic.example", "virtual_alias_maps", "inline:{ {doctor@clinic.example = x@none.example} }"),
			check: func(w *wire) { w.waits("x@none.example", noOffer) }},
		{name: "SRS", setup: true, rules: rules, logins: logins, check: audit,
			main: main("always_bcc", "audit@none.example", "smtpd_milters", "inet:"+otherMilter),
			send: func(w *wire) {
				startChanger(w.t, srs0)
				send(doctor, "u@good.example")(w)
			}},
		{name: "daemon killed", setup: true, rules: rules, logins: logins, check: func(w *wire) { w.waits("audit@none.example", noOffer) },
			main: func(dir string) map[string]string {
				m := deferred(dir)
				m["always_bcc"] = "audit@none.example"
				return m
			},
			send: func(w *wire) {
				send(doctor, "u@good.example")(w)
				w.settle()
				if w.bound {
					w.daemon.stop(syscall.SIGKILL)
					w.daemon.start()
				}
				if err := w.postfix.Set(patient(w.t), map[string]string{"defer_transports": ""}); err != nil {
					w.t.Fatal(err)
				}
				w.run("postqueue", "-f")
				w.tried()
			}},
	})
}

// While a sender's mail is bound for a login's sake, what others send in its name
// is judged when it comes, and doesn't wait in the queue.
func TestMTAHolesLentSender(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, rules: aliceRule + clinicRule, logins: map[string]string{"alice": "secret"}}, true)
	const info = "info@other.example"
	w.message(info, []string{"u@none.example"}, nil)
	waitMessages(t, w.world, "none.example", 1)
	c := dial(t, w.address)
	c.expect("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235")
	w.messageBy(c, info, []string{"u@good.example"}, nil)
	c = dial(t, w.address)
	c.expect("MAIL FROM:<"+info+">", "250")
	c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
	c.expect("RCPT TO:<u@good.example>", "250")
	c.data("250", "Subject: other")
	c = dial(t, w.address)
	c.expect("MAIL FROM:<x@other.example>", "250")
	c.expect("RCPT TO:<u@none.example>", "250")
	c.expect("QUIT", "221")
}
