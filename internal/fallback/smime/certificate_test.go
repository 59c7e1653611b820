package smime

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/message"
)

// A certificate has to be its owner's, valid, strong, and for this use.
func TestUse(t *testing.T) {
	strong, curve := rsaKey(t, 2048), ecKey(t, elliptic.P256())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	emails := func(all ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.EmailAddresses = all }
	}
	usage := func(u x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = u }
	}
	extended := func(all ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = all }
	}
	subject := func(address string, alternative ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.EmailAddresses = alternative
			c.Subject = pkix.Name{CommonName: "Bob", ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: address}}}
		}
	}
	between := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(to) }
	}
	for name, tt := range map[string]struct {
		key    crypto.Signer
		change func(*x509.Certificate)
		why    string // "" where it can be used
	}{
		"RSA":                       {strong, emails("bob@plain.example"), ""},
		"P-256":                     {curve, emails("bob@plain.example"), ""},
		"P-384":                     {ecKey(t, elliptic.P384()), emails("bob@plain.example"), ""},
		"case":                      {strong, emails("Bob@Plain.Example"), ""},
		"one of several":            {strong, emails("eve@plain.example", "bob@plain.example"), ""},
		"in the subject":            {strong, subject("bob@plain.example"), ""},
		"no usage said":             {strong, usage(0), ""},
		"no usage said, EC":         {curve, usage(0), ""},
		"no extended usage said":    {strong, extended(), ""},
		"any extended usage":        {strong, extended(x509.ExtKeyUsageAny), ""},
		"one of extended usages":    {strong, extended(x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection), ""},
		"valid for another second":  {strong, between(-day, time.Second), ""},
		"valid for a second":        {strong, between(-time.Second, day), ""},
		"another's":                 {strong, emails("eve@plain.example"), "no rfc822Name"},
		"longer":                    {strong, emails("bob@plain.example.org"), "no rfc822Name"},
		"longer local part":         {strong, emails("notbob@plain.example"), "no rfc822Name"},
		"domain only":               {strong, emails("plain.example"), "no rfc822Name"},
		"display name":              {strong, emails("<bob@plain.example>"), "no rfc822Name"},
		"comment":                   {strong, emails("bob@plain.example(x)"), "no rfc822Name"},
		"subject with another name": {strong, subject("bob@plain.example", "eve@plain.example"), "no rfc822Name"},
		"none":                      {strong, emails(), "no rfc822Name"},
		"expired":                   {strong, between(-day, -time.Second), "has expired"},
		"not yet":                   {strong, between(time.Second, day), "is valid from"},
		"signs only":                {strong, usage(x509.KeyUsageDigitalSignature), "keyUsage"},
		"RSA that agrees":           {strong, usage(x509.KeyUsageKeyAgreement), "keyUsage"},
		"EC that enciphers":         {curve, usage(x509.KeyUsageKeyEncipherment), "keyUsage"},
		"for servers":               {strong, extended(x509.ExtKeyUsageServerAuth), "emailProtection"},
		"for something unknown": {strong, func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3, 4}}
		}, "emailProtection"},
		"RSA 1024": {rsaKey(t, 1024), emails("bob@plain.example"), "too weak"},
		"P-224":    {ecKey(t, elliptic.P224()), emails("bob@plain.example"), "curve"},
		"Ed25519":  {edwards, emails("bob@plain.example"), "can't be used"},
	} {
		p := issue(t, tt.key, between(-10*day, 10*day), tt.change)
		c, err := Use(p.x509, bob, "a file", now)
		switch {
		case tt.why == "" && (err != nil || c.Fingerprint == "" || c.Algorithm == "" || c.Address != bob || c.Source != "a file"):
			t.Errorf("%s: %+v, %v", name, c, err)
		case tt.why != "" && (!errors.Is(err, ErrNoCertificate) || !strings.Contains(err.Error(), tt.why)):
			t.Errorf("%s: %v, want %s", name, err, tt.why)
		}
	}
	if _, err := Use(issue(t, strong, emails("")).x509, addr.Address{}, "a file", now); err == nil {
		t.Error("the null sender has a certificate")
	}
}

