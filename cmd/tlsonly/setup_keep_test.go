package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keeper is a running "tlsonly setup postfix --keep".
type keeper struct {
	w    *watched
	cmd  *exec.Cmd
	said string // the file with what it says
}

func (w *watched) keep() *keeper {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	k := &keeper{w: w, cmd: exec.Command(exe), said: filepath.Join(w.dir, "keep")}
	out, err := os.Create(k.said)
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	k.cmd.Args = []string{"tlsonly", "setup", "postfix", "--keep", "-c", w.daemon.file, "--config-directory", w.postfix.Etc}
	k.cmd.Stdout, k.cmd.Stderr = out, out
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	t := w.t
	t.Cleanup(func() {
		if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := k.cmd.Wait(); err != nil {
			t.Errorf("--keep ends with %v", err)
		}
		t.Logf("--keep said:\n%s", readFileOf(t, k.said))
	})
	return k
}

// isBound reports whether both files have what setup writes.
func (k *keeper) isBound() bool {
	main, err := os.ReadFile(filepath.Join(k.w.postfix.Etc, "main.cf"))
	if err != nil {
		k.w.t.Fatal(err)
	}
	master, err := os.ReadFile(filepath.Join(k.w.postfix.Etc, "master.cf"))
	if err != nil {
		k.w.t.Fatal(err)
	}
	return strings.Contains(string(main), ":sender1") && strings.Contains(string(main), "\nsmtpd_milters =") &&
		strings.Contains(string(master), "\ntlsonly1")
}

// binds waits until the files are bound again, and Postfix with them.
func (k *keeper) binds(began time.Time) {
	k.w.t.Helper()
	waitFor(k.w.t, "the files to be bound again", k.isBound)
	k.w.t.Logf("bound again after %s", time.Since(began).Round(10*time.Millisecond))
	waitFor(k.w.t, "protected mail to be refused again", func() bool { return !k.w.try(-1) })
}

// What a suite takes out of Postfix's files is written again at once, without
// harm to what it writes; what was undone stays undone.
func TestMTASetupKeep(t *testing.T) {
	long(t)
	isolated(t)
	w := newWatched(t, "")
	main, master := filepath.Join(w.postfix.Etc, "main.cf"), filepath.Join(w.postfix.Etc, "master.cf")
	bound, services := readFileOf(t, main), readFileOf(t, master)
	generated, own := cutAt(bound, "Overrides"), services[:strings.Index(services, "\ntlsonly")+1]
	k := w.keep()

	for _, c := range []struct {
		name string
		cut  func()
		left string // what the suite wrote, and must be there
	}{
		{"main.cf generated", func() { replace(t, main, generated+"message_size_limit = 20480000\n") }, "\nmessage_size_limit = 20480000\n"},
		{"both generated", func() { replace(t, master, own); replace(t, main, generated) }, "Overrides"},
		{"by postconf", func() { w.run("postconf", "-X", "smtpd_milters"); w.run("postconf", "-MX", "tlsonly1/unix") }, "Overrides"},
		{"written slowly", func() {
			slow := exec.Command("sh", "-c", `{ cat "$1"; sleep 2; echo 'header_size_limit = 51200'; } >"$2"`, "sh",
				write(w.dir, "generated.cf", generated), main)
			if out, err := slow.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}, "\nheader_size_limit = 51200\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t, w.wire.t, w.daemon.t = t, t, t
			began := time.Now()
			c.cut()
			k.binds(began)
			if !strings.Contains(readFileOf(t, main), c.left) {
				t.Errorf("%q of the suite's has gone from main.cf:\n%s", c.left, readFileOf(t, main))
			}
			w.waitBound()
		})
	}
	w.t, w.wire.t, w.daemon.t = t, t, t

	// Undone, it waits; set up again, it goes on.
	w.settle()
	waitFor(t, "undo, which --keep may be in the way of", func() bool {
		out, status := w.program("setup", "postfix", "--undo", "--apply")
		if status != exitOK && status != exitUnknown {
			t.Fatalf("undo: exit status %d\n%s", status, out)
		}
		return status == exitOK
	})
	waitFor(t, "--keep to say that nothing is written", func() bool { return strings.Contains(readFileOf(t, k.said), "nothing is written until") })
	if k.isBound() {
		t.Error("what was undone is bound again")
	}
	w.setup()
	w.reload()
	began := time.Now()
	replace(t, main, generated)
	k.binds(began)

	// A rule file with a fault stops nobody who mends it.
	w.settle()
	rules := readFileOf(t, w.daemon.file)
	w.daemon.write("nonsense\n")
	replace(t, main, generated)
	waitFor(t, "--keep to say what is wrong", func() bool { return strings.Contains(readFileOf(t, k.said), "nothing is written: ") })
	if err := os.WriteFile(w.daemon.file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	k.binds(time.Now())
}
