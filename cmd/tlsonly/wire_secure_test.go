package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// The tests here are of an attacker in the path who can do TLS: destinations prove who they are, in zones that are really signed
// behind a validating resolver, by an MTA-STS policy or by their certificate, and then another host is where theirs was. It must
// not see a protected message over TLS either. Each attack is made again under rules that allow it, or it could not fail.

// secureWire is a wire in a world of which Unbound tells, bound by setup.
type secureWire struct {
	*wire
	signed *testnet.Signed
	wrong  *testnet.SMTP // the attacker's host
}

// What proves a destination; its domain is such a word and a number.
const (
	byDANE  = "dane"  // a TLSA record, for a certificate that nobody else trusts
	bySTS   = "sts"   // an MTA-STS policy and a certificate for the host
	byName  = "own"   // a certificate for the domain
	byOther = "other" // a certificate for mail.provider.test
)

// Why mail waits, as Postfix says it.
const unverified = "Server certificate not verified"

// newSecureWire makes destinations of these kinds, "dane0.example" and so on, and evil.example.
func newSecureWire(t *testing.T, kinds []string, tables, rules string, main func(string) map[string]string) *secureWire {
	t.Helper()
	return newSecureWireOn(t, "", kinds, tables, rules, main)
}

// newSecureWireOn is newSecureWire with the Postfix of a root directory.
func newSecureWireOn(t *testing.T, root string, kinds []string, tables, rules string, main func(string) map[string]string) *secureWire {
	t.Helper()
	w, world, authorities := newSecureWorld(t, kinds)
	w.wire = newWireIn(t, wireCase{root: root, setup: true, tables: authorities + tables, rules: rules, main: main}, true, world)
	return w
}

// newSecureWorld makes what newSecureWire has around the MTA. It returns the end of the daemon's table [probe], too: whose
// certificates are to be trusted.
func newSecureWorld(t *testing.T, kinds []string) (w *secureWire, world *testnet.World, probe string) {
	t.Helper()
	const policyHost = "127.0.2.1"
	sites := []testnet.Site{{Domain: "evil.example", Hosts: []testnet.Host{{}}}}
	var signed, policies []string
	for i, kind := range kinds {
		site := testnet.Site{Domain: fmt.Sprintf("%s%d.example", kind, i)}
		host := testnet.Host{}
		switch kind {
		case byDANE:
			host.Cert.SelfSigned = true
			signed = append(signed, site.Domain)
		case bySTS:
			site.Zone = fmt.Sprintf("@ MX 10 mx1.%[1]s.\nmta-sts.%[1]s. 60 IN A %[2]s\n_mta-sts.%[1]s. 60 IN TXT \"v=STSv1; id=1\"",
				site.Domain, policyHost)
			policies = append(policies, site.Domain)
		case byName:
			host.Cert.Names = []string{site.Domain}
		case byOther:
			host.Cert.Names = []string{"mail.provider.test"}
		}
		site.Hosts = []testnet.Host{host}
		sites = append(sites, site)
	}
	world, err := testnet.StartWorld("127.0.0.1:0", 25, sites)
	if err != nil {
		t.Fatal(err)
	}
	closes := func(c func() error) {
		t.Cleanup(func() {
			if err := c(); err != nil {
				t.Error(err)
			}
		})
	}
	closes(world.Close)
	zones, err := world.SignedZones(signed...)
	if err != nil {
		t.Fatal(err)
	}
	w = &secureWire{}
	if w.signed, err = testnet.StartSigned("127.0.0.1:0", zones); err != nil {
		t.Fatal(err)
	}
	closes(w.signed.Close)
	for _, domain := range signed {
		name, data := world.Hosts(domain)[0].TLSA()
		if err := w.signed.SetRecords(name, dns.TypeTLSA, data); err != nil {
			t.Fatal(err)
		}
	}
	unbound, err := rig.StartUnbound(patient(t), rig.UnboundConfig{Forward: w.signed.Addr(), Anchor: w.signed.Anchor()})
	if err != nil {
		t.Fatal(err)
	}
	closes(unbound.Stop)
	sts, err := testnet.StartSTS(policyHost+":443", world.CA)
	if err != nil {
		t.Fatal(err)
	}
	closes(sts.Close)
	for _, domain := range policies {
		sts.SetPolicy(domain, "version: STSv1\nmode: enforce\nmx: mx1."+domain+"\nmax_age: 86400\n")
	}
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	closes(func() error { return os.RemoveAll(dir) })
	// The daemon's head ends in the table [probe].
	return w, world, fmt.Sprintf("ca_file = %q\n", write(dir, "ca.pem", string(world.CA.PEM())))
}