func TestVerify(t *testing.T) {
	root := issue(t, ecKey(t, elliptic.P256()), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.ExtKeyUsage, c.EmailAddresses, c.Subject.CommonName = nil, nil, "CA"
	})
	key := rsaKey(t, 2048)
	leaf := issue(t, key).x509
	template := *leaf
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	raw, err := x509.CreateCertificate(rand.Reader, &template, root.x509, key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root.x509)
	for name, tt := range map[string]struct {
		c    *x509.Certificate
		good bool
	}{"issued": {issued, true}, "by itself": {leaf, false}} {
		c, err := Use(tt.c, bob, "a file", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Verify(roots, nil, time.Now()); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Bad files and certificates are named, and are nobody else's fault.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, parts ...[]byte) {
		t.Helper()
		if err := os.WriteFile(at(name), bytes.Join(parts, nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(p pair) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.x509.Raw})
	}
	key := rsaKey(t, 2048)
	of := func(address string, age time.Duration) pair {
		return issue(t, key, func(c *x509.Certificate) {
			c.EmailAddresses = []string{address}
			c.NotBefore = now.Add(-age)
		})
	}
	old, newer := of("bob@plain.example", 100*day), of("bob@plain.example", 10*day)
	expired := issue(t, key, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-5*day), now.Add(-day) })
	carol, dave := of("carol@plain.example", day), of("dave@plain.example", day)
	nobody := issue(t, key, func(c *x509.Certificate) { c.EmailAddresses = nil })
	ca := issue(t, key, func(c *x509.Certificate) {
		c.EmailAddresses, c.IsCA, c.BasicConstraintsValid = nil, true, true
	})
	write("bob.pem", []byte("Bob:\n"), in(old), in(newer), in(expired), in(ca))
	write("carol.der", carol.x509.Raw)
	write("dave.pem", in(dave), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	write("nobody.pem", in(nobody))
	write("key.pem", of("erin@plain.example", day).pem(t))
	write("broken.pem", []byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"))
	write("broken.der", carol.x509.Raw[:100])
	write("request.pem", []byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	write("empty.pem")
	write("text", []byte("nothing"))
	write(".hidden", []byte("nothing"))
	s := OpenStore([]string{dir, at("not-there")})
	told := ""
	for _, p := range s.Problems() {
		told += p.Error() + "\n"
	}
	for _, want := range []string{
		"dave.pem: certificate number 2: ", "nobody.pem: certificate number 1: no rfc822Name", "key.pem: a private key", "broken.pem: 1 of 1 blocks",
		"broken.der: no certificate in DER", "request.pem: no certificate, but CERTIFICATE REQUEST", "empty.pem: empty", "text: no certificate", "not-there: no such file",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("nothing is said of %q:\n%s", want, told)
		}
	}
	if n := strings.Count(told, "\n"); n != 9 {
		t.Errorf("%d problems:\n%s", n, told)
	}
	for address, want := range map[string]pair{"bob@plain.example": newer, "carol@plain.example": carol, "dave@plain.example": dave} {
		if c, err := s.Lookup(addr.MustAddress(address), now); err != nil || !c.X509.Equal(want.x509) {
			t.Errorf("%s: %+v, %v", address, c, err)
		}
	}
	if _, err := s.Lookup(addr.MustAddress("frank@plain.example"), now); err == nil || errors.Is(err, ErrNoCertificate) {
		t.Errorf("frank: %v, want an error that isn't ErrNoCertificate", err)
	}
	sound := OpenStore([]string{at("bob.pem"), at("carol.der")})
	if _, err := sound.Lookup(addr.MustAddress("frank@plain.example"), now); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("frank: %v", err)
	}
	if sound.Len() != 4 || len(sound.Addresses()) != 2 || len(sound.Problems()) != 0 {
		t.Errorf("%d, %v, %v", sound.Len(), sound.Addresses(), sound.Problems())
	}
	write("bob.pem", in(expired))
	sound.Reload()
	if _, err := sound.Lookup(bob, now); !errors.Is(err, ErrNoCertificate) || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "bob.pem") {
		t.Errorf("expired: %v", err)
	}
}

// A file is read in the forms that editors and programs give it.
func TestReadCertificates(t *testing.T) {
	p := issue(t, ecKey(t, elliptic.P256()))
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.x509.Raw}))
	for name, in := range map[string]string{
		"DER": string(p.x509.Raw), "PEM": text, "CRLF": strings.ReplaceAll(text, "\n", "\r\n"), "mark of UTF-8": "\xef\xbb\xbf" + text,
		"text around": "Bob\n" + text + "end\n", "no end of line": strings.TrimRight(text, "\n"),
	} {
		all, err := ReadCertificates([]byte(in))
		if err != nil || len(all) != 1 || !bytes.Equal(all[0], p.x509.Raw) {
			t.Errorf("%s: %d certificates, %v", name, len(all), err)
		}
	}
}

