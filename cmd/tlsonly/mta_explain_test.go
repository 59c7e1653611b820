package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/testnet"
)

// inOrder wants parts of a text, one after the other.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			t.Errorf("no %q in this place of\n%s", part, text)
			return
		}
		rest = after
	}
}

// What the running daemon says of its decisions and of its answers is what real
// Postfix gets: a recipient accepted, refused, deferred by the store, held by a
// pin, and forwarded.
func TestMTAExplain(t *testing.T) {
	long(t)
	isolated(t)
	world := newWorld(t, testnet.Site{Domain: "new.example", Hosts: []testnet.Host{{}}})
	aliases := filepath.Join(t.TempDir(), "aliases")
	if err := os.WriteFile(aliases, []byte("doctor u@none.example\nnurse u@self.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, m := startPostfix(t, map[string]string{
		"mydestination":   "local.example",
		"local_transport": "local",
		"alias_maps":      "texthash:" + aliases,
	}, nil)
	d := startDaemon(t, daemonHead+"[cache]\nsuccess = \"1s\"\nfailure = \"1s\"\n[log]\nlevel = \"debug\"\n[forwarding]\npostfix = \""+p.Etc+"\"\n"+clinicRule+staffRule)
	rcpt := func(from, to string) string {
		t.Helper()
		c := dial(t, m.address)
		defer c.conn.Close()
		c.expect("MAIL FROM:<"+from+">", "250")
		got, err := c.say("RCPT TO:<" + to + ">")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	// explains asks for a decision, and wants the reply that Postfix got, too.
	explains := func(status int, from, to string, parts ...string) {
		t.Helper()
		got := d.commandStatus(status, "explain", "--from", from, "--to", to)
		inOrder(t, got, append([]string{"decided by   the running daemon", "\nsteps\n"}, parts...)...)
		if reply := rcpt(from, to); !strings.HasPrefix(reply, "250") && !strings.Contains(got, "reply        "+reply) {
			t.Errorf("Postfix says %q, and is explained as\n%s", reply, got)
		}
	}
	// told asks for what is said at delivery, and has Postfix ask the same.
	told := func(parts []string, args ...string) {
		t.Helper()
		args = append([]string{"explain", "--delivery"}, args...)
		inOrder(t, d.command(args...), append([]string{"answered by  the running daemon"}, parts...)...)
		var e deliveryExplanation
		if err := json.Unmarshal([]byte(d.command(append(args, "--json")...)), &e); err != nil || len(e.Answers) == 0 {
			t.Fatal(err, e)
		}
		for _, one := range e.Answers {
			if one.MTA != "postfix" {
				continue
			}
			got, err := p.Run(patient(t), "", "postmap", "-q", one.Key, "socketmap:inet:127.0.0.1:8690:"+one.Map)
			if want, ok := strings.CutPrefix(one.Answer, "OK "); ok && (err != nil || strings.TrimSpace(got) != want) ||
				!ok && (err == nil || strings.TrimSpace(got) != "") {
				t.Errorf("%s %s is explained as %q, and Postfix is told %q, %v", one.Map, one.Key, one.Answer, got, err)
			}
		}
	}

	// Before anything was promised, nobody's mail to it is held.
	told([]string{`map "policy"`, "NOTFOUND", "nobody     good.example is not pinned"}, "good.example", "--from", "x@other.example")

	explains(0, "doctor@clinic.example", "u@good.example",
		`plan       rule "clinic" (line `, "plan       the recipient's own mail goes to good.example",
		"observe    good.example: ", "TLS 1.3", `judge      rule "clinic" lets`, "commit     good.example would be held to encrypt, TLS 1.2, 128 bits",
		"verdict    accept")
	told([]string{`map "sender"`, "OK tlsonly1:", "class      class 1: senders @clinic.example", `map "forced1"`, "OK encrypt",
		`rule       rule "clinic" (line `, "pin        good.example is pinned since ", ", by rule:clinic", "demand     mail for good.example was accepted under a demand since ",
		`sendmail asks the map "tls_rcpt", for a session in the clear`, "OK DEFER", "for a session over TLS with mx1.good.example", "OK PASS"},
		"good.example", "--from", "doctor@clinic.example")
	told([]string{`map "policy"`, "OK encrypt", "pin        good.example is pinned since "}, "good.example", "--from", "x@other.example")
	told([]string{`map "forced1"`, "OK encrypt", `map "policy"`, "NOTFOUND"}, "[mx1.free.example]:587")
	d.waitDecision("rcpt=u@good.example", "verdict=accept")
	d.wait("the steps in the log", func() bool {
		return strings.Contains(d.log(), `msg=trace`) && strings.Contains(d.log(), `stage=commit text="good.example is held to encrypt`)
	})

	explains(1, "doctor@clinic.example", "u@none.example", "judge      rule \"clinic\" says reject", "no-starttls", "verdict    reject: no-starttls, 550")
	told([]string{`map "policy"`, "NOTFOUND"}, "none.example", "--from", "x@other.example")

	unlock := d.lockStore()
	explains(3, "doctor@clinic.example", "u@new.example", "judge      rule \"clinic\" lets", "commit     defer: store: demand not stored", "verdict    defer: store, 451 4.3.0")
	explains(0, "doctor@clinic.example", "u@good.example", "verdict    accept") // what stands already costs no store
	unlock()

	explains(0, "stranger@far.example", "nurse@local.example",
		"plan       no rule for the sender", "plan       forward: nurse", "texthash:"+aliases, "u@self.example", `rule "staff" governs who forwards`,
		"observe    self.example", `judge      rule "staff" lets the forward to u@self.example go`, "commit     self.example would be held", "verdict    accept")
	explains(1, "stranger@far.example", "doctor@local.example", `judge      rule "staff" says defer of the forward to u@none.example: no-starttls`,
		"verdict    defer: forward (no-starttls), 451 4.7.10")
	told([]string{`map "policy"`, "OK encrypt", "demand     mail for self.example was accepted under a demand since"}, "self.example", "--from", "stranger@far.example")

	world.Hosts("good.example")[0].SetFault(testnet.NoSTARTTLS)
	const lost = "451 4.7.10 TLS required: good.example offered TLS before and does not now (mail host mx1.good.example)"
	waitFor(t, "the loss to be seen", func() bool { return rcpt("doctor@clinic.example", "u@good.example") == lost })
	explains(1, "doctor@clinic.example", "u@good.example", "observe    good.example: ", "pinned", "lost-tls", "verdict    defer: lost-tls, "+lost)
	told([]string{`map "policy"`, "OK encrypt", "pin        good.example is pinned since "}, "good.example", "--from", "x@other.example")
	d.command("domains", "unpin", "good.example", "--demand", "--why", "a test")
	d.wait("the unpinning in the answers", func() bool {
		got := d.command("explain", "--delivery", "good.example", "--from", "x@other.example")
		return strings.Contains(got, "NOTFOUND") && strings.Contains(got, "nobody     good.example is not pinned")
	})

	// Nobody else than the daemon can answer.
	d.stop(syscall.SIGTERM)
	if got := d.commandStatus(3, "explain", "--delivery", "good.example"); !strings.Contains(got, "needs the running daemon: it doesn't answer at [http] listen") {
		t.Error(got)
	}
	d.start()
}
