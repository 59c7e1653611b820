package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"
	"github.com/miekg/dns"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/instance"
	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/rules"
)

// doctorSays wants an exit status, and a finding at a level.
func (w *wire) doctorSays(status int, level, code string) string {
	w.t.Helper()
	out, got := w.program("doctor", "postfix")
	lines := found(out, code)
	if got != status || level != "" && (len(lines) == 0 || !strings.HasPrefix(lines[0], level)) || level == "" && len(lines) > 0 {
		w.t.Errorf("doctor: exit status %d, want %d with %q %s\n%s", got, status, level, code, out)
	}
	if level != "" && len(lines) > 0 {
		w.t.Log(lines[0])
	}
	return out
}

// doctorComesTo is doctorSays where the daemon may remember for a moment what was.
func (w *wire) doctorComesTo(status int, level, code string) {
	w.t.Helper()
	waitFor(w.t, "doctor to say "+code, func() bool {
		out, got := w.program("doctor", "postfix")
		lines := found(out, code)
		return got == status && len(lines) > 0 && strings.HasPrefix(lines[0], level)
	})
	w.doctorSays(status, level, code)
}

// Doctor speaks of the Postfix that runs, not of its files.
func TestMTAHolesDoctorRunning(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	socket := filepath.Join(w.postfix.Dir, "queue", "private", "tlsonly1")
	w.doctorSays(exitOK, "ok", "postfix-running")
	w.doctorSays(exitOK, "ok", "transport-bound")

	t.Run("undone, and applied without a reload", func(t *testing.T) {
		w.t = t
		main := filepath.Join(w.postfix.Etc, "main.cf")
		bound := map[string][]byte{main: nil, filepath.Join(w.postfix.Etc, "master.cf"): nil}
		for path := range bound {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bound[path] = text
		}
		if out, status := w.program("setup", "postfix", "--undo", "--apply", "--no-reload"); status != exitOK {
			t.Fatalf("%s", out)
		}
		backdateFiles(w)
		w.run("postfix", "-c", w.postfix.Etc, "reload")
		waitFor(t, "the socket to be nobody's", func() bool { return refused(socket) })
		w.doctorSays(exitNo, "hole", "sender-map-missing")
		w.setup()
		out := w.doctorSays(exitNo, "hole", "not-reloaded")
		if len(found(out, "transport-unknown")) != 2 {
			t.Errorf("the transports' sockets are nobody's:\n%s", out)
		}
		if _, err := os.Stat(socket); err != nil {
			t.Errorf("the socket's file doesn't outlive the reload: %v", err)
		}
		// Files that are put back with their old times are new, too.
		for path, text := range bound {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
			then := time.Now().Add(-24 * time.Hour)
			if err := os.Chtimes(path, then, then); err != nil {
				t.Fatal(err)
			}
		}
		w.doctorSays(exitNo, "hole", "not-reloaded")
		w.reload()
		w.doctorSays(exitOK, "", "not-reloaded")
		w.doctorSays(exitOK, "", "transport-unknown")
	})

	t.Run("one option", func(t *testing.T) {
		w.t = t
		w.run("postconf", "-P", "smtp/unix/smtp_helo_name=x.example")
		w.doctorSays(exitNo, "hole", "not-reloaded")
		w.setup() // for the transports have it, too
		w.reload()
		w.doctorSays(exitOK, "ok", "postfix-running")
	})

	t.Run("daemon", func(t *testing.T) {
		w.t = t
		w.daemon.stop(syscall.SIGTERM)
		out := w.doctorSays(exitNo, "not running", "daemon-down")
		if len(found(out, "daemon-down")) != 2 || !strings.Contains(out, "tlsonly") {
			t.Errorf("both sockets are gone:\n%s", out)
		}
		w.daemon.start()
		w.doctorSays(exitOK, "", "daemon-down")
	})

	t.Run("daemon that hangs", func(t *testing.T) {
		w.t = t
		if err := w.daemon.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		out := w.doctorSays(exitNo, "not running", "daemon-down")
		if len(found(out, "daemon-down")) != 2 || !strings.Contains(out, "takes connections, but says nothing") {
			t.Errorf("both sockets hang:\n%s", out)
		}
		if err := w.daemon.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		w.doctorSays(exitOK, "", "daemon-down")
	})

	t.Run("another program's port", func(t *testing.T) {
		w.t = t
		w.daemon.write("[socketmap]\nlisten = \"inet:" + w.address + "\"\n" + daemonHead + clinicRule)
		if out := w.doctorSays(exitNo, "broken", "daemon-stranger"); !strings.Contains(out, "another program answers, in another protocol") {
			t.Errorf("Postfix's own port for the maps:\n%s", out)
		}
		w.daemon.write(daemonHead + clinicRule)
		w.doctorSays(exitOK, "", "daemon-stranger")
	})

	t.Run("another milter", func(t *testing.T) {
		w.t = t
		w.daemon.stop(syscall.SIGTERM)
		l, err := net.Listen("tcp", milterAddress)
		if err != nil {
			t.Fatal(err)
		}
		other := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return gomilter.NoOpMilter{} }))
		served := make(chan error, 1)
		go func() { served <- other.Serve(l) }()
		out := w.doctorSays(exitNo, "hole", "daemon-stranger")
		if len(found(out, "daemon-answers")) != 0 || len(found(out, "daemon-down")) != 1 {
			t.Errorf("another program's milter, and nobody at the maps:\n%s", out)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		<-served
		w.daemon.start()
		w.doctorSays(exitOK, "", "daemon-stranger")
	})

	t.Run("another tlsonly", func(t *testing.T) {
		w.t = t
		w.daemon.stop(syscall.SIGTERM)
		other := startDaemon(t, daemonHead+clinicRule) // with the same rules, and a store of its own
		out := w.doctorSays(exitNo, "hole", "daemon-other")
		if len(found(out, "daemon-other")) != 2 || len(found(out, "daemon-answers")) != 0 {
			t.Errorf("another daemon at both addresses:\n%s", out)
		}
		other.stop(syscall.SIGTERM)
		w.daemon.start()
		w.doctorSays(exitOK, "", "daemon-other")
	})

	t.Run("two processes", func(t *testing.T) {
		w.t = t
		w.daemon.write("[socketmap]\nlisten = \"inet:127.0.0.1:8699\"\n" + daemonHead + clinicRule)
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.start()
		old := instance.New("old", w.daemon.url)
		set, err := config.Parse(w.daemon.file, []byte(clinicRule), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s, err := socketmap.New(socketmap.Config{
			Rules: func() *rules.Delivery { return rules.Alone(set.Rules) }, Ledger: nothingKnown{}, Identity: old,
		})
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:8690")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		w.daemon.write(daemonHead + clinicRule)
		if out := w.doctorSays(exitNo, "hole", "daemon-two"); len(found(out, "daemon-answers")) != 2 {
			t.Errorf("the maps of a process that is left over:\n%s", out)
		}
		if err := errors.Join(s.Shutdown(patient(t)), <-served); err != nil {
			t.Error(err)
		}
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.start()
		w.doctorSays(exitOK, "", "daemon-two")
	})

	t.Run("daemon without the maps", func(t *testing.T) {
		w.t = t
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.write("[socketmap]\nlisten = \"inet:127.0.0.1:8899\"\n" + daemonHead + clinicRule)
		w.daemon.start()
		w.daemon.write(daemonHead + clinicRule)
		if out := w.doctorSays(exitNo, "not running", "daemon-down"); len(found(out, "daemon-down")) != 1 {
			t.Errorf("one socket is gone:\n%s", out)
		}
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.start()
		w.doctorSays(exitOK, "", "daemon-down")
	})

	t.Run("not root", func(t *testing.T) {
		w.t = t
		cmd := exec.CommandContext(patient(t), "/proc/self/exe")
		cmd.Args = []string{"tlsonly", "doctor", "postfix", "-c", filepath.Join(w.dir, "tlsonly.toml")}
		w.postfix.Within(cmd)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput() // its status is looked at
		if cmd.ProcessState.ExitCode() != exitOK || len(found(string(out), "not-looked-at")) == 0 || len(found(string(out), "postfix-running")) > 0 {
			t.Errorf("exit status %d\n%s", cmd.ProcessState.ExitCode(), out)
		}
	})

	t.Run("postfix", func(t *testing.T) {
		w.t = t
		pid := masterOf(t, w)
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the master to end", func() bool { out, _ := w.program("doctor", "postfix"); return len(found(out, "postfix-down")) > 0 })
		w.doctorSays(exitNo, "not running", "postfix-down")
		out, status := w.program("doctor", "postfix", "--nagios")
		if status != 2 || !strings.HasPrefix(out, "TLSONLY CRITICAL - 0 holes, 0 broken, 1 not running, ") || strings.Count(out, "\n") != 1 {
			t.Errorf("exit status %d: %s", status, out)
		}
	})
}

