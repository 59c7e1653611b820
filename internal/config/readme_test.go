package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/inbound"
	"tlsonly/rules"
)

// The file that docs/configuration.md shows is one that this version takes, and
// has every key that this version knows.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## The file\n")
	_, block, ok2 := strings.Cut(section, "```toml\n")
	block, _, ok3 := strings.Cut(block, "```")
	if !ok || !ok2 || !ok3 {
		t.Fatal("docs/configuration.md has no block of TOML below \"The file\"")
	}
	if _, err := Parse("docs/configuration.md", []byte(block), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Error(err)
	}
	shown := map[string]bool{}
	table := ""
	for line := range strings.Lines(block) {
		if m := regexp.MustCompile(`^\[+([a-z]+)\]+`).FindStringSubmatch(line); m != nil {
			table = m[1]
		} else if m := regexp.MustCompile(`^([a-z_]+) *=`).FindStringSubmatch(line); m != nil {
			shown[table+"."+m[1]] = true
		}
	}
	var missing []string
	for name, table := range tables() {
		for _, key := range table.keys {
			if !shown[name+"."+key] {
				missing = append(missing, name+"."+key)
			}
		}
	}
	for _, key := range inbound.Keys() {
		if !shown["inbound."+key] {
			missing = append(missing, "inbound."+key)
		}
	}
	for _, key := range rules.Keys() {
		if !shown["rule."+key] {
			missing = append(missing, "rule."+key)
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		t.Errorf("not in docs/configuration.md: %q", missing)
	}
}
