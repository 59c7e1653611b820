package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/store"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// script makes a program that runs body; "$out" in it is a file, whose path is returned, too.
func script(t *testing.T, body string) (program, out string) {
	t.Helper()
	dir := t.TempDir()
	program, out = filepath.Join(dir, "program"), filepath.Join(dir, "out")
	text := fmt.Sprintf("#!/bin/sh\nout='%s'\n%s\n", out, body)
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, out
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

func newNotifier(c NotifyConfig) (*Notifier, *lines) {
	log := &lines{}
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	c.Host = "mail.here.example"
	c.Now = func() time.Time { return noon }
	return NewNotifier(c), log
}

func changed(what store.What, d, from, to, why string) store.Event {
	return store.Event{ID: 7, When: noon, Destination: addr.MustDestination(d), What: what, From: from, To: to, Why: why}
}

func TestCommand(t *testing.T) {
	program, out := script(t, `{ for a; do printf '<%s>' "$a"; done; echo; pwd; env | grep -v ^_= | sort; cat; } >"$out"`)
	n, log := newNotifier(NotifyConfig{Command: []string{program, "a b", "$HOME;`id`", `"q"`, ""}})
	t.Setenv("TLSONLY_SECRET", "nobody else's")
	n.Tell(changed(store.LostTLS, "far.example", "encrypt", "may", "no-starttls"))
	n.Tell(changed(store.Pinned, "[near.example]:587", "", "two successes", ""))
	n.runCommand(t.Context())
	want := "<a b><$HOME;`id`><\"q\"><>\n/\nLANG=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\n" +
		`{"host":"mail.here.example","events":[` +
		`{"when":"2026-11-23T12:00:00Z","destination":"far.example","what":"lost-tls","from":"encrypt","to":"may","why":"no-starttls"},` +
		`{"when":"2026-11-23T12:00:00Z","destination":"[near.example]:587","what":"pinned","to":"two successes"}]}` + "\n"
	if got := read(t, out); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	n.runCommand(t.Context()) // nothing is left to tell
	if got := read(t, out); got != want || log.String() != "" {
		t.Errorf("told twice: %s\n%s", got, log)
	}
}

// TestCommandLimit: what doesn't end is ended, and so is what it started.
func TestCommandLimit(t *testing.T) {
	program, out := script(t, "trap '' TERM INT HUP\nsleep 1000 &\necho $! >\"$out\"\nsleep 1000")
	n, log := newNotifier(NotifyConfig{Command: []string{program}, Limit: 500 * time.Millisecond})
	n.Tell(changed(store.TLSBack, "far.example", "may", "encrypt", ""))
	n.runCommand(t.Context())
	if !strings.Contains(log.String(), "no end within 500ms") {
		t.Errorf("log: %s", log)
	}
	child := strings.TrimSpace(read(t, out))
	if child == "" {
		t.Fatal("the program didn't get as far as to start another")
	}
	for end := time.Now().Add(10 * time.Second); running(t, child); {
		if time.Now().After(end) {
			t.Fatalf("process %s goes on", child)
		}
		time.Sleep(time.Millisecond)
	}
}

// running reports whether a process is more than a zombie.
func running(t *testing.T, pid string) bool {
	t.Helper()
	_, state, ok := strings.Cut(read(t, "/proc/"+pid+"/stat"), ") ")
	return ok && !strings.HasPrefix(state, "Z")
}

func TestCommandFails(t *testing.T) {
	program, _ := script(t, `cat >/dev/null; head -c 3000000 /dev/zero | tr '\0' x; echo secret >&2; exit 3`)
	n, log := newNotifier(NotifyConfig{Command: []string{program}})
	n.Tell(changed(store.TLSBack, "far.example", "may", "encrypt", ""))
	n.runCommand(t.Context())
	if text := log.String(); !strings.Contains(text, "exit status 3") || strings.Count(text, "x") < 1000 || len(text) > 1500 {
		t.Errorf("%d octets of log: %.200s", len(text), text)
	}
	n, log = newNotifier(NotifyConfig{Command: []string{"/nonexistent/program"}})
	n.Tell(changed(store.TLSBack, "far.example", "may", "encrypt", ""))
	n.runCommand(t.Context())
	if !strings.Contains(log.String(), "no such file") {
		t.Errorf("log: %s", log)
	}
	// A program that doesn't read its input, however long that is, isn't waited for.
	program, _ = script(t, "exit 0")
	n, log = newNotifier(NotifyConfig{Command: []string{program}})
	for range maxWaiting + 5 {
		n.Tell(changed(store.LevelChanged, "far.example", "may", "encrypt", ""))
	}
	if len(n.command) != maxWaiting {
		t.Errorf("%d wait", len(n.command))
	}
	n.runCommand(t.Context())
	if text := log.String(); strings.Contains(text, "no end") {
		t.Errorf("log: %s", text)
	}
}

const wantMail = `From: tlsonly <postmaster@here.example>
To: postmaster@here.example
Subject: tlsonly: TLS lost, 1 of 4 changes
Date: Mon, 23 Nov 2026 12:00:00 +0000
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

Seen by tlsonly on mail.here.example:

2026-11-23 12:00 UTC  far.example: TLS lost: mail of protected senders waits (encrypt -> may), no-starttls

2026-11-23 12:00 UTC  near.example: level (may -> encrypt)
2026-11-23 12:00 UTC  [192.0.2.1]:26: hosts (mx.old.example -> mx.new.example)
2026-11-23 12:00 UTC  old.example: unpinned, every look of 30 days failed

"tlsonly domains history DESTINATION" shows more.
`

func TestMail(t *testing.T) {
	program, out := script(t, `{ for a; do printf '<%s>' "$a"; done; echo; cat; } >"$out"`)
	n, log := newNotifier(NotifyConfig{Mail: addr.MustAddress("postmaster@here.example"), Sendmail: program})
	for _, e := range []store.Event{
		changed(store.LevelChanged, "near.example", "may", "encrypt", ""),
		changed(store.Pinned, "near.example", "", "two successes", ""), // not worth a mail
		changed(store.HostsChanged, "[192.0.2.1]:26", "mx.old.example", "mx.new.example", ""),
		changed(store.LostTLS, "far.example", "encrypt", "may", "no-starttls"),
		changed(store.Unpinned, "old.example", "", "", "every look of 30 days failed"),
	} {
		n.Tell(e)
	}
	n.sendMail(t.Context())
	if got := read(t, out); got != "<-i><-f><<>><--><postmaster@here.example>\n"+wantMail || log.String() != "" {
		t.Errorf("got %s\nlog %s", got, log)
	}
	if n.urgent || len(n.mail) != 0 {
		t.Error("mailed, and still to be mailed")
	}
}

// TestMailInjection: what a stranger puts into names stays on its line.
func TestMailInjection(t *testing.T) {
	n, _ := newNotifier(NotifyConfig{Mail: addr.MustAddress("postmaster@here.example")})
	n.c.Host = "here\r\nX-Injected: yes\r\n.\r\n"
	bad := "a\r\n\r\nSubject: x\n.\nÿ\u2028\x00\x7f\x1b[2J"
	e := changed(store.HostsChanged, "far.example", bad, bad+strings.Repeat("mx.example ", 1000), bad)
	text := string(n.message([]store.Event{e, e}))
	header, body, _ := strings.Cut(text, "\n\n")
	if want := 7; strings.Count(header, "\n")+1 != want || strings.Contains(header, "\r") {
		t.Errorf("header: %s", header)
	}
	if lines := strings.Split(body, "\n"); len(lines) != 7 {
		t.Errorf("%d lines of body: %q", len(lines), body)
	}
	for line := range strings.Lines(text) {
		if len(line) > 998 {
			t.Errorf("a line of %d octets", len(line))
		}
		for _, c := range []byte(strings.TrimSuffix(line, "\n")) {
			if c < ' ' || c > '~' {
				t.Errorf("octet %#x in %q", c, line)
			}
		}
	}
}

// TestMailing counts the mails of a day.
func TestMailing(t *testing.T) {
	program, out := script(t, `grep ^Subject: >>"$out"`)
	broken := program + ".broken"
	synctest.Test(t, func(t *testing.T) {
		n, log := newNotifier(NotifyConfig{Mail: addr.MustAddress("postmaster@here.example"), Sendmail: program})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { n.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		expect := func(after time.Duration, want ...string) {
			t.Helper()
			pass(after)
			got := read(t, out)
			_ = os.Remove(out)
			text := ""
			for _, subject := range want {
				text += "Subject: tlsonly: " + subject + "\n"
			}
			if got != text {
				t.Errorf("got %q\nwant %q", got, text)
			}
		}
		level := changed(store.LevelChanged, "far.example", "may", "encrypt", "")
		lost := changed(store.LostTLS, "far.example", "encrypt", "may", "")

		expect(2 * time.Hour) // nothing to say
		n.Tell(level)
		n.Tell(level)
		expect(59 * time.Minute)
		expect(2*time.Minute, "2 changes of destinations")
		n.Tell(level)
		expect(30 * time.Minute)
		n.Tell(lost)
		expect(time.Second, "TLS lost, 1 of 2 changes")
		expect(2 * time.Hour) // that was all
		for range 100 {       // a provider loses it: at once, then once a minute
			n.Tell(lost)
			time.Sleep(1010 * time.Millisecond)
		}
		expect(time.Minute, "TLS lost, 1 of 1 changes", "TLS lost, 59 of 59 changes", "TLS lost, 40 of 40 changes")

		if err := os.Rename(program, broken); err != nil {
			t.Fatal(err)
		}
		n.Tell(lost)
		expect(5 * time.Minute)
		if n := strings.Count(log.String(), "notify mail"); n < 4 || n > 6 {
			t.Errorf("tried %d times in 5 minutes", n)
		}
		n.Tell(level)
		if err := os.Rename(broken, program); err != nil {
			t.Fatal(err)
		}
		expect(time.Minute+time.Second, "TLS lost, 1 of 2 changes")

		n.Tell(level)
		cancel()
		<-done
		expect(0, "a destination changed")
	})
}

// TestCommandAtOnce: the command is run at once, and a last time at the end.
func TestCommandAtOnce(t *testing.T) {
	program, out := script(t, `cat >>"$out"`)
	n, log := newNotifier(NotifyConfig{Command: []string{program}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	n.Tell(changed(store.TLSBack, "one.example", "may", "encrypt", ""))
	for end := time.Now().Add(10 * time.Second); !strings.Contains(read(t, out), "one.example"); {
		if time.Now().After(end) {
			t.Fatalf("not run: %s", log)
		}
		time.Sleep(time.Millisecond)
	}
	n.Tell(changed(store.TLSBack, "two.example", "may", "encrypt", ""))
	cancel()
	<-done
	if text := read(t, out); !strings.Contains(text, "two.example") || strings.Count(text, "\n") != 2 {
		t.Errorf("told %s\nlog %s", text, log)
	}
}

// An MTA that isn't bound is told at once, and first.
func TestMailUnbound(t *testing.T) {
	n, _ := newNotifier(NotifyConfig{Mail: addr.MustAddress("postmaster@here.example")})
	n.Tell(changed(store.TLSBack, "two.example", "may", "encrypt", ""))
	if n.urgent {
		t.Error("that TLS is back can wait")
	}
	unbound := store.Event{When: noon, What: store.Unbound, Why: "postfix: hole: milter-missing main.cf:smtpd_milters: not asked"}
	n.Tell(unbound)
	if !n.urgent {
		t.Error("unbound waits for the next digest")
	}
	text := string(n.message([]store.Event{changed(store.TLSBack, "two.example", "may", "encrypt", ""), unbound, {When: noon, What: store.Bound, Why: "postfix"}}))
	at := func(part string) int {
		i := strings.Index(text, part)
		if i < 0 {
			t.Errorf("%s\nlacks %q", text, part)
		}
		return i
	}
	at("Subject: tlsonly: the MTA isn't bound, protected mail may leave in the clear\n")
	if at("this host: not bound: protected mail may leave in the clear, postfix: hole: milter-missing main.cf:smtpd_milters: not asked\n") > at("two.example: ") {
		t.Errorf("it doesn't come first:\n%s", text)
	}
	at("this host: bound again, postfix\n")
}

// Of this host's own network no destination is named.
func TestMailOwnNetwork(t *testing.T) {
	n, _ := newNotifier(NotifyConfig{Mail: addr.MustAddress("postmaster@here.example")})
	text := string(n.message([]store.Event{
		{When: noon, What: store.Outage, Why: "6 of 8 hosts fail"},
		{When: noon, What: store.OutageOver, Why: "a host is well again"},
	}))
	for _, want := range []string{
		"  this host: its own network is suspected, destinations aren't blamed meanwhile, 6 of 8 hosts fail\n",
		"  this host: own-network-ok, a host is well again\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %q", text, want)
		}
	}
}
