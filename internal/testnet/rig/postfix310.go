package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// postfix310 is the name of Debian 13's root directory with Postfix 3.10 in the cache, and of its place in the namespaces.
const postfix310 = "postfix-3.10"

// FetchPostfix310 makes sure that the user's cache directory has a root directory of Debian 13 with its Postfix 3.10, of 130 MB.
// When it hasn't, this needs debootstrap, root and a network, and takes about half a minute. It must be called before
// Isolate; later calls cost a stat.
func FetchPostfix310(ctx context.Context) error {
	return fetch(postfix310, func(work string) (string, error) { return bootstrap(ctx, filepath.Join(work, "root"), "postfix") })
}

// bootstrap makes the root directory, with more packages, separated by commas.
func bootstrap(ctx context.Context, root, packages string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/sbin/debootstrap", "--variant=minbase", "--include="+packages, "trixie", root)
	if mirror := debianMirror(ctx); mirror != "" {
		cmd.Args = append(cmd.Args, mirror)
	}
	// The packages' scripts see these, too, and have to find them inside.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp")
	// What it mounts below root goes with it, also when it is killed: who removes root then meets no foreign files.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if _, err := run(cmd); err != nil {
		return "", err
	}
	for _, dir := range []string{"var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"} {
		if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
			return "", err
		}
	}
	// Files to mount the namespaces' own over. Where they are links, that would be elsewhere.
	for _, name := range []string{"etc/resolv.conf", "etc/hosts"} {
		path := filepath.Join(root, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return "", err
		}
	}
	return root, nil
}

// debianMirror returns the one that this machine's apt uses; "" where it has another distribution's, and debootstrap knows
// one by itself.
func debianMirror(ctx context.Context) string {
	// An error leaves no line; debootstrap will say what is wrong with the network.
	out, _ := run(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE)",
		"Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"))
	first, _, _ := strings.Cut(string(out), "\n")
	return first
}

// Postfix310 returns the root directory for PostfixConfig.Root, put together for these namespaces: the cached one, which nobody can
// change there, and in it their /dev, /proc, /etc/hosts, /etc/resolv.conf and their own directory, under the same path as outside.
// os.ErrNotExist: FetchPostfix310 wasn't called, or failed.
func Postfix310() (string, error) {
	if err := Isolated(); err != nil {
		return "", err
	}
	cached, err := cache(postfix310)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(cached); err != nil {
		return "", fmt.Errorf("%w: FetchPostfix310 must have been called outside the namespaces", err)
	}
	root := filepath.Join(stage(), postfix310)
	switch err := os.Mkdir(root, 0o755); {
	case errors.Is(err, os.ErrExist): // mounted by a call before
		return root, nil
	case err != nil:
		return "", err
	}
	if err := mountRoot(cached, root); err != nil {
		// Not mounted: nothing to take back.
		_ = unix.Unmount(root, unix.MNT_DETACH)
		return "", errors.Join(fmt.Errorf("mount %s: %w", cached, err), os.Remove(root))
	}
	return root, nil
}

func mountRoot(cached, root string) error {
	if err := unix.Mount(cached, root, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	// Without what is mounted below it: that is root itself, among others.
	if err := unix.Mount(stage(), filepath.Join(root, stage()), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	for _, path := range []string{"/dev", "/proc", "/etc/hosts", "/etc/resolv.conf"} {
		if err := unix.Mount(path, filepath.Join(root, path), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
