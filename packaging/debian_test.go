package packaging

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

const (
	doctor = "doctor@clinic.example" // protected
	news   = "news@shop.example"     // not
)

// site is what an administrator writes into the file.
const site = `# edited by the administrator
[dns]
resolver = "127.0.0.1"

[[rule]]
name = "clinic"
from = ["@clinic.example"]
tls = "encrypt"
`

// groups prints the groups of the daemon's user.
const groups = "id -nG tlsonly | tr ' ' '\\n' | sort | xargs"

// unixSockets is what is added for sockets in Postfix's chroot.
const unixSockets = `
[milter]
listen = "unix:/var/spool/postfix/tlsonly/milter.sock"
[socketmap]
listen = "unix:/var/spool/postfix/tlsonly/socketmap.sock"
`

// debian is a Debian, what it prints, and the internet around it.
type debian struct {
	*rig.Debian
	t     *testing.T
	world *testnet.World
	sent  int
}

// newDebian makes a Debian that isn't running yet.
func newDebian(t *testing.T) *debian {
	t.Helper()
	if err := rig.Isolated(); err != nil {
		t.Skip(err)
	}
	r, err := rig.NewDebian(t.Context())
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &debian{Debian: r, t: t}
}

// boot starts it, with Postfix at 127.0.0.1:25 and mail hosts good and bad around it.
func (d *debian) boot() {
	d.t.Helper()
	d.sh("postconf -e inet_interfaces=127.0.0.1 inet_protocols=ipv4 myhostname=mta.test smtp_tls_security_level=may " +
		"maillog_file=/var/log/mail.log")
	err := d.Boot(d.t.Context())
	if errors.Is(err, rig.ErrNoSystemd) {
		d.t.Skip(err)
	} else if err != nil {
		d.t.Fatal(err)
	}
	if d.world, err = testnet.StartWorld("127.0.0.1:53", 25, testnet.Sites()); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if d.t.Failed() {
			out, _ := d.Run(context.Background(), "", "sh", "-c",
				"journalctl --no-pager -u 'tlsonly*' -u sandboxed | tail -50; tail -50 /var/log/mail.log")
			d.t.Log(out)
		}
		if err := d.world.Close(); err != nil {
			d.t.Error(err)
		}
	})
	d.wait("Postfix to answer", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:25")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// sh runs a script inside, which must succeed, logs it with all it prints, and returns that.
func (d *debian) sh(script string) string {
	d.t.Helper()
	out, err := d.Run(d.t.Context(), "", "sh", "-c", "exec 2>&1; "+script)
	d.t.Logf("# %s\n%s", script, out)
	if err != nil {
		d.t.Fatalf("%s: %v", script, err)
	}
	return out
}

// has fails unless the output of a script is as wanted.
func (d *debian) has(script, want string) {
	d.t.Helper()
	if got := strings.TrimSpace(d.sh(script)); got != want {
		d.t.Errorf("%s: %q, want %q", script, got, want)
	}
}

// put copies a file of ours into it.
func (d *debian) put(from, to string) {
	d.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write(to, string(text))
}

// write keeps owner and mode of a file that is there.
func (d *debian) write(to, text string) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(d.Root, to)), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Root, to), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *debian) wait(what string, done func() bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			d.t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

// mail hands one message to Postfix and returns the reply that decided, and the message's mark.
func (d *debian) mail(from, to string) (reply, mark string) {
	d.t.Helper()
	d.sent++
	mark = fmt.Sprintf("message-%d.", d.sent)
	c, err := textproto.Dial("tcp", "127.0.0.1:25")
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	for _, step := range []struct {
		want int
		line string
	}{
		{220, ""}, {250, "EHLO client.example"}, {250, "MAIL FROM:<" + from + ">"}, {250, "RCPT TO:<" + to + ">"}, {354, "DATA"},
		{250, "Subject: " + mark + "\r\n\r\n" + mark + "\r\n."},
	} {
		if step.line != "" {
			if err := c.PrintfLine("%s", step.line); err != nil {
				d.t.Fatal(err)
			}
		}
		code, text, err := c.ReadResponse(step.want)
		reply = fmt.Sprintf("%d %s", code, text)
		if err != nil {
			return reply, mark
		}
	}
	return reply, mark
}

// arrived waits for the message and returns what it came over: a version of TLS, or "the clear".
func (d *debian) arrived(domain, mark string) (over string) {
	d.t.Helper()
	d.wait(mark+" to arrive at "+domain, func() bool {
		for _, m := range d.world.Messages(domain) {
			if strings.Contains(string(m.Data), mark) {
				over = "the clear"
				if m.TLS {
					over = tls.VersionName(m.Version)
				}
				return true
			}
		}
		return false
	})
	return over
}

// protected sends mail of the protected sender to a good host and to one without TLS, and sees what becomes of it.
func (d *debian) protected() {
	d.t.Helper()
	reply, mark := d.mail(doctor, "u@good.example")
	if !strings.HasPrefix(reply, "250 ") {
		d.t.Fatalf("%s to good.example: %s", doctor, reply)
	}
	over := d.arrived("good.example", mark)
	d.t.Logf("%s to good.example: %s, arrived over %s", doctor, reply, over)
	if over != "TLS 1.3" {
		d.t.Errorf("%s to good.example came over %s", doctor, over)
	}
	reply, _ = d.mail(doctor, "u@none.example")
	d.t.Logf("%s to none.example: %s", doctor, reply)
	if want := "550 5.7.10 "; !strings.HasPrefix(reply, want) {
		d.t.Errorf("%s to none.example: %s, want %s", doctor, reply, want)
	}
	reply, mark = d.mail(news, "u@none.example")
	if over := d.arrived("none.example", mark); over != "the clear" {
		d.t.Errorf("%s to none.example: %s, came over %s", news, reply, over)
	}
}

// mainPID returns the daemon's process id, as it is inside.
func (d *debian) mainPID() string {
	d.t.Helper()
	return strings.TrimSpace(d.sh("systemctl show -P MainPID tlsonly.service"))
}

// A package's life on a Debian with systemd: installed, configured, restarted, upgraded, removed, installed again, purged.
func TestDebian(t *testing.T) {
	rig.Long(t)
	d := newDebian(t)
	d.put(built(t, "first", "*.deb"), "/root/first.deb")
	d.put(laterConffile(t), "/root/later.deb")
	d.boot()

	// Debian starts what it installs. As it comes it protects nobody, and no MTA asks it.
	d.sh("dpkg -i /root/first.deb")
	d.has("systemctl is-active tlsonly.service tlsonly-milter.socket tlsonly-socketmap.socket | uniq", "active")
	d.has("systemctl is-enabled tlsonly.service tlsonly-milter.socket tlsonly-socketmap.socket | uniq", "enabled")
	d.has("systemctl is-enabled tlsonly-forwards.timer tlsonly-bind.service || true", "disabled\ndisabled")
	d.has("stat -c '%n %U:%G %a' /etc/tlsonly/tlsonly.toml /var/lib/tlsonly /var/lib/tlsonly/tlsonly.db /var/spool/postfix/tlsonly",
		"/etc/tlsonly/tlsonly.toml root:tlsonly 640\n/var/lib/tlsonly tlsonly:tlsonly 750\n"+
			"/var/lib/tlsonly/tlsonly.db tlsonly:tlsonly 640\n/var/spool/postfix/tlsonly tlsonly:postfix 2750")
	d.has("tlsonly version | cut -d' ' -f2", first)
	d.has(groups, "postdrop postfix tlsonly")
	d.has("grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/"+d.mainPID()+"/status",
		"CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2")
	d.has("systemd-analyze --man=no verify /usr/lib/systemd/system/tlsonly*.service /usr/lib/systemd/system/tlsonly*.socket "+
		"/usr/lib/systemd/system/tlsonly*.timer", "")
	d.has("systemd-tmpfiles --create tlsonly.conf; systemd-sysusers --dry-run tlsonly.conf", "")

	// Configured, and Postfix bound to it.
	d.write("/etc/tlsonly/tlsonly.toml", site)
	d.sh("tlsonly lint && systemctl restart tlsonly && tlsonly setup postfix --apply")
	d.sh("postfix check")
	d.sh("tlsonly doctor")
	d.protected()
	d.sandboxedMail()

	// Kept bound: main.cf is put back to what it was before, as a suite does.
	d.sh("systemctl enable --now tlsonly-bind")
	d.sh("cp $(ls /etc/postfix/main.cf.tlsonly-* | head -n 1) /etc/postfix/main.cf && postfix reload")
	d.wait("Postfix to be bound again", func() bool {
		out, err := d.Run(d.t.Context(), "", "tlsonly", "doctor")
		return err == nil && strings.Contains(out, "sender-map")
	})
	d.protected()
	d.sh("systemctl stop tlsonly-bind")

	// systemctl reload: new rules, the same process; a bad file changes nothing.
	pid := d.mainPID()
	d.write("/etc/tlsonly/tlsonly.toml", site+"[[rule]]\nname = \"second\"\nfrom = [\"@second.example\"]\ntls = \"encrypt\"\n")
	d.sh("systemctl reload tlsonly")
	d.journal(`msg=reloaded rules=2`)
	d.write("/etc/tlsonly/tlsonly.toml", site+"nonsense\n")
	if out, err := d.Run(t.Context(), "", "systemctl", "reload", "tlsonly"); err == nil {
		t.Errorf("a reload of a file with faults is taken for done: %s", out)
	}
	d.journal(fmt.Sprintf("tlsonly.toml:%d: ", strings.Count(site, "\n")+1))
	d.write("/etc/tlsonly/tlsonly.toml", site)
	if now := d.mainPID(); now != pid {
		t.Errorf("reload made process %s of %s", now, pid)
	}
	d.has("systemctl is-active tlsonly.service", "active")

	// A restart refuses nobody: systemd holds the sockets.
	d.restart()

	// Upgraded, while mail comes in; the administrator's file is kept, the package's new one lies beside it.
	pid = d.mainPID()
	stop := d.stream()
	d.sh("dpkg -i --force-confold /root/later.deb")
	stop()
	if now := d.mainPID(); now == pid {
		t.Error("the upgrade didn't restart the daemon")
	}
	d.has("tlsonly version | cut -d' ' -f2", later)
	d.has("cat /etc/tlsonly/tlsonly.toml", strings.TrimSpace(site))
	d.has("stat -c '%U:%G %a' /etc/tlsonly/tlsonly.toml; tail -n 1 /etc/tlsonly/tlsonly.toml.dpkg-dist",
		"root:tlsonly 640\n# of a later version")
	d.has("tlsonly domains list --json | grep -c '\"good.example\"'", "1")
	d.protected()

	// Internal mail, to users as adduser makes them, to root and from cron. What
	// alice sends on to a host without TLS waits.
	d.sh("adduser --quiet --disabled-password --comment '' nurse && adduser --quiet --disabled-password --comment '' alice && " +
		"echo u@none.example | install -o alice -m 600 /dev/stdin ~alice/.forward")
	d.has("stat -c %a ~nurse /root", "700\n700")
	d.has("tlsonly doctor | grep -c '^ok *homes-held .*2 local users and root'", "1")
	for _, to := range []string{"nurse", "root"} {
		reply, mark := d.mail(doctor, to+"@mta.test")
		if !strings.HasPrefix(reply, "250 ") {
			t.Errorf("to %s, whose home is closed: %s", to, reply)
		}
		d.inbox(to, mark)
	}
	d.sh("printf 'Subject: Cron job\n\ncron-output.\n' | sendmail -i -f " + doctor + " root")
	d.inbox("root", "cron-output.")
	reply, mark := d.mail(doctor, "alice@mta.test")
	if !strings.HasPrefix(reply, "250 ") {
		t.Errorf("to alice, whose home is closed: %s", reply)
	}
	d.wait("what alice sends on to wait", func() bool {
		return strings.Contains(d.quiet("postqueue -p"), "TLS is required, but was not offered by host mx1.none.example")
	})
	for _, m := range d.world.Messages("none.example") {
		if strings.Contains(string(m.Data), mark) {
			t.Error("what alice sends on has left in the clear")
		}
	}
	d.sh("postsuper -d ALL")
	// The right to read closed homes, for the asking.
	d.put("examples/read-homes.conf", "/etc/systemd/system/tlsonly.service.d/read-homes.conf")
	d.sh("systemctl daemon-reload && systemctl restart tlsonly && rm -r /etc/systemd/system/tlsonly.service.d")
	d.has("grep CapEff: /proc/"+d.mainPID()+"/status", "CapEff:\t0000000000000004")
	if reply, _ := d.mail(doctor, "alice@mta.test"); !strings.HasPrefix(reply, "550 5.7.10 ") {
		t.Errorf("to alice, who forwards to a host without TLS: %s", reply)
	}

	// Unix sockets in Postfix's chroot, opened by systemd, then by the daemon itself.
	d.write("/etc/tlsonly/tlsonly.toml", site+unixSockets)
	for _, name := range []string{"milter", "socketmap"} {
		d.put("examples/unix-"+name+".conf", "/etc/systemd/system/tlsonly-"+name+".socket.d/unix.conf")
	}
	const stopAll = "systemctl stop tlsonly-milter.socket tlsonly-socketmap.socket tlsonly && "
	d.sh("systemctl daemon-reload && " + stopAll + "systemctl start tlsonly")
	d.sh("tlsonly setup postfix --apply && tlsonly doctor")
	sockets := "stat -c '%n %U:%G %a' /var/spool/postfix/tlsonly/*"
	modes := "/var/spool/postfix/tlsonly/milter.sock tlsonly:postfix 660\n" +
		"/var/spool/postfix/tlsonly/socketmap.sock tlsonly:postfix 660"
	d.has(sockets, modes)
	d.protected()
	d.sh(stopAll + "rm -r /etc/systemd/system/tlsonly-*.socket.d /var/spool/postfix/tlsonly/* && " +
		"systemctl daemon-reload && systemctl start tlsonly")
	d.journal(`msg="socket of systemd is not in the configuration file"`)
	d.has(sockets, modes)
	d.protected()

	// Removed, with Postfix still bound: the administrator is told, mail waits, the file stays.
	if out := d.sh("dpkg -r tlsonly"); !strings.Contains(out, "Postfix is still bound") {
		t.Error("the removal doesn't say that Postfix is still bound")
	}
	if reply, _ := d.mail(doctor, "u@good.example"); !strings.HasPrefix(reply, "4") {
		t.Errorf("the daemon is gone, and Postfix says %s", reply)
	}
	d.has("systemctl is-active tlsonly.service tlsonly-milter.socket || true; ls /etc/tlsonly /var/lib/tlsonly",
		"inactive\ninactive\n/etc/tlsonly:\ntlsonly.toml\ntlsonly.toml.dpkg-dist\n\n/var/lib/tlsonly:\ntlsonly.db\ntlsonly.db.lock")

	// Installed again: as before. Unbound and purged: nothing is left but the user.
	d.sh("dpkg -i --force-confold /root/later.deb")
	d.protected()
	d.sh("tlsonly setup postfix --undo --apply")
	if out := d.sh("dpkg -P tlsonly"); strings.Contains(out, "bound") {
		t.Error("the purge says that Postfix is bound")
	}
	d.has("find /etc /var/lib /var/spool/postfix /usr -xdev -path '*tlsonly*' ! -path '/etc/postfix/*.cf.tlsonly-*' "+
		"! -path '/var/spool/postfix/p*/*'", "")
	d.has("getent passwd tlsonly | cut -d: -f1,6,7", "tlsonly:/var/lib/tlsonly:/usr/sbin/nologin")
	reply, mark = d.mail(doctor, "u@none.example")
	if over := d.arrived("none.example", mark); over != "the clear" {
		t.Errorf("after the purge: %s, came over %s", reply, over)
	}
}

// inbox waits for a message in a user's mailbox.
func (d *debian) inbox(user, mark string) {
	d.t.Helper()
	d.wait(mark+" in the mailbox of "+user, func() bool {
		text, err := os.ReadFile(filepath.Join(d.Root, "var/mail", user))
		return err == nil && strings.Contains(string(text), mark)
	})
}

// quiet runs a script inside, without a word in the test's log.
func (d *debian) quiet(script string) string {
	d.t.Helper()
	out, err := d.Run(d.t.Context(), "", "sh", "-c", "exec 2>&1; "+script)
	if err != nil {
		d.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return out
}

// journal waits for a line of the daemon's log.
func (d *debian) journal(text string) {
	d.t.Helper()
	d.wait("the log to say "+text, func() bool {
		out, err := d.Run(d.t.Context(), "", "journalctl", "--no-pager", "-q", "-u", "tlsonly.service")
		return err == nil && strings.Contains(out, text)
	})
}

// sandboxedMail hands in a message by sendmail(1) from a service that is confined as the daemon is, as [notify] mail does, and
// asks one of Postfix's tables, as following forwards does.
func (d *debian) sandboxedMail() {
	d.t.Helper()
	unit, err := os.ReadFile("systemd/tlsonly.service")
	if err != nil {
		d.t.Fatal(err)
	}
	text := string(unit)
	for pattern, with := range map[string]string{
		`ExecStart=.*`: `ExecStart=/bin/sh -c 'printf "Subject: notify-mail.\n\nnotify-mail.\n" | /usr/sbin/sendmail -i -f "<>" -- u@good.example` +
			` && postmap -q postmaster $(postconf -h alias_maps)'`,
		`ExecReload=.*|Sockets=.*|Restart=.*|\[Install\](?s:.*)`: "",
		`Type=notify`: "Type=oneshot",
	} {
		changed := regexp.MustCompile(pattern).ReplaceAllLiteralString(text, with)
		if changed == text {
			d.t.Fatalf("tlsonly.service has no %s", pattern)
		}
		text = changed
	}
	d.write("/etc/systemd/system/sandboxed.service", text)
	d.write("/etc/aliases", "postmaster: root\n")
	d.sh("newaliases && chown root:postfix /etc/aliases.db && chmod 640 /etc/aliases.db")
	d.sh("systemctl daemon-reload && systemctl start sandboxed.service")
	d.arrived("good.example", "notify-mail.")
	if err := os.Remove(filepath.Join(d.Root, "etc/systemd/system/sandboxed.service")); err != nil {
		d.t.Fatal(err)
	}
}

// restart restarts the daemon while clients connect.
func (d *debian) restart() {
	d.t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := d.Run(d.t.Context(), "", "systemctl", "restart", "tlsonly.service")
		done <- err
	}()
	// A socketmap server answers every question; so does one that is being replaced, later.
	for asked := 0; ; asked++ {
		select {
		case err := <-done:
			if err != nil || asked == 0 {
				d.t.Errorf("restart: %v, after %d questions", err, asked)
			}
			d.t.Logf("restarted while %d questions were asked", asked)
			return
		default:
		}
		if err := ask(); err != nil {
			d.t.Fatalf("question %d while the daemon restarts: %v", asked, err)
		}
	}
}

// ask asks the sender map about nobody. A connection that the ending daemon had taken and cut is tried once more, as Postfix
// does; one that is refused isn't.
func ask() error {
	var err error
	for range 2 {
		var c net.Conn
		if c, err = net.Dial("tcp", "127.0.0.1:8690"); err != nil {
			return err
		}
		if err = c.SetDeadline(time.Now().Add(30 * time.Second)); err == nil {
			if _, err = c.Write([]byte("22:sender nobody@example.,")); err == nil {
				_, err = bufio.NewReader(c).ReadString(',')
			}
		}
		c.Close()
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
	}
	return err
}

// stream sends protected mail, one message after the other, until stop, which waits for all that was accepted.
func (d *debian) stream() (stop func()) {
	end, done := make(chan struct{}), make(chan []string)
	go func() {
		var replies []string
		for {
			reply, mark := d.mail(doctor, "u@good.example")
			replies = append(replies, reply+"\n"+mark)
			select {
			case <-end:
				done <- replies
				return
			default:
			}
		}
	}()
	return func() {
		d.t.Helper()
		close(end)
		accepted, deferred := 0, 0
		for _, reply := range <-done {
			reply, mark, _ := strings.Cut(reply, "\n")
			switch {
			case strings.HasPrefix(reply, "250 "):
				accepted++
				if over := d.arrived("good.example", mark); over != "TLS 1.3" {
					d.t.Errorf("during the upgrade %s came over %s", mark, over)
				}
			case strings.HasPrefix(reply, "4"):
				deferred++
			default:
				d.t.Errorf("during the upgrade: %s", reply)
			}
		}
		d.t.Logf("during the upgrade %d messages were accepted and %d deferred", accepted, deferred)
		if accepted == 0 {
			d.t.Error("during the upgrade nothing was accepted")
		}
	}
}

// laterConffile is the later package, with a configuration file that the maintainers have changed.
func laterConffile(t *testing.T) string {
	t.Helper()
	need(t, "dpkg-deb")
	dir := t.TempDir()
	tree, deb := filepath.Join(dir, "tree"), filepath.Join(dir, "later.deb")
	run(t, "dpkg-deb", "-R", built(t, "later", "*.deb"), tree)
	file := filepath.Join(tree, "etc/tlsonly/tlsonly.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, "# of a later version\n"...), 0o640); err != nil {
		t.Fatal(err)
	}
	run(t, "dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, deb)
	return deb
}

// The .rpm, in a root directory that runs no systemd yet: installed, booted, upgraded, erased. Its dependencies have other names
// there.
func TestRPM(t *testing.T) {
	rig.Long(t)
	need(t, "rpm")
	d := newDebian(t)
	rpm := func(args ...string) {
		t.Helper()
		args = append([]string{"--root", d.Root, "--nodeps", "--define", "_dbpath /var/lib/rpm"}, args...)
		out, err := exec.Command("rpm", args...).CombinedOutput()
		t.Logf("# rpm %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			t.Fatal(err)
		}
	}
	rpm("-i", built(t, "first", "*.rpm"))
	d.has("stat -c '%n %U:%G %a' /etc/tlsonly/tlsonly.toml /var/lib/tlsonly /var/spool/postfix/tlsonly",
		"/etc/tlsonly/tlsonly.toml root:tlsonly 640\n/var/lib/tlsonly tlsonly:tlsonly 750\n"+
			"/var/spool/postfix/tlsonly tlsonly:postfix 2750")
	d.write("/etc/tlsonly/tlsonly.toml", site)
	d.has(groups, "postdrop postfix tlsonly")
	d.boot() // the preset of this distribution enables what is installed
	d.has("systemctl is-active tlsonly.service tlsonly-milter.socket tlsonly-socketmap.socket | uniq", "active")
	d.sh("tlsonly setup postfix --apply && tlsonly doctor")
	d.protected()

	rpm("-U", built(t, "later", "*.rpm"))
	d.has("tlsonly version | cut -d' ' -f2", later)
	d.has("cat /etc/tlsonly/tlsonly.toml", strings.TrimSpace(site))
	d.sh("systemctl daemon-reload && systemctl restart tlsonly") // rpm ran outside of this systemd's namespaces
	d.protected()

	d.sh("tlsonly setup postfix --undo --apply && " +
		"systemctl stop tlsonly tlsonly-milter.socket tlsonly-socketmap.socket")
	rpm("-e", "tlsonly")
	d.has("find /etc /var/lib /usr -xdev -path '*tlsonly*' ! -path '/etc/postfix/*.cf.tlsonly-*' | sort",
		"/etc/tlsonly\n/etc/tlsonly/tlsonly.toml.rpmsave\n"+
			"/var/lib/tlsonly\n/var/lib/tlsonly/tlsonly.db\n/var/lib/tlsonly/tlsonly.db.lock")
}
