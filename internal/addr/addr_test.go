package addr

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	good := func(in, want string) {
		t.Helper()
		a, err := ParsePath(in)
		if err != nil || a.String() != want {
			t.Errorf("%q: %s, %v; want %s", in, a, err, want)
		}
	}
	bad := func(in, why string) {
		t.Helper()
		if a, err := ParsePath(in); err == nil {
			t.Errorf("%q: %s; want an error: %s", in, a, why)
		}
	}
	good("", "<>")
	good("<>", "<>")
	good(" <> ", "<>")
	good("< >", "<>")
	good("alice@clinic.example", "alice@clinic.example")
	good("<alice@clinic.example>", "alice@clinic.example")
	good(" < alice@clinic.example > ", "alice@clinic.example")
	good("Alice@Clinic.Example.", "Alice@clinic.example")
	good(`"alice"@clinic.example`, "alice@clinic.example")
	good(`\alice@clinic.example`, "alice@clinic.example")
	good(`"al\ice"@clinic.example`, "alice@clinic.example")
	good(`al"ic"e@clinic.example`, "alice@clinic.example") // RFC 5322, section 4.4: quotes anywhere
	good(`"alice"."smith"@x.example`, "alice.smith@x.example")
	good("alice @ clinic.example", "alice@clinic.example")
	good("alice . smith@clinic . example", "alice.smith@clinic.example")
	good("alice(MD (ret.\\))@x)@clinic.example(y)", "alice@clinic.example")
	good("(c)alice@(c)clinic.example", "alice@clinic.example")
	good("a b@x.example", `"a b"@x.example`) // as a table is asked, without quotes
	good(`"a b"@x.example`, `"a b"@x.example`)
	good(`"a@b"@x.example`, `"a@b"@x.example`)
	good("a@b@x.example", `"a@b"@x.example`) // the last "@" counts
	good("@a.example:alice@x.example", "alice@x.example")
	good("<@a.example,@b.example:alice@x.example>", "alice@x.example")
	good("@[IPv6:2001:db8::1]:alice@x.example", "alice@x.example")
	good("@a:@b:alice@x.example", "alice@x.example")
	good("root", "root")
	good("alice@[192.0.2.1]", "alice@[192.0.2.1]")
	good("alice@[IPv6:2001:DB8:0::1]", "alice@[IPv6:2001:db8::1]")
	good("alice@[ipv6:::ffff:192.0.2.1]", "alice@[192.0.2.1]")
	good("alice@bücher.example", "alice@xn--bcher-kva.example")
	good("jürgen@x.example", "jürgen@x.example")
	good(`"a\"b\\c"@x.example`, `"a\"b\\c"@x.example`)
	good(".a..b.@x.example", `".a..b."@x.example`) // not RFC 5321, and in use
	bad("<alice@x.example", "no closing bracket")
	bad("<<alice@x.example>>", "two brackets")
	bad("alice@", "no domain")
	bad("@x.example", "no local part")
	bad("@a.example:", "a route to nobody")
	bad("@[192.0.2.1:alice@x.example", "no end of the route")
	bad(`""@x.example`, "an empty local part")
	bad("()", "nothing but a comment, which is not the null sender")
	bad("()@x.example", "an empty local part")
	bad(`"alice@x.example`, "no closing quote")
	bad(`"alice\`, "no closing quote")
	bad(`alice\`, "nothing after the backslash")
	bad("alice(@x.example", "no closing parenthesis")
	bad("alice@x..example", "an empty label")
	bad("alice@x.example\r\nRCPT TO:<eve@x.example>", "a control character")
	bad("alice@x.example\x00", "a control character")
	bad("alice@[999.0.2.1]", "no address")
	bad("alice@[fe80::1%eth0]", "an address with a zone")
	bad(strings.Repeat("a", 2049), "too long")
}

// TestOneSpelling: what an MTA takes for one mailbox must be one here.
func TestOneSpelling(t *testing.T) {
	for _, spellings := range [][]string{
		{"alice@bücher.example", "alice@xn--bcher-kva.example", "ALICE@XN--BCHER-KVA.EXAMPLE.", `"alice"@BÜCHER.example`,
			`\alice@bu` + "\u0308" + "cher.example", "alice@bücher。example", "alice@bücher．example", "alice@ｂücher.ｅxample",
			"alice@bü\u00adcher.example", "@relay.example:alice@bücher.example", "<alice@bücher.example>"},
		{"jürgen@x.example", "ju\u0308rgen@x.example", "JÜRGEN@x.example", "JU\u0308RGEN@x.example"},
		{"straße@x.example", "STRASSE@x.example", "STRAẞE@x.example"},
		{"σοφος@x.example", "ΣΟΦΟΣ@x.example", "σοφος@X.example", "σοφοσ@x.example"},
		{"\u0130x@x.example", "I\u0307X@x.example", "i\u0307x@x.example"},
		{"kim@x.example", "\u212aIM@x.example"},
		{"\uab82\u13f8@x.example", "\u13b2\u13f0@x.example"}, // Cherokee, whose small letters came later
	} {
		first := MustAddress(spellings[0]).Fold()
		for _, s := range spellings {
			if a := MustAddress(s).Fold(); a != first {
				t.Errorf("%q: %q differs from %q", s, a, first)
			}
		}
	}
}

func TestParseDomain(t *testing.T) {
	good := func(in, want string) {
		t.Helper()
		d, err := ParseDomain(in)
		if err != nil || d.String() != want {
			t.Errorf("%q: %s, %v; want %s", in, d, err, want)
		}
	}
	bad := func(in, why string) {
		t.Helper()
		if d, err := ParseDomain(in); err == nil {
			t.Errorf("%q: %s; want an error: %s", in, d, why)
		}
	}
	good("Example.COM", "example.com")
	good("example.com.", "example.com")
	good("_dmarc.example.com", "_dmarc.example.com")
	good("r3---sn.bücher.example", "r3---sn.xn--bcher-kva.example")
	good("bücher.example", "xn--bcher-kva.example")
	good("XN--Bcher-KVA.example", "xn--bcher-kva.example")
	good("faß.example", "xn--fa-hia.example") // IDNA 2008, not "fass"
	good("a\u3002b", "a.b")
	good("\u0130.example", "xn--i-9bb.example") // not "i.example": another domain
	good("\u212a.example", "k.example")
	good("[127.0.0.1]", "[127.0.0.1]")
	good("[::1]", "[IPv6:::1]")
	good(strings.Repeat("a", 63)+".example", strings.Repeat("a", 63)+".example")
	bad("", "empty")
	bad(".", "empty")
	bad("..", "an empty label")
	bad(".example", "an empty label")
	bad("a..example", "an empty label")
	bad("example..", "an empty label")
	bad(strings.Repeat("a", 64)+".example", "a long label")
	bad(strings.Repeat("a.", 128), "too long")
	bad("-a.example", "a hyphen")
	bad("a b.example", "a blank")
	bad("a\x00.example", "a NUL")
	bad("a/b.example", "a slash")
	bad("xn--example-.com", "an A-label of ASCII, which is another name than example.com")
	bad("xn--a.example", "an A-label of a control character")
	bad("a\xff.example", "not UTF-8")
	bad("\u2135\u63fd", "mapped to Hebrew and Chinese letters in one label, which nobody can read again")
	bad("[]", "no address")
	bad("[127.0.0.1", "no closing bracket")
	bad("[127.0.0.1].", "text after the bracket")
}

func TestDomain(t *testing.T) {
	d := MustDomain("a.bücher.example")
	if got := d.Unicode(); got != "a.bücher.example" {
		t.Errorf("unicode %q", got)
	}
	if p := d.Parent(); p != MustDomain("bücher.example") || !d.Under(p) || p.Under(d) || !d.Under(d) {
		t.Errorf("parent %s", p)
	}
	if MustDomain("xa.example").Under(MustDomain("a.example")) || d.Under(Domain{}) {
		t.Error("under what it isn't")
	}
	l := MustDomain("[192.0.2.1]")
	if !l.IsLiteral() || l.IP().String() != "192.0.2.1" || !l.Parent().IsZero() || MustDomain("example").Parent() != (Domain{}) || d.IP().IsValid() {
		t.Error("literal", l)
	}
}

func TestBase(t *testing.T) {
	for in, want := range map[string]string{"a+b@x": "a@x", "a+b+c@x": "a@x", "a@x": "a@x", "+a@x": "+a@x", `"a+b"@x`: "a@x", "a+@x": "a@x"} {
		if got := MustAddress(in).Base(); got != MustAddress(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestPattern(t *testing.T) {
	match := func(p, a string, want bool) {
		t.Helper()
		if got := MustPattern(p).Match(MustAddress(a)); got != want {
			t.Errorf("%s selects %s: %v", p, a, got)
		}
	}
	match("*", "a@b.example", true)
	match("*", "<>", true)
	match("<>", "<>", true)
	match("<>", "a@b.example", false)
	match("@b.example", "A@B.example", true)
	match("@b.example", "a@c.b.example", false)
	match("@b.example", "a", false)
	match("@b.example", "<>", false)
	match("@.b.example", "a@b.example", true)
	match("@.b.example", "a@d.c.b.example", true)
	match("@.b.example", "a@xb.example", false)
	match("@.b.example", "<>", false)
	match("Alice@b.example", "aLICE+x@b.example", true)
	match("alice@b.example", "alicex@b.example", false)
	match("alice+x@b.example", "alice+X@b.example", true)
	match("alice+x@b.example", "alice@b.example", false)
	match("alice+x@b.example", "alice+x+y@b.example", false)
	match(`"a b"@b.example`, `"A b"@b.example`, true)
	match("@[192.0.2.1]", "a@[192.0.2.1]", true)
	match("@bücher.example", "a@xn--bcher-kva.example", true)
	if (Pattern{}).Match(Address{}) || (Pattern{}).String() != "" || (Pattern{}).Wider() != nil {
		t.Error("the zero pattern selects something")
	}
	for _, in := range []string{"", "alice", "< >", "example.com", "*@b.example", "@", "@.", "@*.example", "@.[192.0.2.1]", "alice@*", "**"} {
		if p, err := ParsePattern(in); err == nil {
			t.Errorf("%q: %s; want an error", in, p)
		}
	}
}

func all() (ps []Pattern, as []Address) {
	for _, s := range []string{"*", "<>", "@b.example", "@.b.example", "@c.b.example", "@.c.b.example", "@.example", "@[192.0.2.1]",
		"a@b.example", "a+x@b.example", "a+x+y@b.example", "a@c.b.example", "a@[192.0.2.1]"} {
		ps = append(ps, MustPattern(s))
	}
	for _, s := range []string{"<>", "a@b.example", "A+x@b.example", "a+x+y@b.example", "a+z@b.example", "b@b.example", "a@c.b.example", "b@c.b.example",
		"x@d.c.b.example", "x@d.b.example", "x@y.example", "x@example", "a@[192.0.2.1]", "b@[192.0.2.1]", "x@other.test", "root"} {
		as = append(as, MustAddress(s))
	}
	return ps, as
}

// TestCovers: by the definition, over addresses that tell all the patterns here apart.
func TestCovers(t *testing.T) {
	ps, as := all()
	for _, p := range ps {
		for _, q := range ps {
			want := true
			for _, a := range as {
				want = want && (!q.Match(a) || p.Match(a))
			}
			if got := p.Covers(q); got != want {
				t.Errorf("%s covers %s: %v, want %v", p, q, got, want)
			}
			wider := false
			for _, w := range q.Wider() {
				wider = wider || w == p
			}
			if wider != want {
				t.Errorf("%s is wider than %s: %v, want %v", p, q, wider, want)
			}
		}
	}
}

func TestParseDestination(t *testing.T) {
	good := func(in, want string, direct bool, port uint16) {
		t.Helper()
		d, err := ParseDestination(in)
		if err != nil || d.String() != want || d.Direct() != direct || d.Port() != port {
			t.Errorf("%q: %s %v %d, %v; want %s", in, d, d.Direct(), d.Port(), err, want)
		}
	}
	good("Example.com", "example.com", false, 0)
	good("example.com.", "example.com", false, 0)
	good("example.com:26", "example.com:26", false, 26)
	good("example.com:submission", "example.com:587", false, 587)
	good("example.com:mail", "example.com:25", false, 25)
	good("[mx.example.com]:ssmtp", "[mx.example.com]:465", true, 465)
	good("[mx.example.com]:Submissions", "[mx.example.com]:465", true, 465)
	good("[mx.example.com]", "[mx.example.com]", true, 0)
	good("[mx.example.com.]:465", "[mx.example.com]:465", true, 465)
	good("[192.0.2.1]", "[192.0.2.1]", true, 0)
	good("192.0.2.1", "[192.0.2.1]", true, 0)
	good("192.0.2.1.", "[192.0.2.1]", true, 0)
	good("192.0.2.1:25", "[192.0.2.1]:25", true, 25)
	good("2001:db8::1", "[IPv6:2001:db8::1]", true, 0)
	good("[2001:db8::1]:25", "[IPv6:2001:db8::1]:25", true, 25)
	good("[ipv6:2001:db8::1]", "[IPv6:2001:db8::1]", true, 0)
	good("bücher.example", "xn--bcher-kva.example", false, 0)
	for _, in := range []string{"", ":25", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a:x", "a:nosuchservice", "a:25x", "a:" + strings.Repeat("x", 99), "[a", "[a]x", "[a]:", "[]", "[[a]", "a]", "a:b:c", "smtp:[a]:25", "a b", "[192.0.2]x"} {
		if d, err := ParseDestination(in); err == nil {
			t.Errorf("%q: %s; want an error", in, d)
		}
	}
	if d := DomainDestination(MustDomain("[192.0.2.1]")); !d.Direct() || d != MustDestination("192.0.2.1") {
		t.Error("mail for a literal goes to", d)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "<>", "alice@clinic.example", `"a\"b"@x`, "@a,@[::1]:b@c", `al"ic"e (c) @x.`, "ju\u0308rgen@b\u00fccher.example", "\u0130@x", "a b@c", "a@b@c", "root", "\u0345\u03b1@x", "0@\u2135\u63fd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParsePath(s)
		if err != nil {
			return
		}
		again, err := ParsePath(a.String())
		// What is quoted may get longer than a path can be.
		if (err != nil || again != a) && len(a.String()) <= maxPath {
			t.Errorf("%q is %q, read again %q, %v", s, a, again, err)
		}
		folded := a.Fold()
		if folded.Fold() != folded {
			t.Errorf("%q: folded %q, twice %q", s, folded, folded.Fold())
		}
		if bracketed, err := ParsePath("<" + a.String() + ">"); !a.IsNull() && len(a.String()) <= maxPath-2 && (err != nil || bracketed != a) {
			t.Errorf("%q in brackets: %q, %v", a, bracketed, err)
		}
		if base := folded.Base(); base.Base() != base {
			t.Errorf("%q: base %q", s, base)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"*", "<>", "@a.example", "@.a.example", "A+x@b.example", `"*"@b`, "@[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePattern(s)
		if err != nil {
			return
		}
		again, err := ParsePattern(p.String())
		if (err != nil || again != p) && len(p.String()) <= maxPath {
			t.Errorf("%q is %q, read again %q, %v", s, p, again, err)
		}
		if !p.Covers(p) || p.Kind() == Exact && !p.Match(p.Address()) {
			t.Errorf("%q does not cover itself", p)
		}
		for _, w := range p.Wider() {
			if !w.Covers(p) {
				t.Errorf("%q is not wider than %q", w, p)
			}
		}
	})
}

func FuzzParseDestination(f *testing.F) {
	for _, s := range []string{"a.example", "[a]:25", "192.0.2.1:25", "[IPv6:::1]", "a.:smtp", "b\u00fccher:1", "\u2135\u63fd.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDestination(s)
		if err != nil {
			return
		}
		if again, err := ParseDestination(d.String()); err != nil || again != d {
			t.Errorf("%q is %q, read again %q, %v", s, d, again, err)
		}
		if d.Host().IsZero() || d.Host().IsLiteral() && !d.Direct() {
			t.Errorf("%q: %+v", s, d)
		}
	})
}
