package socketmap

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

func noon() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

// book is a ledger in a test.
type book struct {
	pinned map[string]bool
	owed   map[string]policy.Demand
}

func (b book) Pinned(d addr.Destination) bool { return b.pinned[d.String()] }

func (b book) Demanded(d addr.Destination) (policy.Demand, bool) {
	demand, ok := b.owed[d.String()]
	return demand, ok
}

func encrypt(v policy.Version, bits int) policy.Demand {
	return policy.Demand{Level: policy.LevelEncrypt, MinVersion: v, MinBits: bits}
}

// rule makes an enforcing rule; from and to are patterns with blanks between, "" for none.
func rule(level policy.Level, from, to string) *rules.Rule {
	r := &rules.Rule{Level: level, Mode: policy.Enforce, MinVersion: policy.TLS12, MinBits: 128, OnFail: policy.ActionReject}
	for _, s := range strings.Fields(from) {
		r.From = append(r.From, addr.MustPattern(s))
	}
	for _, s := range strings.Fields(to) {
		r.To = append(r.To, addr.MustPattern(s))
	}
	return r
}

// named returns domains, when asked.
func named(domains ...string) func() []addr.Domain {
	var found []addr.Domain
	for _, d := range domains {
		found = append(found, addr.MustDomain(d))
	}
	return func() []addr.Domain { return found }
}

func with(r *rules.Rule, change func(*rules.Rule)) *rules.Rule {
	change(r)
	return r
}

