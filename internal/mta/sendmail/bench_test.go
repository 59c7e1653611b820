package sendmail

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/instance"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
	"tlsonly/milter"
	"tlsonly/rules"
)

func TestMain(m *testing.M) {
	rig.Enter(rig.FetchSendmail)
	os.Exit(m.Run())
}

// settings are those of all tests; the two endpoints are the namespaces' own.
func settings() Settings {
	return Settings{
		Milter:        "inet:8689@127.0.0.1",
		Socketmap:     "inet:8690@127.0.0.1",
		Deadline:      5 * time.Second,
		MinVersion:    policy.TLS12,
		RedactBounces: true,
	}
}

// lab is a real Sendmail between a client and a small internet.
type lab struct {
	*rig.Sendmail
	t     *testing.T
	ctx   context.Context
	world *testnet.World
}

// newLab starts them. The milter takes every destination for one with TLS, so that what happens then is the binding's doing.
func newLab(t *testing.T, config rig.SendmailConfig) *lab {
	t.Helper()
	if err := rig.Isolated(); errors.Is(err, rig.ErrNotIsolated) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	world, err := testnet.StartWorld("127.0.0.1:53", 25, append(testnet.Sites(),
		testnet.Site{Domain: "late.example", Hosts: []testnet.Host{{Fault: testnet.NoSTARTTLS}}},
		testnet.Site{Domain: "clinic.example", Hosts: []testnet.Host{{}}},
		testnet.Site{Domain: "strict.example", Hosts: []testnet.Host{{Reject: func(string) string { return "550 5.1.1 no such user" }}}}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := rig.StartSendmail(ctx, config)
	if err != nil {
		world.Close()
		t.Fatal(err)
	}
	l := &lab{s, t, ctx, world}
	t.Cleanup(func() {
		l.stop()
		if t.Failed() {
			t.Logf("Sendmail's log:\n%s", s.Log())
		}
	})
	return l
}

// stop ends all of the lab, so that a test can have another one; the second time it does nothing.
func (l *lab) stop() {
	if err := errors.Join(l.Stop(), l.world.Close()); err != nil {
		l.t.Error(err)
	}
}

func bound() rig.SendmailConfig {
	return rig.SendmailConfig{Rules: strings.Split(Snippet(settings()), "\n")}
}

// installation is the lab's Sendmail, with another configuration if text isn't "".
func (l *lab) installation(text string) Installation {
	l.t.Helper()
	cmd := l.Command(l.ctx, "sendmail")
	in := Installation{Program: cmd.Path, Cf: l.Cf, Env: cmd.Env}
	if text != "" {
		in.Cf = filepath.Join(l.Dir, "other.cf")
		long := time.Now().Add(-time.Hour) // before the daemon started
		if err := errors.Join(os.WriteFile(in.Cf, []byte(text), 0o644), os.Chtimes(in.Cf, long, long)); err != nil {
			l.t.Fatal(err)
		}
	}
	return in
}

// aliases replaces the alias file.
func (l *lab) aliases(text string) {
	l.t.Helper()
	err := os.WriteFile(filepath.Join(l.Dir, "aliases"), []byte(text), 0o644)
	if err == nil {
		_, err = l.Run(l.ctx, "", "-bi")
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// sureAssessor saw TLS everywhere.
type sureAssessor struct{}

func (sureAssessor) Assess(_ context.Context, d addr.Destination, _ func(policy.Assessment) bool) policy.Assessment {
	return policy.Assessment{Hosts: []policy.Host{{Name: d.Host(),
		Observations: []policy.Observation{{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256}}}}}
}

// fake is who the tests' daemon says it is.
var fake = instance.New("test", "sqlite:///tlsonly.db")

// startMilter serves the milter of a site that protects clinic.example, late.example and the null sender.
func startMilter(t *testing.T) {
	t.Helper()
	set := rules.New([]*rules.Rule{
		{Name: "exception", From: []addr.Pattern{addr.MustPattern("@clinic.example")}, To: []addr.Pattern{addr.MustPattern("legacy@none.example")},
			Level: policy.LevelMay, Mode: policy.Enforce},
		{Name: "clinic", From: []addr.Pattern{addr.MustPattern("@clinic.example"), addr.MustPattern("@late.example"), addr.MustPattern("<>")},
			Level: policy.LevelEncrypt, MinVersion: policy.TLS12, OnFail: policy.ActionReject, OnUnknown: policy.ActionDefer, Mode: policy.Enforce},
	})
	m, err := milter.New(milter.Config{
		Decider:       milter.Decider{Assessor: sureAssessor{}},
		Rules:         func() *rules.Set { return set },
		RedactBounces: true,
		TagEnvelope:   true,
		Identity:      fake,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := milter.Listen("tcp", "127.0.0.1:8689", 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- m.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = m.Shutdown(ctx) // sessions that are cut are no fault of the test's
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// fakeMap is a socket map that says one thing whatever it is asked of a
// recipient, and that reports wait.
type fakeMap struct {
	mu     sync.Mutex
	says   string // raw octets; "" closes the connection
	asked  []string
	hears  func(question string) // called before the answer
	listen net.Listener
	all    sync.WaitGroup
	open   []net.Conn
}

func startMap(t *testing.T, says string) *fakeMap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:8690")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeMap{says: says, listen: l}
	f.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.open = append(f.open, c)
			f.mu.Unlock()
			f.all.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(f.stop)
	return f
}

// stop is the daemon going away.
func (f *fakeMap) stop() {
	f.listen.Close()
	f.mu.Lock()
	for _, c := range f.open {
		c.Close()
	}
	f.mu.Unlock()
	f.all.Wait()
}

func (f *fakeMap) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		var n int
		if _, err := fmt.Fscanf(in, "%d:", &n); err != nil || n > 10000 {
			return
		}
		question := make([]byte, n+1)
		if _, err := io.ReadFull(in, question); err != nil {
			return
		}
		if nonce, ok := strings.CutPrefix(string(question[:n]), string(contract.MapIdentify)+" "); ok {
			fmt.Fprint(c, netstring("OK "+fake.Answer(nonce)))
			continue
		}
		if strings.HasPrefix(string(question), "tls_report ") {
			fmt.Fprint(c, netstring("TEMP later"))
			continue
		}
		f.mu.Lock()
		f.asked = append(f.asked, string(question[:n]))
		says, hears := f.says, f.hears
		f.mu.Unlock()
		if hears != nil {
			hears(string(question[:n]))
		}
		if says == "" {
			return
		}
		fmt.Fprint(c, says)
	}
}

func (f *fakeMap) say(raw string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.says = raw
}

func (f *fakeMap) questions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.asked...)
}

func netstring(s string) string { return fmt.Sprintf("%d:%s,", len(s), s) }

// send gives a message to Sendmail and returns the marker in its subject and text. from may have arguments after it.
func (l *lab) send(from string, to ...string) string {
	l.t.Helper()
	marker := rand.Text()
	raw, err := net.Dial("tcp", l.Addr)
	if err != nil {
		l.t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	c := textproto.NewConn(raw)
	expect := func(command string, want int) {
		l.t.Helper()
		if command != "" {
			err = c.PrintfLine("%s", command)
		}
		if err == nil {
			_, _, err = c.ReadResponse(want)
		}
		if err != nil {
			l.t.Fatalf("%s: %v", command, err)
		}
	}
	expect("", 220)
	expect("EHLO client.example", 250)
	path, args, _ := strings.Cut(from, " ")
	expect(strings.TrimSpace("MAIL FROM:<"+path+"> "+args), 250)
	for _, r := range to {
		expect("RCPT TO:<"+r+">", 250)
	}
	expect("DATA", 354)
	expect("From: "+path+"\r\nSubject: "+marker+"\r\n\r\ntext "+marker+"\r\n.", 250)
	expect("QUIT", 221)
	return marker
}

// logged waits for a line of the log that has all words and returns it.
func (l *lab) logged(words ...string) string {
	l.t.Helper()
	for {
	lines:
		for _, line := range l.LogLines(words[0]) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return line
		}
		select {
		case <-l.ctx.Done():
			l.t.Fatalf("no line with %q", words)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// clear reports whether the marker crossed the network unencrypted, to any host.
func (l *lab) clear(marker string) bool {
	for _, site := range append(testnet.Sites(), testnet.Site{Domain: "late.example"}, testnet.Site{Domain: "clinic.example"}) {
		for _, h := range l.world.Hosts(site.Domain) {
			if bytes.Contains(h.Plaintext(), []byte(marker)) {
				return true
			}
		}
	}
	return false
}

// took reports whether a host of the domain has the message, and whether all came over TLS.
func (l *lab) took(domain, marker string) (got, tls bool) {
	tls = true
	for _, m := range l.world.Messages(domain) {
		if bytes.Contains(m.Data, []byte(marker)) {
			got, tls = true, tls && m.TLS
		}
	}
	return got, tls
}
