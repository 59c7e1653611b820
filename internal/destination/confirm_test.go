package destination

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// flapping is a host that does something else at each probe; the last stays.
type flapping struct {
	mu       sync.Mutex
	outcomes []policy.Outcome
	now      func() time.Time
	probed   []time.Time
}

func (f *flapping) Probe(_ context.Context, t starttls.Target) policy.Observation {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := policy.Observation{Address: t.Address, Outcome: f.outcomes[min(len(f.probed), len(f.outcomes)-1)], When: f.now(), Trust: policy.Trusted}
	if o.Outcome == policy.SawTLS {
		o.Version, o.Bits, o.Stage = policy.TLS13, 256, policy.StageQuit
	}
	f.probed = append(f.probed, time.Now())
	return o
}

func (f *flapping) times() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.probed)
}

// encrypted is what a rule of level encrypt finds enough.
func encrypted(a policy.Assessment) bool {
	return judge.Destination(policy.DefaultDemand(), a) == ""
}

func newFlapping(t *testing.T, change func(*Config), outcomes ...policy.Outcome) (*Assessor, *flapping) {
	t.Helper()
	d := &fakeDNS{
		mx:    map[string]dns.Answer[dns.MX]{"x.test": mx("a.test"), "y.test": mx("a.test")},
		addrs: map[string]dns.Answer[netip.Addr]{"a.test": ips("192.0.2.1")},
	}
	h := &flapping{outcomes: outcomes, now: time.Now}
	config := Config{Resolver: d, Prober: h, Timeout: 5 * time.Second}
	change(&config)
	if config.Now != nil {
		h.now = config.Now
	}
	a, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, h
}

func TestSecondProbe(t *testing.T) {
	no, tls, dead, refused := policy.SawNoSTARTTLS, policy.SawTLS, policy.SawUnreachable, policy.SawRefused
	const pause = 30 * time.Millisecond
	for _, c := range []struct {
		name      string
		outcomes  []policy.Outcome
		reason    policy.Reason
		confirmed bool
		probes    int
		told      []Second
	}{
		{"good", []policy.Outcome{tls}, "", true, 1, nil},
		{"bad", []policy.Outcome{no}, policy.NoSTARTTLS, true, 2, []Second{Agreed}},
		{"bad in two ways", []policy.Outcome{refused, no}, policy.NoSTARTTLS, true, 2, []Second{Agreed}},
		{"bad once", []policy.Outcome{no, tls}, "", true, 2, []Second{Differed}},
		{"broken once", []policy.Outcome{policy.SawBroken, tls}, "", true, 2, []Second{Differed}},
		{"bad, then down", []policy.Outcome{no, dead}, policy.Unreachable, true, 2, []Second{Unsure}},
		{"down", []policy.Outcome{dead}, policy.Unreachable, true, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var told []Second
			a, h := newFlapping(t, func(config *Config) {
				config.Confirm = pause
				config.Confirmed = func(s Second) { told = append(told, s) }
			}, c.outcomes...)
			got := a.Assess(t.Context(), addr.MustDestination("x.test"), encrypted)
			demand := policy.DefaultDemand()
			if reason := judge.Destination(demand, got); reason != c.reason || judge.Confirmed(demand, got) != c.confirmed && !reason.Unknown() {
				t.Errorf("%q, confirmed %t; want %q, %t\n%+v", reason, judge.Confirmed(demand, got), c.reason, c.confirmed, got)
			}
			at := h.times()
			if len(at) != c.probes || len(at) == 2 && at[1].Sub(at[0]) < pause {
				t.Errorf("probed at %v, want %d probes, %s apart", at, c.probes, pause)
			}
			if !slices.Equal(told, c.told) {
				t.Errorf("told %v, want %v", told, c.told)
			}
			// What is known needs no third probe.
			if a.Assess(t.Context(), addr.MustDestination("x.test"), encrypted); len(h.times()) != c.probes {
				t.Errorf("%d probes after another question, want %d", len(h.times()), c.probes)
			}
		})
	}
}

// TestSecondProbeIsShared: however many ask, for whichever destination of a host.
func TestSecondProbeIsShared(t *testing.T) {
	a, h := newFlapping(t, func(c *Config) { c.Confirm = 20 * time.Millisecond }, policy.SawNoSTARTTLS)
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			d := addr.MustDestination([]string{"x.test", "y.test"}[i%2])
			if got := a.Assess(t.Context(), d, encrypted); !judge.Confirmed(policy.DefaultDemand(), got) {
				t.Errorf("not confirmed: %+v", got)
			}
		})
	}
	group.Wait()
	if n := len(h.times()); n != 2 {
		t.Errorf("%d probes, want 2", n)
	}
}

// TestSecondProbeAfterTheDeadline: who can't wait hears what was seen, as not
// confirmed, and the next one finds it confirmed.
func TestSecondProbeAfterTheDeadline(t *testing.T) {
	a, h := newFlapping(t, func(c *Config) { c.Confirm = 200 * time.Millisecond }, policy.SawNoSTARTTLS)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	demand := policy.DefaultDemand()
	got := a.Assess(ctx, addr.MustDestination("x.test"), encrypted)
	if reason := judge.Destination(demand, got); reason != policy.NoSTARTTLS || judge.Confirmed(demand, got) {
		t.Errorf("%s, confirmed %t: %+v", reason, judge.Confirmed(demand, got), got)
	}
	got = a.Assess(t.Context(), addr.MustDestination("x.test"), encrypted)
	if reason := judge.Destination(demand, got); reason != policy.NoSTARTTLS || !judge.Confirmed(demand, got) || len(h.times()) != 2 {
		t.Errorf("%s, confirmed %t, %d probes: %+v", reason, judge.Confirmed(demand, got), len(h.times()), got)
	}
}

// TestEarlierProbeConfirms: one within the time that a bad result serves does, an
// older one or one of just now doesn't.
func TestEarlierProbeConfirms(t *testing.T) {
	for _, c := range []struct {
		ago  time.Duration
		want bool
	}{{time.Second, false}, {2 * time.Minute, true}, {15 * time.Minute, true}, {16 * time.Minute, false}} {
		hour := &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
		a, h := newFlapping(t, func(config *Config) { config.Confirm, config.Now = time.Minute, hour.now }, policy.SawNoSTARTTLS)
		d := addr.MustDestination("x.test")
		if first := a.Refresh(t.Context(), d, 0); judge.Confirmed(policy.DefaultDemand(), first) {
			t.Errorf("one probe confirms: %+v", first)
		}
		hour.add(c.ago)
		got := a.Refresh(t.Context(), d, 0)
		if confirmed := judge.Confirmed(policy.DefaultDemand(), got); confirmed != c.want || len(h.times()) != 2 {
			t.Errorf("%s ago: confirmed %t, want %t; %d probes", c.ago, confirmed, c.want, len(h.times()))
		}
	}
}

// TestSecondProbeAtOnce: where the first was some time ago, nobody waits.
func TestSecondProbeAtOnce(t *testing.T) {
	hour := &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	a, h := newFlapping(t, func(c *Config) { c.Confirm, c.Now = time.Minute, hour.now }, policy.SawNoSTARTTLS)
	d := addr.MustDestination("x.test")
	a.Assess(t.Context(), d, nil) // for somebody who is content with anything
	if n := len(h.times()); n != 1 {
		t.Fatalf("%d probes, want 1", n)
	}
	hour.add(2 * time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if got := a.Assess(ctx, d, encrypted); !judge.Confirmed(policy.DefaultDemand(), got) || len(h.times()) != 2 {
		t.Errorf("%d probes: %+v", len(h.times()), got)
	}
}
