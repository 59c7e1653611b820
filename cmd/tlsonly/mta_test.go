package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// The tests named TestMTA… run a real Postfix or Sendmail, the daemon as a process of its own, and a small internet.

// milterAddress is where the daemon of these tests listens; the namespaces are theirs alone.
const milterAddress = "127.0.0.1:8891"

const daemonHead = `[milter]
listen = "inet:` + milterAddress + `"
deadline = "3s"
[dns]
resolver = "127.0.0.1:53"
[probe]
helo = "mail.clinic.example"
timeout = "2s"
`

const clinicRule = `
[[rule]]
name = "clinic"
from = ["@clinic.example"]
tls = "encrypt"
`

// isolated skips a test that can't run here: only root can make the namespaces.
func isolated(t *testing.T) {
	t.Helper()
	if err := rig.Isolated(); err != nil {
		t.Skip(err)
	}
}

func newWorld(t *testing.T) *testnet.World {
	t.Helper()
	world, err := testnet.StartWorld("127.0.0.1:53", 25, testnet.Sites())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.Close(); err != nil {
			t.Error(err)
		}
	})
	return world
}

// daemonProcess is tlsonly serve.
type daemonProcess struct {
	t    *testing.T
	file string
	out  *os.File
	cmd  *exec.Cmd
}

// startDaemon runs the daemon with a configuration until the test ends.
func startDaemon(t *testing.T, text string) *daemonProcess {
	t.Helper()
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonProcess{t: t, file: filepath.Join(dir, "tlsonly.toml"), out: out}
	d.write(text)
	d.start()
	t.Cleanup(func() {
		d.stop(syscall.SIGTERM)
		out.Close()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.log())
		}
	})
	return d
}

