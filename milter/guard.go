package milter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The milter protocol frames each packet by a length of four octets, then a command octet, then data. The library
// behind us panics on some malformed ones, in a goroutine of its own where nobody can recover, and that would be the
// end of the daemon. So a guard stands before it: it hands on whole, well-formed packets only, and cuts a connection
// that sends anything else. It also owns the read deadlines: long between packets, for an SMTP client may think,
// short inside one. What is written is put together so that one answer is one segment.

// maxPacket is the longest packet taken; MTAs send at most 64 KiB unless asked for more.
const maxPacket = 1 << 20

const (
	// bufferSize holds nearly every packet sequence an MTA sends between two waits.
	bufferSize = 4096
	// connMemory is how large a connection's buffer gets without asking; what
	// is beyond comes from sharedMemory, of which there is so much for all
	// connections. Else those that send long packets, and not their end, would
	// have it all.
	connMemory   = 16 << 10
	sharedMemory = 32 << 20
)

// errRefused is what the library sees of a connection that was cut.
var errRefused = errors.New("packet refused")

// conn is one connection of an MTA, seen through the guard. One goroutine reads and writes; the server only looks at
// busy and wakes it.
type conn struct {
	net.Conn
	server  *Server
	quick   func()
	release func()
	once    sync.Once

	in      []byte // received and not yet handed on: in[r:w]
	r, w    int
	ready   int   // octets of in[r:] that belong to a packet found good
	shared  int64 // what in has of sharedMemory
	started bool
	command byte // the last command handed on, macros left out
	out     []byte
	// busy is set from MAIL to the end of the message.
	busy atomic.Bool
}

func newConn(raw net.Conn, s *Server, release func()) *conn {
	return &conn{Conn: raw, server: s, release: release, quick: quickAck(raw), in: make([]byte, bufferSize)}
}

// Read hands on octets of good packets, never across the end of one.
func (c *conn) Read(p []byte) (int, error) {
	if c.ready == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.in[c.r:c.r+c.ready])
	c.r += n
	c.ready -= n
	return n, nil
}

