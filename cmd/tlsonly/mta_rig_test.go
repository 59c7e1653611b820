package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// What the tests named TestMTA… stand on: a real Postfix or Sendmail, the daemon as a process of its own, a small internet.

// milterAddress is where the daemon of these tests listens; the namespaces are theirs alone.
const milterAddress = "127.0.0.1:8689"

const daemonHead = `[milter]
listen = "inet:` + milterAddress + `"
deadline = "3s"
[dns]
resolver = "127.0.0.1:53"
[probe]
helo = "mail.clinic.example"
timeout = "2s"
confirm = "20ms"
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

// newWorld starts the small internet, with more sites in it.
func newWorld(t *testing.T, more ...testnet.Site) *testnet.World {
	t.Helper()
	world, err := testnet.StartWorld("127.0.0.1:53", 25, append(testnet.Sites(), more...))
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
	url  string // of its store; "": a file beside its configuration
	out  *os.File
	cmd  *exec.Cmd
	// began is told of each process as soon as there is one; nil: nobody is.
	began func(pid int)
	// as is whom it runs as; nil: as the test does.
	as *syscall.Credential
}

// startDaemon runs the daemon with a configuration until the test ends.
func startDaemon(t *testing.T, text string) *daemonProcess {
	t.Helper()
	return startDaemonOn(t, text, "")
}

// startDaemonOn is startDaemon with a store elsewhere.
func startDaemonOn(t *testing.T, text, url string) *daemonProcess {
	t.Helper()
	return startDaemonWith(t, text, url, nil)
}

// startDaemonWith is startDaemon with all that can be said of it.
func startDaemonWith(t *testing.T, text, url string, began func(pid int)) *daemonProcess {
	t.Helper()
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonProcess{t: t, file: filepath.Join(dir, "tlsonly.toml"), out: out, url: url, began: began}
	if url == "" {
		d.url = "sqlite://" + d.database()
	}
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
	text += fmt.Sprintf("\n[store]\nurl = %q\n", d.url)
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
	if d.as != nil {
		exe = "/proc/self/exe" // proc(5): whoever may see the file's directory or not
	}
	d.cmd = exec.Command(exe)
	d.cmd.Args = []string{"tlsonly", "serve", "-c", d.file}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: d.as}
	if d.as != nil {
		d.cmd.Path = "/proc/self/exe" // which that user needn't find
	}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	if d.began != nil {
		d.began(d.cmd.Process.Pid)
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

// command runs a command of the program with the daemon's configuration and returns what it said.
func (d *daemonProcess) command(args ...string) string {
	d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{"tlsonly"}, append(args, "-c", d.file)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Errorf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// change has statements done in the store, of which the daemon, if it runs, isn't told.
func (d *daemonProcess) change(statements ...string) {
	d.t.Helper()
	db, err := sql.Open("sqlite", "file:"+d.database()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		d.t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		result, err := db.ExecContext(patient(d.t), s)
		if err != nil {
			d.t.Fatalf("%s: %v", s, err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			d.t.Fatalf("%s: changed %d rows, %v", s, n, err)
		}
	}
}

// lockStore keeps the daemon from writing to its store until the function returned is called.
func (d *daemonProcess) lockStore() func() {
	d.t.Helper()
	db, err := sql.Open("sqlite", "file:"+d.database()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		d.t.Fatal(err)
	}
	conn, err := db.Conn(patient(d.t))
	if err == nil {
		_, err = conn.ExecContext(patient(d.t), "BEGIN IMMEDIATE")
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return func() {
		d.t.Helper()
		if _, err := conn.ExecContext(patient(d.t), "ROLLBACK"); err != nil {
			d.t.Error(err)
		}
		conn.Close()
		db.Close()
	}
}

func (d *daemonProcess) database() string {
	return filepath.Join(filepath.Dir(d.file), "state", "tlsonly.db")
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
	deadline := time.Now().Add(2 * time.Minute)
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

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
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

// eachConn serves each connection that a listener takes, until the test ends.
func eachConn(t *testing.T, l net.Listener, serve func(net.Conn)) {
	t.Helper()
	var serving sync.WaitGroup
	var open sync.Map
	var over atomic.Bool
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			if open.Store(c, nil); over.Load() {
				c.Close()
			}
			serving.Go(func() {
				defer c.Close()
				serve(c)
				open.Delete(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		over.Store(true)
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		serving.Wait()
	})
}

// startRelay hands on what comes to a listener to an address, and what comes back.
func startRelay(t *testing.T, l net.Listener, to string) {
	t.Helper()
	eachConn(t, l, func(c net.Conn) {
		host, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer host.Close()
		var back sync.WaitGroup
		back.Go(func() { _, _ = io.Copy(c, host); c.Close() })
		_, _ = io.Copy(host, c)
		host.Close()
		back.Wait()
	})
}

// realMTA is what the tests need of Postfix and Sendmail alike.
type realMTA struct {
	name    string
	address string
	logs    func(substring string) []string
	// prefix is what the MTA puts before a milter's text in a reply to RCPT, for a recipient.
	prefix func(rcpt string) string
	// held returns how many messages are in quarantine.
	held func() int
}

func startPostfix(t *testing.T, more map[string]string, logins map[string]string) (*rig.Postfix, realMTA) {
	t.Helper()
	return startPostfixWith(t, rig.PostfixConfig{Main: more, Logins: logins})
}

// startPostfixWith is startPostfix with all that a Postfix can be given.
func startPostfixWith(t *testing.T, config rig.PostfixConfig) (*rig.Postfix, realMTA) {
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
	maps.Copy(settings, config.Main)
	config.Main = settings
	p, err := rig.StartPostfix(patient(t), config)
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
	return p, realMTA{
		name:    "postfix",
		address: p.Addr,
		logs:    p.LogLines,
		prefix:  func(string) string { return "" },
		held: func() int {
			queue, err := p.Queue(patient(t))
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

// startSendmail starts Sendmail with more lines of m4.
func startSendmail(t *testing.T, more ...string) (*rig.Sendmail, realMTA) {
	t.Helper()
	s, err := rig.StartSendmail(patient(t), rig.SendmailConfig{
		Milter: "inet:8689@127.0.0.1",
		Mc:     append([]string{"FEATURE(`accept_unqualified_senders')dnl"}, more...),
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
	return s, realMTA{
		name:    "sendmail",
		address: s.Addr,
		logs:    s.LogLines,
		prefix:  func(rcpt string) string { return "<" + rcpt + ">... " },
		held: func() int {
			queue, err := s.Queue(patient(t), true)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(queue, "doctor@clinic.example")
		},
	}
}

// withBoth runs a test with a real Postfix and then with a real Sendmail. start runs the MTA, after the daemon.
func withBoth(t *testing.T, test func(t *testing.T, start func() realMTA)) {
	isolated(t)
	t.Run("postfix", func(t *testing.T) {
		test(t, func() realMTA { _, m := startPostfix(t, nil, nil); return m })
	})
	t.Run("sendmail", func(t *testing.T) {
		test(t, func() realMTA { _, m := startSendmail(t); return m })
	})
}