// node is an element of BER.
type node struct {
	id       byte
	content  []byte
	children []node
}

// parse reads one element and returns the rest. Constructed ones are read to
// their leaves.
func parse(t testing.TB, b []byte) (n node, rest []byte) {
	t.Helper()
	if len(b) < 2 {
		t.Fatal("BER cut off")
	}
	n.id, b = b[0], b[1:]
	size, indefinite := int(b[0]), b[0] == 0x80
	b = b[1:]
	if size > 0x80 {
		octets := size & 0x7f
		size = 0
		for _, c := range b[:octets] {
			size = size<<8 | int(c)
		}
		b = b[octets:]
	}
	switch {
	case indefinite:
		for b[0] != 0 || b[1] != 0 {
			var child node
			child, b = parse(t, b)
			n.children = append(n.children, child)
		}
		return n, b[2:]
	case n.id&constructed != 0:
		for inner := b[:size]; len(inner) > 0; {
			var child node
			child, inner = parse(t, inner)
			n.children = append(n.children, child)
		}
	}
	n.content = b[:size]
	return n, b[size:]
}

// decrypt opens an EnvelopedData for an RSA key with means of its own.
func decrypt(t testing.TB, text []byte, key *rsa.PrivateKey) []byte {
	t.Helper()
	info, rest := parse(t, text)
	if len(rest) > 0 {
		t.Fatalf("%d octets behind", len(rest))
	}
	data := info.children[1].children[0]
	session, err := key.Decrypt(rand.Reader, data.children[1].children[0].children[3].content, &rsa.PKCS1v15DecryptOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content := data.children[2]
	iv := content.children[1].children[1].content
	var cipherText []byte
	for i, piece := range content.children[2].children {
		if last := i == len(content.children[2].children)-1; piece.id != tagOctets || !last && len(piece.content) != pieceSize {
			t.Fatalf("piece %d has identifier %x, %d octets", i, piece.id, len(piece.content))
		}
		cipherText = append(cipherText, piece.content...)
	}
	return unCBC(t, session, iv, cipherText)
}

// What is encrypted is what comes out, in any pieces.
func FuzzEncrypt(f *testing.F) {
	key := rsaKey(f, 2048).(*rsa.PrivateKey)
	c := issue(f, key).use(f)
	f.Add([]byte("hello"), 1)
	f.Add([]byte{}, 1)
	f.Add(make([]byte, 16), 5)
	f.Add(make([]byte, 3*pieceSize), 1000)
	f.Add(make([]byte, pieceSize-1), 17)
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		piece = max(1, piece&0xffff)
		var out bytes.Buffer
		if err := c.Encrypt(&out, Options{}, pieceWise(text, piece)); err != nil {
			t.Fatal(err)
		}
		if got := decrypt(t, out.Bytes(), key); !bytes.Equal(got, text) {
			t.Errorf("%q became %q", text, got)
		}
		mime := "Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: binary\r\n\r\n" + out.String()
		if p, _ := message.Inspect(strings.NewReader(mime)); p != message.SMIME {
			t.Error("isn't taken to be encrypted")
		}
	})
}

// Whatever a file has: it is read, and what can be used encrypts.
func FuzzCertificates(f *testing.F) {
	p := issue(f, ecKey(f, elliptic.P256()))
	f.Add(p.x509.Raw)
	f.Add(p.pem(f))
	f.Add(issue(f, rsaKey(f, 2048)).x509.Raw)
	f.Fuzz(func(t *testing.T, text []byte) {
		all, _ := ReadCertificates(text)
		for _, raw := range all {
			parsed, err := x509.ParseCertificate(raw)
			if err != nil {
				continue
			}
			c, err := Use(parsed, bob, "fuzz", time.Now())
			if err != nil {
				if !errors.Is(err, ErrNoCertificate) {
					t.Error(err)
				}
				continue
			}
			var out bytes.Buffer
			if err := c.Encrypt(&out, Options{}, put([]byte("hello"))); err != nil {
				t.Logf("can be used, but: %v", err) // a modulus that is even
			}
			if bytes.Contains(out.Bytes(), []byte("hello")) {
				t.Error("in the clear")
			}
		}
	})
}
