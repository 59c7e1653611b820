package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/mta"
)

// Homes that the daemon's user can't enter, by their own mode or that of a directory above.
func TestClosedHomes(t *testing.T) {
	top := t.TempDir()
	for dir := top; dir != os.TempDir() && len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{"open", 0o711}, {"closed", 0o700}, {"group", 0o710}, {"above", 0o750}, {"above/open", 0o755}, {"root", 0o700}} {
		if err := os.Mkdir(filepath.Join(top, d.name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(top, d.name), d.mode); err != nil {
			t.Fatal(err)
		}
	}
	me, mine := uint64(os.Getuid()), uint64(os.Getgid())
	stranger := identity{name: "tlsonly", uid: me + 1, gids: []uint64{mine + 1}}
	friend := identity{name: "tlsonly", uid: me + 1, gids: []uint64{mine + 2, mine}}
	self := identity{name: "tlsonly", uid: me}
	for _, c := range []struct {
		who   identity
		homes string // of users from number 1000 on; "-" before one of a lower number
		want  string // named, and how many others
	}{
		{stranger, "open", "root (root)"},
		{stranger, "absent", "root (root)"},
		{stranger, "closed", "1 local user and root (closed)"},
		{stranger, "open closed group above/open", "3 local users and root (above/open)"},
		{stranger, "group above/absent closed", "3 local users and root (closed)"},
		{stranger, "closed closed", "2 local users and root (closed)"},
		{stranger, "-closed", "root (root)"},
		{friend, "open group above/open", "root (root)"},
		{friend, "group closed", "1 local user and root (closed)"},
		{self, "open group above/open closed", ""},
	} {
		passwd := "broken\nroot:x:0:0:root:" + top + "/root:/bin/sh\n"
		for i, home := range strings.Fields(c.homes) {
			number := 1000 + i
			if own, ok := strings.CutPrefix(home, "-"); ok {
				home, number = own, 999
			}
			passwd += fmt.Sprintf("u%d:x:%d:100::%s:/usr/sbin/nologin\n", i, number, filepath.Join(top, home))
		}
		for waits, want := range map[string]mta.Severity{"": mta.OK, "nobody knows": mta.Broken} {
			found := closedHomes(c.who, passwd, waits)
			got := ""
			if len(found) > 0 {
				_, got, _ = strings.Cut(strings.ReplaceAll(found[0].Text, top+"/", ""), "mail to ")
				got, _, _ = strings.Cut(got, " is ")
			}
			if got != c.want || len(found) > 1 || len(found) > 0 && (found[0].Severity != want || !strings.Contains(found[0].Text, waits)) {
				t.Errorf("%v, homes %s: %q, %v, want %q", c.who, c.homes, got, found, c.want)
			}
		}
	}
}
