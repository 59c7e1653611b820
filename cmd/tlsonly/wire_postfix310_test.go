package main

import (
	"bytes"
	"errors"
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
			if version, err := w.postfix.Run(context30(t), "", "postconf", "-h", "mail_version"); err != nil || !strings.HasPrefix(version, "3.10.") {
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
