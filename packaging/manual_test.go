package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/config"
)

// a commandHelp is what the program's help says of one command.
type commandHelp struct {
	name, summary string
	flags         []flagHelp
}

type flagHelp struct {
	name, value, usage string // name with its dashes
}

// help asks the program for its commands and their flags.
func help(t *testing.T) []commandHelp {
	t.Helper()
	program := filepath.Join(os.Getenv(builtVar), "tlsonly")
	var all []commandHelp
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+) +(.*)$`).FindAllStringSubmatch(run(t, program, "help"), -1) {
		c := commandHelp{name: m[1], summary: m[2]}
		_, flags, ok := strings.Cut(run(t, program, c.name, "--help"), "\nflags:\n")
		if !ok {
			t.Fatalf("tlsonly %s --help shows no flags", c.name)
		}
		for line := range strings.Lines(flags) {
			m := regexp.MustCompile(`^  (-[a-z]|--[a-z-]+)(?: ([A-Z]\S*|duration|string|int))? +(.*)\n$`).FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("tlsonly %s --help: %q isn't a flag", c.name, line)
			}
			c.flags = append(c.flags, flagHelp{m[1], m[2], m[3]})
		}
		all = append(all, c)
	}
	if len(all) < 8 {
		t.Fatalf("tlsonly help names %d commands", len(all))
	}
	return all
}

// Each command has a page of its own, or a section in tlsonly(8), that has each of its flags and no other; pages of what isn't a
// command don't exist.
func TestManualFlags(t *testing.T) {
	pages := map[string]bool{"man/tlsonly.8": true, "man/tlsonly.toml.5": true, "man/tlsonly-http.7": true}
	main := read(t, "man/tlsonly.8")
	for _, c := range help(t) {
		name := "man/tlsonly-" + c.name + ".8"
		_, section, ok := strings.Cut(main, "\n.Ss "+c.name+"\n")
		if !ok {
			t.Errorf("man/tlsonly.8 has no section %s", c.name)
		}
		section, _, _ = strings.Cut(section, "\n.S")
		own, err := os.ReadFile(name)
		switch {
		case err == nil:
			pages[name] = true
			if !strings.Contains(section, ".Xr tlsonly-"+c.name+" 8") {
				t.Errorf("man/tlsonly.8 doesn't refer to tlsonly-%s(8)", c.name)
			}
			section = string(own)
		case errors.Is(err, fs.ErrNotExist):
			name = "man/tlsonly.8, section " + c.name
		default:
			t.Fatal(err)
		}
		var has, want []string
		for _, m := range regexp.MustCompile(`(?m)^\.It Fl (\S+)`).FindAllStringSubmatch(section, -1) {
			has = append(has, "-"+m[1])
		}
		for _, f := range c.flags {
			want = append(want, f.name)
		}
		compare(t, name, "flag", has, want)
	}
	files, err := filepath.Glob("man/*.[0-9]")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !pages[file] {
			t.Errorf("%s: there is no such command", file)
		}
	}
}

// Manual, example configuration and docs/configuration.md have the same keys; a
// test of package config compares docs/configuration.md with the program.
func TestManualKeys(t *testing.T) {
	want := tomlKeys(readme(t))
	if len(want) < 40 {
		t.Fatalf("docs/configuration.md has %d keys", len(want))
	}
	compare(t, "tlsonly.toml", "key", tomlKeys(uncommented(t)), want)
	var has []string
	table := ""
	for line := range strings.Lines(read(t, "man/tlsonly.toml.5")) {
		if m := regexp.MustCompile(`^\.Ss Table (\S+)`).FindStringSubmatch(line); m != nil {
			table = m[1]
		} else if m := regexp.MustCompile(`^\.It Ic (\S+)`).FindStringSubmatch(line); m != nil {
			has = append(has, table+"."+m[1])
		}
	}
	compare(t, "man/tlsonly.toml.5", "key", has, want)
}

// tlsonly-http(7) has every path that is served and every metric with its labels, and no other; the program is read as it is written.
func TestManualHTTP(t *testing.T) {
	page := read(t, "man/tlsonly-http.7")
	var has, want []string
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm ([A-Z]+) Pa (\S+)$`).FindAllStringSubmatch(page, -1) {
		has = append(has, m[1]+" "+m[2])
	}
	for _, m := range regexp.MustCompile(`(?m)^\tmux\.Handle(?:Func)?\("([A-Z]+) (\S+)", (\S+)`).FindAllStringSubmatch(read(t, "../internal/web/web.go"), -1) {
		if !strings.Contains(m[3], ".asset(") { // what pages are made with
			want = append(want, m[1]+" "+strings.NewReplacer("{$}", "", "{d}", "D").Replace(m[2]))
		}
	}
	if len(want) < 15 {
		t.Fatalf("internal/web serves %d paths", len(want))
	}
	compare(t, "man/tlsonly-http.7", "path", has, want)

	has, want = nil, nil
	for _, m := range regexp.MustCompile(`(?m)^\.It Li (tlsonly_\w+)(?: No by Va (.*))?$`).FindAllStringSubmatch(page, -1) {
		has = append(has, strings.TrimSpace(m[1]+" "+m[2]))
	}
	add := func(name, labels string) {
		labels = strings.Join(regexp.MustCompile(`\w+`).FindAllString(labels, -1), " ")
		want = append(want, strings.TrimSpace("tlsonly_"+name+" "+labels))
	}
	for _, m := range regexp.MustCompile(`(?m)^\t\t\{"([a-z_]+)", ".*", (?:nil|\[\]string\{(.*)\})\},$`).FindAllStringSubmatch(read(t, "../internal/web/metrics.go"), -1) {
		add(m[1], m[2])
	}
	for _, m := range regexp.MustCompile(`(?s)\tName: +"tlsonly_(\w+)".*?\n\t\t\}(?:, \[\]string\{(.*?)\})?\)`).FindAllStringSubmatch(read(t, "../internal/web/meter.go"), -1) {
		add(m[1], m[2])
	}
	if len(want) < 25 {
		t.Fatalf("internal/web has %d metrics", len(want))
	}
	compare(t, "man/tlsonly-http.7", "metric", has, want)
}

