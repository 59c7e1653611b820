package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// The tests named TestMTASites… take a Postfix as a suite or a distribution
// configures it through its life with us: setup, mail, what the suite does to
// the files at its next start, and undo.

// deployment is one way to run Postfix. In its texts DIR is a directory that
// all may search, ETC that of main.cf.
type deployment struct {
	name   string
	main   string            // lines of main.cf, after what the rig needs
	master string            // lines of master.cf
	files  map[string]string // of DIR, root:postfix, mode 0640
	sql    string            // what its database, DIR/db, holds
	hashes []string          // files that are made into hash tables
	setup  func(r *siteRun)  // what else there is to do first
	// signers are where its other milters listen, as the net package says it.
	signers []string
	// tables are lines of the daemon's file, after those of [forwarding].
	tables string
	// from is the protected sender, doctor if empty.
	from string
	// ports are further addresses that take mail of the site's users.
	ports []string
	// source is the address that the protected sender's mail leaves from.
	source string
	// smarthost says that all mail goes to the host of good.example.
	smarthost bool
	// local is a recipient here, alias one that is sent on to u@none.example.
	local, alias string
	// warnings are the codes that doctor may name beside ok ones.
	warnings []string
	// regenerate does what the suite does to the files when it starts; nil:
	// the files stay. keeps says that the binding lives through it.
	regenerate func(r *siteRun)
	keeps      bool
	// override tells the suite to keep our settings, the changed parameters of
	// main.cf and the lines of master.cf; the files are regenerated after it.
	override func(r *siteRun, parameters, services []string)
}

// siteRun is a deployment that runs.
type siteRun struct {
	*watched
	s              deployment
	base           string // the rig's part of main.cf
	main, master   string // the files as the site writes them
	mainMore       string // what the site's override appends
	services, from string
	row            []string
}

// fill puts the places into a text.
func (r *siteRun) fill(text string) string {
	return strings.NewReplacer("DIR", r.dir, "ETC", r.postfix.Etc).Replace(text)
}

// runSites runs the deployments, and logs what was seen of each.
func runSites(t *testing.T, deployments []deployment) {
	isolated(t)
	rows := []string{"site | apply | doctor | protected | unprotected | restart | undo"}
	for _, s := range deployments {
		t.Run(s.name, func(t *testing.T) {
			r := &siteRun{s: s, watched: &watched{wire: &wire{t: t, bound: true}}, row: []string{s.name}}
			r.live()
			rows = append(rows, strings.Join(r.row, " | "))
		})
	}
	t.Log("\n" + strings.Join(rows, "\n"))
}

func (r *siteRun) live() {
	r.start()
	before := r.files()
	r.unbound()
	headers := r.signatures("before setup")

	// Bind it.
	out, status := r.program("setup", "postfix", "--apply")
	if status != exitOK {
		r.t.Fatalf("setup: exit status %d\n%s", status, out)
	}
	began := time.Now()
	if again, status := r.program("setup", "postfix", "--apply"); status != exitOK || !strings.Contains(again, "nothing to change") {
		r.t.Errorf("setup again: exit status %d\n%s", status, again)
	}
	r.saw("ok")
	r.waitBound()
	took := time.Since(began).Round(10 * time.Millisecond)
	if took > 20*time.Second { // six on a busy machine; a minute was too long
		r.t.Errorf("/readyz says that it is bound %s after setup", took)
	}
	r.t.Logf("bound by /readyz %s after setup", took)
	r.doctor()
	r.protected()
	r.unprotected()
	if got := r.signatures("after setup"); got != headers {
		r.t.Errorf("%d signatures after setup, %d before", got, headers)
	}
	parameters, services := r.written()
	r.restarted()

	// And take it back. The rig's master is in the foreground, as in a container.
	if out, status := r.program("setup", "postfix", "--undo", "--apply"); status != exitOK {
		r.t.Fatalf("undo: exit status %d\n%s", status, out)
	}
	if after := r.files(); !bytes.Equal(after, before) {
		r.t.Errorf("after undo:\n%s\nbefore:\n%s", after, before)
	}
	waitFor(r.t, "what was refused to be accepted", func() bool { return strings.HasPrefix(r.rcpt(r.address, r.from, "u@none.example"), "250") })
	if got := r.signatures("after undo"); got != headers {
		r.t.Errorf("%d signatures after undo, %d before", got, headers)
	}
	r.saw("to the octet")
	if r.s.override != nil {
		r.overridden(parameters, services)
	}
}

