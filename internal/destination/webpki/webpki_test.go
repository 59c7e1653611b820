package webpki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

type holder struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

func mailHost(c *x509.Certificate) {
	c.DNSNames, c.KeyUsage = []string{"mx.test"}, x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, -2, 0), c.NotAfter.AddDate(0, -1, 0)
}

func notYet(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, 1, 0), c.NotAfter.AddDate(0, 2, 0)
}

// issue makes a certificate and its key, signed by by, or by itself when that is nil.
func issue(t testing.TB, name string, by *holder, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = &holder{key: key}
	}
	return &holder{sign(t, name, by, key.Public(), edits...), key}
}

// sign makes a certificate of a key, with by's; by without a certificate is by itself.
func sign(t testing.TB, name string, by *holder, key crypto.PublicKey, edits ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xabc),
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(time.Hour),
	}
	if name != "" {
		template.Subject = pkix.Name{CommonName: name}
	}
	for _, e := range edits {
		e(template)
	}
	parent := by.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by.key)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return cert
}

func TestJudge(t *testing.T) {
	root := issue(t, "root", nil, authority)
	low := issue(t, "low", root, authority)
	leaf := issue(t, "mx.test", low, mailHost)
	stranger := issue(t, "stranger", nil, authority)
	strange := issue(t, "mx.test", stranger, mailHost)
	impostor := issue(t, "low", root, authority)
	self := issue(t, "mx.test", nil, mailHost)
	rootedSelf := issue(t, "self.test", nil, mailHost)
	oldSelf := issue(t, "mx.test", nil, mailHost, expired)
	old, future := issue(t, "mx.test", low, mailHost, expired), issue(t, "mx.test", low, mailHost, notYet)
	nameless := issue(t, "", low, mailHost, expired)
	noisy := issue(t, "a\r\nb\u2028"+strings.Repeat("c", 300), low, mailHost, expired)
	oldCA, newCA := issue(t, "old ca", root, authority, expired), issue(t, "new ca", root, authority, notYet)
	oldLeaf, newLeaf := issue(t, "mx.test", oldCA, mailHost), issue(t, "mx.test", newCA, mailHost)
	oldRoot := issue(t, "old root", nil, authority, expired)
	oldRootLeaf := issue(t, "mx.test", oldRoot, mailHost)
	noCA := issue(t, "no ca", root, mailHost)
	noCALeaf := issue(t, "mx.test", noCA, mailHost)
	client := issue(t, "mx.test", low, mailHost, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	anyUse := issue(t, "mx.test", low, mailHost, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	lists := issue(t, "mx.test", low, mailHost, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	noUse := issue(t, "mx.test", low, mailHost, func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = 0, nil })
	zero := issue(t, "zero", root, authority, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	belowZero := issue(t, "below zero", zero, authority)
	tooDeep := issue(t, "mx.test", belowZero, mailHost)
	limited := issue(t, "limited", root, authority, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"elsewhere.test"} })
	outside := issue(t, "mx.test", limited, mailHost)
	bySHA1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	sha1, sha1CA := issue(t, "mx.test", low, mailHost, bySHA1), issue(t, "sha1 ca", root, authority, bySHA1)
	sha1Leaf := issue(t, "mx.test", sha1CA, mailHost)
	critical := issue(t, "mx.test", low, mailHost, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	})
	anyCA := issue(t, "any", root, authority, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	anyToo := &holder{sign(t, "any", root, anyCA.key.Public(), authority), anyCA.key}
	anyLeaf := issue(t, "mx.test", anyCA, mailHost)
	key := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 8199, 1), E: 65537}
	long := &holder{cert: sign(t, "mx.test", low, key, mailHost)}
	longCA := &holder{sign(t, "long ca", root, key, authority), root.key}
	keyless := *longCA.cert // or CreateCertificate would say that the keys differ
	keyless.PublicKey = nil
	belowLong := issue(t, "mx.test", &holder{&keyless, root.key}, mailHost)
	broken := issue(t, "mx.test", low, mailHost)
	broken.cert.Raw[len(broken.cert.Raw)-1] ^= 1
	junk := &holder{cert: &x509.Certificate{Raw: []byte("junk")}}
	odd := unreadable(t)
	roots := x509.NewCertPool()
	for _, h := range []*holder{root, oldRoot, rootedSelf} {
		roots.AddCert(h.cert)
	}
	for _, c := range []struct {
		name  string
		chain []*holder
		want  policy.Trust
		why   string // contained
	}{
		{"no chain", nil, policy.TrustNotJudged, ""},
		{"good", []*holder{leaf, low}, policy.Trusted, ""},
		{"good, root shown", []*holder{leaf, low, root}, policy.Trusted, ""},
		{"good, out of order", []*holder{leaf, root, low}, policy.Trusted, ""},
		{"good, with strangers and junk", []*holder{leaf, stranger, junk, self, low, odd, old}, policy.Trusted, ""},
		{"good, with a namesake first", []*holder{leaf, impostor, low}, policy.Trusted, ""},
		{"no uses named", []*holder{noUse, low}, policy.Trusted, ""},
		{"a leaf that is a root", []*holder{rootedSelf}, policy.Trusted, ""},
		{"expired", []*holder{old, low}, policy.TrustExpired, `"CN=mx.test" expired on ` + old.cert.NotAfter.UTC().Format(time.RFC3339)},
		{"expired, nameless", []*holder{nameless, low}, policy.TrustExpired, `the certificate with serial number "abc" expired on`},
		{"expired, hostile name", []*holder{noisy, low}, policy.TrustExpired, `"CN=a\r\nb\u2028ccc`},
		{"not yet valid", []*holder{future, low}, policy.TrustNotYet, `"CN=mx.test" is valid from ` + future.cert.NotBefore.UTC().Format(time.RFC3339)},
		{"expired above", []*holder{oldLeaf, oldCA}, policy.TrustExpired, `"CN=old ca" expired on`},
		{"not yet valid above", []*holder{newLeaf, newCA}, policy.TrustNotYet, `"CN=new ca" is valid from`},
		{"expired root", []*holder{oldRootLeaf}, policy.TrustExpired, `"CN=old root" expired on`},
		{"self-signed", []*holder{self}, policy.TrustSelfSigned, `"CN=mx.test" signed itself`},
		{"self-signed and expired", []*holder{oldSelf}, policy.TrustSelfSigned, `"CN=mx.test" signed itself`},
		{"self-signed, root shown", []*holder{self, root}, policy.TrustSelfSigned, `"CN=mx.test" signed itself`},
		{"intermediate missing", []*holder{leaf}, policy.TrustUnknownIssuer, `"CN=mx.test" is signed by "CN=low", which is neither shown nor trusted`},
		{"intermediate missing, namesake there", []*holder{leaf, impostor}, policy.TrustUnknownIssuer, `"CN=mx.test" is signed by "CN=low"`},
		{"unknown root, shown", []*holder{strange, stranger}, policy.TrustUnknownIssuer, `the chain ends with "CN=stranger", which is not trusted`},
		{"unknown root, not shown", []*holder{strange}, policy.TrustUnknownIssuer, `"CN=mx.test" is signed by "CN=stranger"`},
		{"unreadable leaf", []*holder{odd, low}, policy.TrustInvalid, "can't be read: \"x509: negative serial number\""},
		{"junk for a leaf", []*holder{junk, low}, policy.TrustInvalid, "can't be read"},
		{"broken signature", []*holder{broken, low}, policy.TrustInvalid, `the signature of "CN=mx.test" is not by "CN=low"`},
		{"SHA-1", []*holder{sha1, low, root}, policy.TrustInvalid, `"CN=mx.test" is signed with ECDSA-SHA1`},
		{"SHA-1 above", []*holder{sha1Leaf, sha1CA, root}, policy.TrustInvalid, `"CN=sha1 ca" is signed with ECDSA-SHA1`},
		{"signed by a server", []*holder{noCALeaf, noCA}, policy.TrustInvalid, `"CN=no ca" signed "CN=mx.test" and may not sign`},
		{"a client's", []*holder{client, low}, policy.TrustInvalid, `"CN=mx.test" is not for a server`},
		{"for any use", []*holder{anyUse, low}, policy.TrustInvalid, `"CN=mx.test" is for any use`},
		{"an authority for any use", []*holder{anyLeaf, anyCA}, policy.TrustInvalid, `"CN=any" is for any use`},
		{"one path for any use, one not", []*holder{anyLeaf, anyCA, anyToo}, policy.Trusted, ""},
		{"a long RSA key", []*holder{long, low}, policy.TrustInvalid, "an RSA key of 8200 bits"},
		{"a long RSA key above", []*holder{belowLong, longCA}, policy.TrustUnknownIssuer, `signed by "CN=long ca"`},
		{"a key for lists", []*holder{lists, low}, policy.TrustInvalid, `the key of "CN=mx.test" is not for TLS`},
		{"too deep", []*holder{tooDeep, belowZero, zero}, policy.TrustInvalid, `"CN=zero" allows fewer authorities below it`},
		{"names outside", []*holder{outside, limited}, policy.TrustInvalid, `the names of`},
		{"critical extension", []*holder{critical, low}, policy.TrustInvalid, "critical extension"},
	} {
		var chain [][]byte
		for _, h := range c.chain {
			chain = append(chain, h.cert.Raw)
		}
		got, why := Judge(chain, roots, time.Now())
		if got != c.want || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s: %s: %s; want %s: %s", c.name, got, why, c.want, c.why)
		}
		if strings.ContainsFunc(why, func(r rune) bool { return r < ' ' || r > '~' }) || len(why) > 500 {
			t.Errorf("%s: not fit for a log: %q", c.name, why)
		}
	}
}

