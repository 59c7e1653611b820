package starttls

import (
	"cmp"
	"errors"
	"os"
	"time"
)

// silence is how long a host may say nothing before it is taken to wait for TLS.
// A host that speaks SMTP greets (RFC 5321, section 3.1), one that speaks TLS
// waits for the client's hello.
const silence = 3 * time.Second

// implicit reports whether TLS begins the session with t, on whose connection
// nothing has been said yet. At port 465 it does. Elsewhere it may only where the
// MTA has a client for such hosts, whatever their port: then a host that doesn't
// greet is taken to wait for TLS. If it greets late instead, the handshake fails,
// and patient is to be used, which waits for the greeting.
func (p *Prober) implicit(c *conversation, t Target) bool {
	switch port := t.Address.Port(); {
	case port == submissions:
		return true
	case port == smtp || t.greets || !p.mta().Wraps:
		return false
	}
	wait := cmp.Or(p.silence, silence)
	if !c.deadline.IsZero() {
		wait = min(wait, time.Until(c.deadline)/3) // the rest is for what comes then
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
	_, err := c.in.Peek(1)
	_ = c.conn.SetReadDeadline(c.deadline)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// patient returns t as a host that greets, however late; false where it was taken
// for one already, or for one of TLS by its port.
func (t Target) patient() (Target, bool) {
	port := t.Address.Port()
	if t.greets || port == submissions {
		return t, false
	}
	t.greets = true
	return t, true
}

const smtp = 25
