package judge

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

func demand(l policy.Level) policy.Demand {
	return policy.Demand{Level: l, MinVersion: policy.TLS12, MinBits: 128}
}

// saw makes an observation; one of TLS meets the demand above.
func saw(o policy.Outcome) policy.Observation {
	if o == policy.SawTLS {
		return policy.Observation{Outcome: o, Version: policy.TLS12, Bits: 128}
	}
	return policy.Observation{Outcome: o}
}

func host(os ...policy.Outcome) policy.Host {
	h := policy.Host{Name: addr.MustDomain("mx.example")}
	for _, o := range os {
		h.Observations = append(h.Observations, saw(o))
	}
	return h
}

func assessment(hs ...policy.Host) policy.Assessment {
	return policy.Assessment{Destination: addr.MustDestination("far.example"), Hosts: hs}
}

func problem(r policy.Reason) policy.Assessment {
	a := assessment()
	a.Problem = r
	return a
}

func weak(v policy.Version, bits int) policy.Host {
	return policy.Host{Observations: []policy.Observation{{Outcome: policy.SawTLS, Version: v, Bits: bits}}}
}

func TestDestination(t *testing.T) {
	const (
		tls, plain, refused, broken = policy.SawTLS, policy.SawNoSTARTTLS, policy.SawRefused, policy.SawBroken
		away, silent, mangled       = policy.SawUnreachable, policy.SawTimeout, policy.SawMangled
	)
	partial := assessment()
	partial.Partial = true
	partialGood := assessment(host(tls), host())
	partialGood.Partial = true
	partialBad := assessment(host(plain), host())
	partialBad.Partial = true
	gone := policy.Host{Problem: policy.NoSuchDomain}
	itself, beyond := policy.Host{Problem: policy.Loop}, policy.Host{Problem: policy.NotTried}
	for _, c := range []struct {
		name string
		a    policy.Assessment
		want policy.Reason // at level encrypt
	}{
		{"tls", assessment(host(tls)), ""},
		{"no starttls", assessment(host(plain)), policy.NoSTARTTLS},
		{"starttls refused", assessment(host(refused)), policy.Handshake},
		{"handshake broken", assessment(host(broken)), policy.Handshake},
		{"unreachable", assessment(host(away)), policy.Unreachable},
		{"timeout", assessment(host(silent)), policy.Timeout},
		{"mangled is our network perhaps", assessment(host(mangled)), policy.Unreachable},
		{"an outcome of another version", assessment(host("new")), policy.Unreachable},
		{"TLS 1.1", assessment(weak(policy.TLS11, 256)), policy.WeakTLS},
		{"SSL 3.0", assessment(weak(policy.SSL30, 256)), policy.WeakTLS},
		{"112 bits", assessment(weak(policy.TLS12, 112)), policy.WeakTLS},
		{"exactly enough", assessment(weak(policy.TLS12, 128)), ""},
		{"no version seen", assessment(weak(0, 0)), policy.WeakTLS},
		{"one of two hosts", assessment(host(plain), host(tls)), ""},
		{"the first of two hosts", assessment(host(tls), host(away)), ""},
		{"one address of two", assessment(host(away, tls)), ""},
		{"both fail, closest to success told", assessment(host(plain), host(broken)), policy.Handshake},
		{"both fail, other order", assessment(host(broken), host(plain)), policy.Handshake},
		{"one fails, one unknown", assessment(host(plain), host(silent)), policy.Timeout},
		{"one address fails, one unknown", assessment(host(away, plain)), policy.Unreachable},
		{"weak and unknown", assessment(weak(policy.TLS10, 128), host(away)), policy.Unreachable},
		{"host without address", assessment(gone, host(tls)), ""},
		{"host without address, other fails", assessment(gone, host(plain)), policy.NoSTARTTLS},
		{"no host has an address", assessment(gone, gone), policy.NoMailHost},
		{"the only host is this MTA", assessment(itself), policy.Loop},
		{"a host without address, then this MTA, then none that is tried", assessment(gone, itself, beyond), policy.Loop},
		{"a bad host, then this MTA", assessment(host(plain), itself), policy.NoSTARTTLS},
		{"a good host, then this MTA", assessment(host(tls), itself, beyond), ""},
		{"host's addresses not known", assessment(policy.Host{Problem: policy.DNSFailure}), policy.DNSFailure},
		{"host's addresses not known, other fails", assessment(host(plain), policy.Host{Problem: policy.DNSFailure}), policy.DNSFailure},
		{"host with a problem no host has", assessment(policy.Host{Problem: policy.NullMX}), policy.NullMX},
		{"nothing seen yet", partial, policy.Timeout},
		{"part seen, good", partialGood, ""},
		{"part seen, bad", partialBad, policy.Timeout},
		{"nothing known at all", policy.Assessment{}, policy.DNSFailure},
		{"null MX", problem(policy.NullMX), policy.NullMX},
		{"no such domain", problem(policy.NoSuchDomain), policy.NoSuchDomain},
		{"DNS failure", problem(policy.DNSFailure), policy.DNSFailure},
		{"DNS timeout", problem(policy.Timeout), policy.Timeout},
	} {
		for _, level := range policy.Levels() {
			want := c.want
			if level.Rank() > policy.LevelEncrypt.Rank() {
				// Nothing here authenticates a host, so nothing passes.
				if Destination(demand(level), c.a) == "" {
					t.Errorf("%s satisfies level %s", c.name, level)
				}
				continue
			}
			if !level.Enforces() && !c.a.Problem.Permanent() {
				want = ""
			}
			if got := Destination(demand(level), c.a); got != want {
				t.Errorf("%s, level %s: %q, want %q", c.name, level, got, want)
			}
		}
	}
}

func TestGoodIsNotAuthenticated(t *testing.T) {
	if got := Destination(demand(policy.LevelSecure), assessment(host(policy.SawTLS))); got != policy.NotAuthenticated {
		t.Errorf("level secure, a good host: %q", got)
	}
}

// Only a missing STARTTLS at a pinned destination is a loss, and only for rules that heed pins.
func TestPinned(t *testing.T) {
	saw := func(outcomes ...policy.Outcome) policy.Assessment {
		a := policy.Assessment{Pinned: true}
		for _, o := range outcomes {
			a.Hosts = append(a.Hosts, policy.Host{Observations: []policy.Observation{{Outcome: o, Version: policy.TLS13, Bits: 128}}})
		}
		return a
	}
	heed := policy.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128, Pin: true}
	ignore := heed
	ignore.Pin = false
	for _, c := range []struct {
		name   string
		demand policy.Demand
		a      policy.Assessment
		want   policy.Reason
	}{
		{"lost", heed, saw(policy.SawNoSTARTTLS), policy.LostTLS},
		{"lost everywhere", heed, saw(policy.SawNoSTARTTLS, policy.SawNoSTARTTLS), policy.LostTLS},
		{"one host has it still", heed, saw(policy.SawNoSTARTTLS, policy.SawTLS), ""},
		{"one host isn't known", heed, saw(policy.SawNoSTARTTLS, policy.SawTimeout), policy.Timeout},
		{"broken, not gone", heed, saw(policy.SawBroken), policy.Handshake},
		{"the rule doesn't heed pins", ignore, saw(policy.SawNoSTARTTLS), policy.NoSTARTTLS},
		{"null MX", heed, policy.Assessment{Pinned: true, Problem: policy.NullMX}, policy.NullMX},
		{"nothing asked", policy.Demand{Level: policy.LevelMay, Pin: true}, saw(policy.SawNoSTARTTLS), ""},
	} {
		if got := Destination(c.demand, c.a); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
