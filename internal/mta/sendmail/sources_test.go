package sendmail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// show writes Sources in lines; DIR is the directory.
func (s Sources) show(dir string) string {
	text := fmt.Sprintf("aliases %q virtual %q mailertables %q forward %q unread %q relays %q %q %q %q in %v %v", s.Aliases, s.Virtual, s.Mailertables,
		s.Forward, s.Unread, s.SmartHost, s.MailHub, s.LocalRelay, s.UserRelay, s.VirtualIn, s.VirtualBelow)
	return strings.ReplaceAll(text, dir, "DIR")
}

// What a sendmail.cf names; the program is one that says what sendmail -bt would.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := file("sendmail", "#!/bin/sh\ncat <<'.'\nADDRESS TEST MODE\nEnter <ruleset> <address>\n"+
		"> host.example\n[127.0.0.1]\nlocalhost\n> virt.example\n> host\n> host.example\n> > Undefined\n> \n.\n", 0o755)
	file("only.db", "", 0o644)
	check := func(cf, want string) {
		t.Helper()
		in := Installation{Program: program, Cf: file("sendmail.cf", strings.ReplaceAll(cf, "DIR", dir), 0o644)}
		s, err := in.Sources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := s.show(dir); !strings.Contains(got, want) {
			t.Errorf("%q:\n got %s\nwant %s", cf, got, want)
		}
		if len(s.Local) != 3 {
			t.Errorf("class w: %v", s.Local)
		}
	}
	check("", `aliases [] virtual [] mailertables [] forward ["~/.forward"] unread [] relays "" "" "" "" in [virt.example] false`)
	check("O AliasFile=/etc/mail/aliases, hash:-o DIR/more,ldap:", `aliases ["/etc/mail/aliases" "DIR/more"]`)
	check("O AliasFile=ldap:", `unread ["AliasFile ldap:"]`)
	check("O AliasFile=DIR/only", `aliases [] virtual [] mailertables [] forward ["~/.forward"] unread ["AliasFile DIR/only"]`)
	check("Kvirtuser hash -o DIR/virtusertable.db", `virtual ["DIR/virtusertable"]`)
	check("Kvirtuser hash -T<TMPF> DIR/only", `unread ["Kvirtuser hash -T<TMPF> DIR/only"]`)
	check("Kvirtuser ldap -1 -k x", `virtual [] mailertables [] forward ["~/.forward"] unread ["Kvirtuser ldap -1 -k x"]`)
	check("Kmailertable btree -o /etc/mail/mailertable", `mailertables ["/etc/mail/mailertable"]`)
	check("Kldapmra ldap x\nKdomaintable hash /etc/mail/domaintable", `unread ["Kdomaintable hash /etc/mail/domaintable" "Kldapmra ldap x"]`)
	check("O UserDatabaseSpec=/etc/udb", `unread ["UserDatabaseSpec /etc/udb"]`)
	check("O ForwardPath=/var/forward/$u:$z/.forward.$w:$z/.forward+$h:$z/.forward", `forward ["/var/forward/%n" "~/.forward.host" "~/.forward+%h" "~/.forward"]`)
	check("O ForwardPath=", `forward [] unread []`)
	check("O ForwardPath=$z/.$x:$z/100%:forward", `forward [] unread ["ForwardPath $z/.$x" "ForwardPath $z/100%" "ForwardPath forward"]`)
	names := ""
	in := Installation{Program: program, Cf: file("sendmail.cf", "O AliasFile=ldap:\nO ForwardPath=x\nO UserDatabaseSpec=/etc/udb\n"+
		"Kvirtuser ldap x\nKmailertable ldap x\nKldapmra ldap x\n", 0o644)}
	s, err := in.Sources(t.Context())
	for _, u := range s.Unread {
		names += u.Name + " "
	}
	if want := "aliasfile virtuser mailertable ldapmra userdatabasespec forwardpath "; names != want || err != nil {
		t.Errorf("what can't be followed: %s, want %s, error %v", names, want, err)
	}
	check("DSesmtp:[smart]\nDHhub\nDRrelay\nDLlocal:x\nD{S}no", `relays "esmtp:[smart]" "hub" "relay" "local:x"`)
	check("R<!> $+ < @ $* $={VirtHost} . >\t$: x", `in [virt.example] true`)
}

func TestSourcesError(t *testing.T) {
	dir := t.TempDir()
	in := Installation{Program: "/bin/true", Cf: filepath.Join(dir, "none.cf")}
	if _, err := in.Sources(t.Context()); err == nil {
		t.Error("no sendmail.cf, no error")
	}
	if err := os.WriteFile(in.Cf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"/bin/true", "/bin/false", filepath.Join(dir, "none")} {
		in.Program = program
		if _, err := in.Sources(t.Context()); err == nil {
			t.Errorf("%s answered nothing, no error", program)
		}
	}
}

// A real Sendmail says what the classes and macros are.
func TestSourcesReal(t *testing.T) {
	l := newLab(t, rig.SendmailConfig{Mc: []string{"VIRTUSER_DOMAIN(`virt.example')dnl", "LOCAL_DOMAIN(`host.example')dnl",
		"FEATURE(`virtusertable', `hash -o /etc/mail/virtusertable')dnl", "define(`SMART_HOST', `esmtp:[smart.example]')dnl",
		"define(`confFORWARD_PATH', `$z/.forward.$w:$z/.forward.$j:$z/.forward.$m:$z/.forward')dnl", "FEATURE(`virtuser_entire_domain')dnl"}})
	s, err := l.installation("").Sources(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := `aliases ["DIR/aliases"] virtual ["/etc/mail/virtusertable"] mailertables [] ` +
		`forward ["~/.forward.rig" "~/.forward.mta.test" "~/.forward.test" "~/.forward"] unread ["Kmailertable hash DIR/mailertable"] ` +
		`relays "esmtp:[smart.example]" "" "" "" in [virt.example] true`
	if got := s.show(l.Dir); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	found := false
	for _, d := range s.Local {
		found = found || d.String() == "host.example"
	}
	if !found {
		t.Errorf("class w: %v", s.Local)
	}
}
