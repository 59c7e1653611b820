package virtual

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
)

func parsed(t *testing.T, form Form, source string) *Table {
	t.Helper()
	table, _, err := Parse(strings.NewReader(source), string(form), form)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func show(targets []aliases.Target) string {
	var parts []string
	for _, x := range targets {
		if x.Kind == aliases.Address || x.Kind == aliases.Name {
			parts = append(parts, x.Address.String())
		} else {
			parts = append(parts, string(x.Kind)+":"+x.Text)
		}
	}
	return strings.Join(parts, " ")
}

func TestParse(t *testing.T) {
	check := func(form Form, in string, want ...string) {
		t.Helper()
		table, faults, err := Parse(strings.NewReader(in), "F", form)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for e := range table.All() {
			got = append(got, fmt.Sprintf("%d %s %s = %s", e.Line, e.Kind, e.Key, e.Value))
		}
		for _, x := range faults {
			got = append(got, x.Error())
		}
		match := func(got, want string) bool {
			prefix, cut := strings.CutSuffix(want, "*")
			return got == want || cut && strings.HasPrefix(got, prefix)
		}
		if !slices.EqualFunc(got, want, match) {
			t.Errorf("%s: %q:\n got %q\nwant %q", form, in, got, want)
		}
	}
	check(Virtual, "# c\n\nA@V.example  b, c@x.example\n", "3 address a@v.example = b, c@x.example")
	check(Virtual, "a@v.example b,\n # c\n  c\nd e", "1 address a@v.example = b,   c", "4 user d = e")
	check(Virtual, "@v.example @w.example", "1 domain @v.example = @w.example")
	check(Virtual, "v.example anything", "1 marker v.example = anything")
	check(Virtual, "joe mary", "1 user joe = mary")
	check(Virtual, `"a b"@v.example c`, `1 address "a b"@v.example = c`)
	check(Virtual, "a@bücher.example c", "1 address a@xn--bcher-kva.example = c")
	check(Virtual, "a@v.example\t\tb  ", "1 address a@v.example = b")
	check(Virtual, "a@v.example b\nA@v.example c", "1 address a@v.example = b", "F:2: key \"a@v.example\" stands in line 1, too: the first counts")
	check(Virtual, "a@v.example\nb c", "2 user b = c", `F:1: key "a@v.example" has no value: left out by Postfix`)
	check(Virtual, `"a b`, "F:1: key without closing quote*")
	check(Virtual, "joe: mary", `1 user "joe:" = mary`, `F:1: key "joe:" ends with a colon*`)
	check(Virtual, "  a b\nc d\ne", "2 user c = d", "F:1: line begins*", "F:3: key*")
	check(Virtual, "/etc/x", "F:1: *")
	check(Virtusertable, "user@V.example\tTarget\n", "1 address user@v.example = Target")
	check(Virtusertable, "old+*@v.example new+%2@o.example", "1 detail old+*@v.example = new+%2@o.example")
	check(Virtusertable, "++@v.example x", "1 detail ++@v.example = x")
	check(Virtusertable, "@v.example error:nouser 550 No such user", "1 domain @v.example = error:nouser 550 No such user")
	check(Virtusertable, "a@v.example b\n c", "1 address a@v.example = b", "F:2: line begins with a blank: left out by makemap")
	check(Virtusertable, " # c", "F:1: line begins*")
	check(Virtusertable, "a@v.example", `F:1: key "a@v.example" has no value: left out by makemap`)
	check(Virtusertable, "a@v.example b\r\na@v.example c", "1 address a@v.example = b", "F:2: *")
	check(Mailertable, "D.example\tesmtp:[h.example]", "1 domain d.example = esmtp:[h.example]")
	check(Mailertable, ".d.example smtp:h", "1 below .d.example = smtp:h")
	check(Mailertable, ". error:5.7.0:550 no", "1 below . = error:5.7.0:550 no")
	check(Mailertable, "[192.0.2.1] smtp:h", "1 domain [192.0.2.1] = smtp:h")
	check(Mailertable, "d.example host", `F:1: value "host" is no mailer:host*`)
	check(Genericstable, "joe joe@g.example", "1 user joe = joe@g.example")
	check(Genericstable, "joe+*@v.example g+%1@g.example", "1 detail joe+*@v.example = g+%1@g.example")
	check(Virtual, "")
	check(Mailertable, "#")
}

func TestParseError(t *testing.T) {
	for _, form := range []Form{Virtual, Mailertable} {
		if _, _, err := Parse(iotest.ErrReader(iotest.ErrTimeout), "F", form); err == nil {
			t.Error(form, "an error of reading was lost")
		}
		if _, _, err := Parse(strings.NewReader("a "+strings.Repeat("x", 2<<20)), "F", form); err == nil {
			t.Error(form, "a line of 2 MiB was taken")
		}
	}
}

func local(d addr.Domain) bool { return d.String() == "l.example" }

func TestKeys(t *testing.T) {
	check := func(form Form, a, delimiters, want string) {
		t.Helper()
		if got := strings.Join(Keys(form, addr.MustAddress(a), Site{Local: local, Delimiters: delimiters}), " "); got != want {
			t.Errorf("%s %s:\n got %s\nwant %s", form, a, got, want)
		}
	}
	check(Virtual, "User+x@v.example", "+", "user+x@v.example user@v.example @v.example")
	check(Virtual, "user+x@l.example", "+", "user+x@l.example user@l.example user+x user @l.example")
	check(Virtual, "user+x@l.example", "", "user+x@l.example user+x @l.example")
	check(Virtual, "user-x@v.example", "+-", "user-x@v.example user@v.example @v.example")
	check(Virtual, "owner-x@v.example", "-", "owner-x@v.example @v.example")
	check(Virtual, "+x@v.example", "+", "+x@v.example @v.example")
	check(Virtual, "postmaster@l.example", "-", "postmaster@l.example postmaster @l.example")
	check(Virtual, `"a b"@v.example`, "+", `"a b"@v.example @v.example`)
	check(Virtual, "joe", "+", "joe")
	check(Virtual, "<>", "+", "")
	check(Virtusertable, "u@v.example", "", "u@v.example @v.example")
	check(Virtusertable, "u+d@v.example", "", "u+d@v.example u++@v.example u+*@v.example u@v.example ++@v.example +*@v.example @v.example")
	check(Virtusertable, "u+@v.example", "", "u+@v.example u+*@v.example u@v.example +*@v.example @v.example")
	check(Virtusertable, "joe", "", "")
	check(Genericstable, "u@v.example", "", "u@v.example @v.example u")
	check(Genericstable, "u+d@v.example", "", "u+d@v.example u+*@v.example u@v.example @v.example u+d u+* u")
	check(Genericstable, "u", "", "u")
}

func TestLookup(t *testing.T) {
	virtual := []*Table{parsed(t, Virtual, `
u@v.example      a@x.example, b
u+x@v.example    c
@v.example       @w.example, d@x.example
joe              mary
list@v.example   "|cmd", /file, e@x.example
all@v.example    <bad
v.example        marker
`), parsed(t, Virtual, "u@v.example second\n@second.example s\n@v.example never")}
	virtuser := []*Table{parsed(t, Virtusertable, `
u@v.example      exact
@v.example       %1%3@c.example
old+*@v.example  new+%2@o.example
pp++@v.example   pp%3@o.example
err@v.example    error:nouser 550 No such user here
two@v.example    a@x.example, b
pct@v.example    a%%b@x.example
cmd@v.example    "|cmd"
`)}
	check := func(tables []*Table, s Site, a, want string) {
		t.Helper()
		m, ok := Lookup(tables, addr.MustAddress(a), s)
		got := fmt.Sprintf("%s: %s", m.Key, show(m.Targets))
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", a, got, want)
		}
		if !ok {
			return
		}
		e, _ := tables[0].Get(m.Key)
		if again := Result(tables[0].form, e.Value, m.Key, addr.MustAddress(a), s); e.Line == m.Line && show(again) != show(m.Targets) {
			t.Errorf("%s: Result says %s", a, show(again))
		}
	}
	plus := Site{Local: local, Delimiters: "+"}
	spread := Site{Local: local, Delimiters: "+", Propagate: true}
	check(virtual, plus, "U@v.example", "u@v.example: a@x.example b")
	check(virtual, plus, "u+x@v.example", "u+x@v.example: c")
	check(virtual, plus, "u+y@v.example", "u@v.example: a@x.example b")
	check(virtual, spread, "u+y@v.example", "u@v.example: a+y@x.example b+y")
	check(virtual, spread, "u+x@v.example", "u+x@v.example: c")
	check(virtual, Site{}, "u+y@v.example", "@v.example: u+y@w.example d@x.example")
	check(virtual, plus, "Other+z@v.example", "@v.example: Other+z@w.example d@x.example")
	check(virtual, plus, "joe@l.example", "joe: mary")
	check(virtual, spread, "joe+z@l.example", "joe: mary+z")
	check(virtual, plus, "joe@x.example", "")
	check(virtual, plus, "x@second.example", "@second.example: s")
	check(virtual, plus, `"a b"@v.example`, `@v.example: "a b"@w.example d@x.example`)
	check(virtual, plus, "list@v.example", `list@v.example: unknown:"|cmd", /file, e@x.example unknown:"|cmd", /file, e@x.example e@x.example`)
	check(virtual, plus, "all@v.example", "all@v.example: unknown:<bad")
	check(virtuser, Site{}, "u@v.example", "u@v.example: exact")
	check(virtuser, Site{}, "u+d@v.example", "u@v.example: exact")
	check(virtuser, Site{}, "x@v.example", "@v.example: x@c.example")
	check(virtuser, Site{}, "x+d@v.example", "@v.example: x+d@c.example")
	check(virtuser, Site{}, "old+d@v.example", "old+*@v.example: new+d@o.example")
	check(virtuser, Site{}, "old+@v.example", "old+*@v.example: new+@o.example")
	check(virtuser, Site{}, "old@v.example", "@v.example: old@c.example")
	check(virtuser, Site{}, "pp+d@v.example", "pp++@v.example: pp+d@o.example")
	check(virtuser, Site{}, "pp+@v.example", "@v.example: pp+@c.example")
	check(virtuser, Site{}, "err@v.example", "err@v.example: error:nouser 550 No such user here")
	check(virtuser, Site{}, "two@v.example", "two@v.example: unknown:a@x.example, b")
	check(virtuser, Site{}, "pct@v.example", "pct@v.example: a%b@x.example")
	check(virtuser, Site{}, "cmd@v.example", `cmd@v.example: unknown:"|cmd"`)
	check(virtuser, Site{}, "x@other.example", "")
	check(nil, plus, "x@v.example", "")
	if ds := virtual[0].Domains(); len(ds) != 1 || ds[0] != addr.MustDomain("v.example") {
		t.Error("virtual alias domains", ds)
	}
}

