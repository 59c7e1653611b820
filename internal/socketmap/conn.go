package socketmap

import (
	"errors"
	"net"
	"strconv"
	"time"
)

const (
	maxRequest = 10_000 // longest question; an address and a next hop are far below
	small      = 512    // buffer of a connection that idles
	large      = 16 << 10
)

var errNotNetstring = errors.New("not a netstring")

// next returns the netstring that b begins with and its length on the wire. A length of 0 says that more is to come.
func next(b []byte) (payload []byte, size int, err error) {
	n, digits := 0, 0
	for ; digits < len(b) && '0' <= b[digits] && b[digits] <= '9'; digits++ {
		if n = n*10 + int(b[digits]-'0'); n > maxRequest || digits > 0 && b[0] == '0' {
			return nil, 0, errNotNetstring
		}
	}
	switch {
	case digits == len(b):
		return nil, 0, nil
	case digits == 0 || b[digits] != ':':
		return nil, 0, errNotNetstring
	}
	end := digits + 1 + n
	switch {
	case len(b) <= end:
		return nil, 0, nil
	case b[end] != ',':
		return nil, 0, errNotNetstring
	}
	return b[digits+1 : end], end + 1, nil
}

// appendNetstring appends payload as one netstring.
func appendNetstring(b, payload []byte) []byte {
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	b = append(b, ':')
	b = append(b, payload...)
	return append(b, ',')
}

// conn is one connection. Its buffers grow with what the peer sends at once, up to a bound, and shrink when it idles.
type conn struct {
	s        *Server
	nc       net.Conn
	in       []byte    // read, not yet answered
	out      []byte    // answers not yet sent
	answer   []byte    // the one that is being made
	armed    bool      // the read has a deadline
	deadline time.Time // of writes
}

func (c *conn) serve() {
	c.in = make([]byte, 0, small)
	for !c.s.draining.Load() {
		if len(c.in) == cap(c.in) {
			c.in = append(make([]byte, 0, min(2*cap(c.in), large)), c.in...)
		}
		n, err := c.nc.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
		answered, ok := c.answerAll()
		if !ok || err != nil || !c.arm(answered) {
			return
		}
		if len(c.in) == 0 && cap(c.in) > 4*small {
			c.in, c.out = make([]byte, 0, small), nil
		}
	}
}

// answerAll answers the complete questions in c.in and keeps what is left. Answers go out together, so a peer that asks many
// questions at once is not answered by as many packets. It reports whether any was answered and whether to go on.
func (c *conn) answerAll() (answered, ok bool) {
	rest := c.in
	for {
		question, size, err := next(rest)
		if err != nil {
			c.s.counts.garbage.Add(1)
			c.s.c.Log.Warn("not a netstring, connection closed", "peer", c.nc.RemoteAddr().String())
			c.flush() // what came before it was asked rightly
			return answered, false
		}
		if size == 0 {
			break
		}
		c.answer = c.s.reply(c.answer[:0], question)
		c.out = appendNetstring(c.out, c.answer)
		answered = true
		rest = rest[size:]
		if len(c.out) >= large && !c.flush() {
			return answered, false
		}
	}
	c.in = c.in[:copy(c.in, rest)]
	return answered, c.flush()
}

func (c *conn) flush() bool {
	if len(c.out) == 0 {
		return true
	}
	// A deadline costs a timer, so one serves as long as at least half of the time is left.
	if now := time.Now(); c.deadline.Sub(now) < c.s.c.WriteTimeout/2 {
		c.deadline = now.Add(c.s.c.WriteTimeout)
		if err := c.nc.SetWriteDeadline(c.deadline); err != nil {
			return false
		}
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err == nil
}

// arm gives the rest of a question a time to come by, and none to a connection that idles.
func (c *conn) arm(answered bool) bool {
	var err error
	switch begun := len(c.in) > 0; {
	case begun && (answered || !c.armed):
		err = c.nc.SetReadDeadline(time.Now().Add(c.s.c.PartTimeout))
		c.armed = true
	case !begun && c.armed:
		err = c.nc.SetReadDeadline(time.Time{})
		c.armed = false
	}
	// A Shutdown after the caller's look at draining sets its deadline after this one.
	return err == nil
}