// unreadable is a leaf with a negative serial number.
func unreadable(t *testing.T) *holder {
	t.Helper()
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.test"}, NegativeSerial: true})
	if err != nil {
		t.Fatal(err)
	}
	return &holder{cert: &x509.Certificate{Raw: cert.Certificate[0]}}
}

// TestJudgeEdges: the very first and last second, no roots, and no end.
func TestJudgeEdges(t *testing.T) {
	root := issue(t, "root", nil, authority)
	leaf := issue(t, "mx.test", root, mailHost)
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	for at, want := range map[time.Time]policy.Trust{
		leaf.cert.NotBefore:                   policy.Trusted,
		leaf.cert.NotAfter:                    policy.Trusted,
		leaf.cert.NotBefore.Add(-time.Second): policy.TrustNotYet,
		leaf.cert.NotAfter.Add(time.Second):   policy.TrustExpired,
	} {
		if got, why := Judge([][]byte{leaf.cert.Raw}, roots, at); got != want {
			t.Errorf("at %s: %s: %s", at, got, why)
		}
	}
	if got, why := Judge([][]byte{leaf.cert.Raw}, x509.NewCertPool(), time.Now()); got != policy.TrustUnknownIssuer {
		t.Errorf("no roots: %s: %s", got, why)
	}
	// Authorities that all bear one name, each signed by the next: a puzzle that isn't worth solving.
	key := issue(t, "ring", nil, authority)
	chain := [][]byte{issue(t, "mx.test", key, mailHost).cert.Raw, key.cert.Raw}
	for range 60 {
		key = issue(t, "ring", key, authority)
		chain = append(chain, key.cert.Raw)
	}
	if got, why := Judge(chain, roots, time.Now()); got != policy.TrustInvalid || !strings.Contains(why, "limit") {
		t.Errorf("ring: %s: %s", got, why)
	}
}
