package forward_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
)

// binding is a Postfix that asks tlsonly first by which transport mail leaves.
type binding struct {
	*fake
	bound bool
}

func (b binding) Bound() bool { return b.bound }

// A .forward that can't be read is one, and held only where all that it may
// send on is asked of tlsonly.
func TestUnread(t *testing.T) {
	for _, c := range []struct {
		name, to, set string
		unbound       bool
		why           string // it isn't held
	}{
		{"a user", "alice@host.test", "", false, ""},
		{"behind an alias", "friend@host.test", "", false, ""},
		{"behind a virtual one", "v@host.test", "", false, ""},
		{"not bound", "alice@host.test", "", true, "doesn't ask tlsonly first"},
		{"behind an alias with an owner", "team@host.test", "", false, "in the name of owner-team@host.test"},
		{"own domains as relay_domains", "alice@host.test", "relay_domains: $mydestination", false, ""},
		{"relayed domains", "alice@host.test", "relay_domains: inner.test", false, "relay_domains has inner.test"},
		{"a route by another transport", "alice@host.test", "transport_maps: hash:routes", false, "transport_maps hash:routes sends inner.test by transport smtp"},
		{"routes that leave the transport alone", "alice@host.test", "transport_maps: hash:hops", false, ""},
		{"routes that can only be asked", "alice@host.test", "transport_maps: ldap:routes", false, "transport_maps ldap:routes"},
	} {
		w := newWorld(t)
		path := w.file("alice/.forward", "x@far.test\n")
		if err := errors.Join(os.RemoveAll(filepath.Dir(path)), os.Symlink("alice", filepath.Dir(path))); err != nil {
			t.Fatal(err)
		}
		w.fake.tables["hash:aliases"] = map[string]string{"friend": "alice", "team": "alice", "owner-team": "bob"}
		w.fake.tables["hash:virtual"] = map[string]string{"v@host.test": "alice"}
		w.fake.tables["hash:routes"] = map[string]string{"inner.test": "smtp:[10.0.0.1]"}
		w.fake.tables["hash:hops"] = map[string]string{"inner.test": ":[10.0.0.1]", "own.test": "local:", "held.test": "tlsonly2:[10.0.0.1]"}
		w.fake.tables["ldap:routes"] = map[string]string{}
		if name, value, ok := strings.Cut(c.set, ": "); ok {
			w.fake.set[name] = strings.ReplaceAll(value, "$mydestination", "host.test")
		}
		w.cfg.Tables = binding{w.fake, !c.unbound}
		var unread *forward.Leaf
		mailbox := false
		for _, leaf := range w.expander().Expand(t.Context(), addr.MustAddress(c.to), addr.MustAddress("a@clinic.test")).Leaves {
			if leaf.Kind == forward.Unknown {
				unread = &leaf
			}
			mailbox = mailbox || leaf.Kind == forward.Mailbox
		}
		switch {
		case unread == nil || !mailbox || !strings.HasSuffix(unread.Unread, "/alice/.forward"):
			t.Errorf("%s: %+v, mailbox %t", c.name, unread, mailbox)
		case unread.Enforced != (c.why == "") || !strings.Contains(unread.Detail, c.why):
			t.Errorf("%s: held %t: %s", c.name, unread.Enforced, unread.Detail)
		}
	}
}

// Check tells of each table that doesn't answer, once.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	w.fake.tables["ldap:asked"] = map[string]string{}
	w.fake.set["virtual_alias_domains"] = "hash:virtual"
	w.fake.set["sender_bcc_maps"] = "ldap:asked"
	e := w.expander()
	if faults, err := e.Check(t.Context()); len(faults) > 0 || err != nil {
		t.Fatalf("all is well: %v, %v", faults, err)
	}
	w.fake.fails["hash:virtual"] = os.ErrPermission
	w.fake.fails["ldap:asked"] = errors.New("no such server")
	faults, err := w.expander().Check(t.Context())
	if err != nil || len(faults) != 2 {
		t.Fatalf("%v, %v", faults, err)
	}
	for _, f := range faults {
		switch {
		case f.Source == "hash:virtual" && f.Setting == "virtual_alias_domains, virtual_alias_maps" && strings.Contains(f.Reason, "permission denied"):
		case f.Source == "ldap:asked" && f.Setting == "sender_bcc_maps" && strings.Contains(f.Reason, "no such server"):
		default:
			t.Errorf("%+v", f)
		}
	}
}
