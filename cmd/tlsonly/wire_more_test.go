package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

// stripper stands between Postfix and a mail host. When it is switched on it takes STARTTLS out of what the host offers.
type stripper struct {
	listener net.Listener
	host     string
	serving  sync.WaitGroup

	mu    sync.Mutex
	strip bool
	saw   []byte // from Postfix, TLS and all
	open  map[net.Conn]bool
}

// strip puts a proxy at an address before the first host of a domain.
func (w *wire) strip(address, domain string) *stripper {
	w.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &stripper{listener: l, host: w.world.Hosts(domain)[0].Address().String(), open: map[net.Conn]bool{}}
	s.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.serving.Go(func() { s.serve(c) })
		}
	})
	w.t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for c := range s.open {
			c.Close()
		}
		s.mu.Unlock()
		s.serving.Wait()
	})
	w.proxies = append(w.proxies, s)
	return s
}

func (s *stripper) set(strip bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strip = strip
}

func (s *stripper) plaintext() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.saw)
}

// Write notes what the proxy saw.
func (s *stripper) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saw = append(s.saw, b...)
	return len(b), nil
}

func (s *stripper) serve(client net.Conn) {
	defer client.Close()
	host, err := net.Dial("tcp", s.host)
	if err != nil {
		return
	}
	defer host.Close()
	s.mu.Lock()
	strip := s.strip
	s.open[client], s.open[host] = true, true
	s.mu.Unlock()
	var replies sync.WaitGroup
	replies.Go(func() {
		if strip {
			stripReplies(client, host)
		} else {
			_, _ = io.Copy(client, host)
		}
		client.Close()
	})
	_, _ = io.Copy(io.MultiWriter(s, host), client)
	host.Close()
	replies.Wait()
}

// stripReplies hands on SMTP replies without the line that offers STARTTLS.
func stripReplies(client io.Writer, host io.Reader) {
	in := bufio.NewReader(host)
	for {
		var lines []string
		for more := true; more; {
			line, err := in.ReadString('\n')
			if err != nil || len(line) < 5 {
				return
			}
			if more = line[3] == '-'; line[4:] != "STARTTLS\r\n" {
				lines = append(lines, line)
			}
		}
		last := len(lines) - 1
		lines[last] = lines[last][:3] + " " + lines[last][4:]
		if _, err := io.WriteString(client, strings.Join(lines, "")); err != nil {
			return
		}
	}
}

// program runs the program itself on the case's Postfix, in its root directory, and returns what it printed and its exit status.
func (w *wire) program(args ...string) (string, int) {
	w.t.Helper()
	text, err := os.ReadFile(w.daemon.file)
	if err != nil {
		w.t.Fatal(err)
	}
	// proc(5): the link leads to the file itself, from any root directory.
	cmd := exec.CommandContext(patient(w.t), "/proc/self/exe")
	cmd.Args = append([]string{"tlsonly"}, append(args, "-c", write(w.dir, "tlsonly.toml", string(text)))...)
	w.postfix.Within(cmd)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// setup binds Postfix with the program's own command; it knows after reload.
func (w *wire) setup() {
	w.t.Helper()
	if out, status := w.program("setup", "postfix", "--apply", "--no-reload"); status != exitOK {
		w.t.Fatalf("setup: exit status %d\n%s", status, out)
	}
}

// reload makes Postfix read its files, with transports of ours that it didn't have.
func (w *wire) reload() {
	w.t.Helper()
	then := time.Now().Add(-time.Minute) // Postfix waits for newer ones to settle
	for _, name := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(w.postfix.Etc, name), then, then); err != nil {
			w.t.Fatal(err)
		}
	}
	w.run("postfix", "-c", w.postfix.Etc, "reload")
	// It comes last in master.cf: when its socket is there, all other services have been started anew.
	waitFor(w.t, "the transport", func() bool {
		_, err := os.Stat(filepath.Join(w.postfix.Dir, "queue", "private", "tlsonly1"))
		return err == nil
	})
}

