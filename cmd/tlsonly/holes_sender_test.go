package main

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/testnet"
)

// changer is a milter that gives messages another sender at their end.
type changer struct {
	gomilter.NoOpMilter
	to   func(from string) string
	from string
}

func (c *changer) MailFrom(from, _ string, _ gomilter.Modifier) (*gomilter.Response, error) {
	c.from = from
	return gomilter.RespContinue, nil
}

// RcptTo asks for the next: Sendmail takes a skip for the end of the filter.
func (c *changer) RcptTo(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (c *changer) EndOfMessage(m gomilter.Modifier) (*gomilter.Response, error) {
	if err := m.ChangeFrom(c.to(c.from), ""); err != nil {
		return nil, err
	}
	return gomilter.RespAccept, nil
}

const otherMilter = "127.0.0.1:10026"

// startChanger runs it where other milters of the site are.
func startChanger(t *testing.T, to func(from string) string) (stop func()) {
	t.Helper()
	_, stop = startChangerAt(t, otherMilter, to)
	return stop
}

// startChangerAt runs it at an address, and returns the one that it got.
func startChangerAt(t *testing.T, address string, to func(from string) string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return &changer{to: to} }),
		gomilter.WithAction(gomilter.OptChangeFrom))
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	stop = sync.OnceFunc(func() { s.Close(); serving.Wait() })
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// What forwarders and validators of bounces make of senders.
func srs0(from string) string {
	local, domain, _ := strings.Cut(strings.Trim(from, "<>"), "@")
	return "SRS0=HHH=TT=" + domain + "=" + local + "@other.example"
}

func srs1(from string) string {
	_, rest, _ := strings.Cut(srs0(from), "SRS0")
	rest, _, _ = strings.Cut(rest, "@")
	return "SRS1=HHH=first.example=" + rest + "@other.example"
}

func batv(from string) string {
	local, domain, _ := strings.Cut(strings.Trim(from, "<>"), "@")
	return "prvs=1234abcdef=" + local + "@" + domain
}

// sentBy checks that a domain got the message, over TLS, from a sender.
func (w *wire) sentBy(domain, from string) {
	w.t.Helper()
	w.delivered(domain, 1)
	for _, m := range w.world.Messages(domain) {
		if bytes.Contains(m.Data, []byte(w.marker)) && m.From != from {
			w.t.Errorf("%s got it from %s, want %s", domain, m.From, from)
		}
	}
}

// Another milter changes the sender of a protected message: its copy is held all
// the same, and the change is on the wire.
func TestMTAHolesSenderChanged(t *testing.T) {
	long(t)
	only := strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1)
	changed := func(name string, to func(string) string, change func(*wireCase)) wireCase {
		c := wireCase{name: name, setup: true,
			main: func(string) map[string]string {
				return map[string]string{"smtpd_milters": "inet:" + otherMilter, "always_bcc": "audit@none.example"}
			},
			send: func(w *wire) {
				startChanger(w.t, to)
				w.message(doctor, []string{"u@good.example"}, nil)
			},
			check: func(w *wire) {
				w.waits("audit@none.example", noOffer)
				w.sentBy("good.example", to(doctor))
			}}
		if change != nil {
			change(&c)
		}
		return c
	}
	runWire(t, []wireCase{
		changed("SRS", srs0, nil),
		changed("SRS again", srs1, nil),
		changed("BATV", batv, nil),
		changed("BATV, a rule for one address", batv, func(c *wireCase) { c.rules = only }),
		changed("BATV in SRS, a rule for one address", func(from string) string { return srs0(batv(from)) }, func(c *wireCase) { c.rules = only }),
		changed("SRS, static table", srs0, func(c *wireCase) { c.tables = sendersTable }),
		changed("BATV, static table, a rule for one address", batv, func(c *wireCase) { c.rules, c.tables = only, sendersTable }),
		changed("SRS, text of bounces kept", srs0, func(c *wireCase) {
			send := c.send
			c.send = func(w *wire) {
				w.daemon.stop(syscall.SIGTERM)
				w.daemon.write(strings.Replace(daemonHead, "[dns]", "redact_bounces = false\n[dns]", 1) + clinicRule)
				w.daemon.start()
				send(w)
			}
		}),
		changed("null", func(string) string { return "" }, func(c *wireCase) {
			c.check = func(w *wire) { w.waits("audit@none.example", noOffer) }
		}),
	})
}

func TestMTAHolesSenderChanged310(t *testing.T) {
	long(t)
	root := needPostfix310(t)
	runWire(t, []wireCase{{name: "SRS", setup: true, root: root,
		main: func(string) map[string]string {
			return map[string]string{"smtpd_milters": "inet:" + otherMilter, "always_bcc": "audit@none.example"}
		},
		send: func(w *wire) {
			startChanger(w.t, srs0)
			w.message(doctor, []string{"u@good.example"}, nil)
		},
		check: func(w *wire) {
			w.waits("audit@none.example", noOffer)
			w.sentBy("good.example", srs0(doctor))
		}}})
}

