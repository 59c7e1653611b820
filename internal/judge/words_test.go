package judge

import (
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Each cause has its own words, which name the mail host and, to those who mend it, the cure.
func TestWords(t *testing.T) {
	name := addr.MustDomain("mx1.far.example")
	tls := policy.Observation{Outcome: policy.SawTLS, Stage: policy.StageQuit, Version: policy.TLS13, Bits: 256, Trust: policy.Trusted,
		Chain: []policy.Certificate{{Names: []string{"mx1.far.example"}, Subject: "CN=mx1.far.example"}}}
	change := func(f func(*policy.Observation)) policy.Observation {
		o := tls
		o.Chain = []policy.Certificate{tls.Chain[0]}
		f(&o)
		return o
	}
	enforce := policy.STS{Mode: policy.STSEnforce, MX: []string{"mx1.far.example"}}
	badRecord := policy.STS{Problem: policy.STSRecord + `: "v=STSv1": want it to begin with "v=STSv1;"`}
	for _, c := range []struct {
		what   string
		level  policy.Level
		o      policy.Observation
		sts    policy.STS
		reason policy.Reason
		words  string // of the finding
		advice string // of one of the advices
	}{
		{"needs its name", policy.LevelEncrypt, change(func(o *policy.Observation) {
			o.Trust, o.TrustDetail, o.Unsent, o.NeedsName = policy.TrustSelfSigned, "signed itself", true, true
			o.Chain[0].Names = []string{"invalid2.invalid"}
		}), enforce, policy.MTASTSMismatch, "only to clients that name the host (SNI), which this MTA does not do", "without, this one is for invalid2.invalid"},
		{"common name alone", policy.LevelSecure, change(func(o *policy.Observation) { o.Chain[0].Names = nil }), policy.STS{},
			policy.NotAuthenticated, "has CN=mx1.far.example as its common name only", ""},
		{"a record that doesn't parse", policy.LevelSecure, tls, badRecord, policy.DNSFailure, `want it to begin with "v=STSv1;"`, "mend the TXT record _mta-sts.far.example"},
		{"a client certificate", policy.LevelEncrypt, policy.Observation{Outcome: policy.SawBroken, Stage: policy.StageSecure, Detail: "it asks for a client certificate"},
			policy.STS{}, policy.Handshake, "TLS ended at the EHLO over it: it asks for a client certificate", "make STARTTLS work: it asks for a client certificate"},
		{"reached", policy.LevelEncrypt, policy.Observation{Outcome: policy.SawUnreachable, Stage: policy.StageBanner, Detail: "554 no"},
			policy.STS{}, policy.Unreachable, "reached, but no usable reply (as banner): 554 no", "answer as SMTP wants it (RFC 5321)"},
		{"not reached", policy.LevelEncrypt, policy.Observation{Outcome: policy.SawUnreachable, Stage: policy.StageConnect, Detail: "connection refused"},
			policy.STS{}, policy.Unreachable, "unreachable: connection refused", "let itself be reached"},
	} {
		d := policy.DefaultDemand()
		d.Level = c.level
		a := policy.Assessment{Destination: addr.MustDestination("far.example"), MTASTS: c.sts,
			Hosts: []policy.Host{{Name: name, Observations: []policy.Observation{c.o}}}}
		if got := Destination(d, a); got != c.reason {
			t.Errorf("%s: %q, want %q", c.what, got, c.reason)
		}
		if got := Blamed(d, a, c.reason); got != name {
			t.Errorf("%s: blames %s", c.what, got)
		}
		findings := Findings(d, a)
		if len(findings) != 1 || findings[0].Host != name || !strings.Contains(findings[0].Words, c.words) {
			t.Errorf("%s: %+v, want %q", c.what, findings, c.words)
		}
		var all strings.Builder
		_, advice := Missing(policy.DefaultDemand(), a, false)
		for _, one := range advice {
			all.WriteString(one.Text + "\n")
		}
		if !strings.Contains(all.String(), c.advice) {
			t.Errorf("%s: advice %q, want %q", c.what, all.String(), c.advice)
		}
	}
	bad := policy.Assessment{Destination: addr.MustDestination("far.example"), Problem: policy.NoSuchDomain}
	if got := Blamed(policy.DefaultDemand(), bad, policy.NoSuchDomain); !got.IsZero() {
		t.Errorf("of a domain that does not exist %s is blamed", got)
	}
}

// The MTA leaves the name out of its hello where the first host that will do wants that.
func TestUnnamed(t *testing.T) {
	host := func(os ...policy.Observation) policy.Host {
		return policy.Host{Name: addr.MustDomain("mx.far.example"), Observations: os}
	}
	good := policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256}
	shy, plain := good, policy.Observation{Outcome: policy.SawNoSTARTTLS}
	shy.Unnamed = true
	for _, c := range []struct {
		what  string
		hosts []policy.Host
		want  bool
	}{
		{"nothing known", nil, false},
		{"to be named", []policy.Host{host(good)}, false},
		{"not to be named", []policy.Host{host(shy)}, true},
		{"the first that will do", []policy.Host{host(plain), host(shy), host(good)}, true},
		{"the first address that will do", []policy.Host{host(plain, good), host(shy)}, false},
		{"none will do", []policy.Host{host(plain)}, false},
	} {
		a := policy.Assessment{Destination: addr.MustDestination("far.example"), Hosts: c.hosts}
		if got := Unnamed(policy.DefaultDemand(), a); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
		if b, ok := Enforcement(policy.DefaultDemand(), a); ok && b.Unnamed != c.want {
			t.Errorf("%s: bound to %+v", c.what, b)
		}
	}
}
