// Package rig runs real MTAs for tests and the demonstration: a Postfix or a Sendmail on a configuration, queue and log of its
// own, in network, mount and process namespaces of their own, so that ports 25 and 53 are free, DNS is what the test says,
// and nothing outlives the program: not a process, not a mount, not a file.
//
// Isolate re-executes the program inside the namespaces; StartPostfix and StartSendmail start an MTA there, StartUnbound
// a resolver that validates DNSSEC; Tap records what an MTA and a milter say to each other as a Session, a text with one
// packet a line; Play says the MTA's half of a session to a milter again.
//
// It doesn't decide what is right: it configures an MTA as told and reports what it did. It never reads or changes
// /etc/postfix or /etc/mail, nor touches a running MTA; it ends only processes it started, by their process id.
//
// What is known of Postfix holds for 3.7 and later (Debian's package, installed; 3.10 in a root directory of its own, made by
// FetchPostfix310), of Sendmail for 8.17 (Debian's package, unpacked into a cache by FetchSendmail, since it can't be
// installed beside Postfix), of Unbound for 1.17 (likewise, by FetchUnbound).
//
// The caller must be root and call Isolate first thing in main or TestMain. SECURITY: the MTAs relay for 127.0.0.0/8 and
// the login server compares passwords in plain text: for tests only.
package rig

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience is how long an MTA may take to start or to stop before that counts as a failure; a loaded machine is slow.
const patience = 30 * time.Second

// TempDir makes a new directory that both MTAs accept: searchable by their users, and inside the namespaces not below
// a world-writable directory, where Sendmail refuses sockets, maps and keys. Inside the namespaces it ends with them;
// elsewhere the caller removes it.
func TempDir() (string, error) {
	dir, err := os.MkdirTemp(stage(), "rig-") // outside, stage is "" and this is os.TempDir
	if err != nil {
		return "", err
	}
	// Postfix's daemons run as its own user and open files below it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return dir, nil
}

// FreePort returns a TCP address of 127.0.0.1 whose port was free a moment ago. Inside the namespaces nobody else takes it.
func FreePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// journal reads an MTA's log.
type journal struct{ read func() string }

// Log returns all the MTA has logged.
func (j journal) Log() string { return j.read() }

// LogLines returns the log's lines that contain substring, oldest first.
func (j journal) LogLines(substring string) []string {
	var found []string
	for line := range strings.Lines(j.read()) {
		if strings.Contains(line, substring) {
			found = append(found, strings.TrimRight(line, "\n"))
		}
	}
	return found
}

// WaitLog waits until a complete line of the log contains substring and returns the first such line. When ctx ends first the
// error carries the end of the log.
func (j journal) WaitLog(ctx context.Context, substring string) (string, error) {
	var line string
	err := poll(ctx, func() bool {
		log := j.read()
		for l := range strings.Lines(log) {
			if strings.HasSuffix(l, "\n") && strings.Contains(l, substring) {
				line = strings.TrimSuffix(l, "\n")
				return true
			}
		}
		return false
	})
	if err != nil {
		return "", fmt.Errorf("wait for %q in the log: %w; its end:\n%s", substring, err, tail(j.read()))
	}
	return line, nil
}

// tail returns the last lines of a log, enough to see why something failed.
func tail(log string) string {
	const most = 3000
	if len(log) > most {
		log = log[len(log)-most:]
		_, log, _ = strings.Cut(log, "\n")
	}
	return log
}

// poll asks done again and again, for files and processes that tell nobody when they change.
func poll(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// process is a daemon in the foreground of its own process group.
type process struct {
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the daemon has been waited for
	output string        // file that has what it wrote to its standard streams
}

// start starts cmd as the leader of a new process group, so that what it forks can be ended with it. Its output goes to a
// file: a pipe would be held open by its children.
func start(cmd *exec.Cmd, output string) (*process, error) {
	f, err := os.Create(output)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{cmd: cmd, ended: make(chan struct{}), output: output}
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // an MTA told to end has exit statuses of its own taste
	}()
	return p, nil
}

// waitPort waits until something listens at the address, or the process ends first. It doesn't connect: that would be a
// client to the MTA, and a session to its milter.
func (p *process) waitPort(ctx context.Context, address string) error {
	want, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if !want.Addr().Is4() {
		return errors.New("address " + address + ": want IPv4")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dead := false
	err = poll(ctx, func() bool {
		select {
		case <-p.ended:
			dead = true
			return true
		default:
		}
		return listening(want)
	})
	if dead {
		said, _ := os.ReadFile(p.output) // unreadable: then it said nothing we can tell
		return fmt.Errorf("ended at once: %s", bytes.TrimSpace(said))
	}
	return err
}

// listening says whether a TCP socket listens at an IPv4 address; see proc_net_tcp.txt of the kernel's documentation.
func listening(at netip.AddrPort) bool {
	const stateListen = "0A"
	table, _ := os.ReadFile("/proc/net/tcp") // unreadable: then nothing does, until patience ends
	ip := at.Addr().As4()
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), at.Port())
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == local && f[3] == stateListen {
			return true
		}
	}
	return false
}

// stop asks the process to end and waits for it and for its process group to be gone; what's left after a while is killed.
func (p *process) stop() error {
	pid := p.cmd.Process.Pid
	select {
	case <-p.ended:
	default:
		_ = syscall.Kill(pid, syscall.SIGTERM) // gone already: the wait below sees it
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
	}
	// A process id isn't given away again while a group of that number has a member.
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	if poll(ctx, func() bool { return syscall.Kill(-pid, 0) == syscall.ESRCH }) == nil {
		return nil
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	<-p.ended
	return fmt.Errorf("process %d had to be killed: it ignored SIGTERM for %v", pid, patience)
}

// run runs a command to its end; the error carries what it printed.
func run(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s%s", filepath.Base(cmd.Path), err, bytes.TrimSpace(stderr.Bytes()), bytes.TrimSpace(out))
	}
	return out, nil
}