// tomlKeys returns the keys of a file of TOML, as table.key; those in quotes are not the program's.
func tomlKeys(text string) []string {
	var keys []string
	table := ""
	for line := range strings.Lines(text) {
		if m := regexp.MustCompile(`^\[+([a-z]+)\]+`).FindStringSubmatch(line); m != nil {
			table = m[1]
		} else if m := regexp.MustCompile(`^(?:# )?([a-z_]+) *=`).FindStringSubmatch(line); m != nil {
			keys = append(keys, table+"."+m[1])
		}
	}
	return keys
}

// readme returns the example in docs/configuration.md.
func readme(t *testing.T) string {
	t.Helper()
	_, section, ok := strings.Cut(read(t, "../docs/configuration.md"), "\n## The file\n")
	_, block, ok2 := strings.Cut(section, "```toml\n")
	block, _, ok3 := strings.Cut(block, "```")
	if !ok || !ok2 || !ok3 {
		t.Fatal(`docs/configuration.md has no block of TOML below "The file"`)
	}
	return block
}

// uncommented returns the installed configuration with all its settings in force.
func uncommented(t *testing.T) string {
	t.Helper()
	return regexp.MustCompile(`(?m)^#([^ #])`).ReplaceAllString(read(t, "tlsonly.toml"), "$1")
}

// The installed configuration asks for nothing: it is the same as none, and what it shows in comments are the defaults.
func TestConfiguration(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	parse := func(text string) config.Config {
		t.Helper()
		c, err := config.Parse("tlsonly.toml", []byte(text), now)
		if err != nil {
			t.Fatal(err)
		}
		return *c
	}
	none, shipped, shown := parse(""), parse(read(t, "tlsonly.toml")), parse(uncommented(t))
	if n := len(shipped.Rules.Rules()); n != 0 {
		t.Errorf("it has %d rules", n)
	}
	if n := len(shown.Rules.Rules()); n != 1 {
		t.Errorf("uncommented, it has %d rules", n)
	}
	for i := range reflect.TypeFor[config.Config]().NumField() {
		field := reflect.TypeFor[config.Config]().Field(i)
		if !field.IsExported() || field.Name == "Rules" || field.Name == "Inbound" || field.Name == "Relay" {
			continue
		}
		want := reflect.ValueOf(none).Field(i).Interface()
		for what, c := range map[string]config.Config{"as it comes": shipped, "uncommented": shown} {
			// An empty list is no list.
			if got := reflect.ValueOf(c).Field(i).Interface(); !reflect.DeepEqual(got, want) && !emptyAlike(got, want) {
				t.Errorf("%s, it says of [%s] %+v, and the default is %+v", what, strings.ToLower(field.Name), got, want)
			}
		}
	}
}

// emptyAlike compares values without telling an empty slice or map from none.
func emptyAlike(a, b any) bool {
	plain := func(v any) string {
		return regexp.MustCompile(`\[\]|map\[\]|<nil>`).ReplaceAllString(fmt.Sprintf("%+v", v), "nothing")
	}
	return plain(a) == plain(b)
}

// The pages are well written.
func TestManualLint(t *testing.T) {
	need(t, "mandoc")
	files, err := filepath.Glob("man/*.[0-9]")
	if err != nil || len(files) == 0 {
		t.Fatalf("pages %q, %v", files, err)
	}
	// Whether other manuals are installed here says nothing.
	var out, faults bytes.Buffer // apart: together their lines are torn
	lint := exec.Command("mandoc", append([]string{"-Tlint"}, files...)...)
	lint.Stdout, lint.Stderr = &out, &faults
	_ = lint.Run() // what it says counts
	for line := range bytes.Lines(append(out.Bytes(), faults.Bytes()...)) {
		if !bytes.Contains(line, []byte("referenced manual not found")) && !bytes.Contains(line, []byte("mandoc.db")) {
			t.Errorf("%s", bytes.TrimSpace(line))
		}
	}
}

// compare says what is missing in one of two lists and what is too much.
func compare(t *testing.T, where, what string, has, want []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(has, w) {
			t.Errorf("%s lacks the %s %s", where, what, w)
		}
	}
	for _, h := range has {
		if !slices.Contains(want, h) {
			t.Errorf("%s has the %s %s, which the program doesn't know", where, what, h)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
