package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tlsonly/internal/policy"
)

// sources returns the text of all Go files of the program, without its tests
// and what is for them.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"../../cmd", "../../internal", "../../milter", "../../rules"} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testnet" || d.Name() == "storetest"):
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each line that the daemon logs at WARN and above is explained, and each one
// that is explained is logged.
func TestLogLinesExplained(t *testing.T) {
	text := document(t, "docs/troubleshooting.md")
	logged := make(map[string]bool)
	for _, m := range regexp.MustCompile(`[lL]og\.(?:Warn|Error)\("([^"]+)"`).FindAllStringSubmatch(sources(t), -1) {
		logged[m[1]] = true
		if !strings.Contains(text, "`"+m[1]+"`") {
			t.Errorf("docs/troubleshooting.md doesn't explain %q", m[1])
		}
	}
	if len(logged) < 40 {
		t.Fatalf("only %d lines found", len(logged))
	}
	_, after, ok := strings.Cut(text, "\n## What the log says\n")
	if !ok {
		t.Fatal("no section about the log")
	}
	for _, line := range strings.Split(after, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			if !logged[m[1]] {
				t.Errorf("docs/troubleshooting.md explains %q, which nobody logs", m[1])
			}
		}
	}
}

// Each reason has its reply in the document.
func TestReasonsExplained(t *testing.T) {
	text := document(t, "docs/troubleshooting.md")
	for _, r := range policy.Reasons() {
		if !strings.Contains(text, "`"+string(r)+"`") {
			t.Errorf("docs/troubleshooting.md doesn't explain reason %s", r)
		}
	}
}

// No link between the documents leads nowhere.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	root, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchors := func(text string) map[string]bool {
		found := make(map[string]bool)
		for _, m := range heading.FindAllStringSubmatch(text, -1) {
			kept := strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
					return r
				}
				return -1
			}, strings.ToLower(m[1]))
			found[kept] = true
		}
		return found
	}
	for _, f := range append(files, root...) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			name, anchor, _ := strings.Cut(m[1], "#")
			target := f
			if name != "" {
				target = filepath.Join(filepath.Dir(f), name)
			}
			other, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			if anchor != "" && !anchors(string(other))[anchor] {
				t.Errorf("%s: no heading for %s", f, m[1])
			}
		}
	}
}
