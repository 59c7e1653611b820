package forward

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

func TestExpandMacros(t *testing.T) {
	values := map[string]string{"home": "/h", "user": "joe", "extension": "x", "empty": ""}
	check := func(text, want string, defined bool) {
		t.Helper()
		if got, ok := expandMacros(text, values); got != want || ok != defined {
			t.Errorf("%s: %q %v, want %q %v", text, got, ok, want, defined)
		}
	}
	check("$home/.forward", "/h/.forward", true)
	check("${home}/$(user).f", "/h/joe.f", true)
	check("$home/.forward${empty}", "/h/.forward", false)
	check("$nothing", "", false)
	check("a$$b", "a$b", true)
	check("${extension?+$extension}", "+x", true)
	check("${empty?+$empty}!", "!", true)
	check("${empty:none}", "none", true)
	check("${extension:none}", "", true)
	check("${extension?{y$user}:{n}}", "yjoe", true)
	check("${empty?{y}:{n$home}}", "n/h", true)
	check("${open", "", false)
	check("$", "$", true)
}

func TestHostList(t *testing.T) {
	check := func(text, want string) {
		t.Helper()
		hops, err := hostList(text)
		got := strings.Trim(fmt.Sprint(hops), "[]")
		if err != nil {
			got = "error"
		}
		if want = strings.Trim(want, "[]"); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	check("", "")
	check("a.test", "a.test")
	check("[a.test]:b.test:[192.0.2.1]", "[a.test] b.test [192.0.2.1]")
	check("[IPv6:2001:db8::1]:b.test", "[IPv6:2001:db8::1] b.test")
	check("[a.test", "error")
}

func TestScriptPath(t *testing.T) {
	joe := User{Name: "joe", Home: "/home/joe"}
	check := func(template, a string, u User, want string) {
		t.Helper()
		got, ok := scriptPath(template, addr.Address{Local: a, Domain: addr.MustDomain("v.test")}, u)
		if got != want || ok != (want != "") {
			t.Errorf("%s for %q: %q %v, want %q", template, a, got, ok, want)
		}
	}
	check("/m/%d/%n/s", "Joe", User{}, "/m/v.test/joe/s")
	check("/m/%u.s", "joe", User{}, "/m/joe@v.test.s")
	check("~/.s", "joe", joe, "/home/joe/.s")
	check("~/.s", "joe", User{}, "")
	check("/m/%n", "../x", User{}, "")
	check("/m/%n", "..", User{}, "")
	check("/m/%n", "%d", User{}, "/m/%d") // put in once
}

func TestForwardPath(t *testing.T) {
	joe := User{Name: "joe", Home: "/home/joe"}
	check := func(template, detail, want string) {
		t.Helper()
		got, ok := forwardPath(template, addr.Address{Local: "joe"}, joe, detail)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%s for %q: %q %v, want %q", template, detail, got, ok, want)
		}
	}
	check("~/.forward", "", "/home/joe/.forward")
	check("~/.forward", "x", "/home/joe/.forward")
	check("~/.forward+%h", "x", "/home/joe/.forward+x")
	check("~/.forward+%h", "", "")
	check("~/.forward+%h", "/../../etc/passwd", "")
	check("~/.forward+%h", "%n", "/home/joe/.forward+%n") // put in once
	check("/var/forward/%n", "x", "/var/forward/joe")
}

func TestAccounts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", "root:x:0:0::/root:/bin/sh\n# no\njoe:x:1:2:Joe:/home/joe:/bin/sh\njoe:x:3:3::/other:/x\nbad:x:y:1::/:/x\nshort:x\n+::::::\n")
	write("nsswitch", "passwd: files systemd # sss\n")
	c := &accounts{passwd: filepath.Join(dir, "passwd"), nsswitch: filepath.Join(dir, "nsswitch")}
	if u, err := c.find("joe"); err != nil || u != (User{"joe", 1, 2, "/home/joe"}) {
		t.Errorf("joe: %v, %v", u, err)
	}
	for _, name := range []string{"jim", "", "bad", "-x", "a:b", "+"} {
		if u, err := c.find(name); !errors.Is(err, ErrNoUser) {
			t.Errorf("%q: %v, %v", name, u, err)
		}
	}
	write("passwd", "jim:x:5:5::/home/jim:/bin/sh\n")
	if _, err := c.find("jim"); err != nil {
		t.Errorf("jim is new: %v", err)
	}
	if names, err := c.list(); err != nil || strings.Join(names, " ") != "jim" {
		t.Errorf("names %v, %v", names, err)
	}
	write("nsswitch", "passwd: files sss # and\n")
	if !c.elsewhere() {
		t.Error("sss has users, too")
	}
	if moreUsers("passwd:  files sss\n") != true || moreUsers("group: ldap\npasswd: compat [NOTFOUND=return] systemd\n") {
		t.Error("sources of users")
	}
	if err := os.Remove(filepath.Join(dir, "passwd")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.find("jim"); err == nil || errors.Is(err, ErrNoUser) {
		t.Errorf("no file: %v", err)
	}
}

// oneTable is a Postfix with one alias table and one virtual table.
type oneTable map[string]string

func (o oneTable) Settings(context.Context) (parameters, transports map[string]string, err error) {
	return map[string]string{"myorigin": "h.test", "mydestination": "h.test", "local_transport": "local", "default_transport": "smtp", "virtual_alias_maps": "hash:v",
		"alias_maps": "hash:a", "recipient_delimiter": "+", "propagate_unmatched_extensions": "virtual, alias, forward", "forward_path": "$home/$user"}, map[string]string{"local": "local", "smtp": "smtp"}, nil
}

func (o oneTable) Lookup(context.Context, string, []string) (map[string]string, error) {
	return nil, nil
}

func (o oneTable) List(context.Context, string) (map[string]string, error) { return o, nil }

// Whatever tables and files say, an expansion ends, in bounds, and never says "nowhere".
func FuzzExpand(f *testing.F) {
	for _, seed := range [][4]string{
		{"a b", "joe@far.test", "joe", "joe@h.test"}, {"joe", "joe, x@far.test", "\\joe", "joe+x@h.test"}, {"joe", ":include:/etc/passwd", "|x", "joe@[127.0.0.1]"},
		{"joe", "joe+y, joe+z", "joe+w", "joe+v@h.test"}, {"@h.test", "@far.test", "", "a%b@h.test"}, {"joe", "\"", "<", "joe"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, key, value, file, to string) {
		a, err := addr.ParsePath(to)
		if err != nil {
			return
		}
		home := t.TempDir()
		if err := os.WriteFile(filepath.Join(home, "joe"), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
		uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
		e, err := New(Config{Tables: oneTable{key: value, "joe": "joe, " + value}, Most: 50, User: func(name string) (User, error) {
			if name != "joe" {
				return User{}, ErrNoUser
			}
			return User{Name: name, UID: uid, GID: gid, Home: home}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		x := e.Expand(t.Context(), a, addr.Address{})
		if n := len(x.Leaves); n == 0 || n > 51 {
			t.Errorf("%d ends", n)
		}
		for _, l := range x.Leaves {
			if l.Detail == "no end was found" {
				t.Errorf("nowhere: %+v", l)
			}
		}
	})
}
