package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const source = `package x

func (p *pair[K]) f(a, b bool, n int) bool {
	if a && (b || n > 1) {
		return n < 2
	}
	switch {
	case !b:
	}
	switch n {
	case 1, 2:
		n = 3
	default:
	}
	for n < 9 {
		n++
	}
	return a
}
`

// Each condition is found once, and changed nowhere but in its place.
func TestMutants(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.go")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := mutants(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all {
		got = append(got, strings.TrimPrefix(m.name(), file+" "))
	}
	want := []string{"pair.f a", "pair.f b", "pair.f n > 1", "pair.f n < 2", "pair.f !b", "pair.f case 1, 2"}
	if !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	for i, change := range []string{"if !(a) && (b", "&& (!(b) ||", "|| !(n > 1))", "return !(n < 2)", "case !(!b):", "switch n {\n\t\n\tdefault:"} {
		if text := string(all[i].source); !strings.Contains(text, change) {
			t.Errorf("%s: no %q in\n%s", got[i], change, text)
		}
	}
}

// Names that nothing bears, and names without a reason, are refused.
func TestEqual(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	x := write("x.go", source)
	if _, err := readEqual(write("no-reason", x+" pair.f a\n")); err == nil {
		t.Error("a name without a reason is taken")
	}
	got, err := readEqual(write("good", "# comment\n\n"+x+" pair.f a # it is the same\n"))
	if err != nil || !got[x+" pair.f a"] || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	err = run(write("stale", x+" pair.f gone # it was the same\n"), nil, 1, "", 0, []string{x})
	if err == nil || !strings.Contains(err.Error(), "there is no mutant") {
		t.Errorf("a name that nothing bears: %v", err)
	}
}