func server(t testing.TB, c Config, rs ...*rules.Rule) *Server {
	t.Helper()
	set := rules.New(rs)
	delivery := rules.Alone(set)
	c.Rules = func() *rules.Delivery { return delivery }
	if c.Ledger == nil {
		c.Ledger = book{}
	}
	c.Now = noon
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type asked struct{ question, want string }

func check(t *testing.T, s *Server, cases []asked) {
	t.Helper()
	for _, c := range cases {
		if got := string(s.reply(nil, []byte(c.question))); got != c.want {
			t.Errorf("%s: %q, want %q", c.question, got, c.want)
		}
	}
}

const (
	plain  = "OK encrypt servername=hostname protocols=>=TLSv1.2 ciphers=medium"
	absent = "NOTFOUND "
	// unnamed is for a host that has no name for the hello, or that doesn't want it there.
	unnamed = "OK encrypt protocols=>=TLSv1.2 ciphers=medium"
)

// clinic is the site of most tests: the clinic must, but to legacy.example it may go in the clear; the lab asks for
// more, and of partners alone.
func clinic() []*rules.Rule {
	return []*rules.Rule{
		rule("may", "@clinic.example", "@legacy.example old@mixed.example"),
		rule("none", "@clinic.example", "@broken.example"),
		rule("encrypt", "@clinic.example billing@example.com <>", ""),
		with(rule("encrypt", "@lab.example", "@partner.example vip@big.example"), func(r *rules.Rule) { r.MinVersion, r.MinBits = policy.TLS13, 256 }),
		with(rule("encrypt", "@lab.example", "@.watched.example"), func(r *rules.Rule) { r.Mode = policy.Observe }),
	}
}

func TestSender(t *testing.T) {
	s := server(t, Config{Transports: 3}, clinic()...)
	check(t, s, []asked{
		{"sender doctor@clinic.example", "OK tlsonly1:"},
		{"sender DOCTOR@Clinic.EXAMPLE", "OK tlsonly1:"},
		{`sender "doctor"@clinic.example`, "OK tlsonly1:"},
		{"sender doctor+list@clinic.example", "OK tlsonly1:"},
		{"sender <doctor@clinic.example>", "OK tlsonly1:"},
		{"sender @relay.example:doctor@clinic.example", "OK tlsonly1:"},
		{"sender a b@clinic.example", "OK tlsonly1:"},
		{"sender Billing+x@example.com", "OK tlsonly2:"},
		{"sender <>", "OK tlsonly:"},
		{`sender "<>"`, "OK tlsonly:"},
		{"sender ", "OK tlsonly:"},
		{"sender x@lab.example", "OK tlsonly3:"},
		{"sender x@example.com", absent},
		{"sender x@sub.clinic.example", absent},
		{"sender @clinic.example", "OK tlsonly:"},                            // not an address
		{"sender x@clinic.example@", "OK tlsonly:"},                          // nor this
		{"sender root", "OK tlsonly:"},                                       // of which domain?
		{"sender x@clinic.example\x00", "OK tlsonly:"},                       // a control character
		{"sender x@" + strings.Repeat("a", 300) + ".example", "OK tlsonly:"}, // no such domain can be
		{"sender x@cl\xffnic.example", "OK tlsonly:"},
	})
	over := with(rule("encrypt", "@clinic.example", ""), func(r *rules.Rule) { r.Until = noon() })
	check(t, server(t, Config{Transports: 1}, over), []asked{
		{"sender doctor@clinic.example", absent},
		{"sender root", absent},
		{"sender @", absent},
		{`sender "<>"`, absent},
	})
	origins := named("mta.example", "clinic.example")
	check(t, server(t, Config{Transports: 3, Origins: origins}, clinic()...), []asked{{"sender root", "OK tlsonly:"}, {"sender @", "OK tlsonly:"}})
	check(t, server(t, Config{Transports: 3, Origins: named("mta.example")}, clinic()...), []asked{{"sender root", absent}, {"sender @", "OK tlsonly:"}})
	check(t, server(t, Config{}), []asked{{"sender a@b.example", absent}, {"sender @", absent}})
	check(t, server(t, Config{Transports: 1}, rule("encrypt", "*", "")), []asked{{"sender <>", "OK tlsonly:"}, {"sender root", "OK tlsonly:"}})
}

func TestSurplusClass(t *testing.T) {
	var log bytes.Buffer
	s := server(t, Config{Transports: 1, Log: slog.New(slog.NewTextHandler(&log, nil))}, clinic()...)
	check(t, s, []asked{
		{"sender doctor@clinic.example", "OK tlsonly1:"},
		{"sender billing@example.com", "OK tlsonly:"},
		{"sender x@lab.example", "OK tlsonly:"},
	})
	if n := strings.Count(log.String(), "more sender classes than transports"); n != 1 {
		t.Errorf("warned %d times:\n%s", n, &log)
	}
	// The MTA knows best how many it has.
	check(t, s, []asked{
		{"sender3 billing@example.com", "OK tlsonly2:"},
		{"sender2 billing@example.com", "OK tlsonly2:"},
		{"sender2 x@lab.example", "OK tlsonly:"},
		{"sender1 doctor@clinic.example", "OK tlsonly1:"},
		{"sender0 doctor@clinic.example", "OK tlsonly:"},
		{"sender0 x@example.com", absent},
		{"sender00 x@example.com", "TEMP no such map"},
		{"senders x@example.com", "TEMP no such map"},
		{"sender-1 x@example.com", "TEMP no such map"},
	})
}

// What is delivered here can change while the daemon runs, and with it whom a bare name may be.
func TestOriginsAreRenewed(t *testing.T) {
	origins := named("mta.example")
	s := server(t, Config{Origins: func() []addr.Domain { return origins() }}, clinic()...)
	check(t, s, []asked{{"sender root", absent}})
	origins = named("mta.example", "clinic.example")
	check(t, s, []asked{{"sender root", "OK tlsonly:"}})
}

func TestForced(t *testing.T) {
	relay := addr.MustDestination("isp.example")
	s := server(t, Config{Relay: func(d addr.Destination) bool { return d == relay }, Ledger: book{
		pinned: map[string]bool{"pinned.example": true, "legacy.example": true},
		owed: map[string]policy.Demand{
			"owed.example":   encrypt(policy.TLS13, 128),
			"legacy.example": encrypt(policy.TLS13, 128),
			"mixed.example":  encrypt(policy.TLS11, 0),
			"later.example":  {Level: policy.LevelSecure},
			"asked.example":  {Level: policy.LevelMay},
		},
	}}, append([]*rules.Rule{rule("may", "@clinic.example", "@isp.example")}, clinic()...)...)
	strict := "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=high exclude=AES128:ARIA128:CAMELLIA128"
	check(t, s, []asked{
		// exceptions, exact
		{"forced1 legacy.example", "OK may"},
		{"forced1 LEGACY.Example", "OK may"},
		{"forced1 legacy.example.", "OK may"},
		{"forced1 broken.example", "OK none"},
		{"forced2 legacy.example", "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=medium"}, // what was demanded, too
		{"forced2 broken.example", plain},
		{"forced1 sub.legacy.example", plain},
		{"forced1 mixed.example", plain}, // an exception for one address isn't one for the domain
		{"forced1 far.example", plain},
		{"forced1 bücher.example", plain},
		// next hops that carry mail for others
		{"forced1 [legacy.example]", plain},
		{"forced1 [legacy.example]:25", plain},
		{"forced1 legacy.example:25", plain},
		{"forced1 [192.0.2.1]:587", unnamed},
		{"forced1 192.0.2.1", unnamed},
		{"forced1 isp.example", plain}, // in spite of an exception for mail to it
		{"forced3 [smart.example]:587", strict},
		// a class that asks for little
		{"forced3 partner.example", strict},
		{"forced3 big.example", strict},
		{"forced3 far.example", "OK may"},
		{"forced3 legacy.example", "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=medium"}, // demanded by mail of others: holds
		{"forced3 x.watched.example", "OK may"},
		{"forced3 asked.example", "OK may"},
		{"forced3 owed.example", "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=medium"},
		{"forced3 pinned.example", "OK encrypt servername=hostname"},
		{"forced3 later.example", "TEMP destination not known yet"},
		// the strict transport
		{"forced legacy.example", "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=medium"},
		{"forced partner.example", strict},
		{"forced far.example", plain},
		{"forced [smart.example]", strict},
		{"forced4 legacy.example", "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=medium"}, // a transport left over from other rules
		{"forced999999999 far.example", plain},
		// keys that are no next hop
		{"forced1 .legacy.example", absent},
		{"forced .example", absent},
		{"forced1 ", plain},
		{"forced1 a, b", plain},
		{"forced1 x@legacy.example", plain},
		{"forced1 legacy.example:nntp", plain},
		{"forced1 [legacy.example", plain},
		{"forced1 legacy..example", plain},
		{"forced1 legacy.example:nosuchservice", "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=medium"}, // an exception is for what is understood
		{"forced legacy.example:nosuchservice", strict},
		{"forced9 a:b:c", strict},
		{"forced0 far.example", "TEMP no such map"},
		{"forced01 far.example", "TEMP no such map"},
		{"forced-1 far.example", "TEMP no such map"},
		{"forced1x far.example", "TEMP no such map"},
		{"forced9999999999 far.example", "TEMP no such map"},
		{"Forced1 far.example", "TEMP no such map"},
		{"forced1", "TEMP no key"},
		{"", "TEMP no key"},
		{" ", "TEMP no such map"},
	})
	// A site whose rules are over, or that has none: the strict transport stays strict.
	check(t, server(t, Config{}), []asked{{"forced far.example", plain}, {"forced1 far.example", plain}})
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		version policy.Version
		bits    int
		want    string
	}{
		{policy.TLS10, 0, "OK encrypt servername=hostname protocols=>=TLSv1"},
		{policy.TLS11, 40, "OK encrypt servername=hostname protocols=>=TLSv1.1 ciphers=medium"},
		{policy.TLS12, 128, plain},
		{policy.TLS13, 129, "OK encrypt servername=hostname protocols=>=TLSv1.3 ciphers=high exclude=AES128:ARIA128:CAMELLIA128"},
		{0x0305, 128, "TEMP TLS version not supported"},
	} {
		s := server(t, Config{}, with(rule("encrypt", "*", ""), func(r *rules.Rule) { r.MinVersion, r.MinBits = c.version, c.bits }))
		check(t, s, []asked{{"forced1 far.example", c.want}, {"forced far.example", c.want}})
	}
}