func (r *siteRun) saw(what string) { r.row = append(r.row, what) }

// start renders the site's files and runs Postfix and the daemon on them.
func (r *siteRun) start() {
	t := r.t
	world, err := testnet.StartWorld("127.0.0.1:53", 25, testnet.Sites())
	if err != nil {
		t.Fatal(err)
	}
	r.world = world
	t.Cleanup(func() { world.Close() })
	wellResolved(world.DNS)
	if r.dir, err = rig.TempDir(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	for _, at := range r.s.signers {
		network, address := r.signerAt(at)
		startSigner(t, network, address)
	}
	r.postfix, err = rig.StartPostfix(patient(t), rig.PostfixConfig{Syslog: true, Main: map[string]string{
		// Queue runs are the test's to start.
		"minimal_backoff_time": "1h", "maximal_backoff_time": "1h",
		"smtp_connect_timeout": "3s", "smtp_helo_timeout": "3s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.address = r.postfix.Addr
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Postfix's log:\n%s", r.postfix.Log())
		}
		if err := r.postfix.Stop(); err != nil {
			t.Error(err)
		}
	})
	r.tables()
	r.base = baseOf(readFileOf(t, filepath.Join(r.postfix.Etc, "main.cf")), r.s.main)
	r.main, r.master = r.base+r.fill(r.s.main), readFileOf(t, filepath.Join(r.postfix.Etc, "master.cf"))+r.fill(r.s.master)
	r.render()
	for _, port := range r.s.ports {
		waitFor(t, "port "+port, func() bool {
			c, err := dialQuietly(port)
			if err == nil {
				c.conn.Close()
			}
			return err == nil
		})
	}
	if r.from = r.s.from; r.from == "" {
		r.from = doctor
	}
	if r.s.setup != nil {
		r.s.setup(r)
	}
	r.daemon = startDaemon(t, daemonHead+"[http]\nlisten = \""+watchHTTP+"\"\n[forwarding]\npostfix = \""+r.postfix.Etc+"\"\n"+
		r.fill(r.s.tables)+clinicRule)
}

// baseOf returns the rig's main.cf without what a site sets itself, so that
// nothing stands twice but what the site has so.
func baseOf(base, site string) string {
	var b strings.Builder
	for line := range strings.Lines(base) {
		name, _, _ := strings.Cut(line, "=")
		its := func(line string) bool {
			other, _, ok := strings.Cut(line, "=")
			return ok && strings.TrimSpace(other) == strings.TrimSpace(name)
		}
		if !slices.ContainsFunc(strings.Split(site, "\n"), its) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// tables makes the tables that the site's files name.
func (r *siteRun) tables() {
	group, err := user.LookupGroup("postfix")
	if err != nil {
		r.t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		r.t.Fatal(err)
	}
	own := func(path string) {
		if err := os.Chown(path, 0, gid); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			r.t.Fatal(err)
		}
	}
	if r.s.sql != "" {
		if prefix, _, err := rig.Tools("postfix-sqlite"); err != nil {
			r.t.Skip(err)
		} else {
			// Where Postfix's user can read it.
			library := filepath.Join(r.dir, "postfix-sqlite.so")
			if out, err := exec.Command("cp", prefix+"/usr/lib/postfix/postfix-sqlite.so", library).CombinedOutput(); err != nil {
				r.t.Fatalf("%v %s", err, out)
			}
			over(r.t, "/etc/postfix/dynamicmaps.cf", "sqlite\t"+library+"\tdict_sqlite_open\n")
		}
		db, err := sql.Open("sqlite", filepath.Join(r.dir, "db"))
		if err == nil {
			_, err = db.Exec(r.s.sql)
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			r.t.Fatal(err)
		}
		own(filepath.Join(r.dir, "db"))
	}
	for name, text := range r.s.files {
		own(write(r.dir, name, r.fill(text)))
	}
	for _, name := range r.s.hashes {
		r.run("postmap", "hash:"+filepath.Join(r.dir, name))
	}
}

// render writes main.cf and master.cf as the site does when it starts, and has
// Postfix read them.
func (r *siteRun) render() {
	replace(r.t, filepath.Join(r.postfix.Etc, "main.cf"), r.main+r.mainMore)
	replace(r.t, filepath.Join(r.postfix.Etc, "master.cf"), r.master+r.services)
	r.reloaded()
}

// unbound is the counter-run: without us the marker is seen.
func (r *siteRun) unbound() {
	r.marked(func() {
		if r.s.smarthost {
			r.fault("good.example", testnet.NoSTARTTLS)
		}
		r.message(r.from, []string{"u@none.example"}, nil)
		waitFor(r.t, "the marker to be seen in the clear", func() bool { return r.hasLeaked() })
		r.settle()
		r.fault("good.example", testnet.NoFault)
	})
}

// marked does something with a marker of its own.
func (r *siteRun) marked(do func()) {
	protected := r.marker
	r.marker = "marker-" + strings.ReplaceAll(time.Now().Format("150405.000000000"), ".", "-")
	do()
	r.marker = protected
}

// doctor wants no finding but ok ones and those that are known.
func (r *siteRun) doctor() {
	out, status := r.program("doctor", "postfix")
	said := map[string]int{}
	var other []string
	for line := range strings.Lines(out) {
		level, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		code, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if level != "warning" && level != "broken" && level != "hole" {
			continue
		}
		if said[code]++; said[code] == 1 {
			r.t.Logf("doctor: %s", strings.TrimSpace(line))
			other = append(other, level+" "+code)
		}
		if level != "warning" || !slices.Contains(r.s.warnings, code) {
			r.t.Errorf("doctor: %s", strings.TrimSpace(line))
		}
	}
	for _, code := range r.s.warnings {
		if said[code] == 0 {
			r.t.Errorf("doctor says nothing of %s:\n%s", code, out)
		}
	}
	if status != exitOK {
		r.t.Errorf("doctor: exit status %d\n%s", status, out)
	}
	if len(other) == 0 {
		other = []string{"no finding"}
	}
	r.saw(fmt.Sprintf("%d, %s", status, strings.Join(other, ", ")))
}

// rcpt returns the reply to a recipient.
func (r *siteRun) rcpt(address, from, to string) string {
	r.t.Helper()
	c, err := dialQuietly(address)
	if err != nil {
		return err.Error()
	}
	defer c.conn.Close()
	if got, err := c.say("MAIL FROM:<" + from + ">"); err != nil || !strings.HasPrefix(got, "250") {
		return fmt.Sprint(got, err)
	}
	got, err := c.say("RCPT TO:<" + to + ">")
	if err != nil {
		return err.Error()
	}
	_, _ = c.say("QUIT")
	return got
}

// protected sends what must leave over TLS, wait, or be refused.
func (r *siteRun) protected() {
	t := r.t
	r.marker = "marker-of-a-protected-message-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	for i, address := range append([]string{r.address}, r.s.ports...) {
		if got := r.rcpt(address, r.from, "u@none.example"); !r.s.smarthost && !strings.HasPrefix(got, "550 5.7.10") {
			t.Errorf("%s: a recipient without TLS: %s", address, got)
		}
		c := dial(t, address)
		r.messageBy(c, r.from, []string{"u@good.example"}, nil)
		r.arrived("good.example", i+1)
	}
	for to, want := range map[string]string{r.s.local: "250", r.s.alias: "550 5.7.10"} {
		if to == "" {
			continue
		}
		if got := r.rcpt(r.address, r.from, to); !strings.HasPrefix(got, want) {
			t.Errorf("a recipient %s: %s, want %s", to, got, want)
		}
	}
	r.delivered("good.example", 1+len(r.s.ports))
	for _, m := range r.got("good.example") {
		if r.s.source != "" && m.Client.String() != r.s.source {
			t.Errorf("it left from %s, want %s", m.Client, r.s.source)
		}
	}
	r.message(r.from, []string{"u@good.example"}, func() { r.fault("good.example", testnet.NoSTARTTLS) })
	r.settle()
	r.waits("u@good.example", noOffer)
	if host, at := r.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
	r.fault("good.example", testnet.NoFault)
	r.saw("TLS; refused; waits")
}

// arrived waits until the hosts of a domain have n messages with the marker.
func (r *siteRun) arrived(domain string, n int) {
	r.t.Helper()
	waitFor(r.t, fmt.Sprintf("%d messages at %s", n, domain), func() bool { return len(r.got(domain)) >= n })
}

// got returns the messages with the marker that a domain has taken.
func (r *siteRun) got(domain string) (got []testnet.Message) {
	for _, m := range r.world.Messages(domain) {
		if bytes.Contains(m.Data, []byte(r.marker)) {
			got = append(got, m)
		}
	}
	return got
}

// unprotected sends what leaves as it did before.
func (r *siteRun) unprotected() {
	r.marked(func() {
		domain := "none.example"
		if r.s.smarthost {
			// The smarthost is held to TLS since protected mail was accepted for it.
			domain = "good.example"
		}
		r.message("x@other.example", []string{"u@none.example"}, nil)
		r.arrived(domain, 1)
		if clear := r.hasLeaked(); clear == r.s.smarthost {
			r.t.Errorf("unprotected mail in the clear: %t", clear)
		}
	})
	if r.s.smarthost {
		r.saw("TLS, as protected mail by the same host")
	} else {
		r.saw("as before")
	}
}

// restarted does what the suite does to the files, and wants the binding kept,
// or its loss noticed and set right by setup.
func (r *siteRun) restarted() {
	if r.s.regenerate == nil {
		r.saw("files stay")
		return
	}
	began := time.Now()
	r.s.regenerate(r)
	if r.s.keeps {
		r.waitBound()
		r.stays("after a restart")
		r.saw("stays bound")
		return
	}
	ready := ""
	within(r.t, time.Minute, "/readyz to fail", func() bool {
		status, text := r.ask("/readyz")
		ready = text
		return status == http.StatusServiceUnavailable
	})
	took := time.Since(began).Round(10 * time.Millisecond)
	_, ready, _ = strings.Cut(ready, "binding: ")
	ready, _, _ = strings.Cut(ready, "\n")
	r.t.Logf("noticed after %s: %s", took, ready)
	r.doctorSays(exitNo, "hole", "milter-missing")
	waitFor(r.t, "the counter-run: it is unbound", func() bool { return strings.HasPrefix(r.rcpt(r.address, r.from, "u@none.example"), "250") })
	if out, status := r.program("setup", "postfix", "--apply"); status != exitOK {
		r.t.Fatalf("setup after a restart: exit status %d\n%s", status, out)
	}
	r.waitBound()
	r.stays("after setup was run again")
	r.saw(fmt.Sprintf("lost, noticed after %s; setup again binds", took))
}

// stays wants protected mail to be held at RCPT and at delivery.
func (r *siteRun) stays(when string) {
	r.t.Helper()
	r.fault("good.example", testnet.NoFault)
	if !r.s.smarthost {
		for _, address := range append([]string{r.address}, r.s.ports...) {
			waitFor(r.t, address+": a recipient without TLS to be refused "+when, func() bool {
				return strings.HasPrefix(r.rcpt(address, r.from, "u@none.example"), "550 5.7.10")
			})
		}
	}
	r.marked(func() {
		to := "after-" + strings.ReplaceAll(when, " ", "-") + "@good.example"
		r.message(r.from, []string{to}, func() { r.fault("good.example", testnet.NoSTARTTLS) })
		r.settle()
		r.waits(to, noOffer)
		r.fault("good.example", testnet.NoFault)
		if host, at := r.leak(); host != "" {
			r.t.Errorf("%s, %s saw the message in the clear: …%q…", when, host, at)
		}
	})
}

// written returns what setup has changed: the parameters of main.cf, as
// "name = value", and the services of master.cf, a line each.
func (r *siteRun) written() (parameters, services []string) {
	r.t.Helper()
	before := map[string]bool{}
	ask := func(args ...string) []string {
		out, err := r.postfix.Run(patient(r.t), "", "postconf", args...)
		if err != nil {
			r.t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(out), "\n")
	}
	main, master := filepath.Join(r.postfix.Etc, "main.cf"), filepath.Join(r.postfix.Etc, "master.cf")
	now := map[string]string{main: readFileOf(r.t, main), master: readFileOf(r.t, master)}
	names := ask("-n")
	lines := ask("-M")
	replace(r.t, main, r.main+r.mainMore)
	replace(r.t, master, r.master+r.services)
	for _, line := range append(ask("-n"), ask("-M")...) {
		before[line] = true
	}
	for path, text := range now {
		replace(r.t, path, text)
	}
	backdateFiles(r.wire)
	only := func(all []string) (fresh []string) {
		for _, line := range all {
			if !before[line] {
				fresh = append(fresh, line)
			}
		}
		return fresh
	}
	return only(names), only(lines)
}

// overridden has the suite keep our settings by its own means.
func (r *siteRun) overridden(parameters, services []string) {
	r.s.override(r, parameters, services)
	r.s.regenerate(r)
	r.waitBound()
	r.stays("with an override")
	if out, status := r.program("setup", "postfix", "--apply", "--no-reload"); status != exitOK || !strings.Contains(out, "nothing to change") {
		r.t.Errorf("with an override setup has something to change: %d\n%s", status, out)
	}
}

// signatures sends a message that isn't protected and counts what the site's
// other milters have put on it.
func (r *siteRun) signatures(when string) (n int) {
	r.t.Helper()
	r.marked(func() {
		r.message("x@other.example", []string{"u@good.example"}, nil)
		r.arrived("good.example", 1)
		n = len(named(headerOf(r.t, r.got("good.example")[0]), "DKIM-Signature"))
	})
	if n != len(r.s.signers) {
		r.t.Errorf("%s: %d signatures, want %d", when, n, len(r.s.signers))
	}
	return n
}

// signer stands for a milter that signs: it adds a field to each message.
type signer struct{ gomilter.NoOpMilter }

func (signer) EndOfMessage(m gomilter.Modifier) (*gomilter.Response, error) {
	if err := m.InsertHeader(0, "DKIM-Signature", "v=1; d=clinic.example; b=x"); err != nil {
		return nil, err
	}
	return gomilter.RespAccept, nil
}

// signerAt returns the network and the address of a signer.
func (r *siteRun) signerAt(at string) (network, address string) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		return "unix", strings.ReplaceAll(path, "DIR", r.dir)
	}
	return "tcp", at
}

func startSigner(t *testing.T, network, address string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	s := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return &signer{} }), gomilter.WithAction(gomilter.OptAddHeader|gomilter.OptChangeHeader))
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Close(); serving.Wait() })
}

// startGivingBack stands for a content filter that gives all back: it hands on what
// comes to one address to another.
func startGivingBack(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	startRelay(t, l, to)
}

// startCanonical stands for a server of SRS addresses: it rewrites nothing, see
// tcp_table(5).
func startCanonical(t *testing.T, at string) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	eachConn(t, l, func(c net.Conn) {
		for in := bufio.NewScanner(c); in.Scan(); {
			if _, err := io.WriteString(c, "500 nothing\n"); err != nil {
				return
			}
		}
	})
}
