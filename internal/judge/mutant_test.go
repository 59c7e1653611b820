package judge

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Each case here is one that a changed condition would get wrong and no other
// test would notice; "make mutate" looks for more.

// A host that DANE and nobody else vouches for, where nothing can be compared.
func TestNothingShownToDANE(t *testing.T) {
	const mx = "mx.far.example"
	d := demand(policy.LevelSecure) // honors nothing: the level itself asks
	if got := Destination(d, at(true, "", proving(mx, "nochain"))); got != policy.NotAuthenticated {
		t.Errorf("no chain at secure: %q", got)
	}
	if got := Destination(demand(policy.LevelEncrypt), at(true, "", proving(mx, "nochain"))); got != "" {
		t.Errorf("no chain at encrypt, DANE not honored: %q", got)
	}
}

// What binds is the way of the first observation that satisfies the demand, not
// of one that doesn't.
func TestBindByTheObservationThatSatisfies(t *testing.T) {
	const mx = "mx.far.example"
	a := at(false, "testing", proving(mx, "trusted far.example"))
	bad := a.Hosts[0].Observations[0]
	bad.Outcome = policy.SawNoSTARTTLS
	a.Hosts[0].Observations = append([]policy.Observation{bad}, a.Hosts[0].Observations...)
	a.MTASTS = policy.STS{Mode: policy.STSEnforce, MX: []string{mx}}
	a.Hosts[0].Observations[0].Chain = []policy.Certificate{{Names: []string{mx}}}
	a.Hosts[0].Observations[0].Trust = policy.Trusted
	d := demand(policy.LevelSecure) // doesn't honor MTA-STS: the certificate for the domain suffices
	b, ok := Enforcement(d, a)
	if !ok || b.STS != nil || len(b.Match) != 1 || b.Match[0] != "far.example" {
		t.Errorf("bound to %+v, %t", b, ok)
	}
}

func TestAdmits(t *testing.T) {
	const mx = "mx.far.example"
	good := func() policy.Assessment {
		a := at(false, "", proving(mx, "trusted far.example"))
		a.Hosts[0].Observations[0].Chain[0].Fingerprint = "f1"
		return a
	}
	for _, c := range []struct {
		what        string
		host, print string
		change      func(*policy.Assessment)
		want        bool
	}{
		{"the one that was seen", mx, "f1", func(*policy.Assessment) {}, true},
		{"another certificate", mx, "f2", func(*policy.Assessment) {}, false},
		{"no certificate", mx, "", func(a *policy.Assessment) { a.Hosts[0].Observations[0].Chain[0].Fingerprint = "" }, false},
		{"another host", "mx2.far.example", "f1", func(*policy.Assessment) {}, false},
		{"the second host", "mx2.far.example", "f1", func(a *policy.Assessment) {
			h := a.Hosts[0]
			h.Name = addr.MustDomain("mx2.far.example")
			a.Hosts = []policy.Host{proving(mx, "notls"), h}
		}, true},
		{"a destination with a problem", mx, "f1", func(a *policy.Assessment) { a.Problem = policy.DNSFailure }, false},
		{"a host with a problem", mx, "f1", func(a *policy.Assessment) { a.Hosts[0].Problem = policy.DNSFailure }, false},
		{"TLSA records not to be had", mx, "f1", func(a *policy.Assessment) { a.Hosts[0].DANE = policy.DANEUnknown }, false},
		{"nothing shown", mx, "f1", func(a *policy.Assessment) { a.Hosts[0].Observations[0].Chain = nil }, false},
		{"not satisfied", mx, "f1", func(a *policy.Assessment) { a.Hosts[0].Observations[0].Trust = policy.TrustExpired }, false},
	} {
		a := good()
		c.change(&a)
		if got := Admits(demand(policy.LevelSecure), a, addr.MustDomain(c.host), c.print); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}
