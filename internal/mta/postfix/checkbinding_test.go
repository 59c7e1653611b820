package postfix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/mta"
	"tlsonly/internal/testnet/rig"
)

// counted puts programs in the way of Postfix's that note each run, and returns
// how many there were of each.
func counted(t *testing.T) func() map[string]int {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range []string{"postconf", "postmap", "postqueue", "sendmail"} {
		path, err := Instance{}.find(name)
		if err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho %s >>%s\nexec %s \"$@\"\n", name, log, path)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() map[string]int {
		text, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(log, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		found := make(map[string]int)
		for _, name := range strings.Fields(string(text)) {
			found[name]++
		}
		return found
	}
}

// What takes the binding away in the two files is found as doctor finds it, by
// five runs of postconf(1), and nobody is asked anything.
func TestBound(t *testing.T) {
	ctx := patient(t)
	// Whom nobody may ask: nothing listens there.
	s := Settings{Milter: "inet:127.0.0.1:1", Socketmap: "inet:127.0.0.1:1", Classes: []Class{{Number: 1}}, Enforces: true,
		Protected: []addr.Address{addr.MustAddress("alice@sender.test")}, Destinations: []string{"secure.test"}}
	p := startPostfix(t, ctx, rig.PostfixConfig{Main: map[string]string{"smtp_tls_security_level": "may"}})
	i := Instance{Dir: p.Etc}
	apply(t, ctx, i, s, time.Now())
	settle(t, ctx, p)
	if err := waitSocket(ctx, filepath.Join(p.Dir, "queue", "private", "tlsonly1")); err != nil {
		t.Fatal(err)
	}
	runs := counted(t)
	look := func() mta.Inspection {
		t.Helper()
		found, err := CheckBinding(ctx, s, i)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	runs()
	began := time.Now()
	found := look()
	t.Logf("a look: %s", time.Since(began).Round(time.Millisecond))
	if n := runs(); n["postconf"] != 5 || len(n) != 1 {
		t.Errorf("programs run: %v", n)
	}
	if mta.Fails(found.Findings) {
		t.Fatalf("bound: %q", bad(found.Findings))
	}
	for _, check := range []string{"milter", "transport", "sender-map", "policy", "running"} {
		if !slices.ContainsFunc(found.Findings, func(f mta.Finding) bool { return f.Severity == mta.OK && f.Check == check }) {
			t.Errorf("nothing is said of %s: %q", check, found.Findings)
		}
	}
	for _, name := range []string{"main.cf", "master.cf"} {
		if !slices.Contains(found.Files, filepath.Join(p.Etc, name)) {
			t.Errorf("%s isn't among %q", name, found.Files)
		}
	}
	saved := make(map[string][]byte)
	for _, name := range []string{"main.cf", "master.cf"} {
		text, err := os.ReadFile(filepath.Join(p.Etc, name))
		if err != nil {
			t.Fatal(err)
		}
		saved[name] = text
	}
	host := smtpdOf(t, ctx, p)
	table := filepath.Join(p.Etc, "site")
	if err := os.WriteFile(table, []byte("alice@sender.test smtp:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		plant string // arguments of postconf, separated by |
		code  string // "": nothing fails
		file  string // that is watched from then on
	}{
		{"-X|smtpd_milters", "milter-missing", ""},
		{"-e|smtpd_milters=", "milter-missing", ""},
		{"-P|" + host + "/smtpd_milters=", "milter-missing", ""},
		{"-P|" + host + "/receive_override_options=no_milters", "milter-overridden", ""},
		{"-X|non_smtpd_milters", "milter-missing", ""},
		{"-e|milter_default_action=accept|smtpd_milters=" + s.Milter, "milter-default-action", ""},
		{"-e|smtpd_milter_maps=cidr:{{127.0.0.0/8 DISABLE}}", "milter-maps", ""},
		{"-M|-X|tlsonly1/unix", "transport-missing", ""},
		{"-P|tlsonly1/unix/smtp_tls_security_level=may", "transport-level", ""},
		{"-P|-X|tlsonly1/unix/smtp_tls_policy_maps", "transport-policies", ""},
		{"-F|tlsonly/unix/command=error", "transport-program", ""},
		{"-e|defer_transports=tlsonly1", "transport-deferred", ""},
		{"-X|sender_dependent_default_transport_maps", "sender-map-missing", ""},
		{"-P|rewrite/unix/sender_dependent_default_transport_maps=", "sender-map-missing", ""},
		{"-X|smtp_tls_policy_maps", "policy-missing", ""},
		{"-e|smtp_tls_policy_maps=texthash:" + table, "policy-missing", table},
		// Where a content filter gives mail back, which only a table tells.
		{"-M|-e|127.0.0.1:9/inet=127.0.0.1:9 inet n - n - - smtpd -o smtpd_milters=", "milter-missing", ""},
		{"-e|header_checks=inline:{{/^X/=FILTER smtp:[127.0.0.1]:10024}}", "", ""},
		// Of the site's own.
		{"-e|message_size_limit=1000000", "", ""},
	} {
		args := strings.Split(c.plant, "|")
		if _, err := p.Run(ctx, "", "postconf", args...); err != nil {
			t.Errorf("%s: %v", c.plant, err)
			continue
		}
		backdate(t, p)
		found := look()
		failing := slices.DeleteFunc(slices.Clone(found.Findings), func(f mta.Finding) bool { return !f.Severity.Fails() || f.Code == "not-reloaded" })
		if c.code == "" && len(failing) > 0 || c.code != "" && !slices.ContainsFunc(failing, func(f mta.Finding) bool { return f.Code == c.code && f.Where != "" && f.Remedy != "" }) {
			t.Errorf("%s: no %q in %q", c.plant, c.code, failing)
		}
		if c.file != "" && !slices.Contains(found.Files, c.file) {
			t.Errorf("%s: %s isn't among %q", c.plant, c.file, found.Files)
		}
		if n := runs(); n["postmap"] > 0 || n["postqueue"]+n["sendmail"] > 0 {
			t.Errorf("%s: programs run: %v", c.plant, n)
		}
		if !slices.ContainsFunc(found.Findings, func(f mta.Finding) bool { return f.Code == "not-reloaded" }) {
			t.Errorf("%s: postfix hasn't read it, and that isn't said", c.plant)
		}
		for name, text := range saved {
			if err := os.WriteFile(filepath.Join(p.Etc, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		backdate(t, p)
	}

	// What FILTER gives back at a port without our milter, has been seen by it.
	if _, err := p.Run(ctx, "", "postconf", "-M", "-e", "127.0.0.1:9/inet=127.0.0.1:9 inet n - n - - smtpd -o smtpd_milters="); err != nil {
		t.Fatal(err)
	}
	checks := filepath.Join(p.Etc, "checks")
	if err := os.WriteFile(checks, []byte("/^X/ FILTER tlsonly:[127.0.0.1]:10024\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(ctx, "", "postconf", "-e", "header_checks=regexp:"+checks); err != nil {
		t.Fatal(err)
	}
	backdate(t, p)
	for _, f := range look().Findings {
		if f.Severity.Fails() && f.Code != "not-reloaded" {
			t.Errorf("where a content filter gives mail back: %q", f)
		}
	}

	// What can't be read.
	if err := os.Rename(filepath.Join(p.Etc, "main.cf"), filepath.Join(p.Etc, "away.cf")); err != nil {
		t.Fatal(err)
	}
	if found, err := CheckBinding(ctx, s, i); err == nil || !slices.Contains(found.Files, filepath.Join(p.Etc, "main.cf")) {
		t.Errorf("without main.cf: %+v, %v", found, err)
	}
}

// Who may not read the file of master(8) knows by its sockets whether it runs.
func TestListener(t *testing.T) {
	ctx := patient(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{})
	socket := filepath.Join(p.Dir, "queue", "public", "pickup")
	pid, err := listener(ctx, socket)
	want, err2 := lockHolder(filepath.Join(p.Dir, "queue", "pid", "master.pid"))
	if err != nil || err2 != nil || pid != want {
		t.Errorf("process %d, %v; the master is %d, %v", pid, err, want, err2)
	}
	f, err := Read(ctx, Instance{Dir: p.Etc})
	if err != nil {
		t.Fatal(err)
	}
	see := func() []mta.Finding {
		d := doctor{Settings: Settings{}.withDefaults(), Facts: f, core: true}
		d.runningSeen(ctx)
		return d.findings
	}
	if found := see(); len(found) == 0 || found[0].Code != "postfix-running" || found[0].Severity != mta.OK {
		t.Errorf("while it runs: %q", found)
	}
	// One without pickup.
	if err := os.Rename(socket, socket+".away"); err != nil {
		t.Fatal(err)
	}
	if found := see(); len(found) == 0 || found[0].Severity != mta.OK {
		t.Errorf("without pickup: %q", found)
	}
	if err := os.Rename(socket+".away", socket); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(want, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for len(see()) != 1 || see()[0].Code != "postfix-down" {
		if ctx.Err() != nil {
			t.Fatalf("when it is down: %q", see())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
