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

// commandStatus runs a command with the daemon's configuration and wants its exit status.
func (d *daemonProcess) commandStatus(want int, args ...string) string {
	d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{"tlsonly"}, append(args, "-c", d.file)...)
	out, _ := cmd.CombinedOutput() // its status is looked at
	if got := cmd.ProcessState.ExitCode(); got != want {
		d.t.Errorf("%q: exit status %d, want %d\n%s", args, got, want, out)
	}
	return string(out)
}

// setup --apply binds a Postfix that knows nothing of us, doctor says so and proves it by a message, --undo takes it back to
// the letter, and doctor finds the hole.
func TestMTASetup(t *testing.T) {
	isolated(t)
	wellResolved(newWorld(t).DNS)
	d := startDaemon(t, daemonHead+"[forwarding]\nlocal = [\"local.example\"]\n"+clinicRule)
	p, err := rig.StartPostfix(patient(t), rig.PostfixConfig{Main: map[string]string{
		"mydestination": "local.example", "smtp_tls_security_level": "may",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Postfix's log:\n%s", p.Log())
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	files := func() []byte {
		var all []byte
		for _, name := range []string{"main.cf", "master.cf"} {
			text, err := os.ReadFile(filepath.Join(p.Etc, name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text...)
		}
		return all
	}
	before := files()
	if got := d.commandStatus(1, "doctor", "--config-directory", p.Etc); !strings.Contains(got, "hole") {
		t.Errorf("before setup:\n%s", got)
	}
	shown := d.commandStatus(0, "setup", "postfix", "--config-directory", p.Etc)
	if !strings.Contains(shown, "sender_dependent_default_transport_maps") || !bytes.Equal(files(), before) {
		t.Errorf("setup without --apply:\n%s", shown)
	}
	if got := d.commandStatus(0, "setup", "postfix", "--apply", "--config-directory", p.Etc); !strings.Contains(got, "Postfix was reloaded\n") {
		t.Errorf("setup:\n%s", got)
	}
	if got := d.commandStatus(0, "setup", "postfix", "--apply", "--config-directory", p.Etc); !strings.Contains(got, "nothing to change") {
		t.Errorf("setup again:\n%s", got)
	}
	got := d.commandStatus(0, "doctor", "--probe", "--config-directory", p.Etc)
	if !strings.Contains(got, "0 warnings, 0 holes") || !strings.Contains(got, "probe") {
		t.Errorf("after setup:\n%s", got)
	}
	t.Logf("doctor --probe:\n%s", got)
	// The probe's own destination was held to TLS like any, and isn't now: neither in the store nor by the daemon.
	for _, what := range []string{" pinned ", " demand "} {
		if history := d.commandStatus(0, "domains", "history", "[127.25.0.1]"); strings.Count(history, what) == 0 {
			t.Errorf("the probe's destination was not%s:\n%s", what, history)
		}
	}
	if pinned := d.commandStatus(0, "domains", "list", "--pinned"); strings.Contains(pinned, "127.25") {
		t.Errorf("left pinned:\n%s", pinned)
	}
	waitFor(t, "the daemon to know", func() bool {
		answer, err := p.Run(patient(t), "", "postmap", "-q", "[127.25.0.1]", "socketmap:inet:127.0.0.1:8690:policy")
		return err != nil && answer == ""
	})
	c := dial(t, p.Addr)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<u@none.example>", "550 5.7.10")

	if got := d.commandStatus(0, "setup", "postfix", "--undo", "--apply", "--config-directory", p.Etc); !strings.Contains(got, "Postfix was reloaded\n") {
		t.Errorf("undo:\n%s", got)
	}
	if got := files(); !bytes.Equal(got, before) {
		t.Errorf("after undo:\n%s\nbefore setup:\n%s", got, before)
	}
	d.commandStatus(1, "doctor", "--config-directory", p.Etc)
}