func TestPolicy(t *testing.T) {
	ledger := book{
		pinned: map[string]bool{"pinned.example": true, "both.example": true},
		owed: map[string]policy.Demand{
			"owed.example":          encrypt(policy.TLS12, 128),
			"both.example":          encrypt(policy.TLS13, 0),
			"[smart.example]:587":   encrypt(policy.TLS12, 128),
			"asked.example":         {Level: policy.LevelMay},
			"later.example":         {Level: policy.LevelDane},
			"xn--bcher-kva.example": encrypt(policy.TLS12, 128),
		},
	}
	check(t, server(t, Config{Ledger: ledger}, clinic()...), []asked{
		{"policy owed.example", plain},
		{"policy OWED.example", plain},
		{"policy bücher.example", plain},
		{"policy [smart.example]:587", plain},
		{"policy [smart.example]:submission", plain},
		{"policy [smart.example]", absent},
		{"policy both.example", "OK encrypt servername=hostname protocols=>=TLSv1.3"},
		{"policy pinned.example", "OK encrypt servername=hostname"},
		{"policy sub.owed.example", absent},
		{"policy .owed.example", absent},
		{"policy asked.example", absent},
		{"policy far.example", absent},
		{"policy clinic.example", plain}, // protected senders are there, and so may a bounce be
		{"policy later.example", "OK dane-only"},
		{"policy owed..example", absent},
		{"policy pinned.example:nosuchservice", "OK encrypt servername=hostname"},
		{"policy far.example:nosuchservice", absent},
		{"policy [IPv6:::1", absent},
	})
	here := Config{Ledger: ledger, Local: func(d addr.Domain) bool { return d.String() == "clinic.example" }}
	check(t, server(t, here, clinic()...), []asked{{"policy clinic.example", absent}})
	off := server(t, Config{Ledger: ledger, Others: contract.OthersOff}, clinic()...)
	check(t, off, []asked{{"policy clinic.example", absent}})
	check(t, off, []asked{
		{"policy owed.example", absent},
		{"policy pinned.example", absent},
		{"forced3 owed.example", plain}, // mail of a protected sender is not other mail
		{"forced3 pinned.example", "OK may"},
	})
}

