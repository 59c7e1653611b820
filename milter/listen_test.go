package milter

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen("unix", path, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != DefaultMode || info.Mode().Type() != os.ModeSocket {
		t.Fatalf("mode %v (%v), want a socket with %v", info.Mode(), err, DefaultMode)
	}
	if _, err := Listen("unix", path, 0); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Fatalf("second listener: %v", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Fatalf("the socket in use was touched: %v", err)
	} else {
		c.Close()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Fatalf("after Close: %v, want no socket", err)
	}
}

// The socket is closed to others from the moment it has a name, whatever the umask.
func TestListenUnixBornClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	lc := net.ListenConfig{Control: closeToOthers}
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm()&0o177 != 0 {
		t.Fatalf("mode %v (%v) before it is widened", info.Mode(), err)
	}
}

func TestListenUnixMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen("unix", path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Fatalf("mode %v (%v), want 0666 whatever the umask", info.Mode(), err)
	}
}

func TestListenUnixGroupOfDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, -1, 12345); err != nil {
		t.Skip("cannot change groups here")
	}
	if err := os.Chmod(dir, 0o750|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	l, err := Listen("unix", filepath.Join(dir, "s"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Lstat(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 12345 {
		t.Fatalf("group %d, want the directory's", gid)
	}
}

func TestListenUnixReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen("unix", path, 0)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()
}

func TestListenUnixKeepsOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix", path, 0); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Fatalf("regular file: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Fatalf("the file was touched: %q %v", text, err)
	}
}

// Close leaves a socket that another process has put in the place of ours.
func TestListenUnixCloseLeavesOthersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ours, err := Listen("unix", path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	theirs, err := Listen("unix", path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the other's socket is gone: %v", err)
	}
}

func TestListenErrors(t *testing.T) {
	for _, c := range [][2]string{
		{"tcp", "127.0.0.1:99999"},
		{"tcp", "nohost"},
		{"unix", ""},
		{"unix", "/nonexistent/dir/s"},
		{"unix", "/" + strings.Repeat("x", 200)},
		{"udp", "127.0.0.1:0"},
	} {
		if l, err := Listen(c[0], c[1], 0); err == nil {
			l.Close()
			t.Errorf("Listen(%q, %q): no error", c[0], c[1])
		}
	}
}
