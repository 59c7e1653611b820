package mta

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// ErrBusy is that of a directory on which another setup works.
var ErrBusy = errors.New("another setup works on it")

// Lock keeps a directory for one setup at a time, until the function returned is
// called or the process ends. It leaves nothing there: the lock is on the
// directory itself, flock(2). Error: ErrBusy, with who has it as far as that can
// be seen; or the directory can't be locked, as on a network file system.
func Lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		who := lockedBy(f)
		f.Close()
		return nil, fmt.Errorf("%s: %w: %s; try again when it has ended", dir, ErrBusy, who)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s, so that no other setup works on it: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// processOf names a process as ps does.
func processOf(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return fmt.Sprintf("process %d", pid)
	}
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	return fmt.Sprintf("process %d (%s)", pid, strings.Join(args, " "))
}
