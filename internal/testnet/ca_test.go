package testnet

import (
	"crypto/rsa"
	"crypto/x509"
	"testing"
	"time"
)

func TestIssue(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	wrong := CertSpec{Names: []string{"other.test"}}
	for _, c := range []struct {
		name  string
		spec  CertSpec
		chain int
		ok    bool // verifies for mx.test against the CA's root
	}{
		{"plain", CertSpec{Names: []string{"mx.test"}}, 1, true},
		{"wildcard", CertSpec{Names: []string{"*.test"}}, 1, true},
		{"rsa", CertSpec{Names: []string{"mx.test"}, RSA: true}, 1, true},
		{"intermediates and root", CertSpec{Names: []string{"mx.test"}, Intermediates: 2, Root: true}, 4, true},
		{"strays", CertSpec{Names: []string{"mx.test"}, ExtraChain: 3}, 4, true},
		{"wrong name", wrong, 1, false},
		{"name only as CN", CertSpec{CommonName: "mx.test"}, 1, false},
		{"expired", Expired("mx.test"), 1, false},
		{"not yet", CertSpec{Names: []string{"mx.test"}, NotBefore: time.Now().Add(time.Hour)}, 1, false},
		{"self-signed", SelfSigned("mx.test"), 1, false},
	} {
		cert, err := ca.Issue(c.spec)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if len(cert.Certificate) != c.chain {
			t.Errorf("%s: %d certificates, want %d", c.name, len(cert.Certificate), c.chain)
		}
		above := x509.NewCertPool()
		for _, der := range cert.Certificate[1:] {
			x, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			above.AddCert(x)
		}
		_, err = cert.Leaf.Verify(x509.VerifyOptions{DNSName: "mx.test", Roots: ca.Pool(), Intermediates: above})
		if (err == nil) != c.ok {
			t.Errorf("%s: verify: %v, want ok %t", c.name, err, c.ok)
		}
		if _, isRSA := cert.Leaf.PublicKey.(*rsa.PublicKey); isRSA != c.spec.RSA {
			t.Errorf("%s: key %T", c.name, cert.Leaf.PublicKey)
		}
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(ca.PEM()) || !pool.Equal(ca.Pool()) {
		t.Error("PEM and Pool are not the same root")
	}
}

func TestIssueNegativeSerial(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(CertSpec{Names: []string{"mx.test"}, NegativeSerial: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(cert.Certificate[0]); err == nil {
		t.Error("crypto/x509 reads the certificate")
	}
}
