package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"tlsonly/internal/addr"
)

func TestNewWants(t *testing.T) {
	whole := populated().config(t)
	for name, change := range map[string]func(*Config){
		"survey":      func(c *Config) { c.Survey = nil },
		"known":       func(c *Config) { c.Remembered = nil },
		"store":       func(c *Config) { c.Store = nil },
		"rules":       func(c *Config) { c.Rules = nil },
		"meter":       func(c *Config) { c.Meter = nil },
		"password":    func(c *Config) { c.Password = "secret" },
		"certificate": func(c *Config) { c.Cert, c.Key = "/nonexistent", "/nonexistent" },
	} {
		c := whole
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Every answer has the headers under which a browser does nothing but show it.
func TestHeaders(t *testing.T) {
	s := newTest(t, populated(), nil)
	for _, path := range []string{"/", "/destinations", "/destinations/lab.example", "/rules", "/explain", "/metrics", "/healthz", "/readyz", "/v1/destinations", "/v1/nothing", "/nothing", "/icon.svg"} {
		h := ask(s, "GET", path, "").Header()
		policy := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "style-src 'self'", "img-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: no %s in %q", path, part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "script-src") {
			t.Errorf("%s: %s", path, policy)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin"} {
			if h.Get(name) != want {
				t.Errorf("%s: %s: %q", path, name, h.Get(name))
			}
		}
		if c := h.Get("Cache-Control"); c != "no-store" && !(path == "/icon.svg" && c == "no-cache") {
			t.Errorf("%s: Cache-Control: %q", path, c)
		}
		if h.Get("Set-Cookie") != "" {
			t.Errorf("%s sets a cookie", path)
		}
	}
	if w := ask(s, "GET", "/style.css", ""); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/css") {
		t.Error(w.Code, w.Header())
	} else if again := ask(s, "GET", "/style.css", "", "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
		t.Error(again.Code)
	}
}

// Without a password only names that mean this host are answered: others may be an attacker's that lead here.
func TestRebinding(t *testing.T) {
	s := newTest(t, populated(), func(c *Config) { c.Host = "Status.internal" })
	for host, want := range map[string]int{
		"localhost:8691": 200, "LOCALHOST": 200, "127.0.0.1:8691": 200, "127.1.2.3": 200, "[::1]:8691": 200, "[::ffff:127.0.0.1]": 200, "status.internal:8691": 200,
		"attacker.example": 421, "attacker.example:8691": 421, "localhost.attacker.example": 421, "127.0.0.1.attacker.example:8691": 421,
		"192.0.2.1:8691": 421, "": 421, "localhost.": 421,
	} {
		for _, path := range []string{"/", "/metrics", "/healthz", "/v1/destinations"} {
			if w := ask(s, "GET", path, "", "Host", host); w.Code != want {
				t.Errorf("Host %q %s: %d, want %d", host, path, w.Code, want)
			}
		}
	}
	hash := hashOf(t, "secret")
	s = newTest(t, populated(), func(c *Config) { c.Password = hash })
	status(t, ask(s, "GET", "/", "", "Host", "status.example.com", "Authorization", basic("secret")), 200)
}