// ruleOf is a rule for the senders at a domain.
func ruleOf(domain, level string, more ...string) string {
	return fmt.Sprintf("[[rule]]\nname = %q\nfrom = [%q]\ntls = %q\n%s\n", domain, "@"+domain, level, strings.Join(more, "\n"))
}

// usurp puts a host with another certificate in the place of a domain's.
func (w *secureWire) usurp(domain string, spec testnet.CertSpec) {
	w.t.Helper()
	old := w.world.Hosts(domain)[0]
	if err := old.Close(); err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.world.CA.Issue(spec)
	if err != nil {
		w.t.Fatal(err)
	}
	wrong, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: old.Address().String(), TLS: testnet.ServerTLS(cert, tls.VersionTLS12, 0)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { wrong.Close() })
	w.wrong = wrong
}

// trusted takes the place of a domain's host with a certificate by an authority that all trust.
func (w *secureWire) trusted(domain string) {
	w.usurp(domain, testnet.CertSpec{Names: []string{"mx1." + domain, domain}})
}

// selfSigned takes it with one by nobody.
func (w *secureWire) selfSigned(domain string) {
	w.usurp(domain, testnet.SelfSigned("mx1."+domain, domain))
}

// redirect makes the attacker's host, which has a good certificate for its own name, a domain's only MX.
func (w *secureWire) redirect(domain string) {
	w.t.Helper()
	if err := w.signed.SetRecords(domain, dns.TypeMX, "10 mx1.evil.example."); err != nil {
		w.t.Fatal(err)
	}
	w.wrong = w.world.Hosts("evil.example")[0]
}

// stolen reports whether the attacker has the message.
func (w *secureWire) stolen() bool {
	return slices.ContainsFunc(w.wrong.Messages(), func(m testnet.Message) bool { return bytes.Contains(m.Data, []byte(w.marker)) })
}

// resists checks that mail for rcpt waits, and that the attacker's host was tried and didn't even get to know whom it is for.
func (w *secureWire) resists(rcpt string) {
	w.t.Helper()
	w.waits(rcpt, unverified)
	w.settle()
	if w.wrong.Connections() == 0 {
		w.t.Error("the attacker's host was not tried")
	}
	for _, line := range w.wrong.Commands() {
		if !slices.Contains([]string{"EHLO mta.test", "EHLO mail.clinic.example", "STARTTLS", "QUIT"}, line) {
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

// fails waits until the attacker has the message.
func (w *secureWire) fails() {
	w.t.Helper()
	waitFor(w.t, "the attacker to get the message", w.stolen)
}

// The host changes between acceptance and delivery. All attacks of a run are in one world, each by a sender with a rule of its
// own on a destination of its own.
func TestMTAWireSecure(t *testing.T) {
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
		{"encrypt, DANE published", byDANE, []string{"encrypt"}, []string{"encrypt", `honor = ["mta-sts"]`}, (*secureWire).trusted},
		{"encrypt, MTA-STS published, redirected", bySTS, []string{"encrypt"}, []string{"encrypt", `honor = ["dane"]`}, (*secureWire).redirect},
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
			w := newSecureWire(t, kinds, "", text, nil)
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
						w.resists("u@" + domain)
					}
				})
			}
			if weaker {
				return
			}
			// Where the destination is itself again its mail goes.
			const n = 2
			domain := fmt.Sprintf("%s%d.example", kinds[n], n)
			if err := w.signed.SetRecords(domain, dns.TypeMX, "10 mx1."+domain+"."); err != nil {
				t.Fatal(err)
			}
			w.marker = fmt.Sprintf("%s-%d-", marker, n)
			w.retry("to=<u@" + domain + ">")
			w.delivered(domain, 1)
		})
	}
}

