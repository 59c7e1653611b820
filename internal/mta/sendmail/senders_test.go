package sendmail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

// sendersOf reads a sendmail.cf with what m4 makes of the features, and a
// genericstable.
func sendersOf(t *testing.T, envelope, entire, limited bool, kind, table string, said map[string]string) *Senders {
	t.Helper()
	path := filepath.Join(t.TempDir(), "genericstable")
	if err := os.WriteFile(path, []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	below := ""
	if entire {
		below = "$* "
	}
	text := "SMasqHdr=93\nR$+ < @ " + below + "$=G . >\t$: x\nR< $+ > $+ < $* > @\t$: < $(generics $1 $: @ $1 $) > $2 < $3 >\n" +
		"R$* < @ " + below + "$=M . > $*\t$: $1 < @ $2 . @ $M > $3\n"
	if !limited {
		text += "R$* < @ $=w . > $*\t$: $1 < @ $2 . @ $M > $3\n"
	}
	text += "SMasqEnv=94\n"
	if envelope {
		text += "R$+\t$@ $>MasqHdr $1\n"
	}
	if kind != "" {
		text += "Kgenerics " + kind + " -o " + path + "\n"
	}
	return Installation{}.senders(parseConf(text), said)
}

func TestSenders(t *testing.T) {
	said := map[string]string{"$j": "host.example", "$m": "example", "$M": "clinic.example", "$=M": "inside.example\nb.inside.example",
		"$=w": "host.example\nlocalhost\nother.example", "$=N": "guest.inside.example", "$=E": "root", "$=G": "inside.example"}
	for _, c := range []struct {
		name                       string
		envelope, entire, limited  bool
		kind, table, from, written string // "" where it stays
	}{
		{"headers only", false, true, false, "", "", "a@inside.example", ""},
		{"headers only, bare", false, true, false, "", "", "a", "a@host.example"},
		{"masked", true, false, false, "", "", "a@inside.example", "a@clinic.example"},
		{"below", true, true, false, "", "", "a@x.inside.example", "a@clinic.example"},
		{"not below", true, false, false, "", "", "a@x.inside.example", ""},
		{"not another", true, true, false, "", "", "a@xinside.example", ""},
		{"excepted", true, true, false, "", "", "a@x.guest.inside.example", ""},
		{"exposed", true, true, false, "", "", "Root@inside.example", ""},
		{"local", true, false, false, "", "", "a@other.example", "a@clinic.example"},
		{"local, limited", true, false, true, "", "", "a@other.example", ""},
		{"bare", true, false, true, "", "", "a", "a@clinic.example"},
		{"bare, exposed", true, false, false, "", "", "root", "root@host.example"},
		{"the null sender", true, true, false, "", "", "", ""},
		{"by the table", true, false, false, "hash", "A@Inside.Example\tb@far.example\n", "a@inside.example", "b@far.example"},
		{"by the table, local part", true, false, false, "text", "a b@far.example\n", "a@inside.example", "b@far.example"},
		{"by the table, to a bare name", true, false, false, "hash", "a b\n", "a@inside.example", "b@clinic.example"},
		{"by the table, domain", true, false, false, "hash", "@inside.example %1@far.example\n", "a@inside.example", "a@far.example"},
		{"by the table, detail", true, false, false, "hash", "a+*@inside.example b+%1@far.example\n", "a+x@inside.example", "b+x@far.example"},
		{"not by the table", true, false, false, "hash", "a@x.example b@far.example\n", "a@x.example", ""},
		{"a comment", true, false, false, "hash", "#a@inside.example b@far.example\n", "a@inside.example", "a@clinic.example"},
	} {
		s := sendersOf(t, c.envelope, c.entire, c.limited, c.kind, c.table, said)
		from, err := addr.ParsePath(c.from)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range s.Written(from) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != c.written {
			t.Errorf("%s: %s becomes %q, want %q", c.name, c.from, got, c.written)
		}
		if len(s.Names) != 3 || len(s.Unread) > 0 {
			t.Errorf("%s: names %v, unread %v", c.name, s.Names, s.Unread)
		}
	}
	if got := (*Senders)(nil).Written(addr.MustAddress("a@b.example")); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

// A table that can only be asked is named; one that changes is read again.
func TestSendersTable(t *testing.T) {
	said := map[string]string{"$j": "host.example", "$=G": "inside.example"}
	if s := sendersOf(t, true, false, false, "ldap -1", "", said); len(s.Unread) != 1 || s.Unread[0].Name != "generics" {
		t.Errorf("a table in LDAP: %v", s.Unread)
	}
	s := sendersOf(t, true, false, false, "hash", "a@inside.example b@far.example\n", said)
	from := addr.MustAddress("a@inside.example")
	for _, table := range []string{"", "a@inside.example changed@far.example\n"} {
		if table != "" {
			if err := os.WriteFile(s.generics.path, []byte(table), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want := map[bool]string{true: "b@far.example", false: "changed@far.example"}[table == ""]
		if got := s.Written(from); len(got) != 1 || got[0].String() != want {
			t.Errorf("%q: %v", table, got)
		}
	}
	if err := os.Remove(s.generics.path); err != nil {
		t.Fatal(err)
	}
	if got := s.Written(from); len(got) != 1 || got[0].String() != "changed@far.example" {
		t.Errorf("gone: %v", got)
	}
}
