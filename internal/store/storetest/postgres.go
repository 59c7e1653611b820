package storetest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// Postgres is a server of the test's own: its cluster is a temporary directory, its only socket lies in there.
type Postgres struct {
	bin, dir string
	account  *syscall.Credential // nil: our own
	name     string
	process  *os.Process
	exited   chan struct{}
	made     atomic.Int64
}

// StartPostgres makes a cluster and starts a server, which ends with the test. Without PostgreSQL's binaries the test
// is skipped, and says so.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Skip("no PostgreSQL: /usr/lib/postgresql/*/bin/initdb doesn't exist (make deps-postgres installs it)")
	}
	dir, err := os.MkdirTemp("", "pg") // not t.TempDir, which only its owner can enter
	if err != nil {
		t.Fatal(err)
	}
	p := &Postgres{bin: filepath.Dir(slices.Max(found)), dir: dir}
	t.Cleanup(func() {
		p.Stop(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p.unprivileged(t)
	p.run(t, "initdb", "-D", filepath.Join(dir, "data"), "-A", "trust", "-U", p.name, "-E", "UTF8", "--locale=C", "--no-sync")
	p.Start(t)
	return p
}

// unprivileged chooses the account: PostgreSQL doesn't run as root.
func (p *Postgres) unprivileged(t testing.TB) {
	t.Helper()
	p.name = "tlsonly"
	if os.Geteuid() != 0 {
		return
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		t.Fatal(err)
	}
	p.account = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(p.dir, uid, gid); err != nil {
		t.Fatal(err)
	}
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, name), args...)
	c.Dir = p.dir
	c.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin", "HOME=" + p.dir}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: p.account}
	return c
}

func (p *Postgres) run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := p.command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// Start starts the server again after Stop and returns when it is ready.
func (p *Postgres) Start(t testing.TB) {
	t.Helper()
	c := p.command("postgres", "-D", filepath.Join(p.dir, "data"), "-k", p.dir, "-p", "5432",
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "logging_collector=off")
	c.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	output, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan error, 1)
	p.exited = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig comes when the thread that started it ends
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		err := c.Start()
		started <- err
		if err != nil {
			return
		}
		var log strings.Builder
		for lines := bufio.NewScanner(output); lines.Scan(); {
			fmt.Fprintln(&log, lines.Text())
			if strings.Contains(lines.Text(), "database system is ready to accept connections") {
				select {
				case ready <- nil:
				default:
				}
			}
		}
		_ = c.Wait()
		select {
		case ready <- errors.New(log.String()):
		default:
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	p.process = c.Process
	if err := <-ready; err != nil {
		t.Fatalf("postgres: %v", err)
	}
}

// Stop ends the server at once, as a crash would.
func (p *Postgres) Stop(t testing.TB) {
	t.Helper()
	if p.process == nil {
		return
	}
	if err := p.process.Signal(syscall.SIGQUIT); err != nil {
		t.Errorf("stop of postgres: %v", err)
	}
	<-p.exited
	p.process = nil
}

// URL makes an empty database and returns its URL.
func (p *Postgres) URL(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", p.made.Add(1))
	p.run(t, "createdb", "-h", p.dir, "-p", "5432", "-U", p.name, name)
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=5432", p.name, name, p.dir)
}
