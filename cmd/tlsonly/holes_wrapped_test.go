package main

import (
	"crypto/tls"
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// startWrapped starts a mail host that speaks TLS at once, and counts who talks
// to it without.
func startWrapped(t *testing.T, address string) *testnet.SMTP {
	t.Helper()
	inner, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inner.Close() })
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(testnet.SelfSigned("mx.test"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", address, testnet.ServerTLS(cert, tls.VersionTLS12, 0))
	if err != nil {
		t.Fatal(err)
	}
	startRelay(t, l, inner.Address().String())
	return inner
}

// A relay that speaks TLS at once, at port 465, is reached by our transports as
// by the site's own client.
func TestMTAHolesWrapped(t *testing.T) {
	long(t)
	isolated(t)
	const relay = "127.0.50.1:465"
	host := startWrapped(t, relay)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"relayhost": "[127.0.50.1]:465", "smtp_helo_timeout": "5s"}
	}}, true)
	for _, option := range []string{"smtp_tls_wrappermode=yes", "smtp_tls_security_level=encrypt"} {
		w.run("postconf", "-P", "smtp/unix/"+option)
	}
	w.reload()
	w.doctorSays(exitNo, "broken", "transport-differs")
	// What isn't taken over waits: the transport wants a greeting, and the host
	// TLS.
	w.message(doctor, []string{"u@elsewhere.example"}, nil)
	w.waits("u@elsewhere.example", "")
	if n := len(host.Messages()); n > 0 {
		t.Fatalf("%d messages came without it: the test shows nothing", n)
	}
	w.setup()
	w.reload()
	w.doctorSays(exitOK, "", "transport-differs")
	w.run("postqueue", "-f")
	if err := host.WaitMessages(patient(t), 1); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the delivery in the log", func() bool {
		for _, line := range w.postfix.LogLines("status=sent") {
			if strings.Contains(line, "postfix/tlsonly1/smtp") {
				return true
			}
		}
		return false
	})
}
