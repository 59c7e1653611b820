package postfix

import (
	"os"

	"golang.org/x/sys/unix"
)

// scratch returns an empty file without a name: memfd_create(2). It needs no
// directory that can be written.
func scratch(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
