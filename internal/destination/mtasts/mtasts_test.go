package mtasts

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

func TestMain(m *testing.M) {
	// Whoever asked the environment for a proxy would reach no policy host.
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		if err := os.Setenv(name, "http://127.0.0.1:9"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

var records = []struct {
	txt  []string
	id   string
	want string // "", "none" or what the error contains
}{
	{[]string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z", ""},
	{[]string{"v=STSv1;id=a"}, "a", ""},
	{[]string{"v=STSv1 \t; \tid=a \t; \t"}, "a", ""},
	{[]string{"v=STSv1; x-1.a_b=!$<>:~; id=a"}, "a", ""},
	{[]string{"v=STSv1; id=a; id=b!"}, "a", ""}, // RFC 8461, section 3.2: the first counts
	{[]string{"v=STSv1; id=" + strings.Repeat("Z", 32)}, strings.Repeat("Z", 32), ""},
	{[]string{"v=spf1 -all", "v=STSv1; id=a", "v=STSv2; id=b", ""}, "a", ""},
	{nil, "", "none"},
	{[]string{"", "v=spf1 -all"}, "", "none"},
	{[]string{"v=STSv10; id=a"}, "", "begin with"},
	{[]string{"v=STSv1"}, "", "begin with"}, // not "v=STSv1;"
	{[]string{"v=STSv1 id=a;"}, "", "begin with"},
	{[]string{"v=spf1 -all", "\"v=STSv1; id=a\""}, "", "begin with"},
	{[]string{"v=stsv1; id=a", "v=STSv1; id=b"}, "b", ""},
	{[]string{" v=STSv1; id=a"}, "", "begin with"},
	{[]string{"id=a; v=STSv1;"}, "", "begin with"},
	{[]string{"V=STSV1; id=a"}, "", "begin with"}, // the grammar's literals have a case
	{[]string{"v=STSv1; id=a", "v=STSv1; id=a"}, "", "several"},
	{[]string{"v=STSv1; id=a", "v=STSv1; bad"}, "", "several"},
	{[]string{"v=STSv1; bad", "v=STSv1; id=a"}, "", "several"},
	{[]string{"v=STSv1;"}, "", "name=value"},
	{[]string{"v=STSv1; "}, "", "name=value"},
	{[]string{"v=STSv1; x=1"}, "", "no id"},
	{[]string{"v=STSv1; ID=a"}, "", "no id"},
	{[]string{"v=STSv1; id="}, "", "name=value"},
	{[]string{"v=STSv1; id=a;;"}, "", "name=value"},
	{[]string{"v=STSv1;; id=a"}, "", "name=value"},
	{[]string{"v=STSv1; id=a b"}, "", "name=value"},
	{[]string{"v=STSv1; id =a"}, "", "name=value"},
	{[]string{"v=STSv1; id=a; x=b=c"}, "", "name=value"},
	{[]string{"v=STSv1; id=a; -x=b"}, "", "name=value"},
	{[]string{"v=STSv1; id=a; x=\x7f"}, "", "name=value"},
	{[]string{"v=STSv1; id=a; " + strings.Repeat("x", 33) + "=b"}, "", "name=value"},
	{[]string{"v=STSv1; id=a-b"}, "", "letters and digits"},
	{[]string{"v=STSv1; id=" + strings.Repeat("Z", 33)}, "", "letters and digits"},
}

func TestParseRecord(t *testing.T) {
	for _, c := range records {
		id, found, err := ParseRecord(c.txt)
		switch c.want {
		case "":
			if id != c.id || !found || err != nil {
				t.Errorf("%q: %q, %t, %v; want %q", c.txt, id, found, err, c.id)
			}
		case "none":
			if id != "" || found || err != nil {
				t.Errorf("%q: %q, %t, %v; want no record", c.txt, id, found, err)
			}
		default:
			if id != "" || !found || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %q, %t, %v; want an error with %q", c.txt, id, found, err, c.want)
			}
			if errors.Is(err, ErrSeveral) != (c.want == "several") {
				t.Errorf("%q: %v", c.txt, err)
			}
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, c := range records {
		f.Add(strings.Join(c.txt, "\n"))
	}
	id := regexp.MustCompile(`^[A-Za-z0-9]{1,32}$`)
	f.Fuzz(func(t *testing.T, s string) {
		txt := strings.Split(s, "\n")
		got, found, err := ParseRecord(txt)
		if (got != "") != (found && err == nil) || got != "" && !id.MatchString(got) || err != nil && !found {
			t.Fatalf("%q: %q, %t, %v", txt, got, found, err)
		}
		// What isn't a record changes nothing, and another record spoils all.
		again, foundAgain, errAgain := ParseRecord(append([]string{"v=spf1 -all"}, txt...))
		if again != got || foundAgain != found || (errAgain == nil) != (err == nil) {
			t.Errorf("%q beside another record: %q, %t, %v; alone %q, %t, %v", txt, again, foundAgain, errAgain, got, found, err)
		}
		// One that only was meant to be a record doesn't spoil one that is.
		record := found && !(err != nil && strings.Contains(err.Error(), "want it to begin"))
		if _, _, err := ParseRecord(append(txt, "v=STSv1; id=x")); errors.Is(err, ErrSeveral) != record {
			t.Errorf("%q beside another of its kind: %v", txt, err)
		}
	})
}

const week = 604800 * time.Second

var goodPolicies = []struct {
	text string
	want Policy
}{
	{"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n",
		Policy{policy.STSEnforce, []string{"mail.example.com", "*.example.net"}, week}},
	{"version: STSv1\nmode: testing\nmx: a.example\nmax_age: 604800", Policy{policy.STSTesting, []string{"a.example"}, week}},
	{"max_age:604800\nmx:a.example\r\nmode:\t enforce \t\nversion:STSv1 ", Policy{policy.STSEnforce, []string{"a.example"}, week}},
	{"\n\nversion: STSv1\n\r\nmode: none\n \nmax_age: 0\n\n\n", Policy{policy.STSNone, nil, 0}},
	{"version: STSv1\nmode: none\nmx: a.example\nmax_age: 1\n", Policy{policy.STSNone, []string{"a.example"}, time.Second}},
	// The first of a key that is repeated counts, whatever the others are.
	{"version: STSv1\nversion: STSv2\nmode: enforce\nmode: none\nmode: x\nmx: a.example\nmax_age: 604800\nmax_age: -1\n",
		Policy{policy.STSEnforce, []string{"a.example"}, week}},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 604800\nx-new: a: b=c;\xc3\xa4\nMode: none\nempty:\n",
		Policy{policy.STSEnforce, []string{"a.example"}, week}},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 31557600\n", Policy{policy.STSEnforce, []string{"a.example"}, MaxAge}},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 9999999999\n", Policy{policy.STSEnforce, []string{"a.example"}, MaxAge}},
	{"version: STSv1\nmode: enforce\nmx: MX.Example.COM.\nmx: *.XN--BCHER-KVA.example\nmx: _mx.example\nmax_age: 604800\n",
		Policy{policy.STSEnforce, []string{"mx.example.com", "*.xn--bcher-kva.example", "_mx.example"}, week}},
}

var badPolicies = []struct{ text, want string }{
	{"", "version"},
	{"<html><body>no</body></html>", "line 1"},
	{"mode: enforce\nmx: a.example\nmax_age: 1\n", "version"},
	{"version: STSv2\nversion: STSv1\nmode: none\nmax_age: 1\n", "version"},
	{"version: stsv1\nmode: none\nmax_age: 1\n", "version"},
	{"version: STSv1\nmx: a.example\nmax_age: 1\n", "mode"},
	{"version: STSv1\nmode: Enforce\nmx: a.example\nmax_age: 1\n", "mode"},
	{"version: STSv1\nmode:\nmx: a.example\nmax_age: 1\n", "mode"},
	{"version: STSv1\nmode: enforce\nmx: a.example\n", "max_age"},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1\n", "max_age"},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: +1\n", "max_age"},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1d\n", "max_age"},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1.5\n", "max_age"},
	{"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 00000000001\n", "max_age"},
	{"version: STSv1\nmode: enforce\nmax_age: 1\n", "without mx"},
	{"version: STSv1\nmode: testing\nmax_age: 1\n", "without mx"},
	{"version: STSv1\nmode: enforce\nmx: bücher.example\nmax_age: 1\n", "A-labels"},
	{"version: STSv1\nmode: enforce\nmx: \nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: a.example, b.example\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: *\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: *.\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: .example.com\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: *.*.example\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: a.*.example\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: m*.example\nmax_age: 1\n", "line 3: mx"},
	{"version: STSv1\nmode: enforce\nmx: [192.0.2.1]\nmax_age: 1\n", "literal"},
	{"version: STSv1\nmode: enforce\nmx: *.[192.0.2.1]\nmax_age: 1\n", "literal"},
	{"version: STSv1\nmode enforce\nmx: a.example\nmax_age: 1\n", "line 2"},
	{"version: STSv1\nmode : enforce\nmx: a.example\nmax_age: 1\n", "line 2"},
	{"version: STSv1\n mode: enforce\nmx: a.example\nmax_age: 1\n", "line 2"},
	{"version: STSv1\rmode: enforce\rmx: a.example\rmax_age: 1\r", "control character"},
	{"version: STSv1\nmode: none\nmax_age: 1\nx: a\x00b\n", "control character"},
	{"\xef\xbb\xbfversion: STSv1\nmode: none\nmax_age: 1\n", "line 1"}, // a byte order mark isn't in the grammar
}