func TestRoute(t *testing.T) {
	table := parsed(t, Mailertable, `
d.example	esmtp:[h.example]
.d.example	esmtp:%1.h.example
.two.d.example	relay:%2
l.example	local:joe
e.example	error:5.7.0:550 no such place
[192.0.2.1]	smtp:h
`)
	rest := parsed(t, Mailertable, ". smtp:%1.rest")
	check := func(table *Table, d, want string) {
		t.Helper()
		r, ok := table.Route(addr.MustDomain(d))
		if got := r.Mailer + ":" + r.Host; ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	check(table, "D.example", "esmtp:[h.example]")
	check(table, "a.d.example", "esmtp:a.h.example")
	check(table, "a.b.d.example", "esmtp:a.b.h.example")
	check(table, "x.y.two.d.example", "relay:y")
	check(table, "l.example", "local:joe")
	check(table, "e.example", "error:5.7.0:550 no such place")
	check(table, "[192.0.2.1]", "smtp:h")
	check(table, "xd.example", "")
	check(rest, "any.example", "smtp:any.example.rest")
	check(parsed(t, Virtual, "d.example smtp:x"), "d.example", "")
}

func TestGeneric(t *testing.T) {
	table := parsed(t, Genericstable, "joe@v.example gen@g.example\nbob bobby@g.example\n@w.example %1@y.example\nold+*@v.example new+%1@z.example\nsue susan\nbad <")
	check := func(a, want string) {
		t.Helper()
		if to, ok := table.Generic(addr.MustAddress(a)); ok != (want != "") || ok && to.String() != want {
			t.Errorf("%s: %s, want %s", a, to, want)
		}
	}
	check("Joe@v.example", "gen@g.example")
	check("joe+x@v.example", "gen@g.example")
	check("bob@v.example", "bobby@g.example")
	check("bob", "bobby@g.example")
	check("x@w.example", "x@y.example")
	check("old+d@v.example", "new+d@z.example")
	check("sue@v.example", "susan")
	check("bad", "")
	check("nobody@v.example", "")
}

// FuzzParse: every entry is found by its key, faults lie in the source, and a lookup gives targets.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a@v.example b, c\n d", "@v.example @w.example", "@v.example %1%3@c.example", "u+*@v.example %2", ".d x:%1", "a b\n\n# c\n e f", `"a b"@v.example c`} {
		f.Add(s, "user+detail@v.example")
	}
	f.Fuzz(func(t *testing.T, s, a string) {
		for _, form := range []Form{Virtual, Virtusertable, Mailertable, Genericstable} {
			table, faults, err := Parse(strings.NewReader(s), "F", form)
			if err != nil {
				t.Skip()
			}
			for e := range table.All() {
				if found, ok := table.Get(e.Key); !ok || found != e {
					t.Errorf("%s: %q: %q isn't found", form, s, e.Key)
				}
			}
			for _, x := range faults {
				if x.Line < 1 || x.Line > strings.Count(s, "\n")+1 {
					t.Errorf("%s: %q: %v", form, s, x)
				}
			}
			address, err := addr.ParsePath(a)
			if err != nil {
				continue
			}
			table.Route(address.Domain)
			table.Generic(address)
			for _, site := range []Site{{}, {Local: func(addr.Domain) bool { return true }, Delimiters: "+-", Propagate: true}} {
				if m, ok := Lookup([]*Table{table}, address, site); ok && len(m.Targets) == 0 {
					t.Errorf("%s: %q: %s goes nowhere", form, s, a)
				}
			}
		}
	})
}
