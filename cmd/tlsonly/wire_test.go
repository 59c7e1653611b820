package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// The tests named TestMTAWire… hold the promise where it counts: every byte that a destination saw is searched for a
// random marker in the subject and the body of a protected message. Each case runs twice, with the binding and
// without; without it the marker must be seen in the clear, or the case could not fail.

// wire is one case's small world.
type wire struct {
	t        *testing.T
	bound    bool
	world    *testnet.World
	daemon   *daemonProcess
	postfix  *rig.Postfix // or
	sendmail *rig.Sendmail
	address  string // of the MTA
	dir      string // searchable by all
	marker   string
	proxies  []*stripper // between Postfix and hosts
}

// wireCase is one way in which protected mail could get out in the clear.
type wireCase struct {
	name  string
	sites []testnet.Site // besides the usual ones
	// main are main.cf parameters, free those without the binding; dir is the case's directory.
	main   func(dir string) map[string]string
	free   map[string]string
	master []string // lines of master.cf
	logins map[string]string
	root   string // as in rig.PostfixConfig
	rules  string // instead of the clinic's
	tables string // other tables of the daemon's file
	// setup binds with what the program's own command writes, instead of with lines that are kept here.
	setup bool
	// send has the message accepted and does what an enemy, or fate, would do.
	send func(w *wire)
	// check, if any, looks at what became of it with the binding.
	check func(w *wire)
}

// runWire runs the cases with the binding and, as a counter-test, without.
func runWire(t *testing.T, cases []wireCase) {
	isolated(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Run("bound", func(t *testing.T) {
				w := newWire(t, c, true)
				c.send(w)
				w.settle()
				if host, at := w.leak(); host != "" {
					t.Errorf("%s saw the message in the clear: …%q…", host, at)
				}
				protected := w.marker
				if c.check != nil {
					c.check(w)
				}
				w.marker = protected
				if host, at := w.leak(); host != "" {
					t.Errorf("%s saw the message in the clear in the end: …%q…", host, at)
				}
			})
			t.Run("unbound", func(t *testing.T) {
				w := newWire(t, c, false)
				c.send(w)
				waitFor(t, "the marker to be seen in the clear", func() bool { host, _ := w.leak(); return host != "" })
			})
		})
	}
}