// A list in which the site has put another milter first stays so, and the change
// that one makes, too. The wish for headers only isn't given then.
func TestMTAHolesSenderChangedBefore(t *testing.T) {
	long(t)
	isolated(t)
	for _, to := range []func(string) string{srs0, batv} {
		w := newWire(t, wireCase{setup: true}, true)
		if err := w.postfix.Set(patient(t), map[string]string{"smtpd_milters": "inet:" + otherMilter + ", " + milterEntry}); err != nil {
			t.Fatal(err)
		}
		stop := startChanger(t, to)
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.write(daemonHead + "[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + clinicRule)
		w.daemon.start()
		if !strings.Contains(w.daemon.log(), "bounces keep the text of protected mail") {
			t.Error("the daemon doesn't say so")
		}
		w.message(doctor, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		w.waits("u@good.example", noOffer)
		w.fault("good.example", testnet.NoFault)
		w.retry("status=sent")
		w.sentBy("good.example", to(doctor))
		if host, at := w.leak(); host != "" {
			t.Errorf("%s saw the message in the clear: %q", host, at)
		}
		if out, status := w.program("doctor", "postfix"); status != exitOK || !strings.Contains(out, "put ours first in smtpd_milters") {
			t.Errorf("doctor: exit status %d\n%s", status, out)
		}
		w.setup()
		if out, err := w.postfix.Run(patient(t), "", "postconf", "smtpd_milters"); err != nil || !strings.Contains(out, otherMilter+", "+milterEntry) {
			t.Errorf("setup reordered the list: %v %s", err, out)
		}
		if err := w.postfix.Stop(); err != nil {
			t.Error(err)
		}
		w.daemon.stop(syscall.SIGTERM)
		w.world.Close()
		stop()
	}
}

// reload makes the daemon read its file, and what it reads of the MTA.
func (d *daemonProcess) reload() {
	d.t.Helper()
	before := strings.Count(d.log(), "msg=reloaded")
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		d.t.Fatal(err)
	}
	d.wait("the reload", func() bool { return strings.Count(d.log(), "msg=reloaded") > before })
}

// Senders that Postfix completes after the milter has seen them.
func TestMTAHolesBareSenders(t *testing.T) {
	long(t)
	none := func(from string) func(w *wire) {
		return func(w *wire) {
			c := dial(w.t, w.address)
			c.expect("MAIL FROM:<"+from+">", "250")
			if w.bound {
				c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
				c.expect("QUIT", "221")
				return
			}
			c.expect("RCPT TO:<u@none.example>", "250")
			c.data("250", "Subject: "+w.marker)
		}
	}
	main := func(kv ...string) func(string) map[string]string {
		return func(string) map[string]string {
			m := map[string]string{}
			for i := 0; i < len(kv); i += 2 {
				m[kv[i]] = kv[i+1]
			}
			return m
		}
	}
	// Without the milter nothing is judged, and the mail leaves.
	free := map[string]string{"smtpd_milters": ""}
	below := strings.Replace(clinicRule, "@clinic", "@.clinic", 1)
	one := strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1)
	runWire(t, []wireCase{
		{name: "append_dot_mydomain", setup: true, free: free, main: main("append_dot_mydomain", "yes", "mydomain", "example"), send: none("doctor@clinic")},
		{name: "append_dot_mydomain, one address", setup: true, free: free, rules: one, main: main("append_dot_mydomain", "yes", "mydomain", "example"), send: none("DOCTOR+x@Clinic")},
		{name: "append_dot_mydomain, below a domain", setup: true, free: free, rules: below, main: main("append_dot_mydomain", "yes", "mydomain", "clinic.example"), send: none("doctor@ward")},
		{name: "by myhostname", setup: true, free: free, main: main("append_dot_mydomain", "yes", "myhostname", "mta.example"), send: none("doctor@clinic")},
		{name: "append_at_myorigin", setup: true, free: free, main: main("myorigin", "clinic.example"), send: none("doctor")},
		{name: "both", setup: true, free: free, main: main("append_dot_mydomain", "yes", "mydomain", "example", "myorigin", "clinic"), send: none("doctor")},
	})
}

// With the names of the running Postfix a sender is judged as what it becomes, and
// as nothing else.
func TestMTAHolesBareSendersKnown(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"append_dot_mydomain": "yes", "mydomain": "other.example"}
	}}, true)
	try := func(want string) {
		t.Helper()
		c := dial(t, w.address)
		c.expect("MAIL FROM:<doctor@clinic>", "250")
		c.expect("RCPT TO:<u@none.example>", want)
		c.expect("QUIT", "221")
	}
	try("550 5.7.10") // whose it is nobody has said
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + "[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + clinicRule)
	w.daemon.start()
	try("250")
	if _, err := w.postfix.Run(patient(t), "", "postconf", "-e", "mydomain = example"); err != nil {
		t.Fatal(err)
	}
	w.daemon.reload()
	try("550 5.7.10")
	if _, err := w.postfix.Run(patient(t), "", "postconf", "-e", "append_dot_mydomain = no"); err != nil {
		t.Fatal(err)
	}
	w.daemon.reload()
	try("250")
}
