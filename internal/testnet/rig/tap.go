package rig

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
)

// Tap stands between an MTA and a milter, hands on every packet and remembers it. It stands in the packets' way: an answer
// leaves for the MTA after it was recorded, so a client that has its reply finds the packets in Sessions.
type Tap struct {
	listener net.Listener
	milter   string
	serving  sync.WaitGroup

	mu       sync.Mutex
	sessions []Session
	open     map[net.Conn]bool // nil when closed
	ended    chan struct{}     // closed and replaced whenever a connection ends
	live     int               // connections that haven't ended
}

// NewTap listens at one address and hands on to the milter at the other. Addresses are "unix:PATH" or "inet:HOST:PORT"; port 0
// listens on a free one. The caller must Close it.
func NewTap(listen, milter string) (*Tap, error) {
	network, address, err := milterAddress(listen)
	if err != nil {
		return nil, err
	}
	if _, _, err := milterAddress(milter); err != nil {
		return nil, err
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		// Postfix connects as its own user.
		if err := os.Chmod(address, 0o666); err != nil {
			l.Close()
			return nil, err
		}
	}
	t := &Tap{listener: l, milter: milter, open: make(map[net.Conn]bool), ended: make(chan struct{})}
	t.serving.Go(t.accept)
	return t, nil
}

func milterAddress(s string) (network, address string, err error) {
	kind, address, _ := strings.Cut(s, ":")
	switch kind {
	case "unix":
		return "unix", address, nil
	case "inet":
		return "tcp", address, nil
	}
	return "", "", fmt.Errorf("milter address %q: want unix:PATH or inet:HOST:PORT", s)
}

// Addr returns where the tap listens.
func (t *Tap) Addr() net.Addr { return t.listener.Addr() }

// Sessions returns what was said so far, a session a connection, in the order the MTA made them.
func (t *Tap) Sessions() []Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Session, len(t.sessions))
	for i, s := range t.sessions {
		all[i] = slices.Clone(s)
	}
	return all
}

// Wait waits until at least n connections were made and none is open.
func (t *Tap) Wait(ctx context.Context, n int) error {
	for {
		t.mu.Lock()
		made, live, ended := len(t.sessions), t.live, t.ended
		t.mu.Unlock()
		if made >= n && live == 0 {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d milter connections: %d made, %d open: %w", n, made, live, ctx.Err())
		}
	}
}

// Close ends all connections and waits for that.
func (t *Tap) Close() error {
	err := t.listener.Close()
	t.mu.Lock()
	for c := range t.open {
		c.Close()
	}
	t.open = nil
	t.mu.Unlock()
	t.serving.Wait()
	return err
}

func (t *Tap) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return // closed
		}
		t.mu.Lock()
		if t.open == nil {
			t.mu.Unlock()
			c.Close()
			return
		}
		t.open[c] = true
		t.sessions = append(t.sessions, nil)
		session := len(t.sessions) - 1
		t.live++
		t.mu.Unlock()
		t.serving.Go(func() { t.serve(c, session) })
	}
}

// serve hands on one connection, until either side ends it. A milter that can't be reached looks to the MTA as one that closes.
func (t *Tap) serve(mta net.Conn, session int) {
	defer func() {
		mta.Close()
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.open, mta)
		t.live--
		close(t.ended)
		t.ended = make(chan struct{})
	}()
	network, address, err := milterAddress(t.milter)
	if err != nil {
		return
	}
	milter, err := net.Dial(network, address)
	if err != nil {
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		t.copy(mta, milter, FromMilter, session)
		mta.Close()
	})
	t.copy(milter, mta, FromMTA, session)
	milter.Close()
	answers.Wait()
}

// copy hands packets from one to the other, until one of them ends or says something that is no packet.
func (t *Tap) copy(to io.Writer, from io.Reader, who From, session int) {
	for {
		p, err := ReadPacket(from, who)
		if err != nil {
			return
		}
		t.mu.Lock()
		t.sessions[session] = append(t.sessions[session], p)
		t.mu.Unlock()
		if p.Write(to) != nil {
			return
		}
	}
}
