package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
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

// section returns a document's text from a heading to the next of its rank.
func section(t *testing.T, name, heading string) string {
	t.Helper()
	_, text, ok := strings.Cut(document(t, name), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", name, heading)
	}
	rank, _, _ := strings.Cut(heading, " ")
	text, _, _ = strings.Cut(text, "\n"+rank+" ")
	return text
}

// spans are the pieces of a text that stand as code.
func spans(text string) []string {
	var found []string
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// replies returns the replies that a reason can cause, as the document writes
// them: {d} for the destination, {to} for the recipient.
func replies(r policy.Reason) []string {
	d, to := addr.MustDestination("d.example"), addr.MustAddress("to@to.example")
	short := strings.NewReplacer("d.example", "{d}", "to@to.example", "{to}")
	var found []string
	for _, v := range []policy.Verdict{policy.Reject, policy.Defer} {
		found = append(found, short.Replace(policy.ReplyFor(v, r, d, "").String()),
			short.Replace(policy.ForwardReply(v, r, to, "").String()))
	}
	return found
}

// Each reply stands in the document beside its reason, and what stands there as a
// reply is one.
func TestRepliesExplained(t *testing.T) {
	code := sources(t)
	explained := make(map[string]bool)
	said := regexp.MustCompile(`^[245]\d\d [245]\.\d+\.\d+ `)
	for line := range strings.Lines(section(t, "docs/troubleshooting.md", "## What a client hears")) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) < 2 {
			continue
		}
		if slices.Contains(spans(cells[0]), string(policy.Forward)) {
			explained[string(policy.Forward)] = true // in the words of its cause
			continue
		}
		for _, reason := range spans(cells[0]) {
			explained[reason] = true
			found := false
			for _, reply := range spans(cells[1]) {
				found = found || slices.Contains(replies(policy.Reason(reason)), reply)
			}
			plain := slices.Contains(policy.Reasons(), policy.Reason(reason))
			if plain && !found {
				t.Errorf("%s causes none of %q, but one of %q", reason, spans(cells[1]), replies(policy.Reason(reason)))
			}
		}
		for _, reply := range spans(cells[1]) {
			prefix := said.FindString(reply)
			if prefix == "" {
				t.Errorf("%q is no reply", reply)
			}
			for _, part := range regexp.MustCompile(`\{\w+\}|\b1\.2\b|\b128\b`).Split(reply[len(prefix):], -1) {
				for _, words := range strings.SplitAfter(part, ": ") {
					words = strings.TrimSpace(words)
					for _, end := range []string{", try again", " now", " yet", " for mail to"} {
						words = strings.TrimSuffix(words, end)
					}
					if !strings.Contains(code, words) {
						t.Errorf("%q: nobody says %q", reply, words)
					}
				}
			}
		}
	}
	for _, r := range policy.Reasons() {
		if !explained[string(r)] {
			t.Errorf("reason %s has no reply in the document", r)
		}
	}
	if len(explained) < 18 {
		t.Errorf("only %d reasons found", len(explained))
	}
}

// manuals returns the names of all manual pages and documents.
func manuals(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "packaging/man/*.[0-9]", "packaging/tlsonly.toml"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		all = append(all, files...)
	}
	return all
}

// What a document tells you to run is a command, with flags that it has.
func TestCommandsInDocuments(t *testing.T) {
	flags := make(map[string]string)
	for _, c := range commands() {
		var out strings.Builder
		p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &out}
		p.main(t.Context(), []string{c.name, "--help"})
		flags[c.name] = out.String()
	}
	flags["help"] = ""
	seen := make(map[string]bool)
	said := regexp.MustCompile("(?m)(?:^\\s*|[`$#;&|(] ?|\\.Dl )tlsonly ([a-z]+)\\b([^`\n|;&]*)")
	for _, name := range manuals(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range said.FindAllStringSubmatch(string(text), -1) {
			help, ok := flags[m[1]]
			if !ok {
				if strings.HasSuffix(name, ".md") && strings.Contains(m[0], "`") || strings.HasPrefix(m[0], ".Dl") {
					t.Errorf("%s: %q: there is no command %s", name, strings.TrimSpace(m[0]), m[1])
				}
				continue
			}
			seen[m[1]] = true
			for _, flag := range regexp.MustCompile(` (--[a-z][a-z-]*)`).FindAllStringSubmatch(m[2], -1) {
				if !regexp.MustCompile(`(?m)^  `+flag[1]+`\b`).MatchString(help) && flag[1] != "--help" {
					t.Errorf("%s: tlsonly %s has no flag %s", name, m[1], flag[1])
				}
			}
		}
	}
	for _, c := range commands() {
		if !seen[c.name] && c.name != "serve" && c.name != "version" {
			t.Errorf("no document shows how to run tlsonly %s", c.name)
		}
	}
}

