package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/config"
)

// A passed socket is taken where it listens as the file says, and only under its name.
func TestSocketsListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passed.sock")
	for _, c := range []struct {
		network, address string // of the passed socket
		name             string // asked for
		endpoint         func(passed string) config.Endpoint
		taken            bool
	}{
		{"tcp", "127.0.0.1:0", "milter", func(a string) config.Endpoint { return config.Endpoint{Network: "tcp", Address: a} }, true},
		{"tcp", "127.0.0.1:0", "milter", func(a string) config.Endpoint {
			return config.Endpoint{Network: "tcp", Address: strings.Replace(a, "127.0.0.1", "localhost", 1)}
		}, true},
		{"tcp", "127.0.0.1:0", "milter", func(string) config.Endpoint {
			return config.Endpoint{Network: "tcp", Address: "127.0.0.1:0"}
		}, false},
		{"tcp", "127.0.0.1:0", "milter", func(a string) config.Endpoint {
			return config.Endpoint{Network: "tcp", Address: strings.Replace(a, "127.0.0.1", "127.0.0.2", 1)}
		}, false},
		{"tcp", "127.0.0.1:0", "socketmap", func(a string) config.Endpoint {
			return config.Endpoint{Network: "tcp", Address: strings.Replace(a, "127.0.0.1", "127.0.0.2", 1)}
		}, false},
		{"unix", path, "milter", func(a string) config.Endpoint { return config.Endpoint{Network: "unix", Address: a} }, true},
		{"unix", path, "milter", func(a string) config.Endpoint { return config.Endpoint{Network: "unix", Address: a + "2"} }, false},
	} {
		t.Run("", func(t *testing.T) {
			l, err := net.Listen(c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			s := &sockets{map[string][]net.Listener{"milter": {nil, l}}}
			got, err := s.listen(c.name, c.endpoint(l.Addr().String()))
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			if (got == l) != c.taken {
				t.Errorf("%s passed, %s asked for %s: taken is %v", l.Addr(), c.endpoint(l.Addr().String()), c.name, got == l)
			}
			var log bytes.Buffer
			s.close(slog.New(slog.NewTextHandler(&log, nil)))
			if warned := strings.Contains(log.String(), "address="+l.Addr().String()); warned == c.taken {
				t.Errorf("taken is %v, log: %q", c.taken, log.String())
			}
			if _, err := net.Dial(c.network, l.Addr().String()); (err == nil) != c.taken {
				t.Errorf("taken is %v, and a client hears: %v", c.taken, err)
			}
		})
	}
}

// The daemon serves what is passed as sd_listen_fds(3) says: it couldn't listen there itself, for the test does.
func TestSocketsPassed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tlsonly, file := filepath.Join(dir, "tlsonly"), filepath.Join(dir, "tlsonly.toml")
	if err := os.Symlink(exe, tlsonly); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[milter]\nlisten = \"inet:%s\"\n"+
		"[socketmap]\nlisten = \"\"\n[http]\nlisten = \"\"\n[store]\nurl = \"sqlite://%s/state/tlsonly.db\"\n", l.Addr(), dir)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// The process id is to be that of the daemon, which the shell becomes.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=milter exec "$0" serve -c "$1"`, tlsonly, file)
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewScanner(stderr)
	said, ready := "", false
	for log.Scan() {
		said += log.Text() + "\n"
		if strings.Contains(log.Text(), "msg=ready") {
			ready = true
			_ = cmd.Process.Signal(syscall.SIGTERM) // gone already: Wait says how
		}
	}
	if err := cmd.Wait(); err != nil || !ready || strings.Contains(said, "socket of systemd") {
		t.Errorf("%v, ready %v:\n%s", err, ready, said)
	}
}
