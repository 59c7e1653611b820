package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"tlsonly/internal/testnet"
)

// The attacks of TestMTAWireSecure against a real Sendmail, which knows no authorities, no MTA-STS and no DANE by itself.

// newSendmailSecureWire is newSecureWire with Sendmail. text follows the table [probe] of the daemon's file.
func newSendmailSecureWire(t *testing.T, kinds []string, text string, c sendmailCase) *secureWire {
	t.Helper()
	w, world, probe := newSecureWorld(t, kinds)
	w.wire = newSendmailWireIn(t, c, true, world, probe+text)
	return w
}

const notRight = "is not authenticated"

// refuses waits until Sendmail has refused to name rcpt to a host for this reason, n times in all, and checks that the attacker's host, if
// there is one, was asked for nothing and has nothing.
func (w *secureWire) refuses(rcpt, why string, n int) {
	w.t.Helper()
	waitFor(w.t, fmt.Sprintf("%s to wait: %s", rcpt, why), func() bool {
		found := 0
		for _, line := range w.sendmail.LogLines("ruleset=tls_rcpt, arg1=" + rcpt) {
			if strings.Contains(line, "reject=451 ") && strings.Contains(line, why) {
				found++
			}
		}
		return found >= n
	})
	if w.wrong == nil {
		return
	}
	if w.wrong.Connections() == 0 {
		w.t.Error("the attacker's host was not tried")
	}
	for _, line := range w.wrong.Commands() {
		if strings.Contains(line, rcpt) {
			w.t.Errorf("the attacker was told %q", line)
		}
	}
	if w.stolen() || bytes.Contains(w.wrong.Plaintext(), []byte(w.marker)) {
		w.t.Error("the attacker has the message")
	}
	if host, at := w.leak(); host != "" {
		w.t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
}

// The host changes between acceptance and delivery. All attacks of a run are in one world, each by a sender with a rule of its
// own on a destination of its own.
func TestMTAWireSendmailSecure(t *testing.T) {
	isolated(t)
	attacks := []struct {
		name   string
		kind   string
		rule   []string // level, and more keys
		weaker []string // under which the attack succeeds
		do     func(w *secureWire, domain string)
	}{
		{"dane, another certificate", byDANE, []string{"dane"}, []string{"encrypt", "honor = []"}, (*secureWire).trusted},
		{"secure by DANE, another certificate", byDANE, []string{"secure"}, []string{"encrypt", "honor = []"}, (*secureWire).trusted},
		{"secure by MTA-STS, redirected", bySTS, []string{"secure"}, []string{"encrypt", "honor = []"}, (*secureWire).redirect},
		{"secure by MTA-STS, self-signed", bySTS, []string{"secure"}, []string{"encrypt", "honor = []"}, (*secureWire).selfSigned},
		{"secure by its certificate, redirected", byName, []string{"secure"}, []string{"encrypt"}, (*secureWire).redirect},
		{"secure by its certificate, self-signed", byName, []string{"secure"}, []string{"encrypt"}, (*secureWire).selfSigned},
		{"secure by a name of the rule, redirected", byOther, []string{"secure", `match = ["mail.provider.test"]`}, []string{"encrypt"}, (*secureWire).redirect},
		{"encrypt, DANE published", byDANE, []string{"encrypt"}, []string{"encrypt", `honor = ["mta-sts"]`}, (*secureWire).selfSigned},
		{"encrypt, MTA-STS published, redirected", bySTS, []string{"encrypt"}, []string{"encrypt", `honor = []`}, (*secureWire).redirect},
		{"encrypt, MTA-STS published, self-signed", bySTS, []string{"encrypt"}, []string{"encrypt", `honor = ["dane"]`}, (*secureWire).selfSigned},
	}
	for _, weaker := range []bool{false, true} {
		kinds := make([]string, len(attacks))
		text := ""
		for i, a := range attacks {
			kinds[i] = a.kind
			rule := a.rule
			if weaker {
				rule = a.weaker
			}
			text += ruleOf(fmt.Sprintf("clinic%d.example", i), rule[0], rule[1:]...)
		}
		t.Run(map[bool]string{false: "bound", true: "weaker"}[weaker], func(t *testing.T) {
			w := newSendmailSecureWire(t, kinds, text, sendmailCase{})
			marker := w.marker
			for i, a := range attacks {
				t.Run(a.name, func(t *testing.T) {
					outer := w.t
					w.t, w.marker = t, fmt.Sprintf("%s-%d-", marker, i)
					defer func() { w.t = outer }()
					domain := fmt.Sprintf("%s%d.example", a.kind, i)
					w.message(fmt.Sprintf("doctor@clinic%d.example", i), []string{"u@" + domain}, func() { a.do(w, domain) })
					if weaker {
						w.fails()
					} else {
						w.refuses("u@"+domain, notRight, 1)
					}
				})
			}
			if weaker {
				return
			}
			// Where the destination is itself again its mail goes.
			for n, a := range attacks {
				if domain := fmt.Sprintf("%s%d.example", a.kind, n); strings.HasSuffix(a.name, "redirected") {
					if err := w.signed.SetRecords(domain, dns.TypeMX, "10 mx1."+domain+"."); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.queueRun()
			for n, a := range attacks {
				w.marker = fmt.Sprintf("%s-%d-", marker, n)
				if strings.HasSuffix(a.name, "redirected") {
					w.delivered(fmt.Sprintf("%s%d.example", a.kind, n), 1)
				}
			}
		})
	}
}

// With DANE a certificate that no authority signed is enough, as with an authority's where that is what is asked for; nobody
// had to tell Sendmail of authorities. A destination that has renewed its certificate is looked at once more.
func TestMTAWireSendmailRight(t *testing.T) {
	isolated(t)
	const days = 3 * 24 * time.Hour
	w := newSendmailSecureWire(t, []string{byDANE, bySTS, byName, byName},
		ruleOf("clinic.example", "secure")+ruleOf("state.example", "dane"), sendmailCase{mc: queueOnly})
	w.message(doctor, []string{"u@dane0.example", "u@sts1.example", "u@own2.example", "u@own3.example"}, nil)
	w.message("x@state.example", []string{"x@dane0.example"}, nil)
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.change(aged(days)...) // so that the look at acceptance is not from just now
	w.trusted("own3.example")
	w.daemon.start()
	if err := w.sendmail.QueueRun(patient(t)); err != nil {
		t.Fatal(err)
	}
	for domain, n := range map[string]int{"dane0.example": 2, "sts1.example": 1, "own2.example": 1} {
		w.delivered(domain, n)
	}
	if !w.stolen() {
		t.Error("a destination with a new certificate got nothing")
	}
	w.logged("STARTTLS=client", "relay=mx1.dane0.example.", "verify=FAIL")
	w.logged("STARTTLS=client", "relay=mx1.own2.example.", "verify=FAIL") // Sendmail knows no authorities
}

// Recipients of one message are held each to its own rule; with one that is free the daemon is needed all the same.
func TestMTAWireSendmailMixed(t *testing.T) {
	isolated(t)
	text := ruleOf("clinic.example", "secure", `to = ["@own0.example"]`) +
		strings.Replace(ruleOf("clinic.example", "none", `to = ["@own2.example"]`), `"clinic.example"`, `"free"`, 1) +
		strings.Replace(ruleOf("clinic.example", "encrypt"), `"clinic.example"`, `"other"`, 1)
	w := newSendmailSecureWire(t, []string{byName, byName, byName}, text, sendmailCase{mc: queueOnly})
	marker := w.marker
	both := func(n int) {
		t.Helper()
		w.marker = fmt.Sprintf("%s-%d-", marker, n)
		rcpts := []string{fmt.Sprintf("u%d@own0.example", n), fmt.Sprintf("u%d@own1.example", n)}
		if n == 1 {
			rcpts = append(rcpts, "u@own2.example")
		}
		w.message(doctor, rcpts, nil)
	}
	both(0)
	both(1)
	w.selfSigned("own0.example")
	strict := w.wrong
	w.selfSigned("own1.example")
	lax := w.wrong
	run := func() {
		t.Helper()
		if err := w.sendmail.QueueRun(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	w.daemon.stop(syscall.SIGTERM)
	run()
	for n := range 2 {
		w.marker = fmt.Sprintf("%s-%d-", marker, n)
		for domain, host := range map[string]*testnet.SMTP{"own0.example": strict, "own1.example": lax} {
			w.wrong = host
			w.refuses(fmt.Sprintf("u%d@%s", n, domain), "tlsonly does not answer", 1)
		}
	}
	w.daemon.start()
	run()
	for n := range 2 {
		w.marker = fmt.Sprintf("%s-%d-", marker, n)
		w.wrong = strict
		w.refuses(fmt.Sprintf("u%d@own0.example", n), notRight, 1)
		w.wrong = lax
		if !w.stolen() {
			t.Errorf("message %d: the recipient that needs no more than TLS didn't get it", n)
		}
	}
	w.delivered("own2.example", 1)
}

// Without the daemon what nobody was promised anything of goes over TLS, and all else waits.
func TestMTAWireSendmailAway(t *testing.T) {
	isolated(t)
	w := newSendmailWire(t, sendmailCase{mc: queueOnly}, true)
	protected := w.marker
	w.message(doctor, []string{"u@good.example"}, nil)
	w.marker = "other-" + protected
	w.message("x@other.example", []string{"x@good.example", "x@none.example"}, nil)
	w.daemon.stop(syscall.SIGTERM)
	w.marker = protected
	run := func(protectedWent, othersWent int) {
		t.Helper()
		if err := w.sendmail.QueueRun(patient(t)); err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, m := range append(w.world.Messages("good.example"), w.world.Messages("none.example")...) {
			got[m.To[0]]++
		}
		if got["u@good.example"] != protectedWent || got["x@good.example"] != 1 || got["x@none.example"] != othersWent {
			t.Errorf("went: %v", got)
		}
	}
	run(0, 0)
	w.logged("ruleset=tls_rcpt, arg1=u@good.example", "451 4.7.5 TLS required or not: tlsonly does not answer")
	w.daemon.start()
	run(1, 1)
	w.delivered("good.example", 2)
}

// Who answers for DNS could give a recipient another domain by a CNAME, and that domain's host proves itself well.
func TestMTAWireSendmailCNAME(t *testing.T) {
	isolated(t)
	for _, follow := range []bool{false, true} {
		c := sendmailCase{mc: queueOnly} // where a queue run asks anew
		if follow {
			c.mc = func(dir string) []string {
				return append(queueOnly(dir), "define(`confDONT_EXPAND_CNAMES', `False')dnl")
			}
		}
		t.Run(fmt.Sprintf("followed %t", follow), func(t *testing.T) {
			w := newSendmailSecureWire(t, []string{byName, byName}, ruleOf("clinic.example", "secure"), c)
			w.message(doctor, []string{"u@own0.example"}, nil)
			w.wrong = w.world.Hosts("own1.example")[0]
			if err := w.signed.SetRecords("own0.example", dns.TypeMX); err != nil {
				t.Fatal(err)
			}
			if err := w.signed.SetRecords("own0.example", dns.TypeCNAME, "own1.example."); err != nil {
				t.Fatal(err)
			}
			if err := w.sendmail.QueueRun(patient(t)); err != nil {
				t.Fatal(err)
			}
			if follow {
				w.fails()
			} else {
				w.refuses("u@own0.example", notRight, 1)
			}
		})
	}
}

// So could it by a longer name, where Sendmail looks below the host's own domain for what it doesn't find.
func TestMTAWireSendmailSearch(t *testing.T) {
	isolated(t)
	const conf = "/etc/resolv.conf" // of the namespace
	before, err := os.ReadFile(conf)
	if err == nil {
		err = os.WriteFile(conf, append([]byte("search search.example\n"), before...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(conf, before, 0o644); err != nil {
			t.Error(err)
		}
	})
	for _, search := range []bool{false, true} {
		c := sendmailCase{mc: queueOnly}
		if search {
			c.mc = func(dir string) []string {
				return append(queueOnly(dir), "define(`confBIND_OPTS', `-DNSRCH +DNSRCH')dnl")
			}
		}
		t.Run(fmt.Sprintf("searched %t", search), func(t *testing.T) {
			w := newSendmailSecureWire(t, []string{bySTS}, ruleOf("clinic.example", "encrypt"), c)
			w.message(doctor, []string{"u@sts0.example"}, nil)
			w.wrong = w.world.Hosts("evil.example")[0]
			if err := w.signed.SetRecords("sts0.example", dns.TypeMX); err != nil {
				t.Fatal(err)
			}
			if err := w.signed.SetRecords("sts0.example.search.example", dns.TypeMX, "10 mx1.evil.example."); err != nil {
				t.Fatal(err)
			}
			// Without a host by the name it was accepted for it comes back, which ends the queue run badly.
			err := w.sendmail.QueueRun(patient(t))
			if w.stolen() != search || (err == nil) != search {
				t.Errorf("the attacker has the message: %t; %v", w.stolen(), err)
			}
			if !search {
				w.logged("to=<u@sts0.example>", "stat=Host unknown")
			}
		})
	}
}

// The host that the site's own tables lead to is the right one for what they send there, and not another that proves its own name.
func TestMTAWireSendmailRoutes(t *testing.T) {
	isolated(t)
	for _, c := range []sendmailCase{
		{name: "mailertable", table: map[string]string{"elsewhere.example": "esmtp:[mx1.own0.example]"}},
		{name: "mailertable by MX", table: map[string]string{"elsewhere.example": "esmtp:own0.example"}},
		{name: "smart host", mc: func(string) []string { return []string{"define(`SMART_HOST', `[mx1.own0.example]')dnl"} }},
		{name: "smart host by MX", mc: func(string) []string { return []string{"define(`SMART_HOST', `own0.example')dnl"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newSendmailSecureWire(t, []string{byName},
				ruleOf("clinic.example", "secure", `match = ["own0.example"]`), c)
			marker := w.marker
			w.message(doctor, []string{"u@elsewhere.example"}, nil)
			waitMessages(t, w.world, "own0.example", 1)
			w.delivered("own0.example", 1)
			w.marker = marker + "-2"
			w.message(doctor, []string{"u2@elsewhere.example"}, func() { w.selfSigned("own0.example") })
			w.refuses("u2@elsewhere.example", notRight, 1)
		})
	}
}
