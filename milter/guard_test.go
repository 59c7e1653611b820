package milter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/rules"
)

const option = "> O 6 0x1ff 0x1fffff"

func optionPacket(t testing.TB) []byte {
	p, err := encodePacket(option[2:])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// badPackets are refused after a good negotiation; the library would panic on some of them.
var badPackets = []struct{ why, packet string }{
	{"no command", "\x00\x00\x00\x00"},
	{"longer than 1 MiB", "\x00\x10\x00\x01B"},
	{"length of 4 GiB", "\xff\xff\xff\xffB"},
	{"connect without NUL", string(frame('C', []byte("host")))},
	{"connect without family", string(frame('C', []byte("host\x00")))},
	{"connect, empty", string(frame('C', nil))},
	{"connect without address", string(frame('C', []byte("host\x004\x00\x19")))},
	{"helo without NUL", string(frame('H', []byte("host")))},
	{"helo, empty", string(frame('H', nil))},
	{"mail without NUL", string(frame('M', []byte("<a@b>")))},
	{"mail, empty", string(frame('M', nil))},
	{"mail, last argument cut", string(frame('M', []byte("<a@b>\x00SIZE=1")))},
	{"rcpt without NUL", string(frame('R', []byte("<a@b>")))},
	{"rcpt, empty", string(frame('R', nil))},
	{"header of one string", string(frame('L', []byte("Subject\x00")))},
	{"header of three strings", string(frame('L', []byte("Subject\x00a\x00b\x00")))},
	{"header without end", string(frame('L', []byte("Subject\x00a")))},
	{"macros for nothing", string(frame('D', nil))},
	{"macros without end", string(frame('D', []byte("Mi\x00x")))},
	{"unknown command without NUL", string(frame('U', []byte("VERB")))},
	{"second negotiation", string(frame('O', make([]byte, 12)))},
	{"not a command", string(frame('Z', []byte("x\x00")))},
}

func TestGuardRefuses(t *testing.T) {
	b := start(t, nil)
	n := uint64(0)
	for _, c := range badPackets {
		conn := b.dial(t)
		talk(t, b, conn, option)
		if _, err := readPacketText(conn); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(c.packet)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); len(got) > 0 || isTimeout(err) {
			t.Errorf("%s: answered %q (%v), want the connection closed", c.why, got, err)
		}
		if n++; b.Stats().Malformed != n {
			t.Errorf("%s: not counted", c.why)
		}
	}
	for _, first := range []string{
		string(frame('O', make([]byte, 11))),
		string(frame('M', []byte("<a@b>\x00"))),
		"GET / HTTP/1.0\r\n\r\n",
	} {
		conn := b.dial(t)
		if _, err := conn.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); len(got) > 0 || isTimeout(err) {
			t.Errorf("%q: answered %q (%v), want the connection closed", first, got, err)
		}
		if n++; b.Stats().Malformed != n {
			t.Errorf("%q: not counted", first)
		}
	}
	if lines := strings.Count(b.log.String(), "milter packet refused"); lines != int(n) {
		t.Errorf("%d warnings for %d packets", lines, n)
	}
	// The daemon is alive.
	conn := b.dial(t)
	talk(t, b, conn, option)
	if _, err := readPacketText(conn); err != nil {
		t.Fatal(err)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Packets come in any pieces, and the longest that is taken comes whole.
func TestGuardPieces(t *testing.T) {
	b := start(t, nil)
	conn := b.dial(t)
	talk(t, b, conn, option)
	if _, err := readPacketText(conn); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, text := range []string{"M <alice@clinic.example>", "DR {rcpt_mailer} smtp {rcpt_host} good.example", "R <bob@good.example>"} {
		p, err := encodePacket(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p...)
	}
	for i := range all {
		if _, err := conn.Write(all[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	talk(t, b, conn, "< c", "< c")
	big := frame('B', bytes.Repeat([]byte("x"), maxPacket-1))
	header, err := encodePacket("L TLS-Only forged")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(append(header, big...), frame('E', nil)...)); err != nil {
		t.Fatal(err)
	}
	talk(t, b, conn, "< c", `< m 0x1 TLS-Only ""`, `< i 0x0 TLS-Only "pass; rule=\"clinic\"; tls=encrypt"`, "< a")
}

// Packets without an end take the memory there is for long ones, and no more; short ones don't need it, and long ones
// have it again when others have gone.
func TestGuardMemory(t *testing.T) {
	b := start(t, nil)
	begin := func() net.Conn {
		t.Helper()
		conn := b.dial(t)
		talk(t, b, conn, option)
		if _, err := readPacketText(conn); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	long := frame('B', make([]byte, maxPacket-1))
	var held []net.Conn
	before := heap()
	for b.Stats().Malformed == 0 {
		conn := begin()
		held = append(held, conn)
		_, _ = conn.Write(long[:len(long)-1]) // the last one is cut
		wait(t, b, func() bool {
			return b.shared.Load() > int64(len(held)-1)*maxPacket*9/10 || b.Stats().Malformed > 0
		})
		if len(held) > 100 {
			t.Fatalf("%d packets, %d octets taken", len(held), b.shared.Load())
		}
	}
	if n, grown := b.shared.Load(), heap()-before; n > sharedMemory || n < sharedMemory*9/10 || grown > 2*sharedMemory>>20 {
		t.Errorf("%d packets take %d octets, the heap %.1f MB more", len(held), n, grown)
	}
	other := begin()
	talk(t, b, other, "> M <alice@clinic.example> "+strings.Repeat("x", connMemory-100), "< c", "> DR {rcpt_mailer} smtp {rcpt_host} good.example",
		"> R <bob@good.example>", "< c")
	for _, conn := range held {
		conn.Close()
	}
	wait(t, b, func() bool { return b.shared.Load() == 0 })
	for range 2 {
		if _, err := other.Write(long); err != nil {
			t.Fatal(err)
		}
		talk(t, b, other, "< c")
	}
	wait(t, b, func() bool { return b.shared.Load() == 0 })
}

// A peer that stops within a packet, or never begins, is cut; one that is quiet between packets is not.
func TestGuardTimeouts(t *testing.T) {
	b := start(t, func(c *Config) { c.PacketTimeout = 20 * time.Millisecond })
	for _, half := range []string{"", "\x00", string(optionPacket(t)[:10])} {
		conn := b.dial(t)
		if _, err := io.WriteString(conn, half); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
			t.Errorf("%q: %q %v, want the connection closed", half, got, err)
		}
	}
	b = start(t, func(c *Config) { c.IdleTimeout = 20 * time.Millisecond })
	conn := b.dial(t)
	talk(t, b, conn, option)
	if _, err := readPacketText(conn); err != nil {
		t.Fatal(err)
	}
	talk(t, b, conn, "< close")
}

// An answer leaves as one write, the changes of the message with it.
func TestGuardCoalesces(t *testing.T) {
	rec := &recorder{}
	s, err := New(Config{Decider: Decider{Assessor: &fakeAssessor{}}, Rules: testRules})
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(rec, s, func() {})
	for _, p := range [][]byte{
		frame('m', []byte("\x00\x00\x00\x01TLS-Only\x00\x00")), frame('q', []byte("x\x00")), frame('a', nil), frame('c', nil),
	} {
		for _, part := range [][]byte{p[:5], p[5:]} {
			if len(part) == 0 {
				continue
			}
			if _, err := c.Write(part); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(rec.writes) != 2 || len(rec.writes[0]) != 5+14+5+2+5 || len(rec.writes[1]) != 5 {
		t.Fatalf("writes %q", rec.writes)
	}
}

// recorder is a connection that only takes.
type recorder struct {
	net.Conn
	writes []string
}

func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, string(p))
	return len(p), nil
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (o *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

func (o *oneConn) Close() error {
	o.once.Do(func() { close(o.closed) })
	return nil
}

func (o *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// FuzzGuard: whatever comes, the session behind the guard ends without a panic (which would end this process: it is
// in a goroutine of the library) and the server can be shut down; and what the library gets is a sequence of whole
// packets.
func FuzzGuard(f *testing.F) {
	hello := optionPacket(f)
	for _, c := range badPackets {
		f.Add(append(bytes.Clone(hello), c.packet...))
	}
	var good []byte
	for _, text := range []string{
		"O 6 0x1ff 0x1fffff", "DC j host", `C host "4\x00\x19127.0.0.1"`, "H host", "DM i 1 {mail_mailer} smtp", "M <alice@clinic.example>",
		"DR {rcpt_mailer} smtp {rcpt_host} good.example", "R <bob@good.example>", "R <bob@plain.example>", "T", "L TLS-Only x",
		"N", "B body", "DE i 1", "E", "A", "K", "U VERB", "Q",
	} {
		p, err := encodePacket(text)
		if err != nil {
			f.Fatal(err)
		}
		good = append(good, p...)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		set := testRules()
		s, err := New(Config{
			Decider:       Decider{Assessor: &fakeAssessor{waiting: make(chan struct{}, 1000)}, Deadline: time.Millisecond},
			Rules:         func() *rules.Set { return set },
			PacketTimeout: time.Second, IdleTimeout: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		l.conn <- far
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		go func() {
			_, _ = near.Write(stream)
			near.Close()
		}()
		_, _ = io.Copy(io.Discard, near)
		if err := s.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		near.Close()
		if s.panics.Load() > 0 && !bytes.Contains(stream, []byte("panic.example")) {
			t.Fatal("a callback panicked")
		}
		checkFrames(t, s, stream)
	})
}

// checkFrames reads stream through a guard of its own and checks what comes out.
func checkFrames(t *testing.T, s *Server, stream []byte) {
	s.draining.Store(false)
	c := newConn(&streamConn{Reader: bytes.NewReader(stream)}, s, func() {})
	out, _ := io.ReadAll(c)
	if !bytes.HasPrefix(stream, out) {
		t.Fatalf("the guard changed what it hands on: %q of %q", out, stream)
	}
	for len(out) > 0 {
		if len(out) < 5 || int(binary.BigEndian.Uint32(out)) > len(out)-4 {
			t.Fatalf("handed on half a packet: %q", out)
		}
		out = out[4+binary.BigEndian.Uint32(out):]
	}
}

// streamConn is a connection that only gives, a few octets at a time.
type streamConn struct {
	net.Conn
	io.Reader
}

func (s *streamConn) Read(p []byte) (int, error)      { return s.Reader.Read(p[:min(len(p), 7)]) }
func (s *streamConn) SetReadDeadline(time.Time) error { return nil }
func (s *streamConn) RemoteAddr() net.Addr            { return nil }
