package forward_test

import (
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/forward/aliases"
)

// Where Sendmail's settings send mail besides its tables.
func TestPlainSettings(t *testing.T) {
	w := newWorld(t)
	w.cfg.Tables = nil
	w.cfg.Dialect = aliases.Sendmail
	w.cfg.Local = []addr.Domain{addr.MustDomain("host.test"), addr.MustDomain("also.test")}
	w.cfg.Aliases = []string{w.file("aliases", "own@also.test: own@far.test\nforeign@far.test: x@far.test\nroot: x@far.test\n")}
	w.cfg.Virtual = []string{w.file("virtuser", "v@virt.test\tv@far.test\nv@sub.virt.test\tsub@far.test\nv@far.test\tnever@other.test\nv@host.test\town@far.test\n")}
	w.cfg.VirtualIn = []addr.Domain{addr.MustDomain("virt.test")}
	w.cfg.Forward = []string{w.dir + "/by/%n", "~/.forward+%h", "~/.forward"}
	w.file("by/bob", "bob@far.test\n")
	w.file("carol/.forward+d", "detail@far.test\n")
	w.file("carol/.forward", "carol@far.test\n")
	check := func(change func(*forward.Config), to, want string) {
		t.Helper()
		cfg := w.cfg
		if change != nil {
			change(&cfg)
		}
		e, err := forward.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := brief(e.Expand(t.Context(), addr.MustAddress(to), addr.Address{})); got != want {
			t.Errorf("%s:\n got %s\nwant %s", to, got, want)
		}
	}
	// A name with a domain of the MTA's own is the name without it.
	check(nil, "own@host.test", "leaves own@far.test")
	check(nil, "own@also.test", "leaves own@far.test")
	check(nil, "foreign@host.test", "refused foreign@host.test")
	// Routes in the address.
	check(nil, "x%far.test@host.test", "leaves x@far.test")
	check(nil, "far.test!x@host.test", "leaves x@far.test")
	check(nil, `"x@far.test"@host.test`, "leaves x@far.test")
	check(nil, "root%also.test@host.test", "leaves x@far.test")
	check(nil, "x%other.test%far.test@host.test", "leaves x%other.test@far.test")
	check(nil, "x%far.test@other.test", "leaves x%far.test@other.test")
	// The virtusertable is for some domains only.
	check(nil, "v@virt.test", "leaves v@far.test")
	check(nil, "v@host.test", "leaves own@far.test")
	check(nil, "v@far.test", "leaves v@far.test")
	check(nil, "v@sub.virt.test", "leaves v@sub.virt.test")
	check(func(c *forward.Config) { c.VirtualBelow = true }, "v@sub.virt.test", "leaves sub@far.test")
	// ForwardPath.
	check(nil, "bob@host.test", "leaves bob@far.test")
	check(nil, "carol@host.test", "leaves carol@far.test")
	check(nil, "carol+d@host.test", "leaves detail@far.test")
	check(nil, "carol+e@host.test", "leaves carol@far.test")
	// Relays.
	smart := func(c *forward.Config) { c.SmartHost = "esmtp:[smart.test]" }
	check(smart, "root@host.test", "leaves x@far.test>[smart.test]")
	check(smart, "alice@host.test", "mailbox alice@host.test")
	check(func(c *forward.Config) { c.SmartHost = "smart.test" }, "x@far.test", "leaves x@far.test>smart.test")
	check(func(c *forward.Config) { c.SmartHost = "[192.0.2.1]" }, "x@far.test", "leaves x@far.test>[192.0.2.1]")
	check(func(c *forward.Config) { c.MailHub = "hub.test" }, "alice@host.test", "leaves alice@host.test>hub.test; mailbox alice@host.test")
	check(func(c *forward.Config) { c.LocalRelay = "hub.test" }, "root@host.test", "leaves x@far.test")
	check(func(c *forward.Config) { c.UserRelay = "esmtp:l.test" }, "nobody@host.test", "leaves nobody@host.test>l.test")
	check(func(c *forward.Config) { c.UserRelay = "esmtp:l.test" }, "alice@host.test", "mailbox alice@host.test")
	check(func(c *forward.Config) { c.UserRelay = "local:alice" }, "nobody@host.test", "mailbox alice")
	check(func(c *forward.Config) { c.UserRelay = "local:nobody2" }, "nobody@host.test", "unknown nobody2")
	check(func(c *forward.Config) { c.UserRelay = "odd:x" }, "nobody@host.test", "unknown nobody@host.test")

	w.cfg.UserRelay = "l.test"
	w.cfg.Unfollowed = []forward.Unfollowed{{Name: "virtuser", Line: "Kvirtuser ldap"}}
	var got []string
	unlisted, err := w.expander().All(t.Context(), func(f forward.Forwarder) bool {
		if strings.Contains(f.Source, "aliases") || f.Pattern == "*" {
			got = append(got, f.Address.String()+f.Pattern)
		}
		return true
	})
	if len(unlisted) != 1 || unlisted[0].Source != "Kvirtuser ldap" {
		t.Errorf("unlisted: %v", unlisted)
	}
	slices.Sort(got)
	if want := "<>* foreign@far.test own@also.test root@host.test"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("all: %s, %v", strings.Join(got, " "), err)
	}
}

