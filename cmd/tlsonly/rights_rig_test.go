package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tlsonly/internal/testnet/rig"
)

// daemonID is the number of a user who is nobody's.
const daemonID = 20101

// startDaemonAs runs the daemon as an unprivileged user, in some groups, until
// the test ends.
func startDaemonAs(t *testing.T, text string, groups ...uint32) *daemonProcess {
	t.Helper()
	dir, err := rig.TempDir()
	if err == nil {
		err = errors.Join(os.Mkdir(filepath.Join(dir, "state"), 0o755),
			os.Chown(filepath.Join(dir, "state"), daemonID, daemonID))
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonProcess{t: t, file: filepath.Join(dir, "tlsonly.toml"), out: out,
		as: &syscall.Credential{Uid: daemonID, Gid: daemonID, Groups: groups}}
	d.url = "sqlite://" + d.database()
	d.write(text)
	d.start()
	t.Cleanup(func() {
		d.stop(syscall.SIGTERM)
		out.Close()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.log())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

// over shows text as a file of the system until the test ends.
func over(t *testing.T, path, text string) {
	t.Helper()
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, filepath.Base(path))
	if err := errors.Join(os.WriteFile(own, []byte(text), 0o644), unix.Mount(own, path, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(path, 0), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
}

// newUsers makes users of this host with homes of mode 0700 below dir, each
// with a .forward if text isn't empty. Root's own home, too, is closed.
func newUsers(t *testing.T, dir string, users map[string]string) {
	t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	text, uid := strings.Replace(string(passwd), ":/root:", ":"+dir+"/root:", 1), 20001
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, forward := range users {
		home := filepath.Join(dir, name)
		err := os.Mkdir(home, 0o700)
		if forward != "" {
			path := filepath.Join(home, ".forward")
			err = errors.Join(err, os.WriteFile(path, []byte(forward+"\n"), 0o644), os.Chown(path, uid, uid))
		}
		if err = errors.Join(err, os.Chown(home, uid, uid)); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", name, uid, uid, home)
		uid++
	}
	over(t, "/etc/passwd", text)
}
