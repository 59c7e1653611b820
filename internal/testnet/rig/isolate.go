package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVar says which of the three lives of the program this is: unset outside, keeper in the first process of the
// namespaces, else the directory that is the namespaces' own.
const (
	stageVar = "TLSONLY_RIG"
	keeper   = "keeper"
)

// hostName is the machine's name inside the namespaces; it resolves to 127.0.0.1.
const hostName = "rig.test"

// ErrNotIsolated is in every error that means the namespaces aren't there: the one reason for which a test may skip.
var ErrNotIsolated = errors.New("not in namespaces of our own")

// An IsolationError says why the namespaces can't be had. It is an ErrNotIsolated.
type IsolationError struct {
	Step string // what was tried
	Err  error
}

func (e *IsolationError) Error() string { return "isolate: " + e.Step + ": " + e.Err.Error() }

// Unwrap returns the cause and ErrNotIsolated.
func (e *IsolationError) Unwrap() []error { return []error{e.Err, ErrNotIsolated} }

// stage returns the namespaces' own directory, "" outside.
func stage() string {
	if s := os.Getenv(stageVar); s != keeper {
		return s
	}
	return ""
}

// Isolated returns nil inside the namespaces and an IsolationError elsewhere.
func Isolated() error {
	switch {
	case stage() != "":
		return nil
	case os.Geteuid() != 0:
		return &IsolationError{"namespaces", errors.New("only root can make them")}
	}
	return &IsolationError{"namespaces", errors.New("the program didn't call Isolate, or it failed")}
}

// Isolate runs the program again, with the same arguments, streams and directory, in network, mount, process and host
// name namespaces of its own. There it returns inside = true and the program goes on. Outside it returns when the inner
// run is over, with its exit status, with which the program must exit at once:
//
//	inside, code, err := rig.Isolate()
//	if err == nil && !inside {
//		os.Exit(code)
//	}
//
// A program that was told by an IsolationError that it can't be isolated may go on without.
//
// Inside, 127.0.0.0/8 is the only network; all its ports are free. /etc/resolv.conf names 127.0.0.1, /etc/hosts only localhost
// and rig.test, the host's name. Signals are passed on. When the inner run ends, in whatever way, or the outer process
// dies, all processes left inside are killed by the kernel and all mounts go with them.
func Isolate() (inside bool, code int, err error) {
	switch os.Getenv(stageVar) {
	case "":
		code, err = outside()
		return false, code, err
	case keeper:
		code, err = keep()
		if err != nil {
			// Outside waits for our exit status; only the standard error can say more.
			fmt.Fprintln(os.Stderr, err)
			return false, exitUnable, nil
		}
		return false, code, nil
	}
	return true, 0, nil
}

// Enter is Isolate for a TestMain: it fetches what is named, where only root could use it, runs the tests inside and ends the
// outer program. It returns inside, or, with the reason on standard error, where the namespaces can't be had.
func Enter(fetch ...func(context.Context) error) (inside bool) {
	if os.Geteuid() == 0 {
		for _, f := range fetch {
			if err := f(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	inside, code, err := Isolate()
	if err == nil && !inside {
		os.Exit(code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return inside
}

// exitUnable is the keeper's exit status when it can't prepare the namespaces; EX_OSERR of sysexits.h, which Go programs
// and the tests don't use.
const exitUnable = 71

// outside starts the keeper in new namespaces and waits for it.
func outside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, &IsolationError{"namespaces", errors.New("only root can make them")}
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, &IsolationError{"find the program's file", err}
	}
	cmd := exec.Command(exe)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), stageVar+"="+keeper)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A process namespace, for its first process takes all others with it: an MTA whose test was killed too.
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	// Pdeathsig tells of the death of the parent's thread, not of its process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	defer func() {
		signal.Stop(signals)
		close(signals)
	}()
	if err := cmd.Start(); err != nil {
		return 0, &IsolationError{"namespaces", err}
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // already gone: nothing to tell
		}
	}()
	_ = cmd.Wait() // the exit status says it all
	if cmd.ProcessState.ExitCode() == exitUnable {
		return 0, &IsolationError{"prepare namespaces", errors.New("see standard error")}
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

func passedOn() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
}

// exitCode gives a wait status as a shell would: 128 and the signal for a death by signal.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// keep is process 1 of the namespaces: it furnishes them, runs the program, buries every orphan and returns when the
// program has ended.
func keep() (int, error) {
	if os.Getpid() != 1 {
		return 0, &IsolationError{"namespaces", errors.New(stageVar + " is set outside of them")}
	}
	dir, err := furnish()
	if err != nil {
		return 0, err
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	// Replaced, not appended: of two values the program would see the first, be a keeper again, and so on without end.
	if err := os.Setenv(stageVar, dir); err != nil {
		return 0, err
	}
	p, err := os.StartProcess(exe, os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = unix.Kill(p.Pid, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for the program: %w", err)
		case pid == p.Pid:
			return exitCode(status), nil
		}
	}
}

// furnish makes the new namespaces habitable and returns the directory that is theirs.
func furnish() (dir string, err error) {
	step := func(what string, f func() error) {
		if err != nil {
			return
		}
		if e := f(); e != nil {
			err = &IsolationError{what, e}
		}
	}
	step("make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") })
	step("host name", func() error { return unix.Sethostname([]byte(hostName)) })
	step("loopback interface", loopbackUp)
	step("mount /proc", func() error { return unix.Mount("proc", "/proc", "proc", 0, "") })
	step("own directory", func() (e error) { dir, e = ownDir(); return e })
	step("mount /dev", func() error { return ownDev(filepath.Join(dir, "dev")) })
	step("/etc/resolv.conf", func() error {
		return overlay(dir, "/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")
	})
	step("/etc/hosts", func() error {
		return overlay(dir, "/etc/hosts", "127.0.0.1 localhost.localdomain localhost\n127.0.0.1 "+hostName+" rig\n")
	})
	return dir, err
}

// loopbackUp is `ip link set lo up`, without needing iproute2.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// ownDir covers a directory that no program needs with a file system in memory. Every part of its path belongs to root
// and is writable by nobody else, which Sendmail insists on.
func ownDir() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{"/srv", "/media", "/mnt"} {
		s, err := os.Stat(dir)
		if err != nil || !s.IsDir() || strings.HasPrefix(exe, dir+"/") || strings.HasPrefix(cwd+"/", dir+"/") {
			continue
		}
		return dir, unix.Mount("tlsonly-rig", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	}
	return "", errors.New("/srv, /media and /mnt are missing or in use")
}

// ownDev puts a /dev in place of the system's in which /dev/log can be made; old is where the system's goes. Its entries stay.
func ownDev(old string) error {
	if err := os.Mkdir(old, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev", old, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("tlsonly-rig", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "pts", "shm"} {
		from, to := filepath.Join(old, name), filepath.Join("/dev", name)
		s, err := os.Stat(from)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if s.IsDir() {
			err = os.Mkdir(to, 0o755)
		} else {
			err = os.WriteFile(to, nil, 0o666)
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", to, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	return nil
}

// overlay shows content as the file path.
func overlay(dir, path, content string) error {
	own := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
		return err
	}
	return unix.Mount(own, path, "", unix.MS_BIND, "")
}
