package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files returns the texts of main.cf and master.cf.
func (w *wire) files() []byte {
	w.t.Helper()
	var all []byte
	for _, name := range []string{"main.cf", "master.cf"} {
		text, err := os.ReadFile(filepath.Join(w.postfix.Etc, name))
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, text...)
	}
	return all
}

// Services with milters of their own take mail past ours until setup adds it
// there, and it is judged afterwards; one where a content filter gives mail
// back stays as it is. Undo takes all back, to the octet.
func TestMTASetupServices(t *testing.T) {
	long(t)
	isolated(t)
	const other = "{ inet:127.0.0.1:9, default_action=accept }"
	services := []string{
		"1588 inet n - n - - smtpd\n  -o smtpd_milters=", // with the port alone, as submission is
		"1589 inet n - n - - smtpd -o { smtpd_milters = " + other + ", $mua_milters }",
		"1590 inet n - n - - smtpd -o syslog_name=postfix/1590\n# ours comes first\n  -o smtpd_milters=$mua_milters",
	}
	const back = "127.0.0.1:10025"
	for _, root := range []string{"", needPostfix310(t)} {
		w := newWire(t, wireCase{root: root, master: append(services, back+" inet n - n - - smtpd -o content_filter= -o smtpd_milters="),
			main: func(string) map[string]string {
				return map[string]string{"mua_milters": other, "smtpd_milters": "inet:127.0.0.1:9,\n    " + other, "non_smtpd_milters": "",
					"milter_default_action": "accept", "smtp_tls_CAfile": "", "smtp_dns_support_level": "enabled"}
			}}, false)
		before := w.files()
		out, status := w.program("doctor", "postfix")
		for _, port := range []string{"1588", "1589", "1590"} {
			if !strings.Contains(out, port+"/inet in master.cf: smtpd_milters ("+port+"/inet): our milter isn't asked") {
				t.Errorf("doctor, status %d, doesn't say that %s is open:\n%s", status, port, out)
			}
			c := dial(t, "127.0.0.1:"+port)
			c.expect("MAIL FROM:<"+doctor+">", "250")
			c.expect("RCPT TO:<u@none.example>", "250")
			c.expect("QUIT", "221")
		}
		w.setup()
		w.reload()
		out, _ = w.program("doctor", "postfix")
		for _, port := range []string{"1588", "1589", "1590"} {
			c := dial(t, "127.0.0.1:"+port)
			c.expect("MAIL FROM:<"+doctor+">", "250")
			c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
			c.expect("QUIT", "221")
			if strings.Contains(out, port+"/inet): our milter isn't asked") {
				t.Errorf("doctor still says that %s is open:\n%s", port, out)
			}
		}
		c := dial(t, back)
		c.expect("MAIL FROM:<"+doctor+">", "250")
		c.expect("RCPT TO:<u@none.example>", "250")
		c.expect("QUIT", "221")
		if !strings.Contains(out, back+"/inet in master.cf: smtpd_milters") {
			t.Errorf("doctor says nothing of %s:\n%s", back, out)
		}
		// The log reports each delivery, though Postfix's own level is 0.
		w.message(doctor, []string{"u@good.example"}, nil)
		waitMessages(t, w.world, "good.example", 1)
		waitFor(t, "the line of the TLS session", func() bool {
			return slices.ContainsFunc(w.postfix.LogLines("TLS connection established to mx1.good.example"),
				func(line string) bool { return strings.Contains(line, "postfix/tlsonly1/smtp") })
		})
		if out, status := w.program("setup", "postfix", "--undo", "--apply"); status != exitOK {
			t.Fatalf("undo:\n%s", out)
		}
		if after := w.files(); !bytes.Equal(after, before) {
			t.Errorf("after undo:\n%s\nbefore:\n%s", after, before)
		}
		if err := w.postfix.Stop(); err != nil {
			t.Error(err)
		}
		w.daemon.stop(15)
		w.world.Close()
	}
}