// A device between Postfix and a good host takes STARTTLS away; with a level of "may" neither end would know.
func TestMTAWireStripped(t *testing.T) {
	const domain = "stripped.example"
	var proxy *stripper
	runWire(t, []wireCase{{
		name: "STARTTLS stripped by a proxy",
		sites: []testnet.Site{{Domain: domain, Hosts: []testnet.Host{{}},
			Zone: "@ MX 10 way." + domain + ".\nway." + domain + ". 60 IN A 127.0.2.1"}},
		send: func(w *wire) {
			proxy = w.strip("127.0.2.1:25", domain)
			w.message(doctor, []string{"u@" + domain}, func() { proxy.set(true) })
		},
		check: func(w *wire) {
			w.waits("u@"+domain, noOffer)
			if !bytes.Contains(proxy.plaintext(), []byte("EHLO mta.test")) {
				w.t.Error("the proxy saw nothing of Postfix")
			}
			proxy.set(false)
			w.retry("status=sent")
			w.delivered(domain, 1)
			if host, _ := w.leak(); host != "" {
				w.t.Errorf("seen in the clear by %s", host)
			}
		},
	}})
}

// The message has waited: what the store knows is days old, or gone. The demand isn't.
func TestMTAWireAged(t *testing.T) {
	long(t)
	// while stops the daemon, changes its store, and its rules where there are some, and starts it.
	while := func(rules string, statements ...string) func(w *wire) {
		return later(func(w *wire) {
			w.daemon.stop(syscall.SIGTERM)
			w.daemon.change(statements...)
			if rules != "" {
				w.daemon.write(daemonHead + rules)
			}
			w.daemon.start()
		})
	}
	const forgotten = "UPDATE destination SET seen = 0, ends = 0, doc = '', hosts = '', next = 0"
	held := func(w *wire) { w.waits("u@good.example", noOffer) }
	runWire(t, []wireCase{
		{name: "an hour", main: deferred, send: while("", aged(time.Hour)...), check: held},
		{name: "days, looked at again before delivery", main: deferred, send: later(func(w *wire) {
			w.daemon.stop(syscall.SIGTERM)
			w.daemon.change(aged(3 * 24 * time.Hour)...)
			w.daemon.start()
			if w.bound { // it takes five seconds until the daemon asks its store what is due
				w.daemon.wait("the loss in the log", func() bool { return strings.Contains(w.daemon.log(), "what=lost-tls") })
			}
		}), check: held},
		{name: "assessment gone", main: deferred, send: while("", "DELETE FROM host", forgotten), check: held},
		{name: "assessment, pin and rule gone", main: deferred,
			send: while(strings.ReplaceAll(clinicRule, "clinic", "other"), "DELETE FROM host", forgotten,
				"UPDATE destination SET pin_by = '', pin_since = 0"), check: held},
		{name: "demand, pin and assessment gone, rule kept", main: deferred,
			send: while("", "DELETE FROM host", "DELETE FROM destination"), check: held},
	})
}

// aged returns the statements that make all that a store knows of destinations with one address a host older.
func aged(by time.Duration) []string {
	const when = "'$.observations[0].when'"
	statements := []string{fmt.Sprintf("UPDATE host SET doc = json_replace(doc, %[1]s, strftime('%%Y-%%m-%%dT%%H:%%M:%%SZ', json_extract(doc, %[1]s), '-%d seconds'))",
		when, int(by.Seconds()))}
	for _, c := range []struct{ table, columns string }{
		{"destination", "born used seen ends demand_since pin_since first_success last_success failing_since next"},
		{"host", "seen ends"},
	} {
		var set []string
		for column := range strings.FieldsSeq(c.columns) {
			set = append(set, fmt.Sprintf("%[1]s = CASE %[1]s WHEN 0 THEN 0 ELSE %[1]s - %[2]d END", column, by.Microseconds()))
		}
		statements = append(statements, "UPDATE "+c.table+" SET "+strings.Join(set, ", "))
	}
	return statements
}