func newWire(t *testing.T, c wireCase, bound bool) *wire {
	t.Helper()
	world, err := testnet.StartWorld("127.0.0.1:53", 25, append(testnet.Sites(), c.sites...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	return newWireIn(t, c, bound, world)
}

// newWireIn is newWire in a world that is there already.
func newWireIn(t *testing.T, c wireCase, bound bool, world *testnet.World) *wire {
	t.Helper()
	w := &wire{t: t, bound: bound, world: world, marker: "marker-" + strings.ToLower(rand.Text())}
	var err error
	if w.dir, err = rig.TempDir(); err != nil {
		t.Fatal(err)
	}
	rules := c.rules
	if rules == "" {
		rules = clinicRule
	}
	w.daemon = startDaemon(t, daemonHead+c.tables+rules)
	settings := map[string]string{
		"mydestination":   "local.example",
		"local_transport": "local",
		// Queue runs are the test's to start.
		"minimal_backoff_time": "1h",
		"maximal_backoff_time": "1h",
		"smtp_connect_timeout": "3s",
		"smtp_helo_timeout":    "3s",
	}
	if c.setup { // it names the milter itself
		settings["smtpd_milters"], settings["non_smtpd_milters"] = "", ""
	}
	if c.main != nil {
		maps.Copy(settings, c.main(w.dir))
	}
	master := slices.Clone(c.master)
	if bound && !c.setup {
		const server = "socketmap:inet:127.0.0.1:8690:"
		settings["sender_dependent_default_transport_maps"] = server + "sender"
		settings["smtp_tls_policy_maps"] = server + "policy"
		for _, n := range []string{"", "1", "2"} {
			master = append(master, "tlsonly"+n+" unix - - n - - smtp -o smtp_tls_security_level=encrypt"+
				" -o smtp_tls_mandatory_protocols=>=TLSv1.2 -o smtp_tls_policy_maps="+server+"forced"+n)
		}
	} else if !bound {
		maps.Copy(settings, c.free)
	}
	w.postfix, _ = startPostfixWith(t, rig.PostfixConfig{Root: c.root, Main: settings, Logins: c.logins, Master: master})
	w.address = w.postfix.Addr
	if bound && c.setup {
		w.setup()
		w.reload()
	}
	return w
}

// leak returns the host that saw the marker outside TLS, with what stood around it.
func (w *wire) leak() (host, around string) {
	for _, domain := range w.world.Domains() {
		for i, h := range w.world.Hosts(domain) {
			text := h.Plaintext()
			if at := bytes.Index(text, []byte(w.marker)); at >= 0 {
				return fmt.Sprintf("mail host %d of %s", i+1, domain), string(text[max(0, at-60):min(len(text), at+60)])
			}
		}
	}
	for _, p := range w.proxies {
		if bytes.Contains(p.plaintext(), []byte(w.marker)) {
			return "proxy " + p.listener.Addr().String(), w.marker
		}
	}
	return "", ""
}

// settle waits until Postfix has done all it will do by itself: what is left in the queue has a reason to wait.
func (w *wire) settle() {
	w.t.Helper()
	// A listing of the queue can miss what is just moved in it, so two have to agree, with nothing logged between them.
	before := ""
	waitFor(w.t, "Postfix to be done", func() bool {
		for _, m := range w.queue() {
			for _, r := range m.Recipients {
				if r.Reason == "" || m.Queue != "deferred" && m.Queue != "hold" {
					before = ""
					return false
				}
			}
		}
		// Each program that reads main.cf says so of a parameter that stands there
		// twice, those too that list the queue.
		log := strings.Join(slices.DeleteFunc(strings.Split(w.postfix.Log(), "\n"), func(line string) bool {
			return strings.Contains(line, ": overriding earlier entry: ")
		}), "\n")
		same := log == before
		before = log
		if !same {
			time.Sleep(100 * time.Millisecond)
		}
		return same
	})
}

func (w *wire) queue() []rig.QueuedMessage {
	w.t.Helper()
	queue, err := w.postfix.Queue(patient(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	return queue
}

// retry makes Postfix try everything again until its log says so.
func (w *wire) retry(said string) {
	w.t.Helper()
	before := len(w.postfix.LogLines(said))
	waitFor(w.t, fmt.Sprintf("%q in the log", said), func() bool {
		w.run("postqueue", "-f")
		time.Sleep(200 * time.Millisecond)
		return len(w.postfix.LogLines(said)) > before
	})
	w.settle()
}

func (w *wire) run(name string, args ...string) {
	w.t.Helper()
	if _, err := w.postfix.Run(patient(w.t), "", name, args...); err != nil {
		w.t.Fatal(err)
	}
}

// message sends one message and calls between after its recipients are accepted and before its end.
func (w *wire) message(from string, to []string, between func()) {
	w.t.Helper()
	w.messageBy(dial(w.t, w.address), from, to, between)
}

// messageBy is message on a connection that stands, with more header lines.
func (w *wire) messageBy(c *client, from string, to []string, between func(), header ...string) {
	w.t.Helper()
	c.expect("MAIL FROM:<"+from+">", "250")
	for _, rcpt := range to {
		c.expect("RCPT TO:<"+rcpt+">", "250")
	}
	c.expect("DATA", "354")
	if between != nil {
		between()
	}
	header = append(header, "From: <"+from+">", "Subject: "+w.marker)
	c.expect(fmt.Sprintf("%s\r\n\r\nBody: %s\r\n.", strings.Join(header, "\r\n"), w.marker), "250")
	c.expect("QUIT", "221")
}

// fault switches the first host of a domain.
func (w *wire) fault(domain string, f testnet.Fault) { w.world.Hosts(domain)[0].SetFault(f) }

// waits checks that a message for rcpt comes to wait, for a reason that contains why.
func (w *wire) waits(rcpt, why string) {
	w.t.Helper()
	waitFor(w.t, fmt.Sprintf("mail for %s to wait because of %q", rcpt, why), func() bool {
		for _, m := range w.queue() {
			for _, r := range m.Recipients {
				if strings.EqualFold(r.Address, rcpt) && r.Reason != "" && strings.Contains(r.Reason, why) {
					return true
				}
			}
		}
		return false
	})
}

// delivered checks that the hosts of a domain got n copies of the message, over TLS 1.2 or later.
func (w *wire) delivered(domain string, n int) {
	w.t.Helper()
	got := 0
	for _, m := range w.world.Messages(domain) {
		if bytes.Contains(m.Data, []byte(w.marker)) {
			got++
			if !m.TLS || m.Version < 0x0303 {
				w.t.Errorf("%s got it over TLS %t, version %#x", domain, m.TLS, m.Version)
			}
		}
	}
	if got != n {
		w.t.Errorf("%s got %d copies, want %d", domain, got, n)
	}
}

const (
	doctor  = "doctor@clinic.example"
	noOffer = "TLS is required, but was not offered"
)

// lostAfter has a message for good.example accepted and then switches its host.
func lostAfter(f testnet.Fault) func(w *wire) {
	return func(w *wire) {
		w.message(doctor, []string{"u@good.example"}, func() { w.fault("good.example", f) })
	}
}

// none turns TLS off without the binding: for hosts that Postfix by itself would wait for.
func none() map[string]string { return map[string]string{"smtp_tls_security_level": "none"} }

// write makes a file in the case's directory.
func write(dir, name, text string) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		panic(err)
	}
	return path
}

// The destination changes between acceptance and delivery.
func TestMTAWireDestination(t *testing.T) {
	long(t)
	runWire(t, []wireCase{
		{name: "STARTTLS gone", send: lostAfter(testnet.NoSTARTTLS), check: func(w *wire) {
			w.waits("u@good.example", noOffer)
			w.fault("good.example", testnet.NoFault)
			w.retry("status=sent")
			w.delivered("good.example", 1)
		}},
		{name: "STARTTLS mangled by a device between", send: lostAfter(testnet.EHLOMangled),
			check: func(w *wire) { w.waits("u@good.example", noOffer) }},
		{name: "454 to STARTTLS", send: lostAfter(testnet.STARTTLS454),
			check: func(w *wire) { w.waits("u@good.example", "refused to start TLS") }},
		{name: "garbage instead of TLS", free: none(), send: lostAfter(testnet.GarbageAfter),
			check: func(w *wire) { w.waits("u@good.example", "Cannot start TLS") }},
		{name: "handshake refused", free: none(), send: lostAfter(testnet.HandshakeAlert),
			check: func(w *wire) { w.waits("u@good.example", "Cannot start TLS") }},
		{name: "moved to a host with TLS 1.0 only", free: none(),
			sites: []testnet.Site{{Domain: "moving.example", Zone: "@ MX 10 mx1.good.example."}},
			send: func(w *wire) {
				w.message(doctor, []string{"u@moving.example"}, func() { w.move("moving.example", "mx1.old.example") })
			},
			check: func(w *wire) { w.waits("u@moving.example", "Cannot start TLS") }},
		{name: "moved to a host without TLS",
			sites: []testnet.Site{{Domain: "moving.example", Zone: "@ MX 10 mx1.good.example."}},
			send: func(w *wire) {
				w.message(doctor, []string{"u@moving.example"}, func() { w.move("moving.example", "mx1.none.example") })
			},
			check: func(w *wire) { w.waits("u@moving.example", noOffer) }},
		{name: "two hosts, the first without TLS",
			send:  func(w *wire) { w.message(doctor, []string{"u@mixed.example"}, nil) },
			check: func(w *wire) { w.delivered("mixed.example", 1) }},
	})
}

// move makes another host a domain's only MX.
func (w *wire) move(domain, host string) {
	w.t.Helper()
	if err := w.world.Replace(domain+". 60 IN MX", fmt.Sprintf("%s. 60 IN MX 10 %s.", domain, host)); err != nil {
		w.t.Fatal(err)
	}
}

// Settings of Postfix that lead around, and copies and forwards that the milter never sees.
func TestMTAWireRoutes(t *testing.T) {
	long(t)
	with := func(key, value string) func(string) map[string]string {
		return func(string) map[string]string { return map[string]string{key: value} }
	}
	bcc := func(name string, main func(string) map[string]string) wireCase {
		return wireCase{name: name, main: main,
			send: func(w *wire) { w.message(doctor, []string{"u@good.example"}, nil) },
			check: func(w *wire) {
				w.delivered("good.example", 1)
				w.waits("audit@none.example", noOffer)
			}}
	}
	runWire(t, []wireCase{
		{name: "transport_maps", main: with("transport_maps", "inline:{ {good.example = smtp:} }"), send: lostAfter(testnet.NoSTARTTLS),
			check: func(w *wire) { w.waits("u@good.example", noOffer) }},
		{name: "relayhost", main: with("relayhost", "[mx1.good.example]"),
			send: func(w *wire) {
				w.message(doctor, []string{"u@elsewhere.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			},
			check: func(w *wire) { w.waits("u@elsewhere.example", noOffer) }},
		bcc("always_bcc", with("always_bcc", "audit@none.example")),
		bcc("sender_bcc_maps", with("sender_bcc_maps", "inline:{ {doctor@clinic.example = audit@none.example} }")),
		bcc("recipient_bcc_maps", with("recipient_bcc_maps", "inline:{ {u@good.example = audit@none.example} }")),
		{name: "virtual alias", main: with("virtual_alias_maps", "inline:{ {team@local.example = u@none.example} }"),
			send:  func(w *wire) { w.message(doctor, []string{"team@local.example"}, nil) },
			check: func(w *wire) { w.waits("u@none.example", noOffer) }},
		{name: "alias", main: func(dir string) map[string]string {
			return map[string]string{"alias_maps": "texthash:" + write(dir, "aliases", "list u@none.example\n")}
		},
			send:  func(w *wire) { w.message(doctor, []string{"list@local.example"}, nil) },
			check: func(w *wire) { w.waits("u@none.example", noOffer) }},
		{name: "alias with an owner", rules: strings.Replace(clinicRule, `["@clinic.example"]`, `["@clinic.example", "owner-list@mta.test"]`, 1),
			main: func(dir string) map[string]string {
				return map[string]string{"alias_maps": "texthash:" + write(dir, "aliases", "list u@none.example\nowner-list nobody@local.example\n")}
			},
			send:  func(w *wire) { w.message(doctor, []string{"list@local.example"}, nil) },
			check: func(w *wire) { w.waits("u@none.example", noOffer) }},
		{name: ".forward", main: func(dir string) map[string]string {
			return map[string]string{"forward_path": dir + "/$user.forward"}
		},
			send: func(w *wire) {
				path := write(w.dir, "nobody.forward", "u@none.example\n")
				if err := os.Chown(path, 65534, 65534); err != nil {
					w.t.Fatal(err)
				}
				w.message(doctor, []string{"nobody@local.example"}, nil)
			},
			check: func(w *wire) { w.waits("u@none.example", noOffer) }},
		{name: "other case, extension", send: func(w *wire) {
			w.message("DOCTOR+x@Clinic.Example", []string{"u@Good.EXAMPLE"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		}, check: func(w *wire) { w.waits("u@Good.EXAMPLE", noOffer) }},
		{name: "canonical sender", main: with("sender_canonical_maps", "inline:{ {doc@internal.example = doctor@clinic.example} }"),
			rules: strings.Replace(clinicRule, `["@clinic.example"]`, `["@clinic.example", "@internal.example"]`, 1),
			send: func(w *wire) {
				w.message("doc@internal.example", []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			}, check: func(w *wire) { w.waits("u@good.example", noOffer) }},
	})
}

// deferred keeps Postfix from trying anything, for later.
func deferred(string) map[string]string {
	return map[string]string{"defer_transports": "smtp tlsonly tlsonly1"}
}

// later has a message accepted that Postfix doesn't try before something has happened.
func later(then func(w *wire)) func(w *wire) {
	return func(w *wire) {
		w.message(doctor, []string{"u@good.example"}, nil)
		w.settle()
		w.fault("good.example", testnet.NoSTARTTLS)
		then(w)
		if err := w.postfix.Set(patient(w.t), map[string]string{"defer_transports": ""}); err != nil {
			w.t.Fatal(err)
		}
		w.run("postqueue", "-f")
		w.tried()
	}
}

// What happens to Postfix and the daemon between acceptance and delivery.
func TestMTAWireOperation(t *testing.T) {
	long(t)
	lost := func(w *wire) { w.waits("u@good.example", noOffer) }
	runWire(t, []wireCase{
		{name: "daemon restarted", main: deferred, send: later(func(w *wire) { w.daemon.stop(syscall.SIGTERM); w.daemon.start() }), check: lost},
		{name: "daemon killed, store kept", main: deferred, send: later(func(w *wire) { w.daemon.stop(syscall.SIGKILL); w.daemon.start() }), check: lost},
		{name: "daemon away", main: deferred, send: later(func(w *wire) { w.daemon.stop(syscall.SIGTERM) }), check: func(w *wire) {
			w.waits("u@good.example", "")
			w.daemon.start()
			w.run("postfix", "-c", w.postfix.Etc, "reload") // Postfix would remember the failed look-up for 30 s
			w.retry(noOffer)
			w.fault("good.example", testnet.NoFault)
			w.retry("status=sent")
			w.delivered("good.example", 1)
		}},
		{name: "requeued", main: deferred, send: later(func(w *wire) { w.run("postsuper", "-r", "ALL") }), check: lost},
		{name: "reloaded", main: deferred, send: later(func(w *wire) { w.run("postfix", "-c", w.postfix.Etc, "reload") }), check: lost},
		{name: "sendmail(1)", main: deferred, send: func(w *wire) {
			text := fmt.Sprintf("Subject: %s\n\n%s\n", w.marker, w.marker)
			if _, err := w.postfix.Run(patient(w.t), text, "sendmail", "-i", "-f", doctor, "u@good.example"); err != nil {
				w.t.Fatal(err)
			}
			waitFor(w.t, "the message in the queue", func() bool { q := w.queue(); return len(q) == 1 && q[0].Queue == "deferred" })
			w.fault("good.example", testnet.NoSTARTTLS)
			if err := w.postfix.Set(patient(w.t), map[string]string{"defer_transports": ""}); err != nil {
				w.t.Fatal(err)
			}
			w.run("postqueue", "-f")
			w.tried()
		}, check: lost},
	})
}

// tried waits until Postfix has tried a delivery since the transports were freed.
func (w *wire) tried() {
	w.t.Helper()
	waitFor(w.t, "a try", func() bool {
		for _, line := range w.postfix.LogLines("status=") {
			if !strings.Contains(line, "deferred transport") {
				return true
			}
		}
		return false
	})
}

// A protected message bounces to its sender, whose own mail host offers no TLS: no byte of it, nor of its subject.
func TestMTAWireBounce(t *testing.T) {
	runWire(t, []wireCase{{
		name: "bounce",
		sites: []testnet.Site{
			{Domain: "clinic.example", Hosts: []testnet.Host{{NoTLS: true}}},
			{Domain: "refusing.example", Hosts: []testnet.Host{{Reject: func(string) string { return "550 5.1.1 no such user" }}}},
		},
		send: func(w *wire) { w.message(doctor, []string{"u@refusing.example"}, nil) },
		check: func(w *wire) {
			w.waits(doctor, noOffer)
			queue := w.queue()
			if len(queue) != 1 {
				w.t.Fatalf("%d messages in the queue, want the bounce", len(queue))
			}
			text, err := w.postfix.Run(patient(w.t), "", "postcat", "-q", queue[0].ID)
			if err != nil {
				w.t.Fatal(err)
			}
			if strings.Contains(text, "Body: ") {
				w.t.Errorf("the bounce has the message's text:\n%s", text)
			}
		},
	}})
}

// What is not to be held goes as ever.
func TestMTAWireOthers(t *testing.T) {
	isolated(t)
	const othersOff = "[binding]\nothers = \"off\"\n"
	t.Run("unprotected mail goes in the clear where that is all there is", func(t *testing.T) {
		w := newWire(t, wireCase{}, true)
		w.message("x@other.example", []string{"u@none.example", "u@good.example"}, nil)
		w.settle()
		if host, _ := w.leak(); host != "mail host 1 of none.example" {
			t.Errorf("seen in the clear by %q", host)
		}
		w.delivered("good.example", 1)
	})
	t.Run("a cached connection in the clear is not for protected mail", func(t *testing.T) {
		w := newWire(t, wireCase{tables: othersOff, main: func(string) map[string]string {
			return map[string]string{"smtp_connection_cache_destinations": "good.example"}
		}}, true)
		w.message(doctor, []string{"u@good.example"}, func() {
			w.fault("good.example", testnet.NoSTARTTLS)
			protected := w.marker
			w.marker = "unprotected"
			for i := range 3 {
				w.message("x@other.example", []string{fmt.Sprintf("u%d@good.example", i)}, nil)
			}
			w.settle()
			if host, _ := w.leak(); host == "" {
				t.Error("the unprotected messages did not go in the clear")
			}
			w.marker = protected
		})
		w.settle()
		if host, at := w.leak(); host != "" {
			t.Errorf("%s saw the message in the clear: %q", host, at)
		}
		w.waits("u@good.example", noOffer)
	})
	t.Run("local, good and bad recipients of one message", func(t *testing.T) {
		w := newWire(t, wireCase{}, true)
		c := dial(t, w.postfix.Addr)
		c.expect("MAIL FROM:<"+doctor+">", "250")
		c.expect("RCPT TO:<nobody@local.example>", "250")
		c.expect("RCPT TO:<u@good.example>", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.data("250", "Subject: "+w.marker)
		w.settle()
		w.delivered("good.example", 1)
		if lines := w.postfix.LogLines("to=<nobody@local.example>"); len(lines) != 1 || !strings.Contains(lines[0], "status=sent") {
			t.Errorf("local recipient: %q", lines)
		}
		if host, _ := w.leak(); host != "" {
			t.Errorf("seen in the clear by %s", host)
		}
	})
	t.Run("an exception is for its own class only", func(t *testing.T) {
		w := newWire(t, wireCase{rules: `
[[rule]]
name = "exception"
from = ["@clinic.example"]
to = ["@none.example"]
tls = "none"
` + clinicRule + `
[[rule]]
name = "bank"
from = ["@bank.example"]
tls = "encrypt"
`}, true)
		w.message(doctor, []string{"u@none.example"}, nil)
		w.settle()
		if host, _ := w.leak(); host != "mail host 1 of none.example" {
			t.Errorf("the exception did not reach delivery: %q %v", host, w.queue())
		}
		w.marker += "-bank"
		w.message("x@bank.example", []string{"u@good.example"}, func() {
			if err := w.world.Replace("good.example. 60 IN MX", "good.example. 60 IN MX 10 mx1.none.example."); err != nil {
				t.Fatal(err)
			}
		})
		w.settle()
		if host, _ := w.leak(); host != "" {
			t.Errorf("the exception reached another class: seen by %s", host)
		}
	})
}
