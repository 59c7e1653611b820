package aliases

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// show writes targets in one line: the kind's first letter, "!" for escaped, and what it is.
func show(targets []Target) string {
	var parts []string
	for _, t := range targets {
		s := string(t.Kind[:1]) + ":" + t.Text
		if t.Kind == Address || t.Kind == Name {
			s = string(t.Kind[:1]) + ":" + t.Address.String()
		}
		if t.Escaped {
			s = "!" + s
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ; ")
}

// What each MTA makes of a right-hand side; Postfix's seen with postalias -s and tok822_parse, Sendmail's with sendmail -bt.
func TestParseValue(t *testing.T) {
	check := func(in, postfix, sendmail string) {
		t.Helper()
		for d, want := range map[Dialect]string{Postfix: postfix, Sendmail: sendmail} {
			if targets, faults := ParseValue(in, "f", 7, d); show(targets) != want {
				t.Errorf("%s: %q:\n got %s\nwant %s\n%v", d, in, show(targets), want, faults)
			}
		}
	}
	same := func(in, want string) { t.Helper(); check(in, want, want) }
	same("a@x.example", "a:a@x.example")
	same(" joe ", "n:joe")
	same("joe, a@x.example", "n:joe ; a:a@x.example")
	same("a@x.example,,b@x.example", "a:a@x.example ; a:b@x.example")
	same("a@x.example ,", "a:a@x.example")
	same("<a@x.example>", "a:a@x.example")
	same("Name <a@x.example>", "a:a@x.example")
	same(`"Name, Jr" <a@x.example>, b`, "a:a@x.example ; n:b")
	same("(comment, with a comma) a@x.example", "a:a@x.example")
	same("a@x.example (comment (nested))", "a:a@x.example")
	same("friends: a@x.example, b@x.example;, c@x.example", "a:a@x.example ; a:b@x.example ; a:c@x.example")
	same("@r.example,@s.example:a@x.example", "u:@r.example ; a:a@x.example")
	same("<@r.example,@s.example:a@x.example>", "a:a@x.example")
	same("a@[192.0.2.1]", "a:a@[192.0.2.1]")
	same(`"a b"@x.example`, `a:"a b"@x.example`)
	check(`"a\"b"@x.example`, `a:"a\"b"@x.example`, `!a:"a\"b"@x.example`)
	same("/dev/null", "f:/dev/null")
	same(`"/file/y z"`, "f:/file/y z")
	same(`"|cmd a, b", c@x.example`, "c:cmd a, b ; a:c@x.example")
	same(":include:/a/b", "i:/a/b")
	same(`":include:/a b"`, "i:/a b")
	same(":INCLUDE:/a/c, x", "i:/a/c ; n:x")
	same("a%b", "u:a%b")
	same("a!b", "u:a!b")
	same(`"a@b"`, `u:"a@b"`)
	same("@x.example", "u:@x.example")
	same("a@", "u:a@")
	same(`""`, `u:""`)
	same("", "u:")
	check("a b", "n:a ; n:b", "n:a.b")
	check("|cmd a, b", "c:cmd ; n:a ; n:b", "c:cmd.a ; n:b")
	check(`|"cmd a" b`, "c:cmd a ; n:b", "c:cmd ab")
	check(`\joe`, "n:joe", "!n:joe")
	check(`"\\joe"`, "!n:joe", `!n:"\\joe"`)
	check(`jo\e`, "n:joe", "!n:joe")
	check(`a\,b@x.example`, `a:"a,b"@x.example`, `!a:"a,b"@x.example`)
	check("~/mbox", "f:~/mbox", "n:~/mbox")
	check("/a b", "f:/a ; n:b", "f:/a.b")
	check("foo: b@x.example", `a:"foo:b"@x.example`, "a:b@x.example")
	check("error:5.1.1:550 text", `n:"error:5.1.1:550" ; n:text`, `n:"5.1.1:550.text"`)
	check("a; b", "n:a ; n:b", `n:"a;b"`)
	check("b@x.example;", "a:b@x.example", "a:b@x.example")
	check("a <a@x.example> b@x.example", "a:a@x.example ; a:b@x.example", "a:a@x.example")
	check("<a@x.example> <b@y.example>", "a:a@x.example ; a:b@y.example", "a:b@y.example")
	check("a@x.example b@x.example", "a:a@x.example ; a:b@x.example", "u:a@x.example b@x.example")
	check("a@x.example # comment", "a:a@x.example ; n:# ; n:comment", "u:a@x.example # comment")
	check("a@b@c.example", `a:"a@b"@c.example`, "u:a@b@c.example")
	check("<a@x.example", "u:<a@x.example", "u:<a@x.example")
	check("a@x.example>", "a:a@x.example", "u:a@x.example>")
	check(`"unclosed`, "n:unclosed", `u:"unclosed`)
	check("(comm", "u:(comm", "u:(comm")
	check("h::u", `n:"h::u"`, `n:"h::u"`)
	check(strings.Repeat("a", 300)+"@x.example", "a:"+strings.Repeat("a", 300)+"@x.example", "u:"+strings.Repeat("a", 40)+"…")
}

// What each MTA takes of a file, and what it is warned of.
func TestParse(t *testing.T) {
	check := func(d Dialect, in string, want ...string) {
		t.Helper()
		f, faults, err := Parse(strings.NewReader(in), "F", d)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for e := range f.All() {
			got = append(got, fmt.Sprintf("%d %s = %s", e.Line, e.Name, show(e.Targets)))
			if found, ok := f.Lookup(strings.ToUpper(e.Name)); !ok || found.Line != e.Line {
				t.Errorf("%q: %q isn't found", in, e.Name)
			}
		}
		for _, x := range faults {
			got = append(got, x.Error())
		}
		match := func(got, want string) bool {
			prefix, cut := strings.CutSuffix(want, "*")
			return got == want || cut && strings.HasPrefix(got, prefix)
		}
		if !slices.EqualFunc(got, want, match) {
			t.Errorf("%s: %q:\n got %q\nwant %q", d, in, got, want)
		}
	}
	both := func(in string, want ...string) { t.Helper(); check(Postfix, in, want...); check(Sendmail, in, want...) }
	both("")
	both("# comment\n\n \t\n")
	both("Joe: a@x.example\n", "1 joe = a:a@x.example")
	both("joe:a@x.example", "1 joe = a:a@x.example")
	both("joe : a,\n\tb,\n  c@x.example\nmary: d\n", "1 joe = n:a ; n:b ; a:c@x.example", "4 mary = n:d")
	both("joe: a,\r\n\tb\r\n", "1 joe = n:a ; n:b")
	both(`"three four": d`, "1 three four = n:d")
	both("owner-list: a\nlist-request: b", "1 owner-list = n:a", "2 list-request = n:b")
	both("JÜRGEN: a", "1 jürgen = n:a")
	both("joe+x: a", "1 joe+x = n:a")
	both("no colon\njoe: a", "2 joe = n:a", "F:1: no*")
	both("joe:\nmary: a", "2 mary = n:a", `F:1: no "name: value"*`)
	both("a,b: c", "F:1: several names*")
	both("joe: <a@x.example", "1 joe = u:<a@x.example", "F:1: *")
	both("joe: ,", "1 joe = u: ,", `F:1: alias "joe" has no value`)
	both(`"": a`, "F:1: *")
	check(Postfix, "one: a\nONE: b\n", "1 one = n:a", `F:2: alias "one" stands in line 1, too: the first counts`)
	check(Sendmail, "one: a\nONE: b\n", "2 one = n:b", `F:2: alias "one" stands in line 1, too: this one counts`)
	check(Postfix, "a@x.example: b", `F:1: name "a@x.example" with a domain: left out*`)
	check(Sendmail, "A@X.example: b", "1 a@x.example = n:b", `F:1: name "A@X.example" with a domain*`)
	check(Postfix, `"a@x.example": b`, "1 a@x.example = n:b")
	check(Postfix, "a%b: c", "F:1: *")
	check(Postfix, "joe: a,\n  # comment\n\n# comment\n b", "1 joe = n:a ; n:b")
	check(Sendmail, "joe: a,\n  # comment\n b", `1 joe = n:a ; n:#.comment.b`)
	check(Sendmail, "joe: a\n\n  b", "1 joe = n:a", "F:3: line begins with a blank*")
	check(Sendmail, "joe: a,\\\nb", "1 joe = n:a ; n:b")
	check(Postfix, "joe: a,\\\nb: c", "1 joe = n:a ; u:", "2 b = n:c", "F:1: *")
	check(Postfix, " # c\n  a: b\nc: d", "3 c = n:d", "F:2: line begins with a blank*")
	check(Sendmail, `\joe: a`, "F:1: a backslash*")
	check(Sendmail, `"a:b": c`, "1 a:b = u:", "F:1: a colon in a quoted name*", "F:1: *")
	check(Postfix, `"a:b": c`, "1 a:b = n:c")
	check(Sendmail, "a b: c", "1 a.b = n:c")
	check(Sendmail, "joe: "+strings.Repeat("a,", 4100)+"b\nmary: c", "2 mary = n:c", "F:1: line longer than 8190 octets: left out by Sendmail")
	check(Postfix, "joe:\n "+strings.Repeat("x", 70000), "1 joe = *", "F:1: *")
}

func TestParseError(t *testing.T) {
	if _, _, err := Parse(strings.NewReader("joe: "+strings.Repeat("a,", 600000)), "F", Postfix); err == nil {
		t.Error("a line of more than 1 MiB was taken")
	}
	if _, _, err := Parse(iotest.ErrReader(iotest.ErrTimeout), "F", Postfix); err == nil {
		t.Error("an error of reading was lost")
	}
}

func TestParseList(t *testing.T) {
	check := func(d Dialect, in, want string, lines ...int) {
		t.Helper()
		targets, _ := ParseList(in, "F", d)
		var got []int
		for _, x := range targets {
			got = append(got, x.Line)
		}
		if show(targets) != want || !slices.Equal(got, lines) {
			t.Errorf("%s: %q: got %s at %v, want %s at %v", d, in, show(targets), got, want, lines)
		}
	}
	for _, d := range []Dialect{Postfix, Sendmail} {
		check(d, "", "")
		check(d, "# comment\na@x.example\n\nb@x.example, c\n", "a:a@x.example ; a:b@x.example ; n:c", 2, 4, 4)
		check(d, "a@x.example\r\n", "a:a@x.example", 1)
		check(d, "a,\n b", "n:a ; n:b", 1, 2) // nothing continues
		check(d, `"|/usr/bin/vacation joe"`, "c:/usr/bin/vacation joe", 1)
		check(d, strings.Repeat("a", 3000)+", b", "u:"+strings.Repeat("a", 40)+"…", 1)
	}
	check(Sendmail, `\joe, a@x.example`, "!n:joe ; a:a@x.example", 1, 1)
	check(Postfix, `\joe, a@x.example`, "n:joe ; a:a@x.example", 1, 1)
	check(Sendmail, "a@x.example #@# comment", "a:a@x.example", 1)
	check(Sendmail, " # a", "n:#.a", 1)
}

// What Sendmail takes for the name of a group, and what not; each was seen with sendmail -bt.
func TestGroups(t *testing.T) {
	for in, want := range map[string]string{
		"joe@[IPv6:1::2]":          "a:joe@[IPv6:1::2]",
		"joe@[1::2]":               "a:joe@[IPv6:1::2]",
		"list: joe@[IPv6:1::2]":    "a:joe@[IPv6:1::2]",
		"list: joe@[1::2]":         "a:joe@[IPv6:1::2]",
		"a:b@[192.0.2.1]":          "a:b@[192.0.2.1]",
		"a:b::c@[192.0.2.1]":       `a:"b::c"@[192.0.2.1]`,
		"@h.example:b@[192.0.2.1]": "a:b@[192.0.2.1]",
		"@[192.0.2.1]:b@x.example": "a:b@x.example",
		"a:b::c":                   `n:"a:b::c"`,
		"g: a[b]":                  `n:"a[b]"`,
	} {
		if targets, faults := ParseValue(in, "f", 1, Sendmail); show(targets) != want {
			t.Errorf("%q: got %s\nwant %s\n%v", in, show(targets), want, faults)
		}
	}
}

func TestMany(t *testing.T) {
	var b strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&b, "user%d: joe, user%d@example.com\n", i, i)
	}
	start := time.Now()
	f, faults, err := Parse(strings.NewReader(b.String()), "F", Postfix)
	if err != nil || len(faults) > 0 || f.Len() != 100_000 {
		t.Fatal(err, len(faults))
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Error("took", took)
	}
	t.Log(time.Since(start))
}

