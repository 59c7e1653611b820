package testnet

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// OpenSSL makes a Handshake with openssl s_server, which speaks what crypto/tls
// doesn't: its arguments say what it takes. cert nil is none. The files are below
// dir, which is the caller's.
func OpenSSL(dir string, cert *tls.Certificate, args ...string) func(net.Conn) (io.ReadWriteCloser, error) {
	return func(raw net.Conn) (io.ReadWriteCloser, error) {
		if cert == nil {
			return OpenSSLFile(dir, "", args...)(raw)
		}
		own, err := os.MkdirTemp(dir, "cert-")
		if err != nil {
			return nil, err
		}
		text, err := pemOf(cert)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(own, "pem")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
		if len(cert.Certificate) > 1 {
			args = append(args[:len(args):len(args)], "-cert_chain", file)
		}
		return OpenSSLFile(dir, file, args...)(raw)
	}
}

// OpenSSLFile is OpenSSL with a file that has certificate and key, "" for none.
func OpenSSLFile(dir, file string, args ...string) func(net.Conn) (io.ReadWriteCloser, error) {
	return func(raw net.Conn) (io.ReadWriteCloser, error) {
		own, err := os.MkdirTemp(dir, "s_server-")
		if err != nil {
			return nil, err
		}
		var b [3]byte // of an address that nobody else uses, so that the port is free
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, b[0] | 0x80, b[1], b[2] | 1}), 4433).String()
		all := append([]string{"s_server", "-quiet", "-naccept", "1", "-accept", at}, args...)
		if file == "" {
			all = append(all, "-nocert")
		} else {
			all = append(all, "-cert", file, "-key", file)
		}
		return startServer(own, at, raw, exec.Command("openssl", all...))
	}
}

// pemOf writes a certificate with its chain and its key.
func pemOf(cert *tls.Certificate) ([]byte, error) {
	var b bytes.Buffer
	for _, der := range cert.Certificate {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, err
		}
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	err = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	return b.Bytes(), err
}

// server is an s_server whose input and output are what is said over TLS.
type server struct {
	io.Reader
	io.WriteCloser
	raw, inner net.Conn
	cmd        *exec.Cmd
	copying    sync.WaitGroup
	once       sync.Once
	over       chan struct{} // closed when it has ended
}

func startServer(dir, at string, raw net.Conn, cmd *exec.Cmd) (io.ReadWriteCloser, error) {
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{Reader: out, WriteCloser: in, raw: raw, cmd: cmd, over: make(chan struct{})}
	go func() {
		defer close(s.over)
		_, _ = cmd.Process.Wait()
	}()
	for listening := false; !listening; {
		select {
		case <-s.over:
			text, _ := os.ReadFile(said.Name())
			return nil, fmt.Errorf("openssl s_server: %s", text)
		case <-time.After(time.Millisecond):
			s.inner, err = net.Dial("tcp", at)
			listening = err == nil
		}
	}
	s.copying.Go(func() { _, _ = io.Copy(s.inner, raw); s.inner.Close() })
	s.copying.Go(func() { _, _ = io.Copy(raw, s.inner); raw.Close() })
	return s, nil
}

// Close ends the process and the connection.
func (s *server) Close() (err error) {
	s.once.Do(func() {
		err = errors.Join(s.WriteCloser.Close(), ignoreClosed(s.inner.Close()))
		s.raw.Close()
		_ = s.cmd.Process.Kill()
		<-s.over
		s.copying.Wait()
	})
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
