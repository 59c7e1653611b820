//go:build darwin || freebsd || netbsd

package place

import (
	"syscall"
	"time"
)

// Changed returns when a file's inode last changed.
func Changed(s *syscall.Stat_t) time.Time { return time.Unix(s.Ctimespec.Unix()) }
