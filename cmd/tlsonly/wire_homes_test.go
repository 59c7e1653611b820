package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// homeUsers have homes that the daemon can't look into; nurse's mail is sent on
// to a host without TLS.
func homeUsers() map[string]string {
	return map[string]string{"nurse": "u@none.example", "porter": "", "cook": "u@good.example"}
}

const homeRules = `
[[rule]]
name = "clinic"
from = ["@clinic.example", "root@local.example"]
tls = "encrypt"
[[rule]]
name = "partly"
from = ["@partly.example"]
to = ["@local.example"]
tls = "encrypt"
[[rule]]
name = "login"
user = ["nobody"]
tls = "encrypt"
`

// newHomes makes users with closed homes, and a spool that every mailer may write
// to.
func newHomes(t *testing.T) (w *wire, spool string) {
	t.Helper()
	w = &wire{t: t, bound: true, world: newWorld(t), marker: "marker-" + strings.ToLower(rand.Text())}
	var err error
	if w.dir, err = rig.TempDir(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	spool = filepath.Join(w.dir, "spool")
	if err := os.Mkdir(spool, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(spool, 0o777); err != nil {
		t.Fatal(err)
	}
	newUsers(t, w.dir, homeUsers())
	return w, spool
}

// refusesAt wants a reply to a recipient.
func (w *wire) refusesAt(from, to, want string) {
	w.t.Helper()
	c := dial(w.t, w.address)
	c.expect("MAIL FROM:<"+from+">", "250")
	c.expect("RCPT TO:<"+to+">", want)
	c.expect("QUIT", "221")
}

// Mail to who has a closed home is delivered, and what such a home's .forward
// sends on is held: with a real Postfix, and a daemon that isn't root.
func TestMTAWireHomes(t *testing.T) {
	isolated(t)
	w, spool := newHomes(t)
	const server = "socketmap:inet:127.0.0.1:8690:"
	aliases := write(w.dir, "aliases", "team nurse\nowner-team porter\nfriends nurse\n")
	routes := write(w.dir, "routes", "nowhere.example smtp:\n")
	var master []string
	for _, n := range []string{"", "1", "2"} {
		master = append(master, "tlsonly"+n+" unix - - n - - smtp -o smtp_tls_security_level=encrypt"+
			" -o smtp_tls_policy_maps="+server+"forced"+n)
	}
	p, m := startPostfixWith(t, rig.PostfixConfig{Master: master, Main: map[string]string{
		"myorigin": "local.example", "local_transport": "local", "alias_maps": "texthash:" + aliases,
		"mail_spool_directory": spool, "default_privs": "nobody", "minimal_backoff_time": "1h",
		"sender_dependent_default_transport_maps": server + "sender2",
		"smtp_tls_policy_maps":                    server + "policy",
	}})
	w.postfix, w.address = p, m.address
	const head = daemonHead + "[forwarding]\npostfix = "
	w.daemon = startDaemonAs(t, head+"\""+p.Etc+"\"\n"+homeRules)

	inbox := func(name string) string {
		text, err := os.ReadFile(filepath.Join(spool, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	delivered := func(name string) {
		t.Helper()
		waitFor(t, "the mail of "+name, func() bool { return strings.Contains(inbox(name), w.marker) })
	}
	again := func() { w.marker = "marker-" + strings.ToLower(rand.Text()) }
	refused := w.refusesAt
	unread := func(to string) string {
		return "451 4.7.5 where mail for " + to + " is forwarded to can't be read here"
	}

	// Internal mail: to users, to root, and what cron hands in.
	for _, name := range []string{"porter", "root"} {
		again()
		w.message(doctor, []string{name + "@local.example"}, nil)
		delivered(name)
	}
	w.daemon.waitDecision("rcpt=porter@local.example", "verdict=accept", "unread="+w.dir+"/porter/.forward")
	again()
	if _, err := p.Run(patient(t), w.text(), "sendmail", "root"); err != nil {
		t.Fatal(err)
	}
	delivered("root")
	again()
	w.message(doctor, []string{"cook@local.example"}, nil)
	w.arrives("good.example")
	w.delivered("good.example", 1)

	// A .forward that nobody saw doesn't leave in the clear, also behind an
	// alias; what nobody protects does, so that the test could fail.
	for _, to := range []string{"nurse", "friends"} {
		again()
		protected := w.marker
		w.message(doctor, []string{to + "@local.example"}, nil)
		w.waits("u@none.example", noOffer)
		w.settle()
		again()
		w.message("news@shop.example", []string{to + "@local.example"}, nil)
		waitFor(t, "other mail to leave in the clear", func() bool { host, _ := w.leak(); return host != "" })
		if w.marker = protected; w.hasLeaked() {
			t.Errorf("mail to %s left in the clear", to)
		}
	}
	if _, err := p.Run(patient(t), "", "postsuper", "-d", "ALL"); err != nil {
		t.Fatal(err)
	}

	// Where delivery doesn't hold it, it isn't taken: in the name of a list's
	// owner, by a rule that says nothing of other recipients, past our
	// transports, and by a Postfix that doesn't ask us.
	refused(doctor, "team@local.example", unread("team@local.example"))
	refused("x@partly.example", "nurse@local.example", unread("nurse@local.example"))
	write(w.dir, "routes", "none.example smtp:[mx1.none.example]\n")
	w.run("postconf", "transport_maps=texthash:"+routes)
	refused(doctor, "nurse@local.example", unread("nurse@local.example"))
	w.daemon.waitDecision("rcpt=nurse@local.example", "verdict=defer", "transport_maps", "none.example")
	write(w.dir, "routes", "inner.example local:\n")
	refused(doctor, "porter@local.example", "250")
	w.run("postconf", "relay_domains=none.example")
	refused(doctor, "nurse@local.example", unread("nurse@local.example"))
	w.run("postconf", "relay_domains=", "sender_dependent_default_transport_maps=")
	refused(doctor, "porter@local.example", unread("porter@local.example"))
	w.daemon.waitDecision("rcpt=porter@local.example", "verdict=defer", "doesn't ask tlsonly first")
	w.run("postconf", "sender_dependent_default_transport_maps=texthash:"+routes+", "+server+"sender2")
	refused(doctor, "porter@local.example", unread("porter@local.example"))
	w.run("postconf", "sender_dependent_default_transport_maps="+server+"sender2")
	refused(doctor, "porter@local.example", "250")

	// And where the site says so, as it was before.
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(head + "\"" + p.Etc + "\"\nunreadable = \"defer\"\n" + homeRules)
	w.daemon.start()
	refused(doctor, "porter@local.example", unread("porter@local.example"))
	refused(doctor, "root@local.example", unread("root@local.example"))
}

// arrives waits for the message at a domain.
func (w *wire) arrives(domain string) {
	w.t.Helper()
	waitFor(w.t, "the message at "+domain, func() bool {
		for _, got := range w.world.Messages(domain) {
			if bytes.Contains(got.Data, []byte(w.marker)) {
				return true
			}
		}
		return false
	})
}

func (w *wire) hasLeaked() bool { host, _ := w.leak(); return host != "" }