func TestTLSRcpt(t *testing.T) {
	ledger := book{owed: map[string]policy.Demand{
		"owed.example":    encrypt(policy.TLS12, 128),
		"legacy.example":  encrypt(policy.TLS12, 128),
		"[smart.example]": encrypt(policy.TLS12, 128),
	}}
	s := server(t, Config{Ledger: ledger}, clinic()...)
	of := func(from, to string) string {
		return "tls_rcpt v2<NONE><><mx.far.example><far.example.><free><" + from + "><" + to + ">"
	}
	const pass, wait = "OK PASS", "OK DEFER"
	check(t, s, []asked{
		{of("bob@example.com", "u@far.example"), pass},
		{of("bob@example.com", "u@owed.example"), wait},
		{of("bob@example.com", "u@legacy.example"), wait},
		{of("doctor@clinic.example", "u@legacy.example"), pass}, // exactly what the exception says
		{of("doctor@clinic.example", "old@mixed.example"), pass},
		{of("doctor@clinic.example", "new@mixed.example"), wait},
		{of("DOCTOR@Clinic.example", "u@far.example"), wait},
		{of("doctor@clinic.example", "u@far.example"), wait},
		{of("", "u@far.example"), wait},
		{of("x@lab.example", "u@far.example"), pass},
		{of("x@lab.example", "vip@big.example"), wait},
		{of("x@lab.example", "u@big.example"), pass},
		{of("x@lab.example", "u@owed.example"), wait},
		{of("x@lab.example", "u@a.watched.example"), pass},
		// doubt
		{of("root", "u@far.example"), wait},
		{of("bob@example.com", "u"), wait},
		{of("bob@example.com", ""), wait},
		{of("a<b@example.com", "u@far.example"), wait},
		{of("a@b@example.com", "u@far.example"), wait},
		{of(`"a"@example.com`, "u@far.example"), wait},
		{of("@a.example:bob@example.com", "u@far.example"), wait},
		{of("bob@example.com", "u@far..example"), wait},
		{of("bob(x)@example.com", "u@far.example"), wait},
		{of("bob @example.com", "u@far.example"), wait},
		{"tls_rcpt v2<NONE><><><><><bob@example.com><u@far.example>", pass},
		{"tls_rcpt v2<NONE><><smart.example><[smart.example]><free><bob@example.com><u@far.example>", wait}, // demanded of the host
		{"tls_rcpt v2<NONE><><mx><owed.example><free><bob@example.com><u@far.example>", wait},               // and of the next hop
		{"tls_rcpt v2<TLSv1.1><AB:12><mx><><free><doctor@clinic.example><u@far.example>", wait},             // which is no TLS
		{"tls_rcpt v2<NONE><><mx><h><free><bob@example.com><u@far.example><>", wait},
		{"tls_rcpt v2<NONE><><mx><h><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v2<NONE><><mx><h><free><bob@example.com><u@far.example> ", wait},
		{"tls_rcpt v2<NONE><><mx><h><<free><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v2<NONE><><m<x><h><free><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v2<NONE><><mx><h><free>><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v2<NONE> <><mx><h><free><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v1<NONE><mx><a><id><x><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v3<NONE><><mx><h><free><bob@example.com><u@far.example>", wait},
		{"tls_rcpt v2", wait},
		{"tls_rcpt ", wait},
	})
	bounce := clinic()
	bounce[3].OnFail = policy.ActionDefer
	check(t, server(t, Config{Ledger: ledger, Bounce: true}, bounce...), []asked{
		{of("doctor@clinic.example", "u@far.example"), "OK REJECT"},
		{of("x@lab.example", "u@partner.example"), wait},
		{of("bob@example.com", "u@owed.example"), wait}, // a demand is no rule
	})
	origins := named("mta.example", "clinic.example")
	check(t, server(t, Config{Ledger: ledger, Origins: origins}, clinic()...), []asked{
		{of("root", "u@far.example"), wait},
		{of("root", "u@legacy.example"), wait}, // not exempt for both
	})
	check(t, server(t, Config{Ledger: ledger, Origins: named("mta.example")}, clinic()...), []asked{
		{of("root", "u@far.example"), pass},
		{of("root", "u@owed.example"), wait},
		{of("", "u@far.example"), wait},
		{"tlsonly" + strings.TrimPrefix(of("root", "u@far.example"), "tls_rcpt"), pass}, // as the K line may call it
	})
	check(t, server(t, Config{Ledger: ledger, Others: contract.OthersOff}), []asked{
		{of("bob@example.com", "u@owed.example"), pass},
		{of("root", "u@far.example"), pass},
	})
}