type nothingKnown struct{}

func (nothingKnown) Pinned(addr.Destination) bool                    { return false }
func (nothingKnown) Demanded(addr.Destination) (policy.Demand, bool) { return policy.Demand{}, false }

func backdateFiles(w *wire) {
	then := time.Now().Add(-time.Minute) // Postfix waits for newer ones to settle
	for _, name := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(w.postfix.Etc, name), then, then); err != nil {
			w.t.Fatal(err)
		}
	}
}

func refused(socket string) bool {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	return syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}) == syscall.ECONNREFUSED
}

func masterOf(t *testing.T, w *wire) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.postfix.Dir, "queue", "pid", "master.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		t.Fatalf("master.pid: %q", text)
	}
	return pid
}

// Doctor leaves no trace: not in the store, not in the DNS.
func TestMTAHolesDoctorStore(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	wellResolved(w.world.DNS)
	w.message(doctor, []string{"u@good.example"}, nil)
	waitMessages(t, w.world, "good.example", 1)
	w.settle()
	w.doctorSays(exitOK, "ok", "forced-answers")
	// What was learned is written before the daemon ends.
	w.daemon.stop(syscall.SIGTERM)
	before := w.stored()
	w.daemon.start()
	if !bytes.Contains(before, []byte("good.example")) {
		t.Fatalf("the store has nothing to compare: %s", before)
	}
	w.doctorSays(exitOK, "ok", "forced-answers")
	w.daemon.stop(syscall.SIGTERM)
	if after := w.stored(); !bytes.Equal(after, before) || bytes.Contains(after, []byte("invalid")) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	for _, kind := range []uint16{dns.TypeMX, dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
		if n := w.world.DNS.Queries("tlsonly-doctor.invalid", kind) + w.world.DNS.Queries("_mta-sts.tlsonly-doctor.invalid", kind); n > 0 {
			t.Errorf("%d queries of type %d", n, kind)
		}
	}
	if n := w.world.DNS.Queries("good.example", dns.TypeMX); n == 0 {
		t.Error("queries aren't counted")
	}
	// What doctor finds proved is an answer that an unprotected class wouldn't
	// get.
	w.daemon.start()
	for question, want := range map[string]string{"forced1": "encrypt", "forced": "encrypt"} {
		for _, hop := range []string{"tlsonly-doctor.invalid", "[tlsonly-doctor.invalid]:587", "u.x.invalid"} {
			out, err := w.postfix.Run(patient(t), "", "postmap", "-q", hop, "socketmap:inet:127.0.0.1:8690:"+question)
			if err != nil || !strings.HasPrefix(out, want) {
				t.Errorf("%s %s: %q, %v", question, hop, out, err)
			}
		}
	}
}

