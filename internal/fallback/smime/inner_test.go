package smime

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/fallback/message"
	"tlsonly/internal/testnet/oracle"
)

// A signature that the sender's client made is good at the recipient: the
// signed entity is the same, octet for octet, behind encryption and wrapping.
func TestInnerSignature(t *testing.T) {
	oracle.CMS()[0].Need(t)
	dir := t.TempDir()
	at := func(name string, data []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	openssl := func(args ...string) ([]byte, error) { return exec.Command("openssl", args...).Output() }
	alice := issue(t, rsaKey(t, 2048), func(c *x509.Certificate) { c.EmailAddresses = []string{"alice@clinic.example"} })
	body := at("body", []byte("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xb6\xc3\x9fe: 3 mm  \r\n\t\r\n--x\r\n"))
	signed, err := openssl("cms", "-sign", "-in", body, "-signer", at("alice", alice.pem(t)), "-crlfeol", "-md", "sha256")
	if err != nil {
		t.Fatal(err)
	}
	text := append([]byte("From: alice@clinic.example\r\nSubject: Findings\r\nDKIM-Signature: v=1\r\n"), signed...)
	p := issue(t, rsaKey(t, 2048))
	m, err := message.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var out, in bytes.Buffer
	if err := m.WriteInside(&in, message.Wrapping{}); err != nil {
		t.Fatal(err)
	}
	if err := p.use(t).Encrypt(&out, Options{}, put(in.Bytes())); err != nil {
		t.Fatal(err)
	}
	got, err := oracle.CMS()[0].Open(p.pem(t), nil, out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	// The last part of the multipart/mixed, as a reader cuts it.
	_, rest, _ := strings.Cut(string(got), `boundary="`)
	boundary, _, _ := strings.Cut(rest, `"`)
	parts := strings.Split(string(got), "\r\n--"+boundary)
	part := strings.TrimPrefix(parts[len(parts)-2], "\r\n")
	ca := at("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: alice.x509.Raw}))
	check := func(entity string) error {
		_, err := openssl("cms", "-verify", "-in", at("entity", []byte(entity)), "-CAfile", ca, "-purpose", "any", "-out", filepath.Join(dir, "verified"))
		return err
	}
	if err := check(part); err != nil {
		t.Errorf("the signature is no longer good: %v\n%s", err, part)
	}
	if err := check(strings.Replace(part, "3 mm", "4 mm", 1)); err == nil {
		t.Error("any signature is good")
	}
}
