package judge

import (
	"net/netip"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// A report is what the single judgements say, of the whole and of each host.
func TestReportOn(t *testing.T) {
	plain := policy.Host{Name: addr.MustDomain("a.example"), Observations: []policy.Observation{{Outcome: policy.SawNoSTARTTLS}}}
	good := policy.Host{Name: addr.MustDomain("b.example"), Observations: []policy.Observation{
		{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Trust: policy.TrustUnknownIssuer}}}
	a := policy.Assessment{Destination: addr.MustDestination("x.example"), Hosts: []policy.Host{plain, good}}
	d := policy.DefaultDemand()
	for _, level := range []policy.Level{policy.LevelMay, policy.LevelEncrypt, policy.LevelSecure} {
		d.Level = level
		r := ReportOn(d, a, true)
		next, missing := Missing(d, a, true)
		if r.Demanded != level || r.Level != Level(d, a) || r.Reason != Destination(d, a) || r.Satisfied != (r.Reason == "") ||
			r.Next != next || len(r.Missing) != len(missing) || len(r.Hosts) != 2 {
			t.Errorf("%s: %+v", level, r)
		}
		instead := policy.Level("")
		if level == policy.LevelSecure {
			instead = policy.LevelEncrypt
		}
		if got := r.Instead(); got != instead {
			t.Errorf("%s: %q is reached instead, want %q", level, got, instead)
		}
	}
	d.Level = policy.LevelEncrypt
	r := ReportOn(d, a, true)
	if r.Hosts[0].Reason != policy.NoSTARTTLS || r.Hosts[1].Reason != "" || r.Hosts[0].MTASTS != nil {
		t.Errorf("hosts: %+v", r.Hosts)
	}
	for _, m := range r.Missing {
		if want := m.Level == policy.LevelEncrypt; r.AtEveryHost(m) != want {
			t.Errorf("%s: at every host is %t", m, !want)
		}
	}
	for _, m := range MissingFor(d, a) {
		if m.Level != policy.LevelEncrypt || m.String() != "encrypt: a.example: offer STARTTLS (RFC 3207)" {
			t.Errorf("missing for encrypt: %s", m)
		}
	}
	a.MTASTS = policy.STS{Mode: policy.STSEnforce, MX: []string{"a.example"}}
	r = ReportOn(d, a, true)
	if fits := r.Hosts[1].MTASTS; fits == nil || *fits || r.Hosts[1].STSDetail != NotNamed {
		t.Errorf("a host that the policy leaves out: %+v", r.Hosts[1])
	}
	if none := ReportOn(d, policy.Assessment{Problem: policy.Timeout}, true); none.Instead() != "" || none.Reason != policy.Timeout {
		t.Errorf("nothing is known: %+v", none)
	}
}

// Each remark has the grade of what it means for mail.
func TestRemarks(t *testing.T) {
	h := policy.Host{Name: addr.MustDomain("mx.example"), DANE: policy.DANEUsable}
	chain := []policy.Certificate{{Names: []string{"other.example"}}}
	for what, c := range map[string]struct{ got, want Remark }{
		"TLS":         {RemarkTLS(policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Cipher: "X", Bits: 256}), Remark{"TLS 1.3 X, 256 bits", Neutral}},
		"none":        {RemarkTLS(policy.Observation{Outcome: policy.SawNoSTARTTLS}), Remark{"not offered", Bad}},
		"silent":      {RemarkTLS(policy.Observation{Outcome: policy.SawTimeout, Detail: "d"}), Remark{"timeout: d", Doubtful}},
		"trusted":     {RemarkTrust(policy.Observation{Trust: policy.Trusted}), Remark{"trusted", Good}},
		"not trusted": {RemarkTrust(policy.Observation{Trust: policy.TrustUnknownIssuer, TrustDetail: "d"}), Remark{string(policy.TrustUnknownIssuer) + ": d", Doubtful}},
		"by DANE":     {RemarkTrust(policy.Observation{Trust: policy.TrustUnknownIssuer, TrustDetail: "d", DANE: policy.DANEMatchEE}), Remark{string(policy.TrustUnknownIssuer) + ", which DANE does without: d", Neutral}},
		"not seen":    {RemarkTrust(policy.Observation{}), Remark{}},
		"mismatch":    {RemarkDANE(policy.Assessment{}, h, policy.Observation{DANE: policy.DANEMismatch, DANEDetail: "d"}), Remark{string(policy.DANEMismatch) + ": d", Bad}},
		"other name": {RemarkDANE(policy.Assessment{}, h, policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, DANE: policy.DANEMatchTA, Chain: chain}),
			Remark{string(policy.DANEMatchTA) + ", but the certificate is for other.example", Bad}},
		"matches": {RemarkDANE(policy.Assessment{}, h, policy.Observation{DANE: policy.DANEMatchEE}), Remark{string(policy.DANEMatchEE), Good}},
		"no DANE": {RemarkDANE(policy.Assessment{}, h, policy.Observation{}), Remark{}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", what, c.got, c.want)
		}
	}
	at := Advice{Level: policy.LevelSecure, Mechanism: ByDANE, Host: h.Name, Address: netip.MustParseAddrPort("127.0.0.1:25"), Text: "t"}
	if got := at.String(); got != "secure by dane: mx.example at 127.0.0.1:25: t" {
		t.Error(got)
	}
}