// What can't be followed is an end that isn't known, for whom it may concern, besides those that are.
func TestPlainUnfollowed(t *testing.T) {
	w := newWorld(t)
	w.cfg.Tables = nil
	w.cfg.Dialect = aliases.Sendmail
	w.cfg.Local = []addr.Domain{addr.MustDomain("host.test")}
	w.cfg.Aliases = []string{w.file("aliases", "root: x@far.test\nbit: x@far.bitnet\nnear: alice@host.test\nbare: alice\n")}
	w.cfg.VirtualIn = []addr.Domain{addr.MustDomain("virt.test")}
	w.cfg.Forward = []string{"~/.forward"}
	const root, unknownRoot, alice = "leaves x@far.test", "leaves x@far.test; unknown root@host.test", "mailbox alice@host.test"
	const unknownAlice, nobody, stranger = alice + "; unknown alice@host.test", "refused nobody@host.test", "leaves y@other.test"
	for _, c := range []struct{ name, to, want string }{
		{"aliasfile", "root@host.test", unknownRoot},
		{"aliasfile", "alice@host.test", unknownAlice},
		{"aliasfile", "nobody@host.test", nobody + "; unknown nobody@host.test"},
		{"aliasfile", "y@other.test", stranger},
		{"userdatabasespec", "root@host.test", root},
		{"userdatabasespec", "alice@host.test", unknownAlice},
		{"userdatabasespec", "nobody@host.test", nobody + "; unknown nobody@host.test"},
		{"userdatabasespec", "y@other.test", stranger},
		{"forwardpath", "root@host.test", root},
		{"forwardpath", "alice@host.test", unknownAlice},
		{"forwardpath", "nobody@host.test", nobody},
		{"forwardpath", "y@other.test", stranger},
		{"virtuser", "root@host.test", unknownRoot},
		{"virtuser", "v@virt.test", "leaves v@virt.test; unknown v@virt.test"},
		{"virtuser", "y@other.test", stranger},
		{"mailertable", "root@host.test", "leaves x@far.test; unknown x@far.test"},
		{"mailertable", "alice@host.test", alice},
		{"mailertable", "near@host.test", alice},
		{"mailertable", "y@other.test", stranger}, // Sendmail's {rcpt_host} tells
		{"domaintable", "root@host.test", "leaves x@far.test; unknown x@far.test"},
		{"domaintable", "near@host.test", unknownAlice},
		{"domaintable", "bare@host.test", "mailbox alice"},
		{"domaintable", "y@other.test", stranger},
		{"ldapmh", "root@host.test", "leaves x@far.test; unknown x@far.test"},
		{"ldapmra", "near@host.test", unknownAlice},
		{"ldapmra", "alice@host.test", alice},
		{"bitdomain", "bit@host.test", "leaves x@far.bitnet; unknown x@far.bitnet"},
		{"bitdomain", "root@host.test", root},
	} {
		cfg := w.cfg
		cfg.Unfollowed = []forward.Unfollowed{{Name: c.name, Line: "the line of " + c.name}}
		e, err := forward.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		x := e.Expand(t.Context(), addr.MustAddress(c.to), addr.Address{})
		if got := brief(x); got != c.want {
			t.Errorf("%s, %s:\n got %s\nwant %s", c.name, c.to, got, c.want)
		}
		for _, leaf := range x.Leaves {
			if leaf.Kind == forward.Unknown && !strings.Contains(leaf.Detail, "the line of "+c.name) {
				t.Errorf("%s, %s: the detail %q doesn't name it", c.name, c.to, leaf.Detail)
			}
		}
	}
}
