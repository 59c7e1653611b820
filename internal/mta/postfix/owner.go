package postfix

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"tlsonly/internal/place"
)

// keepOwner gives a file the owner that info tells.
func keepOwner(f *os.File, info os.FileInfo) error {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return f.Chown(int(s.Uid), int(s.Gid))
	}
	return nil
}

// ownerOf returns the owner and the group of a file.
func ownerOf(info os.FileInfo) (uid, gid uint32) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0
	}
	return s.Uid, s.Gid
}

// become makes a command run as another user, with that user's own group alone, as Postfix's programs do.
func become(cmd *exec.Cmd, u *user.User) error {
	uid, gid, err := idsOf(u)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	return nil
}

// idsOf returns a user's numbers, and that of the user's own group.
func idsOf(u *user.User) (uid, gid uint32, err error) {
	owner, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	group, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(owner), uint32(group), err
}

// changed returns when a file, or what is known of it, was changed last.
func changed(info os.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		if at := place.Changed(s); at.After(info.ModTime()) {
			return at
		}
	}
	return info.ModTime()
}
