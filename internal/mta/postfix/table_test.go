package postfix

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet/rig"
	"tlsonly/rules"
)

func TestSenderTable(t *testing.T) {
	p := addr.MustPattern
	got := senderTable([]Entry{
		{p("*"), "tlsonly5"}, {p("@.example.com"), "tlsonly2"}, {p("@.a.example.com"), "tlsonly3"}, {p("@example.com"), "tlsonly1"}, {p("<>"), "tlsonly4"},
		{p("alice@example.com"), ""}, {p("alice+x@example.com"), "tlsonly1"}, {p(`"a \"b"@example.com`), "tlsonly1"}, {p("o'b/c@bücher.example"), "tlsonly1"},
		{p("@[192.0.2.1]"), "tlsonly1"},
	})
	want := `/^"?(prvs=|msprvs1=|btv1==)(.*=)?alice\+x([=+].*|\/.*)?"?@example\.com\.?$/ tlsonly:
/^"?(.*\+)?srs[01]?[-=+].*=example\.com=.*@/ tlsonly:
/^"?(prvs=|msprvs1=|btv1==)(.*=)?o'b\/c([=+].*|\/.*)?"?@xn--bcher-kva\.example\.?$/ tlsonly:
/^"?(.*\+)?srs[01]?[-=+].*=xn--bcher-kva\.example=.*@/ tlsonly:
/^"?(prvs=|msprvs1=|btv1==)(.*=)?o'b\/c([=+].*|\/.*)?"?@bücher\.example\.?$/ tlsonly:
/^"?(.*\+)?srs[01]?[-=+].*=bücher\.example=.*@/ tlsonly:
/^"?(prvs=|msprvs1=|btv1==)(.*=)?a "b([=+].*|\/.*)?"?@example\.com\.?$/ tlsonly:
/^"?(.*\+)?srs[01]?[-=+].*[=.]a\.example\.com=.*@/ tlsonly:
/^"?(.*\+)?srs[01]?[-=+].*[=.]example\.com=.*@/ tlsonly:
/^(alice\+x|"alice\+x")@example\.com\.?$/ tlsonly1:
/^(o'b\/c(\+.*)?|"o'b\/c(\+.*)?")@xn--bcher-kva\.example\.?$/ tlsonly1:
/^(o'b\/c(\+.*)?|"o'b\/c(\+.*)?")@bücher\.example\.?$/ tlsonly1:
/^(alice(\+.*)?|"alice(\+.*)?")@example\.com\.?$/ DUNNO
/^(a \\"b(\+.*)?|"a \\"b(\+.*)?")@example\.com\.?$/ tlsonly1:
/[^ -~].*@example\.com\.?$/ tlsonly:
/[^ -~].*@xn--bcher-kva\.example\.?$/ tlsonly:
/[^ -~].*@bücher\.example\.?$/ tlsonly:
/^("<>"|<>)?$/ tlsonly4:
/@example\.com\.?$/ tlsonly1:
/@\[192\.0\.2\.1\]\.?$/ tlsonly1:
/@[^@]*[^ -~][^@]*$/ tlsonly:
/@\[/ tlsonly:
/[@.]a\.example\.com\.?$/ tlsonly3:
/[@.]example\.com\.?$/ tlsonly2:
/^/ tlsonly5:
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What an admin must know of a table is said when it is written.
func TestSenderTableNotes(t *testing.T) {
	s := inet()
	s.Senders = contract.SendersTable
	for _, p := range []string{"@clinic.example", "jürgen@clinic.example", "@bücher.example", "@.xn--bcher-kva.example", "@[192.0.2.1]", "<>", "*"} {
		s.Table = append(s.Table, Entry{addr.MustPattern(p), "tlsonly1"})
	}
	s.Ends = []string{`rule "x" ends with 2027-01-31`}
	setup, err := Plan(s, facts(t, "3.7.11", nil))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(setup.Notes, "\n")
	for _, want := range []string{
		"run setup again when senders in them change",
		"all forms of jürgen@clinic.example, @xn--bcher-kva.example, @.xn--bcher-kva.example, @[192.0.2.1]: ",
		`rule "x" ends with 2027-01-31: its senders stay in the table until setup is run again`,
		`[binding] others = "off" takes that away, too`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no note %q in\n%s", want, got)
		}
	}
	s.Table, s.Ends, s.Others = s.Table[:1], nil, contract.OthersOff
	if setup, err = Plan(s, facts(t, "3.7.11", nil)); err != nil || len(setup.Notes) != 1 {
		t.Errorf("notes %q, %v", setup.Notes, err)
	}
}

// A line is a line of a regexp_table(5), as Postfix reads it: byte by byte, folding the letters of ASCII.
type line struct {
	re     *regexp.Regexp
	answer string
}

func lines(t *testing.T, table string) []line {
	t.Helper()
	var found []line
	for text := range strings.Lines(table) {
		i := strings.LastIndex(text, "/ ")
		if strings.Contains(strings.ReplaceAll(text[1:i], `\/`, ""), "/") {
			t.Fatalf("%s: Postfix takes the first slash for the end", text)
		}
		re, err := regexp.Compile(bytewise(text[1:i]))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		found = append(found, line{re, strings.TrimSpace(text[i+2:])})
	}
	return found
}

// bytewise makes a letter of each byte.
func bytewise(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b.WriteRune(rune(c))
	}
	return b.String()
}

func answer(table []line, key string) string {
	for _, l := range table {
		if l.re.MatchString(bytewise(key)) {
			return l.answer
		}
	}
	return ""
}

// lookUp asks as Postfix does: for the address quoted where it must be, then without quotes.
func lookUp(table []line, a addr.Address) string {
	if a.IsNull() {
		return cmp.Or(answer(table, `"<>"`), answer(table, "<>"))
	}
	return cmp.Or(answer(table, a.String()), answer(table, a.Local+"@"+a.Domain.String()))
}

// For every address that is written in ASCII the table says what the rules say.
func TestSenderTableIsRules(t *testing.T) {
	rig.Long(t)
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	domain := func() string {
		return pick("a.example", "b.a.example", "c.b.a.example", "ba.example", "aXexample.test", "bücher.example", "xn--bcher-kva.example", "[192.0.2.1]", "[IPv6:2001:db8::1]")
	}
	local := func() string {
		return pick("al", "al+x", "al+x+y", "al+", "+al", "+al+x", "b.c", "bxc", `"a b"`, `"a b+x"`, `"a\"b"`, `"a@b"`, `"al+@x"`, "o'b", "o/b", "{a}|b?")
	}
	for n := range 400 {
		var rs []*rules.Rule
		for i := range 1 + random.IntN(6) {
			r := &rules.Rule{Name: fmt.Sprint(i), Level: policy.LevelEncrypt, Mode: policy.Enforce}
			if random.IntN(4) == 0 {
				r.Mode = policy.Observe
			}
			if random.IntN(4) == 0 {
				r.Level = policy.LevelMay
			}
			if random.IntN(4) == 0 {
				r.Until = now.Add(time.Duration(random.IntN(3)-1) * time.Hour)
			}
			if random.IntN(3) == 0 {
				r.To = []addr.Pattern{addr.MustPattern("@far.example")}
			}
			for range random.IntN(4) {
				p := pick("<>", "*", "@"+domain(), "@"+domain(), local()+"@"+domain(), local()+"@"+domain(), local()+"@"+domain())
				if d := domain(); !strings.HasPrefix(d, "[") {
					p = pick(p, p, p, "@."+d)
				}
				r.From = append(r.From, addr.MustPattern(p))
			}
			rs = append(rs, r)
		}
		set := rules.New(rs)
		var entries []Entry
		for _, s := range set.Senders(now) {
			entries = append(entries, Entry{s.Pattern, fmt.Sprint("tlsonly", s.Class)})
		}
		text := senderTable(entries)
		table := lines(t, text)
		for range 60 {
			a := addr.MustAddress(pick("<>", local()+"@"+domain(), strings.ToUpper(local())+"@"+domain(), "x@other.example", "x@example"))
			want := ""
			if class := set.Class(a, now); class > 0 {
				want = fmt.Sprintf("tlsonly%d:", class)
			}
			got := lookUp(table, a)
			if a.Domain.IsLiteral() && got == "tlsonly:" {
				continue // the strict transport, for nobody knows what is meant
			}
			if got != want {
				t.Fatalf("seed %d, set %d: %s: got %q, want %q\n%s", seed, n, a, got, want, text)
			}
		}
	}
}

// What other milters make of a protected sender has the strict transport, and
// nobody else's like it.
func TestSenderTableRewritten(t *testing.T) {
	table := lines(t, senderTable([]Entry{
		{addr.MustPattern("kim@clinic.example"), "tlsonly1"}, {addr.MustPattern("@lab.example"), "tlsonly2"},
		{addr.MustPattern("@.sub.example"), "tlsonly3"}, {addr.MustPattern("jim@free.example"), ""},
	}))
	for _, key := range []string{
		"SRS0=HHH=TT=clinic.example=kim@other.example", "srs0+hhh=tt=CLINIC.example=kim@other.example", "x+SRS=HHH=TT=clinic.example=kim@other.example",
		"SRS1=HHH=first.example==HHH=TT=lab.example=x@second.example", "SRS0=HHH=TT=a.sub.example=x@other.example", "SRS0=HHH=TT=sub.example=x@other.example",
		"prvs=1234abcdef=kim@clinic.example", "prvs=kim/1234abcdef@clinic.example", "btv1==1234abcdef==Kim@clinic.example", "prvs=1234abcdef=kim+x@clinic.example",
		`"SRS0=HHH=TT=lab.example=a b"@other.example`,
	} {
		if got := answer(table, key); got != "tlsonly:" {
			t.Errorf("%s goes by %q", key, got)
		}
	}
	for _, key := range []string{"SRS0=HHH=TT=other.example=kim@forwarder.example", "prvs=1234abcdef=jim@clinic.example", "prvs=1234abcdef=akim@clinic.example",
		"SRS0=HHH=TT=notlab.example=x@other.example", "users=lab.example=x@other.example", "SRS0=HHH=TT=free.example=jim@other.example"} {
		if got := answer(table, key); got != "" {
			t.Errorf("%s goes by %q", key, got)
		}
	}
}

// However a protected sender is written, the table has a transport of ours for it.
func TestSenderTableSpellings(t *testing.T) {
	text := senderTable([]Entry{
		{addr.MustPattern("kim@clinic.example"), "tlsonly1"}, {addr.MustPattern("jürgen@lab.example"), "tlsonly1"},
		{addr.MustPattern("@bücher.example"), "tlsonly1"}, {addr.MustPattern("@.sub.example"), "tlsonly1"},
	})
	table := lines(t, text)
	for _, key := range []string{
		"kim@clinic.example", "KIM@Clinic.EXAMPLE", "kim@clinic.example.", "\u212aim@clinic.example", "kim@ｃlinic.example", "kim@clinic。example",
		`"kim"@clinic.example`, `"kim+@"@clinic.example`, "kim+ü@clinic.example",
		"jürgen@lab.example", "JÜRGEN@lab.example", "ju\u0308rgen@lab.example", "jürgen+x@lab.example",
		"x@bücher.example", "x@BÜCHER.example", "x@bu\u0308cher.example", "x@XN--BCHER-KVA.example",
		"x@ö.sub.example", "x@sub.example", "x@ｓub.example",
	} {
		if answer(table, key) == "" {
			t.Errorf("%s has no transport in\n%s", key, text)
		}
	}
	for _, key := range []string{"jim@clinic.example", "kimx@clinic.example", "x@cher.example", "x@notsub.example"} {
		if got := answer(table, key); got != "" {
			t.Errorf("%s goes by %s", key, got)
		}
	}
}
