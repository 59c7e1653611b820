package inbound

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
	"tlsonly/internal/policy"
)

func client(t *testing.T, s string) Client {
	t.Helper()
	c, err := ParseClient(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// from is a message of the client "name[address]" in the clear.
func from(s string) Arrival {
	name, ip, _ := strings.Cut(strings.TrimSuffix(s, "]"), "[")
	a := Arrival{Addr: netip.MustParseAddr(ip)}
	if name != "" {
		a.Name = addr.MustDomain(name)
	}
	return a
}

func TestParseClient(t *testing.T) {
	good := func(in, want string) {
		t.Helper()
		if c, err := ParseClient(in); err != nil || c.String() != want {
			t.Errorf("%s: %s, %v", in, c, err)
		}
	}
	good("*", "*")
	good("Mail.Example.COM.", "mail.example.com")
	good("mail.bücher.example", "mail.xn--bcher-kva.example")
	good("localhost", "localhost")
	good("@.example.com", "@.example.com")
	good("192.0.2.1", "192.0.2.1")
	good("[192.0.2.1]", "192.0.2.1")
	good("::ffff:192.0.2.1", "192.0.2.1")
	good("192.0.2.0/24", "192.0.2.0/24")
	good("192.0.2.1/32", "192.0.2.1")
	good("2001:DB8::1", "2001:db8::1")
	good("[IPv6:2001:db8::1]", "2001:db8::1")
	good("2001:db8::/32", "2001:db8::/32")
	good("0.0.0.0/0", "0.0.0.0/0")

	bad := func(in, want string) {
		t.Helper()
		if c, err := ParseClient(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v; want %s", in, c, err, want)
		}
	}
	bad("", "empty domain")
	bad("@example.com", `want "@.example.com"`)
	bad("@.", "empty domain")
	bad("@.192.0.2", "want a host name")
	bad("@.[192.0.2.1]", "want a host name")
	bad("192.0.2", "want a host name")
	bad("192.0.2.1/24", "want 192.0.2.0/24")
	bad("192.0.2.0/33", "want a network")
	bad("::ffff:192.0.2.0/120", "want a network")
	bad("fe80::1%eth0", "character")
	bad("a b", "character")
	bad("x@example.com", "character")
}

func TestClientMatch(t *testing.T) {
	for _, c := range []struct {
		client, arrival string
		want            bool
	}{
		{"*", "[192.0.2.1]", true},
		{"mail.example", "mail.example[192.0.2.1]", true},
		{"mail.example", "a.mail.example[192.0.2.1]", false},
		{"mail.example", "[192.0.2.1]", false}, // the name isn't confirmed
		{"@.example", "mail.example[192.0.2.1]", true},
		{"@.mail.example", "mail.example[192.0.2.1]", true},
		{"@.mail.example", "email.example[192.0.2.1]", false},
		{"@.mail.example", "[192.0.2.1]", false},
		{"192.0.2.1", "any.example[192.0.2.1]", true},
		{"192.0.2.1", "[192.0.2.2]", false},
		{"192.0.2.0/24", "[192.0.2.255]", true},
		{"192.0.2.0/24", "[192.0.3.0]", false},
		{"2001:db8::/32", "[2001:db8:1::1]", true},
		{"2001:db8::/32", "[192.0.2.1]", false},
		{"0.0.0.0/0", "[2001:db8::1]", false},
	} {
		if got := client(t, c.client).Match(from(c.arrival)); got != c.want {
			t.Errorf("%s of %s: %v", c.client, c.arrival, got)
		}
	}
	for _, s := range []string{"mail.example", "@.example", "0.0.0.0/0", "::/0"} {
		if client(t, s).Match(Arrival{}) {
			t.Errorf("%s selects mail without a client", s)
		}
	}
	if (Client{}).Match(Arrival{}) || (Client{}).Match(from("a.example[192.0.2.1]")) {
		t.Error("the zero Client selects somebody")
	}
}

// covers holds what it promises: whatever the narrow selects, the wide does.
func TestClientCovers(t *testing.T) {
	all := []string{"*", "mail.example", "@.example", "@.mail.example", "192.0.2.1", "192.0.2.0/24", "192.0.0.0/16", "2001:db8::/32", "::/0", "0.0.0.0/0"}
	arrivals := []string{"mail.example[192.0.2.1]", "a.mail.example[192.0.2.2]", "b.example[192.0.3.1]", "[2001:db8::1]", "[198.51.100.1]", "[2001:db9::1]"}
	for _, w := range all {
		for _, n := range all {
			wide, narrow := client(t, w), client(t, n)
			selectsMore := false
			for _, a := range arrivals {
				selectsMore = selectsMore || narrow.Match(from(a)) && !wide.Match(from(a))
			}
			if wide.covers(narrow) && selectsMore {
				t.Errorf("%s doesn't cover %s", w, n)
			}
		}
	}
	for _, c := range [][2]string{{"@.example", "mail.example"}, {"@.example", "@.mail.example"}, {"192.0.2.0/24", "192.0.2.1"}, {"*", "::/0"}, {"a.example", "a.example"}} {
		if !client(t, c[0]).covers(client(t, c[1])) {
			t.Errorf("%s covers %s", c[0], c[1])
		}
	}
}

func FuzzParseClient(f *testing.F) {
	for _, s := range []string{"*", "mail.example", "@.example", "@example", "192.0.2.0/24", "192.0.2.1/24", "[IPv6:2001:db8::1]", "::ffff:1.2.3.4", "fe80::1%x", "1.2.3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseClient(s)
		if err != nil {
			return
		}
		again, err := ParseClient(c.String())
		if err != nil || again != c {
			t.Errorf("%q: %s, again %s, %v", s, c, again, err)
		}
		if !c.covers(c) {
			t.Errorf("%s doesn't cover itself", c)
		}
	})
}

// tls is a session of that version and strength.
func (a Arrival) tls(v policy.Version, bits int) Arrival {
	a.TLS, a.Version, a.Bits = true, v, bits
	return a
}

func (a Arrival) cert(name string) Arrival {
	a.Verified, a.Certificate = true, name
	return a
}

func (a Arrival) login() Arrival {
	a.Login = "alice"
	return a
}

func TestJudge(t *testing.T) {
	away, here := from("mail.example[192.0.2.1]"), from("localhost[127.0.0.1]")
	rule := func(change func(*Rule)) *Rule {
		r := &Rule{Name: "r", Level: Encrypt, MinVersion: policy.TLS12, MinBits: 128, OnFail: policy.ActionReject, Mode: policy.Enforce}
		if change != nil {
			change(r)
		}
		return r
	}
	encrypt := rule(nil)
	may := rule(func(r *Rule) { r.Level = May })
	verified := rule(func(r *Rule) { r.Level = Verified })
	named := rule(func(r *Rule) { r.Level, r.Cert = Verified, []string{foldName("Gate Way 1"), "gw.example"} })
	proxy := rule(func(r *Rule) { r.Client = []Client{client(t, "127.0.0.0/8"), client(t, "192.0.2.0/24")} })
	world := rule(func(r *Rule) { r.Client = []Client{client(t, "0.0.0.0/0")} })
	for i, c := range []struct {
		rule *Rule
		a    Arrival
		want string
	}{
		{encrypt, away, "reject no-tls fail reject"},
		{encrypt, away.tls(policy.TLS11, 256), "reject weak-version fail reject"},
		{encrypt, away.tls(0, 256), "reject weak-version fail reject"}, // a version nobody knows
		{encrypt, away.tls(policy.TLS12, 112), "reject weak-cipher fail reject"},
		{encrypt, away.tls(policy.TLS12, 128), "accept  pass accept"},
		{encrypt, away.tls(policy.TLS13, 256), "accept  pass accept"},
		{encrypt, away.login(), "reject no-tls fail reject"}, // a password doesn't encrypt
		{encrypt, here, "accept  pass accept"},
		{encrypt, from("[::1]"), "accept  pass accept"},
		{encrypt, Arrival{}, "accept  pass accept"},
		{encrypt, from("[0.0.0.0]"), "reject no-tls fail reject"}, // a client that the MTA doesn't know
		{may, away, "accept  pass accept"},
		{verified, away, "reject no-tls fail reject"},
		{verified, away.tls(policy.TLS13, 256), "reject no-certificate fail reject"},
		{verified, away.tls(policy.TLS13, 256).cert(""), "accept  pass accept"},
		{verified, away.tls(policy.TLS11, 256).cert("x"), "reject weak-version fail reject"},
		{verified, away.tls(policy.TLS13, 256).login(), "accept  pass accept"},
		{verified, away.login(), "reject no-tls fail reject"},
		{named, away.tls(policy.TLS13, 256), "reject no-certificate fail reject"},
		{named, away.tls(policy.TLS13, 256).cert("other"), "reject wrong-certificate fail reject"},
		{named, away.tls(policy.TLS13, 256).cert(""), "reject wrong-certificate fail reject"},
		{named, away.tls(policy.TLS13, 256).cert("GW.example"), "accept  pass accept"},
		{named, away.tls(policy.TLS13, 256).cert("gate  way 1"), "accept  pass accept"},
		{named, away.tls(policy.TLS13, 256).login(), "reject no-certificate fail reject"},
		{proxy, here, "reject no-tls fail reject"}, // named expressly
		{proxy, here.tls(policy.TLS13, 256), "accept  pass accept"},
		{proxy, Arrival{}, "accept  pass accept"},
		{world, here, "accept  pass accept"}, // not named expressly
		{world, away, "reject no-tls fail reject"},
		{rule(func(r *Rule) { r.OnFail = policy.ActionDefer }), away, "defer no-tls fail defer"},
		{rule(func(r *Rule) { r.OnFail = policy.ActionHold }), away, "hold no-tls fail hold"},
		{rule(func(r *Rule) { r.OnFail = policy.ActionTag }), away, "accept no-tls fail accept"},
		{rule(func(r *Rule) { r.Mode = policy.Observe }), away, "accept no-tls observe reject"},
		{rule(func(r *Rule) { r.Mode = policy.Observe }), away.tls(policy.TLS13, 256), "accept  pass accept"},
		{rule(func(r *Rule) { r.MinVersion, r.MinBits = policy.TLS10, 0 }), away.tls(policy.TLS10, 0), "accept  pass accept"},
	} {
		j := c.rule.Judge(c.a)
		if got := fmt.Sprintf("%s %s %s %s", j.Verdict, j.Reason, j.Tag, j.Would); got != c.want {
			t.Errorf("%d: %q, want %q", i, got, c.want)
		}
	}
}

func TestReply(t *testing.T) {
	r := &Rule{MinVersion: policy.TLS13, MinBits: 256}
	to := addr.MustAddress("u@clinic.example")
	for _, c := range []struct {
		verdict policy.Verdict
		reason  Reason
		to      addr.Address
		help    string
		want    string
	}{
		{policy.Reject, NoTLS, to, "", "550 5.7.10 TLS required: STARTTLS must come first for mail to u@clinic.example"},
		{policy.Defer, NoTLS, to, "", "451 4.7.10 TLS required: STARTTLS must come first for mail to u@clinic.example"},
		{policy.Reject, WeakVersion, to, "", "550 5.7.10 TLS required: TLS 1.3 or later for mail to u@clinic.example"},
		{policy.Reject, WeakCipher, to, "", "550 5.7.10 TLS required: a cipher of 256 bits or more for mail to u@clinic.example"},
		{policy.Reject, NoCertificate, to, "", "550 5.7.10 TLS required: a client certificate that this site can verify for mail to u@clinic.example"},
		{policy.Reject, WrongCertificate, to, "https://h.example/", "550 5.7.10 TLS required: the client certificate agreed on for mail to u@clinic.example; see https://h.example/"},
		{policy.Reject, NoTLS, addr.MustAddress("müller@clinic.example"), "", "550 5.7.10 TLS required: STARTTLS must come first"},
		{policy.Reject, NoTLS, addr.MustAddress(strings.Repeat("u", 300) + "@clinic.example"), "", "550 5.7.10 TLS required: STARTTLS must come first"},
	} {
		if got := r.Reply(Judgement{Verdict: c.verdict, Reason: c.reason}, c.to, c.help).String(); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.verdict, c.reason, got, c.want)
		}
	}
	for _, v := range []policy.Verdict{policy.Accept, policy.Hold} {
		if got := r.Reply(Judgement{Verdict: v, Reason: NoTLS}, to, "https://h.example/"); got != (policy.Reply{}) {
			t.Errorf("%s: %s", v, got)
		}
	}
}