func (d *daemonProcess) write(text string) {
	d.t.Helper()
	if err := os.WriteFile(d.file, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// start runs the daemon and waits until it takes connections.
func (d *daemonProcess) start() {
	d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	d.cmd = exec.Command(exe)
	d.cmd.Args = []string{"tlsonly", "serve", "-c", d.file}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.wait("the daemon to listen", func() bool {
		conn, err := net.Dial("tcp", milterAddress)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop ends the daemon by a signal; only one that was killed may end in another way than well.
func (d *daemonProcess) stop(s syscall.Signal) {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Error(err)
	}
	err := d.cmd.Wait()
	if err != nil && s != syscall.SIGKILL {
		d.t.Errorf("the daemon: %v", err)
	}
	d.cmd = nil
}

func (d *daemonProcess) log() string {
	text, err := os.ReadFile(d.out.Name())
	if err != nil {
		d.t.Error(err)
	}
	return string(text)
}

// decisions returns the log's decision lines.
func (d *daemonProcess) decisions() []string {
	var lines []string
	for line := range strings.Lines(d.log()) {
		if strings.Contains(line, "msg=decision") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// waitDecision waits for a decision line that has all the words, and returns it.
func (d *daemonProcess) waitDecision(words ...string) string {
	d.t.Helper()
	found := ""
	d.wait(fmt.Sprintf("a decision with %q", words), func() bool {
		for _, line := range d.decisions() {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				found = line
				return true
			}
		}
		return false
	})
	return found
}

func (d *daemonProcess) wait(what string, done func() bool) {
	d.t.Helper()
	waitFor(d.t, what, done)
}

// waitFor asks until done says yes: for what other processes do and tell nobody.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// client speaks SMTP to the MTA.
type client struct {
	t    *testing.T
	conn *textproto.Conn
}

// dial opens a session and greets.
func dial(t *testing.T, address string) *client {
	t.Helper()
	c, err := dialQuietly(address)
	if err != nil {
		t.Fatal(err)
	}
	c.t = t
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// dialQuietly is dial for goroutines.
func dialQuietly(address string) (*client, error) {
	raw, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return nil, err
	}
	c := &client{conn: textproto.NewConn(raw)}
	if _, err := c.reply(); err != nil {
		return nil, err
	}
	if got, err := c.say("EHLO client.example"); err != nil || !strings.HasPrefix(got, "250") {
		return nil, fmt.Errorf("EHLO: %s %w", got, err)
	}
	return c, nil
}

// say sends a command and returns the whole reply, its lines joined by newlines.
func (c *client) say(command string) (string, error) {
	if err := c.conn.PrintfLine("%s", command); err != nil {
		return "", err
	}
	return c.reply()
}

func (c *client) reply() (string, error) {
	var lines []string
	for {
		line, err := c.conn.ReadLine()
		if err != nil {
			return "", err
		}
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n"), nil
		}
	}
}

// expect sends a command and wants a reply that begins so.
func (c *client) expect(command, want string) string {
	c.t.Helper()
	got, err := c.say(command)
	if err != nil || !strings.HasPrefix(got, want) {
		c.t.Fatalf("%s: got %q, %v; want %q", command, got, err, want)
	}
	return got
}

// data sends a message of some header lines and wants a reply that begins so.
func (c *client) data(want string, header ...string) string {
	c.t.Helper()
	c.expect("DATA", "354")
	return c.expect(strings.Join(header, "\r\n")+"\r\n\r\nHello.\r\n.", want)
}

func (c *client) login(user, password string) {
	c.t.Helper()
	c.expect("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)), "235")
}

func context30(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// waitMessages waits until the first host of a domain has taken n messages and returns them all.
func waitMessages(t *testing.T, world *testnet.World, domain string, n int) []testnet.Message {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d messages at %s", n, domain), func() bool { return len(world.Messages(domain)) >= n })
	return world.Messages(domain)
}

// headerOf returns the header fields of a received message in order, "Name: value", unfolded.
func headerOf(t *testing.T, m testnet.Message) []string {
	t.Helper()
	var fields []string
	in := bufio.NewScanner(strings.NewReader(string(m.Data)))
	for in.Scan() && in.Text() != "" {
		if line := in.Text(); line[0] == ' ' || line[0] == '\t' {
			fields[len(fields)-1] += " " + strings.TrimSpace(line)
		} else {
			fields = append(fields, line)
		}
	}
	return fields
}

// named returns the fields of that name.
func named(fields []string, name string) []string {
	var found []string
	for _, f := range fields {
		if key, _, _ := strings.Cut(f, ":"); strings.EqualFold(key, name) {
			found = append(found, f)
		}
	}
	return found
}

// mta is what the tests need of Postfix and Sendmail alike.
type mta struct {
	name    string
	address string
	logs    func(substring string) []string
	// prefix is what the MTA puts before a milter's text in a reply to RCPT, for a recipient.
	prefix func(rcpt string) string
	// held returns how many messages are in quarantine.
	held func() int
}

func startPostfix(t *testing.T, more map[string]string, logins map[string]string) (*rig.Postfix, mta) {
	t.Helper()
	settings := map[string]string{
		"smtpd_milters":           "inet:" + milterAddress,
		"non_smtpd_milters":       "inet:" + milterAddress,
		"milter_default_action":   "tempfail",
		"smtp_tls_security_level": "may",
		"mydestination":           "local.example",
		"local_recipient_maps":    "",
		"local_transport":         "discard",
		"virtual_mailbox_domains": "box.example",
		"virtual_transport":       "discard",
	}
	for k, v := range more {
		settings[k] = v
	}
	p, err := rig.StartPostfix(context30(t), rig.PostfixConfig{Main: settings, Logins: logins})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Postfix's log:\n%s", p.Log())
		}
		if err := p.Stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	})
	return p, mta{
		name:    "postfix",
		address: p.Addr,
		logs:    p.LogLines,
		prefix:  func(string) string { return "" },
		held: func() int {
			queue, err := p.Queue(context30(t))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, m := range queue {
				if m.Queue == "hold" {
					n++
				}
			}
			return n
		},
	}
}

func startSendmail(t *testing.T) (*rig.Sendmail, mta) {
	t.Helper()
	s, err := rig.StartSendmail(context30(t), rig.SendmailConfig{
		Milter: "inet:8891@127.0.0.1",
		Mc:     []string{"FEATURE(`accept_unqualified_senders')dnl"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Sendmail's log:\n%s", s.Log())
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s, mta{
		name:    "sendmail",
		address: s.Addr,
		logs:    s.LogLines,
		prefix:  func(rcpt string) string { return "<" + rcpt + ">... " },
		held: func() int {
			queue, err := s.Queue(context30(t), true)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(queue, "doctor@clinic.example")
		},
	}
}

// withBoth runs a test with a real Postfix and then with a real Sendmail. start runs the MTA, after the daemon.
func withBoth(t *testing.T, test func(t *testing.T, start func() mta)) {
	isolated(t)
	t.Run("postfix", func(t *testing.T) {
		test(t, func() mta { _, m := startPostfix(t, nil, nil); return m })
	})
	t.Run("sendmail", func(t *testing.T) {
		test(t, func() mta { _, m := startSendmail(t); return m })
	})
}

// One message, five destinations: each recipient is answered for itself, and the good ones get the message.
func TestMTAFiveRecipients(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		world := newWorld(t)
		d := startDaemon(t, daemonHead+clinicRule)
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		for _, r := range []struct{ rcpt, code, want string }{
			{"a@good.example", "250", ""},
			{"b@none.example", "550 5.7.10 ", "TLS required: none.example does not offer STARTTLS"},
			{"c@mixed.example", "250", ""},
			{"d@old.example", "550 5.7.10 ", "TLS required: old.example offers only TLS below this site's minimum"},
			{"e@refused.example", "550 5.7.10 ", "TLS required: refused.example cannot complete a TLS handshake"},
			{"f@nullmx.example", "556 5.1.10 ", "nullmx.example does not accept mail"},
			{"g@silent.example", "451 4.7.5 ", "TLS capability of silent.example is not known yet, try again"},
		} {
			want := r.code
			if r.code[:3] == "550" { // Sendmail names the recipient with this code, not with 451 and 556
				want += m.prefix(r.rcpt)
			}
			want += r.want
			reply := c.expect("RCPT TO:<"+r.rcpt+">", want)
			t.Logf("%s: %s", r.rcpt, reply)
		}
		c.data("250", "Subject: five", "From: doctor@clinic.example", "To: a@good.example, c@mixed.example")
		waitMessages(t, world, "good.example", 1)
		waitMessages(t, world, "mixed.example", 1)
		for _, domain := range []string{"none.example", "old.example", "refused.example"} {
			if got := world.Messages(domain); len(got) != 0 {
				t.Errorf("%s got %d messages", domain, len(got))
			}
		}
		d.waitDecision("from=doctor@clinic.example", "rcpt=a@good.example", "rule=clinic", "verdict=accept", "level=encrypt", "destination=good.example")
		d.waitDecision("rcpt=b@none.example", "verdict=reject", "reason=no-starttls")
		line := d.waitDecision("rcpt=g@silent.example", "verdict=defer", "reason=timeout")
		if !strings.Contains(line, "err=") {
			t.Errorf("no cause in %s", line)
		}
	})
}

// The header says what was found, stands first, and copies that came with the message are gone.
func TestMTATags(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		world := newWorld(t)
		startDaemon(t, daemonHead+`
[[rule]]
name = "watch"
from = ["@watched.example"]
tls = "encrypt"
mode = "observe"
[[rule]]
name = "tag"
from = ["@tagged.example"]
tls = "encrypt"
on_fail = "tag"
`+clinicRule)
		m := start()
		for _, r := range []struct{ from, domain, want string }{
			{"doctor@clinic.example", "good.example", `TLS-Only: pass; rule="clinic"; tls=encrypt`},
			{"x@watched.example", "none.example", `TLS-Only: observe; rule="watch"; tls=encrypt; reason=no-starttls; would=reject`},
			{"x@tagged.example", "none.example", `TLS-Only: fail; rule="tag"; tls=encrypt; reason=no-starttls`},
			{"x@nobody.example", "good.example", ""},
		} {
			before := len(world.Messages(r.domain))
			c := dial(t, m.address)
			c.expect("MAIL FROM:<"+r.from+">", "250")
			c.expect("RCPT TO:<u@"+r.domain+">", "250")
			c.data("250", "TLS-Only: pass; forged=1", "Subject: tags", "tls-only: forged=2", "From: x@clinic.example", "TLS-ONLY: pass;", " forged=3")
			fields := headerOf(t, waitMessages(t, world, r.domain, before+1)[before])
			got := named(fields, "TLS-Only")
			if r.want == "" {
				if len(got) != 3 {
					t.Errorf("%s: an unprotected sender's header was touched: %q", r.from, got)
				}
				continue
			}
			if len(got) != 1 || got[0] != r.want || !strings.EqualFold(fields[0], r.want) {
				t.Errorf("%s: got %q, first field %q, want %q", r.from, got, fields[0], r.want)
			}
		}
	})
}

// A held message waits in the MTA's quarantine.
func TestMTAHold(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		world := newWorld(t)
		startDaemon(t, daemonHead+clinicRule+`on_fail = "hold"`)
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.data("250", "Subject: hold")
		waitFor(t, "a message in quarantine", func() bool { return m.held() == 1 })
		if got := world.Messages("none.example"); len(got) != 0 {
			t.Errorf("%d held messages were delivered", len(got))
		}
	})
}

