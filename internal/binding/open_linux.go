package binding

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// isOpen reports whether a process other than this one has one of the files
// open for writing, as far as this user may see it: proc(5).
func isOpen(paths []string) bool {
	wanted := make(map[string]bool)
	for _, path := range paths {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			wanted[real] = true
		}
	}
	self := strconv.Itoa(os.Getpid())
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is right
	for _, fd := range descriptors {
		if strings.HasPrefix(fd, "/proc/"+self+"/") {
			continue
		}
		if to, err := os.Readlink(fd); err == nil && wanted[to] && writes(fd) {
			return true
		}
	}
	return false
}

// writes reports whether /proc/PID/fd/N was opened for writing.
func writes(fd string) bool {
	dir, n := filepath.Split(fd)
	f, err := os.Open(filepath.Join(filepath.Dir(filepath.Clean(dir)), "fdinfo", n))
	if err != nil {
		return false // closed meanwhile
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32)
			return err == nil && flags&syscall.O_ACCMODE != syscall.O_RDONLY
		}
	}
	return false
}