func TestParsePolicy(t *testing.T) {
	for _, c := range goodPolicies {
		if got, err := ParsePolicy([]byte(c.text)); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.text, got, err, c.want)
		}
	}
	for _, c := range badPolicies {
		if got, err := ParsePolicy([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %+v, %v; want an error with %q", c.text, got, err, c.want)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, c := range goodPolicies {
		f.Add([]byte(c.text))
	}
	for _, c := range badPolicies {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy(text)
		if err != nil {
			if !reflect.DeepEqual(p, Policy{}) {
				t.Errorf("%q: %+v with an error", text, p)
			}
			return
		}
		written := fmt.Sprintf("version: STSv1\r\nmode: %s\r\nmax_age: %d\r\n", p.Mode, p.MaxAge/time.Second)
		for _, mx := range p.MX {
			written += "mx: " + mx + "\r\n"
		}
		if again, err := ParsePolicy([]byte(written)); err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%q: %+v; written and read again %+v, %v", text, p, again, err)
		}
		if p.MaxAge < 0 || p.MaxAge > MaxAge || len(p.MX) == 0 && p.Mode != policy.STSNone {
			t.Errorf("%q: %+v", text, p)
		}
		for _, mx := range p.MX {
			if d, err := addr.ParseDomain(strings.TrimPrefix(mx, "*.")); err != nil || d.IsLiteral() || !strings.HasSuffix(mx, d.String()) {
				t.Errorf("%q: mx %q", text, mx)
			}
		}
	})
}
