package testnet

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// STSFault is one way for a policy host to deviate from a good one.
type STSFault string

// The faults. Where nothing else is said the policy itself is right, so that who takes no notice of the fault finds it.
const (
	STSGood STSFault = ""

	STSExpired    STSFault = "expired"     // a certificate that ended yesterday
	STSWrongName  STSFault = "wrong-name"  // one for the domain instead of the policy host
	STSSelfSigned STSFault = "self-signed" // one that no authority signed

	STSRedirect  STSFault = "redirect"  // 301 to where the policy is, on the same host
	STSCreated   STSFault = "created"   // 201
	STSNotFound  STSFault = "not-found" // 404
	STSHTML      STSFault = "html"      // text/html
	STSGzip      STSFault = "gzip"      // compressed, though nobody asked for it
	STSTooLong   STSFault = "too-long"  // 65 KiB, with an extension field many times
	STSTruncated STSFault = "truncated" // the connection ends before the length announced
	STSUnframed  STSFault = "unframed"  // no length announced
	STSStall     STSFault = "stall"     // after half of it nothing, until the fault is another
)

// STSFaults lists all faults but STSGood.
func STSFaults() []STSFault {
	return []STSFault{STSExpired, STSWrongName, STSSelfSigned, STSRedirect, STSCreated, STSNotFound, STSHTML, STSGzip,
		STSTooLong, STSTruncated, STSUnframed, STSStall}
}

// STS is the policy host, "mta-sts.<domain>", of any number of domains: one HTTPS server that shows each the
// certificate it asks for by SNI (RFC 8461, section 3.3). Names without a policy get no certificate.
type STS struct {
	ca       *CA
	listener net.Listener
	server   *http.Server
	ended    chan error

	mu       sync.Mutex
	closed   bool
	policies map[string]string
	faults   map[string]STSFault
	fetches  map[string]int
	certs    map[string]*tls.Certificate // by domain and kind of certificate
	changed  chan struct{}               // closed and replaced at every change of the above but certs
}

const stsPath = "/.well-known/mta-sts.txt"

// StartSTS starts a policy host; the caller closes it.
func StartSTS(listen string, ca *CA) (*STS, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("policy host: %w", err)
	}
	s := &STS{
		ca:       ca,
		listener: l,
		ended:    make(chan error, 1),
		policies: map[string]string{},
		faults:   map[string]STSFault{},
		fetches:  map[string]int{},
		certs:    map[string]*tls.Certificate{},
		changed:  make(chan struct{}),
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // of which a fault can take the connection over
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{GetCertificate: s.certificate},
		Protocols:         protocols,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that go away are no concern of the server
	}
	go func() { s.ended <- s.server.ServeTLS(l, "", "") }()
	return s, nil
}

// Close ends the listener and all connections. A second Close does nothing.
func (s *STS) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.tell()
	s.mu.Unlock()
	err := s.server.Close()
	if ended := <-s.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// Address returns where the host listens.
func (s *STS) Address() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

// SetPolicy serves text as the policy of domain from now on.
func (s *STS) SetPolicy(domain, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policies[domain] = text
	s.tell()
}

// SetFault switches the fault of domain's policy host. One that stalls goes on when it has another.
func (s *STS) SetFault(domain string, f STSFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[domain] = f
	s.tell()
}

// Fetches returns how often domain's policy was asked for; a handshake that failed is none.
func (s *STS) Fetches(domain string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches[domain]
}

// WaitFetches waits until domain's policy was asked for n times.
func (s *STS) WaitFetches(ctx context.Context, domain string, n int) error {
	err := s.wait(ctx, func() bool { return s.fetches[domain] >= n })
	if err != nil {
		return fmt.Errorf("policy host of %s: %d of %d fetches: %w", domain, s.Fetches(domain), n, err)
	}
	return nil
}

// tell wakes who waits; s.mu is held.
func (s *STS) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait waits until is, asked with s.mu held, says so.
func (s *STS) wait(ctx context.Context, is func() bool) error {
	for {
		s.mu.Lock()
		done, closed, changed := is(), s.closed, s.changed
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case closed:
			return net.ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *STS) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	domain, ok := strings.CutPrefix(hello.ServerName, "mta-sts.")
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.policies[domain]; !ok || !known {
		return nil, fmt.Errorf("no policy host %q", hello.ServerName)
	}
	spec, kind := CertSpec{Names: []string{hello.ServerName}}, STSGood
	switch f := s.faults[domain]; f {
	case STSExpired:
		spec, kind = Expired(hello.ServerName), f
	case STSSelfSigned:
		spec, kind = SelfSigned(hello.ServerName), f
	case STSWrongName:
		spec, kind = CertSpec{Names: []string{domain}}, f
	}
	key := domain + " " + string(kind)
	if s.certs[key] == nil {
		cert, err := s.ca.Issue(spec)
		if err != nil {
			return nil, err
		}
		s.certs[key] = &cert
	}
	return s.certs[key], nil
}

func (s *STS) serve(w http.ResponseWriter, r *http.Request) {
	host := r.TLS.ServerName
	domain := strings.TrimPrefix(host, "mta-sts.")
	if name, _, err := net.SplitHostPort(r.Host); r.Host != host && (err != nil || name != host) {
		w.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	s.mu.Lock()
	policy, fault := s.policies[domain], s.faults[domain]
	if r.URL.Path == stsPath {
		s.fetches[domain]++
		s.tell()
	}
	s.mu.Unlock()
	elsewhere := "/elsewhere.txt"
	switch {
	case r.Method == http.MethodGet && r.URL.Path == stsPath:
	case r.Method == http.MethodGet && r.URL.Path == elsewhere && fault == STSRedirect:
		fault = STSGood
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	body := []byte(policy)
	status, media := http.StatusOK, "text/plain; charset=utf-8"
	switch fault {
	case STSRedirect:
		w.Header().Set("Location", elsewhere)
		status = http.StatusMovedPermanently
	case STSCreated:
		status = http.StatusCreated
	case STSNotFound:
		status = http.StatusNotFound
	case STSHTML:
		media = "text/html"
	case STSGzip:
		w.Header().Set("Content-Encoding", "gzip")
		body = gzipped(body)
	case STSTooLong:
		const size, line = 65 << 10, "x-padding: x\n"
		body = append(bytes.TrimRight(body, "\r\n"), '\n')
		body = append(body, strings.Repeat(line, (size-len(body))/len(line)+1)...)
	case STSTruncated, STSUnframed:
		takeOver(w, body, fault == STSTruncated)
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if fault == STSStall {
		_, _ = w.Write(body[:len(body)/2]) // whether the client is there still is seen below
		body = body[len(body)/2:]
		if http.NewResponseController(w).Flush() != nil ||
			s.wait(r.Context(), func() bool { return s.faults[domain] != STSStall }) != nil {
			return
		}
	}
	_, _ = w.Write(body) // a client that went away is no concern of the server
}

// takeOver answers without net/http's care for framing: all of body without a length, or half of it with one.
func takeOver(w http.ResponseWriter, body []byte, half bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
	if half {
		head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
		body = body[:len(body)/2]
	}
	_, _ = io.WriteString(conn, head+"\r\n"+string(body)) // a client that went away is no concern of the server
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	if err = errors.Join(err, z.Close()); err != nil {
		panic(err) // of a buffer in memory
	}
	return out.Bytes()
}
