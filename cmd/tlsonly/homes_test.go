package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	}{{"open", 0o711}, {"closed", 0o700}, {"group", 0o710}, {"above", 0o750}, {"above/open", 0o755}} {
		if err := os.Mkdir(filepath.Join(top, d.name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(top, d.name), d.mode); err != nil {
			t.Fatal(err)
		}
	}
	me, mine := uint64(os.Getuid()), uint64(os.Getgid())
	stranger := identity{"tlsonly", me + 1, []uint64{mine + 1}}
	friend := identity{"tlsonly", me + 1, []uint64{mine + 2, mine}}
	self := identity{"tlsonly", me, nil}
	for _, c := range []struct {
		who   identity
		homes string // of users from number 1000 on; "-" before one of a lower number
		want  string // named, and how many others
	}{
		{stranger, "open", ""},
		{stranger, "absent", ""},
		{stranger, "closed", "closed"},
		{stranger, "open closed group above/open", "closed and 2 other homes"},
		{stranger, "group above/absent closed", "group and 2 other homes"},
		{stranger, "closed closed", "closed"},
		{stranger, "-closed", ""},
		{friend, "open group above/open", ""},
		{friend, "group closed", "closed"},
		{self, "open group above/open closed", ""},
	} {
		passwd := "broken\nroot:x:0:0:root:/root:/bin/sh\n"
		for i, home := range strings.Fields(c.homes) {
			number := 1000 + i
			if own, ok := strings.CutPrefix(home, "-"); ok {
				home, number = own, 999
			}
			passwd += fmt.Sprintf("u%d:x:%d:100::%s:/usr/sbin/nologin\n", i, number, filepath.Join(top, home))
		}
		found := closedHomes(c.who, passwd)
		got := ""
		if len(found) > 0 {
			_, got, _ = strings.Cut(found[0].Text, "can't look into "+top+"/")
			got, _, _ = strings.Cut(got, ": ")
		}
		if got != c.want || len(found) > 1 {
			t.Errorf("%v, homes %s: %q, want %q", c.who, c.homes, got, c.want)
		}
	}
}
