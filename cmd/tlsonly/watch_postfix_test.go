package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// reloaded makes Postfix read its files, which it leaves alone for a while after
// they were written.
func (w *watched) reloaded() {
	w.t.Helper()
	backdateFiles(w.wire)
	w.run("postfix", "-c", w.postfix.Etc, "reload")
}

// A main.cf that is cut at a line, as some suites do at each start, is noticed
// while mail flows, whether Postfix is told or not.
func TestMTAWatchCut(t *testing.T) {
	long(t)
	isolated(t)
	for _, reload := range []bool{false, true} {
		name := "without a reload"
		if reload {
			name = "with a reload"
		}
		t.Run(name, func(t *testing.T) {
			w := newWatched(t, "")
			main := filepath.Join(w.postfix.Etc, "main.cf")
			bound := readFileOf(t, main)
			if w.try(-1) {
				t.Error("a protected message for a host without TLS is taken while all is bound")
			}
			began := time.Now()
			stop := w.flow(began)
			replace(t, main, cutAt(bound, "Overrides"))
			if reload {
				w.reloaded()
			}
			w.notices(began, "milter", "milter-missing")
			// Mail flows on, and leaves in the clear: that is what there is to notice.
			within(t, time.Minute, "mail to leave in the clear", func() bool { host, _ := w.leak(); return host != "" })
			accepted, refused := stop()
			t.Logf("%d messages refused; %d accepted, the first after %s", refused, len(accepted), accepted[0].Round(10*time.Millisecond))
			for _, check := range []string{"sender-map", "policy"} {
				if value := w.metric(`tlsonly_bound{check="` + check + `"}`); value != "0" {
					t.Errorf("tlsonly_bound of %s is %q", check, value)
				}
			}
			w.settle()
			// What was gone counts as back once Postfix has read it.
			replace(t, main, bound)
			w.reloaded()
			w.boundAgain()
		})
	}
}

