package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// mailHost is one mail host of a case of the matrix. The zero host has a good certificate for its own name and no TLSA record.
type mailHost struct {
	by    string                  // the authority that signed its certificate, see authorities; "": root; "self": none
	show  string                  // those shown with it; "-": none, "": all but the root
	names string                  // in the certificate, "@" being the destination; "": the host's own; "-": that only as common name
	leaf  func(*x509.Certificate) // what else is particular about it
	in    string                  // the zone of its name: "": the destination's own, "hosts" is signed, "plain" isn't; "-": the name is the zone's
	alias string                  // the name is an alias of one in that zone, "here" being the destination's own
	noTLS bool
	only  uint16 // the only TLS version
	named bool   // it shows its certificate only where it is named, and another else
	// tlsa are records "3 1 1 leaf", the last word being what is published: leaf, an authority, or octets, "=0a1b"; end are those at
	// the end of the alias.
	tlsa, end []string
	via       string // the zone to which the name of the records is an alias, "here" being the destination's own; "*": it is a wildcard
}

// issued is a certificate and its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authorities are all there are, each after the one that signed it. The root is the only one that is trusted.
func authorities() []struct {
	name, by string
	edit     func(*x509.Certificate)
} {
	type one = struct {
		name, by string
		edit     func(*x509.Certificate)
	}
	pathLength0 := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }
	return []one{
		{"root", "", nil},
		{"mid", "root", nil},
		{"low", "mid", nil},
		{"stranger", "", nil},
		{"foreign", "stranger", nil},
		{"old", "root", expired},
		{"oldroot", "", expired},
		{"short", "root", pathLength0},
		{"below", "short", nil},
		{"noca", "root", func(c *x509.Certificate) { c.IsCA = false }},
		{"nosign", "root", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }},
		{"clients", "root", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }},
		{"elsewhere", "root", func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"elsewhere.test"}, true
		}},
	}
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, -2, 0), c.NotAfter.AddDate(0, -1, 0)
}

func notYet(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, 1, 0), c.NotAfter.AddDate(0, 2, 0)
}

// matrixWorld is the internet of the matrix: zones that are really signed behind an Unbound that validates them, mail hosts
// at 127.0.1.x and policy hosts.
type matrixWorld struct {
	t       *testing.T
	ca      *testnet.CA // of the policy hosts
	pki     map[string]issued
	parents map[string]string
	serial  int64
	sts     *testnet.STS
	zones   map[string]*testnet.SignedZone
	hosts   []*testnet.SMTP
	signed  *testnet.Signed
	unbound *rig.Unbound
	caFile  string
}

func newMatrixWorld(t *testing.T) *matrixWorld {
	t.Helper()
	w := &matrixWorld{t: t, pki: map[string]issued{}, parents: map[string]string{}, zones: map[string]*testnet.SignedZone{
		"example":       {Name: "example"},
		"hosts.example": {Name: "hosts.example"},
		"plain.example": {Name: "plain.example", Unsigned: true},
	}}
	for _, a := range authorities() {
		w.parents[a.name] = a.by
		w.pki[a.name] = w.issue(a.by, func(c *x509.Certificate) {
			c.Subject.CommonName, c.IsCA, c.KeyUsage = a.name, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
			if a.edit != nil {
				a.edit(c)
			}
		})
	}
	var err error
	if w.ca, err = testnet.NewCA(); err != nil {
		t.Fatal(err)
	}
	if w.sts, err = testnet.StartSTS("127.0.2.1:443", w.ca); err != nil {
		t.Fatal(err)
	}
	w.closes(w.sts.Close)
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	w.closes(func() error { return os.RemoveAll(dir) })
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.pki["root"].cert.Raw})
	w.caFile = write(dir, "roots.pem", string(root)+string(w.ca.PEM()))
	return w
}

// closes has something closed at the test's end.
func (w *matrixWorld) closes(c func() error) {
	w.t.Cleanup(func() {
		if err := c(); err != nil {
			w.t.Error(err)
		}
	})
}

// issue makes a certificate signed by an authority, or by itself.
func (w *matrixWorld) issue(by string, edit func(*x509.Certificate)) issued {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	w.serial++
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(w.serial), Subject: pkix.Name{}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		MaxPathLen: -1, BasicConstraintsValid: true,
	}
	edit(template)
	signer := issued{template, key}
	if by != "" {
		signer = w.pki[by]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return issued{cert, key}
}

// dnsFault is one answer that is wrong; "@" in its name is the destination.
type dnsFault struct {
	name  string
	qtype uint16
	fault testnet.DNSFault
}

// zone makes a zone.
func (w *matrixWorld) zone(name string, unsigned, nsec3 bool) {
	w.zones[name] = &testnet.SignedZone{Name: name, Unsigned: unsigned, NSEC3: nsec3}
}

// add puts records, in full lines, into the zone of that name.
func (w *matrixWorld) add(zone, format string, args ...any) {
	w.zones[zone].Text += fmt.Sprintf(format, args...) + "\n"
}

