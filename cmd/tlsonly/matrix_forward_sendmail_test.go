package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// sendmailLab runs a Sendmail on the files of the lab, by which the program finds the sendmail(8) that it asks, too. Mail is
// delivered before the client is told that it was taken.
func sendmailLab(t *testing.T, users []string, write func(l *forwardLab), more ...string) (*forwardLab, *rig.Sendmail) {
	t.Helper()
	l := newForwardLab(t, users)
	l.file("mailer", "#!/bin/sh\nfor user; do :; done\nexec cat >>\"DIR/spool/$user\"\n")
	l.check(os.Chmod(filepath.Join(l.dir, "mailer"), 0o755))
	mc := []string{
		"define(`confDELIVERY_MODE', `i')dnl",
		"define(`LOCAL_MAILER_PATH', `DIR/mailer')dnl",
		"define(`LOCAL_MAILER_ARGS', `mailer $u')dnl",
		"define(`confTO_ICONNECT', `5s')dnl",
		"FEATURE(`accept_unqualified_senders')dnl",
		"FEATURE(`virtusertable', `hash -o DIR/virtusertable')dnl",
		"VIRTUSER_DOMAIN(`virt.example cat.example')dnl",
		"LOCAL_DOMAIN(`host.example')dnl",
	}
	for i, line := range append(mc, append(more, "MAILER(`local')dnl")...) {
		line = strings.ReplaceAll(line, "DIR", l.dir)
		if i < len(mc) {
			mc[i] = line
		} else {
			mc = append(mc, line)
		}
	}
	routes := map[string]string{
		"routed.example":    "esmtp:[mx1.route.example]",
		".routed.example":   "esmtp:route.example",
		"local.example":     "local:alice",
		"error.example":     "error:5.1.1:550 no",
		"discard.example":   "discard:x",
		"nowhere.example":   "error:nohost no",
		"aliasing.example":  "local:plain",
		"forwarded.example": "local:",
	}
	s, err := rig.StartSendmail(patient(t), rig.SendmailConfig{Mc: mc, Mailertable: routes})
	l.check(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Sendmail's log:\n%s", s.Log())
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	write(l)
	table := ""
	for _, domain := range slices.Sorted(maps.Keys(routes)) {
		table += domain + "\t" + routes[domain] + "\n"
	}
	l.check(os.WriteFile(filepath.Join(s.Dir, "mailertable"), []byte(table), 0o644))
	text, err := os.ReadFile(filepath.Join(l.dir, "aliases"))
	l.check(err)
	l.check(os.WriteFile(filepath.Join(s.Dir, "aliases"), text, 0o644))
	_, err = s.Run(patient(t), "", "-bi")
	l.check(err)
	virtual, err := os.Open(filepath.Join(l.dir, "virtusertable"))
	l.check(err)
	defer virtual.Close()
	makemap := s.Command(patient(t), "makemap", "-C", s.Cf, "hash", filepath.Join(l.dir, "virtusertable"))
	makemap.Stdin = virtual
	if out, err := makemap.CombinedOutput(); err != nil {
		t.Fatalf("makemap: %v: %s", err, out)
	}
	cmd := s.Command(patient(t), "sendmail")
	var environment string
	for _, v := range cmd.Env {
		if strings.HasPrefix(v, "LD_LIBRARY_PATH=") {
			environment = v
		}
	}
	l.over("/usr/sbin/sendmail", "#!/bin/sh\nexec env "+environment+" "+cmd.Path+" \"$@\"\n", 0o755)
	return l, s
}

// runSendmail sends the cases and judges them.
func (l *forwardLab) runSendmail(s *rig.Sendmail, cases []forwardCase) {
	l.t.Helper()
	ends := l.send(s.Addr, cases)
	l.collect(ends)
	queue, err := s.Queue(patient(l.t), false)
	l.check(err)
	for i, c := range cases {
		if strings.Contains(queue, "<"+c.sender(i)+">") {
			ends[i]["waits"] = true
		}
	}
	l.judge(cases, l.says(cases, "postfix = \"off\"\nsendmail = \""+s.Cf+"\"\n"), ends)
}

// What forwards and explain say is where a real Sendmail delivers.
func TestMTAForwardMatrixSendmail(t *testing.T) {
	users := strings.Fields("alice bob carol dave erin frank grace heidi ivan judy mallory nohome oscar peggy rupert sybil trent ursula victor walter wendy xavier yvonne zoe")
	l, s := sendmailLab(t, users, (*forwardLab).sendmailFiles,
		"define(`confFORWARD_PATH', `DIR/forwards/$u:$z/.forward+$h:$z/.forward.$w:$z/.forward')dnl")
	l.runSendmail(s, sendmailForwards())
}

func (l *forwardLab) sendmailFiles() {
	l.file("list", "li1@far.example\nbob, li2@far.example\n# comment@far.example\n\"|DIR/deliver DIR/files/cmd-list\"\n")
	l.file("empty", "\n# nobody\n")
	l.file("inner", ":include:DIR/list2\n")
	l.file("list2", "deep@far.example\n")
	l.check(os.Chmod(l.file("closed", "closed@far.example\n"), 0))
	l.check(os.Chmod(l.file("writable", "writable@far.example\n"), 0o666))
	l.file("open/list", "open@far.example\n")
	l.check(os.Chmod(filepath.Join(l.dir, "open"), 0o777))
	l.file("aliases", `plain: one@far.example
two: one@far.example, two@far.example
continued: one@far.example,
	two@far.example,
  three@far.example
tolocal: alice
nest1: nest2
nest2: nest3
nest3: deep3@far.example
self: self, selfcopy@far.example
bob: \bob
escaped: \carol
escapedlist: \carol, \dave
loop1: loop2
loop2: loop1
include: :include:DIR/list
missing: :include:DIR/nothing
closed: :include:DIR/closed
writable: :include:DIR/writable
openlist: :include:DIR/open/list
directory: :include:DIR/home
emptylist: :include:DIR/empty
nestedlist: :include:DIR/inner
command: "|DIR/deliver DIR/files/cmd-alias"
tofile: DIR/files/tofile
tonull: /dev/null
nullandmore: /dev/null, more@far.example
named: Some One <named@far.example>
quoted: "quo ted"@far.example
percent: x%far.example@host.example
barepercent: x%far.example
bang: far.example!x
folded: UPPER@FAR.Example
detail+x: dx@far.example
detail: dy@far.example
star+*: star@far.example
starbase: starbase@far.example
owned: owned1@far.example, alice
peggy: peggy, peggycopy@far.example
owner-owned: postowner@far.example
tonobody: nosuchname
toalias: alice, tolocal, plain
tovirtual: chain@virt.example
literal: x@[127.0.1.1]
dotted: first.last@far.example
group: friends: g1@far.example, g2@far.example;
routed: x@routed.example
commented: c1@far.example (comment, and more), c2@far.example
twice: first@far.example
twice: second@far.example
errors: error:nouser
outside@host.example: outside@far.example
`)
	l.file("virtusertable", `exact@virt.example	v1@far.example
one@virt.example	alice
ext@virt.example	vext@far.example
ext+own@virt.example	vown@far.example
ext2+*@virt.example	vstar-%2@far.example
ext3++@virt.example	vplus%3@far.example
@cat.example	%1@far.example
special@cat.example	kept@far.example
none@virt.example	error:nouser 550 No such user
chain@virt.example	chain2@virt.example
chain2@virt.example	chain3@virt.example
chain3@virt.example	chained@far.example
selfv@virt.example	selfv@virt.example
vloop1@virt.example	vloop2@virt.example
vloop2@virt.example	vloop1@virt.example
toalias@virt.example	nest1
touser@virt.example	dave@host.example
inclass@host.example	inclass@far.example
outer@far.example	changed@relay.example
`)
	l.file("home/carol/.forward", "carolfwd@far.example\n")
	l.file("home/dave/.forward", "\\dave, davefwd@far.example\n")
	l.file("home/dave/.forward+det", "davedet@far.example\n")
	l.file("home/erin/.forward", "\"|DIR/deliver DIR/home/erin/cmd\"\n")
	l.file("home/frank/.forward", "DIR/home/frank/inbox\nfrank2@far.example\n")
	l.check(os.Chmod(l.file("home/grace/.forward", "gracefwd@far.example\n"), 0o666))
	l.check(os.Chown(l.file("home/heidi/.forward", "heidifwd@far.example\n"), 20002, 20002))
	l.file("home/ivan/.forward", "")
	l.file("home/judy/.forward", "# nothing\n\nalice\n")
	l.file("home/mallory/real", "malloryfwd@far.example\n")
	l.check(os.Symlink("real", filepath.Join(l.dir, "home/mallory/.forward")))
	l.file("home/oscar/.forward", "peggy, alice+tag, oscar@host.example, plain\n")
	l.file("home/rupert/.forward.host", "rupert2@far.example\n")
	l.file("home/rupert/.forward", "rupert1@far.example\n")
	l.file("forwards/sybil", "sybilfwd@far.example\n")
	l.check(os.Chown(filepath.Join(l.dir, "forwards/sybil"), 20016, 20016))
	l.file("home/trent/.forward", "Trent <trent@far.example>, \\trent, :include:DIR/home/trent/list\n")
	l.file("home/trent/list", "trentlist@far.example\n# not@far.example\n")
	l.file("home/ursula/.forward", "ursula@far.example\n")
	l.check(os.Chmod(filepath.Join(l.dir, "home/ursula"), 0o777))
	l.check(os.Chmod(l.file("home/victor/.forward", "victor@far.example\n"), 0o664))
	l.check(os.Chmod(l.file("home/walter/.forward", "walter@far.example\n"), 0o600))
	l.check(os.Chown(l.file("home/wendy/.forward", "wendy@far.example\n"), 0, 0))
	l.check(os.Link(l.file("home/xavier/other", "xavier@far.example\n"), filepath.Join(l.dir, "home/xavier/.forward")))
	l.file("home/yvonne/.forward", "yvonne, one@far.example,\n\ttwo@far.example #@# comment\n\"|exec DIR/deliver DIR/home/yvonne/cmd\" \n\n#three@far.example\n")
	l.check(os.Chmod(filepath.Join(l.dir, "home/zoe"), 0o700))
	l.file("home/zoe/.forward", "zoe@far.example\n")
}

// Why what we say may not be what happens: each time mail doesn't leave that might.
const (
	unsafe = "Sendmail refuses files that others may write or own; that may be switched off (DontBlameSendmail), so we follow them"
	whole  = "one member is unknown, so Sendmail refuses the whole list"
	routes = "what it means hangs on settings (nouucp, nopercenthack): not known is the safer side"
	nohost = "no such host: nothing can leave"
)

func sendmailForwards() []forwardCase {
	return []forwardCase{
		{name: "plain"}, {name: "two"}, {name: "continued"}, {name: "tolocal"}, {name: "nest1"}, {name: "self", differs: whole}, {name: "bob"},
		{name: "escaped"}, {name: "escapedlist"}, {name: "loop1", differs: loops}, {name: "include"}, {name: "missing", differs: "a list may be there soon: not known is the safer side"}, {name: "closed", differs: unsafe},
		{name: "writable", differs: unsafe}, {name: "openlist", differs: unsafe}, {name: "directory", differs: unsafe}, {name: "emptylist", differs: "Sendmail refuses what has no members, we say that it goes nowhere"}, {name: "nestedlist"}, {name: "command"},
		{name: "tofile"}, {name: "tonull"}, {name: "nullandmore"}, {name: "named"}, {name: "quoted"}, {name: "percent"},
		{name: "barepercent", differs: routes}, {name: "bang", differs: routes}, {name: "folded"}, {name: "PLAIN"}, {name: "detail+x"}, {name: "detail+z"}, {name: "star+any"},
		{name: "starbase+y"}, {name: "plain+tag"}, {name: "owned"}, {name: "owner-owned"}, {name: "tonobody"}, {name: "toalias"},
		{name: "tovirtual"}, {name: "literal"}, {name: "dotted"}, {name: "group"}, {name: "routed"}, {name: "commented"}, {name: "twice"},
		{name: "errors"}, {name: "outside"},
		{name: "other-name", to: "plain@mta.test"}, {name: "own-literal", to: "plain@[127.0.0.1]"}, {name: "localhost", to: "plain@localhost"},
		{name: "percent-client", to: "x%far.example@host.example"}, {name: "bang-client", to: "far.example!x@host.example"},
		{name: "quoted-client", to: "\"x@far.example\"@host.example"},
		{name: "exact", to: "exact@virt.example"}, {name: "virtual-name", to: "one@virt.example"}, {name: "ext+x", to: "ext+x@virt.example"},
		{name: "ext+own", to: "ext+own@virt.example"}, {name: "ext2+x", to: "ext2+x@virt.example"}, {name: "ext3+x", to: "ext3+x@virt.example"},
		{name: "catch-all", to: "anybody@cat.example"}, {name: "catch-all+x", to: "any+x@cat.example"}, {name: "special", to: "special@cat.example"},
		{name: "virtual-error", to: "none@virt.example"}, {name: "chain", to: "chain@virt.example"}, {name: "selfv", to: "selfv@virt.example", explain: true, differs: nohost},
		{name: "vloop1", to: "vloop1@virt.example", differs: loops}, {name: "virtual-alias", to: "toalias@virt.example"},
		{name: "virtual-user", to: "touser@virt.example"}, {name: "virtual-missing", to: "missing@virt.example", explain: true, differs: nohost},
		{name: "inclass"}, {name: "foreign", to: "outer@far.example", explain: true},
		{name: "mailertable", to: "x@routed.example", explain: true}, {name: "mailertable-below", to: "x@a.routed.example", explain: true},
		{name: "mailertable-local", to: "x@local.example"}, {name: "mailertable-error", to: "x@error.example"},
		{name: "mailertable-discard", to: "x@discard.example", differs: "a mailer discard is unknown to this Sendmail: nothing leaves either way"}, {name: "mailertable-alias", to: "x@aliasing.example"},
		{name: "mailertable-user", to: "plain@forwarded.example"},
		{name: "direct", to: "x@far.example", explain: true},
		{name: "alice"}, {name: "alice+x"}, {name: "carol"}, {name: "carol+x"}, {name: "dave"}, {name: "dave+det"}, {name: "dave+other"},
		{name: "erin"}, {name: "frank"}, {name: "grace", differs: unsafe}, {name: "heidi", differs: unsafe}, {name: "ivan"}, {name: "judy"}, {name: "mallory"}, {name: "nohome"},
		{name: "oscar"}, {name: "peggy"}, {name: "rupert"}, {name: "sybil"}, {name: "trent"}, {name: "ursula", differs: unsafe}, {name: "victor", differs: unsafe}, {name: "walter"}, {name: "wendy"},
		{name: "xavier"}, {name: "yvonne"}, {name: "zoe"}, {name: "CAROL", to: "CAROL@HOST.example"}, {name: "Plain", to: "Plain@MTA.test"},
		{name: "unknown", to: "nosuch@host.example"},
	}
}

// SMART_HOST, LUSER_RELAY, MAIL_HUB and LOCAL_RELAY.
func TestMTAForwardMatrixSendmailRelays(t *testing.T) {
	long(t)
	write := func(l *forwardLab) {
		l.file("aliases", "plain: one@far.example\nrouted: x@routed.example\ntonobody: nosuchname\n")
		l.file("virtusertable", "exact@virt.example\tv1@far.example\n")
		l.file("home/carol/.forward", "carolfwd@far.example\n")
	}
	cases := []forwardCase{
		{name: "plain"}, {name: "routed"}, {name: "tonobody"}, {name: "nosuch"}, {name: "nosuch+x"}, {name: "alice"}, {name: "carol"},
		{name: "exact", to: "exact@virt.example"}, {name: "direct", to: "x@far.example", explain: true},
		{name: "literal", to: "x@[127.0.1.1]", explain: true},
	}
	for _, c := range []struct {
		name   string
		hub    bool
		relays []string
	}{
		{"smart-mailer", false, []string{"define(`SMART_HOST', `esmtp:[mx1.relay.example]')dnl", "define(`LUSER_RELAY', `esmtp:[mx1.inner.example]')dnl"}},
		{"smart-host", false, []string{"define(`SMART_HOST', `relay.example')dnl", "define(`LUSER_RELAY', `local:alice')dnl"}},
		{"hub", true, []string{"define(`MAIL_HUB', `inner.example')dnl"}},
		{"relay", true, []string{"define(`LOCAL_RELAY', `esmtp:[mx1.inner.example]')dnl", "define(`LUSER_RELAY', `error:5.1.1:550 no')dnl"}},
	} {
		hub := ""
		if c.hub {
			hub = "users of class L stay here, so we tell of both"
		}
		for i := range cases {
			if cases[i].differs = ""; cases[i].name == "alice" || cases[i].name == "carol" {
				cases[i].differs = hub
			}
		}
		t.Run(c.name, func(t *testing.T) {
			l, s := sendmailLab(t, strings.Fields("alice carol"), write, c.relays...)
			l.relays = true
			l.runSendmail(s, cases)
		})
	}
}
