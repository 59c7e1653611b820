package main

import (
	"fmt"
	"log/slog"
	"net"

	"github.com/coreos/go-systemd/v22/activation"

	"tlsonly/internal/config"
	"tlsonly/milter"
)

// sockets are those that systemd holds for us across restarts (sd_listen_fds(3)), so that a client meanwhile waits instead of
// being refused. The file says where the daemon listens, the units only who opens it: one that listens elsewhere is not served.
type sockets struct {
	passed map[string][]net.Listener // by the unit's FileDescriptorName
}

// passedSockets takes what systemd passed, once: programs that the daemon runs inherit nothing.
func passedSockets() (*sockets, error) {
	passed, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets passed by systemd: %w", err)
	}
	return &sockets{passed}, nil
}

// listen returns the passed socket of that name, if it listens at e, and else a new one.
func (s *sockets) listen(name string, e config.Endpoint) (net.Listener, error) {
	for i, l := range s.passed[name] {
		if l != nil && listensAt(l.Addr(), e) {
			s.passed[name][i] = nil
			return l, nil
		}
	}
	return milter.Listen(e.Network, e.Address, 0)
}

// close closes what nobody wanted, and says so: whoever connects there would wait for ever.
func (s *sockets) close(log *slog.Logger) {
	for name, listeners := range s.passed {
		for _, l := range listeners {
			if l == nil { // none of ours, or taken
				continue
			}
			log.Warn("socket of systemd is not in the configuration file", "socket", name, "address", l.Addr().String())
			_ = l.Close()
		}
	}
	s.passed = nil
}

// listensAt reports whether a socket listens where e says. A name may stand for the address, as localhost does.
func listensAt(a net.Addr, e config.Endpoint) bool {
	if a.Network() != e.Network {
		return false
	}
	if e.Network == "unix" {
		return a.String() == e.Address
	}
	want, err := net.ResolveTCPAddr("tcp", e.Address)
	return err == nil && a.String() == want.String()
}
