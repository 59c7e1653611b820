package judge

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

func TestConfirmed(t *testing.T) {
	tls := []policy.Observation{{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 128}}
	weak := []policy.Observation{{Outcome: policy.SawTLS, Version: policy.TLS10, Bits: 128}}
	none := []policy.Observation{{Outcome: policy.SawNoSTARTTLS}}
	down := []policy.Observation{{Outcome: policy.SawUnreachable}}
	host := func(now, before []policy.Observation) policy.Host {
		return policy.Host{Name: addr.MustDomain("mx.example"), Observations: now, Earlier: before, Once: before == nil}
	}
	for _, c := range []struct {
		name                string
		hosts               []policy.Host
		confirmed, doubtful bool
	}{
		{"once", []policy.Host{host(none, nil)}, false, true},
		{"twice", []policy.Host{host(none, none)}, true, false},
		{"twice, each in its own way", []policy.Host{host(none, weak)}, true, false},
		{"good before", []policy.Host{host(none, tls)}, false, false},
		{"down before", []policy.Host{host(none, down)}, false, false},
		{"stored before there were second probes", []policy.Host{{Observations: none}}, true, false},
		{"one of two hosts once", []policy.Host{host(none, none), host(weak, nil)}, false, true},
		{"two hosts twice", []policy.Host{host(none, none), host(weak, none)}, true, false},
		{"a host without address", []policy.Host{{Problem: policy.NoSuchDomain}, host(none, none)}, true, false},
		{"down", []policy.Host{host(down, nil)}, false, false},
		{"one down, one bad once", []policy.Host{host(down, nil), host(none, nil)}, false, false},
	} {
		a := policy.Assessment{Hosts: c.hosts}
		if got := Confirmed(policy.DefaultDemand(), a); got != c.confirmed {
			t.Errorf("%s: confirmed %t", c.name, got)
		}
		if got := Repeatable(a); got != c.doubtful {
			t.Errorf("%s: doubtful %t", c.name, got)
		}
	}
	// What is good at one level may be seen to fail at another: by both probes.
	strict := policy.DefaultDemand()
	strict.Level = policy.LevelDane
	if a := (policy.Assessment{Hosts: []policy.Host{host(tls, weak)}}); !Confirmed(strict, a) || Destination(strict, a) == "" {
		t.Error("dane: two failures don't confirm")
	}
	if a := (policy.Assessment{Problem: policy.NullMX, Hosts: []policy.Host{host(none, nil)}}); Repeatable(a) {
		t.Error("a null MX is probed again")
	}
}
