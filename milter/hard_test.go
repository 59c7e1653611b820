package milter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// "make soak" sets TLSONLY_SOAK: the tests below take their full counts then.
func soak(small, full int) int {
	if os.Getenv("TLSONLY_SOAK") != "" {
		return full
	}
	return small
}

// text is a packet of text.
func text(code byte, data string) []byte { return frame(code, []byte(data)) }

func offer() []byte { return text('O', "\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff") }

// answered reads one packet and returns its kind.
func answered(c net.Conn) (byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, err
	}
	_, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:]))-1)
	return head[4], err
}

// served has one message judged, on a connection of its own, and says how long that took.
func served(b *bench) (time.Duration, error) {
	start := time.Now()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, err
	}
	for _, step := range []struct {
		packet []byte
		want   byte
	}{
		{offer(), 'O'}, {text('M', "<doctor@clinic.example>\x00"), 'c'}, {text('R', "<u@good.example>\x00"), 'c'},
		{text('R', "<u@plain.example>\x00"), 'y'}, {text('E', ""), 'a'},
	} {
		if _, err := c.Write(step.packet); err != nil {
			return 0, err
		}
		for {
			got, err := answered(c)
			if err != nil {
				return 0, fmt.Errorf("after %q: %w", step.packet, err)
			}
			if got == step.want {
				break
			}
			if step.packet[4] != 'E' { // changes come before the last answer
				return 0, fmt.Errorf("after %q: %q, want %q", step.packet, got, step.want)
			}
		}
	}
	return time.Since(start), nil
}

// others has messages judged until told to stop, one after the other, and says how long each took.
func others(t *testing.T, b *bench) (stop func() []time.Duration) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	var all []time.Duration
	go func() {
		defer close(ended)
		for {
			took, err := served(b)
			if err != nil {
				t.Errorf("another session: %v", err)
				return
			}
			all = append(all, took)
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	return func() []time.Duration { close(end); <-ended; return all }
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc+m.StackInuse) / 1e6
}

// waitSessions waits until so many connections are open.
func waitSessions(t *testing.T, b *bench, done func(int) bool) {
	t.Helper()
	wait(t, b, func() bool { return done(b.Stats().Sessions) })
}

func wait(t *testing.T, b *bench, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it doesn't come: %+v, %d octets for packets", b.Stats(), b.shared.Load())
		}
	}
}

// Connections that say nothing cost little and keep nobody waiting; they are ended when they took too long, and those beyond the
// limit are served then.
func TestHardSilent(t *testing.T) {
	n := soak(200, 2000)
	b := start(t, func(c *Config) { c.MaxConnections, c.PacketTimeout = n+10, time.Duration(soak(3, 10))*time.Second })
	before := heap()
	for range n {
		b.dial(t)
	}
	waitSessions(t, b, func(open int) bool { return open >= n })
	each := (heap() - before) * 1000 / float64(n)
	took, err := served(b)
	if err != nil {
		t.Errorf("while %d say nothing: %v", n, err)
	}
	t.Logf("%d silent connections: %.1f kB each; a message beside them took %s", n, each, took)
	if each > 64 {
		t.Errorf("%.1f kB each", each)
	}
	for range 10 {
		b.dial(t)
	}
	waitSessions(t, b, func(open int) bool { return open == n+10 })
	// No slot is left: this one waits for one, and gets it when the silent are ended.
	if _, err := served(b); err != nil {
		t.Errorf("beyond the limit: %v", err)
	}
	waitSessions(t, b, func(open int) bool { return open == 0 })
	if !strings.Contains(b.log.String(), "all connections in use") {
		t.Error("nobody was told of the limit")
	}
}

