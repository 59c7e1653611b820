package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// Reinjector hands copies to the MTA: to an smtpd(8) that setup makes, from which
// mail leaves by ordinary TLS. The milter lets nobody else in there, see Admits.
type Reinjector struct {
	address string // host:port

	mu    sync.Mutex
	ports map[netip.AddrPort]bool // of connections that stand
	grew  chan struct{}           // closed when there is one more
}

// NewReinjector returns a Reinjector to an address, host:port.
func NewReinjector(address string) *Reinjector {
	return &Reinjector{address: address, ports: map[netip.AddrPort]bool{}, grew: make(chan struct{})}
}

// admitTime is how long Admits waits for a connection that the MTA has told of
// before its own side knows that it stands.
const admitTime = 2 * time.Second

// Admits reports whether a client of the re-injection port is the gateway: by the
// address and the port of a connection of its own.
func (r *Reinjector) Admits(ctx context.Context, client netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, admitTime)
	defer cancel()
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	for {
		r.mu.Lock()
		ours, grew := r.ports[client], r.grew
		r.mu.Unlock()
		if ours {
			return true
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return false
		}
	}
}

// dial connects and makes the connection one of ours, until it is closed.
func (r *Reinjector) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, "tcp", r.address)
	if err != nil {
		return nil, err
	}
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ports[local] = true
	close(r.grew)
	r.grew = make(chan struct{})
	return &ownConn{Conn: conn, end: sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ports, local)
	})}, nil
}

// ownConn is a connection that is one of ours until it is closed.
type ownConn struct {
	net.Conn
	end func()
}

func (c *ownConn) Close() error {
	c.end() // first: the port may be another's as soon as it is closed
	return c.Conn.Close()
}

// envelope is that of one copy.
type envelope struct {
	sender, recipient addr.Address
	mail              smtp.MailOptions // as the MTA gave them
	rcpt              smtp.RcptOptions
}

// path writes an address as it stands in angle brackets.
func path(a addr.Address) string {
	if a.IsNull() {
		return ""
	}
	return a.String()
}

// hand gives one message to the MTA and returns the queue ID that it says, "" for
// none. When ctx ends before the end of the message, the MTA has none of it.
func (r *Reinjector) hand(ctx context.Context, e envelope, message io.Reader) (queueID string, err error) {
	conn, err := r.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := smtp.NewClient(conn)
	c.CommandTimeout, c.SubmissionTimeout = 5*time.Minute, 10*time.Minute // RFC 5321, section 4.5.3.2
	if err := c.Hello(contract.GatewayName); err != nil {
		return "", fmt.Errorf("EHLO: %w", err)
	}
	mail, rcpt := e.mail, e.rcpt
	mail.Size, mail.Auth = 0, nil // the copy has another size
	if err := c.Mail(path(e.sender), &mail); err != nil {
		return "", fmt.Errorf("MAIL: %w", err)
	}
	if err := c.Rcpt(path(e.recipient), &rcpt); err != nil {
		return "", fmt.Errorf("RCPT: %w", err)
	}
	w, err := c.Data()
	if err != nil {
		return "", fmt.Errorf("DATA: %w", err)
	}
	if _, err := io.Copy(w, message); err != nil {
		return "", fmt.Errorf("content: %w", err) // not w.Close, which would end the message
	}
	if !stop() {
		return "", context.Cause(ctx)
	}
	response, err := w.CloseWithResponse()
	if err != nil {
		return "", fmt.Errorf("end of content: %w", err)
	}
	_ = c.Quit() // the message is the MTA's now
	_, queueID, _ = strings.Cut(response.StatusText, "queued as ")
	return strings.TrimSpace(queueID), nil
}