// FuzzParseValue: never a panic, never nothing, and what is an address stays one when it is read again.
func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"a@x.example, joe", `"|cmd a, b", \c`, "n <a@b>, g: a, b;", ":include:/a, /b, ~/c", "(c) a@[::1]", `"a\"b"@x`, "<@r,@s:a@b>", "a\\", "((", "a b;c>d<e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, d := range []Dialect{Postfix, Sendmail} {
			targets, faults := ParseValue(s, "f", 1, d)
			if len(targets) == 0 {
				t.Fatalf("%s: %q is nothing", d, s)
			}
			unknown := 0
			for _, x := range targets {
				switch x.Kind {
				case Unknown:
					unknown++
				case Address, Name:
					// To Postfix a backslash before a name is a sign even in quotes: one that came with it, or begins with one, is
					// written with one more.
					written := x.Address
					if d == Postfix && (x.Escaped || strings.HasPrefix(written.Local, `\`)) {
						written.Local = `\` + written.Local
					}
					text := written.String()
					if strings.ContainsAny(written.Local[:min(1, len(written.Local))], "/|:~") {
						continue // what is left of "@:/f", of which no writing is that isn't a file's
					}
					if again, _ := ParseValue(text, "f", 1, d); len(text) < maxAddress && (len(again) != 1 || again[0].Address != x.Address) {
						t.Errorf("%s: %q: %q is read again as %s", d, s, text, show(again))
					}
				}
			}
			if unknown != len(faults) {
				t.Errorf("%s: %q: %d unknown targets, faults %v", d, s, unknown, faults)
			}
		}
	})
}

// FuzzParse: lines are in order and within the text, and every entry is found by its name.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: b\n c\n# d\n\ne: f", `"a b": c`, "a: b\\\nc", "x@y: z", ": a", "\n a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, d := range []Dialect{Postfix, Sendmail} {
			file, faults, err := Parse(strings.NewReader(s), "F", d)
			if err != nil {
				t.Skip()
			}
			lines := strings.Count(s, "\n") + 1
			for e := range file.All() {
				if e.Line < 1 || e.Line > lines || len(e.Targets) == 0 {
					t.Errorf("%s: %q: %+v", d, s, e)
				}
				if found, ok := file.Lookup(e.Name); !ok || found.Line != e.Line {
					t.Errorf("%s: %q: %q isn't found", d, s, e.Name)
				}
			}
			for _, x := range faults {
				if x.Line < 1 || x.Line > lines {
					t.Errorf("%s: %q: %v", d, s, x)
				}
			}
		}
	})
}
