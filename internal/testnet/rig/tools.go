package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// FetchTools makes sure that Debian packages, and what they need that isn't installed, are unpacked in the user's cache
// directory under a name. It needs apt-get, dpkg and a network when they aren't, so it must be called before Isolate; later
// calls cost a stat. Nothing is installed and nothing started.
func FetchTools(ctx context.Context, name string, packages ...string) error {
	return fetch(name, func(work string) (string, error) { return unpackAll(ctx, work, packages...) })
}

// Tools returns the directory that FetchTools unpacked packages in, as if it were the root directory, and the environment for
// their programs. os.ErrNotExist: FetchTools wasn't called, or failed.
func Tools(name string) (prefix string, env []string, err error) {
	if prefix, err = cache(name); err != nil {
		return "", nil, err
	}
	if _, err := os.Stat(prefix); err != nil {
		return "", nil, fmt.Errorf("%w: FetchTools must be called outside the namespaces first", err)
	}
	libraries := libraryPath(prefix) + ":" + filepath.Join(prefix, "usr/lib") // of some packages they are no architecture's
	return prefix, append(os.Environ(), libraries, "PYTHONPATH="+filepath.Join(prefix, "usr/lib/python3/dist-packages")), nil
}

// unpackAll unpacks packages and what they need.
func unpackAll(ctx context.Context, work string, packages ...string) (string, error) {
	// What an installation would download, line by line: 'URI' FILE SIZE HASH. With --reinstall also what is installed: a program
	// that is may be confined to its own configuration by AppArmor.
	args := append([]string{"install", "-qq", "--print-uris", "--reinstall", "--no-install-recommends"}, packages...)
	list, err := run(exec.CommandContext(ctx, "apt-get", args...))
	if err != nil {
		return "", err
	}
	var all []string
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) >= 3 {
			name, _, _ := strings.Cut(f[1], "_")
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return "", errors.New("apt-get knows nothing to download")
	}
	return unpack(ctx, work, all...)
}
