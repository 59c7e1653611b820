package socketmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

func TestMain(m *testing.M) {
	if order := os.Getenv("TLSONLY_TEST_HOLD"); order != "" {
		if err := hold(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// patience ends what should have ended long before.
const patience = 10 * time.Second

// start serves on loopback until the test ends.
func start(t testing.TB, s *Server, network string) net.Addr {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr()
}

func dial(t testing.TB, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly what is wanted.
func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

// closed wants the end of the connection, and nothing before it.
func closed(t testing.TB, c net.Conn) {
	t.Helper()
	got, err := io.ReadAll(c)
	var timeout net.Error
	if len(got) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("got %q, %v; want the end", got, err)
	}
}

func wire(s string) string { return string(appendNetstring(nil, []byte(s))) }

const (
	askDoctor    = "28:sender doctor@clinic.example,"
	answerDoctor = "12:OK tlsonly1:,"
)

func TestNext(t *testing.T) {
	long := strings.Repeat("x", maxRequest)
	for _, c := range []struct {
		in, want string
		size     int
		bad      bool
	}{
		{in: ""},
		{in: "1"},
		{in: "10000"},
		{in: "1:"},
		{in: "1:a"},
		{in: "1:a,", want: "a", size: 4},
		{in: "0:,", size: 3},
		{in: "1:,,", want: ",", size: 4},
		{in: "3:1:a,rest", want: "1:a", size: 6},
		{in: "10000:" + long + ",", want: long, size: 10007},
		{in: "10001", bad: true},
		{in: "99999999999999999999", bad: true},
		{in: "18446744073709551617:a,", bad: true},
		{in: "01:a,", bad: true},
		{in: "00:,", bad: true},
		{in: ":a,", bad: true},
		{in: "-1:a,", bad: true},
		{in: "+1:a,", bad: true},
		{in: " 1:a,", bad: true},
		{in: "1 :a,", bad: true},
		{in: "1;a,", bad: true},
		{in: "1:ab", bad: true},
		{in: "1:a;", bad: true},
		{in: "GET / HTTP/1.1", bad: true},
		{in: "\x16\x03\x01", bad: true},
	} {
		got, size, err := next([]byte(c.in))
		if string(got) != c.want || size != c.size || (err != nil) != c.bad {
			t.Errorf("%.30q: %.30q, %d, %v", c.in, got, size, err)
		}
	}
}

func TestServe(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		s := server(t, Config{Transports: 3}, clinic()...)
		a := start(t, s, network)
		c := dial(t, a)
		send(t, c, askDoctor)
		expect(t, c, answerDoctor)
		// Split at every byte, with an answer before the next piece goes out.
		for i := 1; i < len(askDoctor); i++ {
			send(t, c, askDoctor[:i])
			send(t, c, askDoctor[i:])
			expect(t, c, answerDoctor)
		}
		for i := range len(askDoctor) {
			send(t, c, askDoctor[i:i+1])
		}
		expect(t, c, answerDoctor)
		// One and a half.
		send(t, c, askDoctor+askDoctor[:7])
		expect(t, c, answerDoctor)
		send(t, c, askDoctor[7:])
		expect(t, c, answerDoctor)
		// The longest there may be.
		send(t, c, wire("policy "+strings.Repeat("x", maxRequest-7)))
		expect(t, c, wire(absent))
		send(t, c, askDoctor)
		expect(t, c, answerDoctor)
	}
}

func TestPipelined(t *testing.T) {
	a := start(t, server(t, Config{Transports: 3}, clinic()...), "tcp")
	c := dial(t, a)
	var questions, answers strings.Builder
	for i := range 1000 {
		switch i % 3 {
		case 0:
			questions.WriteString(wire(fmt.Sprintf("sender user%d@example.com", i)))
			answers.WriteString(wire(absent))
		case 1:
			questions.WriteString(wire("forced1 " + strings.Repeat("x", i) + ".example"))
			answers.WriteString(wire(plain)) // also where a label is too long
		case 2:
			questions.WriteString(askDoctor)
			answers.WriteString(answerDoctor)
		}
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, questions.String())
		sent <- err
	}()
	expect(t, c, answers.String())
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// Garbage ends its connection, unanswered; what was asked before it is answered, and nobody else notices.
func TestGarbage(t *testing.T) {
	s := server(t, Config{Transports: 3}, clinic()...)
	a := start(t, s, "tcp")
	other := dial(t, a)
	garbage := []string{"x", "GET / HTTP/1.1\r\n\r\n", "10001:", "99999999", "5:abcdef", "1:a;", "01:a,", ":", "-1:,", "\x00", "\n"}
	for _, g := range garbage {
		c := dial(t, a)
		send(t, c, askDoctor+g)
		expect(t, c, answerDoctor)
		closed(t, c)
	}
	send(t, other, askDoctor)
	expect(t, other, answerDoctor)
	if n := s.Stats().Garbage; n != uint64(len(garbage)) {
		t.Errorf("%d counted", n)
	}
}

// The rest of a question doesn't take for ever; a connection that idles is left alone.
func TestHalfQuestion(t *testing.T) {
	a := start(t, server(t, Config{Transports: 3, PartTimeout: 20 * time.Millisecond}, clinic()...), "tcp")
	idle := dial(t, a)
	send(t, idle, askDoctor+"2")
	expect(t, idle, answerDoctor)
	send(t, idle, askDoctor[1:])
	expect(t, idle, answerDoctor)
	for _, part := range []string{"2", askDoctor[:10], askDoctor + "2"} {
		c := dial(t, a)
		send(t, c, part)
		if strings.HasPrefix(part, askDoctor) {
			expect(t, c, answerDoctor)
		}
		closed(t, c)
	}
	send(t, idle, askDoctor)
	expect(t, idle, answerDoctor)
}

// pipe is a listener with one connection, whose writes wait for a reader.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// Who doesn't read its answers is cut off.
func TestSlowReader(t *testing.T) {
	s := server(t, Config{Transports: 3, WriteTimeout: 20 * time.Millisecond}, clinic()...)
	l := &pipe{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	theirs, ours := net.Pipe()
	defer theirs.Close()
	l.conns <- ours
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	theirs.SetDeadline(time.Now().Add(patience))
	send(t, theirs, askDoctor)
	if _, err := io.WriteString(theirs, askDoctor); !errors.Is(err, io.ErrClosedPipe) { // the server sits in its write until then
		t.Errorf("write: %v", err)
	}
	l.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve on a listener closed by somebody else: %v", err)
	}
	s.sessions.Wait()
}

func TestManyIdle(t *testing.T) {
	const limit = 500
	s := server(t, Config{Transports: 3, MaxConnections: limit}, clinic()...)
	a := start(t, s, "unix")
	conns := make([]net.Conn, limit)
	for i := range conns {
		conns[i] = dial(t, a)
		send(t, conns[i], askDoctor)
		expect(t, conns[i], answerDoctor)
	}
	closed(t, dial(t, a))
	if st := s.Stats(); st.Open != limit || st.Connections != limit || st.Refused != 1 {
		t.Errorf("%+v", st)
	}
	for _, c := range conns {
		send(t, c, askDoctor)
		expect(t, c, answerDoctor)
	}
	conns[0].Close()
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial(a.Network(), a.String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(deadline)
		got := make([]byte, len(answerDoctor))
		_, err = io.WriteString(c, askDoctor)
		if err == nil {
			_, err = io.ReadFull(c, got)
		}
		c.Close()
		if err == nil {
			break // the place is free again
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestShutdown(t *testing.T) {
	s := server(t, Config{Transports: 3}, clinic()...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	idle, half := dial(t, l.Addr()), dial(t, l.Addr())
	send(t, idle, askDoctor)
	expect(t, idle, answerDoctor)
	send(t, half, askDoctor+"2")
	expect(t, half, answerDoctor)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	closed(t, idle)
	closed(t, half)
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("it still accepts")
	}
	if again, err := net.Listen("tcp", "127.0.0.1:0"); err != nil || s.Serve(again) != nil {
		t.Error("serve after shutdown", err)
	}
}

// full is a listener of a process without descriptors; its pause may get long.
type full struct {
	net.Listener
	tried chan struct{}
}

func (f full) Accept() (net.Conn, error) {
	select {
	case f.tried <- struct{}{}:
	default:
	}
	return nil, syscall.EMFILE
}

// The pause after a failed accept is over when Shutdown begins.
func TestShutdownWhileAcceptFails(t *testing.T) {
	s := server(t, Config{}, clinic()...)
	s.acceptPause = time.Hour
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := full{l, make(chan struct{}, 1)}
	served := make(chan error, 1)
	go func() { served <- s.Serve(f) }()
	<-f.tried
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A Shutdown whose time is up cuts what is left.
func TestShutdownCuts(t *testing.T) {
	blocked, release := make(chan struct{}), make(chan struct{})
	s := server(t, Config{Ledger: stuck{blocked, release}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c := dial(t, l.Addr())
	send(t, c, wire("policy far.example"))
	<-blocked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	go func() {
		io.Copy(io.Discard, c) // until it is cut
		close(release)
	}()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-served
}

// stuck is a ledger that doesn't answer until released.
type stuck struct{ blocked, release chan struct{} }

func (s stuck) Pinned(addr.Destination) bool {
	close(s.blocked)
	<-s.release
	return false
}

func (s stuck) Demanded(addr.Destination) (policy.Demand, bool) { return policy.Demand{}, false }

// A panic costs one connection, and no answer is given.
func TestPanic(t *testing.T) {
	blocked := make(chan struct{})
	close(blocked)          // closing it again panics
	var log strings.Builder // of the session that ends before Shutdown returns
	s := server(t, Config{Ledger: stuck{blocked, nil}, Transports: 3, Log: slog.New(slog.NewTextHandler(&log, nil))}, clinic()...)
	a := start(t, s, "tcp")
	other, c := dial(t, a), dial(t, a)
	send(t, c, wire("policy far.example"))
	closed(t, c)
	send(t, other, askDoctor)
	expect(t, other, answerDoctor)
	if n := s.Stats().Panics; n != 1 {
		t.Errorf("%d panics", n)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "conn.go") {
		t.Errorf("the log has no stack: %s", log.String())
	}
}

// memory is a connection whose whole input is there at once, in pieces.
type memory struct {
	net.Conn
	pieces [][]byte
	out    bytes.Buffer
}

func (m *memory) Read(b []byte) (int, error) {
	if len(m.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, m.pieces[0])
	if m.pieces[0] = m.pieces[0][n:]; len(m.pieces[0]) == 0 {
		m.pieces = m.pieces[1:]
	}
	return n, nil
}

func (m *memory) Write(b []byte) (int, error)      { return m.out.Write(b) }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
func (m *memory) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// FuzzConnection: each netstring is answered once, in whatever pieces it comes, and nothing after the first thing
// that is none; each answer is one of those that both MTAs understand.
func FuzzConnection(f *testing.F) {
	for _, q := range []string{"sender doctor@clinic.example", `sender "<>"`, "forced1 legacy.example", "forced .x", "forced2 [a]:1", "policy owed.example",
		"tls_rcpt v1<NONE><mx><192.0.2.1><id><<1@x>><bob@example.com><u@far.example>", "", " ", "forced", "a b"} {
		f.Add([]byte(wire(q)), uint16(1))
		f.Add([]byte(wire(q)+wire(q)+"1:"), uint16(7))
	}
	f.Add([]byte("10000:"+strings.Repeat("x", 10_000)+",99999:"), uint16(5000))
	length := regexp.MustCompile(`^(0|[1-9][0-9]{0,4}):`)
	answer := regexp.MustCompile(`^(OK (tlsonly[0-9]*:|none|may|encrypt[ -~]*|PASS|DEFER|REJECT)|NOTFOUND |TEMP [ -~]+)$`)
	s := server(f, Config{Transports: 2, Ledger: book{owed: map[string]policy.Demand{"owed.example": encrypt(policy.TLS13, 256)}}}, clinic()...)
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		m := &memory{}
		for rest := in; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			m.pieces = append(m.pieces, rest[:n])
			rest = rest[n:]
		}
		c := conn{s: s, nc: m}
		c.serve()
		questions := 0
		for rest := in; ; questions++ {
			prefix := length.FindSubmatch(rest)
			if prefix == nil {
				break
			}
			n, _ := strconv.Atoi(string(prefix[1]))
			if rest = rest[len(prefix[0]):]; n > 10_000 || len(rest) <= n || rest[n] != ',' {
				break
			}
			rest = rest[n+1:]
		}
		answers := 0
		for rest := m.out.Bytes(); len(rest) > 0; answers++ {
			got, size, err := next(rest)
			if err != nil || size == 0 || size > 100_000 || !answer.Match(got) {
				t.Fatalf("%q is answered %q", in, m.out.Bytes())
			}
			rest = rest[size:]
		}
		if answers != questions {
			t.Fatalf("%q: %d questions, %d answers", in, questions, answers)
		}
	})
}

// constant answers every question it reads with one answer, and does nothing else: what a server in Go can reach.
func constant(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			buf, answer := make([]byte, 4096), []byte(answerDoctor)
			for {
				if _, err := nc.Read(buf); err != nil {
					return
				}
				if _, err := nc.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// BenchmarkAnswers asks one question after the other over each connection; the counterpart is a constant server.
func BenchmarkAnswers(b *testing.B) {
	for _, connections := range []int{1, 64} {
		for _, which := range []string{"constant", "sender", "forced1", "policy"} {
			b.Run(fmt.Sprintf("%s-%d", which, connections), func(b *testing.B) {
				var a net.Addr
				question := askDoctor
				switch which {
				case "constant":
					l, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						b.Fatal(err)
					}
					defer l.Close()
					go constant(l)
					a = l.Addr()
				case "forced1", "policy":
					question = wire(which + " far.example")
					fallthrough
				default:
					a = start(b, server(b, Config{Transports: 3}, clinic()...), "tcp")
				}
				conns := make([]net.Conn, connections)
				for i := range conns {
					conns[i] = dial(b, a)
					conns[i].SetDeadline(time.Time{})
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ReportAllocs()
				b.ResetTimer()
				var all sync.WaitGroup
				for _, c := range conns {
					all.Go(func() {
						ask, got := []byte(question), make([]byte, 256)
						for left.Add(-1) >= 0 {
							_, err := c.Write(ask)
							if err == nil {
								_, err = c.Read(got)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
			})
		}
	}
}

// A hot question costs little beside the two system calls around it.
// An address is read once for each answer, whatever is asked of it.
func TestReplyReadsOnce(t *testing.T) {
	s := server(t, Config{Transports: 3, Ledger: book{}}, clinic()...)
	for _, q := range []string{"sender doctor@clinic.example", "sender bob@example.com"} {
		var out []byte
		// The key, the local part and the domain, one of which grows.
		if n := testing.AllocsPerRun(100, func() { out = s.reply(out[:0], []byte(q)) }); n > 5 {
			t.Errorf("%s: %v allocations", q, n)
		}
	}
}

func BenchmarkReply(b *testing.B) {
	site := func(context.Context, string) (SiteRoute, error) { return SiteRoute{Twin: "slow"}, nil }
	s := server(b, Config{Transports: 3, Ledger: book{}, Site: site}, clinic()...)
	for _, q := range []string{"sender doctor@clinic.example", "sender3/+site doctor@clinic.example", "sender bob@example.com", "forced1 far.example", "policy far.example"} {
		b.Run(q, func(b *testing.B) {
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				out = s.reply(out[:0], []byte(q))
			}
		})
	}
}
