package judge

import (
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// proving is a mail host that speaks good TLS; words say what it proves: "trusted" "expired" "ee" "ta" "mismatch" "unusable" "nodane"
// (asked for, no answer) "notls" "nochain", and names of its certificate.
func proving(name, words string) policy.Host {
	o := policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Chain: []policy.Certificate{{}}}
	h := policy.Host{Name: addr.MustDomain(name), TLSABase: addr.MustDomain(name)}
	for w := range strings.FieldsSeq(words) {
		switch w {
		case "trusted":
			o.Trust = policy.Trusted
		case "expired":
			o.Trust = policy.TrustExpired
		case "ee":
			h.DANE, o.DANE = policy.DANEUsable, policy.DANEMatchEE
		case "ta":
			h.DANE, o.DANE = policy.DANEUsable, policy.DANEMatchTA
		case "mismatch":
			h.DANE, o.DANE = policy.DANEUsable, policy.DANEMismatch
		case "unusable":
			h.DANE = policy.DANEUnusable
		case "nodane":
			h.DANE = policy.DANEUnknown
		case "notls":
			o.Outcome = policy.SawNoSTARTTLS
		case "nochain":
			h.DANE, o.Chain = policy.DANEUsable, nil
		case "lost":
			h.Problem = policy.DNSFailure
		case "gone":
			h.Problem = policy.NoSuchDomain
		default:
			o.Chain[0].Names = append(o.Chain[0].Names, w)
		}
	}
	h.Observations = []policy.Observation{o}
	return h
}

// at is the assessment of far.example; sts is "enforce mx.far.example *.mx.example" or the like, "problem" for one not to be had.
func at(secure bool, sts string, hosts ...policy.Host) policy.Assessment {
	a := policy.Assessment{Destination: addr.MustDestination("far.example"), Secure: secure, Hosts: hosts}
	if words := strings.Fields(sts); len(words) > 0 {
		a.MTASTS = policy.STS{Mode: policy.STSMode(words[0]), MX: words[1:]}
		if words[0] == "problem" {
			a.MTASTS = policy.STS{Problem: "not to be had"}
		}
	}
	return a
}

