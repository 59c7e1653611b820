package postfix

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/instance"
	"tlsonly/internal/mta"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

func patient(t *testing.T) context.Context {
	t.Helper()
	if err := rig.Isolated(); errors.Is(err, rig.ErrNotIsolated) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// answers is a socket map that says what it is told to; what it isn't told is not found.
type answers struct {
	listener net.Listener
	mu       sync.Mutex
	said     map[string]string // "map key" to the whole reply
}

func startAnswers(t *testing.T, network, address string, said map[string]string) *answers {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	a := &answers{listener: l, said: said}
	var serving sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			serving.Go(func() { a.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return a
}

func (a *answers) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		length, err := in.ReadString(':')
		n, bad := strconv.Atoi(strings.TrimSuffix(length, ":"))
		if err != nil || bad != nil {
			return
		}
		b := make([]byte, n+1) // and the comma
		if _, err := io.ReadFull(in, b); err != nil {
			return
		}
		a.mu.Lock()
		reply, ok := a.said[string(b[:n])]
		a.mu.Unlock()
		if nonce, asked := strings.CutPrefix(string(b[:n]), string(contract.MapIdentify)+" "); asked && !ok {
			reply, ok = "OK "+fake.Answer(nonce), true
		}
		if !ok {
			reply = "NOTFOUND "
		}
		fmt.Fprintf(c, "%d:%s,", len(reply), reply)
	}
}

func (a *answers) say(question, reply string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said[question] = reply
}

// passing is a milter that lets all pass.
type passing struct{ milter.NoOpMilter }

func (passing) RcptTo(string, string, milter.Modifier) (*milter.Response, error) {
	return milter.RespContinue, nil
}

// fake is who the tests' daemons say they are.
var fake = instance.New("test", "sqlite:///tlsonly.db")

func (passing) Unknown(line string, _ milter.Modifier) (*milter.Response, error) {
	return milter.RejectWithCodeAndReason(502, "5.5.1 "+fake.AnswerCommand(line))
}

func startMilter(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := milter.NewServer(milter.WithMilter(func() milter.Milter { return passing{} }))
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// host starts a mail host on port 25 of an address, with TLS or without.
func host(t *testing.T, ip string, withTLS bool) *testnet.SMTP {
	t.Helper()
	config := testnet.SMTPConfig{Listen: ip + ":25"}
	if withTLS {
		ca, err := testnet.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.Issue(testnet.SelfSigned("mx.test"))
		if err != nil {
			t.Fatal(err)
		}
		config.TLS = testnet.ServerTLS(cert, tls.VersionTLS12, 0)
	}
	h, err := testnet.StartSMTP(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func startPostfix(t *testing.T, ctx context.Context, cfg rig.PostfixConfig) *rig.Postfix {
	t.Helper()
	p, err := rig.StartPostfix(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// send sends a message by SMTP and expects it to be taken.
func send(t *testing.T, p *rig.Postfix, from, to string) {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	for _, line := range []string{"", "EHLO client.test", "MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">", "DATA", "Subject: hello\r\nTLS-Only: pass\r\n\r\nhi\r\n.", "QUIT"} {
		if line != "" {
			fmt.Fprintf(conn, "%s\r\n", line)
		}
		for {
			reply, err := in.ReadString('\n')
			if err != nil || reply[0] > '3' {
				t.Fatalf("%s: %q, %v; log:\n%s", line, reply, err, p.Log())
			}
			if reply[3] != '-' {
				break
			}
		}
	}
}

// backdate makes the configuration look old: every command of Postfix waits for files to settle that are new.
func backdate(t *testing.T, p *rig.Postfix) {
	t.Helper()
	then := time.Now().Add(-time.Minute)
	for _, name := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(p.Etc, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func settle(t *testing.T, ctx context.Context, p *rig.Postfix) {
	t.Helper()
	backdate(t, p)
	if _, err := p.Run(ctx, "", "postfix", "-c", p.Etc, "reload"); err != nil {
		t.Fatal(err)
	}
}

func apply(t *testing.T, ctx context.Context, i Instance, s Settings, now time.Time) []string {
	t.Helper()
	f, err := Read(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	setup, err := Plan(s, f)
	if err != nil {
		t.Fatal(err)
	}
	copies, err := setup.Apply(ctx, i, now)
	if err != nil {
		t.Fatal(err)
	}
	return copies
}

// read returns the two files without what differs in white space only.
func read(t *testing.T, p *rig.Postfix) string {
	t.Helper()
	var words []string
	for _, name := range []string{"main.cf", "master.cf"} {
		b, err := os.ReadFile(filepath.Join(p.Etc, name))
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, strings.Fields(string(b))...)
	}
	return strings.Join(words, " ")
}

// bad returns the findings that aren't ok, but for a milter of the site's
// before ours, which is warned of always.
func bad(found []mta.Finding) []mta.Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f mta.Finding) bool { return f.Severity == mta.OK || f.Code == "milter-other" })
}

func TestBinding(t *testing.T) {
	t.Parallel()
	ctx := patient(t)
	plain, good := host(t, "127.0.1.1", false), host(t, "127.0.1.2", true)
	smap := startAnswers(t, "tcp", "127.0.0.1:0", map[string]string{"sender1 alice@sender.test": "OK tlsonly1:"})
	s := Settings{
		Milter: "inet:" + startMilter(t, "tcp", "127.0.0.1:0"), Socketmap: "inet:" + smap.listener.Addr().String(),
		Classes: []Class{{Number: 1}}, HideHeader: true,
		Protected: []addr.Address{addr.MustAddress("alice@sender.test")}, Destinations: []string{"[127.0.1.1]"},
	}
	other := startMilter(t, "tcp", "127.0.0.1:0")
	p := startPostfix(t, ctx, rig.PostfixConfig{
		Main: map[string]string{
			"milter_default_action": "accept", "milter_command_timeout": "3s", "smtp_tls_security_level": "may",
			"smtpd_milters": "{ inet:" + other + ",\n  default_action=accept }", "non_smtpd_milters": "$smtpd_milters",
			"sender_dependent_default_transport_maps": "inline:{bob@sender.test=smtp:},\n   inline:{carol@sender.test=smtp:}",
			"smtp_tls_policy_maps":                    "inline:{partner.test=encrypt}",
		},
	})
	i := Instance{Dir: p.Etc}
	before := read(t, p)

	if found, err := Doctor(ctx, s, i); err != nil || len(bad(found)) == 0 {
		t.Errorf("an unbound postfix is well: %v, %v", found, err)
	}
	copies := apply(t, ctx, i, s, time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC))
	if want := []string{p.Etc + "/main.cf.tlsonly-20270102030405", p.Etc + "/master.cf.tlsonly-20270102030405"}; !slices.Equal(copies, want) {
		t.Errorf("copies %q, want %q", copies, want)
	}
	for _, c := range copies {
		if info, err := os.Stat(c); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("copy %v, %v", info, err)
		}
	}
	if again := apply(t, ctx, i, s, time.Now()); again != nil {
		t.Errorf("the second time there are copies: %q", again)
	}
	if out, err := p.Run(ctx, "", "postconf", "-hx", "smtpd_milters"); err != nil || !strings.Contains(out, "{ inet:"+other+",") || !strings.Contains(out, s.Milter+", command_timeout=30s") {
		t.Errorf("smtpd_milters %q, %v", out, err)
	}
	settle(t, ctx, p)
	found, err := Doctor(ctx, s, i)
	// No daemon here reads this Postfix, so nobody asks the site's own tables.
	unasked := func(f mta.Finding) bool { return f.Code == "twin-unasked" }
	if left := slices.DeleteFunc(bad(found), unasked); err != nil || len(left) > 0 || !slices.ContainsFunc(found, unasked) {
		t.Fatalf("after setup: %q, %v", left, err)
	}
	if len(found) < 6 {
		t.Errorf("only %d findings: %q", len(found), found)
	}

	send(t, p, "alice@sender.test", "u1@[127.0.1.1]")
	line, err := p.WaitLog(ctx, "to=<u1@[127.0.1.1]>")
	if err != nil || !strings.Contains(line, "postfix/tlsonly1/smtp") || !strings.Contains(line, "dsn=4.7.4, status=deferred") {
		t.Errorf("alice to a host without TLS: %q, %v", line, err)
	}
	send(t, p, "alice@sender.test", "u2@[127.0.1.2]")
	if err := good.WaitMessages(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if m := good.Messages()[0]; !m.TLS || strings.Contains(string(m.Data), "TLS-Only:") {
		t.Errorf("alice to a host with TLS: %+v", m)
	}
	send(t, p, "dave@sender.test", "u3@[127.0.1.1]")
	if err := plain.WaitMessages(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if m := plain.Messages()[0]; m.From != "dave@sender.test" || !strings.Contains(string(m.Data), "TLS-Only:") {
		t.Errorf("dave's message %+v", m)
	}
	// What everybody else's mail is held to, too.
	smap.say("policy [127.0.1.1]", "OK encrypt")
	send(t, p, "erin@sender.test", "u4@[127.0.1.1]")
	line, err = p.WaitLog(ctx, "to=<u4@[127.0.1.1]>")
	if err != nil || !strings.Contains(line, "postfix/smtp[") || !strings.Contains(line, "dsn=4.7.4, status=deferred") {
		t.Errorf("erin to a pinned host: %q, %v", line, err)
	}

	s.OnLost, s.Senders = contract.OnLostBounce, contract.SendersTable
	s.Table = []Entry{{addr.MustPattern("@sender.test"), "tlsonly1"}, {addr.MustPattern("dave@sender.test"), ""}, {addr.MustPattern("<>"), "tlsonly"}}
	s.Protected = []addr.Address{addr.MustAddress("Alice+x@Sender.test"), {}}
	apply(t, ctx, i, s, time.Now())
	settle(t, ctx, p)
	found, err = Doctor(ctx, s, i)
	if left := slices.DeleteFunc(bad(found), unasked); err != nil || len(left) > 0 {
		t.Errorf("with a table: %q, %v", left, err)
	}
	send(t, p, "alice@sender.test", "u5@[127.0.1.1]")
	line, err = p.WaitLog(ctx, "to=<u5@[127.0.1.1]>")
	if err != nil || !strings.Contains(line, "postfix/tlsonly1/smtp") || !strings.Contains(line, "dsn=5.7.10, status=bounced") {
		t.Errorf("with on_lost = bounce: %q, %v", line, err)
	}
	send(t, p, "dave@sender.test", "u6@[127.0.1.1]")
	if line, err = p.WaitLog(ctx, "to=<u6@[127.0.1.1]>"); err != nil || !strings.Contains(line, "postfix/smtp[") {
		t.Errorf("an exempt sender: %q, %v", line, err)
	}

	backdate(t, p)
	for range 2 {
		f, err := Read(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		undo := PlanUndo(s, f)
		if _, err := undo.Apply(ctx, i, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if after := read(t, p); after != before {
		t.Errorf("undone it reads\n%s\nbefore\n%s", after, before)
	}
	if left, err := filepath.Glob(p.Etc + "/tlsonly*"); err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
	if bytes := plain.Plaintext(); strings.Contains(string(bytes), "alice@") || strings.Contains(string(bytes), "erin@") {
		t.Errorf("in the clear:\n%s", bytes)
	}
}
