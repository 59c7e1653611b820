package postfix

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What others write into the files while setup works is never lost.
func TestWriteMeanwhile(t *testing.T) {
	t.Parallel()
	type files struct{ main, master string }
	read := func(dir string) files {
		var f files
		for name, to := range map[string]*string{mainFile: &f.main, masterFile: &f.master} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			*to = string(text)
		}
		return f
	}
	change := func(t *testing.T, dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := files{"main\n", "master\n"}
	ours := texts{main: "main, bound\n", adding: "master, more\n", master: "master, bound\n"}
	for _, c := range []struct {
		name          string
		early, late   func(t *testing.T, dir string) // before it is written, and after
		fails         bool
		written, back files
	}{
		{name: "nobody", written: files{ours.main, ours.master}, back: before},
		{
			name:  "main.cf, before",
			early: func(t *testing.T, dir string) { change(t, dir, mainFile, "other\n") },
			fails: true, written: files{"other\n", before.master}, back: files{"other\n", before.master},
		},
		{
			name:  "master.cf, before, and it is empty still",
			early: func(t *testing.T, dir string) { change(t, dir, masterFile, "") },
			fails: true, written: files{before.main, ""}, back: files{before.main, ""},
		},
		{
			name:    "main.cf, after",
			late:    func(t *testing.T, dir string) { change(t, dir, mainFile, "other\n") },
			written: files{"other\n", ours.master}, back: files{"other\n", before.master},
		},
		{
			name:    "both, after",
			late:    func(t *testing.T, dir string) { change(t, dir, mainFile, ""); change(t, dir, masterFile, "other\n") },
			written: files{"", "other\n"}, back: files{"", "other\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			change(t, dir, mainFile, before.main)
			change(t, dir, masterFile, before.master)
			f := Facts{Dir: dir, main: before.main, master: before.master}
			if c.early != nil {
				c.early(t, dir)
			}
			made, err := (&Setup{Dir: dir}).write(f, ours)
			if c.fails != errors.Is(err, errMeanwhile) || err != nil && !c.fails {
				t.Errorf("written: %v", err)
			}
			if c.late != nil {
				c.late(t, dir)
			}
			if got := read(dir); got != c.written {
				t.Errorf("written: %q, want %q", got, c.written)
			}
			if err := restore(made); (err != nil) != (c.late != nil) {
				t.Errorf("put back: %v", err)
			}
			if got := read(dir); got != c.back {
				t.Errorf("put back: %q, want %q", got, c.back)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A file that changes between two steps of ours stays as others have made it.
func TestStanding(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), masterFile)
	first, second := step{path: path, old: "a", was: true, text: "b"}, step{path: path, old: "a", was: true, text: "c"}
	for _, c := range []struct {
		text  string
		first bool // it is as the first step wants it
	}{{"a", true}, {"b", false}, {"", false}} {
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := standing(nil, first); got != c.first {
			t.Errorf("%q before the first: %t", c.text, got)
		}
		if got := standing([]step{first}, second); got != (c.text == "b") {
			t.Errorf("%q before the second: %t", c.text, got)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if standing(nil, first) || !standing(nil, step{path: path}) {
		t.Error("a file that isn't there")
	}
}