// What each level makes of what a destination proves, and what the MTA is then bound to.
func TestAuthenticated(t *testing.T) {
	const mx = "mx.far.example"
	none := policy.Reason("")
	relaxed := func(d *policy.Demand) { d.Honor = policy.Honor{} }
	matched := func(d *policy.Demand) { d.Match = []addr.Domain{addr.MustDomain("mx.other.example")} }
	for i, c := range []struct {
		what   string
		a      policy.Assessment
		change func(*policy.Demand)
		// Reasons at encrypt, secure and dane, and bindings: "e" encrypt, "d" dane, "s:names" secure, "?" not known.
		encrypt, secure, dane policy.Reason
		bound                 string
	}{
		{"TLS and nothing else", at(true, "", proving(mx, "")), nil, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example d"},
		{"a certificate for the host, whom nobody vouches for", at(true, "", proving(mx, "trusted "+mx)), nil, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example d"},
		{"a certificate for the destination", at(false, "", proving(mx, "trusted far.example")), nil, none, none, policy.NotAuthenticated, "e s:far.example d"},
		{"the same, expired", at(false, "", proving(mx, "expired far.example")), nil, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example d"},
		{"a name of the rule", at(false, "", proving(mx, "trusted mx.other.example")), matched, none, none, policy.NotAuthenticated, "e s:far.example:mx.other.example d"},
		{"a name below that of the rule", at(false, "", proving(mx, "trusted a.mx.other.example")), matched, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example:mx.other.example d"},

		{"DANE-EE", at(true, "", proving(mx, "ee")), nil, none, none, none, "d d d"},
		{"DANE-EE, but MX is not signed", at(false, "", proving(mx, "ee")), nil, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example d"},
		{"the same, and the destination's certificate", at(false, "", proving(mx, "ee trusted far.example")), nil, none, none, policy.NotAuthenticated, "e s:far.example d"},
		{"DANE-TA with the host's name", at(true, "", proving(mx, "ta "+mx)), nil, none, none, none, "d d d"},
		{"DANE-TA with the destination's name", at(true, "", proving(mx, "ta far.example")), nil, none, none, none, "d d d"},
		{"DANE-TA with another name", at(true, "", proving(mx, "ta other.example")), nil, policy.DaneMismatch, policy.DaneMismatch, policy.DaneMismatch, "d d d"},
		{"DANE-TA with the destination's name, MX not signed", at(false, "", proving(mx, "ta far.example")), nil, policy.DaneMismatch, policy.DaneMismatch, policy.DaneMismatch, "e s:far.example d"},
		{"a mismatch", at(true, "", proving(mx, "mismatch trusted far.example "+mx)), nil, policy.DaneMismatch, policy.DaneMismatch, policy.DaneMismatch, "d d d"},
		{"a mismatch that nobody honors", at(true, "", proving(mx, "mismatch")), relaxed, none, policy.DaneMismatch, policy.DaneMismatch, "e d d"},
		{"unusable records", at(true, "", proving(mx, "unusable")), nil, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example d"},
		{"unusable records, a certificate", at(true, "", proving(mx, "unusable trusted far.example")), nil, none, none, policy.NotAuthenticated, "e s:far.example d"},
		{"records that could not be asked for", at(true, "", proving(mx, "nodane trusted far.example")), nil, policy.DNSFailure, policy.DNSFailure, policy.DNSFailure, "d d d"},
		{"the same, nobody honors", at(true, "", proving(mx, "nodane")), relaxed, none, policy.DNSFailure, policy.DNSFailure, "e d d"},
		{"no chain was seen", at(true, "", proving(mx, "nochain")), nil, policy.NotAuthenticated, policy.NotAuthenticated, policy.NotAuthenticated, "d d d"},

		{"MTA-STS", at(false, "enforce "+mx, proving(mx, "trusted "+mx)), nil, none, none, policy.NotAuthenticated, "s:" + mx + " s:" + mx + " d"},
		{"MTA-STS by a wildcard", at(false, "enforce *.far.example", proving(mx, "trusted "+mx)), nil, none, none, policy.NotAuthenticated, "s:.far.example s:.far.example d"},
		{"a wildcard is one label", at(false, "enforce *.example", proving(mx, "trusted "+mx)), nil, policy.MTASTSMismatch, policy.MTASTSMismatch, policy.NotAuthenticated, "s:.example s:.example d"},
		{"a host that isn't of the policy", at(false, "enforce mx2.far.example", proving(mx, "trusted "+mx)), nil, policy.MTASTSMismatch, policy.MTASTSMismatch, policy.NotAuthenticated, "s:mx2.far.example s:mx2.far.example d"},
		{"a host with another's certificate", at(false, "enforce "+mx, proving(mx, "trusted far.example")), nil, policy.MTASTSMismatch, policy.MTASTSMismatch, policy.NotAuthenticated, "s:" + mx + " s:" + mx + " d"},
		{"a host whose certificate is over", at(false, "enforce "+mx, proving(mx, "expired "+mx)), nil, policy.MTASTSMismatch, policy.MTASTSMismatch, policy.NotAuthenticated, "s:" + mx + " s:" + mx + " d"},
		{"the same, nobody honors", at(false, "enforce "+mx, proving(mx, "expired "+mx)), relaxed, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:" + mx + " d"},
		{"testing doesn't count", at(false, "testing "+mx, proving(mx, "trusted "+mx)), nil, none, policy.NotAuthenticated, policy.NotAuthenticated, "e s:far.example d"},
		{"DANE before MTA-STS", at(true, "enforce mx2.far.example", proving(mx, "ee")), nil, none, none, none, "d d d"},
		{"MTA-STS doesn't mend DANE", at(true, "enforce "+mx, proving(mx, "mismatch trusted "+mx)), nil, policy.DaneMismatch, policy.DaneMismatch, policy.DaneMismatch, "d d d"},
		{"DANE without signed MX, MTA-STS", at(false, "enforce "+mx, proving(mx, "ee trusted "+mx)), nil, none, none, policy.NotAuthenticated, "s:" + mx + " s:" + mx + " d"},
		{"the same without its certificate", at(false, "enforce "+mx, proving(mx, "ee")), nil, policy.MTASTSMismatch, policy.MTASTSMismatch, policy.NotAuthenticated, "s:" + mx + " s:" + mx + " d"},
		{"whoever forged MX has DANE for a host of his", at(false, "enforce mx2.far.example", proving(mx, "ee trusted "+mx)), nil, policy.MTASTSMismatch, policy.MTASTSMismatch, policy.NotAuthenticated, "s:mx2.far.example s:mx2.far.example d"},
		{"a policy that could not be had", at(false, "problem", proving(mx, "trusted "+mx)), nil, none, policy.DNSFailure, policy.NotAuthenticated, "e s:far.example d"},
		{"the same, and a certificate", at(false, "problem", proving(mx, "trusted far.example")), nil, none, none, policy.NotAuthenticated, "e s:far.example d"},

		{"the second host is good", at(true, "", proving("mx1.far.example", "notls"), proving("mx2.far.example", "ee")), nil, none, none, none, "e d d"},
		{"all hosts have records", at(true, "", proving("mx1.far.example", "mismatch"), proving("mx2.far.example", "ee")), nil, none, none, none, "d d d"},
		{"the rest can't be used", at(true, "", proving("mx1.far.example", "ee"), proving("mx2.far.example", "gone")), nil, none, none, none, "d d d"},
		{"of the rest nothing is known", at(true, "", proving("mx1.far.example", "ee"), proving("mx2.far.example", "lost")), nil, none, none, none, "d d d"},
		{"nothing is known of any", at(true, "", proving("mx1.far.example", "lost"), proving("mx2.far.example", "gone")), nil, policy.DNSFailure, policy.DNSFailure, policy.DNSFailure, "? s:far.example d"},
		{"nothing is known of any, nobody honors", at(true, "", proving("mx1.far.example", "lost")), relaxed, policy.DNSFailure, policy.DNSFailure, policy.DNSFailure, "e s:far.example d"},
		{"the same, MX not signed: DANE can't be all there is", at(false, "", proving("mx1.far.example", "lost")), nil, policy.DNSFailure, policy.DNSFailure, policy.DNSFailure, "e s:far.example d"},
		{"the same, MTA-STS", at(true, "enforce mx1.far.example", proving("mx1.far.example", "lost")), nil, policy.DNSFailure, policy.DNSFailure, policy.DNSFailure, "s:mx1.far.example s:mx1.far.example d"},
		{"there is none", at(true, "", proving("mx1.far.example", "gone")), nil, policy.NoMailHost, policy.NoMailHost, policy.NoMailHost, "e s:far.example d"},
		{"one by MTA-STS, one not of it", at(false, "enforce mx2.far.example", proving("mx1.far.example", "trusted mx1.far.example"), proving("mx2.far.example", "trusted mx2.far.example")), nil, none, none, policy.NotAuthenticated, "s:mx2.far.example s:mx2.far.example d"},

		{"no such domain, but it has a policy", policy.Assessment{Destination: addr.MustDestination("far.example"), Problem: policy.NoSuchDomain, MTASTS: policy.STS{Mode: policy.STSEnforce, MX: []string{mx}}},
			nil, policy.NoSuchDomain, policy.NoSuchDomain, policy.NoSuchDomain, "s:" + mx + " s:" + mx + " d"},
		{"nothing known", policy.Assessment{Destination: addr.MustDestination("far.example"), Problem: policy.Timeout}, nil, policy.Timeout, policy.Timeout, policy.Timeout, "? ? d"},
		{"nothing known, nothing honored", policy.Assessment{Destination: addr.MustDestination("far.example"), Problem: policy.Timeout}, relaxed, policy.Timeout, policy.Timeout, policy.Timeout, "e ? d"},
	} {
		bounds := strings.Fields(c.bound)
		for n, want := range []policy.Reason{c.encrypt, c.secure, c.dane} {
			d := policy.DefaultDemand()
			d.Level = []policy.Level{policy.LevelEncrypt, policy.LevelSecure, policy.LevelDane}[n]
			if c.change != nil {
				c.change(&d)
			}
			if got := Destination(d, c.a); got != want {
				t.Errorf("%d, %s: level %s: %q, want %q", i, c.what, d.Level, got, want)
			}
			if got := shape(Enforcement(d, c.a)); got != bounds[n] {
				t.Errorf("%d, %s: level %s: bound to %q, want %q", i, c.what, d.Level, got, bounds[n])
			}
		}
	}
}

func shape(b policy.TLSPolicy, ok bool) string {
	switch {
	case !ok:
		return "?"
	case b.Level == policy.LevelEncrypt:
		return "e"
	case b.Level == policy.LevelDane:
		return "d"
	}
	return "s:" + strings.Join(b.Match, ":")
}

// What is promised holds: a destination that satisfies a level by what is published satisfies the levels below it, too.
func TestReached(t *testing.T) {
	for _, c := range []struct {
		a    policy.Assessment
		want policy.Level
	}{
		{at(true, "", proving("mx.far.example", "ee")), policy.LevelDane},
		{at(false, "", proving("mx.far.example", "trusted far.example")), policy.LevelSecure},
		{at(false, "", proving("mx.far.example", "")), policy.LevelEncrypt},
		{at(false, "", proving("mx.far.example", "notls")), policy.LevelMay},
		{at(false, "", proving("mx.far.example", "nodane")), ""},
		{policy.Assessment{Problem: policy.NullMX}, policy.LevelNone},
		// Mail hosts without any address: nobody can deliver there.
		{policy.Assessment{Hosts: []policy.Host{{Problem: policy.NoSuchDomain}, {Problem: policy.NoSuchDomain}}}, policy.LevelNone},
	} {
		if got := Reached(c.a); got != c.want {
			t.Errorf("%+v reaches %q, want %q", c.a, got, c.want)
		}
	}
}