// main.cf that is cut below what was there first keeps the milter and the maps:
// they stand in the lists themselves.
func TestMTASetupCut(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"smtpd_milters": "{ inet:127.0.0.1:9, default_action=accept }", "sender_dependent_default_transport_maps": "inline:{ {x@other.example = smtp:} }"}
	}}, true)
	path := filepath.Join(w.postfix.Etc, "main.cf")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Everything that setup has put at the end goes.
	first := strings.Index(string(text), "\nsmtp_tls_policy_maps")
	for _, name := range []string{"\nsmtp_dns_support_level", "\nsmtp_tls_CAfile", "\naddress_verify_"} {
		if at := strings.Index(string(text), name); at >= 0 && at < first {
			first = at
		}
	}
	if err := os.WriteFile(path, text[:first+1], 0o644); err != nil {
		t.Fatal(err)
	}
	w.reload()
	if out, err := w.postfix.Run(patient(t), "", "postconf", "-x", "smtpd_milters", "sender_dependent_default_transport_maps"); err != nil ||
		!strings.Contains(out, milterEntry) || !strings.Contains(out, ":sender1, inline") {
		t.Errorf("%v\n%s", err, out)
	}
	c := dial(t, w.address)
	c.expect("MAIL FROM:<"+doctor+">", "250")
	c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
	if out, status := w.program("setup", "postfix", "--apply"); status != exitOK || !strings.Contains(out, "smtp_tls_policy_maps") {
		t.Errorf("setup again: status %d\n%s", status, out)
	}
}

// Somebody else's milter at the address that [milter] listen names stays, and
// setup says so before it writes anything.
func TestMTASetupStranger(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{main: func(string) map[string]string {
		return map[string]string{"smtpd_milters": "inet:localhost:10026, inet:127.0.0.1:9"}
	}}, false)
	startChanger(t, srs0)
	before := w.files()
	w.daemon.write(strings.Replace(daemonHead, "inet:127.0.0.1:8689", "inet:"+otherMilter, 1) + clinicRule)
	for _, args := range [][]string{{"setup", "postfix"}, {"setup", "postfix", "--apply"}} {
		if out, status := w.program(args...); status != exitNo || !strings.Contains(out, "inet:localhost:10026 is another program's") ||
			!strings.Contains(out, "give [milter] listen another port") {
			t.Errorf("%q: status %d\n%s", args, status, out)
		}
	}
	if after := w.files(); !bytes.Equal(after, before) {
		t.Errorf("it was written all the same:\n%s", after)
	}
	// With an address of its own the other one stays, in its place.
	w.daemon.write(daemonHead + clinicRule)
	w.setup()
	if out, err := w.postfix.Run(patient(t), "", "postconf", "-h", "smtpd_milters"); err != nil || out != milterEntry+", inet:localhost:10026, inet:127.0.0.1:9\n" {
		t.Errorf("%v %s", err, out)
	}
}

// Postfix's commands are where [forwarding] postconf says, and an error says
// where they were looked for.
func TestMTASetupPostconf(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	commands := filepath.Join(w.dir, "sbin")
	if err := os.Symlink("/usr/sbin", commands); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{commands, exitOK, "nothing to change"},
		{commands + "/postconf", exitOK, "nothing to change"},
		{w.dir, exitNo, "find postfix's command postconf where [forwarding] postconf says"},
	} {
		w.daemon.write(daemonHead + "[forwarding]\npostconf = \"" + c.path + "\"\n" + clinicRule)
		if out, status := w.program("setup", "postfix", "--apply"); status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("setup with %s: status %d\n%s", c.path, status, out)
		}
		if out, _ := w.program("lint"); strings.Contains(out, "[forwarding] postconf says") != (c.status == exitNo) {
			t.Errorf("lint with %s:\n%s", c.path, out)
		}
		if out, _ := w.program("doctor", "postfix"); strings.Contains(out, "[forwarding] postconf says") != (c.status == exitNo) {
			t.Errorf("doctor with %s:\n%s", c.path, out)
		}
	}
}
