package milter

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/policy"
	"tlsonly/rules"
)

func TestNewNeedsAssessorAndRules(t *testing.T) {
	for _, c := range []Config{{}, {Rules: testRules}, {Decider: Decider{Assessor: &fakeAssessor{}}}} {
		if _, err := New(c); err == nil {
			t.Error("no error")
		}
	}
}

// The library's own client as the MTA, over a Unix socket: what it was asked for, what it is told.
func TestClient(t *testing.T) {
	b := start(t, nil)
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen("unix", path, 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(l) }()
	defer func() {
		if err := b.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	macros := gomilter.NewMacroBag()
	s, err := gomilter.NewClient("unix", path).Session(macros)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, o := range []gomilter.OptProtocol{gomilter.OptSkip, gomilter.OptNoRcptReply, gomilter.OptNoMailReply, gomilter.OptHeaderLeadingSpace, gomilter.OptRcptRej} {
		if s.ProtocolOption(o) {
			t.Errorf("asked for %s", o)
		}
	}
	for _, o := range []gomilter.OptProtocol{gomilter.OptNoBody, gomilter.OptNoHeaderReply, gomilter.OptNoConnect} {
		if !s.ProtocolOption(o) {
			t.Errorf("didn't ask for %s", o)
		}
	}
	must := func(a *gomilter.Action, err error) *gomilter.Action {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	must(s.Conn("client.example", gomilter.FamilyInet, 25, "192.0.2.1"))
	must(s.Helo("client.example"))
	macros.Set(gomilter.MacroAuthAuthen, "nurse")
	macros.Set(gomilter.MacroMailMailer, "smtp")
	if a := must(s.Mail("someone@elsewhere.example", "")); a.Type != gomilter.ActionContinue {
		t.Fatalf("MAIL: %s", a)
	}
	macros.Set(gomilter.MacroRcptMailer, "smtp")
	macros.Set(gomilter.MacroRcptHost, "plain.example")
	a := must(s.Rcpt("bob@good.example", ""))
	if a.Type != gomilter.ActionRejectWithCode || a.SMTPReply != "550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)" {
		t.Fatalf("RCPT: %s", a)
	}
	macros.Set(gomilter.MacroRcptHost, "good.example")
	if a := must(s.Rcpt("bob@good.example", "")); a.Type != gomilter.ActionContinue {
		t.Fatalf("RCPT: %s", a)
	}
	must(s.DataStart())
	must(s.HeaderField("TLS-Only", "pass; forged", nil))
	must(s.HeaderEnd())
	macros.Set(gomilter.MacroQueueId, "4711")
	changes, a, err := s.BodyReadFrom(strings.NewReader("hello\r\n"))
	if must(a, err).Type != gomilter.ActionAccept {
		t.Fatalf("end of message: %s", a)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	want := `ChangeHeader 1 "TLS-Only" ""; InsertHeader 0 "TLS-Only" "pass; rule=\"nurses\"; tls=encrypt"`
	if strings.Join(got, "; ") != want {
		t.Errorf("changes %s\nwant    %s", strings.Join(got, "; "), want)
	}
	if st := b.Stats(); st.Sessions != 1 || st.Connections != 1 || st.Messages != 1 || st.Panics != 0 || st.Malformed != 0 {
		t.Errorf("%+v", st)
	}
}

// A message keeps the rules of its MAIL; the next one has the new ones.
func TestReload(t *testing.T) {
	var now atomic.Pointer[rules.Set]
	now.Store(testRules())
	b := start(t, func(c *Config) { c.Rules = now.Load })
	c := b.dial(t)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@clinic.example>", "< c")
	now.Store(rules.New([]*rules.Rule{rule("new", "@other.example", nil)}))
	talk(t, b, c,
		"> R <bob@plain.example>", "< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)",
		"> A",
		"> M <alice@clinic.example>", "< a",
		"> M <alice@other.example>", "< c")
	now.Store(rules.New(nil))
	talk(t, b, c, "> A", "> M <unparsable@b..d>", "< a", "> Q", "< close")
}

// A rule ends with its day, by the server's clock.
func TestUntil(t *testing.T) {
	end := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	set := rules.New([]*rules.Rule{rule("brief", "@clinic.example", func(r *rules.Rule) { r.Until = end })})
	var clock atomic.Int64
	b := start(t, func(c *Config) {
		c.Rules = func() *rules.Set { return set }
		c.Now = func() time.Time { return end.Add(time.Duration(clock.Load())) }
	})
	c := b.dial(t)
	clock.Store(-1)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@clinic.example>", "< c", "> A")
	clock.Store(0)
	talk(t, b, c, "> M <alice@clinic.example>", "< a")
}

// A destination that hangs costs its own session a deadline, and others nothing.
func TestHangingDestination(t *testing.T) {
	b := start(t, func(c *Config) { c.Decider.Deadline = 100 * time.Millisecond })
	slow, quick := b.dial(t), b.dial(t)
	for _, c := range []net.Conn{slow, quick} {
		talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@clinic.example>", "< c")
	}
	talk(t, b, slow, "> R <bob@hang.example>")
	<-b.assessor.waiting
	talk(t, b, quick, "> R <bob@good.example>", "< c")
	talk(t, b, slow, "< y 451 4.7.5 TLS capability of hang.example is not known yet, try again")
}

// Mail without a client: all recipients are looked at together, and an abort ends the looks.
func TestAbortEndsBackgroundLooks(t *testing.T) {
	b := start(t, nil) // the deadline is longer than the test may take
	c := b.dial(t)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> DM i P1", "> M alice@clinic.example", "< c")
	for range 3 {
		talk(t, b, c, "> DR i P1", "> R bob@hang.example", "< c")
	}
	for range 3 {
		<-b.assessor.waiting
	}
	talk(t, b, c, "> A", "> M eve@elsewhere.example", "< a", "> Q", "< close")
	if strings.Contains(b.log.String(), "decision") {
		t.Errorf("logged what wasn't decided:\n%s", b.log)
	}
}

// No more background looks than the bound, however many recipients.
func TestBackgroundLooksBounded(t *testing.T) {
	b := start(t, nil)
	c := b.dial(t)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> DM i P1", "> M alice@clinic.example", "< c")
	for range maxDecisions {
		talk(t, b, c, "> DR i P1", "> R bob@hang.example", "< c")
		<-b.assessor.waiting
	}
	talk(t, b, c, "> DR i P1", "> R bob@hang.example")
	if n := len(b.assessor.questions()); n != maxDecisions {
		t.Errorf("%d looks under way", n)
	}
}

// Shutdown closes who is idle, waits for a message under way, and cuts at the end of its context.
func TestShutdown(t *testing.T) {
	b := start(t, nil)
	idle, busy := b.dial(t), b.dial(t)
	for _, c := range []net.Conn{idle, busy} {
		talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3")
	}
	talk(t, b, busy, "> M <alice@clinic.example>", "< c")
	done := make(chan error, 1)
	go func() { done <- b.Shutdown(t.Context()) }()
	talk(t, b, idle, "< close")
	if _, err := net.Dial("tcp", b.addr); err == nil {
		t.Error("still accepting")
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown didn't wait for the message: %v", err)
	default:
	}
	talk(t, b, busy, "> R <bob@good.example>", "< c", "> E", "< a", "< close")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := b.Serve(&oneConn{closed: make(chan struct{})}); err != nil {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

func TestShutdownCuts(t *testing.T) {
	b := start(t, nil) // the deadline is longer than the test may take
	c := b.dial(t)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@clinic.example>", "< c", "> R <bob@hang.example>")
	<-b.assessor.waiting
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Shutdown: %v", err)
	}
	talk(t, b, c, "< close")
	if st := b.Stats(); st.Sessions != 0 {
		t.Errorf("%+v", st)
	}
}

// When all connections are in use, the next waits for one to end.
func TestMaxConnections(t *testing.T) {
	b := start(t, func(c *Config) { c.MaxConnections = 1 })
	first := b.dial(t)
	talk(t, b, first, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3")
	second := b.dial(t)
	talk(t, b, second, "> O 6 0 0x1fffff")
	if !waitLog(b, "all connections in use", map[int]bool{}) {
		t.Fatal("no warning")
	}
	if n := b.Stats().Sessions; n != 1 {
		t.Errorf("%d sessions", n)
	}
	talk(t, b, first, "> Q", "< close")
	talk(t, b, second, "< O 0x6 0x0 0x3d3")
}

// The session goes on although accepting fails for a while.
func TestAcceptGoesOn(t *testing.T) {
	s, err := New(Config{Decider: Decider{Assessor: &fakeAssessor{}}, Rules: testRules})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	l := &failing{errs: []error{&net.OpError{Op: "accept", Err: syscall.EMFILE}, broken}}
	if err := s.Serve(l); !errors.Is(err, broken) || len(l.errs) != 0 {
		t.Fatalf("Serve: %v, %d errors left", err, len(l.errs))
	}
}

type failing struct {
	oneConn
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

func (f *failing) Close() error { return nil }

// A percent sign of a help URL is doubled, for MTAs use the text as a format; a refusal without a code is a temporary
// failure.
func TestAnswer(t *testing.T) {
	s, err := New(Config{Decider: Decider{Assessor: &fakeAssessor{}}, Rules: testRules})
	if err != nil {
		t.Fatal(err)
	}
	got := s.newSession(0).answer(policy.Reply{Code: 550, Enhanced: "5.7.10", Text: "see https://help.example/%20"})
	if want := `"550 5.7.10 see https://help.example/%%20"`; !strings.Contains(got.String(), want) {
		t.Errorf("answer %s, want %s", got, want)
	}
	if got := s.newSession(0).answer(policy.Reply{}); got != gomilter.RespTempFail {
		t.Errorf("answer %s", got)
	}
}
