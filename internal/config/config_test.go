package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

const ruleFiles = "../../testdata/rules"

// now is before every day that the good files name as a last one, except "over".
func now() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

// files returns the files of a folder of cases by name.
func files(t testing.TB, folder string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(ruleFiles, folder, "*.toml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases in %s (%v)", folder, err)
	}
	found := map[string][]byte{}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		found[filepath.Base(p)] = data
	}
	return found
}

func TestBadFiles(t *testing.T) {
	for name, data := range files(t, "bad") {
		t.Run(name, func(t *testing.T) {
			var want []string
			for line := range strings.Lines(string(data)) {
				text, ok := strings.CutPrefix(strings.TrimPrefix(line, "\ufeff"), "# want: ")
				if !ok {
					break
				}
				want = append(want, name+":"+strings.TrimSuffix(text, "\n"))
			}
			if len(want) == 0 {
				t.Fatal("no want")
			}
			c, err := Parse(name, data, now())
			var faults *Error
			if c != nil || !errors.As(err, &faults) {
				t.Fatalf("%+v, %v; want faults", c, err)
			}
			if got := err.Error(); got != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

func TestGoodFiles(t *testing.T) {
	for name, data := range files(t, "good") {
		if _, err := Parse(name, data, now()); err != nil {
			t.Error(err)
		}
	}
}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("test.toml", []byte(text), now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhole(t *testing.T) {
	c := parse(t, string(files(t, "good")["whole.toml"]))
	r := c.Rules.Rules()[1]
	same := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	same("milter", c.Milter, Milter{Endpoint{"unix", "/var/spool/postfix/tlsonly/milter.sock"}, 15 * time.Second,
		"https://help.example.com/tls", true, "off", false, true, 500})
	same("log", c.Log, Log{true, slog.LevelWarn, true})
	same("socketmap", c.Socketmap, Socketmap{Endpoint{}, "3.10", 3000})
	same("http", c.HTTP, HTTP{"192.0.2.1:8691", "$2y$12$WApznUPhDubN0oeveSXHp.JOGRMWAVVXrAzRRcZQSnzDbkzuaPXJO", "/etc/ssl/status.pem",
		"/etc/ssl/private/status.key", false})
	same("binding", c.Binding, Binding{"table", "off", "others", "bounce", 8 * 24 * time.Hour, 30 * time.Second})
	same("dns", c.DNS, DNS{"127.0.0.1:5353", "on", false})
	same("probe", c.Probe, Probe{"mail.example.com", 2525, 10 * time.Second, 6 * time.Second, 32, 2, "", true})
	same("cache", c.Cache, Cache{12 * time.Hour, 5 * time.Minute, 30 * time.Second})
	same("rule's from", r.From, []addr.Pattern{addr.MustPattern("@clinic.example"), addr.MustPattern("billing@example.com")})
	same("rule's user", r.User, []string{"alice"})
	same("rule's to", r.To, []addr.Pattern{addr.MustPattern("*")})
	same("rule's demand", r.Demand(), policy.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS13, MinBits: 256, Match: []addr.Domain{}})
	same("rule's on_fail", r.OnFail, policy.ActionHold)
	same("rule's on_unknown", r.OnUnknown, policy.ActionAccept)
	same("rule's mode", r.Mode, policy.Observe)
	same("rule's line", r.Line, 85)
	same("rule's pin", r.Pin, false)
	same("store", c.Store, Store{"sqlite:///var/lib/tlsonly/tlsonly.db", 365 * 24 * time.Hour})
	same("monitor", c.Monitor, Monitor{12 * time.Hour, 30 * 24 * time.Hour})
	same("notify", c.Notify, Notify{[]string{"/bin/true", "x y"}, addr.MustAddress("postmaster@example.com")})
	first := c.Rules.Rules()[0]
	same("reason", first.Why, "contract 4711")
	same("until", first.Until, time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC))
	in := c.Inbound.Rules()[1]
	same("inbound's client", fmt.Sprint(in.Client), "[mail.insurer.example @.insurer.example 192.0.2.0/24 2001:db8::1 198.51.100.7]")
	same("inbound's from", in.From, []addr.Pattern{addr.MustPattern("@insurer.example"), addr.MustPattern("<>")})
	same("inbound's to", in.To, []addr.Pattern{addr.MustPattern("@clinic.example"), addr.MustPattern("claims@example.com")})
	same("inbound's demand", fmt.Sprintln(in.Level, in.MinVersion, in.MinBits, in.OnFail, in.Mode), "verified 1.3 256 hold observe\n")
	same("inbound's cert", in.Cert, []string{"insurer gateway 1", "mail.insurer.example"})
	same("inbound's until", in.Until, time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC))
	same("inbound's reason", in.Why, "contract 4712")
	for d, want := range map[string]bool{"example.com": true, "xn--bcher-kva.example": true, "sub.example.com": false} {
		same("local "+d, c.Forwarding.IsLocal(addr.MustDomain(d)), want)
	}
}

func TestDefaults(t *testing.T) {
	c := parse(t, "")
	want := Default()
	want.name = "test.toml"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("empty file: %+v, want %+v", c, want)
	}
	if got := c.Milter.Listen.String(); got != "inet:127.0.0.1:8689" {
		t.Errorf("listen %s", got)
	}
	r := parse(t, "[[rule]]\nname = 'a'\ntls = 'encrypt'").Rules.Rules()[0]
	if r.MinVersion != policy.TLS12 || r.MinBits != 128 || r.OnFail != policy.ActionReject ||
		r.OnUnknown != policy.ActionDefer || r.Mode != policy.Enforce || !r.Until.IsZero() || r.To != nil || r.Line != 1 {
		t.Errorf("rule of defaults: %+v", r)
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"inet:127.0.0.1:8689":          "inet:127.0.0.1:8689",
		"inet:8689@127.0.0.1":          "inet:127.0.0.1:8689", // Sendmail
		"inet:8689@[127.0.0.1]":        "inet:127.0.0.1:8689",
		"inet:localhost:0":             "inet:localhost:0",
		"inet:[::1]:8689":              "inet:[::1]:8689",
		"inet6:8689@::1":               "inet:[::1]:8689",
		"inet6:[::1]:8689":             "inet:[::1]:8689",
		"unix:/run/tlsonly/milter":     "unix:/run/tlsonly/milter",
		"local:/run/tlsonly/milter":    "unix:/run/tlsonly/milter",
		"unix:/run/tlsonly/a@b:c.sock": "unix:/run/tlsonly/a@b:c.sock",
	} {
		if got := parse(t, "[milter]\nlisten = '"+in+"'").Milter.Listen.String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestResolver(t *testing.T) {
	for in, want := range map[string]string{
		"":                "",
		"127.0.0.1":       "127.0.0.1:53",
		"192.0.2.1:5353":  "192.0.2.1:5353",
		"::1":             "[::1]:53",
		"[2001:db8::1]:5": "[2001:db8::1]:5",
	} {
		if got := parse(t, "[dns]\nresolver = '"+in+"'").DNS.Resolver; got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestRelay(t *testing.T) {
	c := parse(t, `[relay]
"*" = "[smart.example]:587"
"a.example" = "mx.a.example"
".a.example" = "[192.0.2.1]"
".deep.a.example" = "deep.example:26"
"BÜCHER.example" = "books.example"`)
	for domain, want := range map[string]string{
		"a.example":               "mx.a.example",
		"b.a.example":             "[192.0.2.1]",
		"c.b.a.example":           "[192.0.2.1]",
		"deep.a.example":          "[192.0.2.1]",
		"x.deep.a.example":        "deep.example:26",
		"xn--bcher-kva.example":   "books.example",
		"a.xn--bcher-kva.example": "[smart.example]:587",
		"[192.0.2.9]":             "[smart.example]:587",
		"aa.example":              "[smart.example]:587",
	} {
		hop, ok := c.Relay.For(addr.MustDomain(domain))
		if !ok || hop != addr.MustDestination(want) {
			t.Errorf("%s: %s %v, want %s", domain, hop, ok, want)
		}
	}
	if hop, ok := (Relay{}).For(addr.MustDomain("a.example")); ok {
		t.Errorf("no relay: %s", hop)
	}
}

// TestUntil: a rule ends with its last day, where the daemon is.
func TestUntil(t *testing.T) {
	zone := time.FixedZone("there", -5*3600)
	for in, want := range map[string]string{
		"2027-01-31":                "2027-02-01",
		"2027-12-31":                "2028-01-01",
		"2027-01-31T23:59:59":       "2027-02-01",
		"2027-01-31T02:00:00Z":      "2027-01-31", // the evening before, there
		"2027-01-31T23:00:00-05:00": "2027-02-01",
	} {
		c, err := Parse("t", []byte("[[rule]]\nname = 'a'\ntls = 'may'\nuntil = "+in), now().In(zone))
		if err != nil {
			t.Fatal(err)
		}
		midnight, _ := time.ParseInLocation(time.DateOnly, want, zone)
		if got := c.Rules.Rules()[0].Until; !got.Equal(midnight) {
			t.Errorf("%s: until %s, want %s", in, got, midnight)
		}
	}
}

func TestWarnings(t *testing.T) {
	const a = "[[rule]]\nname = 'a'\nfrom = ['@a.example']\ntls = 'encrypt'\n"
	const to = "to = ['x@far.example']\n"
	rule := func(name, lines string) string { return "[[rule]]\nname = '" + name + "'\n" + lines }
	const in = "[[inbound]]\nname = 'i'\ntls = 'encrypt'\n"
	for _, c := range []struct{ text, want string }{
		{a, ""},
		{in + "client = ['192.0.2.1']", ""},
		{in + "from = ['@b.example']\nuntil = 2026-11-14", `t:1: inbound rule "i": ends with 2026-11-14`},
		{"[[inbound]]\nname = 'o'\nto = ['*']\ntls = 'encrypt'\nuntil = 2026-10-31\n" + a, `t:1: inbound rule "o": ended with 2026-10-31`},
		{in, `t:1: inbound rule "i": names no client, sender or recipient, so it requires TLS of everybody, which a public mail server must not ` +
			`(RFC 3207, section 4); if you mean that, write client = ["*"]`},
		{in + "client = ['*']", ""},
		{in + "client = ['*']\non_fail = 'tag'", `t:1: inbound rule "i": on_fail = "tag" shows only in the log, because [milter] inbound_header is off`},
		{"[milter]\ninbound_header = true\n" + in + "client = ['*']\non_fail = 'tag'", ""},
		{in + "mode = 'observe'\nto = ['*']", ""},
		{"[[inbound]]\nname = 'i'\ntls = 'may'\n", "t:1: no rule requires TLS, so nobody's mail is protected"},
		{"", "t:1: no rule requires TLS, so nobody's mail is protected"},
		{rule("b", "from = ['*']\ntls = 'may'\nuntil = 'never'"), "t:1: no rule requires TLS, so nobody's mail is protected"},
		{rule("b", "tls = 'encrypt'"), `t:1: rule "b": names no sender, so it applies to all mail; if you mean that, write from = ["*"]`},
		{rule("b", "from = ['*']\ntls = 'encrypt'"), ""},
		{a + "mode = 'observe'\n", `t:1: 1 rule only observes, so it protects nobody ("a")`},
		{a + "mode = 'observe'\n" + rule("b", "from = ['@b.example']\ntls = 'encrypt'\nmode = 'observe'"), `t:1: 2 rules only observe, so they protect nobody ("a", "b")`},
		{a + rule("b", "from = ['@b.example']\ntls = 'may'\nmode = 'observe'"), ""},
		{rule("b", "from = ['prvs=1234abcdef=x@a.example']\ntls = 'encrypt'"), `t:1: rule "b": names prvs=1234abcdef=x@a.example, which counts as x@a.example: name that address`},
		{rule("b", "from = ['SRS0=H=TT=b.example=x@a.example']\ntls = 'encrypt'"), `t:1: rule "b": names srs0=h=tt=b.example=x@a.example, which counts as x@b.example: name that address`},
		{rule("b", "from = ['list+u=far.example@a.example', 'prvs=x=y@a.example']\ntls = 'encrypt'"), ""},
		{"[senders]\nsrs = 'match'\n" + a, `t:3: rule "a": names a whole domain, and [senders] srs = "match", so it also binds strangers' mail that is forwarded under an SRS address of that domain`},
		{"[senders]\nsrs = 'match'\n" + rule("b", "from = ['x@a.example']\ntls = 'encrypt'"), ""},
		{a + "until = 2026-11-14", `t:1: rule "a": ends with 2026-11-14`},
		{rule("b", "from = ['@a.example']\nto = ['@far.example']\ntls = 'may'\n") + a, `t:1: rule "b": lets mail leave in the clear, and has no end: ` +
			`write until = 2027-01-31, or until = "never" if you mean that`},
		{rule("b", "from = ['@a.example']\nto = ['@far.example']\ntls = 'may'\nuntil = 'never'\n") + a, ""},
		{rule("b", "from = ['@a.example']\nto = ['@far.example']\ntls = 'may'\nuntil = 2027-10-31\n") + a, ""},
		{a + "until = 2026-11-15", ""},
		{a + "until = 2026-11-01", `t:1: rule "a": ends with 2026-11-01`},
		{rule("b", "until = 2026-10-31\ntls = 'may'\n") + a, `t:1: rule "b": ended with 2026-10-31`},
		{rule("b", "from = ['@a.example']\n"+to+"tls = 'may'\nuntil = 'never'\n") + a, `t:1: rule "b": requires may for single addresses of far.example, ` +
			`and rule "a" on line 7 requires encrypt: at delivery the strictest applies to the whole domain`},
		{rule("b", "user = ['u']\n"+to+"tls = 'none'\nuntil = 'never'\n") + a, `t:1: rule "b": requires none for single addresses of far.example, ` +
			`and rule "a" on line 7 requires encrypt: at delivery the strictest applies to the whole domain`},
		{"[socketmap]\nlisten = ''\n" + a, "t:1: [socketmap] listen is off, so nothing binds the MTA at delivery"},
		{"[binding]\nothers = 'off'\n" + a, ""},
		{"[binding]\nothers = 'off'\n" + rule("b", "user = ['u']\ntls = 'encrypt'"), `t:3: rule "b": names logins, which the MTA doesn't know at delivery, ` +
			`and with [binding] others = "off" demands of their mail don't count, so it may leave in the clear`},
		{rule("b", "from = ['@b.example']\n"+to+"tls = 'may'\nuntil = 'never'\n") + a, ""},                  // other senders
		{rule("b", "from = ['@a.example']\n"+to+"tls = 'encrypt'\n") + a, ""},                               // the same demand
		{rule("b", "from = ['@a.example']\nto = ['@far.example']\ntls = 'may'\nuntil = 'never'\n") + a, ""}, // a whole domain
		{rule("b", "from = ['@a.example']\n"+to+"tls = 'may'\nuntil = 'never'\n") + a + "to = ['@near.example']\n", ""},
	} {
		parsed, err := Parse("t", []byte(c.text), now())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range Warnings(parsed, now()) {
			got = append(got, f.String())
		}
		if strings.Join(got, "\n") != c.want {
			t.Errorf("%s\ngot  %q\nwant %q", c.text, got, c.want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tlsonly.toml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("[milter]\nheaders = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || err.Error() != path+":2: [milter] headers 1: want true or false, without quotes" {
		t.Errorf("bad file: %v", err)
	}
	if _, err := Load(filepath.Dir(path)); err == nil {
		t.Error("a folder was read")
	}
	if _, err := Parse("big", make([]byte, maxSize+1), now()); err == nil || err.Error() != "big:1: larger than 16 MiB" {
		t.Errorf("big file: %v", err)
	}
}

// TestManyRules: an unreachable rule is found among many that share a selector with it.
func TestManyRules(t *testing.T) {
	var b strings.Builder
	const n = 20_000
	for i := range n {
		fmt.Fprintf(&b, "[[rule]]\nname = \"%d\"\nfrom = [\"u%d@a.example\", \"@a%d.example\"]\nto = [\"@b%d.example\"]\ntls = \"encrypt\"\n", i, i%100, i, i)
	}
	b.WriteString("[[rule]]\nname = \"last\"\nfrom = [\"u7@a.example\"]\nto = [\"x@b107.example\"]\ntls = \"may\"\n")
	_, err := Parse("many", []byte(b.String()), now())
	if want := fmt.Sprintf(`many:%d: rule "last": unreachable: rule "107" on line 536 decides before it`, 5*n+1); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, folder := range []string{"bad", "good"} {
		for _, data := range files(f, folder) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data, now())
		again, errAgain := Parse("f", data, now())
		if !reflect.DeepEqual(c, again) || !reflect.DeepEqual(err, errAgain) {
			t.Fatalf("differs the second time: %v, %v", err, errAgain)
		}
		if err == nil {
			Warnings(c, now())
			return
		}
		var faults *Error
		if !errors.As(err, &faults) || len(faults.Faults) == 0 {
			t.Fatalf("no faults: %v", err)
		}
		lines := strings.Count(string(data), "\n") + 1
		for i, fault := range faults.Faults {
			if fault.Line < 1 || fault.Line > lines {
				t.Errorf("line %d of %d: %s", fault.Line, lines, fault.Text)
			}
			if i > 0 && fault.Line < faults.Faults[i-1].Line {
				t.Error("not sorted:", err)
			}
		}
	})
}

func TestAcceptances(t *testing.T) {
	c, err := Parse("x", []byte("[doctor]\naccept = [\"route-local  it stays here\", \"filter-access:/etc/postfix/x:3 judged, see the wiki\"]\n"), now())
	if err != nil {
		t.Fatal(err)
	}
	want := []Acceptance{{"route-local", "", "it stays here"}, {"filter-access", "/etc/postfix/x:3", "judged, see the wiki"}}
	if !slices.Equal(c.Doctor.Accept, want) || c.Doctor.Accept[1].String() != "filter-access:/etc/postfix/x:3" {
		t.Errorf("%+v, want %+v", c.Doctor.Accept, want)
	}
}

// What [senders] says is what rules go by, until the MTA has been asked.
func TestSenders(t *testing.T) {
	parse := func(text string) *Config {
		t.Helper()
		c, err := Parse("t", []byte(text+"[[rule]]\nname = 'a'\nfrom = ['@a.example']\ntls = 'encrypt'\n"), now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		text, mta string
		want      addr.Forms
	}{
		{"", "", addr.Forms{}},
		{"", "+-", addr.Forms{Delimiter: "-"}},
		{"[senders]\nsrs = 'match'\n", "_", addr.Forms{Delimiter: "_", SRS: addr.SRSMatch}},
		{"[senders]\nsrs = 'ignore'\ndelimiter = ''\n", "-", addr.Forms{}},
		{"[senders]\ndelimiter = '-'\n", "_", addr.Forms{Delimiter: "-"}},
	} {
		if got := parse(c.text).WithDelimiter(c.mta).Rules.Forms(); got != c.want {
			t.Errorf("%q, %q of the MTA: %+v, want %+v", c.text, c.mta, got, c.want)
		}
	}
	for _, text := range []string{"[senders]\nsrs = 'maybe'\n", "[senders]\ndelimiter = 'x'\n", "[senders]\ndelimiter = '@'\n", "[senders]\ndelimiter = 1\n"} {
		if _, err := Parse("t", []byte(text), now()); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// The file takes the URLs that store.Open opens, and no others.
func TestStoreURL(t *testing.T) {
	for url, good := range map[string]bool{
		"sqlite:///var/lib/tlsonly/tlsonly.db": true, "postgres://db.example/tlsonly": true, "postgresql://db.example/tlsonly": true,
		"sqlite://tlsonly.db": false, "mysql://db.example/tlsonly": false, "/var/lib/tlsonly.db": false, "POSTGRES": false,
	} {
		c, err := Parse("x.toml", []byte(fmt.Sprintf("[store]\nurl = %q\n", url)), now())
		if good != (err == nil) || good && c.Store.URL != url {
			t.Errorf("%s: %v", url, err)
		}
	}
}