// TestEnvelopeCannotForge: whatever a client puts into its sender and recipient, a protected sender's mail is not passed as
// another's.
func TestEnvelopeCannotForge(t *testing.T) {
	k := &knowing{before: known("far.example", "nothing")}
	s := server(t, Config{Assessor: k, Deadline: time.Millisecond}, rule("secure", "@clinic.example", ""))
	r := rand.New(rand.NewPCG(1, 2))
	parts := []string{"<", ">", "><", "<<", ">>", "a", "bob@example.com", "u@far.example", "@", " ", "v2", "v3", ""}
	junk := func() string {
		var b strings.Builder
		for range r.IntN(9) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		return b.String()
	}
	for range 50_000 {
		hop, local, to := junk(), junk(), "u@far.example"
		if r.IntN(3) == 0 {
			to = junk() + "@far.example"
		}
		envelope := "<" + local + "x@clinic.example><" + to + ">"
		for _, key := range []string{"v2<NONE><><mx><" + hop + "><free>" + envelope, "v2<OK><AB:12><mx.example><far.example.><free>" + envelope} {
			if got := string(s.reply(nil, []byte("tls_rcpt "+key))); got != "OK DEFER" {
				t.Fatalf("%s: %s", key, got)
			}
		}
	}
}

// TestNeverWeaker walks as Postfix does, from the sender to a transport and from the next hop to a policy, over random
// rules and demands, and compares with the rule that decides at acceptance.
func TestNeverWeaker(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	of := func(ss ...string) string { return ss[r.IntN(len(ss))] }
	bound, free := 0, 0
	for range 1000 {
		var rs []*rules.Rule
		for range 1 + r.IntN(6) {
			rs = append(rs, with(rule(policy.Level(of("none", "may", "encrypt", "encrypt")),
				of("*", "@a.example", "@.a.example", "x@a.example", "x+1@a.example", "<>", "@b.example y@a.example"),
				of("", "*", "@d.example", "@.d.example", "u@d.example", "@.example", "@s.d.example u@d.example")), func(r2 *rules.Rule) {
				r2.Mode = policy.Mode(of("enforce", "enforce", "enforce", "observe"))
				r2.MinVersion = []policy.Version{policy.TLS10, policy.TLS12, policy.TLS13}[r.IntN(3)]
				r2.MinBits = []int{0, 128, 256}[r.IntN(3)]
				if r.IntN(4) == 0 {
					r2.Until = noon().Add(time.Duration(r.IntN(3)-1) * time.Hour)
				}
			}))
		}
		ledger := book{owed: map[string]policy.Demand{}}
		if r.IntN(3) == 0 {
			ledger.owed[of("d.example", "s.d.example", "[relay.example]")] = encrypt(policy.TLS13, 128)
		}
		s := server(t, Config{Ledger: ledger, Transports: r.IntN(4)}, rs...)
		for range 40 {
			from := of("x", "X", "y", "x+1", "x+2") + of("@a.example", "@A.example", "@s.a.example", "@b.example", "@c.example")
			if r.IntN(8) == 0 {
				from = "<>"
			}
			to := addr.MustAddress(of("u", "U+z", "v") + "@" + of("d.example", "s.d.example", "e.example"))
			next := of(to.Domain.String(), strings.ToUpper(to.Domain.String()), "[relay.example]", to.Domain.String()+":26")
			decides := s.c.Rules().Set().Sender(addr.MustAddress(from), "", noon()).Match(to)
			transport := string(s.reply(nil, []byte("sender "+from)))
			protects := decides != nil && decides.Enforcing()
			if transport == absent {
				if protects {
					t.Fatalf("%s to %s: no transport, rule %+v", from, to, decides)
				}
				continue
			}
			name, ok := strings.CutPrefix(transport, "OK tlsonly")
			answer := string(s.reply(nil, []byte("forced"+strings.TrimSuffix(name, ":")+" "+next)))
			held := demandOf(t, answer)
			switch {
			case !ok || !strings.HasSuffix(name, ":"):
				t.Fatalf("%s: %q", from, transport)
			case name == ":" && !held.Level.Enforces():
				t.Fatalf("the strict transport says %q of %s", answer, next)
			case protects && (!held.Level.Enforces() || held.MinVersion < decides.MinVersion || held.MinBits < decides.MinBits):
				t.Fatalf("%s to %s by %s: %q, rule %+v", from, to, next, answer, decides)
			case protects:
				bound++
			case !held.Level.Enforces():
				free++
				if _, owed := ledger.owed[addr.MustDestination(next).String()]; owed && decides == nil {
					t.Fatalf("%s to %s by %s: %q although TLS was demanded", from, to, next, answer)
				}
			}
		}
	}
	if bound < 1000 || free < 1000 {
		t.Errorf("hardly ever bound (%d) or free (%d)", bound, free)
	}
}