// stored returns all that the daemon knows of destinations and has noted of
// them.
func (w *wire) stored() []byte {
	w.t.Helper()
	var all []byte
	for _, args := range [][]string{{"domains", "list", "--json"}, {"domains", "history", "good.example", "--json"}} {
		all = append(all, w.daemon.command(args...)...)
	}
	return all
}

// A site accepts what it has judged; monitors get one line.
func TestMTADoctorAccept(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"masquerade_domains": "clinic.example"}
	}}, true)
	wellResolved(w.world.DNS)
	doctorAs := func(accept string, args ...string) (string, int) {
		w.daemon.write(daemonHead + "[forwarding]\nlocal = [\"local.example\", \"box.example\"]\n[doctor]\naccept = [" + accept + "]\n" + clinicRule)
		return w.program(append([]string{"doctor", "postfix"}, args...)...)
	}
	const judged = `"sender-rewritten:main.cf:masquerade_domains hosts below send no mail"`
	if out, status := doctorAs(""); status != exitNo || !strings.Contains(out, "1 hole\n") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	for _, accept := range []string{judged, `"sender-rewritten hosts below send no mail"`} {
		out, status := doctorAs(accept)
		if status != exitOK || len(found(out, "sender-rewritten")) != 1 || !strings.HasPrefix(found(out, "sender-rewritten")[0], "accepted") ||
			!strings.Contains(out, "accepted: hosts below send no mail\n") || !strings.Contains(out, "0 warnings, 0 holes, 1 accepted\n") {
			t.Errorf("%s: exit status %d\n%s", accept, status, out)
		}
	}
	out, status := doctorAs(`"sender-rewritten:main.cf:canonical_maps elsewhere"`)
	if status != exitNo || len(found(out, "accept-unused")) != 1 || !strings.Contains(out, "1 hole\n") {
		t.Errorf("another place: exit status %d\n%s", status, out)
	}
	for _, c := range []struct {
		accept string
		status int
		line   string
	}{
		{judged, 0, "TLSONLY OK - 0 holes, 0 broken, 0 not running, 0 warnings | holes=0;;0;0 broken=0;;0;0 down=0;;0;0 warnings=0;0;;0 accepted=1;;;0 ok="},
		{judged + `, "homes-closed none"`, 1, "TLSONLY WARNING - 0 holes, 0 broken, 0 not running, 1 warning: accept-unused homes-closed: "},
		{"", 2, "TLSONLY CRITICAL - 1 hole, 0 broken, 0 not running, 0 warnings: sender-rewritten main.cf:masquerade_domains: "},
	} {
		if out, status := doctorAs(c.accept, "--nagios"); status != c.status || !strings.HasPrefix(out, c.line) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: exit status %d, want %d, %q\n%s", c.accept, status, c.status, c.line, out)
		}
	}
	out, status = doctorAs(`"no-such-code x"`, "--nagios")
	if status != 3 || !strings.Contains(out, "TLSONLY UNKNOWN - ") || !strings.Contains(out, `"no-such-code" is no code of a finding`) {
		t.Errorf("a fault in the file: exit status %d\n%s", status, out)
	}
	out, status = doctorAs(judged, "--json")
	var answer struct{ Findings []mta.Finding }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || status != exitOK || len(answer.Findings) == 0 {
		t.Fatalf("exit status %d, %v\n%s", status, err, out)
	}
	for _, f := range answer.Findings {
		if f.Code == "" || f.Check == "" || strings.Contains(f.Where, " ") || (f.Severity == mta.Accepted) != (f.Reason != "") {
			t.Errorf("%+v", f)
		}
	}
}
