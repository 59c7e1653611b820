package forward_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/policy"
)

// fake is a Postfix whose tables are maps. Those of type regexp and ldap can only be asked.
type fake struct {
	set    map[string]string
	tables map[string]map[string]string
	fails  map[string]error
	asked  []string // "table key"
	calls  int
}

func (f *fake) Settings(context.Context) (parameters, transports map[string]string, err error) {
	set := map[string]string{
		"config_directory": "/nonexistent", "myorigin": "host.test", "mydomain": "test", "mydestination": "host.test, alias.test", "inet_interfaces": "127.0.0.1",
		"recipient_delimiter": "+", "append_dot_mydomain": "no", "propagate_unmatched_extensions": "canonical, virtual",
		"local_transport": "local:host.test", "virtual_transport": "virtual", "relay_transport": "relay", "default_transport": "smtp",
		"canonical_classes": "envelope_sender, envelope_recipient", "recipient_canonical_classes": "envelope_recipient",
		"alias_maps": "hash:aliases", "virtual_alias_maps": "hash:virtual", "virtual_alias_domains": "$virtual virt.test",
		"allow_mail_to_commands": "alias, forward", "allow_mail_to_files": "alias, forward", "virtual_alias_expansion_limit": "1000",
		"parent_domain_matches_subdomains": "relay_domains", "forward_path": "$home/.forward${recipient_delimiter}${extension}, $home/.forward",
	}
	maps.Copy(set, f.set)
	return set, map[string]string{"smtp": "smtp", "relay": "smtp", "local": "local", "virtual": "virtual", "lmtp": "lmtp", "error": "error",
		"discard": "discard", "dovecot": "pipe", "retry": "error"}, nil
}

func (f *fake) Lookup(_ context.Context, table string, keys []string) (map[string]string, error) {
	f.calls++
	found := map[string]string{}
	for _, k := range keys {
		f.asked = append(f.asked, table+" "+k)
		if v, ok := f.tables[table][strings.ToLower(k)]; ok {
			found[k] = v
		}
	}
	return found, f.fails[table]
}

func (f *fake) List(_ context.Context, table string) (map[string]string, error) {
	return f.tables[table], f.fails[table]
}

// world is a host with users.
type world struct {
	t    *testing.T
	dir  string
	fake *fake
	cfg  forward.Config
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), fake: &fake{set: map[string]string{}, tables: map[string]map[string]string{"hash:aliases": {}, "hash:virtual": {}}, fails: map[string]error{}}}
	w.cfg = forward.Config{Tables: w.fake, User: w.user, List: func() ([]string, error) { return []string{"alice", "bob", "carol"}, nil }}
	return w
}

func (w *world) user(name string) (forward.User, error) {
	switch name {
	case "alice", "bob", "carol":
		return forward.User{Name: name, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: filepath.Join(w.dir, name)}, nil
	case "broken":
		return forward.User{}, errors.New("ldap is away")
	}
	return forward.User{}, forward.ErrNoUser
}

