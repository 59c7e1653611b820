package postfix

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tlsonly/internal/addr"
)

func TestCutPattern(t *testing.T) {
	for _, c := range []struct{ kind, text, pattern, result string }{
		{"regexp", "/^x/ OK", "^x", "OK"},
		{"pcre", `/a\/b/ix  FILTER smtp:`, `a\/b`, "FILTER smtp:"},
		{"pcre", "!/x y/ REJECT no", "x y", "REJECT no"},
		{"regexp", "#a b#i DUNNO", "a b", "DUNNO"},
		{"cidr", "192.0.2.0/24 FILTER smtp:", "192.0.2.0/24", "FILTER smtp:"},
		// None.
		{"pcre", "if /x/", "", ""},
		{"pcre", "endif", "", ""},
		{"pcre", "/x", "", ""},
		{"pcre", `/x\/ y`, "", ""},
		{"pcre", "/x/", "", ""},
		{"pcre", "/x/i", "", ""},
		{"pcre", "!", "", ""},
		{"cidr", "192.0.2.1", "192.0.2.1", ""},
	} {
		pattern, result, ok := cutPattern(c.kind, c.text)
		if pattern != c.pattern || result != c.result || ok != (c.result != "") {
			t.Errorf("%s %q: %q %q %v, want %q %q", c.kind, c.text, pattern, result, ok, c.pattern, c.result)
		}
	}
}

func TestCutKey(t *testing.T) {
	for _, c := range []struct{ text, key, value string }{
		{"a b c", "a", "b c"}, {"a\t b", "a", "b"}, {`"a b" c`, "a b", "c"}, {`"a b": c`, "a b", "c"}, {"a", "a", ""}, {`"a b`, `"a`, `b`},
	} {
		if key, value := cutKey(c.text); key != c.key || value != c.value {
			t.Errorf("%q: %q %q, want %q %q", c.text, key, value, c.key, c.value)
		}
	}
}

// Entries have the line on which they begin; of tables that can only be asked
// there is an error, and the rest all the same.
func TestEntries(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t")
	if err := os.WriteFile(file, []byte("# a\n\nx  y\n  z\n#b\n  c\nv w\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := doctor{}
	for _, c := range []struct {
		table  string
		want   string
		failed bool
	}{
		{"texthash:" + file, fmt.Sprintf("[{x y z c %[1]s:3 false} {v w %[1]s:7 false}]", file), false},
		{"inline:{ a=b, { c = d e } }", "[{a b here false} {c d e here false}]", false},
		{"static:{FILTER smtp:}", "[{* FILTER smtp: here false}]", false},
		{"static:OK", "[{* OK here false}]", false},
		{"randmap:{a, b}", "[{* a here false} {* b here false}]", false},
		{"proxy:pcre:{ {/x/ y}, {if /z/} }", "[{x y here true}]", false},
		{"cidr:{ {::1 OK} }", "[{::1 OK here false}]", false},
		{"unionmap:{static:a,ldap:x,pipemap:{static:b,inline:{c=d}}}", "[{* a here false} {* b here false} {c d here false}]", true},
		{"fail:x", "[]", false},
		{"mysql:/x", "[]", true},
		{"regexp:/nowhere", "[]", true},
	} {
		got, err := d.entries(t.Context(), c.table, "here")
		if fmt.Sprint(got) != c.want || (err != nil) != c.failed {
			t.Errorf("%s: %v, %v; want %s", c.table, got, err, c.want)
		}
	}
}

func TestPatternDomain(t *testing.T) {
	for pattern, want := range map[string]string{
		`@clinic\.example$`: "clinic.example", `^(.*)@a-b\.c\.example$`: "a-b.c.example",
		`@clinic.example$`: "", `@clinic\.example`: "", `clinic\.example$`: "", `x|@clinic\.example$`: "", `@.*$`: "",
	} {
		p, ok := patternDomain(pattern)
		if ok != (want != "") || ok && p.Domain().String() != want {
			t.Errorf("%s: %v %v, want %q", pattern, p, ok, want)
		}
	}
}

// Where a key leads, copies for an address may go.
func TestSelects(t *testing.T) {
	a := addr.MustAddress("audit@in.none.example")
	var got []string
	for _, key := range []string{"in.none.example", "none.example", ".none.example", "*", "audit@in.none.example", ".*",
		"x@in.none.example", "example.none", "n.none.example", "good.example"} {
		if selects(key, a) {
			got = append(got, key)
		}
	}
	if want := []string{"in.none.example", "none.example", ".none.example", "*", "audit@in.none.example", ".*"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Who doesn't hold the lock doesn't run, whatever the file says.
func TestHolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(file, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, err := lockHolder(file); pid != 0 || err != nil {
		t.Errorf("a file that nobody holds: %d, %v", pid, err)
	}
	if _, err := lockHolder(file + "x"); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}