// What is published binds also when the daemon that accepted the mail has gone with all it knew, and another one is asked at
// delivery that has never heard of the destination.
func TestMTAWireSecureForgotten(t *testing.T) {
	long(t)
	isolated(t)
	rules := ruleOf("clinic.example", "encrypt") + ruleOf("lax.example", "encrypt", "honor = []")
	w := newSecureWire(t, []string{byDANE, bySTS, byDANE, bySTS}, "", rules, func(string) map[string]string {
		return map[string]string{"defer_transports": "tlsonly1 tlsonly2"}
	})
	w.message(doctor, []string{"u@dane0.example", "u@sts1.example"}, nil)
	w.message("doctor@lax.example", []string{"u@dane2.example", "u@sts3.example"}, nil)
	w.settle()
	w.daemon.stop(syscall.SIGTERM)
	if err := os.Remove(w.daemon.database()); err != nil {
		t.Fatal(err)
	}
	var wrong []*testnet.SMTP
	for _, domain := range []string{"dane0.example", "sts1.example", "dane2.example", "sts3.example"} {
		w.selfSigned(domain)
		wrong = append(wrong, w.wrong)
	}
	w.daemon.start()
	if err := w.postfix.Set(patient(t), map[string]string{"defer_transports": ""}); err != nil {
		t.Fatal(err)
	}
	w.run("postqueue", "-f")
	for i, rcpt := range []string{"u@dane0.example", "u@sts1.example"} {
		w.wrong = wrong[i]
		w.resists(rcpt)
	}
	for _, w.wrong = range wrong[2:] {
		w.fails()
	}
}

// An exception is for its own class only, also when it is about what destinations publish.
func TestMTAWireSecureHonor(t *testing.T) {
	isolated(t)
	rules := ruleOf("lax.example", "encrypt", "honor = []") + ruleOf("clinic.example", "encrypt")
	w := newSecureWire(t, []string{byDANE}, "", rules, nil)
	strict := dial(t, w.address)
	strict.expect("MAIL FROM:<"+doctor+">", "250")
	strict.expect("RCPT TO:<strict@dane0.example>", "250")
	w.message("doctor@lax.example", []string{"lax@dane0.example"}, func() { w.trusted("dane0.example") })
	w.fails()
	w.marker += "-strict"
	strict.data("250", "Subject: "+w.marker)
	w.waits("strict@dane0.example", unverified)
	w.settle()
	if w.stolen() {
		t.Error("the exception reached another class")
	}
}

// Mail that no rule protects is held to what destinations publish, as [binding] others says.
func TestMTAWireSecureOthers(t *testing.T) {
	long(t)
	isolated(t)
	for _, c := range []struct {
		others         string
		known, unknown bool // whether it holds mail to a destination that was looked at before, and to another
	}{
		{"pinned", true, false},
		{"published", true, true},
		{"off", false, false},
	} {
		t.Run(c.others, func(t *testing.T) {
			binding := fmt.Sprintf("[binding]\nothers = %q\n", c.others)
			w := newSecureWire(t, []string{byDANE, byDANE, bySTS}, binding, ruleOf("clinic.example", "encrypt"), nil)
			w.message(doctor, []string{"before@dane0.example", "before@sts2.example"}, nil)
			waitMessages(t, w.world, "dane0.example", 1)
			waitMessages(t, w.world, "sts2.example", 1)
			for domain, held := range map[string]bool{"dane0.example": c.known, "dane1.example": c.unknown, "sts2.example": c.known} {
				w.marker += "-" + domain
				w.message("x@other.example", []string{"u@" + domain}, func() { w.selfSigned(domain) })
				if held {
					w.resists("u@" + domain)
				} else {
					w.fails()
				}
			}
		})
	}
}

// The names that a rule takes for a destination's are good at delivery, too: for its own mail, and for other mail, which is held
// to what was demanded when that was accepted.
func TestMTAWireSecureMatch(t *testing.T) {
	long(t)
	isolated(t)
	rules := ruleOf("clinic.example", "secure", `match = ["mail.provider.test"]`) + ruleOf("bank.example", "encrypt")
	w := newSecureWire(t, []string{byOther}, "", rules, nil)
	for n, from := range []string{doctor, "teller@bank.example", "x@other.example"} {
		w.message(from, []string{fmt.Sprintf("u%d@other0.example", n)}, nil)
		w.settle()
	}
	w.delivered("other0.example", 3)
	w.redirect("other0.example")
	w.marker += "-redirected"
	w.message("x@other.example", []string{"u@other0.example"}, nil)
	w.resists("u@other0.example")
}
