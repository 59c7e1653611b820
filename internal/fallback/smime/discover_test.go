package smime

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/fallback/owner"
	"tlsonly/internal/testnet"
)

// With a real name server: only what DNSSEC vouches for is a certificate, and
// only records that have one in them.
func TestDANE(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	of := func(address string, age time.Duration) pair {
		return issue(t, key, func(c *x509.Certificate) {
			c.EmailAddresses, c.NotBefore = []string{address}, now.Add(-age)
		})
	}
	ca := issue(t, ecKey(t, elliptic.P256()), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.ExtKeyUsage, c.EmailAddresses, c.Subject.CommonName = nil, nil, "CA"
	})
	template := *of("heidi@signed.example", day).x509
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	heidi, err := x509.CreateCertificate(rand.Reader, &template, ca.x509, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	name := func(local string) string {
		n, err := owner.Name(addr.MustAddress(local+"@x"), owner.SMIME)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(n.String(), ".x")
	}
	rr := func(local, values string, data []byte) string {
		return name(local) + " SMIMEA " + values + " " + hex.EncodeToString(data) + "\n"
	}
	newer := of("bob@signed.example", day)
	zones := "$TTL 300\n$ORIGIN signed.example.\n@ SOA ns hostmaster 1 3600 600 86400 120\n" +
		rr("bob", "3 0 0", of("bob@signed.example", 10*day).x509.Raw) + rr("bob", "3 0 0", newer.x509.Raw) +
		rr("bob", "3 0 1", make([]byte, 32)) + rr("bob", "3 0 0", []byte("garbage")) +
		rr("carol", "3 0 0", of("eve@signed.example", day).x509.Raw) +
		rr("dave", "3 0 1", make([]byte, 32)) + rr("dave", "3 1 0", newer.x509.RawSubjectPublicKeyInfo) +
		rr("erin", "2 0 0", ca.x509.Raw) + rr("erin", "0 0 0", of("erin@signed.example", day).x509.Raw) +
		rr("frank", "1 0 0", of("frank@signed.example", day).x509.Raw) +
		rr("heidi", "1 0 0", heidi) +
		"$ORIGIN plain.example.\n@ SOA ns hostmaster 1 3600 600 86400 120\n" +
		rr("bob", "3 0 0", of("bob@plain.example", day).x509.Raw)
	server, err := testnet.StartDNS("127.0.0.1:0", zones)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetSecure("signed.example")
	resolver, err := dns.New(dns.Config{Server: server.Addr(), Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	d := DANE{Lookup: func(ctx context.Context, name addr.Domain) ([]Record, bool, error) {
		a, err := resolver.SMIMEA(ctx, name)
		var all []Record
		for _, r := range a.Records {
			all = append(all, Record{r.Usage, r.Selector, r.Matching, r.Data})
		}
		return all, a.Secure, err
	}}
	roots := x509.NewCertPool()
	roots.AddCert(ca.x509)
	find := func(address string) string {
		c, err := d.Find(t.Context(), addr.MustAddress(address), now)
		switch {
		case err == nil && c != nil:
			return "certificate"
		case errors.Is(err, ErrNoCertificate):
			return "none"
		case err != nil && c == nil:
			return "not known"
		}
		return fmt.Sprint(c, err)
	}
	for _, tt := range []struct {
		address string
		roots   *x509.CertPool
		want    string
	}{
		{"bob@signed.example", nil, "certificate"},
		{"carol@signed.example", nil, "none"}, // another's
		{"dave@signed.example", nil, "none"},  // digests and a key
		{"erin@signed.example", roots, "none"},
		{"frank@signed.example", roots, "none"}, // leads to nobody
		{"heidi@signed.example", roots, "certificate"},
		{"heidi@signed.example", nil, "none"},
		{"ivan@signed.example", nil, "none"},
		{"bob@plain.example", nil, "none"}, // without DNSSEC
		{"bob@[192.0.2.1]", nil, "none"},
	} {
		d.Roots = tt.roots
		if got := find(tt.address); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.address, got, tt.want)
		}
	}
	c, err := d.Find(t.Context(), addr.MustAddress("bob@signed.example"), now)
	if err != nil || !c.X509.Equal(newer.x509) || !strings.HasPrefix(c.Source, "dane ") {
		t.Errorf("%+v, %v, want the newest", c, err)
	}
	for _, fault := range []testnet.DNSFault{testnet.DNSServFail, testnet.DNSRefused} {
		server.SetFault(name("bob")+".signed.example.", 53, fault)
		if got := find("bob@signed.example"); got != "not known" {
			t.Errorf("%s: %s", fault, got)
		}
	}
}
