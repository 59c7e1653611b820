package main

import (
	"os"
	"path/filepath"
	"testing"

	"tlsonly/internal/config"
)

// After a reload who administers the site is told where the file isn't in force yet, and only then.
func TestNeedsRestart(t *testing.T) {
	load := func(text string) *config.Config {
		file := filepath.Join(t.TempDir(), "tlsonly.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return c
	}
	const rule = "[[rule]]\nname = \"a\"\ntls = \"encrypt\"\n"
	for _, c := range []struct {
		old, fresh string
		want       bool
	}{
		{"", rule, false},
		{rule, "[relay]\n\"*\" = \"[smart.example]\"\n", false},
		{"", "[binding]\nwatch = \"off\"\n", false},
		{"", "[binding]\nwatch = \"off\"\nothers = \"off\"\n", true},
		{"", "[milter]\nheaders = true\n", true},
		{"", "[milter]\nconnections = 100\n", true},
		{"", "[socketmap]\nconnections = 100\n", true},
		{"", "[notify]\nmail = \"root@here.example\"\n", true},
		{"", "[forwarding]\nsieve = [\"/var/vmail/%d/%n/sieve\"]\n", true},
		{"[forwarding]\npostfix = \"off\"\n", "[forwarding]\npostfix = \"/etc/postfix\"\n", true},
		{"[forwarding]\npostfix = \"/etc/postfix\"\n", "[forwarding]\npostfix = \"/etc/postfix\"\nlocal = [\"here.example\"]\n", false},
		{"[forwarding]\npostfix = \"off\"\n", "[forwarding]\npostfix = \"off\"\nlocal = [\"here.example\"]\n", true},
	} {
		if got := needsRestart(load(c.old), load(c.fresh)); got != c.want {
			t.Errorf("%q after %q: %t", c.fresh, c.old, got)
		}
	}
}
