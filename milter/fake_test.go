package milter

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet/rig"
	"tlsonly/rules"
)

// TestMain runs everything in namespaces where it can: one test needs port 25 and a Postfix.
func TestMain(m *testing.M) {
	rig.Enter()
	goleak.VerifyTestMain(m)
}

// fakeAssessor answers by the destination's host name.
type fakeAssessor struct {
	mu      sync.Mutex
	asked   []string
	waiting chan struct{} // gets one for each look that hangs
}

func (f *fakeAssessor) Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment {
	f.mu.Lock()
	f.asked = append(f.asked, d.String())
	f.mu.Unlock()
	host := func(o policy.Observation) policy.Assessment {
		return policy.Assessment{Hosts: []policy.Host{{
			Name: addr.MustDomain("mx." + d.Host().String()), Observations: []policy.Observation{o},
		}}}
	}
	switch d.Host().String() {
	case "plain.example", "tls-none.test":
		return host(policy.Observation{Outcome: policy.SawNoSTARTTLS, Detail: "no STARTTLS in the EHLO reply"})
	case "old.example":
		return host(policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS10, Bits: 128})
	case "null.example":
		return policy.Assessment{Problem: policy.NullMX}
	case "nx.example":
		return policy.Assessment{Problem: policy.NoSuchDomain}
	case "servfail.example":
		return policy.Assessment{Problem: policy.DNSFailure, Detail: "SERVFAIL"}
	case "panic.example":
		panic("a test's panic")
	case "hang.example":
		f.waiting <- struct{}{}
		<-ctx.Done()
		return policy.Assessment{Problem: policy.Timeout}
	}
	a := host(policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256})
	if !enough(a) {
		panic("good TLS is not enough")
	}
	return a
}

func (f *fakeAssessor) questions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.asked...)
}

func rule(name, from string, change func(*rules.Rule)) *rules.Rule {
	r := &rules.Rule{
		Name: name, Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128,
		OnFail: policy.ActionReject, OnUnknown: policy.ActionDefer, Mode: policy.Enforce,
	}
	if from != "" {
		r.From = []addr.Pattern{addr.MustPattern(from)}
	}
	if change != nil {
		change(r)
	}
	return r
}

// testRules are the rules of all sessions.
func testRules() *rules.Set {
	return rules.New([]*rules.Rule{
		rule("legacy", "@clinic.example", func(r *rules.Rule) {
			r.To, r.Level = []addr.Pattern{addr.MustPattern("@legacy.example")}, policy.LevelNone
		}),
		rule("clinic", "@clinic.example", nil),
		rule("partner", "@partner.example", func(r *rules.Rule) {
			r.To = []addr.Pattern{addr.MustPattern("@good.example"), addr.MustPattern("@plain.example")}
		}),
		rule("hold", "@hold.example", func(r *rules.Rule) { r.OnFail = policy.ActionHold }),
		rule("tag", "@tag.example", func(r *rules.Rule) { r.OnFail = policy.ActionTag }),
		rule("observe", "@observe.example", func(r *rules.Rule) { r.Mode = policy.Observe }),
		rule("nurses", "", func(r *rules.Rule) { r.User = []string{"nurse"} }),
	})
}

// logBuffer collects log lines without their times.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "stack" {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// bench is a server that runs, and what it stands on.
type bench struct {
	*Server
	addr     string
	assessor *fakeAssessor
	log      *logBuffer
	served   chan error
}

// start runs a server on a port of its own; the test's end shuts it down.
func start(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := &bench{assessor: &fakeAssessor{waiting: make(chan struct{}, 100)}, log: &logBuffer{}, served: make(chan error, 1)}
	set := testRules()
	c := Config{
		Decider:             Decider{Assessor: b.assessor, Deadline: 20 * time.Second},
		Rules:               func() *rules.Set { return set },
		RefuseTLSRequiredNo: true,
		RedactBounces:       true,
		TagEnvelope:         true,
		Log:                 b.log.logger(),
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	l, err := Listen("tcp", "127.0.0.1:0", 0)
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	go func() { b.served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		if err := <-b.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return b
}

func (b *bench) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}
