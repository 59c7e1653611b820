package postfix

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/contract"
	"tlsonly/internal/testnet/rig"
)

// shape is what a site adds to its files.
type shape struct {
	name, main, master string
	// arrange does what text can't; nil: nothing.
	arrange func(t *testing.T, dir string)
}

func shapes() []shape {
	return []shape{
		{name: "nothing"},
		{name: "lines, comments and order", main: "smtpd_milters =\n  inet:127.0.0.1:8891,\n# OpenDMARC\n\n  inet:127.0.0.1:8893\nnon_smtpd_milters=$smtpd_milters\n" +
			senderMaps + " = inline:{ {x@y.test = smtp:} },\n\tinline:{ {z@y.test = smtp:} }\nsmtp_tls_policy_maps = inline:{ {p.test = encrypt} }  \n"},
		{name: "twice, as where overrides are appended", main: "smtpd_milters = inet:127.0.0.1:8891\nsmtp_tls_loglevel = 0\nsmtpd_milters = $dkim_milter\ndkim_milter = inet:localhost:8891\n" +
			"smtp_tls_loglevel = 1\nsmtpd_milters =\n"},
		{name: "warned of before", main: "unused_one = x\nunused_two = $nowhere\nsmtpd_milters = inet:a:1\nsmtpd_milters = inet:b:2\n"},
		{name: "single values", main: "smtp_tls_CAfile =\nsmtp_dns_support_level =   enabled\n" + verifyMaps + " = static:DUNNO,\n  $" + senderMaps + "\n"},
		{name: "a last line without an end", main: "smtpd_milters = inet:a:1", master: "extra unix - - n - - smtp"},
		{name: "milters of services", main: "mua_milters = inet:127.0.0.1:8891\n", master: "588 inet n - y - - smtpd -v\n  -o smtpd_milters=inet:a:1,inet:b:2\n" +
			"589 inet n - y - - smtpd -o { smtpd_milters = inet:a:1, $mua_milters } -o smtpd_sasl_auth_enable=no\n" +
			"590 inet n - y - - smtpd\n# none\n  -o smtpd_milters=\n  -o syslog_name=postfix/590\n591 inet n - y - - smtpd -o smtpd_milters=$mua_milters\n" +
			"127.0.0.1:10025 inet n - y - - smtpd -o content_filter= -o smtpd_milters=\n127.0.0.1:10026 inet n - y - - smtpd -o content_filter= -o receive_override_options=no_milters\n"},
		{name: "references of a former setup", main: "smtpd_milters = $tlsonly_milter, inet:a:1\nnon_smtpd_milters = $tlsonly_milter\n" + senderMaps + " = $tlsonly_sender_map\n" +
			"tlsonly_milter = { inet:127.0.0.1:8689, command_timeout=30s }\ntlsonly_sender_map = socketmap:inet:127.0.0.1:8690:sender1\nsmtp_tls_CAfile = $tlsonly_ca_file\ntlsonly_ca_file = /etc/ssl/certs/ca-certificates.crt\n"},
		{name: "links, and modes", main: "smtpd_milters = inet:a:1\n", arrange: func(t *testing.T, dir string) {
			t.Helper()
			kept := filepath.Join(dir, "kept")
			if err := os.Mkdir(kept, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, link := range map[string]string{"main.cf": "kept/main.real", "master.cf": filepath.Join(kept, "master.real")} {
				real := filepath.Join(kept, strings.TrimSuffix(name, "cf")+"real")
				if err := os.Rename(filepath.Join(dir, name), real); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(link, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(real, 0o440); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(real, 65534, 65534); err != nil {
					t.Fatal(err)
				}
			}
		}},
	}
}

// state is what a Postfix is by its own word, and by the octets of its files.
type state struct {
	set, services, options string
	texts, modes           map[string]string
}

func stateOf(t *testing.T, ctx context.Context, i Instance) state {
	t.Helper()
	s := state{texts: make(map[string]string), modes: make(map[string]string)}
	for flag, to := range map[string]*string{"-n": &s.set, "-M": &s.services, "-P": &s.options} {
		out, _, err := i.run(ctx, "", "postconf", flag)
		if err != nil {
			t.Fatal(err)
		}
		*to = out
	}
	for _, name := range []string{"main.cf", "master.cf"} {
		path := filepath.Join(i.Dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		link, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		uid, gid := ownerOf(info)
		s.texts[name] = string(b)
		s.modes[name] = strings.Join([]string{link.Mode().Type().String(), info.Mode().String(), string(rune('0' + uid%7)), string(rune('0' + gid%7))}, " ")
	}
	return s
}

// shaped makes a configuration of the shape beside a Postfix's own.
func shaped(t *testing.T, p *rig.Postfix, s shape) Instance {
	t.Helper()
	dir, err := os.MkdirTemp(p.Dir, "shape-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, more := range map[string]string{"main.cf": s.main, "master.cf": s.master} {
		b, err := os.ReadFile(filepath.Join(p.Etc, name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(string(b)+more), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	aged(t, dir)
	if s.arrange != nil {
		s.arrange(t, dir)
	}
	return Instance{Dir: dir}
}

// aged makes the files look old: every command of Postfix waits for files to
// settle that are new.
func aged(t *testing.T, dir string) {
	t.Helper()
	then := time.Now().Add(-time.Minute)
	for _, name := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func planOf(t *testing.T, ctx context.Context, i Instance, s Settings) Setup {
	t.Helper()
	f, err := Read(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Plan(s, f)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func undoOf(t *testing.T, ctx context.Context, i Instance, s Settings) Setup {
	t.Helper()
	f, err := Read(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	return PlanUndo(s, f)
}

// A real Postfix takes what setup makes of each shape, is what the printed
// commands make of it, and is what it was after undo.
func TestSetupShapes(t *testing.T) {
	t.Parallel()
	ctx := unhurried(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{})
	s := inet()
	s.DANE, s.HideHeader = true, true
	for _, c := range shapes() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := shaped(t, p, c)
			before := stateOf(t, ctx, i)
			plan := planOf(t, ctx, i, s)
			copies, err := plan.Apply(ctx, i, time.Now())
			if err != nil || len(copies) != 2 {
				t.Fatalf("%v, copies %q", err, copies)
			}
			aged(t, i.Dir)
			after := stateOf(t, ctx, i)
			if after.set == before.set || strings.Contains(after.set+after.services, "$tlsonly") {
				t.Errorf("setup made\n%s\n%s", after.set, after.services)
			}
			if again := planOf(t, ctx, i, s); !again.Empty() {
				t.Errorf("the second time it changes %q", again.Changes)
			}
			main, err1 := os.Stat(filepath.Join(i.Dir, "main.cf"))
			kept, err2 := os.Stat(filepath.Join(i.Dir, recordFile))
			if err1 != nil || err2 != nil || kept.Mode() != main.Mode() {
				t.Errorf("what was there is in a file for others than main.cf: %v, %v, %v, %v", kept.Mode(), main.Mode(), err1, err2)
			}
			if !maps.Equal(after.modes, before.modes) {
				t.Errorf("modes, owners and links are %q, were %q", after.modes, before.modes)
			}

			printed := shaped(t, p, c)
			var script strings.Builder
			plan = planOf(t, ctx, printed, s)
			if err := plan.Print(&script); err != nil {
				t.Fatal(err)
			}
			runScript(t, ctx, script.String())
			aged(t, printed.Dir)
			byHand := stateOf(t, ctx, printed)
			same := func(a, b state) bool {
				return a.services == b.services && a.options == b.options && values(a.set) == values(b.set)
			}
			byHand.set = strings.ReplaceAll(byHand.set, printed.Dir, i.Dir)
			byHand.services, byHand.options = strings.ReplaceAll(byHand.services, printed.Dir, i.Dir), strings.ReplaceAll(byHand.options, printed.Dir, i.Dir)
			if !same(byHand, after) {
				t.Errorf("the commands\n%s\nmake\n%s%s\nsetup makes\n%s%s", &script, byHand.set, byHand.options, after.set, after.options)
			}
			if again := planOf(t, ctx, printed, s); !again.Empty() {
				t.Errorf("after the commands setup changes %q", again.Changes)
			}

			undo := undoOf(t, ctx, i, s)
			if _, err := undo.Apply(ctx, i, time.Now()); err != nil {
				t.Fatal(err)
			}
			aged(t, i.Dir)
			undone := stateOf(t, ctx, i)
			if strings.Contains(c.main, "$tlsonly") {
				if strings.Contains(undone.set+undone.services, "tlsonly") {
					t.Errorf("left is\n%s", undone.set)
				}
				return
			}
			if undone.set != before.set || undone.services != before.services || undone.options != before.options || !maps.Equal(undone.texts, before.texts) ||
				!maps.Equal(undone.modes, before.modes) {
				t.Errorf("undone it is\n%s\nbefore\n%s", undone.texts["main.cf"]+undone.texts["master.cf"], before.texts["main.cf"]+before.texts["master.cf"])
			}
			if left, err := filepath.Glob(filepath.Join(i.Dir, "tlsonly*")); err != nil || len(left) > 0 {
				t.Errorf("left over: %q, %v", left, err)
			}
		})
	}
}

// values are settings with white space as it may be.
func values(set string) string {
	var lines []string
	for line := range strings.Lines(set) {
		lines = append(lines, strings.Join(splitList(line), " "))
	}
	return strings.Join(lines, "\n")
}

// runScript runs commands that setup has printed, but for the reload of a
// Postfix that doesn't run.
func runScript(t *testing.T, ctx context.Context, script string) {
	t.Helper()
	var kept []string
	for line := range strings.Lines(script) {
		if !strings.HasPrefix(line, "postfix -c ") {
			kept = append(kept, line)
		}
	}
	cmd := exec.CommandContext(ctx, "sh", "-eu")
	cmd.Stdin = strings.NewReader(strings.Join(kept, ""))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, script)
	}
}

// Wherever a setup is killed, Postfix has whole files that name no transport
// that isn't there, and the next one finishes the work.
func TestApplyKilled(t *testing.T) {
	rig.Long(t)
	t.Parallel()
	ctx := unhurried(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{})
	s := inet()
	s.HideHeader = true
	c := shape{main: "smtpd_milters = inet:a:1\nsmtp_tls_CAfile = \n", master: "tlsonly3 unix - - n - - smtp\n588 inet n - y - - smtpd -o smtpd_milters=\n"}
	for steps := 0; ; steps++ {
		i := shaped(t, p, c)
		before := stateOf(t, ctx, i)
		for _, undo := range []bool{false, true} {
			plan := planOf(t, ctx, i, s)
			if undo {
				plan = undoOf(t, ctx, i, s)
			}
			f, err := Read(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			made, err := plan.texts(f)
			if err != nil {
				t.Fatal(err)
			}
			all := plan.steps(f, made)
			for n := range all {
				if err := all[n].prepare(); err != nil {
					t.Fatal(err)
				}
			}
			for _, step := range all[:min(steps, len(all))] {
				if err := step.make(); err != nil {
					t.Fatal(err)
				}
			}
			aged(t, i.Dir)
			if f, err = Read(ctx, i); err != nil {
				t.Fatalf("after %d steps: %v", steps, err)
			}
			named := slices.ContainsFunc(splitList(f.value(senderMaps)), func(table string) bool { return contract.SenderTable(s.Socketmap, table) })
			if _, ok := f.service("tlsonly1", "unix"); named && !ok {
				t.Errorf("after %d steps the map is named, and the transport isn't there", steps)
			}
			plan = planOf(t, ctx, i, s)
			if undo {
				plan = undoOf(t, ctx, i, s)
			}
			if _, err := plan.Apply(ctx, i, time.Now()); err != nil {
				t.Errorf("after %d steps: %v", steps, err)
			}
			aged(t, i.Dir)
			if left, err := filepath.Glob(filepath.Join(i.Dir, ".*tlsonly*")); err != nil || len(left) > 0 {
				if !plan.Empty() {
					t.Errorf("after %d steps: left over: %q, %v", steps, left, err)
				}
			}
			if steps > 2*len(all)+1 {
				t.Fatalf("%d steps", steps)
			}
			if undo && steps >= len(all) {
				steps = -2 // the last round
			}
		}
		after := stateOf(t, ctx, i)
		want := strings.Replace(before.texts["master.cf"], "tlsonly3 unix - - n - - smtp\n", "", 1)
		if after.texts["main.cf"] != before.texts["main.cf"] || after.texts["master.cf"] != want {
			t.Errorf("after %d steps and undo:\n%s\n%s", steps, after.texts["main.cf"], after.texts["master.cf"])
		}
		if steps == -2 {
			return
		}
	}
}

// What Postfix's own check has against the site, it had before; what setup
// makes worse, it puts back.
func TestApplyOnlyWhatIsWorse(t *testing.T) {
	rig.Long(t)
	t.Parallel()
	ctx := unhurried(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{})
	i := shaped(t, p, shape{main: "maillog_file = relative\nsmtpd_milters = inet:a:1\n"})
	plan := planOf(t, ctx, i, inet())
	if _, err := plan.Apply(ctx, i, time.Now()); err != nil {
		t.Errorf("a check that failed before: %v", err)
	}
	if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "failed before, too") {
		t.Errorf("notes %q", plan.Notes)
	}
	// A file that can't be replaced: nothing is half written.
	i = shaped(t, p, shape{})
	before := stateOf(t, ctx, i)
	main := filepath.Join(i.Dir, "main.cf")
	if err := syscall.Mount(main, main, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	plan = planOf(t, ctx, i, inet())
	_, err := plan.Apply(ctx, i, time.Now())
	if unmounted := syscall.Unmount(main, 0); unmounted != nil {
		t.Fatal(unmounted)
	}
	if err == nil || !strings.Contains(err.Error(), "all put back") || !strings.Contains(err.Error(), "without --apply, setup prints them") {
		t.Errorf("main.cf is a mount of its own: %v", err)
	}
	if after := stateOf(t, ctx, i); !maps.Equal(after.texts, before.texts) {
		t.Errorf("it was not put back:\n%s", after.texts)
	}
	if left := setupLeft(t, i.Dir); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	// Copies: the newest three.
	for n := range 5 {
		s := inet()
		s.Deadline = time.Duration(60+n) * time.Second
		plan = planOf(t, ctx, i, s)
		if _, err := plan.Apply(ctx, i, time.Date(2027, 1, 2, 3, 4, n, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	copies, err := filepath.Glob(filepath.Join(i.Dir, "*.tlsonly-*"))
	if want := "master.cf.tlsonly-20270102030402"; err != nil || len(copies) != 6 || filepath.Base(copies[3]) != want {
		t.Errorf("copies %q, %v", copies, err)
	}
}

// unhurried is patient for tests with dozens of commands, each of which waits
// for new files to settle.
func unhurried(t *testing.T) context.Context {
	t.Helper()
	patient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
