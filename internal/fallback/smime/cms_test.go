package smime

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/message"
	"tlsonly/internal/testnet/leak"
	"tlsonly/internal/testnet/oracle"
	"tlsonly/internal/testnet/sample"
)

var (
	now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	bob = addr.MustAddress("bob@plain.example")
)

const day = 24 * time.Hour

// pair is a certificate with its key.
type pair struct {
	x509 *x509.Certificate
	key  crypto.Signer
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecKey(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// issue makes a certificate for bob, changed by the functions, signed by
// itself.
func issue(t testing.TB, key crypto.Signer, change ...func(*x509.Certificate)) pair {
	t.Helper()
	usage := x509.KeyUsageKeyEncipherment
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		usage = x509.KeyUsageKeyAgreement
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Bob"}, EmailAddresses: []string{"bob@plain.example"},
		NotBefore: time.Now().Add(-1000 * day), NotAfter: time.Now().Add(1000 * day),
		KeyUsage: usage | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
	}
	for _, f := range change {
		f(c)
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	return pair{c, key}
}

func (p pair) pem(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.x509.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
}

func (p pair) use(t testing.TB) *Certificate {
	t.Helper()
	c, err := Use(p.x509, bob, "a file", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(data []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(data); return err }
}

func encrypted(t testing.TB, c *Certificate, o Options, inside []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := c.Encrypt(&out, o, put(inside)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Every program opens what all of them can, octet for octet: RSA v1.5 with
// AES-256-CBC. OpenSSL opens all. What others open of the rest is octet for
// octet, too, and what they don't is told.
func TestOracles(t *testing.T) {
	inside := make([]byte, 3*pieceSize+5)
	rand.Read(inside)
	inside = append([]byte("Content-Type: text/plain\r\n\r\nHello \x00\xff\n\r\n.\r\n"), inside...)
	pairs := map[string]pair{
		"RSA 2048": issue(t, rsaKey(t, 2048)), "RSA 3072": issue(t, rsaKey(t, 3072)),
		"P-256": issue(t, ecKey(t, elliptic.P256())), "P-384": issue(t, ecKey(t, elliptic.P384())), "P-521": issue(t, ecKey(t, elliptic.P521())),
	}
	for kind, p := range pairs {
		ec := strings.HasPrefix(kind, "P-")
		for name, o := range map[string]Options{"": {}, ", OAEP": {OAEP: true}, ", GCM": {GCM: true}} {
			if o.OAEP && ec {
				continue
			}
			text := encrypted(t, p.use(t), o, inside)
			for _, reader := range oracle.CMS() {
				// NSS 3.87 and GnuPG 2.2.40, which dies of a key for a curve.
				unread := reader.Name != "openssl" && (o.GCM || o.OAEP || ec)
				if reader.Name != "openssl" && kind == "RSA 3072" || reader.Name == "gpgsm" && (o.GCM || o.OAEP) || unread && kind != "RSA 2048" && kind != "P-256" {
					continue // it is the same as with the other key
				}
				t.Run(kind+name+"/"+reader.Name, func(t *testing.T) {
					reader.Need(t)
					got, err := reader.Open(p.pem(t), nil, text)
					if unread && err != nil {
						t.Skipf("%s doesn't read it: %v", reader.Name, err)
					}
					if err != nil || !bytes.Equal(got, inside) {
						t.Errorf("%d octets of %d, %v", len(got), len(inside), err)
					}
				})
			}
		}
	}
}

// A signature inside is there, is good, and is the site's.
func TestSigned(t *testing.T) {
	oracle.CMS()[0].Need(t)
	inside := []byte("Content-Type: text/plain\r\n\r\nHello \x00\xff\nbare\rends\r\n")
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey(t, 2048), "ECDSA": ecKey(t, elliptic.P256())} {
		site := issue(t, key, func(c *x509.Certificate) { c.EmailAddresses = []string{"gateway@clinic.example"} })
		signer, err := parseSigner(site.pem(t), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		p := issue(t, rsaKey(t, 2048))
		for _, o := range []Options{{Signer: signer}, {Signer: signer, GCM: true}} {
			got, err := oracle.CMS()[0].Open(p.pem(t), nil, encrypted(t, p.use(t), o, inside))
			if err != nil {
				t.Fatal(err)
			}
			m, err := message.Read(bytes.NewReader(got))
			if err != nil || !strings.Contains(m.All("Content-Type")[0].Value(), "smime-type=signed-data") {
				t.Fatalf("inside is\n%.300q", got)
			}
			signed, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, m.Body))
			if err != nil {
				t.Fatal(err)
			}
			if text, err := verify(t, signed, site.x509); err != nil || !bytes.Equal(text, inside) {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			if i := bytes.Index(signed, []byte("Hello")); i < 0 {
				t.Error("the content isn't inside")
			} else {
				signed[i] = 'J'
			}
			if _, err := verify(t, signed, site.x509); err == nil {
				t.Errorf("%s: changed, and still good", name)
			}
		}
	}
}

// verify asks openssl, for whom issuer is the one who may issue.
func verify(t *testing.T, signed []byte, issuer *x509.Certificate) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	at := func(name string, data []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	out, err := exec.Command("openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", at("signed", signed),
		"-CAfile", at("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Raw})), "-purpose", "any").Output()
	return out, err
}

func TestReadSigner(t *testing.T) {
	p := issue(t, ecKey(t, elliptic.P256()))
	other := issue(t, ecKey(t, elliptic.P256()))
	expired := issue(t, p.key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-day) })
	encipher := issue(t, rsaKey(t, 2048), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	sec1, err := x509.MarshalECPrivateKey(p.key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, _ := bytes.Cut(p.pem(t), []byte("-----BEGIN PRIVATE"))
	key = append([]byte("-----BEGIN PRIVATE"), key...)
	for name, tt := range map[string]struct {
		text []byte
		want string
	}{
		"certificate first": {p.pem(t), ""},
		"key first":         {append(bytes.Clone(key), certificate...), ""},
		"SEC 1":             {append(bytes.Clone(certificate), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...), ""},
		"no key":            {certificate, "a certificate and its key"},
		"no certificate":    {key, "a certificate and its key"},
		"another's key":     {append(bytes.Clone(key), other.pem(t)[:bytes.Index(other.pem(t), []byte("-----BEGIN PRIVATE"))]...), "isn't that of"},
		"two keys":          {append(p.pem(t), key...), "more than one key"},
		"passphrase":        {append(bytes.Clone(certificate), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: sec1})...), "passphrase"},
		"expired":           {expired.pem(t), "has expired"},
		"may not sign":      {encipher.pem(t), "keyUsage"},
		"garbage":           {[]byte("garbage"), "a certificate and its key"},
	} {
		file := filepath.Join(t.TempDir(), "sign.pem")
		if err := os.WriteFile(file, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSigner(file, time.Now())
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// Each sample arrives whole at openssl, is seen by nobody on the way, and
// counts as encrypted.
func TestSamples(t *testing.T) {
	openssl := oracle.CMS()[0]
	p := issue(t, rsaKey(t, 2048))
	c := p.use(t)
	for _, s := range append(sample.All(), sample.Large(300_000)) {
		t.Run(s.Name, func(t *testing.T) {
			m, err := message.Read(bytes.NewReader(s.Text))
			if err != nil {
				t.Fatal(err)
			}
			var wire, inside bytes.Buffer
			if err := m.WriteOutside(&wire, message.Wrapping{}); err != nil {
				t.Fatal(err)
			}
			err = c.WriteMIME(&wire, Options{}, func(w io.Writer) error {
				return m.WriteInside(io.MultiWriter(w, &inside), message.Wrapping{})
			})
			if err != nil {
				t.Fatal(err)
			}
			var secrets [][]byte
			for _, secret := range s.Secrets {
				secrets = append(secrets, []byte(secret))
			}
			if found := leak.NewSize(8, secrets...).Find(wire.Bytes()); found != nil {
				t.Errorf("on the wire: %v", found)
			}
			if p, err := message.Inspect(bytes.NewReader(wire.Bytes())); p != message.SMIME || err != nil {
				t.Errorf("isn't taken to be encrypted: %q, %v", p, err)
			}
			for line := range bytes.Lines(wire.Bytes()) {
				if !bytes.HasSuffix(line, []byte("\r\n")) {
					t.Fatalf("line %q", line)
				}
			}
			if openssl.Missing() != "" {
				t.Skip("openssl isn't there to open it")
			}
			again, err := message.Read(bytes.NewReader(wire.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			der, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, again.Body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := openssl.Open(p.pem(t), nil, der)
			if err != nil || !bytes.Equal(got, inside.Bytes()) {
				t.Errorf("openssl has %d octets of %d, %v", len(got), inside.Len(), err)
			}
		})
	}
}

// Of AuthEnvelopedData what is changed isn't opened; of EnvelopedData it may
// be: that is why a signature belongs inside.
func TestChanged(t *testing.T) {
	openssl := oracle.CMS()[0]
	openssl.Need(t)
	p := issue(t, ecKey(t, elliptic.P256()))
	inside := bytes.Repeat([]byte("The biopsy was malignant.\r\n"), 100)
	for _, o := range []Options{{GCM: true}, {}} {
		text := encrypted(t, p.use(t), o, inside)
		text[len(text)/2] ^= 1
		got, err := openssl.Open(p.pem(t), nil, text)
		if o.GCM && err == nil {
			t.Errorf("%+v: changed, and opened: %d octets", o, len(got))
		}
		if !o.GCM && err == nil && bytes.Equal(got, inside) {
			t.Errorf("%+v: changed, and the same", o)
		}
	}
}

// What fails in between is an error, and what was written isn't whole.
func TestEncryptErrors(t *testing.T) {
	c := issue(t, ecKey(t, elliptic.P256())).use(t)
	site, err := parseSigner(issue(t, ecKey(t, elliptic.P256())).pem(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, o := range []Options{{}, {GCM: true}, {Signer: site}} {
		var out bytes.Buffer
		err := c.WriteMIME(&out, o, func(w io.Writer) error {
			w.Write(make([]byte, 100_000))
			return broken
		})
		if !errors.Is(err, broken) {
			t.Errorf("%+v: %v", o, err)
		}
		text := append([]byte("Subject: x\r\n"), out.Bytes()...)
		if p, _ := message.Inspect(bytes.NewReader(text)); p != message.None {
			t.Errorf("%+v: what broke off counts as encrypted", o)
		}
		var size counter
		if err := c.WriteMIME(&size, o, put(make([]byte, 100_000))); err != nil {
			t.Fatal(err)
		}
		for left := 0; left < int(size)-10; left += int(size) / 20 {
			if err := c.WriteMIME(&full{left: left}, o, put(make([]byte, 100_000))); !errors.Is(err, errFull) {
				t.Errorf("%+v: a full disk after %d octets of %d: %v", o, left, size, err)
			}
		}
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

var errFull = errors.New("full")

type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// 16 MB cost no more memory than the buffers do.
func TestEncryptStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const size = 16 << 20
	site, err := parseSigner(issue(t, ecKey(t, elliptic.P256())).pem(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := issue(t, ecKey(t, elliptic.P256())).use(t)
	for _, o := range []Options{{}, {GCM: true}, {Signer: site}} {
		runtime.GC()
		var before, during runtime.MemStats
		runtime.ReadMemStats(&before)
		var most uint64
		start := time.Now()
		err := c.WriteMIME(io.Discard, o, func(w io.Writer) error {
			part := make([]byte, 64<<10)
			for n := 0; n < size; n += len(part) {
				if _, err := w.Write(part); err != nil {
					return err
				}
				if n%(8<<20) == 0 {
					runtime.GC()
					runtime.ReadMemStats(&during)
					most = max(most, during.HeapAlloc)
				}
			}
			return nil
		})
		grown := int64(most) - int64(before.HeapAlloc)
		if err != nil || grown > 4<<20 {
			t.Errorf("%+v: grown by %d octets, %v", o, grown, err)
		}
		t.Logf("GCM %v, signed %v: grown by %d octets, %v", o.GCM, o.Signer != nil, grown, time.Since(start))
	}
}
