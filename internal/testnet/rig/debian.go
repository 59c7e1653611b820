package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// debianRoot is the name of Debian 13's root directory with systemd and Postfix in the cache.
const debianRoot = "debian-13"

// FetchDebian is FetchPostfix310 for a root directory that systemd can start from, of 200 MB.
func FetchDebian(ctx context.Context) error {
	return fetch(debianRoot, func(work string) (string, error) {
		return bootstrap(ctx, filepath.Join(work, "root"), "postfix,systemd")
	})
}

// Debian is a Debian 13 with systemd and Postfix, to install packages in. Its files are a copy in memory; its processes have
// namespaces of their own, but the network of these.
type Debian struct {
	Root string // where its root directory is seen from outside, also while it runs

	systemd *process
}

// ErrNoSystemd is in the error of Boot where this machine lets nobody mount what systemd needs.
var ErrNoSystemd = errors.New("systemd can't run here")

// NewDebian makes one; its name servers and hosts are those of these namespaces. The caller must Stop it. os.ErrNotExist:
// FetchDebian wasn't called, or failed.
func NewDebian(ctx context.Context) (*Debian, error) {
	if err := Isolated(); err != nil {
		return nil, err
	}
	cached, err := cache(debianRoot)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(cached); err != nil {
		return nil, fmt.Errorf("%w: FetchDebian must have been called outside the namespaces", err)
	}
	root, err := TempDir()
	if err != nil {
		return nil, err
	}
	d := &Debian{Root: root}
	// Not the namespaces' own file system, where set-group-ID programs and devices have no effect.
	if err := unix.Mount("tlsonly-rig", root, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", root, err), os.Remove(root))
	}
	if _, err := run(exec.CommandContext(ctx, "cp", "-a", cached+"/.", root)); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	// With a machine id, for what starts without one enables all units there are.
	for name, text := range map[string]string{"hostname": hostName + "\n", "machine-id": "7c2b1f0e5a9d4e38b6f1a2c3d4e5f607\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return nil, errors.Join(err, d.Stop())
		}
	}
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, name), text, 0o644)
		}
		if err != nil {
			return nil, errors.Join(err, d.Stop())
		}
	}
	return d, nil
}

// furnishDebian is what the first process does before it is systemd. See systemd's CONTAINER_INTERFACE; devices are made, not
// mounted, for PrivateDevices=yes copies them.
const furnishDebian = `
cd "$1" || exit 1
{
	mount -t proc proc proc &&
	mount -t sysfs sysfs sys &&
	mount -t cgroup2 cgroup2 sys/fs/cgroup &&
	mount -t tmpfs tmpfs run &&
	mount -t tmpfs -o mode=755 tmpfs dev &&
	mknod -m 666 dev/null c 1 3 && mknod -m 666 dev/zero c 1 5 && mknod -m 666 dev/full c 1 7 &&
	mknod -m 666 dev/random c 1 8 && mknod -m 666 dev/urandom c 1 9 && mknod -m 666 dev/tty c 5 0 &&
	ln -s pts/ptmx dev/ptmx && mkdir run/old && pivot_root . run/old
} || exit 71
cd / && umount -l /run/old && rmdir /run/old
exec env -i container=tlsonly-rig PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --show-status=no --unit=multi-user.target
`

// Boot starts systemd and returns when it has started everything. Error: ErrNoSystemd.
func (d *Debian) Boot(ctx context.Context) error {
	cmd := exec.Command("sh", "-c", furnishDebian, "sh", d.Root)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	output := d.Root + ".out"
	var err error
	if d.systemd, err = start(cmd, output); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSystemd, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ended := false
	err = poll(ctx, func() bool {
		select {
		case <-d.systemd.ended:
			ended = true
			return true
		default:
		}
		// "degraded" is an exit status, too: there are no kernel modules to load here, nor a console.
		state, _ := d.Run(ctx, "", "systemctl", "is-system-running")
		return strings.HasPrefix(state, "running") || strings.HasPrefix(state, "degraded")
	})
	if ended {
		said, _ := os.ReadFile(output) // unreadable: then it said nothing we can tell
		return fmt.Errorf("%w: %s", ErrNoSystemd, bytes.TrimSpace(said))
	}
	return err
}

// Run runs a command inside, with the given standard input, and returns its standard output; the error carries what it printed.
// Before Boot it runs in the root directory, without systemd.
func (d *Debian) Run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	line := []string{"chroot", d.Root}
	if d.systemd != nil {
		line = []string{"nsenter", "--target", strconv.Itoa(d.systemd.cmd.Process.Pid),
			"--mount", "--pid", "--cgroup", "--uts", "--ipc", "--root", "--wd"}
	}
	line = append(append(line, name), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "HOME=/root"}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := run(cmd)
	return string(out), err
}

// Stop ends all its processes and removes its files. A second Stop does nothing.
func (d *Debian) Stop() error {
	if d.Root == "" {
		return nil
	}
	if d.systemd != nil {
		_ = d.systemd.cmd.Process.Kill() // the kernel ends all others of its namespace with it; gone already: so are they
		<-d.systemd.ended
		d.systemd = nil
	}
	err := errors.Join(unix.Unmount(d.Root, unix.MNT_DETACH), os.RemoveAll(d.Root), os.RemoveAll(d.Root+".out"))
	d.Root = ""
	return err
}
