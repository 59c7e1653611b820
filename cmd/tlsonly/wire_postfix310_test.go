package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// RFC 8689, section 5: "TLS-Required: No" asks for delivery at any price, and Postfix 3.10 obeys unless it's told not to.
const tlsRequiredNo = "TLS-Required: no"

// needPostfix310 returns its root directory, and skips where it can't be had.
func needPostfix310(t *testing.T) string {
	t.Helper()
	isolated(t)
	root, err := rig.Postfix310()
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no Postfix 3.10: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return root
}

// In our transports.
func TestMTAWireTLSRequiredNo(t *testing.T) {
	root := needPostfix310(t)
	for _, bound := range []bool{true, false} {
		t.Run(map[bool]string{true: "bound", false: "unbound"}[bound], func(t *testing.T) {
			w := newWire(t, wireCase{root: root}, false)
			if version, err := w.postfix.Run(patient(t), "", "postconf", "-h", "mail_version"); err != nil || !strings.HasPrefix(version, "3.10.") {
				t.Fatalf("this is Postfix %s, %v", version, err)
			}
			w.setup()
			if !bound {
				w.run("postconf", "-X", "tls_required_enable")
				w.run("postconf", "-P", "-X", "tlsonly/unix/tls_required_enable", "tlsonly1/unix/tls_required_enable")
			}
			w.reload()
			out, status := w.program("doctor", "postfix")
			if found := strings.Contains(out, "tls_required_enable isn't no"); found == bound || (status == exitNo) == bound {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
			w.messageBy(dial(t, w.address), doctor, []string{"u@good.example", "u@self.example"}, func() {
				w.fault("good.example", testnet.NoSTARTTLS)
				w.fault("self.example", testnet.STARTTLS454)
			}, tlsRequiredNo)
			if !bound {
				for _, domain := range []string{"good.example", "self.example"} {
					waitFor(t, "the marker to be seen in the clear by "+domain, func() bool {
						return bytes.Contains(w.world.Hosts(domain)[0].Plaintext(), []byte(w.marker))
					})
				}
				return
			}
			w.settle()
			if host, at := w.leak(); host != "" {
				t.Errorf("%s saw the message in the clear: …%q…", host, at)
			}
			w.waits("u@good.example", noOffer)
			w.waits("u@self.example", "refused to start TLS")
			w.fault("good.example", testnet.NoFault)
			w.retry("status=sent")
			w.delivered("good.example", 1)
		})
	}
}

// Around our transports, where the policy map holds mail, the header makes Postfix ignore it unless main.cf says no, too: on an
// explicit route, under a rule by login, and in a bounce, which takes the header over from what bounced.
func TestMTAWireTLSRequiredNoPolicy(t *testing.T) {
	long(t)
	root := needPostfix310(t)
	for _, bound := range []bool{true, false} {
		t.Run(map[bool]string{true: "bound", false: "unbound"}[bound], func(t *testing.T) {
			w := newWire(t, wireCase{
				root: root,
				sites: []testnet.Site{
					{Domain: "clinic.example", Hosts: []testnet.Host{{NoTLS: true}}},
					{Domain: "refusing.example", Hosts: []testnet.Host{{Reject: func(string) string { return "550 5.1.1 no such user" }}}},
				},
				main: func(string) map[string]string {
					return map[string]string{"transport_maps": "inline:{ {self.example = smtp:} }"}
				},
				logins: map[string]string{"alice": "secret"},
				rules:  clinicRule + loginRule,
			}, false)
			w.setup()
			// Else the map of senders would have it go by our transports.
			w.run("postconf", "-X", "sender_dependent_default_transport_maps")
			if !bound {
				w.run("postconf", "-X", "tls_required_enable")
			}
			w.reload()
			alice := dial(t, w.address)
			alice.login("alice", "secret")
			marker := w.marker
			for _, c := range []struct {
				client         *client
				from, to, host string
				held           string
			}{
				{dial(t, w.address), doctor, "u@self.example", "self.example", "u@self.example"},
				{alice, "any@other.example", "u@good.example", "good.example", "u@good.example"},
				{dial(t, w.address), doctor, "u@refusing.example", "clinic.example", doctor},
			} {
				w.marker = marker + c.host // one of its own each
				w.messageBy(c.client, c.from, []string{c.to}, func() { w.fault(c.host, testnet.NoSTARTTLS) }, tlsRequiredNo)
				if !bound {
					waitFor(t, c.to+": the marker to be seen in the clear", func() bool { host, _ := w.leak(); return host != "" })
					continue
				}
				w.waits(c.held, noOffer)
				w.settle()
				if host, at := w.leak(); host != "" {
					t.Errorf("%s: %s saw the message in the clear: …%q…", c.to, host, at)
				}
			}
		})
	}
}

// What Postfix 3.10 is told for its TLS reports (RFC 8460) it takes, and it verifies the host as before. It is told only where the
// configuration says that it knows; an older one would have the mail wait.
func TestMTAWireTLSReport(t *testing.T) {
	long(t)
	root := needPostfix310(t)
	const rcpt = "u@sts0.example"
	for _, c := range []struct {
		name, root, says string
		told, sent       bool
	}{
		{"3.10", root, "3.10", true, true},
		{"3.10 not said", root, "3.7", false, true},
		{"3.10 said of an older one", "", "3.10", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newSecureWireOn(t, c.root, []string{bySTS}, fmt.Sprintf("[socketmap]\npostfix = %q\n", c.says), ruleOf("clinic.example", "secure"), nil)
			if version, err := w.postfix.Run(patient(t), "", "postconf", "-h", "mail_version"); err != nil || strings.HasPrefix(version, "3.10.") != (c.root != "") {
				t.Fatalf("this is Postfix %s, %v", version, err)
			}
			answer, err := w.postfix.Run(patient(t), "", "postmap", "-q", "sts0.example", "socketmap:inet:127.0.0.1:8690:forced1")
			if err != nil {
				t.Fatal(err)
			}
			const report = " policy_type=sts policy_domain=sts0.example policy_ttl=86400 { policy_string = version: STSv1 } { policy_string = mode: enforce }" +
				" { policy_string = mx: mx1.sts0.example } { policy_string = max_age: 86400 } mx_host_pattern=mx1.sts0.example"
			if strings.Contains(answer, report) != c.told || strings.Contains(answer, "policy_") != c.told || !strings.HasPrefix(answer, "secure match=") {
				t.Errorf("told %q", answer)
			}
			out, status := w.program("doctor", "postfix")
			if warned := strings.Contains(out, `[socketmap] postfix = "3.10"`); warned == c.sent || strings.Contains(out, "hole  ") {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
			if c.sent {
				w.postfixLogs()
			}
			w.message(doctor, []string{rcpt}, nil)
			if !c.sent {
				w.waits(rcpt, "")
				if len(w.postfix.LogLines("invalid attribute name")) == 0 {
					t.Error("it doesn't say why")
				}
				return
			}
			w.settle()
			w.delivered("sts0.example", 1)
			if len(w.postfix.LogLines("Verified TLS connection established to mx1.sts0.example")) != 1 || len(w.postfix.LogLines("invalid attribute")) > 0 {
				t.Errorf("not verified:\n%s", strings.Join(w.postfix.LogLines("TLS"), "\n"))
			}
		})
	}
}

// postfixLogs has Postfix say whether it verified the hosts that it delivers to.
func (w *wire) postfixLogs() {
	w.t.Helper()
	w.run("postconf", "-e", "smtp_tls_loglevel=1")
	w.run("postconf", "-P", "tlsonly1/unix/smtp_tls_loglevel=1")
	w.reload()
}