// Several messages on one connection, aborted ones between: nothing of one is left in the next.
func TestMTASeveralMessages(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		world := newWorld(t)
		startDaemon(t, daemonHead+clinicRule)
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.expect("RSET", "250")
		c.expect("MAIL FROM:<x@nobody.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.data("250", "Subject: unprotected")
		c.expect("MAIL FROM:<DOCTOR+tag@Clinic.EXAMPLE>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.expect("EHLO again.example", "250")
		c.expect("MAIL FROM:<>", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.expect("RSET", "250")
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@good.example>", "250")
		c.data("250", "Subject: protected")
		got := waitMessages(t, world, "good.example", 1)
		if len(named(headerOf(t, got[0]), "TLS-Only")) != 1 {
			t.Errorf("no tag: %s", got[0].Data)
		}
		plain := waitMessages(t, world, "none.example", 1)
		if !strings.Contains(string(plain[0].Data), "Subject: unprotected") || len(plain) != 1 {
			t.Errorf("none.example got %d messages: %s", len(plain), plain[0].Data)
		}
	})
}

// Without the daemon nothing is accepted; when it is back, no restart of the MTA is needed.
func TestMTADaemonAway(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		newWorld(t)
		d := startDaemon(t, daemonHead+clinicRule)
		m := start()
		d.stop(syscall.SIGTERM)
		c := dial(t, m.address)
		got, err := c.say("MAIL FROM:<doctor@clinic.example>")
		if err != nil || !strings.HasPrefix(got, "451") {
			t.Fatalf("without the daemon: %q, %v", got, err)
		}
		d.start()
		c = dial(t, m.address)
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
	})
}

