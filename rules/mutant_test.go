package rules

import (
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Each case here is one that a changed condition would get wrong and no other test would notice; "make mutate" looks for more.

// A host that DANE and nobody else vouches for, where nothing can be compared.
func TestNothingShownToDANE(t *testing.T) {
	const mx = "mx.far.example"
	d := demand(policy.LevelSecure) // honors nothing: the level itself asks
	if got := Judge(d, at(true, "", proving(mx, "nochain"))); got != policy.NotAuthenticated {
		t.Errorf("no chain at secure: %q", got)
	}
	if got := Judge(demand(policy.LevelEncrypt), at(true, "", proving(mx, "nochain"))); got != "" {
		t.Errorf("no chain at encrypt, DANE not honored: %q", got)
	}
}

// What binds is the way of the first observation that satisfies the demand, not of one that doesn't.
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
	b, ok := Bind(d, a)
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

// Each thing that only one of two demands asks for is asked for by both together, whichever comes first.
func TestStricterKeepsWhatOneAsks(t *testing.T) {
	plain := demand(policy.LevelEncrypt)
	for _, c := range []struct {
		what string
		set  func(*policy.Demand)
		has  func(policy.Demand) bool
	}{
		{"pin", func(d *policy.Demand) { d.Pin = true }, func(d policy.Demand) bool { return d.Pin }},
		{"DANE", func(d *policy.Demand) { d.Honor.DANE = true }, func(d policy.Demand) bool { return d.Honor.DANE }},
		{"MTA-STS", func(d *policy.Demand) { d.Honor.MTASTS = true }, func(d policy.Demand) bool { return d.Honor.MTASTS }},
	} {
		asks := plain
		c.set(&asks)
		if got := Stricter(plain, asks); !c.has(got) {
			t.Errorf("%s asked by the second: %+v", c.what, got)
		}
		if got := Stricter(asks, plain); !c.has(got) {
			t.Errorf("%s asked by the first: %+v", c.what, got)
		}
		if got := Stricter(plain, plain); c.has(got) {
			t.Errorf("%s asked by none: %+v", c.what, got)
		}
	}
}

func TestProtects(t *testing.T) {
	over := enforce("over", policy.LevelEncrypt, patterns("@over.example"), nil)
	over.Until = noon().Add(-time.Hour)
	observed := enforce("observed", policy.LevelEncrypt, patterns("@observed.example"), nil)
	observed.Mode = policy.Observe
	named := []*Rule{
		enforce("domain", policy.LevelEncrypt, patterns("@clinic.example"), nil),
		enforce("address", policy.LevelEncrypt, patterns("billing@shop.example"), nil),
		enforce("exception", policy.LevelMay, patterns("@open.example"), nil),
		enforce("all", policy.LevelEncrypt, patterns("*"), patterns("@partner.example")),
		over, observed,
	}
	below := append([]*Rule{enforce("below", policy.LevelEncrypt, patterns("@.group.example"), nil)}, named...)
	for _, c := range []struct {
		rules  []*Rule
		domain string
		want   bool
	}{
		{named, "clinic.example", true},
		{named, "a.clinic.example", false},
		{named, "shop.example", true},
		{named, "open.example", false},
		{named, "partner.example", false},
		{named, "over.example", false},
		{named, "observed.example", false},
		{named, "a.group.example", false},
		{below, "group.example", true},
		{below, "a.group.example", true},
		{below, "a.b.group.example", true},
		{below, "other.example", false},
		{below, "clinic.example", true},
	} {
		if got := New(c.rules).Protects(addr.MustDomain(c.domain), noon()); got != c.want {
			t.Errorf("%s of %d rules: %t", c.domain, len(c.rules), got)
		}
	}
	if New(below).Protects(addr.Domain{}, noon()) {
		t.Error("no domain is protected")
	}
}

func TestForwarders(t *testing.T) {
	governs := enforce("ward", policy.LevelEncrypt, patterns("@clinic.example"), patterns("@in.example"))
	governs.Forwarder = patterns("ward@in.example")
	over := *governs
	over.Until = noon().Add(-time.Hour)
	byUser := *governs
	byUser.From, byUser.User = nil, []string{"Nurse"}
	anyUser := *governs
	anyUser.From, anyUser.User = nil, []string{"*"}
	anybody := *governs
	anybody.From = nil
	ward, other := addr.MustAddress("ward@in.example"), addr.MustAddress("x@in.example")
	for _, c := range []struct {
		what       string
		rule       *Rule
		from, user string
		to         addr.Address
		path       []addr.Address
		any, want  bool
	}{
		{"of the sender, by way of it", governs, "doctor@clinic.example", "", ward, []addr.Address{ward}, true, true},
		{"further on the way", governs, "doctor@clinic.example", "", other, []addr.Address{other, ward}, true, true},
		{"not by way of it", governs, "doctor@clinic.example", "", other, []addr.Address{other}, true, false},
		{"another sender", governs, "x@far.example", "", ward, []addr.Address{ward}, true, false},
		{"another recipient", governs, "doctor@clinic.example", "", addr.MustAddress("x@far.example"), []addr.Address{ward}, true, false},
		{"over", &over, "doctor@clinic.example", "", ward, []addr.Address{ward}, false, false},
		{"a login", &byUser, "x@far.example", "nurse", ward, []addr.Address{ward}, true, true},
		{"another login", &byUser, "x@far.example", "porter", ward, []addr.Address{ward}, true, false},
		{"no login", &byUser, "x@far.example", "", ward, []addr.Address{ward}, true, false},
		{"any login", &anyUser, "x@far.example", "porter", ward, []addr.Address{ward}, true, true},
		{"any login, none", &anyUser, "x@far.example", "", ward, []addr.Address{ward}, true, false},
		{"anybody", &anybody, "x@far.example", "", ward, []addr.Address{ward}, true, true},
	} {
		candidates := New([]*Rule{c.rule}).Sender(addr.MustAddress(c.from), c.user, noon())
		if got := candidates.Forwarders(); got != c.any {
			t.Errorf("%s: any: %t", c.what, got)
		}
		if got := candidates.Empty(); got == c.any {
			t.Errorf("%s: empty: %t", c.what, got)
		}
		if got := candidates.Forwarder(c.to, c.path); (got == c.rule) != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
		if got := candidates.Match(c.to); got != nil {
			t.Errorf("%s: decides about mail that isn't forwarded: %v", c.what, got)
		}
	}
	// Before there is mail: an exception for some senders is none, what is asked of some counts.
	exception := *governs
	exception.Level = policy.LevelMay
	anybodyMay := exception
	anybodyMay.From = nil
	for i, c := range []struct {
		rules []*Rule
		want  int
	}{
		{[]*Rule{&exception, &anybody}, 1},
		{[]*Rule{&anybodyMay, &anybody}, 0},
		{[]*Rule{governs, &anybodyMay}, 0},
		{[]*Rule{&over, &anybody}, 1},
	} {
		if got := New(c.rules).Governs(ward, []addr.Address{ward}, noon()); got != c.rules[c.want] {
			t.Errorf("audit %d: %v", i, got)
		}
	}
	var none Candidates
	if none.Forwarders() || !none.Empty() || none.Forwarder(ward, []addr.Address{ward}) != nil {
		t.Error("the zero Candidates govern something")
	}
}
