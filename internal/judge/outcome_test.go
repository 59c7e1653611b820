package judge

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// What counts as a promise broken, of what hosts showed: DANE first, MTA-STS where there is none.
func TestBroken(t *testing.T) {
	enforce := policy.STS{Mode: policy.STSEnforce, MX: []string{"mx.far.test"}}
	right := policy.Observation{Outcome: policy.SawTLS, Trust: policy.Trusted, Chain: []policy.Certificate{{Names: []string{"mx.far.test"}}}}
	with := func(o policy.Observation, change func(*policy.Observation)) policy.Observation {
		change(&o)
		return o
	}
	for i, c := range []struct {
		name string
		dane policy.DANE
		sts  policy.STS
		saw  policy.Observation
		want bool
	}{
		{"mx.far.test", "", policy.STS{}, policy.Observation{Outcome: policy.SawTLS}, false},
		{"mx.far.test", "", policy.STS{Mode: policy.STSTesting}, policy.Observation{Outcome: policy.SawTLS}, false},
		{"mx.far.test", "", enforce, right, false},
		{"mx2.far.test", "", enforce, right, true},
		{"mx.far.test", "", enforce, with(right, func(o *policy.Observation) { o.Trust = policy.TrustExpired }), true},
		{"mx.far.test", "", enforce, with(right, func(o *policy.Observation) { o.Chain = nil }), true},
		{"mx.far.test", "", enforce, policy.Observation{Outcome: policy.SawNoSTARTTLS}, false}, // that is a failure anyway
		{"mx.far.test", policy.DANEUsable, policy.STS{}, with(right, func(o *policy.Observation) { o.DANE = policy.DANEMismatch }), true},
		{"mx2.far.test", policy.DANEUsable, enforce, with(right, func(o *policy.Observation) { o.DANE = policy.DANEMatchEE }), false},
		{"mx.far.test", policy.DANEUnknown, policy.STS{}, right, true},
		// A trust anchor vouches together with a name only.
		{"mx.far.test", policy.DANEUsable, policy.STS{}, with(right, func(o *policy.Observation) { o.DANE = policy.DANEMatchTA }), false},
		{"mx2.far.test", policy.DANEUsable, policy.STS{}, with(right, func(o *policy.Observation) { o.DANE = policy.DANEMatchTA }), true},
	} {
		a := policy.Assessment{MTASTS: c.sts, Secure: true, Hosts: []policy.Host{{Name: addr.MustDomain(c.name), TLSABase: addr.MustDomain(c.name), DANE: c.dane, Observations: []policy.Observation{c.saw}}}}
		if got := Broken(a); got != c.want {
			t.Errorf("%d: %t", i, got)
		}
	}
	if Broken(policy.Assessment{}) {
		t.Error("nothing seen is nothing broken")
	}
}

// A look at a host ends at the first address that meets whatever is asked.
func TestFinal(t *testing.T) {
	const mx = "mx.far.test"
	good := policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS12, Bits: 128, Trust: policy.Trusted,
		Chain: []policy.Certificate{{Names: []string{mx}}}}
	for _, c := range []struct {
		what   string
		change func(*policy.Demand, *policy.Host, *policy.Observation)
		want   bool
	}{
		{"good", func(*policy.Demand, *policy.Host, *policy.Observation) {}, true},
		{"no STARTTLS", func(_ *policy.Demand, _ *policy.Host, o *policy.Observation) { o.Outcome = policy.SawNoSTARTTLS }, false},
		{"a hello alone", func(_ *policy.Demand, _ *policy.Host, o *policy.Observation) { o.HelloOnly = true }, false},
		{"a rule wants TLS 1.3", func(d *policy.Demand, _ *policy.Host, _ *policy.Observation) { d.MinVersion = policy.TLS13 }, false},
		{"a rule wants 256 bits", func(d *policy.Demand, _ *policy.Host, _ *policy.Observation) { d.MinBits = 256 }, false},
		{"another name", func(_ *policy.Demand, h *policy.Host, _ *policy.Observation) {
			h.Name = addr.MustDomain("mx2.far.test")
		}, false},
		{"no root", func(_ *policy.Demand, _ *policy.Host, o *policy.Observation) { o.Trust = policy.TrustExpired }, false},
		{"DANE, matched", func(_ *policy.Demand, h *policy.Host, o *policy.Observation) {
			h.DANE, o.DANE = policy.DANEUsable, policy.DANEMatchEE
		}, true},
		{"DANE, not matched", func(_ *policy.Demand, h *policy.Host, o *policy.Observation) {
			h.DANE, o.DANE = policy.DANEUsable, policy.DANEMismatch
		}, false},
		{"an anchor, another name", func(_ *policy.Demand, h *policy.Host, o *policy.Observation) {
			h.DANE, h.Name, o.DANE = policy.DANEUsable, addr.MustDomain("mx2.far.test"), policy.DANEMatchTA
		}, false},
	} {
		d, h, o := policy.DefaultDemand(), policy.Host{Name: addr.MustDomain(mx)}, good
		c.change(&d, &h, &o)
		if got := Final(d, h, o); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}
