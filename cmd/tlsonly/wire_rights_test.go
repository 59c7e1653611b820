package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// httpAddress is where the daemon of these tests answers over HTTP.
const httpAddress = "127.0.0.1:8691"

// asked runs a command of the program as root, with the daemon's configuration,
// and returns what it said and its exit status.
func (d *daemonProcess) asked(args ...string) (string, int) {
	d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.CommandContext(patient(d.t), exe)
	cmd.Args = append([]string{"tlsonly"}, append(args, "-c", d.file)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatalf("%q: %v", args, err)
	}
	d.t.Logf("# %s: status %d\n%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out)
	return string(out), cmd.ProcessState.ExitCode()
}

// ready asks /readyz; status 0 is no answer.
func (d *daemonProcess) ready() (status int, said string) {
	d.t.Helper()
	answer, err := http.Get("http://" + httpAddress + "/readyz")
	if err != nil {
		return 0, err.Error() // it isn't there yet
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// Tables that only Postfix's group may read, as sites with passwords in them
// have: what the daemon can't read nobody says is well, root neither.
func TestMTARights(t *testing.T) {
	long(t)
	isolated(t)
	newWorld(t)
	postfixGroup, err := user.LookupGroup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseUint(postfixGroup.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid := uint32(number)
	p, m := startPostfix(t, map[string]string{"local_transport": "local", "mydestination": "local.example"}, nil)
	dir := filepath.Join(p.Dir, "tables")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	aliases := filepath.Join(dir, "aliases")
	for name, text := range map[string]string{
		"aliases": "here@good.example u@good.example\nthere@good.example u@none.example\n",
		"bcc":     "nobody@nowhere.example copy@good.example\n",
	} {
		path := write(dir, name, text)
		if err := errors.Join(os.Chown(path, 0, int(gid)), os.Chmod(path, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		if _, err := p.Run(patient(t), "", args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	run("postconf", "virtual_alias_maps=texthash:"+aliases, "sender_bcc_maps=texthash:"+dir+"/bcc", "alias_maps=")
	run("postfix", "-c", p.Etc, "reload")
	forwarding := "[http]\nlisten = \"" + httpAddress + "\"\n[forwarding]\npostfix = \"" + p.Etc + "\"\n"
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	over(t, "/etc/passwd", string(passwd)+"tlsonly:x:"+strconv.Itoa(daemonID)+":"+strconv.Itoa(daemonID)+"::/nonexistent:/bin/sh\n")
	group, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	members := strings.Replace(string(group), "\npostfix:x:"+postfixGroup.Gid+":", "\npostfix:x:"+postfixGroup.Gid+":tlsonly", 1)
	if members == string(group) {
		t.Fatal("no group postfix without members in /etc/group")
	}
	explain := func(d *daemonProcess) (e explanation, status int) {
		t.Helper()
		text, status := d.asked("explain", "--json", "--from", doctor, "--to", "u@good.example")
		if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &e); err != nil {
			t.Fatal(err)
		}
		return e, status
	}
	rcpt := func(to, want string) {
		t.Helper()
		c := dial(t, m.address)
		c.expect("MAIL FROM:<"+doctor+">", "250")
		c.expect("RCPT TO:<"+to+">", want)
		c.expect("QUIT", "221")
	}

	t.Run("not in the group", func(t *testing.T) {
		d := startDaemonAs(t, daemonHead+forwarding+clinicRule)
		rcpt("u@good.example", "451 4.7.5 where mail for u@good.example is forwarded to can't be read here")
		rcpt("u@good.example", "451 4.7.5 ")
		d.wait("/readyz to fail", func() bool { status, _ := d.ready(); return status == http.StatusServiceUnavailable })
		if _, said := d.ready(); !strings.Contains(said, "virtual_alias_maps") {
			t.Errorf("/readyz: %s", said)
		}
		const complaint = "a table of forwards can't be read"
		if n := strings.Count(d.log(), "level=ERROR msg=\""+complaint); n != 1 {
			t.Errorf("%d complaints at ERROR, want 1", n)
		}
		if out, status := d.asked("doctor", "postfix", "--config-directory", p.Etc); status != exitNo || !strings.Contains(out, "forwards-unreadable") ||
			!strings.Contains(out, "usermod -aG postfix tlsonly") || strings.Contains(out, "forwards-read") {
			t.Errorf("doctor: status %d", status)
		}
		if e, status := explain(d); status != exitUnknown || e.By != "the running daemon, user tlsonly" || e.Local || e.Reason != "unreadable" {
			t.Errorf("explain: status %d, %s by %s", status, e.Reason, e.By)
		}
		if _, status := d.asked("forwards", "--sources"); status != exitUnknown {
			t.Errorf("forwards --sources: status %d", status)
		}
		if out, status := d.asked("forwards", "u@good.example"); status == exitOK && !strings.Contains(out, "ermission denied") {
			t.Errorf("forwards: status %d", status)
		}
		d.stop(syscall.SIGTERM)
		if e, status := explain(d); status != exitUnknown || e.By != "the daemon's user tlsonly" || e.Reason != "unreadable" {
			t.Errorf("explain without the daemon: status %d, %s by %s", status, e.Reason, e.By)
		}
	})
	t.Run("cured while it runs", func(t *testing.T) {
		d := startDaemonAs(t, daemonHead+forwarding+clinicRule)
		d.wait("/readyz to fail", func() bool { status, _ := d.ready(); return status == http.StatusServiceUnavailable })
		for _, name := range []string{"aliases", "bcc"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d.wait("/readyz", func() bool { _, text := d.ready(); return strings.Contains(text, "forwards: ok") })
		d.wait("the log to say so", func() bool { return strings.Contains(d.log(), "can be read again") })
		rcpt("here@good.example", "250")
		for _, name := range []string{"aliases", "bcc"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("in the group", func(t *testing.T) {
		over(t, "/etc/group", members)
		d := startDaemonAs(t, daemonHead+forwarding+clinicRule, gid)
		rcpt("here@good.example", "250")
		rcpt("there@good.example", "550 5.7.10 TLS required: there@good.example does not offer STARTTLS (forwarded)")
		d.wait("/readyz", func() bool { status, _ := d.ready(); return status == http.StatusOK })
		if out, _ := d.asked("doctor", "postfix", "--config-directory", p.Etc); !strings.Contains(out, "forwards-read: the daemon's user tlsonly can read") {
			t.Error("doctor doesn't say that all is read, and by whom")
		}
		if e, status := explain(d); status != exitOK || e.By != "the running daemon, user tlsonly" {
			t.Errorf("explain: status %d by %s", status, e.By)
		}
		d.stop(syscall.SIGTERM)
		if e, status := explain(d); status != exitOK || e.By != "the daemon's user tlsonly" {
			t.Errorf("explain without the daemon: status %d by %s", status, e.By)
		}
		// Of another file the running daemon is not asked.
		d.start()
		d.write(daemonHead + forwarding + strings.Replace(clinicRule, `"encrypt"`, `"dane"`, 1))
		if e, _ := explain(d); e.By != "the daemon's user tlsonly" || e.Level != "dane" {
			t.Errorf("explain of a changed file: level %s by %s", e.Level, e.By)
		}
	})
}
