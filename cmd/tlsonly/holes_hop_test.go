package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

// relayed has a message for somewhere else accepted, before its relay loses TLS.
func relayed(w *wire) {
	w.message(doctor, []string{"u@elsewhere.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
}

// The ports of next hops by any name that the system has for them.
func TestMTAHolesPorts(t *testing.T) {
	long(t)
	waits := func(w *wire) { w.waits("u@elsewhere.example", noOffer) }
	var cases []wireCase
	for _, hop := range []string{"[mx1.good.example]:mail", "[mx1.good.example]:smtp", "[127.0.1.1]:mail"} {
		cases = append(cases, wireCase{name: hop, setup: true, main: func(string) map[string]string {
			return map[string]string{"relayhost": hop}
		}, send: relayed, check: waits})
	}
	runWire(t, cases)
}

// Unprotected mail goes by a relay whose port has a name, and what doctor proposes
// for it ends what doctor says.
func TestMTAHolesPortOfOthers(t *testing.T) {
	long(t)
	isolated(t)
	const hop = "[mx1.none.example]:mail"
	main := func(string) map[string]string { return map[string]string{"relayhost": hop} }
	for _, tables := range []string{"", fmt.Sprintf("[relay]\n\"*\" = %q\n", hop)} {
		w := newWire(t, wireCase{setup: true, main: main, tables: tables}, true)
		w.message("x@other.example", []string{"u@elsewhere.example"}, nil)
		waitMessages(t, w.world, "none.example", 1)
		c := dial(t, w.address)
		c.expect("MAIL FROM:<"+doctor+">", "250")
		c.expect("RCPT TO:<u@elsewhere.example>", "550 5.7.10")
		c.expect("QUIT", "221")
		if out, _ := w.program("doctor", "postfix"); strings.Contains(out, "judged by MX") != (tables == "") {
			t.Errorf("doctor:\n%s", out)
		}
		if err := w.postfix.Stop(); err != nil {
			t.Error(err)
		}
		w.daemon.stop(syscall.SIGTERM)
		w.world.Close()
	}
}

// A relay that speaks TLS from the first byte on: our transports do as the site's
// own client does.
func TestMTAHolesWrapperMode(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{main: func(string) map[string]string { return map[string]string{"relayhost": "[mx1.good.example]:465"} }}, false)
	l, err := tls.Listen("tcp", net.JoinHostPort(w.world.Hosts("good.example")[0].Address().Addr().String(), "465"),
		&tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 10)
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				collect(c, func(from string, _ []string, text []byte) error { got <- from + " " + string(text); return nil })
			})
		}
	})
	w.run("postconf", "-P", "smtp/unix/smtp_tls_wrappermode=yes", "smtp/unix/smtp_tls_security_level=encrypt")
	w.setup()
	w.reload()
	for _, from := range []string{"x@other.example", doctor} {
		w.message(from, []string{"u@elsewhere.example"}, nil)
		select {
		case text := <-got:
			if !strings.HasPrefix(text, from+" ") || !strings.Contains(text, w.marker) {
				t.Errorf("got %q", text)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("mail of %s doesn't arrive: %+v", from, w.queue())
		}
	}
}

// selfSigned returns a certificate that nobody has signed.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mx1.good.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// relayException is a site whose relay is also a mail domain, and one for which the
// clinic makes an exception.
const relayException = `
[[rule]]
name = "exception"
from = ["@clinic.example"]
to = ["@good.example"]
tls = "may"
` + clinicRule

// A relay that is written as a mail domain carries mail for others, and no
// exception for the domain of its name is for that mail.
func TestMTAHolesRelays(t *testing.T) {
	long(t)
	main := func(name, value string) func(string) map[string]string {
		return func(string) map[string]string { return map[string]string{name: value} }
	}
	waits := func(w *wire) { w.waits("u@elsewhere.example", noOffer) }
	runWire(t, []wireCase{
		{name: "by sender", setup: true, rules: relayException, main: main("sender_dependent_relayhost_maps", "inline:{ {@clinic.example = good.example} }"), send: relayed, check: waits},
		{name: "of all", setup: true, rules: relayException, main: main("relayhost", "good.example"), send: relayed, check: waits},
		{name: "by transport", setup: true, rules: relayException, main: main("transport_maps", "inline:{ {elsewhere.example = :good.example} }"), send: relayed, check: waits},
		{name: "by a table that can only be asked", setup: true, rules: relayException, send: relayed, check: waits,
			main: main("sender_dependent_relayhost_maps", "static:good.example")},
		{name: "of all, in upper case", setup: true, rules: relayException, main: main("relayhost", "GOOD.Example"), send: relayed, check: waits},
		{name: "daemon killed", setup: true, rules: relayException, send: func(w *wire) {
			w.message(doctor, []string{"u@elsewhere.example"}, nil)
			w.settle()
			w.fault("good.example", testnet.NoSTARTTLS)
			if w.bound {
				w.daemon.stop(syscall.SIGKILL)
				w.daemon.start()
			}
			if err := w.postfix.Set(patient(w.t), map[string]string{"defer_transports": ""}); err != nil {
				w.t.Fatal(err)
			}
			w.run("postqueue", "-f")
			w.tried()
		}, check: waits, main: func(dir string) map[string]string {
			m := deferred(dir)
			m["sender_dependent_relayhost_maps"] = "inline:{ {@clinic.example = good.example} }"
			return m
		}},
	})
}

// Where the domain is no relay the exception holds as it did.
func TestMTAHolesExceptionStays(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true, rules: strings.ReplaceAll(relayException, "good", "none")}, true)
	w.message(doctor, []string{"u@none.example"}, nil)
	waitMessages(t, w.world, "none.example", 1)
}

// What the running Postfix says of its relays is known before any mail.
func TestMTAHolesRelaysRead(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true, rules: relayException, main: func(string) map[string]string {
		return map[string]string{"sender_dependent_relayhost_maps": "inline:{ {@clinic.example = good.example} }"}
	}}, true)
	ask := func() string {
		t.Helper()
		answer, err := w.postfix.Run(patient(t), "", "postmap", "-q", "good.example", "socketmap:inet:127.0.0.1:8690:forced1")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(answer)
	}
	if got := ask(); got != "may" {
		t.Errorf("before it is read: %q", got)
	}
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + "[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + relayException)
	w.daemon.start()
	if got := ask(); !strings.HasPrefix(got, "encrypt") {
		t.Errorf("after it is read: %q", got)
	}
}