// Whatever is sent instead of packets ends its own connection, costs no memory and keeps nobody waiting.
func TestHardGarbage(t *testing.T) {
	n := soak(100, 500)
	b := start(t, func(c *Config) { c.PacketTimeout, c.Log = time.Second, nil }) // a log in memory would be most of the memory
	before := heap()
	stop := others(t, b)
	random := rand.New(rand.NewPCG(1, 2))
	kinds := []func() []byte{
		func() []byte {
			junk := make([]byte, 4096)
			for i := range junk {
				junk[i] = byte(random.Uint32())
			}
			return append([]byte{0xff}, junk...) // a length above any limit
		},
		func() []byte { return offer()[:9] },                                              // half a packet
		func() []byte { return append(offer(), 0, 0, 0, 0) },                              // nothing in it
		func() []byte { return []byte{0x20, 0, 0, 0, 'O'} },                               // 512 MiB
		func() []byte { return append(offer(), 0x20, 0, 0, 1, 'B', 'x') },                 // later
		func() []byte { return append(offer(), text('M', "<doctor@clinic.example>")...) }, // without its end
		func() []byte { return append(offer(), text('L', "Subject\x00no end")...) },
		func() []byte { return bytes.Repeat(text('R', "<u@good.example>\x00"), 10) },                // out of order
		func() []byte { return []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n") },                        // another protocol
		func() []byte { return append(offer(), bytes.Repeat([]byte{0, 0, 0, 1, 'A', 0}, 1000)...) }, // frames that run apart
	}
	var group sync.WaitGroup
	for i := range n {
		junk := kinds[i%len(kinds)]()
		group.Go(func() {
			c, err := net.Dial("tcp", b.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Error(err)
			}
			_, _ = c.Write(junk) // may be cut in the middle
			if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("%d: still open: %.20q", i%len(kinds), junk)
			}
		})
	}
	group.Wait()
	times := stop()
	waitSessions(t, b, func(open int) bool { return open == 0 })
	s := b.Stats()
	t.Logf("%d connections with garbage: %d malformed packets counted, heap from %.1f to %.1f MB, %d other messages served",
		n, s.Malformed, before, heap(), len(times))
	if grown := heap() - before; grown > 20 {
		t.Errorf("%.1f MB more memory in use", grown)
	}
	if s.Malformed < uint64(n/2) || s.Panics != 0 {
		t.Errorf("%d malformed packets counted, %d panics", s.Malformed, s.Panics)
	}
}

// One message may have ten thousand recipients.
func TestHardRecipients(t *testing.T) {
	n := soak(2000, 10_000)
	b := start(t, func(c *Config) { c.Log = nil })
	c := b.dial(t)
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	before := heap()
	stop := others(t, b)
	say := func(packet []byte) byte {
		t.Helper()
		if _, err := c.Write(packet); err != nil {
			t.Fatal(err)
		}
		got, err := answered(c)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	say(offer())
	say(text('M', "<doctor@clinic.example>\x00"))
	for i := range n {
		host, want := "good.example", byte('c')
		if i%100 == 99 {
			host, want = "plain.example", 'y'
		}
		if got := say(text('R', fmt.Sprintf("<u%d@%s>\x00", i, host))); got != want {
			t.Fatalf("recipient %d: %q, want %q", i, got, want)
		}
	}
	grown := heap() - before
	got := say(text('E', ""))
	for got != 'a' {
		var err error
		if got, err = answered(c); err != nil {
			t.Fatal(err)
		}
	}
	times := stop()
	t.Logf("%d recipients in one message: %.1f MB, %d other messages meanwhile", n, grown, len(times))
	if grown > float64(n)/200+10 {
		t.Errorf("%.1f MB for one message", grown)
	}
}

// Who doesn't read the answers is cut, and nobody else notices.
func TestHardSlowReader(t *testing.T) {
	n := soak(20, 500)
	b := start(t, func(c *Config) { c.WriteTimeout, c.Log = 300*time.Millisecond, nil })
	l := &oneConn{conn: make(chan net.Conn), closed: make(chan struct{})} // of pipes, which hold nothing that nobody reads
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(l) }()
	defer func() {
		l.Close()
		<-ended
	}()
	stop := others(t, b)
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			c, theirs := net.Pipe()
			defer c.Close()
			l.conn <- theirs
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Error(err)
			}
			for _, packet := range [][]byte{offer(), text('M', "<doctor@clinic.example>\x00")} {
				if _, err := c.Write(packet); err != nil {
					t.Error(err)
				}
				if _, err := answered(c); err != nil {
					t.Error(err)
				}
			}
			_, err := c.Write(bytes.Repeat(text('R', "<u@plain.example>\x00"), 100)) // reads none of the answers
			if err == nil {
				_, err = c.Write(text('A', ""))
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection whose answers nobody reads stays open: %v", err)
			}
		})
	}
	group.Wait()
	if times := stop(); len(times) == 0 {
		t.Error("nobody else was served")
	}
	waitSessions(t, b, func(open int) bool { return open == 0 })
}

