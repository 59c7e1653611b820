package keyring

import (
	"bytes"
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/openpgp"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

const secretText = "Subject: Your biopsy\r\nFrom: dr@clinic.example\r\nTo: amy@example.com\r\nBcc: chief@clinic.example\r\n" +
	"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nThe biopsy was malignant, we are sorry.\r\n"

// run runs a program and returns what it writes.
func run(t *testing.T, input []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: \"./deps.sh crypto\" installs it", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(input)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, said.String())
	}
	return out
}

// gnupg is a home of GnuPG with secret keys.
type gnupg struct {
	*testing.T
	home string
}

func newGnuPG(t *testing.T) gnupg {
	g := gnupg{t, t.TempDir()}
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", g.home, "--kill", "all").Run() })
	return g
}

func (g gnupg) gpg(input []byte, args ...string) []byte {
	g.Helper()
	return run(g.T, input, "gpg", append([]string{"--homedir", g.home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
}

// key makes a key and returns it in binary.
func (g gnupg) key(user string) []byte {
	g.Helper()
	g.gpg(nil, "--quick-generate-key", "--yes", user, "future-default", "default", "1y")
	listed := string(g.gpg(nil, "--list-keys", "--with-colons"))
	last := ""
	for line := range strings.Lines(listed) {
		if fields := strings.Split(line, ":"); fields[0] == "pub" {
			last = fields[4]
		}
	}
	return g.gpg(nil, "--export", last)
}

// encrypted has a method encrypt the message, and looks whether anything of it
// is to be seen.
func encrypted(t *testing.T, m fallback.Method, to addr.Address) string {
	t.Helper()
	var out bytes.Buffer
	err := m.Encrypt(t.Context(), &out, strings.NewReader(secretText), fallback.Copy{
		Sender: addr.MustAddress("dr@clinic.example"), Recipient: to, MessageID: "<1.tlsonly@clinic.example>", Extra: []string{"TLS-Only-Sent: " + m.Name()}})
	if err != nil {
		t.Fatal(err)
	}
	text := out.String()
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	for _, want := range []string{"Subject: Encrypted\r\n", "Message-ID: <1.tlsonly@clinic.example>\r\n", "TLS-Only-Sent: " + m.Name() + "\r\n", "From: dr@clinic.example\r\n"} {
		if !strings.Contains(head+"\r\n", want) {
			t.Errorf("the outside has no %q:\n%s", want, head)
		}
	}
	for _, secret := range []string{"biopsy", "malignant", "chief@"} {
		if strings.Contains(strings.ToLower(text), secret) {
			t.Errorf("%q is to be seen", secret)
		}
	}
	if strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\n") {
		t.Error("a line without CRLF")
	}
	return text
}

// What the methods write is read by other programs, with keys from folders that
// are read again when they change.
func TestMethods(t *testing.T) {
	g := newGnuPG(t)
	dir, certs := t.TempDir(), t.TempDir()
	to := addr.MustAddress("Amy@example.com")
	unread := &kept{}
	rings := []*Ring{New(Config{Source: OpenPGP([]string{dir}), Store: unread}), New(Config{Source: SMIME([]string{certs}, nil), Store: unread})}
	methods := Methods{policy.OpenPGP: NewOpenPGP(rings[0], nil, "Encrypted"), policy.SMIME: NewSMIME(rings[1], nil, "Encrypted")}
	for name, m := range methods {
		if is, err := m.Known(t.Context(), addr.Address{}, to); is != fallback.None || err == nil {
			t.Fatalf("%s: %s before there is a key", name, is)
		}
		var out bytes.Buffer
		if err := m.Encrypt(t.Context(), &out, strings.NewReader(secretText), fallback.Copy{Recipient: to}); err == nil || out.Len() > 0 {
			t.Errorf("%s without a key: %v, %q", name, err, out.String())
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "amy.gpg"), g.key("Amy <amy@example.com>"), 0o600); err != nil {
		t.Fatal(err)
	}
	pem := func(name string) string { return filepath.Join(t.TempDir(), name) }
	secret, cert := pem("key"), filepath.Join(certs, "amy.pem")
	run(t, nil, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", secret, "-out", cert, "-days", "30", "-subj", "/CN=Amy",
		"-addext", "subjectAltName=email:amy@example.com", "-addext", "keyUsage=digitalSignature,keyEncipherment", "-addext", "extendedKeyUsage=emailProtection")
	for _, m := range methods {
		deadline := time.Now().Add(30 * time.Second)
		for {
			is, err := m.Known(t.Context(), addr.Address{}, to)
			if is == fallback.Certain {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s, %v after the files changed", m.Name(), is, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	m, is, err := methods.First(t.Context(), []policy.Method{policy.SMIME, policy.OpenPGP}, addr.Address{}, to)
	if is != fallback.Certain || m.Name() != "smime" {
		t.Fatalf("%v, %s, %v", m, is, err)
	}

	text := encrypted(t, methods[policy.OpenPGP], to)
	at := strings.Index(text, "-----BEGIN PGP MESSAGE-----")
	if at < 0 {
		t.Fatalf("no OpenPGP message:\n%s", text)
	}
	plain := string(g.gpg([]byte(text[at:strings.Index(text, "-----END PGP MESSAGE-----")]+"-----END PGP MESSAGE-----\r\n"), "--decrypt"))
	smime := string(run(t, []byte(encrypted(t, methods[policy.SMIME], to)), "openssl", "cms", "-decrypt", "-recip", cert, "-inkey", secret))
	for name, plain := range map[string]string{"openpgp": plain, "smime": smime} {
		if !strings.Contains(plain, "The biopsy was malignant, we are sorry.\r\n") || !strings.Contains(plain, "Subject: Your biopsy\r\n") ||
			strings.Contains(plain, "chief@") {
			t.Errorf("%s: inside is\n%s", name, plain)
		}
	}
}

// A key that its owner publishes in a Web Key Directory is pinned, whatever the
// server says later.
func TestPinnedFromWKD(t *testing.T) {
	g := newGnuPG(t)
	first, second := g.key("Amy <amy@example.com>"), g.key("Amy <amy@example.com>")
	if bytes.Equal(first, second) {
		t.Fatal("one key")
	}
	var serves atomic.Pointer[[]byte]
	var status atomic.Int32
	serves.Store(&first)
	status.Store(http.StatusOK)
	asked := atomic.Int32{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if !strings.HasPrefix(r.URL.Path, "/.well-known/openpgpkey/hu/") || r.URL.Query().Get("l") != "amy" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(*serves.Load())
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	wkd := &openpgp.WKD{Roots: roots,
		Addrs: func(_ context.Context, host addr.Domain) ([]netip.Addr, error) {
			if host.String() == "example.com" {
				return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
			}
			return nil, nil
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
	keys, err := store.Open(t.Context(), store.Config{URL: "sqlite://" + t.TempDir() + "/db", Daemon: true})
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	now := time.Now()
	var told []store.Event
	ring := func() *Ring {
		return New(Config{Source: OpenPGP(nil, wkd), Store: keys, Now: func() time.Time { return now },
			Tell: func(e store.Event) { told = append(told, e) }})
	}
	r := ring()
	amy := addr.MustAddress("amy@example.com")
	want := func(what string, octets []byte) {
		t.Helper()
		name, _, keyErr := openpgp.Identity(octets, now)
		f, is, err := r.Lookup(t.Context(), amy)
		if is != fallback.Certain || keyErr != nil || f.Fingerprint != name {
			t.Fatalf("%s: %s, %v", what, is, err)
		}
	}
	want("first", first)
	was := asked.Load()
	r = ring() // a restart
	want("from the store", first)
	if asked.Load() != was {
		t.Error("asked again")
	}
	now = now.Add(25 * time.Hour)
	serves.Store(&second)
	want("another is published", first)
	if len(told) != 1 || told[0].What != store.KeyChanged || told[0].Destination.String() != "example.com" ||
		told[0].From == told[0].To || !strings.Contains(told[0].Why, "tlsonly keys trust amy@example.com") {
		t.Errorf("told %+v", told)
	}
	if events, err := keys.History(t.Context(), addr.MustDestination("example.com"), 10); err != nil || len(events) != 1 {
		t.Errorf("history %v, %v", events, err)
	}
	for _, code := range []int32{http.StatusInternalServerError, http.StatusForbidden, http.StatusTooManyRequests} {
		now = now.Add(25 * time.Hour)
		status.Store(code)
		want("the server fails", first)
	}
	text := encrypted(t, NewOpenPGP(r, nil, "Encrypted"), amy)
	if !strings.Contains(text, "BEGIN PGP MESSAGE") {
		t.Error("not encrypted")
	}
	now = now.Add(25 * time.Hour)
	status.Store(http.StatusOK)
	if _, err := r.Trust(t.Context(), amy, told[0].To); err != nil {
		t.Fatal(err)
	}
	want("trusted", second)
	now = now.Add(25 * time.Hour)
	status.Store(http.StatusNotFound)
	want("trusted, and withdrawn", second)
	if rows, err := keys.Keys(t.Context(), policy.OpenPGP, amy); err != nil || len(rows) != 1 || rows[0].State != store.KeyTrusted {
		t.Errorf("kept %+v, %v", rows, err)
	}
	if len(told) != 1 {
		t.Errorf("told %+v", told)
	}
}
