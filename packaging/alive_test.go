package packaging

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/testnet/rig"
)

// secondRule makes a second class of senders, with a transport of its own.
const secondRule = `
[[rule]]
name = "lawyer"
from = ["@lawyer.example"]
tls = "encrypt"
on_unknown = "accept"
pin = false
`

const lawyer = "doctor@lawyer.example"

// banner returns how long Postfix takes to greet; an error when it doesn't
// within some seconds.
func banner(limit time.Duration) (time.Duration, error) {
	start := time.Now()
	c, err := net.DialTimeout("tcp", "127.0.0.1:25", limit)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(start.Add(limit)); err != nil {
		return 0, err
	}
	_, err = bufio.NewReader(c).ReadString('\n')
	return time.Since(start), err
}

// hangs has a process of a transport wait for a host that says nothing.
func (d *debian) hangs(from, transport string) {
	d.t.Helper()
	reply, _ := d.mail(from, "u@silent.example")
	if !strings.HasPrefix(reply, "250 ") {
		d.t.Fatalf("%s to silent.example: %s", from, reply)
	}
	d.wait("a process of "+transport+" that delivers to silent.example", func() bool {
		queue, err := d.Run(d.t.Context(), "", "postqueue", "-p")
		return err == nil && regexp.MustCompile(`(?m)^[0-9A-F]+\* .* `+from+`$`).MatchString(queue) && runs(transport)
	})
}

// runs reports whether there is a process of a transport.
func runs(transport string) bool {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(text), "smtp\x00-n\x00"+transport+"\x00") {
			return true
		}
	}
	return false
}

// ports wants these of the daemon's ports, former ones and those of now, to be
// listened at, and no other.
func (d *debian) ports(want ...string) {
	d.t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		d.t.Fatal(err)
	}
	var found []string
	for _, port := range []int{8689, 8690, 8691, 8891, 8892, 8893} {
		if strings.Contains(string(text), fmt.Sprintf(" 0100007F:%04X 00000000:0000 0A ", port)) {
			found = append(found, strconv.Itoa(port))
		}
	}
	if !slices.Equal(found, want) {
		d.t.Errorf("somebody listens at %q, want %q", found, want)
	}
}

// answersAfter runs a command and wants Postfix's greeting soon after it.
func (d *debian) answersAfter(script string) string {
	d.t.Helper()
	out := d.sh(script)
	took, err := banner(5 * time.Second)
	if err != nil {
		d.t.Fatalf("after %s: no greeting: %v", script, err)
	}
	d.t.Logf("after %s: greeted in %v", script, took)
	return out
}

// Nothing that setup, its undo or the removal of the package does stops Postfix
// from answering, while a process of ours waits for a host that says nothing;
// and a bare reload does, as Debian's unit is.
func TestDebianReload(t *testing.T) {
	rig.Long(t)
	d := newDebian(t)
	d.put(built(t, "first", "*.deb"), "/root/first.deb")
	d.boot()
	d.has("systemctl show -P CapabilityBoundingSet postfix.service | grep -c cap_kill || true", "0")
	d.sh("dpkg -i /root/first.deb")
	quick := site + secondRule + "[probe]\ntimeout = \"3s\"\n"
	bind := func() {
		t.Helper()
		d.write("/etc/tlsonly/tlsonly.toml", quick)
		out := d.sh("tlsonly lint && systemctl restart tlsonly && tlsonly setup postfix --apply && tlsonly doctor")
		if !strings.Contains(out, "Postfix was reloaded\n") && !strings.Contains(out, "nothing to change\n") {
			t.Errorf("setup doesn't say that it reloads:\n%s", out)
		}
		d.has("postconf -M | grep -c '^tlsonly'", "3")
	}
	bind()

	// A rule goes, and its transport stays.
	d.hangs(lawyer, "tlsonly2")
	d.write("/etc/tlsonly/tlsonly.toml", site)
	d.sh("systemctl reload tlsonly")
	d.journal("msg=reloaded rules=1")
	d.sh("tlsonly classes release --force") // else former rules keep the class for days
	out := d.answersAfter("tlsonly setup postfix --apply")
	if !strings.Contains(out, "1 of our transports not needed") || !strings.Contains(out, "Postfix was reloaded") {
		t.Errorf("with a rule less:\n%s", out)
	}
	d.has("postconf -M | grep -c '^tlsonly'", "3")
	d.protected()

	// Undone: transports leave, so Postfix is restarted.
	bind()
	d.hangs(lawyer, "tlsonly2")
	out = d.answersAfter("tlsonly setup postfix --undo --apply")
	if !strings.Contains(out, "Postfix was restarted: these services have left master.cf: tlsonly tlsonly1 tlsonly2") {
		t.Errorf("undone:\n%s", out)
	}
	d.has("postconf -M | grep -c '^tlsonly' || true", "0")

	// The package is removed while Postfix is bound: mail waits, and Postfix answers.
	bind()
	d.hangs(lawyer, "tlsonly2")
	out = d.answersAfter("dpkg -r tlsonly")
	if !strings.Contains(out, "tlsonly setup postfix --undo --apply") || strings.Contains(out, "reload") {
		t.Errorf("removed:\n%s", out)
	}
	if reply, _ := d.mail(doctor, "u@good.example"); !strings.HasPrefix(reply, "4") {
		t.Errorf("the daemon is gone, and Postfix says %s", reply)
	}
	d.sh("dpkg -i /root/first.deb")
	bind()

	// The counter-run: what everybody would do by hand.
	d.hangs(lawyer, "tlsonly2")
	d.sh("tlsonly setup postfix --undo --apply --no-reload && postfix reload")
	d.wait("Postfix to stop answering", func() bool { _, err := banner(time.Second); return err != nil })
	if took, err := banner(10 * time.Second); err == nil {
		t.Errorf("after a bare reload Postfix greets in %v: nothing is shown here", took)
	}
	if out, err := d.Run(t.Context(), "", "tlsonly", "doctor"); err == nil || !regexp.MustCompile(
		`not running +postfix-silent .*\n +-> systemctl restart postfix`).MatchString(out) {
		t.Errorf("doctor of a Postfix that hangs: %v\n%s", err, out)
	}
	if out := d.answersAfter("tlsonly setup postfix --undo --apply"); !strings.Contains(out, "Postfix was restarted") {
		t.Errorf("setup of a Postfix that hangs:\n%s", out)
	}
}

