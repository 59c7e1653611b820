package testnet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is far more than anything here takes.
const patience = 20 * time.Second

func start(t *testing.T, config SMTPConfig) *SMTP {
	t.Helper()
	leaked := goleak.IgnoreCurrent()
	h, err := StartSMTP(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leaked)
	})
	return h
}

func hostTLS(t *testing.T, spec CertSpec, minVersion, maxVersion uint16, suites ...uint16) (*CA, *tls.Config) {
	t.Helper()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(spec)
	if err != nil {
		t.Fatal(err)
	}
	return ca, ServerTLS(cert, minVersion, maxVersion, suites...)
}

func dial(t *testing.T, h *SMTP) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", h.Address().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// TestSMTPReceives sends with net/smtp, two messages over one connection with TLS and one without.
func TestSMTPReceives(t *testing.T) {
	ca, config := hostTLS(t, CertSpec{Names: []string{"mx.test"}}, 0, tls.VersionTLS12)
	h := start(t, SMTPConfig{Listen: "127.0.1.10:0", TLS: config, Reject: func(rcpt string) string {
		if strings.HasPrefix(rcpt, "nobody@") {
			return "550 5.1.1 no such user"
		}
		return ""
	}})
	if ip := h.Address().Addr().String(); ip != "127.0.1.10" {
		t.Errorf("listens on %s", ip)
	}
	send := func(c *smtp.Client, from, text string, rcpts ...string) {
		t.Helper()
		if err := c.Mail(from); err != nil {
			t.Fatal(err)
		}
		for _, r := range rcpts {
			if err := c.Rcpt(r); (err != nil) != strings.HasPrefix(r, "nobody@") {
				t.Fatalf("RCPT %s: %v", r, err)
			}
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, secure := range []bool{true, false} {
		c, err := smtp.NewClient(dial(t, h), "mx.test")
		if err != nil {
			t.Fatal(err)
		}
		if secure {
			if err := c.StartTLS(&tls.Config{RootCAs: ca.Pool(), ServerName: "mx.test"}); err != nil {
				t.Fatal(err)
			}
			if ok, _ := c.Extension("STARTTLS"); ok {
				t.Error("STARTTLS offered over TLS")
			}
			send(c, "a@sender.test", "Subject: one\r\n\r\nsecret marker\r\n..\r\n", "x@mx.test", "nobody@mx.test", "y@mx.test")
			send(c, "", "two\r\n", "z@mx.test")
		} else {
			send(c, "a@sender.test", "plain marker\r\n", "x@mx.test")
		}
		if err := c.Quit(); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.WaitMessages(ctx, 3); err != nil {
		t.Fatal(err)
	}
	got := h.Messages()
	first := got[0]
	if first.From != "a@sender.test" || !slices.Equal(first.To, []string{"x@mx.test", "y@mx.test"}) ||
		string(first.Data) != "Subject: one\r\n\r\nsecret marker\r\n..\r\n" {
		t.Errorf("first message: %+v", first)
	}
	if !first.TLS || first.Version != tls.VersionTLS12 || first.Cipher == 0 || first.ServerName != "mx.test" {
		t.Errorf("first message's TLS: %+v", first)
	}
	if got[1].From != "" || !got[1].TLS || got[2].TLS {
		t.Errorf("second and third message: %+v", got[1:])
	}
	if plain := h.Plaintext(); bytes.Contains(plain, []byte("secret marker")) || !bytes.Contains(plain, []byte("plain marker")) {
		t.Errorf("plaintext is not what went in the clear: %q", plain)
	}
	if n := h.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
	if cmds := h.Commands(); !slices.Contains(cmds, "STARTTLS") || !slices.Contains(cmds, "MAIL FROM:<> BODY=8BITMIME") {
		t.Errorf("commands %q", cmds)
	}
}

func TestSMTPDialogue(t *testing.T) {
	_, config := hostTLS(t, CertSpec{Names: []string{"mx.test"}}, 0, 0)
	h := start(t, SMTPConfig{TLS: config})
	conn := dial(t, h)
	r := bufio.NewReader(conn)
	for _, step := range []struct{ say, want string }{
		{"", "220 mx.test ESMTP"},
		{"MAIL FROM:<a@b.test>", "503 5.5.1 say EHLO first"},
		{"HELO me", "250 mx.test"},
		{"RCPT TO:<a@b.test>", "503 5.5.1 say MAIL first"},
		{"mail from: <a@b.test> SIZE=1", "250 2.1.0 sender ok"},
		{"MAIL FROM:<a@b.test>", "503 5.5.1 one sender at a time"},
		{"DATA", "503 5.5.1 no recipients"},
		{"RCPT TO:nobody", "501 5.5.4 syntax: RCPT TO:<address>"},
		{"RSET", "250 2.0.0 reset"},
		{"RCPT TO:<a@b.test>", "503 5.5.1 say MAIL first"},
		{"NOOP", "250 2.0.0 ok"},
		{"VRFY x", "252 2.1.5 send some mail"},
		{"XYZZY", "502 5.5.2 command not recognized"},
		{"QUIT", "221 2.0.0 mx.test closing"},
	} {
		if step.say != "" {
			fmt.Fprintf(conn, "%s\r\n", step.say)
		}
		line, err := r.ReadString('\n')
		if got := strings.TrimSpace(line); got != step.want || err != nil {
			t.Fatalf("%s: %q, %v, want %q", step.say, got, err, step.want)
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after QUIT: %v", err)
	}
}

// TestSMTPPregreet: who talks before the banner is refused, as postscreen does.
func TestSMTPPregreet(t *testing.T) {
	h := start(t, SMTPConfig{Fault: BannerMultiline, Delay: 300 * time.Millisecond})
	conn := dial(t, h)
	io.WriteString(conn, "EHLO early\r\n")
	got, _ := io.ReadAll(conn)
	if !strings.Contains(string(got), "554 5.5.1 you talked") {
		t.Errorf("early talker got %q", got)
	}
}

// TestSMTPSetFault: STARTTLS is switched off while the host runs.
func TestSMTPSetFault(t *testing.T) {
	_, config := hostTLS(t, CertSpec{Names: []string{"mx.test"}}, 0, 0)
	h := start(t, SMTPConfig{TLS: config})
	offers := func() bool {
		c, err := smtp.NewClient(dial(t, h), "mx.test")
		if err != nil {
			t.Fatal(err)
		}
		ok, _ := c.Extension("STARTTLS")
		return ok
	}
	if !offers() {
		t.Error("not offered before")
	}
	h.SetFault(NoSTARTTLS)
	if offers() {
		t.Error("offered after")
	}
}

// TestSMTPClose: hanging and endless connections end with Close, and no goroutine stays.
func TestSMTPClose(t *testing.T) {
	for _, f := range []Fault{NoFault, HangConnect, BannerEndless, BannerSlow, Drip} {
		h := start(t, SMTPConfig{Fault: f, Delay: time.Hour})
		conn := dial(t, h)
		if f == BannerEndless {
			if _, err := io.ReadFull(conn, make([]byte, 4096)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
		if err := h.Close(); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: connection outlived Close", f)
		}
		if err := h.WaitMessages(t.Context(), 1); err == nil {
			t.Errorf("%s: waited for a message after Close", f)
		}
	}
}