// Everything else that takes the binding away, one after the other.
func TestMTAWatchPostfix(t *testing.T) {
	long(t)
	isolated(t)
	w := newWatched(t, "[log]\nlevel = \"debug\"\n")
	main, master := filepath.Join(w.postfix.Etc, "main.cf"), filepath.Join(w.postfix.Etc, "master.cf")
	bound, services := readFileOf(t, main), readFileOf(t, master)
	for _, line := range w.lines("binding looked at") {
		t.Log(line)
	}
	begin := func(t *testing.T) time.Time { w.t, w.wire.t, w.daemon.t = t, t, t; return time.Now() }

	t.Run("a list of milters emptied", func(t *testing.T) {
		began := begin(t)
		w.run("postconf", "-e", "smtpd_milters=")
		w.notices(began, "milter", "milter-missing")
		replace(t, main, bound)
		w.reloaded()
		w.boundAgain()
	})
	t.Run("master.cf replaced", func(t *testing.T) {
		began := begin(t)
		before, _, _ := strings.Cut(services, "\ntlsonly")
		replace(t, master, before+"\n")
		w.notices(began, "transport", "transport-missing")
		replace(t, master, services)
		w.reloaded()
		w.boundAgain()
	})
	t.Run("an option of a transport", func(t *testing.T) {
		began := begin(t)
		w.run("postconf", "-P", "tlsonly1/unix/smtp_tls_security_level=may")
		w.notices(began, "transport", "transport-level")
		replace(t, master, services)
		w.reloaded()
		w.boundAgain()
	})
	t.Run("a link to another main.cf", func(t *testing.T) {
		began := begin(t)
		other := write(w.dir, "generated.cf", cutAt(bound, "Overrides"))
		if err := os.Remove(main); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(other, main); err != nil {
			t.Fatal(err)
		}
		w.notices(began, "sender-map", "milter-missing")
		replace(t, other, bound)
		w.reloaded()
		w.boundAgain()
		began = time.Now()
		replace(t, other, cutAt(bound, "Overrides"))
		w.notices(began, "sender-map", "milter-missing")
		replace(t, main, bound)
		w.reloaded()
		w.boundAgain()
	})
	t.Run("a setting of the site's own, without a reload", func(t *testing.T) {
		begin(t)
		looks := len(w.lines("binding looked at"))
		w.run("postconf", "-e", "message_size_limit=20480000")
		within(t, time.Minute, "a look", func() bool { return len(w.lines("binding looked at")) > looks })
		if out := w.doctorSays(exitNo, "hole", "not-reloaded"); out == "" {
			t.Error("doctor says nothing")
		}
		replace(t, main, bound)
		w.reloaded()
		w.waitBound()
		w.noMore()
	})
	t.Run("a file written in two steps is no alarm", func(t *testing.T) {
		begin(t)
		looks := len(w.lines("binding looked at"))
		replace(t, main, cutAt(bound, "Overrides"))
		within(t, time.Minute, "a look at the first half", func() bool { return len(w.lines("binding looked at")) > looks })
		replace(t, main, bound)
		w.reloaded()
		looks = len(w.lines("binding looked at"))
		within(t, time.Minute, "a look at the whole", func() bool { return len(w.lines("binding looked at")) > looks })
		w.noMore()
	})
	t.Run("the daemon restarted while unbound", func(t *testing.T) {
		began := begin(t)
		w.run("postconf", "-e", "smtp_tls_policy_maps=")
		w.notices(began, "policy", "policy-missing")
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.start()
		within(t, time.Minute, "/readyz to fail", func() bool { status, _ := w.ask("/readyz"); return status == http.StatusServiceUnavailable })
		w.lost["policy-missing"]++ // each process says it in the log, but people were told
		replace(t, main, bound)
		w.reloaded()
		w.waitBound()
		w.tells(`"what":"bound"`)
	})
	t.Run("accepted", func(t *testing.T) {
		begin(t)
		w.serve("[forwarding]\npostfix = \""+w.postfix.Etc+"\"\n[doctor]\naccept = [\"policy-missing:main.cf:smtp_tls_policy_maps no other mail here\"]\n", "")
		w.waitBound()
		looks := len(w.lines("level=INFO msg=bound "))
		w.run("postconf", "-e", "smtp_tls_policy_maps=")
		w.reloaded()
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.start()
		within(t, time.Minute, "a look", func() bool { return len(w.lines("level=INFO msg=bound ")) > looks })
		if status, text := w.ask("/readyz"); status != http.StatusOK || !strings.Contains(text, "binding: ok") {
			t.Errorf("%d %s", status, text)
		}
		if value := w.metric(`tlsonly_bound{check="policy"}`); value != "1" {
			t.Errorf("tlsonly_bound of what is accepted is %q", value)
		}
		replace(t, main, bound)
		w.reloaded()
	})
	t.Run("off, and on again by a reload", func(t *testing.T) {
		begin(t)
		text := readFileOf(t, w.daemon.file)
		reload := func(text string) {
			if err := os.WriteFile(w.daemon.file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := w.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		reload("[binding]\nwatch = \"off\"\n" + text)
		within(t, time.Minute, "the watch to end", func() bool { return len(w.lines("binding not watched", "off")) == 1 })
		if status, ready := w.ask("/readyz"); status != http.StatusOK || strings.Contains(ready, "binding") || strings.Contains(w.metrics(), "tlsonly_bound{") {
			t.Errorf("%d %s", status, ready)
		}
		reload(text)
		w.waitBound()
		if restart := w.lines("need a restart"); len(restart) > 0 {
			t.Errorf("%q", restart)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		began := begin(t)
		if err := syscall.Kill(masterOf(t, w.wire), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		within(t, 3*time.Minute, "the daemon to see that Postfix is down", func() bool { return w.metric(`tlsonly_bound{check="running"}`) == "0" })
		t.Logf("seen after %s", time.Since(began).Round(time.Second))
		if status, text := w.ask("/readyz"); status != http.StatusOK || !strings.Contains(text, "binding: ok") {
			t.Errorf("an MTA that is down is no less bound: %d %s", status, text)
		}
		if _, page := w.ask("/"); !strings.Contains(page, "postfix isn’t running") {
			t.Error("the status page doesn't say that Postfix is not running")
		}
		if n := len(w.lines("level=WARN", "not running", "postfix-down")); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

// The user of the daemon, who may neither read the file of master(8) nor see
// other users' processes, notices all the same; what can't be seen is said once.
func TestMTAWatchUnprivileged(t *testing.T) {
	long(t)
	isolated(t)
	w := newWatched(t, "")
	main := filepath.Join(w.postfix.Etc, "main.cf")
	bound := readFileOf(t, main)
	info, err := os.Stat(filepath.Join(w.postfix.Dir, "queue", "public"))
	if err != nil {
		t.Fatal(err)
	}
	w.daemon.stop(syscall.SIGTERM)
	state := filepath.Join(w.dir, "state")
	if err := os.Mkdir(state, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(state, 0o777); err != nil {
		t.Fatal(err)
	}
	w.daemon.url = "sqlite://" + filepath.Join(state, "tlsonly.db")
	w.daemon.as = &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{info.Sys().(*syscall.Stat_t).Gid}}
	w.daemon.file = filepath.Join(w.dir, "daemon.toml")
	w.daemon.write(daemonHead + "[http]\nlisten = \"" + watchHTTP + "\"\n[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n[binding]\nwatch = \"10s\"\n" + clinicRule)
	w.daemon.start()
	w.waitBound()
	if value := w.metric(`tlsonly_bound{check="running"}`); value != "1" {
		t.Errorf("tlsonly_bound of running is %q", value)
	}
	t.Logf("not seen: %q", w.lines("cannot be looked into"))
	began := time.Now()
	replace(t, main, cutAt(bound, "Overrides"))
	within(t, time.Minute, "/readyz to fail", func() bool { status, _ := w.ask("/readyz"); return status == http.StatusServiceUnavailable })
	t.Logf("noticed after %s", time.Since(began).Round(10*time.Millisecond))
	replace(t, main, bound)
	w.reloaded()
	w.waitBound()
	if err := syscall.Kill(masterOf(t, w.wire), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Minute, "the daemon to see that Postfix is down", func() bool { return w.metric(`tlsonly_bound{check="running"}`) == "0" })
	if bad := w.postfix.LogLines("warning: read"); len(bad) > 0 {
		t.Errorf("Postfix complains of being asked: %q", bad)
	}
}
