package socketmap

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
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
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		n = min(n, (int(limit.Cur)-300)*10/22) // both ends are ours, and a tenth more come
	}
	s := server(t, Config{Transports: 3, PartTimeout: 2 * time.Second, WriteTimeout: time.Second}, clinic()...)
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
	idle := make([]net.Conn, n)
	for i := range idle {
		idle[i] = dial(t, a)
		send(t, idle[i], askDoctor)
		expect(t, idle[i], answerDoctor)
	}
	each := (heap() - before) / float64(n)
	beside := median()
	t.Logf("%d idle connections: %.1f kB each with both ends; one more question takes %s, alone %s", n, each/1000, beside, alone)
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
	for _, c := range idle {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		send(t, c, askDoctor)
		expect(t, c, answerDoctor)
	}
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
