package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs until it is stopped.
type process struct {
	cmd   *exec.Cmd
	log   string // file that has what it wrote
	ended chan struct{}
}

// start starts a program whose output goes to a file, and waits until address takes connections.
func (b *bench) start(ctx context.Context, cmd *exec.Cmd, address string) (*process, error) {
	name := filepath.Base(cmd.Path) + "-" + strings.ReplaceAll(address, "/", "_") + ".log"
	p := &process{cmd: cmd, log: filepath.Join(b.dir, name), ended: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // told to end, programs have exit statuses of their own taste
		close(p.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := net.Dial(network(address), address)
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.ended:
			return nil, fmt.Errorf("%s ended at once: %s", cmd.Path, p.said())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s takes no connections: %s", cmd.Path, p.said()), p.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func network(address string) string {
	if strings.HasPrefix(address, "/") {
		return "unix"
	}
	return "tcp"
}

// said is the end of what the program wrote.
func (p *process) said() string {
	text, _ := os.ReadFile(p.log) // unreadable: then it said nothing we can tell
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}

func (p *process) stop() error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already: the wait below sees it
	select {
	case <-p.ended:
		return nil
	case <-time.After(20 * time.Second):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("%s ignored SIGTERM", p.cmd.Path)
}

// cpu is the processor time that the program has used so far. The kernel counts it in hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name may have blanks and parentheses; after it come state, and as 12th and 13th utime and stime.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: too short", p.cmd.Process.Pid)
	}
	var sum time.Duration
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum, nil
}

// status is a number of /proc/PID/status, such as VmHWM, in its unit.
func (p *process) status(key string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strconv.ParseFloat(strings.Fields(rest)[0], 64)
		}
	}
	return 0, fmt.Errorf("no %s", key)
}

// daemon starts tlsonly serve with a configuration; its store is beside it.
func (b *bench) daemon(ctx context.Context, name, text, address string) (*process, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "tlsonly.toml")
	text += fmt.Sprintf("\n[store]\nurl = %q\n", "sqlite://"+filepath.Join(dir, "state", "tlsonly.db"))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	return b.start(ctx, exec.Command(b.binary, "serve", "-c", file), address)
}

// configuration is what all parts have in common: where the milter and the map listen ("" for none), more of [milter], and where
// forwards are looked for.
func configuration(milter, more, maps, forwarding string) string {
	return fmt.Sprintf(`[milter]
listen = %q
%s
[socketmap]
listen = %q
[http]
listen = ""
[dns]
resolver = "127.0.0.1:53"
[forwarding]
postfix = %q
[[rule]]
name = "clinic"
from = ["@clinic.example"]
tls = "encrypt"
`, milter, more, maps, forwarding)
}
