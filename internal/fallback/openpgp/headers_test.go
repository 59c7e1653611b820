package openpgp

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/fallback/message"
)

// A client that knows protected header fields shows the real subject, and knows
// that nobody else saw it.
func TestProtectedHeaders(t *testing.T) {
	for _, name := range []string{"notmuch", "gpg", "gpgconf"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed: \"./deps.sh crypto\" installs it", name)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "o")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "GNUPGHOME=" + dir, "NOTMUCH_CONFIG=" + filepath.Join(dir, "config")}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return out
	}
	defer run("gpgconf", "--kill", "all")
	e := entity(t, "bob@plain.example", made(time.Now().Add(-day)))
	write(t, filepath.Join(dir, "key"), armored(t, "PGP PRIVATE KEY BLOCK", secret(t, e)))
	run("gpg", "--batch", "--quiet", "--import", filepath.Join(dir, "key"))
	write(t, filepath.Join(dir, "config"), []byte("[database]\npath="+dir+"/mail\n[user]\nname=Bob\nprimary_email=bob@plain.example\n"))
	for _, folder := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "mail", folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m, err := message.Read(strings.NewReader("From: Alice <alice@clinic.example>\r\nTo: bob@plain.example\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\n" +
		"Message-ID: <m1@clinic.example>\r\nSubject: =?utf-8?Q?Gr=C3=B6=C3=9Fe?= of the finding\r\n\r\nThe biopsy was malignant.\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	var wire bytes.Buffer
	if err := m.WriteOutside(&wire, message.Wrapping{}); err != nil {
		t.Fatal(err)
	}
	err = chosen(t, e).WriteMIME(&wire, Options{}, func(w io.Writer) error { return m.WriteInside(w, message.Wrapping{}) })
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mail", "new", "1"), wire.Bytes())
	run("notmuch", "new", "--quiet")
	var shown [][][]json.RawMessage
	out := run("notmuch", "show", "--format=json", "--decrypt=true", "id:m1@clinic.example")
	if err := json.Unmarshal(out, &shown); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var first struct {
		Headers map[string]string
		Crypto  struct {
			Decrypted struct {
				Status string
				Mask   map[string]string `json:"header-mask"`
			}
		}
	}
	if err := json.Unmarshal(shown[0][0][0], &first); err != nil {
		t.Fatal(err)
	}
	d := first.Crypto.Decrypted
	if first.Headers["Subject"] != "Größe of the finding" || d.Status != "full" || d.Mask["Subject"] != "[...]" {
		t.Errorf("notmuch shows %q, status %q, hidden %v\n%s", first.Headers["Subject"], d.Status, d.Mask, out)
	}
	if !bytes.Contains(out, []byte("The biopsy was malignant.")) {
		t.Errorf("the content isn't shown\n%s", out)
	}
}
