package milter

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// quickAck returns what makes the kernel acknowledge the next segment at once. Sendmail writes a macro packet and
// its command in two segments, and its second waits, by Nagle's algorithm, for the acknowledgement of the first: with
// delayed ones each command costs 40 ms. The kernel forgets the wish, so it is repeated before each read.
func quickAck(c net.Conn) func() {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return func() {}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return func() {}
	}
	set := func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }
	return func() { _ = raw.Control(set) }
}

// closeToOthers gives a Unix socket mode 0600 before it has a name: Linux takes the mode of the file from the
// socket, so there is no moment in which others can connect.
func closeToOthers(network, _ string, raw syscall.RawConn) error {
	if network != "unix" {
		return nil
	}
	var err error
	if e := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); e != nil {
		return e
	}
	return err
}
