package postfix

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/mta"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// startedAnew starts the Postfix anew as `postfix start` does, by a command before
// it.
func startedAnew(t *testing.T, ctx context.Context, p *rig.Postfix, before ...string) (master int) {
	t.Helper()
	pidFile := filepath.Join(p.Dir, "queue", "pid", "master.pid")
	old, err := lockHolder(pidFile)
	if err != nil || old == 0 {
		t.Fatalf("master %d, %v", old, err)
	}
	if err := syscall.Kill(old, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "the master to end", func() bool { pid, err := lockHolder(pidFile); return err == nil && pid == 0 })
	args := append(before, "postfix", "-c", p.Etc, "start")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	p.Within(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	t.Cleanup(func() {
		pid, err := lockHolder(pidFile)
		if err == nil && pid != 0 {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			t.Error(err)
		}
		await(t, "the master to end", func() bool { pid, err := lockHolder(pidFile); return err == nil && pid == 0 })
	})
	if master, err = lockHolder(pidFile); err != nil || master == 0 {
		t.Fatalf("master %d, %v", master, err)
	}
	return master
}

// hasChild reports whether a process has a child with a word among its
// arguments.
func hasChild(parent int, word string) bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !slices.Contains(strings.Split(string(text), "\x00"), word) {
			continue
		}
		// proc(5): pid (command) state ppid; no command of Postfix's has a bracket.
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(line), "stat"))
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			return true
		}
	}
	return false
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	if err := poll(context.Background(), time.Minute, func() error {
		if done() {
			return nil
		}
		return os.ErrDeadlineExceeded
	}); err != nil {
		t.Fatalf("waited in vain for %s", what)
	}
}