// next waits for one whole packet and makes it ready.
func (c *conn) next() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if len(c.in) > connMemory {
			c.in = make([]byte, bufferSize)
			c.giveBack()
		}
	}
	var end time.Time // of the packet that has begun
	for {
		need := 4
		if have := c.w - c.r; have >= 4 {
			length := int(binary.BigEndian.Uint32(c.in[c.r:]))
			if length == 0 || length > maxPacket {
				return c.refuse(fmt.Errorf("length %d", length))
			}
			if need += length; have >= need {
				packet := c.in[c.r+4 : c.r+4+length]
				if err := c.check(packet[0], packet[1:]); err != nil {
					return c.refuse(err)
				}
				c.note(packet[0])
				c.ready = need
				return nil
			}
		}
		if c.w == len(c.in) {
			if err := c.makeRoom(need); err != nil {
				return c.refuse(err)
			}
		}
		begun := c.w > c.r
		switch {
		case begun && end.IsZero(), !c.started:
			// An MTA sends the first packet when it connects.
			if end.IsZero() {
				end = time.Now().Add(c.server.c.PacketTimeout)
			}
			c.wakeAt(end)
		case !begun:
			c.wakeAt(time.Now().Add(c.server.c.IdleTimeout))
			// After the deadline is set: Shutdown marks first and moves the deadline then, so one of the two is seen.
			if c.server.draining.Load() && !c.busy.Load() {
				return io.EOF
			}
		}
		c.quick()
		n, err := c.Conn.Read(c.in[c.w:])
		c.w += n
		if n > 0 {
			continue
		}
		switch {
		case err == nil:
		case c.server.draining.Load() && !c.busy.Load():
			return io.EOF
		case errors.Is(err, os.ErrDeadlineExceeded) && c.busy.Load():
			c.server.c.Log.Warn("milter connection silent for too long, closed; its MTA defers the message", "peer", peer(c.Conn))
			return err
		case errors.Is(err, io.EOF) && begun:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
}

// makeRoom moves what is buffered to the front, and where that isn't enough for a packet of need octets doubles the
// buffer, up to need: a length is a claim, memory is given only for octets that came.
func (c *conn) makeRoom(need int) error {
	in := c.in
	if need > len(in) {
		size := min(2*len(in), need)
		if more := int64(size-connMemory) - c.shared; more > 0 {
			if c.server.shared.Add(more) > sharedMemory {
				c.server.shared.Add(-more)
				return fmt.Errorf("no memory left for a packet of %d octets", need-4)
			}
			c.shared += more
		}
		in = make([]byte, size)
	}
	c.w = copy(in, c.in[c.r:c.w])
	c.r, c.in = 0, in
	return nil
}

// giveBack returns what the connection has of sharedMemory.
func (c *conn) giveBack() {
	c.server.shared.Add(-c.shared)
	c.shared = 0
}

// refuse counts and logs a packet that can't be taken; the library closes the connection on the error.
func (c *conn) refuse(err error) error {
	c.server.malformed.Add(1)
	if c.busy.Load() {
		c.server.c.Log.Warn("milter packet refused, connection closed; its MTA defers the message", "peer", peer(c.Conn), "err", err)
	} else {
		c.server.c.Log.Warn("milter packet refused, connection closed", "peer", peer(c.Conn), "err", err)
	}
	return fmt.Errorf("%w: %w", errRefused, err)
}

// check finds what the library would stumble over.
func (c *conn) check(code byte, data []byte) error {
	if !c.started {
		if code != 'O' || len(data) < 12 {
			return fmt.Errorf("first packet %q of %d octets is no option negotiation", code, len(data))
		}
		c.started = true
		return nil
	}
	terminated := len(data) > 0 && data[len(data)-1] == 0
	switch code {
	case 'C': // host NUL family [port address NUL]
		_, rest, ok := bytes.Cut(data, []byte{0})
		if !ok || len(rest) == 0 {
			return errors.New("connect without a family")
		}
		if bytes.IndexByte([]byte("L46"), rest[0]) >= 0 && (len(rest) < 4 || !terminated) {
			return errors.New("connect without an address")
		}
	case 'H', 'M', 'R', 'U': // strings, each with its NUL
		if !terminated {
			return fmt.Errorf("packet %q does not end with NUL", code)
		}
	case 'L': // name NUL value NUL
		if !terminated || bytes.Count(data, []byte{0}) != 2 {
			return errors.New("header is not two strings")
		}
	case 'D': // command (name NUL value NUL)*
		if len(data) == 0 || len(data) > 1 && !terminated {
			return errors.New("macros without a command or an end")
		}
	case 'A', 'B', 'E', 'K', 'N', 'Q', 'T':
	default:
		return fmt.Errorf("packet %q is not known here", code)
	}
	return nil
}

// note keeps book of whether a message is under way.
func (c *conn) note(code byte) {
	switch code {
	case 'D':
		return
	case 'M':
		c.busy.Store(true)
	case 'A', 'K', 'Q':
		c.busy.Store(false)
	}
	c.command = code
}

// Write takes the library's writes, which come as header and data of one packet, and sends whole packets.
// Modifications wait for the answer that always follows them.
func (c *conn) Write(p []byte) (int, error) {
	c.out = append(c.out, p...)
	var last byte
	at := 0
	for len(c.out)-at >= 5 {
		length := int(binary.BigEndian.Uint32(c.out[at:]))
		if len(c.out)-at < 4+length {
			return len(p), nil
		}
		last = c.out[at+4]
		at += 4 + length
	}
	if at < len(c.out) || bytes.IndexByte([]byte("+-bhmiqe2"), last) >= 0 {
		return len(p), nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	if c.command == 'E' || c.command == 'M' && last != 'c' {
		c.busy.Store(false)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetReadDeadline does nothing: the library's idea of one, a second for the negotiation, is too short for a busy
// host, and all others are the guard's.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// wakeAt sets the read deadline that counts.
func (c *conn) wakeAt(t time.Time) { _ = c.Conn.SetReadDeadline(t) }

// Close ends the connection; the library calls it last in a session.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.giveBack()
		c.release()
	})
	return err
}

// peer names the other end for the log. A Unix socket's client has no name.
func peer(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "local"
}