// demandOf reads an answer as Postfix does.
func demandOf(t *testing.T, answer string) policy.Demand {
	t.Helper()
	words := strings.Fields(strings.TrimPrefix(answer, "OK "))
	if !strings.HasPrefix(answer, "OK ") || len(words) == 0 {
		t.Fatalf("answer %q", answer)
	}
	d := policy.Demand{Level: policy.Level(words[0])}
	for _, w := range words[1:] {
		switch w {
		case "protocols=>=TLSv1":
			d.MinVersion = policy.TLS10
		case "protocols=>=TLSv1.2":
			d.MinVersion = policy.TLS12
		case "protocols=>=TLSv1.3":
			d.MinVersion = policy.TLS13
		case "ciphers=medium":
			d.MinBits = 128
		case "ciphers=high":
		case "servername=hostname", "exclude=AES128:ARIA128:CAMELLIA128":
			d.MinBits = 256
		default:
			t.Fatalf("answer %q: %q", answer, w)
		}
	}
	return d
}

func TestNew(t *testing.T) {
	set := func() *rules.Delivery { return rules.Alone(rules.New(nil)) }
	for _, c := range []Config{{}, {Rules: set}, {Ledger: book{}}, {Rules: set, Ledger: book{}, Others: "other"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

func TestStats(t *testing.T) {
	s := server(t, Config{Transports: 1}, rule("encrypt", "@clinic.example", "@far.example"))
	for _, q := range []string{"sender x@clinic.example", "sender x@clinic.example", "sender x@y.example", "forced1 far.example", "forced .far.example",
		"forced1 a..b", "policy far.example", "tls_rcpt x", "no such", "word"} {
		s.reply(nil, []byte(q))
	}
	got := ""
	for _, r := range s.Stats().Requests {
		if r.Count > 0 {
			got += fmt.Sprintf("%s/%s %d, ", r.Map, r.Answer, r.Count)
		}
	}
	want := "sender/ok 2, sender/notfound 1, forced/ok 2, forced/notfound 1, policy/notfound 1, tls_rcpt/defer 1, unknown/temp 2, "
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