// Where the master may not kill, as by Debian 13's unit, a reload that takes
// away a transport that is delivering stops Postfix; a restart doesn't, and
// where the reload was done Renew mends it.
func TestRenewMayNotKill(t *testing.T) {
	rig.Long(t)
	t.Parallel()
	ctx := patient(t)
	const address = "127.26.0.1"
	said := map[string]string{"sender1 alice@sender.test": "OK tlsonly1:[" + address + "]", "sender1 bob@sender.test": "OK tlsonly1:[" + address + "]"}
	smap := startAnswers(t, "tcp", "127.0.0.1:0", said)
	s := Settings{
		Milter: "inet:" + startMilter(t, "tcp", "127.0.0.1:0"), Socketmap: "inet:" + smap.listener.Addr().String(),
		Classes: []Class{{Number: 1}}, Protected: []addr.Address{addr.MustAddress("alice@sender.test")},
	}
	p := startPostfix(t, ctx, rig.PostfixConfig{Main: map[string]string{"smtp_tls_security_level": "may", "smtp_helo_timeout": "300s"}})
	i := Instance{Dir: p.Etc}
	apply(t, ctx, i, s, time.Now())
	backdate(t, p)
	master := startedAnew(t, ctx, p, "setpriv", "--bounding-set=-kill", "--inh-caps=-kill")
	if mayKill(master) || !mayKill(os.Getpid()) {
		t.Fatalf("the master may kill: %t, and this process: %t", mayKill(master), mayKill(os.Getpid()))
	}
	hanging := host(t, address, false)
	hanging.SetFault(testnet.HangConnect)
	facts := func() Facts {
		t.Helper()
		f, err := Read(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	undo := func() {
		t.Helper()
		plan := PlanUndo(s, facts())
		if _, err := plan.Apply(ctx, i, time.Now()); err != nil {
			t.Fatal(err)
		}
		backdate(t, p)
	}
	if r, err := facts().Renewal(); err != nil || r.How != Reload {
		t.Errorf("nothing has left: %+v, %v", r, err)
	}

	// The way it is done.
	send(t, p, "alice@sender.test", "u@silent.test")
	await(t, "the delivery", func() bool { return hanging.Connections() > 0 })
	undo()
	want := []string{"tlsonly", "tlsonly1"}
	start := time.Now()
	r, err := i.Renew(ctx)
	if err != nil || r.How != Restart || !slices.Equal(r.Leaving, want) || r.Command != "postfix -c "+p.Etc+" stop; postfix -c "+p.Etc+" start" {
		t.Errorf("after the undo: %+v, %v", r, err)
	}
	t.Logf("restarted in %v", time.Since(start))
	now, err := lockHolder(facts().masterPID())
	if err != nil || now == 0 || now == master {
		t.Errorf("master %d became %d: %v", master, now, err)
	}
	if found, err := Running(ctx, s, i, false); err != nil || len(bad(found)) > 0 || len(found) == 0 {
		t.Errorf("after the restart: %q, %v", found, err)
	}

	// The counter-run: bound again, and undone with a reload alone.
	apply(t, ctx, i, s, time.Now())
	backdate(t, p)
	master = startedAnew(t, ctx, p, "setpriv", "--bounding-set=-kill", "--inh-caps=-kill")
	send(t, p, "bob@sender.test", "v@silent.test")
	await(t, "the delivery", func() bool { return hasChild(master, "tlsonly1") })
	undo()
	if _, _, err := i.run(ctx, "", "postfix", "reload"); err != nil {
		t.Fatal(err)
	}
	f := facts()
	await(t, "Postfix to stop answering", func() bool { return f.answers(ctx, time.Second) != nil })
	if err := f.answersWithin(ctx, 3*time.Second); err == nil {
		t.Fatal("Postfix answers after a reload that took a transport away while it delivered: nothing is shown here")
	}
	found, err := Running(ctx, s, i, false)
	if err != nil || !slices.ContainsFunc(found, func(f mta.Finding) bool {
		return f.Code == "postfix-silent" && f.Severity == mta.Down && strings.Contains(f.Remedy, " stop; ")
	}) {
		t.Errorf("doctor says of a Postfix that doesn't answer: %q, %v", found, err)
	}
	if r, err := i.Renew(ctx); err != nil || r.How != Restart {
		t.Errorf("renewed: %+v, %v", r, err)
	}
	if err := f.answers(ctx, answerTime); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// A port that leaves master.cf takes a restart, too, and nothing is restarted
// that is in the foreground, nor started that doesn't run.
func TestRenewal(t *testing.T) {
	t.Parallel()
	ctx := patient(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{Master: []string{
		"127.0.0.1:2601 inet n - n - - smtpd", "extra unix - - n - - smtp",
	}, Main: map[string]string{}})
	i := Instance{Dir: p.Etc}
	renewal := func() Renewal {
		t.Helper()
		f, err := Read(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.Renewal()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := renewal(); r.How != Reload {
		t.Errorf("as it is: %+v", r)
	}
	// The rig's is in the foreground, and this process has started it.
	f, err := readSettings(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	master, err := lockHolder(f.masterPID())
	if err != nil {
		t.Fatal(err)
	}
	r := f.restart(master)
	want := fmt.Sprintf("postfix -c %s stop, and have ", p.Etc)
	starter := fmt.Sprintf(" (process %d) start it again", os.Getpid())
	if words := r.Words(); r.How != Restart || r.Command != "" ||
		!strings.HasPrefix(words, want) || !strings.Contains(words, starter) {
		t.Errorf("in the foreground: %q", words)
	}
	if words := f.foreground(1); !strings.Contains(words, "restart the container") {
		t.Errorf("as the first process of a container: %q", words)
	}
	if r, err := i.Renew(ctx); err != nil || r.How != Reload {
		t.Errorf("renewed in the foreground: %+v, %v", r, err)
	}
	startedAnew(t, ctx, p)
	if r := renewal(); r.How != Reload {
		t.Errorf("as it is, started by hand: %+v", r)
	}
	for _, c := range []struct {
		service string
		leaving []string
	}{{"127.0.0.1:2601/inet", []string{"2601"}}, {"extra/unix", []string{"2601", "extra"}}} {
		if _, _, err := i.run(ctx, "", "postconf", "-M", "-X", c.service); err != nil {
			t.Fatal(err)
		}
		if r := renewal(); r.How != Restart || !slices.Equal(r.Leaving, c.leaving) || r.Command == "" {
			t.Errorf("without %s: %+v", c.service, r)
		}
	}
	backdate(t, p)
	if r, err := i.Renew(ctx); err != nil || r.How != Restart {
		t.Errorf("%+v, %v", r, err)
	}
	if r := renewal(); r.How != Reload {
		t.Errorf("restarted: %+v", r)
	}
	if _, _, err := i.run(ctx, "", "postfix", "stop"); err != nil {
		t.Fatal(err)
	}
	await(t, "the master to end", func() bool { pid, err := lockHolder(f.masterPID()); return err == nil && pid == 0 })
	if r, err := i.Renew(ctx); err != nil || r.How != NotRunning || r.Command != "postfix -c "+p.Etc+" start" {
		t.Errorf("stopped: %+v, %v", r, err)
	}
	if pid, err := lockHolder(f.masterPID()); err != nil || pid != 0 {
		t.Errorf("Renew started a Postfix that was stopped: %d, %v", pid, err)
	}
}
