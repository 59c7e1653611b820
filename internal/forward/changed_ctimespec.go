//go:build darwin || freebsd || netbsd

package forward

import (
	"syscall"
	"time"
)

// changed returns when a file's inode last changed.
func changed(s *syscall.Stat_t) time.Time { return time.Unix(s.Ctimespec.Unix()) }
