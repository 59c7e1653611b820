package mta

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// lockedBy says who has the lock on a file, by /proc/locks: proc(5).
func lockedBy(f *os.File) string {
	const nobody = "a process that can't be seen from here"
	info, err := f.Stat()
	if err != nil {
		return nobody
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nobody
	}
	// "1: FLOCK  ADVISORY  WRITE 123 fe:00:456 0 EOF". The device there isn't
	// that of stat(2) on every file system.
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(string(text)) {
		var number, kind, mode, access, file string
		var pid int
		n, _ := fmt.Sscan(line, &number, &kind, &mode, &access, &pid, &file)
		if n == 6 && kind == "FLOCK" && access == "WRITE" && pid > 0 && strings.HasSuffix(file, inode) {
			return processOf(pid)
		}
	}
	return nobody
}
