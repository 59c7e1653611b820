package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// What forwards and explain answer to scripts: 0 all is well, 1 one fails, 2 asked wrongly, 3 not known; what can't be listed is
// told, and --failing without a failure is silent. The tables are a real Postfix's.
func TestMTAForwardsStatus(t *testing.T) {
	long(t)
	isolated(t)
	newWorld(t)
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	aliases := file("aliases", "good u@good.example\nbad u@none.example\nunread :include:"+dir+"\nhere /dev/null\nsilent u@silent.example\n")
	p, _ := startPostfix(t, map[string]string{
		"smtpd_milters": "", "mydestination": "local.example", "local_transport": "local", "alias_maps": "texthash:" + aliases,
		"virtual_alias_maps": "unionmap:{inline:{asked@local.example=u@none.example}}"}, nil)
	const rule = "[[rule]]\nname = \"staff\"\nforwarder = [\"@local.example\"]\ntls = \"encrypt\"\n"
	config := file("tlsonly.toml", daemonHead+"[store]\nurl = \"sqlite://"+dir+"/none.db\"\n[forwarding]\npostfix = \""+p.Etc+"\"\n"+rule)
	lost := file("lost.toml", daemonHead+"[store]\nurl = \"sqlite://"+dir+"/none.db\"\n[forwarding]\npostfix = \"off\"\nsendmail = \"off\"\naliases = [\""+
		dir+"\"]\nforward = []\nlocal = [\"local.example\"]\n"+rule)
	wrong := file("wrong.toml", "[forwarding]\npostfix = \""+dir+"/none\"\n")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	explain := "explain --from x@far.example --to "
	for _, c := range []struct {
		args, config   string
		want           int
		stdout, stderr string // found there; "-": nothing is; "": whatever
	}{
		{"forwards good@local.example", config, 0, "u@good.example", "-"},
		{"forwards here@local.example", config, 0, "0 forwards of 1 owner", "-"},
		{"forwards bad@local.example", config, 1, "no-starttls", "-"},
		{"forwards asked@local.example", config, 1, "by asked@local.example (unionmap:", "-"},
		{"forwards unread@local.example", config, 3, "not a regular file", "-"},
		{"forwards silent@local.example", config, 3, "timeout", "-"},
		{"forwards unread@local.example bad@local.example good@local.example", config, 1, "2 failing", "-"},
		{"forwards --failing good@local.example here@local.example", config, 0, "-", "-"},
		{"forwards --failing unread@local.example", config, 3, "unread@local.example", "-"},
		{"forwards --failing --json good@local.example", config, 0, "-", "-"},
		{"forwards", config, 1, "5 owners", "tlsonly: unionmap:{inline:{asked@local.example=u@none.example}} can't be listed, so its forwards are not known"},
		{"forwards --test here@local.example=asked@local.example", config, 1, "u@none.example", "-"},
		{"forwards --test here@local.example=unread@local.example", config, 3, "not a regular file", "-"},
		{"forwards", lost, 3, "-", "not a regular file"},
		{"forwards good@local.example", lost, 3, "not a regular file", "-"},
		{"forwards", wrong, 2, "-", "[forwarding] postfix"},
		{"forwards --nonsense", config, 2, "-", "nonsense"},
		{explain + "good@local.example", config, 0, "good@local.example (texthash:" + aliases + ":1) -> u@good.example", "-"},
		{explain + "bad@local.example", config, 1, "bad@local.example (texthash:" + aliases + ":2) -> u@none.example", "-"},
		{explain + "here@local.example", config, 0, "none: no TLS is required", "-"},
		{explain + "unread@local.example", config, 3, "not known: read " + dir, "-"},
		{explain + "silent@local.example", config, 3, "silent@local.example (texthash:", "-"},
		{explain + "good@local.example", lost, 3, "not known: read " + dir, "-"},
		{explain + "good@local.example", wrong, 2, "-", "[forwarding] postfix"},
	} {
		cmd := exec.Command(exe)
		cmd.Args = append([]string{"tlsonly"}, append(strings.Fields(c.args), "-c", c.config)...)
		if args := strings.Fields(c.args); args[0] == "forwards" { // addresses come last
			cmd.Args = append([]string{"tlsonly", "forwards", "-c", c.config}, args[1:]...)
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // its exit status is compared
		has := func(text, want string) bool {
			return want == "" || want == "-" && text == "" || want != "-" && strings.Contains(text, want)
		}
		if got := cmd.ProcessState.ExitCode(); got != c.want || !has(stdout.String(), c.stdout) || !has(stderr.String(), c.stderr) {
			t.Errorf("%s: exit status %d, want %d; want %q, %q in\n%s%s", c.args, got, c.want, c.stdout, c.stderr, &stdout, &stderr)
		}
	}
}