// parse makes rules of lines "name client|client from to", "-" for no selector.
func parse(t *testing.T, lines ...string) ([]*Rule, []value.Fault) {
	t.Helper()
	var tables []value.Table
	for i, line := range lines {
		f := strings.Fields(line)
		keys := map[string]value.Value{"name": {Line: i + 1, Any: f[0]}, "tls": {Line: i + 1, Any: "encrypt"}}
		for k, key := range []string{"client", "from", "to"} {
			if f[k+1] == "-" {
				continue
			}
			var list []value.Value
			for e := range strings.SplitSeq(f[k+1], "|") {
				list = append(list, value.Value{Line: i + 1, Any: e})
			}
			keys[key] = value.Value{Line: i + 1, Any: list}
		}
		if len(f) > 4 {
			day, err := time.ParseInLocation(time.DateOnly, f[4], time.FixedZone("date-local", 0))
			if err != nil {
				t.Fatal(err)
			}
			keys["until"] = value.Value{Line: i + 1, Any: day}
		}
		tables = append(tables, value.Table{Line: i + 1, Keys: keys})
	}
	return Parse(tables, now())
}

func now() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

func TestMatch(t *testing.T) {
	rs, faults := parse(t,
		"over 192.0.2.1 - - 2026-10-31",
		"both 192.0.2.0/24|@.insurer.example @insurer.example @clinic.example",
		"network 192.0.2.0/24 - -",
		"bounces - <> -",
		"recipient - - vip@clinic.example",
		"partner - @.partner.example -",
	)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	s := New(rs)
	for _, c := range []struct{ arrival, from, to, want string }{
		{"[192.0.2.1]", "x@insurer.example", "u@clinic.example", "both"},
		{"mx.insurer.example[198.51.100.1]", "x@insurer.example", "u@clinic.example", "both"},
		{"mx.insurer.example[198.51.100.1]", "x@insurer.example", "u@other.example", ""},
		{"[192.0.2.1]", "x@insurer.example", "u@other.example", "network"},
		{"[192.0.2.1]", "x@other.example", "u@clinic.example", "network"},
		{"[192.0.2.1]", "", "u@clinic.example", "network"},
		{"[198.51.100.1]", "", "u@clinic.example", "bounces"},
		{"[198.51.100.1]", "x@other.example", "VIP+x@clinic.example", "recipient"},
		{"[198.51.100.1]", "x@deep.partner.example", "u@clinic.example", "partner"},
		{"[198.51.100.1]", "x@other.example", "u@clinic.example", ""},
	} {
		sender, err := addr.ParsePath(c.from)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if r := s.Candidates(from(c.arrival), sender, now()).Match(addr.MustAddress(c.to)); r != nil {
			got = r.Name
		}
		if got != c.want {
			t.Errorf("%s %s %s: %q, want %q", c.arrival, c.from, c.to, got, c.want)
		}
	}
	if got := (*Set)(nil).Candidates(from("[192.0.2.1]"), addr.Address{}, now()); got != nil {
		t.Errorf("no set: %v", got)
	}
}

