package socketmap

import (
	"context"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// knowing knows some destinations from before, and finds others out when asked.
type knowing struct {
	before, found map[string]policy.Assessment
	looks         int
}

func (k *knowing) Remembered(d addr.Destination) (policy.Assessment, bool) {
	a, ok := k.before[d.String()]
	return a, ok
}

func (k *knowing) Assess(ctx context.Context, d addr.Destination, _ func(policy.Assessment) bool) policy.Assessment {
	if a, ok := k.before[d.String()]; ok {
		return a
	}
	k.looks++
	if a, ok := k.found[d.String()]; ok {
		return a
	}
	<-ctx.Done()
	return policy.Assessment{Destination: d, Problem: policy.Timeout, Partial: true}
}

func (k *knowing) Refresh(_ context.Context, d addr.Destination, _ time.Duration) policy.Assessment {
	k.looks++
	if a, ok := k.found[d.String()]; ok {
		return a
	}
	return k.before[d.String()]
}

// publishing is a destination with a mail host that proves itself: by "dane", "sts", a "cert" for the destination, or "nothing".
func publishing(name, how string) policy.Assessment {
	d := addr.MustDestination(name)
	mx := addr.MustDomain("mx.example")
	o := policy.Observation{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Trust: policy.Trusted,
		Chain: []policy.Certificate{{Names: []string{mx.String()}, Fingerprint: "ab12"}}}
	a := policy.Assessment{Destination: d}
	h := policy.Host{Name: mx}
	switch how {
	case "dane":
		a.Secure, h.DANE, o.DANE = true, policy.DANEUsable, policy.DANEMatchEE
	case "sts":
		a.MTASTS = policy.STS{Mode: policy.STSEnforce, MX: []string{"*.example", "mx.example"}}
	case "cert":
		o.Chain[0].Names = []string{d.Host().String()}
	}
	h.Observations = []policy.Observation{o}
	a.Hosts = []policy.Host{h}
	return a
}

func known(names ...string) map[string]policy.Assessment {
	m := map[string]policy.Assessment{}
	for i := 0; i < len(names); i += 2 {
		m[names[i]] = publishing(names[i], names[i+1])
	}
	return m
}

// What destinations publish binds protected mail of every level, and an unknown destination is looked at for it.
func TestForcedPublished(t *testing.T) {
	k := &knowing{
		before: known("dane.example", "dane", "sts.example", "sts", "plain.example", "nothing", "legacy.example", "dane", "[relay.example]:587", "cert"),
		found:  known("new-dane.example", "dane", "new.example", "nothing"),
	}
	honoring := func(r *rules.Rule) *rules.Rule {
		return with(r, func(r *rules.Rule) { r.Honor = policy.Honor{DANE: true, MTASTS: true} })
	}
	s := server(t, Config{Assessor: k, Deadline: 50 * time.Millisecond},
		rule("may", "@clinic.example", "@legacy.example"),
		honoring(rule("encrypt", "@clinic.example", "")),
		honoring(rule("secure", "@bank.example", "")),
		rule("dane", "@state.example", ""),
		rule("encrypt", "@relaxed.example", ""),
		with(rule("secure", "@matched.example", ""), func(r *rules.Rule) { r.Match = []addr.Domain{addr.MustDomain("mx.example")} }),
	)
	const tail = " protocols=>=TLSv1.2 ciphers=medium"
	check(t, s, []asked{
		{"forced1 dane.example", "OK dane-only" + tail},
		{"forced1 sts.example", "OK secure match=.example:mx.example servername=hostname" + tail},
		{"forced1 plain.example", plain},
		{"forced1 new-dane.example", "OK dane-only" + tail},
		{"forced1 new.example", plain},
		{"forced1 silent.example", "TEMP destination not known yet"},
		{"forced1 legacy.example", "OK may"}, // the rule says so
		{"forced2 plain.example", "OK secure match=plain.example servername=hostname" + tail},
		{"forced2 silent.example", "TEMP destination not known yet"},
		{"forced2 [relay.example]:587", "OK secure match=relay.example servername=hostname" + tail},
		{"forced4 dane.example", plain}, // nobody honors
		{"forced4 silent.example", plain},
		{"forced5 plain.example", "OK secure match=plain.example:mx.example servername=hostname" + tail},
	})
	looks := k.looks
	check(t, s, []asked{{"forced3 plain.example", "OK dane-only" + tail}, {"forced3 silent.example", "OK dane-only" + tail}})
	if k.looks != looks {
		t.Error("a look was taken for an answer that is always the same")
	}
}

// Mail of a class to whom its rules say nothing of is held to no less than mail of anybody.
func TestForcedLeftAlone(t *testing.T) {
	k := &knowing{before: known("dane.example", "dane", "sts.example", "sts", "plain.example", "nothing", "owed.example", "dane", "legacy.example", "dane")}
	ledger := book{owed: map[string]policy.Demand{"owed.example": encrypt(policy.TLS13, 0)}}
	rs := []*rules.Rule{
		with(rule("encrypt", "", "@other.example"), func(r *rules.Rule) { r.User = []string{"nurse"} }),
		rule("may", "@clinic.example", "@legacy.example"),
		rule("encrypt", "@clinic.example", "@partner.example"),
		rule("encrypt", "@home.example", "@partner.example"),
	}
	for _, others := range []contract.Others{contract.OthersPinned, contract.OthersPublished} {
		check(t, server(t, Config{Assessor: k, Ledger: ledger, Others: others, Deadline: 50 * time.Millisecond}, rs...), []asked{
			{"forced1 dane.example", "OK dane-only"},
			{"forced1 sts.example", "OK secure match=.example:mx.example servername=hostname"},
			{"forced1 plain.example", "OK may"},
			{"forced1 silent.example", "OK may"},
			{"forced1 owed.example", "OK dane-only protocols=>=TLSv1.3"},
			{"forced1 legacy.example", "OK may"}, // a rule says so
		})
	}
	check(t, server(t, Config{Assessor: k, Ledger: ledger, Deadline: 50 * time.Millisecond}, rs...), []asked{{"forced1 home.example", "TEMP destination not known yet"}, {"policy home.example", "TEMP destination not known yet"}})
	check(t, server(t, Config{Assessor: k, Ledger: ledger, Others: contract.OthersOff}, rs...), []asked{{"forced1 dane.example", "OK may"}})
}

// silent finds out nothing any more.
type silent struct{ *knowing }

func (silent) Assess(_ context.Context, d addr.Destination, _ func(policy.Assessment) bool) policy.Assessment {
	return policy.Assessment{Destination: d, Problem: policy.Timeout, Partial: true}
}

// What a destination was known to publish holds, though a new look at it finds out nothing.
func TestPublishedBefore(t *testing.T) {
	k := silent{&knowing{before: known("dane.example", "dane", "plain.example", "nothing")}}
	check(t, server(t, Config{Assessor: k, Others: contract.OthersPublished}), []asked{
		{"policy dane.example", "OK dane-only"}, {"policy plain.example", absent}, {"policy new.example", absent},
	})
}

// A Postfix that writes TLS reports is told which policy was applied.
func TestForcedReports(t *testing.T) {
	k := &knowing{before: known("sts.example", "sts", "dane.example", "dane")}
	a := k.before["sts.example"]
	a.MTASTS.Fetched = noon()
	a.MTASTS.Until = noon().Add(86400 * time.Second)
	k.before["sts.example"] = a
	s := server(t, Config{Assessor: k, TLSRPT: true}, with(rule("encrypt", "*", ""), func(r *rules.Rule) { r.Honor.MTASTS, r.Honor.DANE = true, true }))
	check(t, s, []asked{
		{"forced1 sts.example", "OK secure match=.example:mx.example servername=hostname policy_type=sts policy_domain=sts.example policy_ttl=86400" +
			" { policy_string = version: STSv1 } { policy_string = mode: enforce } { policy_string = mx: *.example } { policy_string = mx: mx.example }" +
			" { policy_string = max_age: 86400 } mx_host_pattern=*.example mx_host_pattern=mx.example protocols=>=TLSv1.2 ciphers=medium"},
		{"forced1 dane.example", "OK dane-only protocols=>=TLSv1.2 ciphers=medium"},
	})
}

// Other mail is held to what destinations publish as far as that is known, or, where [binding] says so, as it is found out.
func TestPolicyPublished(t *testing.T) {
	k := &knowing{
		before: known("dane.example", "dane", "sts.example", "sts", "plain.example", "nothing", "owed.example", "dane"),
		found:  known("new.example", "sts"),
	}
	ledger := book{owed: map[string]policy.Demand{"owed.example": encrypt(policy.TLS13, 0), "plain.example": {Level: policy.LevelSecure}}}
	const sts = "OK secure match=.example:mx.example servername=hostname"
	const patient = 50 * time.Millisecond
	check(t, server(t, Config{Assessor: k, Ledger: ledger, Deadline: patient}), []asked{
		{"policy dane.example", "OK dane-only"},
		{"policy sts.example", sts},
		{"policy plain.example", "OK secure match=plain.example servername=hostname"}, // demanded
		{"policy owed.example", "OK dane-only protocols=>=TLSv1.3"},
		{"policy new.example", absent},
	})
	if k.looks != 0 {
		t.Error("a look was taken for mail that nobody protects")
	}
	check(t, server(t, Config{Assessor: k, Ledger: ledger, Deadline: patient, Others: contract.OthersPublished}), []asked{
		{"policy dane.example", "OK dane-only"},
		{"policy plain.example", absent}, // what was demanded is for protected mail then
		{"policy new.example", sts},
		{"policy silent.example", absent},
	})
	check(t, server(t, Config{Assessor: k, Ledger: ledger, Others: contract.OthersOff}), []asked{
		{"policy dane.example", absent}, {"policy owed.example", absent}, {"policy new.example", absent},
	})
}

// Sendmail is asked of sessions over TLS, too: with the host that was seen proving itself, on the way that leads there?
func TestSendmailRightHost(t *testing.T) {
	k := &knowing{
		before: known("dane.example", "dane", "sts.example", "sts", "plain.example", "nothing", "[smart.example]", "cert", "via.example", "nothing",
			"renewed.example", "dane", "evil.example", "cert", "[evil.example]", "cert", "route.example", "cert", "named.example", "cert"),
		found: known("renewed.example", "dane"),
	}
	k.found["renewed.example"].Hosts[0].Observations[0].Chain[0].Fingerprint = "cd34"
	k.before["[smart.example]"].Hosts[0].Name = addr.MustDomain("smart.example")
	k.before["[evil.example]"].Hosts[0].Name = addr.MustDomain("evil.example")
	k.before["evil.example"].Hosts[0].Name = addr.MustDomain("evil.example")
	k.before["route.example"].Hosts[0].Name = addr.MustDomain("mx.route.example")
	honoring := func(r *rules.Rule) *rules.Rule {
		return with(r, func(r *rules.Rule) { r.Honor = policy.Honor{DANE: true, MTASTS: true} })
	}
	s := server(t, Config{Assessor: k, Deadline: 50 * time.Millisecond},
		rule("may", "@bank.example", "@free.example"),
		honoring(rule("encrypt", "@clinic.example", "")), honoring(rule("secure", "@bank.example", "")), rule("dane", "@state.example", ""))
	const (
		pass, wait = "OK PASS", "OK DEFER"
		dns        = "mx.example> <x." // by MX, whatever domain was looked up
		smart      = "smart.example> <[smart.example]"
		evil       = "evil.example> <x."
	)
	for _, c := range []struct{ verify, fingerprint, way, tag, from, to, want string }{
		{"OK", "AB:12", dns, "encrypt", "a@clinic.example", "b@plain.example", pass},
		{"OK", "FF:FF", dns, "encrypt", "a@clinic.example", "b@plain.example", pass}, // TLS is all that is asked
		{"OK", "", dns, "encrypt", "a@clinic.example", "b@plain.example", pass},
		{"NO", "", evil, "encrypt", "a@clinic.example", "b@plain.example", pass},
		{"FAIL", "AB:12", dns, "encrypt", "a@clinic.example", "b@dane.example", pass}, // what DANE proves no CA need sign
		{"OK", "FF:FF", dns, "encrypt", "a@clinic.example", "b@dane.example", wait},
		{"OK", "AB:12", evil, "encrypt", "a@clinic.example", "b@dane.example", wait},
		{"OK", "", dns, "encrypt", "a@clinic.example", "b@dane.example", wait},
		{"NO", "AB:12", dns, "encrypt", "a@clinic.example", "b@dane.example", wait}, // no certificate: left over
		{"NOT", "AB:12", dns, "encrypt", "a@clinic.example", "b@dane.example", wait},
		{"OK", "AB:12", dns, "name", "a@bank.example", "b@sts.example", pass},
		{"OK", "FF:FF", dns, "name", "a@bank.example", "b@sts.example", wait},
		{"OK", "AB:12", dns, "name", "a@bank.example", "b@plain.example", wait},
		{"OK", "AB:12", dns, "ask", "a@bank.example", "b@free.example", pass},
		{"OK", "CD:34", dns, "name", "a@state.example", "b@renewed.example", pass},
		{"OK", "AB:12", dns, "name", "a@state.example", "b@sts.example", wait},
		{"OK", "AB:12", dns, "name", "a@bank.example", "b@silent.example", wait},
		{"NONE", "", dns, "name", "a@bank.example", "b@dane.example", wait},
		{"NONE", "", dns, "free", "x@other.example", "b@new.example", pass},
		{"OK", "FF:FF", dns, "free", "x@other.example", "b@dane.example", wait}, // known to publish: binds all mail
		{"OK", "FF:FF", dns, "free", "x@other.example", "b@plain.example", pass},
		{"OK", "FF:FF", dns, "free", "x@other.example", "b@new.example", pass},
		{"odd", "AB:12", dns, "name", "a@bank.example", "b@dane.example", wait},
		// Where MX records lead to another's host, that it proves its own name doesn't help.
		{"OK", "AB:12", evil, "name", "a@bank.example", "b@named.example", wait},
		{"OK", "AB:12", dns, "name", "a@bank.example", "b@named.example", pass},
		// Where the site's own tables lead, the host there is the right one.
		{"OK", "AB:12", smart, "name", "a@bank.example", "b@via.example", pass},
		{"OK", "FF:FF", smart, "name", "a@bank.example", "b@via.example", wait},
		{"OK", "AB:12", "smart.example> <[other.example]:[smart.example]", "name", "a@bank.example", "b@via.example", pass},
		{"OK", "AB:12", "mx.route.example> <route.example", "name", "a@bank.example", "b@via.example", pass},
		{"OK", "AB:12", "evil.example> <route.example", "name", "a@bank.example", "b@via.example", wait},
		{"OK", "AB:12", "mx.example> <route.example", "name", "a@bank.example", "b@named.example", pass}, // sent together with what has a route
		{"OK", "AB:12", "evil.example> <[smart.example]", "name", "a@bank.example", "b@via.example", wait},
		// The tag holds where the rules say nothing any more, or the sender is an alias's owner.
		{"OK", "AB:12", dns, "name", "owner@other.example", "b@named.example", pass},
		{"OK", "FF:FF", dns, "name", "owner@other.example", "b@named.example", wait},
		{"OK", "AB:12", dns, "name", "owner@other.example", "b@plain.example", wait},
		{"OK", "FF:FF", dns, "name", "a@bank.example", "b@free.example", wait},
		// What can't be read for sure is held to what is asked for all, and its domain is read.
		{"OK", "AB:12", dns, "free", "x@other.example", "b c@dane.example", pass},
		{"OK", "FF:FF", dns, "free", "x@other.example", "b c@dane.example", wait},
		{"OK", "FF:FF", dns, "free", "a b@other.example", "b@plain.example", pass}, // no rule names that domain
		{"OK", "AB:12", dns, "free", "a b@clinic.example", "b@dane.example", pass},
		{"OK", "FF:FF", dns, "free", "a b@clinic.example", "b@plain.example", wait}, // a rule of level dane is for all recipients
		{"OK", "FF:FF", dns, "free", "a@bank.example@other.example", "b@plain.example", pass},
		{"OK", "FF:FF", dns, "name", "a@bank.example", "b c@free.example", wait},
		{"OK", "FF:FF", dns, "ask", "a@bank.example", "b c@free.example", pass},
		{"NONE", "", dns, "free", "a b@other.example", "b@plain.example", wait},
		{"OK", "AB:12", dns, "free", "x@other.example", "b@far..example", wait},
	} {
		server, hop, _ := strings.Cut(c.way, "> <")
		question := "tls_rcpt v2<" + c.verify + "><" + c.fingerprint + "><" + server + "><" + hop + "><" + c.tag + "><" + c.from + "><" + c.to + ">"
		check(t, s, []asked{{question, c.want}})
	}
}

// A host that ends the handshake where it is named is not named, at any level; and what is known
// of one counts where the rule honors nothing.
func TestUnnamed(t *testing.T) {
	shy := publishing("shy.example", "cert")
	shy.Hosts[0].Observations[0].Unnamed = true
	before := map[string]policy.Assessment{"shy.example": shy, "open.example": publishing("open.example", "cert")}
	honest := rule("encrypt", "@clinic.example", "")
	s := server(t, Config{Assessor: &knowing{before: before}}, honest, rule("secure", "@lab.example", ""))
	check(t, s, []asked{
		{"forced1 open.example", plain},
		{"forced1 shy.example", unnamed},
		{"forced2 open.example", "OK secure match=open.example servername=hostname protocols=>=TLSv1.2 ciphers=medium"},
		{"forced2 shy.example", "OK secure match=shy.example protocols=>=TLSv1.2 ciphers=medium"},
	})
}
