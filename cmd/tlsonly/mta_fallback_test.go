package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/fallback/gateway"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/leak"
	"tlsonly/rules"
)

// Mail that can't have its TLS, with a real Postfix: it turns to the gateway, which
// has each recipient refused, wait, or get an encrypted copy.

const gatewayAddress = "127.0.0.1:8692"

// fallbackTables turns the gateway on, with OpenPGP keys in a folder.
func fallbackTables(keys string, more ...string) string {
	return fmt.Sprintf("[fallback]\nlisten = \"inet:%s\"\n[openpgp]\nkeys = [%q]\ndiscover = []\n[smime]\ncerts = []\ndiscover = []\n%s",
		gatewayAddress, keys, strings.Join(more, ""))
}

const (
	onLostBounce = "[binding]\non_lost = \"bounce\"\n"
	// fallbackRule falls back at once.
	fallbackRule = clinicRule + "on_fail = \"fallback\"\nfallback = [\"openpgp\"]\nfallback_after = \"0s\"\n"
)

// newKey makes an OpenPGP key for an address, and a folder that has it.
func newKey(t *testing.T, address string) (*pgp.Entity, string) {
	t.Helper()
	e, err := pgp.NewEntity("Recipient", "", address, &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA,
		Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, address+".pgp"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	return e, dir
}

// opened returns what is inside a PGP/MIME message.
func opened(t *testing.T, e *pgp.Entity, data []byte) string {
	t.Helper()
	begin := bytes.Index(data, []byte("-----BEGIN PGP MESSAGE-----"))
	if begin < 0 {
		t.Fatalf("not encrypted:\n%.600s", data)
	}
	m, err := pgp.ReadMessage(armored(t, data[begin:]), pgp.EntityList{e}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(m.UnverifiedBody)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// alias has mail for team@local.example leave to somebody: the milter sees no
// destination at acceptance, delivery does.
func alias(to string, more ...string) func(string) map[string]string {
	return func(string) map[string]string {
		main := map[string]string{"virtual_alias_maps": "inline:{ {team@local.example = " + to + "} }"}
		for i := 0; i < len(more); i += 2 {
			main[more[i]] = more[i+1]
		}
		return main
	}
}

func toTeam(w *wire) { w.message(doctor, []string{"team@local.example"}, nil) }

// bounced waits for the bounce of a message to one recipient, whose status has why.
func (w *wire) bounced(rcpt, why string) {
	w.t.Helper()
	waitFor(w.t, fmt.Sprintf("mail for %s to bounce because of %q", rcpt, why), func() bool {
		return slices.ContainsFunc(w.postfix.LogLines("to=<"+rcpt+">"), func(line string) bool {
			return strings.Contains(line, "status=bounced") && strings.Contains(line, why)
		})
	})
}

// fellBack is how many lines the gateway wrote of recipients at a domain.
func (w *wire) fellBack(domain string) int {
	n := 0
	for line := range strings.Lines(w.daemon.log()) {
		if strings.Contains(line, "msg=fallback") && strings.Contains(line, "@"+domain+" ") {
			n++
		}
	}
	return n
}

// copies returns the messages that a host got and that aren't the marker's own.
func (w *wire) copies(domain string) []testnet.Message {
	return slices.DeleteFunc(w.world.Messages(domain), func(m testnet.Message) bool { return bytes.Contains(m.Data, []byte(w.marker)) })
}

// Where there is good TLS nobody asks the gateway; where there is none it says so,
// of each recipient.
func TestMTAFallbackAnswers(t *testing.T) {
	long(t)
	isolated(t)
	_, none := newKey(t, "nobody@nowhere.example")
	runWire(t, []wireCase{
		{name: "bounced", setup: true, tables: fallbackTables(none, onLostBounce), main: alias("u@none.example, v@none.example, u@good.example"), send: toTeam,
			check: func(w *wire) {
				w.bounced("u@none.example", "550 5.7.10 TLS required: none.example does not offer STARTTLS")
				w.bounced("v@none.example", "550 5.7.10 TLS required: none.example does not offer STARTTLS")
				w.delivered("good.example", 1)
				if n := w.fellBack("none.example"); n != 2 {
					w.t.Errorf("the gateway was asked %d times", n)
				}
			}},
		{name: "waits", setup: true, tables: fallbackTables(none), main: alias("u@none.example"), send: toTeam,
			check: func(w *wire) {
				w.waits("u@none.example", "451 4.7.10 TLS required: none.example does not offer STARTTLS")
			}},
		{name: "lost after acceptance", setup: true, tables: fallbackTables(none), send: lostAfter(testnet.NoSTARTTLS),
			check: func(w *wire) {
				w.waits("u@good.example", "451 4.7.10 TLS required: good.example")
				w.fault("good.example", testnet.NoFault)
				w.retry("status=sent")
				w.delivered("good.example", 1)
			}},
		{name: "lost after acceptance, bounced", setup: true, tables: fallbackTables(none, onLostBounce), send: lostAfter(testnet.NoSTARTTLS),
			check: func(w *wire) { w.bounced("u@good.example", "550 5.7.10 TLS required: good.example") }},
		{name: "no key", setup: true, tables: fallbackTables(none), rules: fallbackRule, main: alias("u@none.example"), send: toTeam,
			check: func(w *wire) {
				w.bounced("u@none.example", "and no other way to protect it is known")
			}},
		{name: "no key, deferred", setup: true, tables: fallbackTables(none), rules: fallbackRule + "fallback_else = \"defer\"\n", main: alias("u@none.example"), send: toTeam,
			check: func(w *wire) {
				w.waits("u@none.example", "and no other way to protect it is known")
			}},
	})
}

// What isn't TLS's fault waits, whatever the rule says, and arrives once it can.
func TestMTAFallbackOtherCauses(t *testing.T) {
	long(t)
	isolated(t)
	_, keys := newKey(t, "u@later.example")
	w := newWire(t, wireCase{setup: true, tables: fallbackTables(keys, onLostBounce), rules: fallbackRule,
		sites: []testnet.Site{answering("later.example", "451 4.3.0 later"), answering("refusing.example", "550 5.1.1 no such user")}}, true)
	w.message(doctor, []string{"u@later.example"}, nil)
	w.settle()
	w.waits("u@later.example", "451 4.4.0 later.example satisfies the rule now")
	w.marker += "-other"
	w.message(doctor, []string{"u@refusing.example"}, nil)
	w.bounced("u@refusing.example", "no such user")
	if n := w.fellBack("refusing.example"); n != 0 {
		t.Errorf("the gateway was asked %d times: a refusal is the host's own", n)
	}
}

// The milter takes a recipient whom only a method can protect, and the gateway
// does it; without a key the client hears so.
func TestMTAFallbackAccepted(t *testing.T) {
	long(t)
	isolated(t)
	key, keys := newKey(t, "u@none.example")
	w := newWire(t, wireCase{setup: true, tables: fallbackTables(keys), rules: fallbackRule}, true)
	c := dial(t, w.address)
	c.expect("MAIL FROM:<"+doctor+">", "250")
	c.expect("RCPT TO:<u@good.example>", "250")
	c.expect("RCPT TO:<u@none.example>", "250")
	c.expect("RCPT TO:<v@none.example>", "550 5.7.10 ")
	c.expect("DATA", "354")
	c.expect("From: <"+doctor+">\r\nSubject: "+w.marker+"\r\n\r\nBody: "+w.marker+"\r\n.", "250")
	waitMessages(t, w.world, "none.example", 1)
	w.settle()
	w.delivered("good.example", 1)
	got := w.copies("none.example")
	if len(got) != 1 || !strings.Contains(opened(t, key, got[0].Data), "Body: "+w.marker) {
		t.Errorf("%d copies", len(got))
	}
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
}

// A recipient with a key gets an encrypted copy, which a requeue doesn't change.
func TestMTAFallbackEncrypts(t *testing.T) {
	long(t)
	isolated(t)
	key, keys := newKey(t, "u@none.example")
	encrypted := func(w *wire) {
		waitMessages(w.t, w.world, "none.example", 1)
		w.settle()
		got := w.copies("none.example")
		if len(got) != 1 {
			w.t.Fatalf("%d copies", len(got))
		}
		if inside := opened(w.t, key, got[0].Data); !strings.Contains(inside, "Subject: "+w.marker) || !strings.Contains(inside, "Body: "+w.marker) {
			w.t.Errorf("inside:\n%s", inside)
		}
		outside, _, _ := strings.Cut(string(got[0].Data), "\r\n\r\n")
		for _, want := range []string{"TLS-Only-Sent: openpgp", "Subject: [...]", "From: <" + doctor + ">"} {
			if !strings.Contains(outside, want) {
				w.t.Errorf("outside without %q:\n%s", want, outside)
			}
		}
		for _, h := range w.world.Hosts("none.example") {
			if found := leak.New([]byte(w.marker)).Find(h.Plaintext()); len(found) > 0 {
				w.t.Errorf("seen: %v", found)
			}
		}
	}
	runWire(t, []wireCase{
		{name: "by an alias", setup: true, tables: fallbackTables(keys), rules: fallbackRule, main: alias("u@none.example"), send: toTeam, check: encrypted},
		{name: "requeued", setup: true, tables: fallbackTables(keys), rules: fallbackRule, main: alias("u@none.example", "defer_transports", "tlsonly_open"),
			send: func(w *wire) {
				toTeam(w)
				if w.bound {
					waitFor(w.t, "the copy to wait", func() bool {
						q := w.queue()
						return len(q) == 1 && q[0].Queue == "deferred" && q[0].Recipients[0].Address == "u@none.example"
					})
					w.run("postsuper", "-r", "ALL")
					w.run("postkick", "public", "pickup", "W")
					waitFor(w.t, "the copy to come back", func() bool { return strings.Contains(w.daemon.log(), "method=copy") })
				}
				if err := w.postfix.Set(patient(w.t), map[string]string{"defer_transports": ""}); err != nil {
					w.t.Fatal(err)
				}
				w.run("postqueue", "-f")
			}, check: encrypted},
	})
}

// Nobody else comes in where copies go back, and doctor sees who could.
func TestMTAFallbackClosed(t *testing.T) {
	isolated(t)
	_, keys := newKey(t, "u@none.example")
	w := newWire(t, wireCase{setup: true, tables: fallbackTables(keys), rules: fallbackRule}, true)
	c := dial(t, "127.0.0.1:8694")
	c.expect("MAIL FROM:<"+doctor+">", "550 5.7.1 This service is for the gateway alone")
	w.doctorSays(exitOK, "ok", "gateway-bound")
	w.daemon.stop(syscall.SIGTERM)
	c = dial(t, "127.0.0.1:8694")
	c.expect("MAIL FROM:<"+doctor+">", "451")
	w.daemon.start()
	w.run("postconf", "-P", "127.0.0.1:8694/inet/smtpd_milters=")
	w.doctorSays(exitNo, "hole", "gateway-open")
	w.setup()
	w.reload()
	w.doctorSays(exitOK, "ok", "gateway-bound")
	w.run("postconf", "-M", "-X", "tlsonly_open/unix")
	w.doctorSays(exitNo, "broken", "gateway-missing")
}

// Undo leaves nothing, and without the gateway setup takes its services out.
func TestMTAFallbackUndo(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	read := func() string {
		text, err := os.ReadFile(filepath.Join(w.postfix.Etc, "master.cf"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	setup := func(args ...string) {
		t.Helper()
		if out, status := w.program(append([]string{"setup", "postfix", "--apply", "--no-reload"}, args...)...); status != exitOK {
			t.Fatalf("setup: %d\n%s", status, out)
		}
	}
	before := read()
	_, keys := newKey(t, "u@none.example")
	w.daemon.write(daemonHead + fallbackTables(keys) + fallbackRule)
	setup()
	if with := read(); !strings.Contains(with, "smtp_fallback_relay=[127.0.0.1]:8692") || !strings.Contains(with, "tlsonly_copies") {
		t.Errorf("master.cf:\n%s", with)
	}
	w.daemon.write(daemonHead + clinicRule)
	setup()
	if after := read(); after != before {
		t.Errorf("master.cf without the gateway:\n%s\nwant\n%s", after, before)
	}
	w.daemon.write(daemonHead + fallbackTables(keys) + fallbackRule)
	setup()
	setup("--undo")
	if after := read(); strings.Contains(after, "tlsonly") {
		t.Errorf("master.cf after undo:\n%s", after)
	}
}

// Who takes the gateway's port gets no MAIL.
func TestMTAFallbackSquatter(t *testing.T) {
	long(t)
	isolated(t)
	_, keys := newKey(t, "u@none.example")
	w := newWire(t, wireCase{setup: true, tables: fallbackTables(keys), rules: fallbackRule,
		main: alias("u@none.example", "defer_transports", "tlsonly tlsonly1")}, true)
	toTeam(w)
	w.settle()
	w.daemon.stop(syscall.SIGKILL)
	// The daemon's maps go on, and another's server stands where the gateway was.
	identity, err := gateway.OpenIdentity(filepath.Join(filepath.Dir(w.daemon.database()), "gateway.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("tlsonly.toml", []byte(daemonHead+fallbackTables(keys)+fallbackRule), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	set := rules.Alone(c.Rules)
	maps, err := socketmap.New(socketmap.Config{Rules: func() *rules.Delivery { return set }, Ledger: noLedger{},
		Gateway: addr.MustDestination("[127.0.0.1]:8692"), Fingerprint: identity.Fingerprint(),
		OnQuestion: func(socketmap.Map, addr.Address) {}})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(address string) net.Listener {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	go maps.Serve(listen("127.0.0.1:8690"))
	other, err := gateway.OpenIdentity(filepath.Join(t.TempDir(), "gateway.pem"))
	if err != nil {
		t.Fatal(err)
	}
	serve := func(i *gateway.Identity) *gateway.Server {
		s, err := gateway.New(gateway.Config{Judge: openJudge{}, Copies: noCopies{}, Identity: i,
			Reinject: gateway.NewReinjector("127.0.0.1:8694"), Spool: t.TempDir(), Domain: "x.example"})
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(listen(gatewayAddress))
		return s
	}
	squatter := serve(other)
	if err := w.postfix.Set(patient(t), map[string]string{"defer_transports": ""}); err != nil {
		t.Fatal(err)
	}
	w.run("postqueue", "-f")
	w.waits("u@none.example", "Server certificate not verified")
	if s := squatter.Stats(); s != (gateway.Stats{}) {
		t.Errorf("the squatter heard of recipients: %+v", s)
	}
	if err := squatter.Shutdown(patient(t)); err != nil {
		t.Fatal(err)
	}
	// Who has the identity is asked; the copy isn't taken back, for that needs the
	// daemon.
	right := serve(identity)
	waitFor(t, "the gateway to be asked", func() bool {
		w.run("postqueue", "-f")
		time.Sleep(200 * time.Millisecond)
		return right.Stats().Again > 0
	})
	w.waits("u@none.example", "copy not taken by the MTA")
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: …%q…", host, at)
	}
}

// The daemon is killed at random moments while mail falls back: each message
// arrives, encrypted, and as a rule once.
func TestMTAFallbackKills(t *testing.T) {
	long(t)
	isolated(t)
	key, keys := newKey(t, "u@none.example")
	w := newWire(t, wireCase{setup: true, tables: fallbackTables(keys), rules: fallbackRule,
		main: alias("u@none.example", "defer_transports", "tlsonly tlsonly1", "minimal_backoff_time", "1s", "maximal_backoff_time", "1s", "queue_run_delay", "1s",
			"transport_retry_time", "1s")}, true)
	kills := soak(20, 200)
	messages := 3 * kills
	for i := range messages {
		w.marker = fmt.Sprintf("killed-%04d-", i)
		toTeam(w)
	}
	w.marker = "killed-"
	if err := w.postfix.Set(patient(t), map[string]string{"defer_transports": ""}); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		w.run("postqueue", "-f")
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond) // the moment is what is tried
		w.daemon.stop(syscall.SIGKILL)
		w.daemon.start()
	}
	waitFor(t, "the queue to be empty", func() bool {
		q := w.queue()
		if len(q) > 0 {
			w.run("postqueue", "-f")
			time.Sleep(200 * time.Millisecond)
		}
		return len(q) == 0
	})
	ids, inside := map[string]int{}, map[string]bool{}
	for _, m := range w.world.Messages("none.example") {
		text := opened(t, key, m.Data)
		at := strings.Index(text, "Body: killed-")
		if at < 0 {
			t.Fatalf("inside:\n%s", text)
		}
		inside[text[at:at+len("Body: killed-0000")]] = true
		header, _, _ := strings.Cut(string(m.Data), "\r\n\r\n")
		for line := range strings.SplitSeq(header, "\r\n") {
			if id, ok := strings.CutPrefix(line, "Message-ID: "); ok {
				ids[id]++
			}
		}
	}
	twice := 0
	for _, n := range ids {
		twice += n - 1
	}
	t.Logf("%d kills, %d messages, %d arrived, %d Message-IDs, %d came twice", kills, messages, len(inside), len(ids), twice)
	if len(inside) != messages || len(ids) != messages {
		t.Errorf("%d messages, %d arrived, with %d Message-IDs", messages, len(inside), len(ids))
	}
	// What comes twice was handed over and not recorded before a kill: what was
	// recorded is never handed over again.
	if handed := strings.Count(w.daemon.log(), "method=openpgp reason=no-starttls rule=clinic qid="); handed > messages {
		t.Errorf("%d hand-overs of %d messages are recorded", handed, messages)
	}
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw a message in the clear: …%q…", host, at)
	}
	spool, err := os.ReadDir(filepath.Join(filepath.Dir(w.daemon.database()), "spool"))
	if err != nil || len(spool) > 0 {
		t.Errorf("left in the spool: %v, %v", spool, err)
	}
}

// noLedger remembers nothing.
type noLedger struct{}

func (noLedger) Pinned(addr.Destination) bool                    { return false }
func (noLedger) Demanded(addr.Destination) (policy.Demand, bool) { return policy.Demand{}, false }
