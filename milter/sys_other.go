//go:build !linux

package milter

import (
	"net"
	"syscall"
)

// quickAck has no counterpart here.
func quickAck(net.Conn) func() { return func() {} }

// closeToOthers has no counterpart here: the mode of the directory must keep others out until the socket has its own.
func closeToOthers(_, _ string, _ syscall.RawConn) error { return nil }