func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) expander() *forward.Expander {
	w.t.Helper()
	e, err := forward.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// brief writes an expansion as "kind address>hop; …".
func brief(x forward.Expansion) string {
	var parts []string
	for _, l := range x.Leaves {
		s := string(l.Kind) + " " + l.Address.String()
		for _, h := range l.Hops {
			s += ">" + h.String()
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

// entries reads "key: value" lines.
func entries(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			m[k] = v
		}
	}
	return m
}

func TestPostfix(t *testing.T) {
	w := newWorld(t)
	list := w.file("list", "x@far.test, alice\n# no one\nbob+tag\n")
	w.fake.tables["hash:aliases"] = entries(`
root: alice
both: alice, x@far.test
chain: root, x2@far.test
self: self, x@far.test
alice2: \alice
prog: "|/bin/x y"
file: /var/spool/x
null: /dev/null
list: :include:` + list + `
nolist: :include:/nonexistent/list
baddir: :include:` + filepath.Dir(list) + `
empty: :include:` + w.file("empty", "# nobody\n") + `
relative: :include:list
inprog: :include:` + w.file("progs", "|x\n/y\nalice\n") + `
loop1: loop2, x@far.test
loop2: loop1
relist: virtual@virt.test
owner-both: bob
ext: y@far.test
full+ext: z@far.test
tocarol: carol
upper: Mixed@Far.TEST
route: "q%far.test"@host.test
tobob: bob
toboth: both
cat: nobody
brk: broken
`)
	w.fake.tables["hash:virtual"] = entries(`
virtual@virt.test: v@far.test
bob@host.test: bob@moved.test
@cat.test: @far.test
many@virt.test: a@far.test, b@far.test, alice
self@far.test: self@far.test, copy@far.test
l1@virt.test: l2@virt.test
l2@virt.test: l1@virt.test
d1@virt.test: d2@virt.test, d3@virt.test
d2@virt.test: end@far.test
d3@virt.test: end@far.test
bare: b@far.test
base@virt.test: base@far.test
base+x@virt.test: bx@far.test
`)
	w.fake.tables["regexp:/re"] = entries("re@virt.test: re@far.test")
	w.fake.tables["hash:canon"] = entries("old@far.test: new@far.test\nround@far.test: round2@far.test\nround2@far.test: round@far.test")
	w.fake.tables["hash:bcc"] = entries("virtual@virt.test: spy@far.test\nnew@far.test: spy2@far.test")
	w.fake.tables["hash:sbcc"] = entries("boss@host.test: archive@far.test")
	w.fake.tables["hash:transport"] = entries("routed.test: smtp:[relay.test]:587\n.routed.test: :[sub.test]\nbyhost.test: relay:\nhere.test: lmtp:unix:private/x\ngone@far2.test: error:5.1.1 gone\nloop.test: smtp:[127.0.0.1]:10025\nbad.test: smtp:[\nnone.test: nosuch:x")
	w.fake.tables["hash:vmbox"] = entries("joe@vm.test: joe/\n@all.test: x/")
	w.fake.tables["hash:relocated"] = entries("moved@far3.test: elsewhere")
	w.fake.set["virtual_alias_maps"] = "hash:virtual, regexp:/re"
	w.fake.set["recipient_canonical_maps"] = "hash:canon"
	w.fake.set["recipient_bcc_maps"] = "hash:bcc"
	w.fake.set["sender_bcc_maps"] = "hash:sbcc"
	w.fake.set["transport_maps"] = "hash:transport"
	w.fake.set["virtual_mailbox_domains"] = "vm.test all.test"
	w.fake.set["virtual_mailbox_maps"] = "hash:vmbox"
	w.fake.set["relocated_maps"] = "hash:relocated"
	w.fake.set["relay_domains"] = "inner.test"
	w.fake.set["virtual_alias_domains"] = "virt.test cat.test"
	w.file("carol/.forward", "carol, bob, c@far.test\n")
	w.file("carol/.forward+work", "work@far.test\n")
	e := w.expander()
	check := func(to, want string) {
		t.Helper()
		if got := brief(e.Expand(t.Context(), addr.MustAddress(to), addr.MustAddress("s@out.test"))); got != want {
			t.Errorf("%s:\n got %s\nwant %s", to, got, want)
		}
	}
	check("alice@host.test", "mailbox alice@host.test")
	check("ALICE@Host.Test", "mailbox ALICE@host.test") // the case stays, and doesn't matter
	check("alice", "mailbox alice@host.test")           // myorigin
	check("alice@alias.test", "mailbox alice@alias.test")
	check("alice@[127.0.0.1]", "mailbox alice@[127.0.0.1]")
	check("x@[127.0.0.2]", "leaves x@[127.0.0.2]")
	check("nobody@host.test", "refused nobody@host.test")
	check("cat@host.test", "refused nobody@host.test")
	check("brk@host.test", "unknown broken@host.test") // getpwnam fails: not "no such user"
	check("someone@far.test", "leaves someone@far.test")
	check("root@host.test", "mailbox alice@host.test")
	check("both@host.test", "leaves x@far.test; mailbox alice@host.test")
	check("chain@host.test", "leaves x2@far.test; mailbox alice@host.test")
	check("toboth@host.test", "leaves x@far.test; mailbox alice@host.test")
	check("self@host.test", "leaves x@far.test; refused self@host.test") // itself: the user, who isn't there
	check("alice2@host.test", "mailbox alice@host.test")
	check("prog@host.test", "command prog@host.test")
	check("file@host.test", "file file@host.test")
	check("null@host.test", "discard null@host.test")
	check("list@host.test", "leaves x@far.test; mailbox alice@host.test; mailbox bob+tag@host.test")
	check("nolist@host.test", "refused nolist@host.test")
	check("baddir@host.test", "unknown baddir@host.test")
	check("empty@host.test", "discard empty@host.test")
	check("relative@host.test", "refused relative@host.test")
	check("inprog@host.test", "mailbox alice@host.test; refused inprog@host.test; refused inprog@host.test") // allow_mail_to_…
	check("loop1@host.test", "leaves x@far.test; unknown loop2@host.test")
	check("relist@host.test", "leaves v@far.test") // sent on: virtual again, no copies again
	check("ext+d@host.test", "leaves y@far.test")  // propagate_unmatched_extensions has no alias
	check("full+ext@host.test", "leaves z@far.test")
	check("upper@host.test", "leaves Mixed@far.test")
	check("route@host.test", "leaves q@far.test")
	check("tobob@host.test", "mailbox bob@host.test") // seen: local(8) doesn't ask the virtual maps for what it delivers itself
	check("bob@host.test", "leaves bob@moved.test")
	check("tocarol@host.test", "leaves bob@moved.test; leaves c@far.test; mailbox carol@host.test") // but it does for what users forward
	check("carol+work@host.test", "leaves work@far.test")
	check("carol+play@host.test", "leaves bob@moved.test; leaves c@far.test; mailbox carol@host.test")
	check("virtual@virt.test", "leaves spy@far.test; leaves v@far.test")
	check("unknown@virt.test", "refused unknown@virt.test")
	check("joe@cat.test", "leaves joe@far.test")
	check("joe+e@cat.test", "leaves joe+e@far.test")
	check("base+t@virt.test", "leaves base+t@far.test")
	check("base+x@virt.test", "leaves bx@far.test")
	check("many@virt.test", "leaves a@far.test; leaves b@far.test; mailbox alice@host.test")
	check("self@far.test", "leaves copy@far.test; leaves self@far.test")
	check("l1@virt.test", "unknown l1@virt.test")
	check("d1@virt.test", "leaves end@far.test")
	check("bare@host.test", "leaves b@far.test")
	check("bare@virt.test", "refused bare@virt.test") // no local domain: not by the name alone
	check("RE@virt.test", "leaves re@far.test")
	check("old@far.test", "leaves new@far.test; leaves spy2@far.test")
	check("round@far.test", "unknown round@far.test")
	check("q%far.test@host.test", "leaves q@far.test")
	check("far.test!q@host.test", "leaves q@far.test")
	check(`"q@far.test"@host.test`, "leaves q@far.test")
	check("x@routed.test", "leaves x@routed.test>[relay.test]:587")
	check("x@a.b.routed.test", "leaves x@a.b.routed.test>[sub.test]")
	check("x@byhost.test", "leaves x@byhost.test")
	check("x@here.test", "mailbox x@here.test")
	check("gone@far2.test", "refused gone@far2.test")
	check("x@loop.test", "mailbox x@loop.test") // this machine
	check("x@bad.test", "unknown x@bad.test")
	check("x@none.test", "unknown x@none.test")
	check("joe+x@vm.test", "mailbox joe+x@vm.test")
	check("jim@vm.test", "refused jim@vm.test")
	check("any@all.test", "mailbox any@all.test")
	check("moved@far3.test", "refused moved@far3.test")
	check("x@sub.inner.test", "leaves x@sub.inner.test")

	if got := brief(e.Expand(t.Context(), addr.MustAddress("alice@host.test"), addr.MustAddress("Boss+x@host.test"))); got != "leaves archive@far.test; mailbox alice@host.test" {
		t.Errorf("copy by sender: %s", got)
	}
	if got := brief(e.Through(t.Context(), addr.MustAddress("alice@host.test"), addr.MustAddress("virtual@virt.test"))); got != "leaves v@far.test" {
		t.Errorf("through: %s", got)
	}
	if slices.Contains(w.fake.asked, "regexp:/re @virt.test") || !slices.Contains(w.fake.asked, "regexp:/re RE@virt.test") {
		t.Errorf("a table of patterns is asked for whole addresses, as typed: %q", w.fake.asked)
	}
	x := e.Expand(t.Context(), addr.MustAddress("chain@host.test"), addr.Address{})
	want := []forward.Step{{From: "chain@host.test", Origin: policy.Origin{Source: "hash:aliases", Key: "chain"}}, {From: "root@host.test", Origin: policy.Origin{Source: "hash:aliases", Key: "root"}}}
	if i := slices.IndexFunc(x.Leaves, func(l forward.Leaf) bool { return l.Kind == forward.Mailbox }); i < 0 || !slices.Equal(x.Leaves[i].Path, want) {
		t.Errorf("path %v", x.Leaves)
	}
}

func TestSettings(t *testing.T) {
	check := func(to, want string, set ...string) {
		t.Helper()
		w := newWorld(t)
		w.file("alice/.forward", "carol, a@far.test\n")
		w.fake.tables["hash:aliases"] = entries("both: alice, x@far.test")
		w.fake.tables["hash:byuser"] = entries("alice: lmtp:unix:x")
		w.fake.tables["hash:doms"] = entries("t.test: x")
		w.fake.tables["hash:relays"] = entries("@out.test: [smart.test]")
		w.fake.tables["hash:ways"] = entries("s@out.test: smtp:[way.test]\nowner-list@host.test: smtp:[owner.test]\nb@far.test: smtp:[b.test]")
		w.fake.tables["hash:dunno"] = entries("s@out.test: DUNNO")
		w.fake.tables["hash:lists"] = entries("list: m@far.test\nowner-list: b@far.test\nbare: m@far.test\nall: list, bare")
		for _, s := range set {
			name, value, _ := strings.Cut(s, "=")
			w.fake.set[name] = value
		}
		if got := brief(w.expander().Expand(t.Context(), addr.MustAddress(to), addr.MustAddress("s@out.test"))); got != want {
			t.Errorf("%s with %q:\n got %s\nwant %s", to, set, got, want)
		}
	}
	check("alice@host.test", "leaves a@far.test; mailbox carol@host.test")
	check("alice@host.test", "mailbox alice@host.test", "forward_path=")
	check("alice@host.test", "leaves a@far.test; leaves all@far.test; mailbox carol@host.test", "always_bcc=all@far.test")
	check("x@far.test", "leaves x@far.test>[hub.test]:26", "relayhost=[hub.test]:26")
	check("x@far.test", "leaves x@far.test>hub.test>hub2.test", "relayhost=hub.test, hub2.test")
	check("x@far.test", "leaves x@far.test>[smart.test]", "relayhost=hub.test", "sender_dependent_relayhost_maps=hash:relays")
	check("x@far.test", "leaves x@far.test>[way.test]", "relayhost=hub.test", "sender_dependent_default_transport_maps=hash:ways")
	check("x@far.test", "leaves x@far.test>hub.test", "relayhost=hub.test", "sender_dependent_default_transport_maps=hash:dunno")
	check("x@far.test", "leaves x@far.test", "relayhost=hub.test", "sender_dependent_relayhost_maps=hash:dunno")
	check("x@in.test", "leaves x@in.test", "relay_domains=in.test", "sender_dependent_default_transport_maps=hash:ways")
	check("list@host.test", "leaves m@far.test>[owner.test]", "alias_maps=hash:lists", "sender_dependent_default_transport_maps=hash:ways")
	check("list@host.test", "leaves m@far.test>[b.test]", "alias_maps=hash:lists", "sender_dependent_default_transport_maps=hash:ways", "expand_owner_alias=yes")
	check("owner-list@host.test", "leaves b@far.test>[way.test]", "alias_maps=hash:lists", "sender_dependent_default_transport_maps=hash:ways")
	check("all@host.test", "leaves m@far.test>[owner.test]; leaves m@far.test>[way.test]", "alias_maps=hash:lists", "sender_dependent_default_transport_maps=hash:ways")
	check("x@far.test", "leaves x@far.test>[deflt.test]", "default_transport=smtp:[deflt.test]", "relayhost=[hub.test]")
	check("x@in.test", "leaves x@in.test>[inner.test]", "relay_domains=in.test", "relay_transport=relay:[inner.test]")
	check("x@far.test", "refused x@far.test", "default_transport=error:no mail leaves")
	check("nobody@host.test", "leaves nobody@luser.test", "luser_relay=$user@luser.test")
	check("nobody+x@host.test", "leaves nobody+x@luser.test", "luser_relay=$local@luser.test")
	check("nobody@host.test", "leaves nobody@host.test>[inner.test]", "fallback_transport=smtp:[inner.test]")
	check("nobody@host.test", "mailbox nobody@host.test", "mailbox_transport=lmtp:unix:private/dovecot", "luser_relay=x@far.test")
	check("carol@host.test", "leaves carol@host.test>[inner.test]", "mailbox_transport=smtp:[inner.test]")
	check("bob@host.test", "mailbox bob@host.test", "mailbox_transport_maps=hash:byuser", "mailbox_command=/usr/bin/procmail")
	check("both+e@host.test", "leaves x+e@far.test; mailbox alice+e@host.test", "propagate_unmatched_extensions=alias", "forward_path=")
	check("alice+e@host.test", "leaves a+e@far.test; mailbox carol+e@host.test", "propagate_unmatched_extensions=forward")
	check("alice-e@host.test", "leaves a@far.test; mailbox carol@host.test", "recipient_delimiter=+-")
	check("alice+e@host.test", "refused alice+e@host.test", "recipient_delimiter=")
	check("x@t.test", "refused x@t.test", "mydestination=host.test, hash:doms") // table of domains
	check("x@u.test", "leaves x@u.test", "mydestination=!u.test, hash:doms")
	check("carol@near", "mailbox carol@near.test", "append_dot_mydomain=yes", "mydestination=near.test")
	check("vm@vm.test", "leaves vm@vm.test>[back.test]:24", "virtual_mailbox_domains=vm.test", "virtual_transport=smtp:[back.test]:24")
	check("vm@vm.test", "mailbox vm@vm.test", "virtual_mailbox_domains=vm.test", "virtual_transport=dovecot")
}

// Mail of the null sender has a key of its own.
func TestNullSender(t *testing.T) {
	w := newWorld(t)
	w.fake.set["sender_dependent_default_transport_maps"] = "hash:ways"
	w.fake.set["empty_address_default_transport_maps_lookup_key"] = "<>"
	w.fake.tables["hash:ways"] = entries("<>: smtp:[null.test]")
	if got := brief(w.expander().Expand(t.Context(), addr.MustAddress("x@far.test"), addr.Address{})); got != "leaves x@far.test>[null.test]" {
		t.Error(got)
	}
}

// What can't be known is Unknown, with the reason, beside what is.
func TestUnknown(t *testing.T) {
	w := newWorld(t)
	w.fake.set["virtual_alias_maps"] = "hash:virtual, ldap:/dir"
	w.fake.fails["ldap:/dir"] = errors.New("server is down")
	w.file("carol/.forward", "x@far.test\n")
	e := w.expander()
	x := e.Expand(t.Context(), addr.MustAddress("carol@host.test"), addr.Address{})
	if len(x.Leaves) != 1 || x.Leaves[0].Kind != forward.Unknown || !strings.Contains(x.Leaves[0].Detail, "server is down") {
		t.Errorf("table away: %+v", x)
	}
	if len(x.Leaving()) != 1 {
		t.Errorf("an unknown end may leave")
	}
	delete(w.fake.fails, "ldap:/dir")
	if got := brief(e.Expand(t.Context(), addr.MustAddress("carol@host.test"), addr.Address{})); got != "leaves x@far.test" {
		t.Errorf("table back: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := brief(e.Expand(ctx, addr.MustAddress("carol@host.test"), addr.Address{})); got != "unknown carol@host.test" {
		t.Errorf("no time left: %s", got)
	}

	w = newWorld(t)
	w.fake.fails["hash:aliases"] = errors.New("no such file")
	if got := brief(w.expander().Expand(t.Context(), addr.MustAddress("alice@host.test"), addr.Address{})); got != "unknown alice@host.test" {
		t.Errorf("aliases unreadable: %s", got)
	}

	w = newWorld(t)
	w.cfg.Most = 10
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("u%d@far.test", i))
	}
	w.fake.tables["hash:aliases"]["wide"] = strings.Join(many, ", ")
	x = w.expander().Expand(t.Context(), addr.MustAddress("wide@host.test"), addr.Address{})
	if len(x.Leaves) > 11 || !slices.ContainsFunc(x.Leaves, func(l forward.Leaf) bool { return l.Kind == forward.Unknown }) {
		t.Errorf("too wide: %d leaves, %s", len(x.Leaves), brief(x))
	}

	w = newWorld(t)
	for i := range 150 {
		w.fake.tables["hash:aliases"][fmt.Sprint("d", i)] = fmt.Sprint("d", i+1)
	}
	w.fake.tables["hash:aliases"]["d150"] = "x@far.test"
	if got := brief(w.expander().Expand(t.Context(), addr.MustAddress("d0@host.test"), addr.Address{})); !strings.HasPrefix(got, "unknown d") {
		t.Errorf("too deep: %s", got)
	}
}

// local(8) ignores some .forward files, and then delivers to the mailbox.
func TestForwardFile(t *testing.T) {
	check := func(what, want string, prepare func(w *world, path string) error) {
		t.Helper()
		w := newWorld(t)
		path := w.file("alice/.forward", "x@far.test\n")
		if err := prepare(w, path); err != nil {
			t.Fatal(err)
		}
		if got := brief(w.expander().Expand(t.Context(), addr.MustAddress("alice@host.test"), addr.Address{})); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	const stays, goes = "mailbox alice@host.test", "leaves x@far.test"
	check("as it is", goes, func(*world, string) error { return nil })
	check("group-writable", goes, func(_ *world, p string) error { return os.Chmod(p, 0o664) })
	check("world-writable", stays, func(_ *world, p string) error { return os.Chmod(p, 0o666) })
	check("closed to its owner", stays, func(w *world, p string) error {
		w.cfg.User = func(name string) (forward.User, error) {
			return forward.User{Name: name, UID: 4711, GID: 4711, Home: filepath.Dir(p)}, nil
		}
		return os.Chmod(p, 0o600)
	})
	check("empty", stays, func(_ *world, p string) error { return os.WriteFile(p, nil, 0o644) })
	check("gone", stays, func(_ *world, p string) error { return os.Remove(p) })
	check("a link", stays, func(_ *world, p string) error {
		return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p))
	})
	check("a directory", stays, func(_ *world, p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) })
	check("not to be looked at", "mailbox alice@host.test; unknown alice@host.test", func(w *world, p string) error {
		return errors.Join(os.RemoveAll(filepath.Dir(p)), os.Symlink("alice", filepath.Dir(p)))
	})
	check("its own name", stays, func(_ *world, p string) error { return os.WriteFile(p, []byte("alice@host.test\n"), 0o644) })
	check("with a backslash", stays, func(_ *world, p string) error { return os.WriteFile(p, []byte("\\alice\n"), 0o644) })
	check("an alias of oneself", "mailbox alice@host.test", func(w *world, p string) error {
		w.fake.tables["hash:aliases"]["me"] = "alice"
		return os.WriteFile(p, []byte("me\n"), 0o644)
	})
	check("each other", "unknown alice@host.test", func(w *world, p string) error {
		w.file("bob/.forward", "alice\n")
		return os.WriteFile(p, []byte("bob\n"), 0o644)
	})
}

