package milter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// DefaultMode is the mode of a Unix socket: its user and its group may connect. The group is that of the directory
// where that has the set-group-ID bit, so a directory of group postfix with mode 2750 lets Postfix in.
const DefaultMode fs.FileMode = 0o660

// Listen listens in the words of net.Listen, network "tcp" or "unix". A Unix socket gets mode (0: DefaultMode) and is
// never open wider, not even for a moment. A socket that nobody listens on any more is replaced; one in use, and any
// file that is no socket, is an error. Close removes the socket if it is still the one made here.
func Listen(network, address string, mode fs.FileMode) (net.Listener, error) {
	var l net.Listener
	var err error
	if network == "unix" {
		if mode == 0 {
			mode = DefaultMode
		}
		l, err = listenUnix(address, mode)
	} else {
		l, err = net.Listen(network, address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// unixListener removes its socket, and only its own.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	once sync.Once
	err  error
}

func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{Control: closeToOthers}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	made, err := os.Lstat(path)
	if err == nil {
		err = os.Chmod(path, mode) // the umask, too, has narrowed what closeToOthers gave
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return &unixListener{UnixListener: u, path: path, made: made}, nil
}

// removeStale removes the socket a process that was killed has left.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("the file exists and is no socket")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return errors.New("another process listens there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		// Not ours to connect to, or its queue is full: no proof that nobody listens.
		return fmt.Errorf("is another process listening? %w", err)
	}
	return os.Remove(path)
}

// Close stops listening. It can be called more than once.
func (u *unixListener) Close() error {
	u.once.Do(func() {
		if now, err := os.Lstat(u.path); err == nil && os.SameFile(now, u.made) {
			u.err = os.Remove(u.path)
		}
		u.err = errors.Join(u.UnixListener.Close(), u.err)
	})
	return u.err
}
