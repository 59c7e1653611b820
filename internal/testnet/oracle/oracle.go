// Package oracle opens encrypted messages with the programs that people use:
// what they read, and say so by their exit status, is read. Each runs with a
// directory of its own, asks no network, and leaves nothing running.
package oracle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Reader is a program that opens messages.
type Reader struct {
	Name string
	// needs are the commands that have to be there; python names a module.
	needs  []string
	python string
	open   func(d dir, secret, signer, message string) (string, error)
}

// Missing says what the reader needs and isn't there, "" for nothing.
func (r Reader) Missing() string {
	for _, name := range r.needs {
		if _, err := exec.LookPath(name); err != nil {
			return name
		}
	}
	if r.python != "" && exec.Command("/usr/bin/python3", "-c", "import "+r.python).Run() != nil {
		return "python3-" + r.python
	}
	return ""
}

// Need skips the test where the reader's program isn't there.
func (r Reader) Need(t testing.TB) {
	t.Helper()
	if missing := r.Missing(); missing != "" {
		t.Skipf("%s is not installed: \"./deps.sh crypto\" installs it", missing)
	}
}

// Open opens a message with a secret and returns what is inside. OpenPGP: the
// secret is an armored key without passphrase, the message armored; with a
// signer, an armored public key, the message must bear its good signature.
// CMS: the secret is a certificate with its key, both in PEM, the message DER;
// a signer isn't taken.
//
// An error is an exit status other than 0, with what the program said.
func (r Reader) Open(secret, signer, message []byte) ([]byte, error) {
	// Short, because the sockets of GnuPG's agent are in it.
	root, err := os.MkdirTemp("/tmp", "o")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	d := dir(root)
	s, m := d.write("secret", secret), d.write("message", message)
	p := ""
	if signer != nil {
		p = d.write("signer", signer)
	}
	out, err := r.open(d, s, p, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, err)
	}
	return os.ReadFile(out)
}

// dir is the directory of one run.
type dir string

func (d dir) path(name string) string { return filepath.Join(string(d), name) }

func (d dir) write(name string, data []byte) string {
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		panic(err)
	}
	return d.path(name)
}

// exec runs a program in d, for at most two minutes, and returns what it said.
func (d dir) exec(input *os.File, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = string(d)
	if input != nil {
		cmd.Stdin = input
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + string(d), "GNUPGHOME=" + string(d), "LC_ALL=C.UTF-8"}
	said, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%.2000s", name, strings.Join(args, " "), err, said)
	}
	return said, err
}

func (d dir) run(name string, args ...string) error {
	_, err := d.exec(nil, name, args...)
	return err
}

// first runs commands until one fails.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (d dir) step(name string, args ...string) func() error {
	return func() error { return d.run(name, args...) }
}

// agents ends what GnuPG has started in d.
func (d dir) agents() { d.run("gpgconf", "--kill", "all") }