// SIGHUP changes the rules for the next message; a bad file changes nothing.
func TestMTAReload(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, nil, nil)
	c := dial(t, m.address)
	try := func(want string) {
		t.Helper()
		c.expect("MAIL FROM:<doctor@clinic.example>", "250")
		c.expect("RCPT TO:<u@none.example>", want)
		c.expect("RSET", "250")
	}
	hup := func(text, said string) {
		t.Helper()
		d.write(text)
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.wait(said, func() bool { return strings.Contains(d.log(), said) })
	}
	try("550")
	hup(daemonHead+clinicRule+`on_fail = "defer"`, "msg=reloaded")
	try("451 4.7.10 TLS required: none.example does not offer STARTTLS")
	hup(daemonHead+clinicRule+`on_fail = "explode"`, "reload refused")
	if !strings.Contains(d.log(), "want reject, defer, hold or tag") {
		t.Error("the fault is not in the log")
	}
	try("451")
}

// A rule by SASL login binds whatever address the client claims.
func TestMTALogin(t *testing.T) {
	isolated(t)
	newWorld(t)
	startDaemon(t, daemonHead+"\n[[rule]]\nname = \"login\"\nuser = [\"Alice\"]\ntls = \"encrypt\"\n")
	_, m := startPostfix(t, nil, map[string]string{"alice": "secret", "bob": "secret"})
	for _, r := range []struct{ user, want string }{{"alice", "550 5.7.10"}, {"bob", "250"}, {"", "250"}} {
		c := dial(t, m.address)
		if r.user != "" {
			c.login(r.user, "secret")
		}
		c.expect("MAIL FROM:<any@other.example>", "250")
		c.expect("RCPT TO:<u@none.example>", r.want)
	}
}

