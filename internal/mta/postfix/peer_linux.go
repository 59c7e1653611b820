package postfix

import (
	"net"
	"syscall"
)

// peer returns the process that listens at the other end, 0 where that can't be
// seen: unix(7), SO_PEERCRED.
func peer(conn *net.UnixConn) int {
	pid := 0
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // without an answer it isn't seen
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
