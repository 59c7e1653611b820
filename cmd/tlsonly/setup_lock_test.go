package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/mta"
)

// Of two setups at once the second does nothing, says who the first is, and
// asks to try again.
func TestMTASetupLock(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{}, false)
	before := w.files()

	// A postconf that waits, once setup has begun, until somebody reads.
	waits := filepath.Join(w.dir, "waits")
	if err := os.Mkdir(waits, 0o755); err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(w.dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ncase \"$*\" in *config_directory*) ;; *) echo >" + gate + " ;; esac\nexec /usr/sbin/postconf \"$@\"\n"
	if err := os.WriteFile(filepath.Join(waits, "postconf"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postfix", "postmap"} {
		if err := os.Symlink("/usr/sbin/"+name, filepath.Join(waits, name)); err != nil {
			t.Fatal(err)
		}
	}
	slow := write(w.dir, "slow.toml", daemonHead+"[forwarding]\npostconf = \""+waits+"\"\n"+clinicRule+"[store]\nurl = \""+w.daemon.url+"\"\n")
	start := func(args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.CommandContext(patient(t), "/proc/self/exe")
		cmd.Args = append([]string{"tlsonly", "setup", "postfix", "--apply", "--no-reload", "-c", slow}, args...)
		w.postfix.Within(cmd)
		out, err := os.Create(filepath.Join(w.dir, "slow.out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the first to hold the lock", func() bool {
			unlock, err := mta.Lock(w.postfix.Etc)
			if err == nil {
				unlock()
			}
			return err != nil && strings.Contains(err.Error(), "process "+strconv.Itoa(cmd.Process.Pid)+" (tlsonly setup")
		})
		return cmd
	}
	// finish lets it go on.
	finish := func(cmd *exec.Cmd) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		open, err := os.OpenFile(gate, os.O_RDWR, 0) // so that no writer waits
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		if err := <-done; err != nil {
			t.Errorf("the first: %v\n%s", err, readFileOf(t, filepath.Join(w.dir, "slow.out")))
		}
	}
	first := start()
	for _, args := range [][]string{{"--apply"}, {"--undo", "--apply"}} {
		out, status := w.program(append([]string{"setup", "postfix"}, args...)...)
		if status != exitUnknown || !strings.Contains(out, "process "+strconv.Itoa(first.Process.Pid)+" (tlsonly setup postfix --apply") ||
			!strings.Contains(out, "try again") {
			t.Errorf("the second, %q: exit status %d\n%s", args, status, out)
		}
	}
	if after := w.files(); string(after) != string(before) {
		t.Errorf("it was written all the same:\n%s", after)
	}
	if out, status := w.program("setup", "postfix"); status != exitOK {
		t.Errorf("what is only shown: exit status %d\n%s", status, out)
	}
	finish(first)
	if out, status := w.program("setup", "postfix", "--apply", "--no-reload"); status != exitOK || !strings.Contains(out, "nothing to change") {
		t.Errorf("after the first: exit status %d\n%s", status, out)
	}

	// One that is killed keeps nobody out.
	undo := start("--undo")
	if out, status := w.program("setup", "postfix", "--apply"); status != exitUnknown {
		t.Errorf("while it is undone: exit status %d\n%s", status, out)
	}
	if err := undo.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = undo.Wait()
	if out, status := w.program("setup", "postfix", "--undo", "--apply", "--no-reload"); status != exitOK {
		t.Errorf("after one that was killed: exit status %d\n%s", status, out)
	}
	if after := w.files(); string(after) != string(before) {
		t.Errorf("after undo:\n%s\nbefore:\n%s", after, before)
	}
	if found, err := filepath.Glob(filepath.Join(w.postfix.Etc, "*lock*")); err != nil || len(found) > 0 {
		t.Errorf("left behind: %q, %v", found, err)
	}
	// The writer that waits for a reader has ended with its script.
	open, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	open.Close()
}