// Connections with TLS are used again by tlsproxy(8), by mail of the same transport only; and not for long: what
// comes after is told by the host's offer again.
func TestMTAWireReuse(t *testing.T) {
	conns := func(w *wire, rcpt string) string {
		lines := w.postfix.LogLines("to=<" + rcpt + "@good.example>")
		if len(lines) != 1 || !strings.Contains(lines[0], "status=sent") {
			w.t.Errorf("%s: %q", rcpt, lines)
			return ""
		}
		_, use, _ := strings.Cut(lines[0], "conn_use=")
		use, _, _ = strings.Cut(use, ",")
		return use
	}
	runWire(t, []wireCase{{
		name:   "tlsproxy",
		tables: "[binding]\nothers = \"off\"\n",
		master: []string{"tlsproxy unix - - n - 0 tlsproxy"},
		main: func(string) map[string]string {
			return map[string]string{"smtp_tls_connection_reuse": "yes", "smtp_connection_cache_destinations": "good.example",
				"smtp_connection_cache_time_limit": "30s"}
		},
		send: func(w *wire) {
			protected := w.marker
			one := func(from, rcpt string) {
				w.t.Helper()
				w.message(from, []string{rcpt + "@good.example"}, nil)
				w.settle()
			}
			other := func(rcpt string) {
				w.t.Helper()
				w.marker = "unprotected"
				one("x@other.example", rcpt)
				w.marker = protected
			}
			one(doctor, "a1")
			one(doctor, "a2")
			other("b1")
			one(doctor, "a3")
			other("b2")
			w.fault("good.example", testnet.NoSTARTTLS)
			w.run("postfix", "-c", w.postfix.Etc, "reload") // ends the connections that are kept
			other("c1")
			other("c2")
			one(doctor, "a4")
		},
		check: func(w *wire) {
			for rcpt, want := range map[string]string{"a1": "", "a2": "2", "b1": "", "a3": "3", "b2": "2", "c1": "", "c2": "2"} {
				if got := conns(w, rcpt); got != want {
					w.t.Errorf("%s: conn_use=%s, want %s", rcpt, got, want)
				}
			}
			w.waits("a4@good.example", noOffer)
			w.delivered("good.example", 3)
			w.marker = "unprotected"
			if host, _ := w.leak(); host == "" {
				w.t.Error("the unprotected messages did not go in the clear")
			}
		},
	}})
}

// on_lost = "bounce": the sender hears at once of a destination that lost TLS, and of no other trouble.
func TestMTAWireOnLost(t *testing.T) {
	long(t)
	const bounce = "[binding]\non_lost = \"bounce\"\n"
	home := []testnet.Site{{Domain: "clinic.example", Hosts: []testnet.Host{{}}}}
	runWire(t, []wireCase{
		{name: "lost", setup: true, tables: bounce, sites: home, send: lostAfter(testnet.NoSTARTTLS), check: func(w *wire) {
			if lines := w.postfix.LogLines("dsn=5.7.10, status=bounced (" + noOffer); len(lines) != 1 {
				w.t.Errorf("not bounced: %q", w.postfix.LogLines("status="))
			}
			waitMessages(w.t, w.world, "clinic.example", 1)
			w.delivered("clinic.example", 1) // the subject comes back, over TLS
			got := w.world.Messages("clinic.example")
			if got[0].From != "" || !bytes.Contains(got[0].Data, []byte("Status: 5.7.10")) || bytes.Contains(got[0].Data, []byte("Body: ")) {
				w.t.Errorf("the sender got %+v", got)
			}
			waitFor(w.t, "an empty queue", func() bool { return len(w.queue()) == 0 })
		}},
		{name: "other trouble", setup: true, tables: bounce, sites: home,
			send: func(w *wire) {
				w.message(doctor, []string{"u@good.example", "u@self.example", "u@implicit.example"}, func() {
					w.fault("good.example", testnet.STARTTLS454)
					w.fault("self.example", testnet.HandshakeAlert)
					w.fault("implicit.example", testnet.GarbageAfter)
				})
			},
			check: func(w *wire) {
				w.waits("u@good.example", "refused to start TLS")
				w.waits("u@self.example", "Cannot start TLS")
				w.waits("u@implicit.example", "Cannot start TLS")
				if got := w.world.Messages("clinic.example"); len(got) != 0 {
					w.t.Errorf("the sender got %+v", got)
				}
			}},
	})
}

const loginRule = `
[[rule]]
name = "login"
user = ["alice"]
tls = "encrypt"
`

// A rule by login binds mail whose sender's address no rule names, and of which
// delivery shows no login.
func TestMTAWireUser(t *testing.T) {
	long(t)
	c := wireCase{
		name:   "login",
		logins: map[string]string{"alice": "secret"},
		rules:  loginRule,
		send: func(w *wire) {
			c := dial(w.t, w.address)
			c.login("alice", "secret")
			w.messageBy(c, "any@other.example", []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		},
		check: func(w *wire) { w.waits("u@good.example", noOffer) },
	}
	restarted := c
	restarted.name, restarted.main = "login, daemon restarted", deferred
	restarted.send = func(w *wire) {
		c.send(w)
		w.settle()
		w.daemon.stop(syscall.SIGKILL)
		w.daemon.start()
		if err := w.postfix.Set(patient(w.t), map[string]string{"defer_transports": ""}); err != nil {
			w.t.Fatal(err)
		}
		w.run("postqueue", "-f")
		w.tried()
	}
	runWire(t, []wireCase{c, restarted})
}