// former is the package as it was when the default ports were others: its
// program, its units and its file.
func former(t *testing.T) string {
	t.Helper()
	need(t, "dpkg-deb")
	dir := t.TempDir()
	tree, deb := filepath.Join(dir, "tree"), filepath.Join(dir, "former.deb")
	run(t, "dpkg-deb", "-R", built(t, "first", "*.deb"), tree)
	run(t, "cp", filepath.Join(os.Getenv(builtVar), "former"), filepath.Join(tree, "usr/sbin/tlsonly"))
	for _, name := range []string{
		"etc/tlsonly/tlsonly.toml", "usr/lib/systemd/system/tlsonly-milter.socket", "usr/lib/systemd/system/tlsonly-socketmap.socket",
	} {
		path := filepath.Join(tree, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := formerPorts(string(text))
		if changed == string(text) {
			t.Fatalf("%s names no port", name)
		}
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	control := filepath.Join(tree, "DEBIAN/control")
	run(t, "sed", "-i", "s/^Version: .*/Version: 0.9.0-1/", control)
	for _, name := range []string{"DEBIAN/preinst", "usr/share/tlsonly/keep-ports"} {
		if err := os.Remove(filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, deb)
	return deb
}

// An installation that ran at the former default ports goes on there after the
// upgrade, with mail flowing, also after a boot's start of its sockets; one that
// nobody asks moves; and what a file says stays.
func TestDebianPorts(t *testing.T) {
	rig.Long(t)
	d := newDebian(t)
	d.put(former(t), "/root/former.deb")
	d.put(built(t, "first", "*.deb"), "/root/first.deb")
	d.boot()
	d.sh("dpkg -i /root/former.deb")
	d.ports("8891", "8892", "8893")
	// Nobody asks it: it moves, with its sockets.
	d.sh("dpkg -i --force-confold /root/first.deb")
	d.ports("8689", "8690", "8691")
	d.has("grep -c 8891 /etc/tlsonly/tlsonly.toml || true; ls /etc/systemd/system | grep socket.d || true; ls /var/lib/tlsonly | grep former || true", "0")
	d.sh("dpkg -P tlsonly && dpkg -i /root/former.deb")

	// Postfix is bound to it.
	d.write("/etc/tlsonly/tlsonly.toml", site)
	d.sh("systemctl restart tlsonly && tlsonly setup postfix --apply && tlsonly doctor")
	d.has("postconf -h sender_dependent_default_transport_maps | grep -c 127.0.0.1:8892: || true", "1")
	d.protected()
	stop := d.stream()
	out := d.sh("dpkg -i --force-confold /root/first.deb")
	stop()
	if !strings.Contains(out, "the MTA is bound to the former ones, so /etc/tlsonly/tlsonly.toml names these") {
		t.Errorf("the upgrade doesn't say what it does:\n%s", out)
	}
	d.has("tlsonly version | cut -d' ' -f2", first)
	d.has("stat -c '%U:%G %a' /etc/tlsonly/tlsonly.toml", "root:tlsonly 640")
	kept := func() {
		t.Helper()
		d.ports("8891", "8892", "8893")
		d.sh("tlsonly doctor")
		d.has("journalctl -q --no-pager -u tlsonly --since -20s | grep -c \"socket of systemd is not\" || true", "0")
		d.protected()
		d.has("tlsonly setup postfix --apply | grep -c 'nothing to change'", "1")
	}
	kept()
	// As after a boot.
	d.sh("systemctl stop tlsonly tlsonly-milter.socket tlsonly-socketmap.socket && systemctl start tlsonly")
	kept()
	// Once more: what is named stays named, once.
	d.sh("dpkg -i --force-confold /root/first.deb && grep -c '^listen' /etc/tlsonly/tlsonly.toml")
	kept()
	d.sh("tlsonly setup postfix --undo --apply && dpkg -P tlsonly")
	d.has("ls /etc/systemd/system | grep tlsonly || true", "")
}

// A milter of somebody else at the former port is left alone: by the package,
// and by setup, which keeps it in its place.
func TestDebianNeighbour(t *testing.T) {
	rig.Long(t)
	d := newDebian(t)
	d.put(built(t, "first", "*.deb"), "/root/first.deb")
	d.boot()
	asked := neighbour(t, "127.0.0.1:8891")
	d.sh("postconf -e smtpd_milters=inet:127.0.0.1:8891 non_smtpd_milters=inet:127.0.0.1:8891 milter_default_action=accept && postfix reload")
	before := asked()
	d.mail(news, "u@good.example")
	if asked() == before {
		t.Fatal("Postfix doesn't ask the other milter")
	}
	d.sh("dpkg -i /root/first.deb")
	d.has("systemctl is-active tlsonly.service", "active")
	d.write("/etc/tlsonly/tlsonly.toml", site)
	d.sh("systemctl restart tlsonly && tlsonly setup postfix --apply")
	d.has("postconf -xh smtpd_milters | grep -oE 'inet:127.0.0.1:[0-9]+' | tr '\\n' ' '", "inet:127.0.0.1:8689 inet:127.0.0.1:8891")
	before = asked()
	d.protected()
	if asked() == before {
		t.Error("Postfix doesn't ask the other milter any more")
	}
	// Told to use that port itself, nothing is bound to the other program.
	d.write("/etc/tlsonly/tlsonly.toml", "[milter]\nlisten = \"inet:127.0.0.1:8891\"\n"+site)
	master := d.sh("cat /etc/postfix/main.cf")
	out, err := d.Run(t.Context(), "", "sh", "-c", "tlsonly setup postfix --apply 2>&1; echo status $?")
	if err != nil || !strings.Contains(out, "inet:127.0.0.1:8891 is another program's") || !strings.HasSuffix(out, "status 1\n") {
		t.Errorf("setup onto the other milter: %v\n%s", err, out)
	}
	if now := d.sh("cat /etc/postfix/main.cf"); now != master {
		t.Errorf("setup changed main.cf all the same:\n%s", now)
	}
	d.write("/etc/tlsonly/tlsonly.toml", site)
	d.sh("tlsonly setup postfix --undo --apply")
	d.has("postconf -h smtpd_milters non_smtpd_milters", "inet:127.0.0.1:8891\ninet:127.0.0.1:8891")
}

// neighbour is a milter of another kind; asked counts its sessions.
func neighbour(t *testing.T, address string) (asked func() int64) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var sessions atomic.Int64
	m := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter {
		sessions.Add(1)
		return gomilter.NoOpMilter{}
	}))
	served := make(chan error, 1)
	go func() { served <- m.Serve(l) }()
	t.Cleanup(func() { m.Close(); <-served })
	return sessions.Load
}

// formerPorts puts the former default ports for those of now.
func formerPorts(text string) string {
	return strings.NewReplacer("8689", "8891", "8690", "8892", "8691", "8893").Replace(text)
}

// buildFormer makes the program as it was when its default ports were others.
func buildFormer(dir string) *exec.Cmd {
	const source = "../internal/config/config.go"
	text, err := os.ReadFile(source)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.go"), []byte(formerPorts(string(text))), 0o644)
	}
	path, err2 := filepath.Abs(source)
	if err == nil && err2 == nil {
		overlay := `{"Replace": {"` + path + `": "` + filepath.Join(dir, "config.go") + `"}}`
		err = os.WriteFile(filepath.Join(dir, "overlay.json"), []byte(overlay), 0o644)
	}
	if err != nil || err2 != nil {
		return exec.Command("false")
	}
	return exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-ldflags", "-X main.version=0.9.0",
		"-o", filepath.Join(dir, "former"), "../cmd/tlsonly")
}