// Each metric that a document, an alert or a chart names is one of the manual's,
// which a test of packaging compares with the program.
func TestMetricsInDocuments(t *testing.T) {
	page := document(t, "packaging/man/tlsonly-http.7")
	known := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\.It Li (tlsonly_\w+)`).FindAllStringSubmatch(page, -1) {
		known[m[1]] = true
	}
	if len(known) < 25 {
		t.Fatalf("the manual has %d metrics", len(known))
	}
	metric := regexp.MustCompile(`\btlsonly_[a-z_]+\b`)
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, name := range append(manuals(t), "../../packaging/prometheus/tlsonly.rules.yml", "../../packaging/grafana/tlsonly.json") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range metric.FindAllString(string(text), -1) {
			parameter := regexp.MustCompile(`^tlsonly_(setup|senders|bounces|on|header|milter|sender|policy|ca|recipient|open|cleanup)(_|$)`)
			if !known[found] && !known[suffix.ReplaceAllString(found, "")] && !parameter.MatchString(found) {
				t.Errorf("%s names the metric %s, which the program doesn't have", name, found)
			}
		}
	}
}

// Each page of a command has examples, and each key of the table of contents in
// docs/ is linked from the README.
func TestPagesWhole(t *testing.T) {
	pages, err := filepath.Glob("../../packaging/man/*.8")
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	for _, name := range pages {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"\n.Sh EXAMPLES\n", "\n.Sh EXIT STATUS\n", "\n.Sh SEE ALSO\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no section %q", name, strings.TrimSpace(want))
			}
		}
	}
	readme := document(t, "README.md")
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range docs {
		if !strings.Contains(readme, "docs/"+filepath.Base(name)) {
			t.Errorf("README.md doesn't lead to docs/%s", filepath.Base(name))
		}
	}
}

// Each test that a claim rests on is there, in its package where one is named.
func TestClaimsTested(t *testing.T) {
	tests := make(map[string][]string) // by name, the packages
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = append(tests[m[1]], filepath.Base(filepath.Dir(path)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, name := range []string{"docs/security.md", "docs/sites.md", "docs/limits.md"} {
		for _, m := range regexp.MustCompile(`(?:(\w+)\.)?\b((?:Test|Fuzz)[A-Z]\w+)`).FindAllStringSubmatch(document(t, name), -1) {
			in := tests[m[2]]
			if prefixed := slices.ContainsFunc(slices.Collect(maps.Keys(tests)), func(full string) bool { return strings.HasPrefix(full, m[2]) }); !prefixed ||
				m[1] != "" && !slices.Contains(in, m[1]) {
				t.Errorf("%s rests on %s, which isn't there", name, m[0])
			}
			named++
		}
	}
	if named < 60 {
		t.Errorf("only %d names found", named)
	}
}

// make help lists each target, and nothing else.
func TestMakeHelp(t *testing.T) {
	text := document(t, "Makefile")
	m := regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("no .PHONY")
	}
	targets := strings.Fields(m[1])
	var helped []string
	for _, m := range regexp.MustCompile(`(?m)^# make ([a-z-]+) +\S`).FindAllStringSubmatch(text, -1) {
		helped = append(helped, m[1])
	}
	slices.Sort(targets)
	slices.Sort(helped)
	if !slices.Equal(targets, helped) {
		t.Errorf("make help lists\n%q, the targets are\n%q", helped, targets)
	}
}

// The files and functions that the walks lead through are there.
func TestWalks(t *testing.T) {
	walks := section(t, "docs/design.md", "## Three walks")
	steps := regexp.MustCompile("(?m)^\\d\\. `([^`]+\\.go)`:((?:.*\\n)(?:   .*\\n)*)").FindAllStringSubmatch(walks, -1)
	if len(steps) < 10 {
		t.Fatalf("%d steps found", len(steps))
	}
	for _, step := range steps {
		text := document(t, step[1])
		for _, name := range spans(step[2]) {
			if !strings.Contains(text, ") "+name+"(") && !strings.Contains(text, "func "+name+"(") {
				t.Errorf("%s has no function %s", step[1], name)
			}
		}
	}
	for i, walk := range strings.Split(walks, "\n**")[1:] {
		if strings.Contains(walk, "\n5. ") {
			t.Errorf("walk %d has more than four steps", i+1)
		}
	}
}

// The workflow runs what .ci/run does, and the table of packages in the design
// has each of them.
func TestFurniture(t *testing.T) {
	if !strings.Contains(document(t, ".github/workflows/ci.yml"), "- run: .ci/run\n") {
		t.Error("the workflow doesn't call .ci/run")
	}
	house := section(t, "docs/design.md", "## The house")
	for path := range houseRules {
		name := strings.TrimPrefix(path, "tlsonly/")
		if !strings.Contains(house, "| `"+name+"` |") && !strings.Contains(house, "`"+filepath.Base(name)+"`") {
			t.Errorf("docs/design.md doesn't say what %s is for", name)
		}
	}
}

// No mark of a conflict is left in a document.
func TestNoConflictMarks(t *testing.T) {
	mark := regexp.MustCompile(`(?m)^(?:<{7} |\|{7} |={7}$|>{7} ).*$`)
	for _, name := range manuals(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range mark.FindAll(text, -1) {
			t.Errorf("%s: %s", name, line)
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
