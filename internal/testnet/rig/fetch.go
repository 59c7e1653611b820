package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// FetchSendmail makes sure that Debian's Sendmail is unpacked in the user's cache directory. It needs apt-get, dpkg and a
// network when it isn't, so it must be called before Isolate; later calls cost a stat.
//
// Unpacked, not installed: the package conflicts with every other MTA's.
func FetchSendmail(ctx context.Context) error {
	return fetch("sendmail", func(work string) (string, error) { return unpackSendmail(ctx, work) })
}

func sendmailCache() (string, error) { return cache("sendmail") }

// cache returns the directory that something is kept in between runs.
func cache(what string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		if os.Geteuid() != 0 {
			return "", err
		}
		dir = "/var/cache" // root without $HOME, as CI runs it
	}
	return filepath.Join(dir, "tlsonly-test", what+"-"+runtime.GOARCH), nil
}

// fetch has fill make a directory below work, unless it is in the cache. It is made beside its place and renamed, so that the
// cache is complete or absent, whoever else fetches.
func fetch(what string, fill func(work string) (dir string, err error)) error {
	if Isolated() == nil || os.Getenv(stageVar) == keeper {
		return nil // no network here; who needs it says that it's missing
	}
	prefix, err := cache(what)
	if err != nil {
		return err
	}
	if _, err := os.Stat(prefix); err == nil {
		return nil
	}
	if err := fetchTo(prefix, fill); err != nil {
		return fmt.Errorf("fetch %s: %w", what, err)
	}
	return nil
}

func fetchTo(prefix string, fill func(work string) (dir string, err error)) error {
	parent := filepath.Dir(prefix)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	dir, err := fill(work)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, prefix); err != nil && !errors.Is(err, os.ErrExist) {
		return err // ErrExist: somebody else was faster, with the same
	}
	return nil
}

func unpackSendmail(ctx context.Context, work string) (string, error) {
	root, err := unpack(ctx, work, "sendmail-bin", "sendmail-cf", "libwrap0", "liblockfile1", "libnsl2")
	if err != nil {
		return "", err
	}
	// The dynamic linker ignores LD_LIBRARY_PATH for setgid programs.
	return root, os.Chmod(filepath.Join(root, "usr/libexec/sendmail/sendmail"), 0o755)
}

// unpack downloads packages and unpacks them into one directory below work.
func unpack(ctx context.Context, work string, packages ...string) (root string, err error) {
	get := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-qq"}, packages...)...)
	get.Dir = work
	if _, err := run(get); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) == 0 {
		return "", errors.Join(errors.New("apt-get downloaded nothing"), err)
	}
	root = filepath.Join(work, "root")
	for _, deb := range debs {
		if _, err := run(exec.CommandContext(ctx, "dpkg", "-x", deb, root)); err != nil {
			return "", err
		}
	}
	return root, nil
}

// libraryPath is the environment variable for a program of a package unpacked at prefix.
func libraryPath(prefix string) string {
	var libraries []string
	for _, dir := range []string{"usr/lib", "lib"} {
		found, _ := filepath.Glob(filepath.Join(prefix, dir, "*-linux-gnu*")) // the pattern is well formed
		libraries = append(libraries, found...)
	}
	return "LD_LIBRARY_PATH=" + strings.Join(libraries, ":")
}