func TestSieve(t *testing.T) {
	w := newWorld(t)
	w.fake.set["virtual_mailbox_domains"] = "vm.test"
	w.fake.tables["hash:bcc"] = entries("there@far.test: spy@far.test")
	w.fake.set["recipient_bcc_maps"] = "hash:bcc"
	w.cfg.Sieve = []string{w.dir + "/vmail/%d/%n/.dovecot.sieve", "~/.dovecot.sieve"}
	w.file("vmail/vm.test/joe/.dovecot.sieve", "redirect :copy \"there@far.test\";\n")
	w.file("vmail/vm.test/bad/.dovecot.sieve", "redirect \"there@far.test\n")
	w.file("vmail/vm.test/var/.dovecot.sieve", "require \"variables\";\nredirect \"${x}\";\n")
	w.file("vmail/vm.test/own/.dovecot.sieve", "redirect \"own@vm.test\";\n")
	w.file("vmail/vm.test/inc/.dovecot.sieve", "require \"include\";\ninclude :personal \"other\";\n")
	w.file("vmail/vm.test/inc/sieve/other.sieve", "redirect \"inc@far.test\";\n")
	w.file("vmail/vm.test/miss/.dovecot.sieve", "require \"include\";\ninclude :personal \"other\";\n")
	w.file("bob/.dovecot.sieve", "redirect \"bob@far.test\";\n")
	e := w.expander()
	check := func(to, want string) {
		t.Helper()
		if got := brief(e.Expand(t.Context(), addr.MustAddress(to), addr.Address{})); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
	check("Joe+tag@vm.test", "leaves spy@far.test; leaves there@far.test; mailbox Joe+tag@vm.test") // a new message: copied, too
	check("none@vm.test", "mailbox none@vm.test")
	check("bad@vm.test", "mailbox bad@vm.test; unknown bad@vm.test")
	check("var@vm.test", "mailbox var@vm.test; unknown var@vm.test")
	check("own@vm.test", "mailbox own@vm.test")
	check("inc@vm.test", "leaves inc@far.test; mailbox inc@vm.test")
	check("miss@vm.test", "mailbox miss@vm.test; unknown miss@vm.test")
	check("bob@host.test", "leaves bob@far.test; mailbox bob@host.test")
	w.fake.set["mailbox_transport"] = "lmtp:unix:private/dovecot"
	if got := brief(w.expander().Expand(t.Context(), addr.MustAddress("bob+x@host.test"), addr.Address{})); got != "leaves bob@far.test; mailbox bob+x@host.test" {
		t.Errorf("script of a user by mailbox_transport: %s", got)
	}
	check("../../joe@vm.test", `mailbox "../../joe"@vm.test`)

	var owners []string
	if _, err := e.All(t.Context(), func(f forward.Forwarder) bool { owners = append(owners, f.Address.String()); return true }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(owners)
	if got := strings.Join(owners, " "); got != "bad@vm.test bob@host.test inc@vm.test joe@vm.test miss@vm.test own@vm.test there@far.test var@vm.test" {
		t.Errorf("all: %s", got)
	}
}

func TestPlain(t *testing.T) {
	w := newWorld(t)
	w.cfg.Tables = nil
	w.cfg.Dialect = aliases.Sendmail
	w.cfg.Local = []addr.Domain{addr.MustDomain("host.test"), addr.MustDomain("virt.test")}
	w.cfg.Aliases = []string{w.file("aliases", "root: alice\nboth: alice, x@far.test\nloop1: loop2\nloop2: loop1\nself: self, x@far.test\nplus+*: p@far.test\nbackv: v@virt.test\nowner-both: bob\n")}
	w.cfg.Virtual = []string{w.file("virtuser", "v@virt.test\tv@far.test\nno@virt.test\terror:nouser gone\n@cat.test\t%1@far.test\nloc@virt.test\tboth\n")}
	w.cfg.Mailertables = []string{w.file("mailertable", "routed.test\tesmtp:[relay.test]\nlist.test\tsmtp:[a.test]:b.test\nhere.test\tlocal:alice\nno.test\terror:5.1.1 no\nodd.test\tuucp:x\n")}
	w.cfg.Forward = []string{"~/.forward"}
	w.file("carol/.forward", "\\carol, v@virt.test\n")
	e := w.expander()
	check := func(to, want string) {
		t.Helper()
		if got := brief(e.Expand(t.Context(), addr.MustAddress(to), addr.Address{})); got != want {
			t.Errorf("%s:\n got %s\nwant %s", to, got, want)
		}
	}
	check("alice@host.test", "mailbox alice@host.test")
	check("root", "mailbox alice")
	check("both@host.test", "leaves x@far.test; mailbox alice")
	check("self@host.test", "leaves x@far.test; refused self")
	check("loop1@host.test", "unknown loop2")
	check("plus+d@host.test", "leaves p@far.test")
	check("backv@host.test", "leaves v@far.test")
	check("no@virt.test", "refused no@virt.test")
	check("joe@cat.test", "leaves joe@far.test")
	check("loc@virt.test", "leaves x@far.test; mailbox alice")
	check("carol@host.test", "leaves v@far.test; mailbox carol")
	check("nobody@host.test", "refused nobody@host.test")
	check("x@routed.test", "leaves x@routed.test>[relay.test]")
	check("x@list.test", "leaves x@list.test>[a.test]>b.test")
	check("x@here.test", "mailbox alice")
	check("x@no.test", "refused x@no.test")
	check("x@odd.test", "unknown x@odd.test")
	check("x@far.test", "leaves x@far.test")

	var got []string
	unlisted, err := e.All(t.Context(), func(f forward.Forwarder) bool { got = append(got, f.Address.String()+f.Pattern); return true })
	slices.Sort(got)
	if want := "<>@cat.test backv@host.test both@host.test carol@host.test loc@virt.test loop1@host.test loop2@host.test no@virt.test " +
		"plus+*@host.test root@host.test self@host.test v@virt.test"; err != nil || len(unlisted) > 0 || strings.Join(got, " ") != want {
		t.Errorf("all: %s, %v, %v", strings.Join(got, " "), unlisted, err)
	}
}

func TestAll(t *testing.T) {
	w := newWorld(t)
	re := w.file("re", "# comment\n/^x@/ y@far.test\n  more\n")
	w.fake.set["virtual_alias_maps"] = "hash:virtual, regexp:" + re + ", ldap:/dir"
	w.fake.set["always_bcc"] = "all@far.test"
	w.fake.tables["hash:aliases"] = entries("root: alice\n@: @\nowner-root: bob")
	w.fake.tables["hash:virtual"] = entries("v@virt.test: x@far.test\nvirt.test: anything\n@cat.test: @far.test\nbare: x@far.test")
	w.file("carol/.forward", "x@far.test\n")
	var got []string
	unlisted, err := w.expander().All(t.Context(), func(f forward.Forwarder) bool {
		got = append(got, f.Address.String()+" "+f.Pattern+" "+strings.ReplaceAll(f.Origin.String(), w.dir, ""))
		return true
	})
	want := []string{
		"<> * always_bcc = all@far.test", "<> /^x@/ y@far.test regexp:/re:2", `<> @cat.test hash:virtual, key "@cat.test"`, `bare@host.test  hash:virtual, key "bare"`,
		"carol@host.test  /carol/.forward", `root@host.test  hash:aliases, key "root"`, `v@virt.test  hash:virtual, key "v@virt.test"`,
	}
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("all: %q, %v", got, err)
	}
	if len(unlisted) != 1 || unlisted[0].Source != "ldap:/dir" {
		t.Errorf("unlisted: %v", unlisted)
	}
}

// Many addresses ask a table a few times, not once each.
func TestExpandAll(t *testing.T) {
	w := newWorld(t)
	w.fake.set["virtual_alias_maps"] = "ldap:/dir"
	w.fake.tables["ldap:/dir"] = map[string]string{}
	var all []addr.Address
	for i := range 3000 {
		a := addr.MustAddress(fmt.Sprintf("u%d@virt.test", i))
		all = append(all, a)
		w.fake.tables["ldap:/dir"][a.String()] = fmt.Sprintf("u%d@far.test", i)
	}
	n := 0
	w.expander().ExpandAll(t.Context(), all, addr.Address{}, func(a addr.Address, x forward.Expansion) bool {
		if want := "leaves " + a.Local + "@far.test"; brief(x) != want {
			t.Fatalf("%s: %s", a, brief(x))
		}
		n++
		return true
	})
	if n != len(all) || w.fake.calls > 8 {
		t.Errorf("%d addresses in %d calls", n, w.fake.calls)
	}
}

// A changed file counts at once, and is told.
func TestChanged(t *testing.T) {
	w := newWorld(t)
	w.cfg.Tables = nil
	w.cfg.Local = []addr.Domain{addr.MustDomain("host.test")}
	path := w.file("aliases", "root: x@far.test\n")
	w.cfg.Aliases = []string{path}
	w.cfg.Forward = []string{"~/.forward"}
	w.cfg.Recheck = 200 * time.Millisecond
	e := w.expander()
	check := func(to, want string) {
		t.Helper()
		if got := brief(e.Expand(t.Context(), addr.MustAddress(to), addr.Address{})); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
	check("root@host.test", "leaves x@far.test")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	wait := func(what string) {
		t.Helper()
		select {
		case <-e.Changed():
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not told", what)
		}
	}
	w.file("new", "root: y@far.test\nroot2: z@far.test\n")
	if err := os.Rename(filepath.Join(w.dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	wait("another file in its place")
	check("root2@host.test", "leaves z@far.test")
	w.file("carol/.forward", "x@far.test\n")
	wait("a user's file")
	check("carol@host.test", "leaves x@far.test")
	if err := os.Remove(filepath.Join(w.dir, "carol/.forward")); err != nil {
		t.Fatal(err)
	}
	wait("it is gone")
	check("carol@host.test", "mailbox carol@host.test")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A change is told at whatever moment after the first reading it comes: before anything watches, while Run begins and later;
// also when it was an expansion that noticed.
func TestChangedAtAnyMoment(t *testing.T) {
	for _, c := range []struct {
		name            string
		change, watched func(w *world, e *forward.Expander)
	}{
		{name: "before Run", change: func(w *world, _ *forward.Expander) { w.file("aliases", "root: y@far.test\n") }},
		{name: "before Run, seen by an expansion", change: func(w *world, e *forward.Expander) {
			w.file("aliases", "root: longer@far.test\n")
			e.Expand(w.t.Context(), addr.MustAddress("root@host.test"), addr.Address{})
		}},
		{name: "with Run", watched: func(w *world, _ *forward.Expander) { w.file("aliases", "root: y@far.test\n") }},
		{name: "a user's file before Run", change: func(w *world, _ *forward.Expander) { w.file("carol/.forward", "x@far.test\n") }},
		{name: "a user's file with Run", watched: func(w *world, _ *forward.Expander) { w.file("carol/.forward", "x@far.test\n") }},
		{name: "a user's file gone", change: func(w *world, _ *forward.Expander) {
			if err := os.Remove(filepath.Join(w.dir, "alice/.forward")); err != nil {
				w.t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cfg.Tables = nil
			w.cfg.Local = []addr.Domain{addr.MustDomain("host.test")}
			w.cfg.Aliases = []string{w.file("aliases", "root: x@far.test\n")}
			w.cfg.Forward = []string{"~/.forward"}
			w.cfg.Recheck = 200 * time.Millisecond
			w.file("alice/.forward", "x@far.test\n")
			time.Sleep(1100 * time.Millisecond) // of files that were just written it is told anyway
			e := w.expander()
			if _, err := e.All(t.Context(), func(forward.Forwarder) bool { return true }); err != nil {
				t.Fatal(err)
			}
			e.Expand(t.Context(), addr.MustAddress("root@host.test"), addr.Address{})
			select {
			case <-e.Changed():
				t.Error("told of no change")
			default:
			}
			if c.change != nil {
				c.change(w, e)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- e.Run(ctx) }()
			if c.watched != nil {
				c.watched(w, e)
			}
			select {
			case <-e.Changed():
			case <-time.After(30 * time.Second):
				t.Error("not told")
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
