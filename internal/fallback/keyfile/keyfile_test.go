package keyfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each file is read once, in order, and what can't be read is named.
func TestEach(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"b", "a", ".hidden", "backup~"} {
		if err := os.WriteFile(at(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(at("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"link": "a", "dangling": "nowhere"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	long, err := os.Create(at("long"))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if err := long.Truncate(MaxSize + 1); err != nil {
		t.Fatal(err)
	}
	var read []string
	problems := Each([]string{dir, at("a"), at("none")}, func(file string, text []byte) {
		read = append(read, filepath.Base(file)+"="+string(text))
	})
	if want := []string{"a=a", "b=b", "link=a", "a=a"}; !slices.Equal(read, want) {
		t.Errorf("read %q, want %q", read, want)
	}
	told := ""
	for _, p := range problems {
		told += p.Error() + "\n"
	}
	for _, want := range []string{at("dangling") + ": no such file", at("long") + ": longer than", at("none") + ": no such file"} {
		if !strings.Contains(told, want) {
			t.Errorf("nothing is said of %s:\n%s", want, told)
		}
	}
	if len(problems) != 3 || !errors.Is(problems[len(problems)-1], fs.ErrNotExist) {
		t.Errorf("%d problems:\n%s", len(problems), told)
	}
	if got := (Problem{File: "f", Key: "key 1", Err: errors.New("x")}).Error(); got != "f: key 1: x" {
		t.Error(got)
	}
}
