package testnet

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Script is a mail host that says, octet by octet, what it is told to. What is
// empty is said as a good host says it. "%" in a text stands for the host's name.
type Script struct {
	Banner   string // all with their line ends
	EHLO     string // before TLS
	HELO     string
	STARTTLS string

	// Handshake makes TLS of the connection. nil: there is none, and the
	// connection is closed after the reply to STARTTLS.
	Handshake func(net.Conn) (io.ReadWriteCloser, error)

	Secure     string // the reply to EHLO over TLS; "-" closes the connection instead
	SecureHELO string // that to HELO
	MAIL       string // that to MAIL over TLS
}

// Scripted is a running mail host with a Script.
type Scripted struct {
	script   Script
	name     string
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	open     map[net.Conn]struct{}
	commands []string
	taken    int // messages over TLS
	clear    int // messages in the clear
	errs     []string
}

// scriptPatience bounds a connection: no test waits longer.
const scriptPatience = 2 * time.Minute

// StartScript starts a mail host; the caller closes it.
func StartScript(listen, name string, script Script) (*Scripted, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	s := &Scripted{script: script, name: name, listener: l, open: map[net.Conn]struct{}{}}
	s.running.Go(s.accept)
	return s, nil
}

// Addr returns where it listens.
func (s *Scripted) Addr() string { return s.listener.Addr().String() }

// Close ends the listener and all connections and waits for them.
func (s *Scripted) Close() error {
	s.mu.Lock()
	s.closed = true
	err := s.listener.Close()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Commands returns the command lines received, those over TLS after "TLS ".
func (s *Scripted) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// Taken returns how many messages came over TLS, and how many in the clear.
func (s *Scripted) Taken() (secure, clear int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.clear
}

// Errors returns how handshakes failed, in words.
func (s *Scripted) Errors() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.errs...)
}

func (s *Scripted) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.open[conn] = struct{}{}
		s.running.Go(func() {
			_ = conn.SetDeadline(time.Now().Add(scriptPatience))
			s.serve(conn)
			conn.Close()
			s.mu.Lock()
			delete(s.open, conn)
			s.mu.Unlock()
		})
		s.mu.Unlock()
	}
}

// say writes text, or otherwise where that is empty, and reports whether the
// connection goes on.
func (s *Scripted) say(w io.Writer, text, otherwise string) bool {
	if text == "-" {
		return false
	}
	if text == "" {
		text = otherwise
	}
	_, err := io.WriteString(w, strings.ReplaceAll(text, "%", s.name))
	return err == nil
}

func (s *Scripted) serve(raw net.Conn) {
	var conn io.ReadWriter = raw
	in := bufio.NewReader(raw)
	if !s.say(conn, s.script.Banner, "220 % ESMTP\r\n") {
		return
	}
	secure := false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.note(secure, line)
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		ok := true
		switch {
		case verb == "EHLO" && secure:
			ok = s.say(conn, s.script.Secure, "250-%\r\n250 8BITMIME\r\n")
		case verb == "EHLO":
			ok = s.say(conn, s.script.EHLO, "250-%\r\n250 STARTTLS\r\n")
		case verb == "HELO" && secure:
			ok = s.say(conn, s.script.SecureHELO, "250 %\r\n")
		case verb == "HELO":
			ok = s.say(conn, s.script.HELO, "250 %\r\n")
		case verb == "STARTTLS" && !secure:
			if ok = s.say(conn, s.script.STARTTLS, "220 go ahead\r\n"); !ok || s.script.Handshake == nil {
				return
			}
			over, err := s.script.Handshake(&buffered{raw, in})
			if err != nil {
				s.mu.Lock()
				s.errs = append(s.errs, err.Error())
				s.mu.Unlock()
				return
			}
			defer over.Close()
			conn, in, secure = over, bufio.NewReader(over), true
		case verb == "MAIL" && secure:
			ok = s.say(conn, s.script.MAIL, "250 ok\r\n")
		case verb == "DATA":
			ok = s.say(conn, "", "354 go on\r\n")
			for line != ".\r\n" && err == nil {
				line, err = in.ReadString('\n')
			}
			if err != nil {
				return
			}
			s.mu.Lock()
			if secure {
				s.taken++
			} else {
				s.clear++
			}
			s.mu.Unlock()
			ok = ok && s.say(conn, "", "250 taken\r\n")
		case verb == "QUIT":
			s.say(conn, "", "221 bye\r\n")
			return
		default:
			ok = s.say(conn, "", "250 ok\r\n")
		}
		if !ok {
			return
		}
	}
}

func (s *Scripted) note(secure bool, line string) {
	if secure {
		line = "TLS " + line
	}
	s.mu.Lock()
	s.commands = append(s.commands, line)
	s.mu.Unlock()
}

// buffered is a connection of which a part was read already.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// GoTLS makes a Handshake with crypto/tls.
func GoTLS(config *tls.Config) func(net.Conn) (io.ReadWriteCloser, error) {
	return func(raw net.Conn) (io.ReadWriteCloser, error) {
		conn := tls.Server(raw, config)
		return conn, conn.Handshake()
	}
}
