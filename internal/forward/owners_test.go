package forward_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/forward/aliases"
)

// Whoever sends mail on is named with the domain that is theirs, not with the one of the table that led to them, and of mail of
// which nobody knows what becomes the last one known may send it on.
func TestOwners(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	e, err := forward.New(forward.Config{
		Dialect: aliases.Sendmail,
		Aliases: []string{file("aliases", "doctor: x@far.test\nward: doctor\nodd: :include:"+filepath.Join(dir, "none")+"\n")},
		Virtual: []string{file("virtusertable", "info@virt.test\tdoctor\nodd@virt.test\todd\n")},
		Local:   []addr.Domain{addr.MustDomain("here.test"), addr.MustDomain("clinic.test")},
		User:    func(string) (forward.User, error) { return forward.User{}, forward.ErrNoUser },
		List:    func() ([]string, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, want string }{
		{"info@virt.test", "[info@virt.test info@virt.test doctor@here.test]"},
		{"ward@clinic.test", "[ward@clinic.test ward@clinic.test doctor@clinic.test]"},
		{"odd@virt.test", "[odd@virt.test odd@virt.test odd@here.test odd@here.test]"},
	} {
		to := addr.MustAddress(c.to)
		x := e.Expand(t.Context(), to, addr.Address{})
		if len(x.Leaves) != 1 || fmt.Sprint(x.Leaves[0].Owners(to)) != c.want {
			t.Errorf("%s: %+v, owners %v, want %s", c.to, x.Leaves, x.Leaves[0].Owners(to), c.want)
		}
	}
	unread := forward.Leaf{Kind: forward.Unknown, Address: addr.MustAddress("doctor@clinic.test"), Path: []forward.Step{{From: "info@virt.test"}}}
	if got := fmt.Sprint(unread.Owners(addr.MustAddress("info@virt.test"))); got != "[info@virt.test info@virt.test doctor@clinic.test]" {
		t.Errorf("not known: %s", got)
	}
}