// PGP are the programs that read OpenPGP: GnuPG, RNP (Thunderbird), Sequoia,
// PGPy.
func PGP() []Reader {
	return []Reader{
		{Name: "gpg", needs: []string{"gpg", "gpgconf"}, open: func(d dir, secret, signer, message string) (string, error) {
			defer d.agents()
			gpg := []string{"--batch", "--quiet", "--no-auto-key-locate", "--disable-dirmngr", "--trust-model", "always"}
			steps := []func() error{d.step("gpg", append(gpg, "--import", secret)...)}
			if signer != "" {
				steps = append(steps, d.step("gpg", append(gpg, "--import", signer)...))
			}
			steps = append(steps, d.step("gpg", append(gpg, "--output", "out", "--decrypt", message)...))
			if signer != "" {
				// A message without a signature has status 0, too.
				steps = append(steps, func() error {
					return d.said("gpg", "[GNUPG:] GOODSIG ", append(gpg, "--status-fd", "1", "--output", "out2", "--decrypt", message)...)
				})
			}
			return d.path("out"), first(steps...)
		}},
		{Name: "rnp", needs: []string{"rnp", "rnpkeys"}, open: func(d dir, secret, signer, message string) (string, error) {
			steps := []func() error{d.step("rnpkeys", "--homedir", string(d), "--force", "--import-key", secret)}
			if signer != "" {
				steps = append(steps, d.step("rnpkeys", "--homedir", string(d), "--force", "--import-key", signer))
			}
			rnp := []string{"--homedir", string(d), "--notty", "--decrypt", message, "--output", "out"}
			steps = append(steps, func() error {
				if signer == "" {
					return d.run("rnp", rnp...)
				}
				// Its status is 0 with a signature of nobody it knows, too.
				return d.said("rnp", "Good signature made", rnp...)
			})
			return d.path("out"), first(steps...)
		}},
		{Name: "sq", needs: []string{"sq"}, open: func(d dir, secret, signer, message string) (string, error) {
			recipient, by := "--recipient-file", "--signer-file"
			if help, err := d.exec(nil, "sq", "decrypt", "--help"); err == nil && !bytes.Contains(help, []byte(recipient)) {
				recipient, by = "--recipient-key", "--signer-cert" // before 1.0
			}
			args := []string{"decrypt", "--output", "out", recipient, secret}
			if signer != "" {
				args = append(args, "--signatures", "1", by, signer)
			}
			return d.path("out"), d.run("sq", append(args, message)...)
		}},
		{Name: "pgpy", needs: []string{"/usr/bin/python3"}, python: "pgpy", open: func(d dir, secret, signer, message string) (string, error) {
			d.write("open.py", []byte(`import sys, warnings
warnings.simplefilter("ignore")
import pgpy
key, _ = pgpy.PGPKey.from_file(sys.argv[1])
m = key.decrypt(pgpy.PGPMessage.from_file(sys.argv[2]))
if sys.argv[3]:
    signer, _ = pgpy.PGPKey.from_file(sys.argv[3])
    v = signer.verify(m)
    assert v, "no good signature"
    assert list(v.good_signatures), "no signature"
data = m.message
open("out", "wb").write(data.encode("utf-8") if isinstance(data, str) else bytes(data))
`))
			return d.path("out"), d.run("/usr/bin/python3", "open.py", secret, message, signer)
		}},
	}
}

// said runs a program and wants its words, too.
func (d dir) said(name, word string, args ...string) error {
	out, err := d.exec(nil, name, args...)
	if err == nil && !bytes.Contains(out, []byte(word)) {
		err = fmt.Errorf("%s says no %s:\n%s", name, word, out)
	}
	return err
}

// CMS are the programs that read S/MIME: OpenSSL, NSS (Thunderbird), GnuPG.
func CMS() []Reader {
	p12 := func(d dir, secret string) func() error {
		return d.step("openssl", "pkcs12", "-export", "-in", secret, "-inkey", secret, "-out", "p12", "-passout", "pass:x", "-name", "me",
			// GnuPG 2.2 reads nothing newer.
			"-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1")
	}
	return []Reader{
		{Name: "openssl", needs: []string{"openssl"}, open: func(d dir, secret, _, message string) (string, error) {
			return d.path("out"), d.run("openssl", "cms", "-decrypt", "-inform", "DER", "-in", message, "-binary",
				"-recip", secret, "-inkey", secret, "-out", "out")
		}},
		{Name: "nss", needs: []string{"openssl", "certutil", "pk12util", "cmsutil"}, open: func(d dir, secret, _, message string) (string, error) {
			return d.path("out"), first(p12(d, secret),
				d.step("certutil", "-N", "-d", "sql:"+string(d), "--empty-password"),
				d.step("pk12util", "-i", "p12", "-d", "sql:"+string(d), "-W", "x", "-K", ""),
				d.step("cmsutil", "-D", "-d", "sql:"+string(d), "-p", "", "-i", message, "-o", "out"))
		}},
		{Name: "gpgsm", needs: []string{"openssl", "gpgsm", "gpgconf"}, open: func(d dir, secret, _, message string) (string, error) {
			defer d.agents()
			d.write("gpg-agent.conf", []byte("allow-loopback-pinentry\n"))
			d.write("pass", []byte("x"))
			gpgsm := []string{"--batch", "--disable-dirmngr", "--disable-crl-checks", "--pinentry-mode", "loopback", "--passphrase-fd", "0"}
			with := func(args ...string) func() error {
				return func() error { return d.fed("pass", "gpgsm", append(gpgsm, args...)...) }
			}
			return d.path("out"), first(p12(d, secret), with("--import", "p12"), with("--output", "out", "--decrypt", message))
		}},
	}
}

// fed is run with a file on standard input.
func (d dir) fed(file, name string, args ...string) error {
	in, err := os.Open(d.path(file))
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = d.exec(in, name, args...)
	return err
}
