package socketmap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
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

// TestHardConnections: thousands of connections that idle, ask for garbage, stop in the middle of a question or don't read what
// they asked for cost little and keep nobody waiting. "make soak" sets TLSONLY_SOAK for the full count.
func TestHardConnections(t *testing.T) {
	n := 400
	if os.Getenv("TLSONLY_SOAK") != "" {
		n = 10_000
	}
	s := server(t, Config{Transports: 3, MaxConnections: 2 * n, PartTimeout: 2 * time.Second, WriteTimeout: time.Second}, clinic()...)
	a := start(t, s, "tcp")
	ask := func() time.Duration {
		t.Helper()
		begun := time.Now()
		c := dial(t, a)
		defer c.Close()
		send(t, c, askDoctor)
		expect(t, c, answerDoctor)
		return time.Since(begun)
	}
	median := func() time.Duration {
		var times []time.Duration
		for range 101 {
			times = append(times, ask())
		}
		slices.Sort(times)
		return times[len(times)/2]
	}
	l := &pipe{conns: make(chan net.Conn), done: make(chan struct{})} // of connections that hold nothing nobody reads
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		l.Close()
		<-served
	}()
	alone, before := median(), heap()
	askAll := holdElsewhere(t, a, n)
	askAll()
	if open := s.Stats().Open; open < n {
		t.Fatalf("%d connections", open)
	}
	each := (heap() - before) / float64(n)
	beside := median()
	t.Logf("%d idle connections: %.1f kB each; one more question takes %s, alone %s", n, each/1000, beside, alone)
	if each > 32_000 {
		t.Errorf("%.0f octets each", each)
	}

	var group sync.WaitGroup
	counted := s.Stats().Garbage
	for i := range n / 10 {
		c := net.Conn(nil)
		if i%3 < 2 {
			c = dial(t, a)
		} else {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			defer ours.Close()
			c = ours
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			switch i % 3 {
			case 0:
				_, _ = io.WriteString(c, "536870912:") // refused before the end
			case 1:
				_, _ = io.WriteString(c, askDoctor[:len(askDoctor)-2])
			default: // asks again and reads nothing
				_, err := io.WriteString(c, askDoctor)
				if err == nil {
					_, err = io.WriteString(c, askDoctor)
				}
				if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("a connection whose answers nobody reads stays open: %v", err)
				}
				return
			}
			if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("kind %d stays open", i%3)
			}
		})
	}
	among := median()
	group.Wait()
	t.Logf("beside %d that misbehave: %s", n/10, among)
	if got := s.Stats().Garbage - counted; got != uint64((n/10+2)/3) {
		t.Errorf("%d connections with garbage counted", got)
	}
	askAll()
}

// holdElsewhere has another process connect n times, for that takes as many descriptors again. It asks over each connection when
// it is told to.
func holdElsewhere(t *testing.T, a net.Addr, n int) (askAll func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("TLSONLY_TEST_HOLD=%d %s", n, a))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	said := bufio.NewReader(out)
	return func() {
		t.Helper()
		if _, err := io.WriteString(in, "ask\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := said.ReadString('\n'); line != "answered\n" {
			t.Fatalf("the other process: %q, %v", line, err)
		}
	}
}

// hold is that process: order is how many connections, and where to. It ends with its standard input.
func hold(order string) error {
	var n int
	var address string
	if _, err := fmt.Sscan(order, &n, &address); err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp", address); err != nil {
			return err
		}
		defer conns[i].Close()
	}
	got := make([]byte, len(answerDoctor))
	for told := bufio.NewScanner(os.Stdin); told.Scan(); {
		for _, c := range conns {
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			if _, err := io.WriteString(c, askDoctor); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, got); err != nil || string(got) != answerDoctor {
				return fmt.Errorf("answer %q, %w", got, err)
			}
		}
		fmt.Println("answered")
	}
	return nil
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// silence is asked for nothing: all is in memory.
type silence struct{}

func (silence) MX(context.Context, addr.Domain) (dns.Answer[dns.MX], error) {
	return dns.Answer[dns.MX]{}, errors.New("asked")
}

func (silence) Addrs(context.Context, addr.Domain) (dns.Answer[netip.Addr], error) {
	return dns.Answer[netip.Addr]{}, errors.New("asked")
}

func (silence) TLSA(context.Context, addr.Domain) (dns.Answer[policy.TLSA], error) {
	return dns.Answer[policy.TLSA]{}, errors.New("asked")
}

func (silence) SecureAlias(context.Context, addr.Domain) (bool, error) { return false, nil }

func (silence) Probe(_ context.Context, t starttls.Target) policy.Observation {
	return policy.Observation{Address: t.Address, Outcome: policy.SawUnreachable}
}

// BenchmarkHardReply answers from an Assessor's memory what takes knowing the destination: an MTA-STS policy binds it.
func BenchmarkHardReply(b *testing.B) {
	assessor, err := destination.New(destination.Config{Resolver: silence{}, Prober: silence{}})
	if err != nil {
		b.Fatal(err)
	}
	defer assessor.Close()
	now := time.Now()
	assessor.Seed(policy.Assessment{
		Destination: addr.MustDestination("sts.example"), When: now, Until: now.Add(time.Hour),
		MTASTS: policy.STS{Mode: policy.STSEnforce, MX: []string{"mx1.sts.example"}},
		Hosts: []policy.Host{{Name: addr.MustDomain("mx1.sts.example"), Observations: []policy.Observation{{
			Address: netip.MustParseAddrPort("192.0.2.1:25"), Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, When: now,
		}}}},
	})
	all := with(rule(policy.LevelEncrypt, "@clinic.example", ""), func(r *rules.Rule) { r.Honor = policy.DefaultDemand().Honor })
	s := server(b, Config{Transports: 3, Ledger: book{}, Assessor: assessor}, all)
	s.c.Now = time.Now
	for _, q := range []string{"forced1 sts.example", "policy sts.example"} {
		b.Run(q, func(b *testing.B) {
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				if out = s.reply(out[:0], []byte(q)); !strings.HasPrefix(string(out), "OK secure match=mx1.sts.example") {
					b.Fatalf("%q", out)
				}
			}
		})
	}
}
