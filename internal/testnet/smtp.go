package testnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// SMTPConfig describes a mail host. Its zero value is a host without TLS at 127.0.0.1, any port.
type SMTPConfig struct {
	Listen string        // default "127.0.0.1:0"
	Name   string        // in the banner and the EHLO reply; default "mx.test"
	TLS    *tls.Config   // nil: STARTTLS is not offered; see ServerTLS
	Fault  Fault         // switched later with SetFault
	Delay  time.Duration // what the slow faults wait; default 5 ms
	// Reject gives the reply to RCPT ("550 5.1.1 no such user") for a recipient that is not taken, "" for one that
	// is. nil takes all.
	Reject func(rcpt string) string
}

// Message is what a mail host took.
type Message struct {
	From       string   // as in MAIL FROM, without angle brackets
	To         []string // the recipients that were taken
	Data       []byte   // lines end in CRLF; dots are unstuffed
	TLS        bool
	Version    uint16 // of TLS, 0 without
	Cipher     uint16
	ServerName string // SNI
	Client     netip.Addr
}

// SMTP is a running mail host.
type SMTP struct {
	config   SMTPConfig
	listener net.Listener
	done     chan struct{}
	running  sync.WaitGroup

	mu          sync.Mutex
	fault       Fault
	closed      bool
	open        map[net.Conn]struct{}
	connections int
	commands    []string
	plaintext   []byte
	messages    []Message
	changed     chan struct{} // closed and replaced when a message has come
}

// StartSMTP starts a mail host; the caller closes it.
func StartSMTP(config SMTPConfig) (*SMTP, error) {
	if config.Listen == "" {
		config.Listen = "127.0.0.1:0"
	}
	if config.Name == "" {
		config.Name = "mx.test"
	}
	if config.Delay == 0 {
		config.Delay = defaultDelay
	}
	l, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("mail host %s: %w", config.Name, err)
	}
	h := &SMTP{
		config:   config,
		listener: l,
		done:     make(chan struct{}),
		fault:    config.Fault,
		open:     map[net.Conn]struct{}{},
		changed:  make(chan struct{}),
	}
	h.running.Go(h.accept)
	return h, nil
}

// Close ends the listener and all connections and waits for them.
func (h *SMTP) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	close(h.done)
	err := h.listener.Close()
	for c := range h.open {
		c.Close()
	}
	h.mu.Unlock()
	h.running.Wait()
	return err
}

// Address returns where the host listens.
func (h *SMTP) Address() netip.AddrPort {
	return h.listener.Addr().(*net.TCPAddr).AddrPort()
}

// SetFault switches the fault for connections that are made from now on.
func (h *SMTP) SetFault(f Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = f
}

// Connections returns how many connections were accepted.
func (h *SMTP) Connections() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connections
}

// Commands returns all command lines received, in the clear and over TLS, without line ends and message data.
func (h *SMTP) Commands() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.commands)
}

// Plaintext returns every octet received outside TLS, on all connections; up to STARTTLS, or to the end when
// there was no handshake.
func (h *SMTP) Plaintext() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.plaintext)
}

// Messages returns what was taken so far.
func (h *SMTP) Messages() []Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.messages)
}

// WaitMessages waits until n messages were taken.
func (h *SMTP) WaitMessages(ctx context.Context, n int) error {
	for {
		h.mu.Lock()
		have, changed := len(h.messages), h.changed
		h.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-h.done:
			return fmt.Errorf("mail host %s: closed with %d of %d messages", h.config.Name, have, n)
		case <-ctx.Done():
			return fmt.Errorf("mail host %s: %d of %d messages: %w", h.config.Name, have, n, ctx.Err())
		}
	}
}

func (h *SMTP) accept() {
	for {
		conn, err := h.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or the like: the peer gave up or will try again.
			h.pause(defaultDelay)
			continue
		}
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			conn.Close()
			return
		}
		h.connections++
		h.open[conn] = struct{}{}
		fault := h.fault
		// Close waits for running after it has set closed, under the same lock.
		h.running.Go(func() {
			s := newSession(h, conn, fault)
			s.serve()
			h.mu.Lock()
			delete(h.open, conn)
			h.mu.Unlock()
			conn.Close()
		})
		h.mu.Unlock()
	}
}

// pause waits d, or until the host is closed.
func (h *SMTP) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-h.done:
	}
}

func (h *SMTP) sawCommand(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commands = append(h.commands, line)
}

func (h *SMTP) sawPlaintext(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plaintext = append(h.plaintext, b...)
}

func (h *SMTP) took(m Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages = append(h.messages, m)
	close(h.changed)
	h.changed = make(chan struct{})
}
