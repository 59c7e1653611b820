package postfix

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/mta"
	"tlsonly/internal/testnet/rig"
)

// A Postfix that writes its log itself and whose main.cf sets parameters again is
// not reloaded: it would wait for its own log, which the counter-run shows.
func TestLogBlocks(t *testing.T) {
	t.Parallel()
	ctx := patient(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{})
	i := Instance{Dir: p.Etc}
	main := filepath.Join(p.Etc, "main.cf")
	alone, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	says := func(lines string) ([]mta.Finding, error) {
		t.Helper()
		if err := os.WriteFile(main, append(slices.Clone(alone), lines...), 0o644); err != nil {
			t.Fatal(err)
		}
		backdate(t, p)
		f, err := readSettings(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		d := doctor{Settings: Settings{}.withDefaults(), Facts: f, instance: i}
		d.logged()
		return d.findings, f.Renewable()
	}
	repeated := strings.Repeat("smtp_tls_loglevel = 1\nsmtp_tls_loglevel = 0\n", 3)
	for _, c := range []struct{ name, lines string }{
		{"nothing stands twice", ""},
		{"the same value twice", "smtp_tls_loglevel = 1\nsmtp_tls_loglevel = 1\nsmtp_tls_loglevel = 1\n"},
		{"a log by syslog", repeated + "maillog_file =\n"},
	} {
		if found, err := says(c.lines); err != nil || len(found) > 0 {
			t.Errorf("%s: %v, %q", c.name, err, found)
		}
	}
	found, err := says(repeated)
	if err == nil || !strings.Contains(err.Error(), "smtp_tls_loglevel (line ") || len(found) != 1 ||
		found[0].Code != "log-blocks" || found[0].Severity != mta.Warning {
		t.Fatalf("values that stand twice: %v, %q", err, found)
	}
	if r, err := i.Renew(ctx); err == nil || r.How != Reload ||
		!strings.Contains(err.Error(), "remove the earlier lines") {
		t.Errorf("renewed: %+v, %v", r, err)
	}
	f, err := readSettings(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.answers(ctx, answerTime); err != nil {
		t.Errorf("after Renew has refused: %v", err)
	}
	// The counter-run. It takes one or two.
	await(t, "a reload to make Postfix wait for its own log", func() bool {
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, _, err := i.run(limited, "", "postfix", "reload")
		return err != nil && limited.Err() != nil
	})
}

// postfix(1) is done when it ends, whatever it leaves behind, and is ended with
// all that it has started when it takes too long.
func TestControl(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := func(text string) Instance {
		t.Helper()
		path := filepath.Join(dir, "postfix")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return Instance{Commands: dir}
	}
	left := filepath.Join(dir, "left")
	ended := func() bool {
		pid, err := os.ReadFile(left)
		if err != nil {
			return false
		}
		_, err = os.Stat("/proc/" + strings.TrimSpace(string(pid)))
		return os.IsNotExist(err)
	}
	ctx, cancel := context.WithCancel(patient(t))
	i := script("echo said >&2; sleep 600 & echo $! >" + left + "\n")
	if out, _, err := i.run(ctx, "", "postfix", "reload"); err != nil || out != "said\n" {
		t.Errorf("a command that leaves a process behind: %q, %v", out, err)
	}
	if ended() {
		t.Error("what it left behind was ended")
	}
	pid, err := os.ReadFile(left)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err := errors.Join(err, syscall.Kill(n, syscall.SIGKILL)); err != nil {
		t.Error(err)
	}
	i = script("echo waits; sleep 600 & echo $! >" + left + "\nwait\n")
	if err := os.Remove(left); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer cancel()
		_ = poll(ctx, time.Minute, func() error {
			if text, _ := os.ReadFile(left); !strings.HasSuffix(string(text), "\n") {
				return os.ErrNotExist
			}
			return nil
		})
	}()
	_, _, err = i.run(ctx, "", "postfix", "reload")
	if err == nil || !strings.Contains(err.Error(), "waits") {
		t.Errorf("a command that hangs: %v", err)
	}
	await(t, "what it has started to end", ended)
	_, _, err = script("echo why; exit 1\n").run(patient(t), "", "postfix", "reload")
	if err == nil || !strings.Contains(err.Error(), "exit status 1: why") {
		t.Errorf("a command that fails: %v", err)
	}
}