// A set demands something while one of its rules does.
func TestDemands(t *testing.T) {
	rs, faults := parse(t, "watched 192.0.2.1 - -", "tagged 192.0.2.2 - -", "free 192.0.2.3 - -", "over 192.0.2.4 - - 2026-10-31")
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	rs[0].Mode, rs[1].OnFail, rs[2].Level = policy.Observe, policy.ActionTag, May
	if New(rs).Demands(now()) {
		t.Error("rules that only watch, tag, except or are over demand something")
	}
	if !New(rs).Demands(now().AddDate(0, 0, -1)) {
		t.Error("a rule in force demands nothing")
	}
}

func TestUnreachable(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{[]string{"a - - -", "b 192.0.2.1 - -"}, `inbound rule "b": unreachable: rule "a" on line 1 decides before it`},
		{[]string{"a * * *", "b - - -"}, `inbound rule "b": unreachable: rule "a" on line 1 decides before it`},
		{[]string{"a 192.0.2.0/24|@.b.example - @c.example", "b 192.0.2.1|mx.b.example x@y.example u@c.example"}, `inbound rule "b": unreachable: rule "a" on line 1 decides before it`},
		{[]string{"a 192.0.2.0/24 - @c.example", "b 192.0.2.1|mx.b.example - @c.example"}, ""},
		{[]string{"a 192.0.2.0/24 - -", "b - - -"}, ""},
		{[]string{"a - @x.example -", "b - - -"}, ""},
		{[]string{"a - - @c.example", "b - - @.c.example"}, ""},
		{[]string{"a - - - 2027-01-01", "b - - -"}, ""}, // comes into its own
		{[]string{"a - - -", "b - - - 2026-10-31"}, ""}, // is over
	} {
		_, faults := parse(t, c.lines...)
		got := ""
		for _, f := range faults {
			got += f.Text
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.lines, got, c.want)
		}
	}
}