func hashOf(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func basic(password string) string {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth("any name", password)
	return r.Header.Get("Authorization")
}

func TestPassword(t *testing.T) {
	w := populated()
	s := newTest(t, w, func(c *Config) { c.Password = hashOf(t, "correct horse") })
	for _, path := range []string{"/", "/metrics", "/healthz", "/readyz", "/style.css", "/v1/destinations", "/nothing"} {
		for header, want := range map[string]int{"": 401, "Basic !": 401, "Bearer x": 401, basic("correct horse"): 200, basic(""): 401} {
			if path == "/nothing" && want == 200 {
				want = 404
			}
			w.clock = w.clock.Add(time.Minute) // failures are forgotten
			var headers []string
			if header != "" {
				headers = []string{"Authorization", header}
			}
			got := ask(s, "GET", path, "", headers...)
			status(t, got, want)
			if want == 401 && !strings.HasPrefix(got.Header().Get("WWW-Authenticate"), "Basic ") {
				t.Error("no challenge")
			}
			if want == 401 && strings.Contains(got.Body.String(), "pharmacy") {
				t.Error("tells something to a stranger")
			}
		}
	}
}

// Who guesses is slowed down; who knows the password isn't, wherever others guess from.
func TestGuessing(t *testing.T) {
	w := populated()
	s := newTest(t, w, func(c *Config) { c.Password = hashOf(t, "correct horse") })
	status(t, ask(s, "GET", "/healthz", "", "Authorization", basic("correct horse")), 200)
	codes := map[int]int{}
	for i := range 3 * maxFailures {
		codes[ask(s, "GET", "/healthz", "", "Authorization", basic(fmt.Sprint("guess", i))).Code]++
	}
	if codes[401] != maxFailures || codes[429] != 2*maxFailures {
		t.Error(codes)
	}
	status(t, ask(s, "GET", "/healthz", "", "Authorization", basic("correct horse")), 200)
	w.clock = w.clock.Add(failureEvery)
	status(t, ask(s, "GET", "/healthz", "", "Authorization", basic("one more")), 401)
	status(t, ask(s, "GET", "/healthz", "", "Authorization", basic("and another")), 429)
	// What is kept of guessers is bounded.
	g := s.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range maxBuckets + 100 {
		g.take(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	if len(g.failures) > maxBuckets {
		t.Errorf("%d clients kept", len(g.failures))
	}
}

func TestServeRefuses(t *testing.T) {
	hash := hashOf(t, "secret")
	cert, key := writeCertificate(t, t.TempDir(), "one.example")
	far := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 8691}
	for _, test := range []struct {
		name   string
		at     net.Addr
		change func(*Config)
		ok     bool
	}{
		{"loopback", &net.TCPAddr{IP: net.ParseIP("127.0.0.1")}, func(*Config) {}, true},
		{"loopback 6", &net.TCPAddr{IP: net.ParseIP("::1")}, func(*Config) {}, true},
		{"all", &net.TCPAddr{IP: net.ParseIP("::")}, func(*Config) {}, false},
		{"far", far, func(*Config) {}, false},
		{"password alone", far, func(c *Config) { c.Password = hash }, false},
		{"TLS alone", far, func(c *Config) { c.Cert, c.Key = cert, key }, false},
		{"proxy alone", far, func(c *Config) { c.BehindProxy = true }, false},
		{"password and TLS", far, func(c *Config) { c.Password, c.Cert, c.Key = hash, cert, key }, true},
		{"password and proxy", far, func(c *Config) { c.Password, c.BehindProxy = hash, true }, true},
	} {
		s := newTest(t, populated(), test.change)
		if err := s.allowed(test.at); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// serve serves on a loopback port until the end of the test.
func serve(t *testing.T, s *Server) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr()
}

func writeCertificate(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A renewed certificate is shown without a restart; one that can't be read leaves the old one.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, "one.example")
	var passed atomic.Int64
	s := newTest(t, populated(), func(c *Config) {
		c.Cert, c.Key = cert, key
		c.Now = func() time.Time { return noon.Add(time.Duration(passed.Load())) }
	})
	at := serve(t, s)
	shown := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", at.String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	later := func(seconds int) {
		future := time.Now().Add(time.Duration(seconds) * time.Second)
		for _, path := range []string{cert, key} {
			if err := os.Chtimes(path, future, future); err != nil {
				t.Fatal(err)
			}
		}
		passed.Add(int64(certEvery))
	}
	if got := shown(); got != "one.example" {
		t.Error(got)
	}
	writeCertificate(t, dir, "two.example")
	later(10)
	if got := shown(); got != "two.example" {
		t.Error(got)
	}
	if err := os.WriteFile(cert, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	later(20)
	if got := shown(); got != "two.example" {
		t.Error(got)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + at.String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(body), "ok") {
		t.Errorf("%q %v", body, err)
	}
}

// What is too much is refused, over a real connection.
func TestLimits(t *testing.T) {
	s := newTest(t, populated(), func(c *Config) { c.MaxConnections = 2 })
	at := serve(t, s).String()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	large, err := http.NewRequest("GET", "http://"+at+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	large.Header.Set("X-Large", strings.Repeat("x", 2*maxHeader))
	resp, err := client.Do(large)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(resp.Status)
	}
	// Two connections are served, the third waits until one ends.
	var first net.Conn
	for range 2 {
		if first, err = net.Dial("tcp", at); err != nil {
			t.Fatal(err)
		}
		defer first.Close()
	}
	third := make(chan error, 1)
	go func() {
		resp, err := client.Get("http://" + at + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		third <- err
	}()
	select {
	case err := <-third:
		t.Errorf("a third was served: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	if err := <-third; err != nil {
		t.Error(err)
	}
}

// A panic is one request's.
func TestPanic(t *testing.T) {
	s := newTest(t, populated(), func(c *Config) {
		c.Explain = func(context.Context, addr.Address, addr.Address, string) Explanation { panic("boom") }
		c.Checks = append(c.Checks, Check{"broken", func(context.Context) error { panic("boom") }})
	})
	w := ask(s, "POST", "/v1/explain", `{"from":"a@b.example","to":"c@d.example"}`)
	status(t, w, 500)
	if strings.Contains(w.Body.String(), "boom") {
		t.Error(w.Body)
	}
	if w := ask(s, "GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "broken: the check went wrong: boom") {
		t.Error(w.Code, w.Body)
	}
	status(t, ask(s, "GET", "/", ""), 200)
}

func TestHealth(t *testing.T) {
	w := populated()
	s := newTest(t, w, nil)
	if got := ask(s, "GET", "/healthz", ""); got.Code != 200 || got.Body.String() != "ok\n" {
		t.Error(got.Code, got.Body)
	}
	if got := ask(s, "GET", "/readyz", ""); got.Code != 200 || got.Body.String() != "ok\nstore: ok\nresolver: ok\nlisteners: ok\nmemory: ok\nbinding: ok\n" {
		t.Error(got.Code, got.Body)
	}
	w.away = errors.New("disk full")
	if got := ask(s, "GET", "/readyz", ""); got.Code != 503 || !strings.HasPrefix(got.Body.String(), "failed\nstore: disk full\nresolver: ok\n") {
		t.Error(got.Code, got.Body)
	}
	got := ask(s, "GET", "/readyz", "", "Accept", "application/json")
	if got.Code != 503 || got.Header().Get("Content-Type") != "application/json" || !strings.Contains(got.Body.String(), `"error": "disk full"`) {
		t.Error(got.Code, got.Body)
	}
	if got := ask(s, "GET", "/healthz", ""); got.Code != 200 {
		t.Error("a process that lives is alive whatever the store does")
	}
}

// In a browser an error is a page, for a program a problem, for the rest a line.
func TestErrors(t *testing.T) {
	s := newTest(t, populated(), nil)
	for _, test := range []struct {
		method, path, accept string
		status               int
		media                string
	}{
		{"GET", "/nothing", "text/html,*/*", 404, "text/html; charset=utf-8"},
		{"GET", "/nothing", "application/json", 404, "application/problem+json"},
		{"GET", "/nothing", "", 404, "text/plain; charset=utf-8"},
		{"GET", "/v1/nothing", "text/html", 404, "application/problem+json"},
		{"POST", "/", "text/html", 405, "text/html; charset=utf-8"},
		{"DELETE", "/v1/destinations/lab.example", "", 405, "application/problem+json"},
		{"GET", "/v1/explain", "", 405, "application/problem+json"},
		{"GET", "/destinations/nobody.example", "text/html", 404, "text/html; charset=utf-8"},
		{"GET", "/destinations/not..a..name", "text/html", 400, "text/html; charset=utf-8"},
		{"GET", "/nothing", "text/html;q=0, application/json", 404, "application/problem+json"},
	} {
		w := ask(s, test.method, test.path, "", "Accept", test.accept)
		if w.Code != test.status || w.Header().Get("Content-Type") != test.media {
			t.Errorf("%s %s, %s: %d %s", test.method, test.path, test.accept, w.Code, w.Header().Get("Content-Type"))
		}
		if test.status == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", test.method, test.path)
		}
	}
	if w := ask(s, "GET", "/destinations/%3Cscript%3E.example", "", "Accept", "text/html"); strings.Contains(w.Body.String(), "<script") {
		t.Error(w.Body)
	}
}
