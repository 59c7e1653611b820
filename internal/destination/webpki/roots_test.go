package webpki

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/policy"
)

func encode(h *holder) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.cert.Raw}))
}

func TestRoots(t *testing.T) {
	a, b := issue(t, "a", nil, authority), issue(t, "b", nil, authority)
	all := x509.NewCertPool()
	all.AddCert(a.cert)
	all.AddCert(b.cert)
	lines := strings.Count(encode(a), "\n")
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for _, c := range []struct {
		name, text string
		want       string // contained in the error; "" for none
	}{
		{"two", encode(a) + encode(b), ""},
		{"with remarks", "# our roots\n\nsubject=/CN=a\n" + encode(a) + "\n" + key + encode(b) + "end\n", ""},
		{"with CRLF", strings.ReplaceAll(encode(a)+encode(b), "\n", "\r\n"), ""},
		{"no line end", strings.TrimSuffix(encode(a)+encode(b), "\n"), ""},
		{"empty", "", ":1: no certificate in the file"},
		{"text", "hello\n", ":1: no certificate in the file"},
		{"a key", key, ":1: no certificate in the file"},
		{"DER", string(a.cert.Raw), ":1: no certificate in the file"},
		{"cut", encode(a) + strings.TrimSuffix(encode(b), "-----END CERTIFICATE-----\n"), ":" + strconv.Itoa(lines+1) + ": this certificate has no end"},
		{"two begins", "\n-----BEGIN CERTIFICATE-----\n" + encode(a), ":2: this certificate has no end"},
		{"no begin", encode(a) + "\n-----END CERTIFICATE-----\n", ":" + strconv.Itoa(lines+2) + ": the end of a certificate without its beginning"},
		{"not base64", "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n", ":1: this certificate is not base64"},
		{"not a certificate", "# x\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), ":2: x509: "},
		{"one good, one bad", encode(a) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ":" + strconv.Itoa(lines+1) + ": x509: "},
	} {
		file := filepath.Join(t.TempDir(), "roots.pem")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Roots(file)
		switch {
		case c.want == "" && (err != nil || !got.Equal(all)):
			t.Errorf("%s: %v, or not the two roots", c.name, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "root certificates: "+file+c.want) || got != nil):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Roots(filepath.Join(t.TempDir(), "none.pem")); err == nil || !strings.Contains(err.Error(), "none.pem: no such file") {
		t.Errorf("no file: %v", err)
	}
	if _, err := Roots(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a folder: %v", err)
	}
}

// TestRootsOfHost is the only test here that may ask for the host's roots: crypto/x509 reads them once.
func TestRootsOfHost(t *testing.T) {
	root := issue(t, "host root", nil, authority)
	leaf := issue(t, "mx.test", root, mailHost)
	file := filepath.Join(t.TempDir(), "host.pem")
	if err := os.WriteFile(file, []byte(encode(root)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", file)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	pool, err := Roots("")
	if err != nil {
		t.Fatal(err)
	}
	for _, roots := range []*x509.CertPool{pool, nil} {
		if got, why := Judge([][]byte{leaf.cert.Raw}, roots, time.Now()); got != policy.Trusted {
			t.Errorf("%s: %s", got, why)
		}
	}
}