// Mail handed in by sendmail(1): Postfix takes no refusal of a recipient there, so the answer comes at the end.
func TestMTAPickup(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	p, m := startPostfix(t, map[string]string{"bounce_queue_lifetime": "0"}, nil)
	submit := func(from string, to ...string) {
		t.Helper()
		if _, err := p.Run(context30(t), "Subject: pickup\n\nHello.\n", "sendmail", append([]string{"-i", "-f", from}, to...)...); err != nil {
			t.Fatal(err)
		}
	}
	submit("doctor@clinic.example", "u@good.example")
	got := waitMessages(t, world, "good.example", 1)
	if len(named(headerOf(t, got[0]), "TLS-Only")) != 1 {
		t.Errorf("no tag: %s", got[0].Data)
	}
	submit("doctor@clinic.example", "u@good.example", "v@none.example")
	if _, err := p.WaitLog(context30(t), "status=bounced (TLS required: none.example does not offer STARTTLS)"); err != nil {
		t.Error(err)
	}
	d.waitDecision("rcpt=v@none.example", "verdict=reject")
	submit("x@nobody.example", "w@none.example")
	waitMessages(t, world, "none.example", 1)
	if n := len(world.Messages("good.example")); n != 1 {
		t.Errorf("good.example has %d messages, want 1: the refused message is refused as a whole", n)
	}
	if bad := m.logs("milter configuration error"); len(bad) > 0 {
		t.Errorf("%q", bad)
	}
	submit("doctor@clinic.example", "u@silent.example")
	d.waitDecision("rcpt=u@silent.example", "verdict=defer")
	waitFor(t, "the deferred message in maildrop", func() bool {
		queue, err := p.Queue(context30(t))
		if err != nil {
			t.Fatal(err)
		}
		return len(queue) == 1 && queue[0].Queue == "maildrop"
	})
}

// What Postfix delivers itself needs no TLS; where the daemon can't tell by the transport, the file says it.
func TestMTALocal(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+"[forwarding]\nlocal = [\"local.example\", \"box.example\"]\n"+clinicRule)
	_, m := startPostfix(t, map[string]string{"virtual_alias_domains": "alias.example", "virtual_alias_maps": "inline:{a@alias.example=root@local.example}"}, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<u@local.example>", "250")
	c.expect("RCPT TO:<u@box.example>", "250")
	c.expect("RCPT TO:<a@alias.example>", "250")
	c.data("250", "Subject: local")
	d.waitDecision("rcpt=a@alias.example", "verdict=accept")
}

// relayhost: the daemon asks what Postfix will ask, not the recipient's MX.
func TestMTARelayhost(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, map[string]string{"relayhost": "[mx1.none.example]"}, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<u@good.example>", "550 5.7.10 TLS required: [mx1.none.example] does not offer STARTTLS")
	d.waitDecision("rcpt=u@good.example", "destination=[mx1.none.example]")
}

// headers = true: a message may not take its own protection off.
func TestMTATLSRequiredNo(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		newWorld(t)
		startDaemon(t, strings.Replace(daemonHead, "[dns]", "headers = true\n[dns]", 1)+clinicRule)
		m := start()
		for _, r := range []struct{ from, want string }{{"doctor@clinic.example", "550 5.7.10"}, {"x@nobody.example", "250"}} {
			c := dial(t, m.address)
			c.expect("MAIL FROM:<"+r.from+">", "250")
			c.expect("RCPT TO:<u@good.example>", "250")
			c.data(r.want, "Subject: x", "tls-required:  No")
		}
	})
}

// A sender without a domain gets the one that the MTA will give it.
func TestMTABareSender(t *testing.T) {
	withBoth(t, func(t *testing.T, start func() mta) {
		newWorld(t)
		startDaemon(t, daemonHead+strings.Replace(clinicRule, "@clinic.example", "@.test", 1))
		m := start()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<operator>", "250")
		c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
	})
}
