package rig

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
)

// loginServer answers Postfix's SASL questions as Dovecot's auth server would (Dovecot authentication protocol,
// version 1.1), for mechanism PLAIN.
type loginServer struct {
	listener net.Listener
	logins   map[string]string
	serving  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when closed
}

func listenLogins(path string, logins map[string]string) (*loginServer, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// smtpd connects as user postfix.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	s := &loginServer{listener: l, logins: logins, conns: make(map[net.Conn]bool)}
	s.serving.Go(s.accept)
	return s, nil
}

func (s *loginServer) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		if s.conns == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = true
		s.mu.Unlock()
		s.serving.Go(func() {
			s.serve(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// Close ends all conversations and waits for that.
func (s *loginServer) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.serving.Wait()
	return err
}

// serve answers one smtpd process. A write error shows as the end of the input.
func (s *loginServer) serve(c net.Conn) {
	fmt.Fprintf(c, "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t%d\nCUID\t1\nCOOKIE\t%032x\nDONE\n", os.Getpid(), 1)
	in := bufio.NewScanner(c)
	for in.Scan() {
		// AUTH id mechanism name=value … resp=BASE64, always the last; all other lines need no answer.
		f := strings.Split(in.Text(), "\t")
		if f[0] != "AUTH" || len(f) < 3 {
			continue
		}
		response, _ := strings.CutPrefix(f[len(f)-1], "resp=")
		if user, ok := s.check(response); ok {
			fmt.Fprintf(c, "OK\t%s\tuser=%s\n", f[1], user)
		} else {
			fmt.Fprintf(c, "FAIL\t%s\tuser=%s\n", f[1], user)
		}
	}
}

// check judges the response of mechanism PLAIN. RFC 4616, section 2: authorization identity, NUL, user, NUL, password.
func (s *loginServer) check(response string) (user string, ok bool) {
	plain, err := base64.StdEncoding.DecodeString(response)
	if err != nil {
		return "", false
	}
	f := strings.Split(string(plain), "\x00")
	if len(f) != 3 {
		return "", false
	}
	password, known := s.logins[f[1]]
	return f[1], known && password == f[2]
}