// start starts the mail host number i of the destination in zone, and adds its records.
func (w *matrixWorld) start(h mailHost, i int, destination, zone string) (name string) {
	w.t.Helper()
	label := strings.TrimSuffix(zone, ".example")
	place := func(what, in string) (string, string) {
		if in == "-" {
			return zone, zone
		}
		if in == "" || in == "here" {
			return fmt.Sprintf("%s%d.%s", what, i+1, zone), zone
		}
		return fmt.Sprintf("%s%d.%s.%s.example", what, i+1, label, in), in + ".example"
	}
	name, in := place("mx", h.in)
	address := fmt.Sprintf("127.0.1.%d", len(w.hosts)+1)
	end, endZone := name, in
	if h.alias != "" {
		end, endZone = place("at", h.alias)
		w.add(in, "%s. CNAME %s.", name, end)
	}
	w.add(endZone, "%s. A %s", end, address)

	config := testnet.SMTPConfig{Listen: net.JoinHostPort(address, "25"), Name: name}
	var leaf issued
	if !h.noTLS {
		shown, l := w.certificate(h, name, destination)
		leaf = l
		config.TLS = testnet.ServerTLS(shown, h.only, h.only)
		if h.named {
			other, _ := w.certificate(mailHost{by: "self", names: "invalid2.invalid"}, name, destination)
			config.TLS.Certificates = nil // the first is for who names no host
			config.TLS.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				if hello.ServerName == name {
					return &shown, nil
				}
				return &other, nil
			}
		}
	}
	smtp, err := testnet.StartSMTP(config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.closes(smtp.Close)
	w.hosts = append(w.hosts, smtp)
	owner, ownerZone := "_25._tcp."+name, in
	switch h.via {
	case "":
	case "*":
		owner = "*._tcp." + name
	default:
		owner, ownerZone = place("tlsa", h.via)
		w.add(in, "_25._tcp.%s. CNAME %s.", name, owner)
	}
	for _, r := range h.tlsa {
		w.add(ownerZone, "%s. TLSA %s", owner, w.tlsa(r, leaf))
	}
	for _, r := range h.end {
		w.add(endZone, "_25._tcp.%s. TLSA %s", end, w.tlsa(r, leaf))
	}
	return name
}

// certificate makes what a host shows, and its own one.
func (w *matrixWorld) certificate(h mailHost, host, destination string) (tls.Certificate, issued) {
	w.t.Helper()
	by := h.by
	if by == "" {
		by = "root"
	}
	signer := by
	if signer == "self" {
		signer = ""
	}
	leaf := w.issue(signer, func(c *x509.Certificate) {
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.Subject.CommonName = "leaf"
		switch h.names {
		case "":
			c.DNSNames = []string{host}
		case "-":
			c.Subject.CommonName = host
		default:
			c.DNSNames = strings.Fields(strings.ReplaceAll(h.names, "@", destination))
		}
		if h.leaf != nil {
			h.leaf(c)
		}
	})
	shown := tls.Certificate{PrivateKey: leaf.key, Certificate: [][]byte{leaf.cert.Raw}}
	show := strings.Fields(h.show)
	switch h.show {
	case "-":
		show = nil
	case "":
		for a := signer; a != "" && w.parents[a] != ""; a = w.parents[a] {
			show = append(show, a)
		}
	}
	for _, a := range show {
		shown.Certificate = append(shown.Certificate, w.pki[a].cert.Raw)
	}
	return shown, leaf
}

// tlsa writes the data of a TLSA record.
func (w *matrixWorld) tlsa(record string, leaf issued) string {
	w.t.Helper()
	f := strings.Fields(record)
	kind, of := strings.Join(f[:3], " "), f[3]
	if octets, ok := strings.CutPrefix(of, "="); ok {
		return kind + " " + octets
	}
	if of != "leaf" {
		leaf = w.pki[of]
	}
	if leaf.cert == nil {
		w.t.Fatalf("TLSA record %q: no such certificate", record)
	}
	data := leaf.cert.Raw
	if f[1] == "1" {
		data = leaf.cert.RawSubjectPublicKeyInfo
	}
	switch f[2] {
	case "1":
		sum := sha256.Sum256(data)
		data = sum[:]
	case "2":
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return fmt.Sprintf("%s %x", kind, data)
}

// serve has the zones answered from now on.
func (w *matrixWorld) serve() {
	w.t.Helper()
	var zones []testnet.SignedZone
	for _, z := range w.zones {
		zones = append(zones, *z)
	}
	var err error
	if w.signed, err = testnet.StartSigned("127.0.0.1:0", zones); err != nil {
		w.t.Fatal(err)
	}
	w.closes(w.signed.Close)
	w.unbound, err = rig.StartUnbound(patient(w.t), rig.UnboundConfig{Forward: w.signed.Addr(), Anchor: w.signed.Anchor()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.closes(w.unbound.Stop)
}

// dir is where files that Postfix reads can be.
func (w *matrixWorld) dir() string { return filepath.Dir(w.caFile) }
