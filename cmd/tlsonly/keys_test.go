package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/store"
)

// gpgKey makes a key of an address with GnuPG, and returns it armored.
func gpgKey(t *testing.T, user string) string {
	t.Helper()
	home := t.TempDir()
	gpg := func(args ...string) string {
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %q: %v\n%s", args, err, said.String())
		}
		return string(out)
	}
	t.Cleanup(func() {
		if err := exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run(); err != nil {
			t.Errorf("gpgconf: %v", err)
		}
	})
	gpg("--quick-generate-key", user, "future-default", "default", "1y")
	return gpg("--armor", "--export", user)
}

// Keys are added, shown and forgotten; files win, and stay.
func TestKeys(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("gpg is not installed: \"./deps.sh crypto\" installs it")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "openpgp"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := write("tlsonly.toml", "[store]\nurl = \"sqlite://"+dir+"/db\"\n[http]\nlisten = \"\"\n"+
		"[openpgp]\nkeys = [\""+dir+"/openpgp\"]\ndiscover = []\n[smime]\ncerts = []\ndiscover = []\n")
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		var out, said bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &said}
		if code := p.main(t.Context(), append([]string{"keys", "-c", config}, args...)); code != want {
			t.Errorf("keys %q: %d, want %d\n%s%s", args, code, want, out.String(), said.String())
		}
		return out.String(), said.String()
	}
	if _, said := run(exitUsage, "list"); !strings.Contains(said, "no such file") {
		t.Errorf("no store: %s", said)
	}
	s, err := store.Open(t.Context(), store.Config{URL: "sqlite://" + dir + "/db"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()

	amy := write("amy.asc", gpgKey(t, "Amy <amy@far.example>"))
	for _, args := range [][]string{
		{"lst"}, {"list", "x"}, {"show"}, {"show", "amy"}, {"add", "amy@far.example"}, {"add", "bob@far.example", amy},
		{"add", "amy@far.example", config}, {"add", "amy@far.example", dir + "/none"}, {"--method", "pgp"}, {"--fingerprint", "AA"},
		{"show", "amy@far.example", "--waiting"}, {"add", "--method", "smime", "amy@far.example", amy},
	} {
		run(exitUsage, args...)
	}
	run(exitNo, "show", "amy@far.example")
	run(exitNo, "trust", "amy@far.example")
	run(exitNo, "forget", "amy@far.example")
	run(exitNo, "fetch", "amy@far.example")
	run(exitOK, "add", "AMY@far.example", amy)
	out, _ := run(exitOK, "show", "amy@far.example", "--json")
	var row keyRow
	if err := json.Unmarshal([]byte(out), &row); err != nil || !row.Used || row.State != "added" || row.Source != amy ||
		row.Address.String() != "amy@far.example" || len(row.Fingerprint) != 40 || row.Expires.IsZero() || row.Algorithm == "" {
		t.Errorf("%s, %v", out, err)
	}
	// A file wins and is never touched.
	filed := filepath.Join(dir, "openpgp", "amy.asc")
	if err := os.WriteFile(filed, []byte(gpgKey(t, "amy@far.example")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = run(exitOK, "list", "--json")
	rows := strings.Split(strings.TrimSpace(out), "\n")
	if len(rows) != 2 || strings.Count(out, `"used":true`) != 1 || !strings.Contains(out, `"state":"file","used":true`) {
		t.Errorf("list:\n%s", out)
	}
	if _, said := run(exitOK, "forget", "amy@far.example", "--fingerprint", row.Fingerprint); !strings.Contains(said, filed) {
		t.Errorf("forget says nothing of the file: %s", said)
	}
	if _, err := os.Stat(filed); err != nil {
		t.Error(err)
	}
	run(exitOK, "show", "amy@far.example")
	// A file that can't be read could have had any key.
	write("openpgp/broken.asc", "no key")
	if _, said := run(exitUnknown, "show", "bob@far.example"); !strings.Contains(said, "broken.asc") {
		t.Errorf("a broken file: %s", said)
	}
	run(exitUnknown, "list")
	out, _ = run(exitOK, "--help")
	if !strings.Contains(out, "--fingerprint") {
		t.Errorf("help:\n%s", out)
	}
}