// known is a destination with one mail host that offers TLS.
func known(i int) policy.Assessment {
	now := time.Now()
	return policy.Assessment{
		Destination: addr.MustDestination(fmt.Sprintf("d%d.example", i)), When: now, Until: now.Add(24 * time.Hour),
		Hosts: []policy.Host{{Name: addr.MustDomain("mx.example"), Observations: []policy.Observation{{
			Address: netip.MustParseAddrPort("192.0.2.1:25"), Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, When: now,
		}}}},
	}
}

// nowhere is asked only when something isn't in memory.
type nowhere struct{ b *testing.B }

func (n nowhere) MX(_ context.Context, d addr.Domain) (dns.Answer[dns.MX], error) {
	n.b.Errorf("MX of %s was asked for", d)
	return dns.Answer[dns.MX]{Status: dns.NoSuchDomain}, nil
}

func (n nowhere) Addrs(context.Context, addr.Domain) (dns.Answer[netip.Addr], error) {
	return dns.Answer[netip.Addr]{Status: dns.NoSuchDomain}, nil
}

func (n nowhere) TLSA(context.Context, addr.Domain) (dns.Answer[policy.TLSA], error) {
	return dns.Answer[policy.TLSA]{Status: dns.NoSuchDomain}, nil
}

func (n nowhere) SecureAlias(context.Context, addr.Domain) (bool, error) { return false, nil }

func (n nowhere) Probe(_ context.Context, t starttls.Target) policy.Observation {
	return policy.Observation{Address: t.Address, Outcome: policy.SawUnreachable}
}

// standing is a ledger in which everything was demanded before.
type standing struct{}

func (standing) Pinned(addr.Destination) bool { return true }

func (standing) Owe(context.Context, addr.Destination, string, policy.Demand, bool) error { return nil }

// BenchmarkHardDecide is one decision in memory: a sender's rules found, one recipient judged. The last rule is the one that
// decides, all before are for other senders.
func BenchmarkHardDecide(b *testing.B) {
	for _, size := range []struct{ known, rules int }{{1, 1}, {1000, 1}, {1_000_000, 1}, {1, 100}, {1, 10_000}, {1_000_000, 10_000}} {
		b.Run(fmt.Sprintf("known=%d,rules=%d", size.known, size.rules), func(b *testing.B) {
			assessor, err := destination.New(destination.Config{Resolver: nowhere{b}, Prober: nowhere{b}, Entries: 2 * size.known})
			if err != nil {
				b.Fatal(err)
			}
			defer assessor.Close()
			var all []policy.Assessment
			for i := range size.known {
				all = append(all, known(i))
			}
			assessor.Seed(all...)
			var rs []*rules.Rule
			for i := range size.rules - 1 {
				rs = append(rs, rule(fmt.Sprintf("r%d", i), fmt.Sprintf("@sender%d.example", i), nil))
			}
			set := rules.New(append(rs, rule("clinic", "@clinic.example", nil)))
			d := Decider{Assessor: assessor, Ledger: standing{}}
			from, now, i := addr.MustAddress("doctor@clinic.example"), time.Now(), 0
			to := make([]addr.Address, min(size.known, 1000))
			for i := range to {
				to[i] = addr.MustAddress("u@" + all[i*size.known/len(to)].Destination.String())
			}
			b.ReportAllocs()
			for b.Loop() {
				i = (i + 1) % len(to)
				got := d.Decide(context.Background(), set.Sender(from, "", now), to[i], Route{})
				if got.Verdict != policy.Accept || got.Rule == nil || got.Reason != "" {
					b.Fatalf("%+v", got)
				}
			}
		})
	}
}
