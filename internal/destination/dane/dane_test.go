package dane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/destination/webpki"
	"tlsonly/internal/policy"
)

type testCase struct {
	name    string
	records []policy.TLSA
	chain   []*holder
	want    policy.DANEMatch
	detail  string // contained in Detail
	// differs says why OpenSSL isn't of our mind, or can't be asked.
	differs string
}

const ee, ta, no, none = policy.DANEMatchEE, policy.DANEMatchTA, policy.DANEMismatch, policy.DANENotMatched

func cases(t testing.TB) []testCase {
	m := &maker{t: t}
	root := m.issue("root", nil, authority)
	mid := m.issue("mid", root, authority)
	low := m.issue("low", mid, authority)
	leaf := m.issue("mx.test", low, server)
	full := []*holder{leaf, low, mid, root}
	stranger := m.issue("stranger", nil, authority)
	cross := m.issueKey("mid", stranger, mid.key, authority)
	impostor := m.issue("low", stranger, authority) // the name of low, not its key
	self := m.issue("mx.test", nil, server)
	selfCA := m.issue("mx.test", nil, server, authority)
	old := m.issue("mx.test", low, server, expired)
	future := m.issue("mx.test", low, server, notYet)
	odd := m.odd()
	rsaRoot := m.issueKey("rsa root", nil, m.rsaKey(), authority)
	rsaLeaf := m.issue("mx.test", rsaRoot, server)
	edRoot := m.issueKey("ed root", nil, m.edKey(), authority)
	edLeaf := m.issue("mx.test", edRoot, server)
	broken := &holder{der: bytes.Clone(leaf.der), key: leaf.key}
	broken.der[len(broken.der)-1] ^= 1
	client := m.issue("mx.test", low, server, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	anyUse := m.issue("mx.test", low, server, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	noUse := m.issue("mx.test", low, server, func(c *x509.Certificate) { c.ExtKeyUsage, c.KeyUsage = nil, 0 })
	crlOnly := m.issue("mx.test", low, server, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	agree := m.issue("mx.test", low, server, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })
	plain := m.issue("mx.test", nil)
	caLeaf := m.issue("mx.test", low, authority, server, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	critical := m.issue("mx.test", low, server, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	})

	// Each of these is an authority with one fault, and a leaf below it.
	below := func(by *holder) *holder { return m.issue("mx.test", by, server) }
	oldCA := m.issue("old ca", root, authority, expired)
	newCA := m.issue("new ca", root, authority, notYet)
	noCA := m.issue("no ca", root, server)
	noBasic := m.issue("no basic", root)
	noSign := m.issue("no sign", root, authority, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	clientCA := m.issue("client ca", root, authority, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	oldRoot := m.issue("old root", nil, authority, expired)
	zero := m.issue("zero", root, authority, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	belowZero := m.issue("below zero", zero, authority)
	shortRoot := m.issue("short root", nil, authority, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	belowShort := m.issue("below short", shortRoot, authority)
	limited := m.issue("limited", nil, authority, func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"elsewhere.test"}, true
	})
	fitting := m.issue("fitting", nil, authority, func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"test"}, true
	})
	oldLeaf, newLeaf, noCALeaf, noBasicLeaf := below(oldCA), below(newCA), below(noCA), below(noBasic)
	noSignLeaf, clientLeaf, oldRootLeaf := below(noSign), below(clientCA), below(oldRoot)
	anyCA := m.issue("any", root, authority, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	anyLeaf := below(anyCA)
	oldOld := m.issue("mx.test", oldCA, server, expired)
	zeroLeaf, belowZeroLeaf, belowShortLeaf := below(zero), below(belowZero), below(belowShort)
	limitedLeaf, fittingLeaf := below(limited), below(fitting)
	reissued := m.issueKey("low", mid, low.key, authority, expired) // low of last year
	junk := &holder{der: []byte("not a certificate")}
	garbage := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }

	list := []testCase{
		{"3 after roll-over", rrs(rr(3, 1, 1, stranger), rr(3, 1, 1, leaf)), full, ee, "", ""},
		{"3 for another key", rrs(rr(3, 1, 1, stranger)), full, no, "none of those in its TLSA records", ""},
		{"3 for an authority", rrs(rr(3, 1, 1, low)), full, no, "is for a certificate above the host's, which takes usage 2", ""},
		{"3 and the leaf alone", rrs(rr(3, 0, 1, leaf)), full[:1], ee, "", ""},
		{"3 and an expired leaf", rrs(rr(3, 1, 1, old)), hs(old, low, mid, root), ee, "", ""},
		{"3 and a leaf of the future", rrs(rr(3, 1, 1, future)), hs(future), ee, "", ""},
		{"3 and a self-signed leaf", rrs(rr(3, 0, 2, self)), hs(self), ee, "", ""},
		{"3 and a client's leaf", rrs(rr(3, 1, 1, client)), hs(client), ee, "", ""},
		{"3 and a broken signature", rrs(rr(3, 1, 1, broken)), hs(broken), ee, "", ""},
		{"3 and junk above", rrs(rr(3, 1, 1, leaf)), hs(leaf, junk), ee, "", "fails the handshake"},
		{"3 1 0 and an unreadable leaf", rrs(rr(3, 1, 0, odd)), hs(odd), ee, "", ""},
		{"3 1 1 and an unreadable leaf", rrs(rr(3, 1, 1, odd)), hs(odd), ee, "", ""},
		{"3 0 0 and an unreadable leaf", rrs(rr(3, 0, 0, odd)), hs(odd), ee, "", ""},
		{"3 0 2 and an unreadable leaf", rrs(rr(3, 0, 2, odd)), hs(odd), ee, "", ""},
		{"3 1 1 and another unreadable leaf", rrs(rr(3, 1, 1, leaf)), hs(odd), no, "", ""},
		{"3 1 1 and no certificate", rrs(rr(3, 1, 1, leaf)), hs(junk), no, "", "fails the handshake"},
		{"3 before 2", rrs(rr(2, 1, 1, root), rr(3, 1, 1, leaf)), full, ee, "", ""},
		{"3 wrong, 2 right", rrs(rr(3, 1, 1, stranger), rr(2, 1, 1, root)), full, ta, "", ""},
		{"3 right, 2 wrong", rrs(rr(3, 1, 1, leaf), rr(2, 1, 1, stranger)), full, ee, "", ""},
		{"3 and 2 wrong", rrs(rr(3, 1, 1, stranger), rr(2, 1, 1, stranger)), full, no, "no certificate shown", ""},

		{"2 for a shown intermediate", rrs(rr(2, 1, 1, mid)), full[:3], ta, "", ""},
		{"2 for the nearest intermediate", rrs(rr(2, 0, 1, low)), full[:2], ta, "", ""},
		{"2 for a root not shown", rrs(rr(2, 1, 1, root)), full[:3], no, "no certificate shown is in", ""},
		{"2 for a stranger", rrs(rr(2, 0, 2, stranger)), full, no, "no certificate shown is in", ""},
		{"2 for a stranger shown", rrs(rr(2, 0, 1, stranger)), append(slices.Clone(full), stranger), no, `the chain ends with "CN=root", which is not trusted`, ""},
		{"2 for a namesake shown", rrs(rr(2, 0, 1, impostor)), hs(leaf, impostor), no, `"CN=mx.test" is signed by "CN=low", which is neither shown nor trusted`, ""},
		{"2 out of order", rrs(rr(2, 1, 1, root)), hs(leaf, root, mid, low), ta, "", ""},
		{"2 with strangers between", rrs(rr(2, 1, 1, root)), hs(leaf, stranger, low, self, mid, root), ta, "", ""},
		{"2 with junk between", rrs(rr(2, 1, 1, root)), hs(leaf, junk, low, mid, root), ta, "", "fails the handshake"},
		{"2 with a gap", rrs(rr(2, 1, 1, root)), hs(leaf, low, root), no, `"CN=low" is signed by "CN=mid", which is neither shown nor trusted`, ""},
		{"2 through a cross signature", rrs(rr(2, 1, 1, stranger)), hs(leaf, low, cross, stranger), ta, "", ""},
		{"2 for a key with two certificates", rrs(rr(2, 1, 1, mid)), hs(leaf, low, cross), ta, "", ""},
		{"2 0 for one of two certificates", rrs(rr(2, 0, 1, mid)), hs(leaf, low, cross), no, "", ""},
		{"2 with one good of two", rrs(rr(2, 1, 1, stranger), rr(2, 1, 1, mid)), full, ta, "", ""},
		{"2 for the leaf", rrs(rr(2, 1, 1, leaf)), full, no, "is for the host's own certificate, which takes usage 3", ""},
		{"2 for a leaf shown twice", rrs(rr(2, 0, 1, leaf)), hs(leaf, leaf), no, "", ""},
		{"2 0 1 for a self-signed leaf", rrs(rr(2, 0, 1, self)), hs(self), no, "", ""},
		{"2 0 0 for a self-signed leaf", rrs(rr(2, 0, 0, self)), hs(self), no, "", ""},
		{"2 1 0 for a self-signed leaf", rrs(rr(2, 1, 0, self)), hs(self), ta, "", ""},
		{"2 0 1 for a self-signed authority as leaf", rrs(rr(2, 0, 1, selfCA)), hs(selfCA), no, "", ""},
		{"2 0 1 for a self-signed authority shown twice", rrs(rr(2, 0, 1, selfCA)), hs(selfCA, selfCA), no, "", ""},
		{"2 0 0 for a self-signed authority as leaf", rrs(rr(2, 0, 0, selfCA)), hs(selfCA), no, "", ""},
		{"2 1 0 for a self-signed authority as leaf", rrs(rr(2, 1, 0, selfCA)), hs(selfCA), no, "", ""},
		{"2 1 0 for the leaf's key", rrs(rr(2, 1, 0, leaf)), full, no, "", ""},

		{"2 0 0 of the root, not shown", rrs(rr(2, 0, 0, root)), full[:3], ta, "", ""},
		{"2 0 0 of the issuer, not shown", rrs(rr(2, 0, 0, low)), full[:1], ta, "", ""},
		{"2 0 0 of an old root", rrs(rr(2, 0, 0, oldRoot)), hs(oldRootLeaf), no, `"CN=old root" expired on`, ""},
		{"2 0 0 of no authority", rrs(rr(2, 0, 0, noCA)), hs(noCALeaf), no, "", ""},
		{"2 0 0 with a gap", rrs(rr(2, 0, 0, root)), full[:2], no, `"CN=low" is signed by "CN=mid"`, ""},
		{"2 0 0 of a stranger", rrs(rr(2, 0, 0, stranger)), full, no, "", ""},
		{"2 1 0 of the root, not shown", rrs(rr(2, 1, 0, root)), full[:3], ta, "", ""},
		{"2 1 0 of the issuer, not shown", rrs(rr(2, 1, 0, low)), full[:1], ta, "", ""},
		{"2 1 0 of an RSA key, not shown", rrs(rr(2, 1, 0, rsaRoot)), hs(rsaLeaf), ta, "", ""},
		{"2 1 0 of an Ed25519 key, not shown", rrs(rr(2, 1, 0, edRoot)), hs(edLeaf), ta, "", ""},
		{"2 1 0 of a key not known here", rrs(policy.TLSA{Usage: 2, Selector: 1, Data: brainpool(leaf)}), full, no, "no certificate shown", "can't read it"},
		{"2 0 1 for what can't be read", rrs(rr(2, 0, 1, odd)), hs(leaf, odd), no, "no certificate shown", ""},
		{"2 1 0 with a gap", rrs(rr(2, 1, 0, root)), full[:2], no, "no certificate shown", ""},
		{"2 1 0 of a stranger", rrs(rr(2, 1, 0, stranger)), full, no, "", ""},
		{"2 1 0 below an old intermediate", rrs(rr(2, 1, 0, root)), hs(oldLeaf, oldCA), no, `"CN=old ca" expired on`, ""},
		{"2 1 0 of an old root, not shown", rrs(rr(2, 1, 0, oldRoot)), hs(oldRootLeaf), ta, "", ""},
		{"2 1 0 of an old root, shown", rrs(rr(2, 1, 0, oldRoot)), hs(oldRootLeaf, oldRoot), no, "", ""},
		{"2 1 0 of a short root, not shown", rrs(rr(2, 1, 0, shortRoot)), hs(belowShortLeaf, belowShort), ta, "", ""},

		{"2 and an expired leaf", rrs(rr(2, 1, 1, root)), hs(old, low, mid, root), no, `"CN=mx.test" expired on`, ""},
		{"2 and a leaf of the future", rrs(rr(2, 1, 1, root)), hs(future, low, mid, root), no, `"CN=mx.test" is valid from`, ""},
		{"2 and an expired intermediate", rrs(rr(2, 1, 1, root)), hs(oldLeaf, oldCA, root), no, `"CN=old ca" expired on`, ""},
		{"2 and an expired intermediate as anchor", rrs(rr(2, 1, 1, oldCA)), hs(oldLeaf, oldCA), ta, "", ""},
		{"2 0 0 of an expired intermediate, not shown", rrs(rr(2, 0, 0, oldCA)), hs(oldLeaf), ta, "", ""},
		{"2 0 1 and an intermediate of the future as anchor", rrs(rr(2, 0, 1, newCA)), hs(newLeaf, newCA, root), ta, "", ""},
		{"2 1 0 and an expired intermediate as anchor", rrs(rr(2, 1, 0, oldCA)), hs(oldLeaf, oldCA), ta, "", ""},
		{"2 and an expired leaf below such an anchor", rrs(rr(2, 0, 1, oldCA)), hs(oldOld, oldCA), no, `"CN=mx.test" expired on`, ""},
		{"2 and an expired root", rrs(rr(2, 1, 1, oldRoot)), hs(oldRootLeaf, oldRoot), no, `"CN=old root" expired on`, ""},
		{"2 and an expired root above the anchor", rrs(rr(2, 1, 1, low)), hs(leaf, low, mid, oldRoot), ta, "", ""},
		{"2 and an intermediate of the future", rrs(rr(2, 1, 1, root)), hs(newLeaf, newCA, root), no, `"CN=new ca" is valid from`, ""},
		{"2 with last year's certificate, too", rrs(rr(2, 1, 1, root)), hs(leaf, low, reissued, mid, root), ta, "", ""},
		{"2 and an intermediate that is a server", rrs(rr(2, 1, 1, root)), hs(noCALeaf, noCA, root), no, `"CN=no ca" signed "CN=mx.test" and may not`, ""},
		{"2 and a server as anchor", rrs(rr(2, 1, 1, noCA)), hs(noCALeaf, noCA), no, "may not sign", ""},
		{"2 and no basic constraints", rrs(rr(2, 1, 1, noBasic)), hs(noBasicLeaf, noBasic), no, "may not sign", ""},
		{"2 and no right to sign", rrs(rr(2, 1, 1, root)), hs(noSignLeaf, noSign, root), no, "may not sign", ""},
		{"2 and an anchor without the right to sign", rrs(rr(2, 1, 1, noSign)), hs(noSignLeaf, noSign), no, "may not sign", ""},
		{"2 and a client's authority", rrs(rr(2, 1, 1, root)), hs(clientLeaf, clientCA, root), no, "extended key usage", ""},
		{"2 and a client's authority as anchor", rrs(rr(2, 1, 1, clientCA)), hs(clientLeaf, clientCA), no, "extended key usage", ""},
		{"2 and a path as long as allowed", rrs(rr(2, 1, 1, root)), hs(zeroLeaf, zero, root), ta, "", ""},
		{"2 and a path too long", rrs(rr(2, 1, 1, root)), hs(belowZeroLeaf, belowZero, zero, root), no, `"CN=zero" allows fewer authorities below it`, ""},
		{"2 and a path too long for the anchor", rrs(rr(2, 1, 1, shortRoot)), hs(belowShortLeaf, belowShort, shortRoot), no, "allows fewer", ""},
		{"2 and an anchor below what is too long", rrs(rr(2, 1, 1, belowZero)), hs(belowZeroLeaf, belowZero, zero, root), ta, "", ""},
		{"2 and names the anchor may not sign", rrs(rr(2, 1, 1, limited)), hs(limitedLeaf, limited), no, "may sign for", ""},
		{"2 and names the anchor may sign", rrs(rr(2, 1, 1, fitting)), hs(fittingLeaf, fitting), ta, "", ""},
		{"2 and a client's leaf", rrs(rr(2, 1, 1, root)), hs(client, low, mid, root), no, "extended key usage", ""},
		{"2 and a leaf for any use", rrs(rr(2, 1, 1, root)), hs(anyUse, low, mid, root), no, "for any use", ""},
		{"2 and a leaf without uses", rrs(rr(2, 1, 1, root)), hs(noUse, low, mid, root), ta, "", ""},
		{"2 and a leaf for lists", rrs(rr(2, 1, 1, root)), hs(crlOnly, low, mid, root), no, "not for TLS", "fails the handshake"},
		{"2 and a leaf for key agreement", rrs(rr(2, 1, 1, root)), hs(agree, low, mid, root), ta, "", "fails the handshake"},
		{"2 and a critical extension", rrs(rr(2, 1, 1, root)), hs(critical, low, mid, root), no, "critical extension", ""},
		{"2 and a broken signature", rrs(rr(2, 1, 1, root)), hs(broken, low, mid, root), no, `the signature of "CN=mx.test" is not by "CN=low"`, ""},
		{"2 1 0 for a self-signed leaf without names", rrs(rr(2, 1, 0, plain)), hs(plain), ta, "", ""},
		{"2 and an authority as leaf", rrs(rr(2, 1, 1, root)), hs(caLeaf, low, mid, root), ta, "", ""},
		{"2 and an RSA key", rrs(rr(2, 1, 1, rsaRoot)), hs(rsaLeaf, rsaRoot), ta, "", ""},
		{"2 and an unreadable leaf", rrs(rr(2, 1, 1, root)), hs(odd, root), no, "can't be read", ""},

		{"2 and an authority for any use", rrs(rr(2, 1, 1, root)), hs(anyLeaf, anyCA, root), no, "for any use", ""},
		{"2 and an anchor for any use", rrs(rr(2, 1, 1, anyCA)), hs(anyLeaf, anyCA), no, "for any use", ""},

		// Digest agility: RFC 7671, section 9.
		{"stale SHA-512 shadows SHA-256", rrs(rr(3, 1, 1, leaf), rr(3, 1, 2, stranger)), full, no, "", ""},
		{"SHA-512 before stale SHA-256", rrs(rr(3, 1, 1, stranger), rr(3, 1, 2, leaf)), full, ee, "", ""},
		{"SHA-512 of another selector shadows nothing", rrs(rr(3, 1, 1, leaf), rr(3, 0, 2, stranger)), full, ee, "", ""},
		{"SHA-512 of another usage shadows nothing", rrs(rr(3, 1, 1, leaf), rr(2, 1, 2, stranger)), full, ee, "", ""},
		{"full data is never shadowed", rrs(rr(3, 1, 0, leaf), rr(3, 1, 2, stranger)), full, ee, "", ""},
		{"full data shadows nothing", rrs(rr(3, 1, 0, stranger), rr(3, 1, 1, leaf)), full, ee, "", ""},
		{"unusable SHA-512 shadows nothing", rrs(rr(3, 1, 1, leaf), policy.TLSA{Usage: 3, Selector: 1, Matching: 2, Data: garbage(32)}), full, ee, "", ""},
		{"2: stale SHA-512 shadows SHA-256", rrs(rr(2, 1, 1, root), rr(2, 1, 2, stranger)), full, no, "", ""},
		{"2: full data is never shadowed", rrs(rr(2, 0, 0, root), rr(2, 0, 2, stranger)), full[:3], ta, "", ""},
		{"unusable beside usable", rrs(rr(1, 1, 1, leaf), rr(0, 1, 1, root), rr(2, 1, 1, mid)), full, ta, "", ""},
		{"PKIX-EE matches, DANE-EE doesn't", rrs(rr(1, 1, 1, leaf), rr(3, 1, 1, stranger)), full, no, "", ""},
	}
	// Every selector and matching type, good and bad.
	for selector := range uint8(2) {
		for matching := range uint8(3) {
			kind := fmt.Sprintf("%d %d", selector, matching)
			list = append(list,
				testCase{"3 " + kind, rrs(rr(3, selector, matching, leaf)), full, ee, "", ""},
				testCase{"3 " + kind + " of another", rrs(rr(3, selector, matching, mid)), full, no, "", ""},
				testCase{"2 " + kind + " of the root", rrs(rr(2, selector, matching, root)), full, ta, "", ""},
				testCase{"2 " + kind + " of an intermediate", rrs(rr(2, selector, matching, mid)), full, ta, "", ""},
				testCase{"2 " + kind + " of another", rrs(rr(2, selector, matching, rsaRoot)), full, no, "", ""},
			)
		}
	}
	return list
}

func TestVerify(t *testing.T) {
	for _, c := range cases(t) {
		before := fmt.Sprint(c.records)
		got := Verify(c.records, chain(c.chain...), time.Now())
		if got.DANE != policy.DANEUsable || got.Match != c.want || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %s %q: %q, want %q: %q", c.name, got.DANE, got.Match, got.Detail, c.want, c.detail)
		}
		matched := c.want == ee || c.want == ta
		if (got.Detail == "") != matched || (got.Record.Data != nil) != matched {
			t.Errorf("%s: %q with record %q, detail %q", c.name, got.Match, got.Record, got.Detail)
		}
		if matched && !slices.ContainsFunc(c.records, func(r policy.TLSA) bool { return r.String() == got.Record.String() }) {
			t.Errorf("%s: record %s is none of the host's", c.name, got.Record)
		}
		if fmt.Sprint(c.records) != before {
			t.Errorf("%s: the records were changed", c.name)
		}
	}
}

// TestVerifyTime: for DANE-TA(2) the time counts, for DANE-EE(3) it doesn't.
func TestVerifyTime(t *testing.T) {
	m := &maker{t: t}
	root := m.issue("root", nil, authority)
	leaf := m.issue("mx.test", root, server)
	for _, c := range []struct {
		at     time.Time
		ta, ee policy.DANEMatch
	}{
		{leaf.cert.NotBefore, ta, ee},
		{leaf.cert.NotAfter, ta, ee},
		{leaf.cert.NotBefore.Add(-time.Second), no, ee},
		{leaf.cert.NotAfter.Add(time.Second), no, ee},
	} {
		if got := Verify(rrs(rr(2, 1, 1, root)), chain(leaf, root), c.at); got.Match != c.ta {
			t.Errorf("2 at %s: %q, %s", c.at, got.Match, got.Detail)
		}
		if got := Verify(rrs(rr(3, 1, 1, leaf)), chain(leaf, root), c.at); got.Match != c.ee {
			t.Errorf("3 at %s: %q, %s", c.at, got.Match, got.Detail)
		}
	}
}

// TestVerifyNothing: where nothing can match.
func TestVerifyNothing(t *testing.T) {
	m := &maker{t: t}
	leaf := m.issue("mx.test", nil, server)
	for _, c := range []struct {
		name    string
		records []policy.TLSA
		chain   [][]byte
		want    policy.DANE
		detail  string
	}{
		{"no records", nil, chain(leaf), policy.DANENone, ""},
		{"no records, no chain", nil, nil, policy.DANENone, ""},
		{"PKIX-EE alone", rrs(rr(1, 1, 1, leaf)), chain(leaf), policy.DANEUnusable, "certificate usage is not 2 or 3"},
		{"two that are no use", rrs(rr(0, 1, 1, leaf), policy.TLSA{Usage: 3, Data: nil}), chain(leaf), policy.DANEUnusable, `"0 1 1 `},
		{"unusable, no chain", rrs(rr(1, 1, 1, leaf)), nil, policy.DANEUnusable, "usage"},
		{"short data", rrs(policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: []byte{1, 2}}), chain(leaf), policy.DANEUnusable, `"3 1 1 0102": digest has`},
		{"no chain", rrs(rr(3, 1, 1, leaf)), nil, policy.DANEUsable, "no certificate was seen"},
	} {
		got := Verify(c.records, c.chain, time.Now())
		if got.DANE != c.want || got.Match != none || got.Record.Data != nil || !strings.Contains(got.Detail, c.detail) || (got.Detail == "") != (c.detail == "") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestVerifyLimit: a flood of anchors is not all tried.
func TestVerifyLimit(t *testing.T) {
	m := &maker{t: t}
	root := m.issue("root", nil, authority)
	leaf := m.issue("mx.test", root, server)
	shown := []*holder{leaf, root}
	var flood []policy.TLSA
	for range maxTries {
		h := m.issue("stranger", nil, authority)
		shown, flood = append(shown, h), append(flood, rr(2, 1, 1, h))
	}
	if got := Verify(append(slices.Clone(flood[1:]), rr(2, 1, 1, root)), chain(shown...), time.Now()); got.Match != ta {
		t.Errorf("the last that is tried: %+v", got)
	}
	if got := Verify(append(flood, rr(2, 1, 1, root)), chain(shown...), time.Now()); got.Match != no {
		t.Errorf("the first that isn't: %+v", got)
	}
	// Keys that never signed anything count, too: finding that out is what takes the time.
	var keys []policy.TLSA
	for _, h := range shown[2:] {
		keys = append(keys, rr(2, 1, 0, h))
	}
	if got := Verify(append(keys, rr(2, 1, 1, root)), chain(leaf, root), time.Now()); got.Match != no {
		t.Errorf("after a flood of keys: %+v", got)
	}
	// An RSA key too long to verify with is no anchor.
	long, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), webpki.MaxRSA, 1), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	if public, err := x509.ParsePKIXPublicKey(long); err != nil || algorithm(public) != x509.UnknownPublicKeyAlgorithm {
		t.Errorf("a long key: %v, or it is used", err)
	}
}

func TestUsable(t *testing.T) {
	m := &maker{t: t}
	leaf, odd := m.issue("mx.test", nil, server), m.odd()
	r := func(usage, selector, matching uint8, data []byte) policy.TLSA {
		return policy.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
	}
	d32, d64 := make([]byte, 32), make([]byte, 64)
	for _, c := range []struct {
		record policy.TLSA
		want   error
		why    string
	}{
		{r(3, 1, 1, d32), nil, ""},
		{r(3, 0, 1, d32), nil, ""},
		{r(3, 1, 2, d64), nil, ""},
		{r(2, 0, 2, d64), nil, ""},
		{r(2, 1, 1, d32), nil, ""},
		{r(0, 0, 1, d32), errUsage, "PKIX-TA"},
		{r(1, 1, 1, d32), errUsage, "PKIX-EE"},
		{r(4, 1, 1, d32), errUsage, "not assigned"},
		{r(255, 1, 1, d32), errUsage, "PrivCert"},
		{r(3, 2, 1, d32), errSelector, "not assigned"},
		{r(3, 255, 1, d32), errSelector, "PrivSel"},
		{r(3, 1, 3, d32), errMatching, "not assigned"},
		{r(2, 1, 255, d32), errMatching, "PrivMatch"},
		{r(3, 1, 1, nil), errLength, "empty"},
		{r(3, 1, 1, d32[:31]), errLength, "short"},
		{r(3, 1, 1, make([]byte, 33)), errLength, "long"},
		{r(3, 1, 1, d64), errLength, "the other's"},
		{r(3, 1, 2, d32), errLength, "the other's"},
		{r(3, 0, 0, leaf.der), nil, ""},
		{r(2, 0, 0, leaf.der), nil, ""},
		{r(3, 0, 0, odd.der), nil, "crypto/x509 can't read it"},
		{r(3, 1, 0, leaf.spki()), nil, ""},
		{r(3, 1, 0, brainpool(leaf)), nil, "crypto/x509 doesn't know the curve"},
		{r(3, 0, 0, nil), errEmpty, "empty"},
		{r(2, 1, 0, nil), errEmpty, "empty"},
		{r(3, 0, 0, leaf.spki()), errNoCert, "a key instead"},
		{r(3, 1, 0, leaf.der), errNoKey, "a certificate instead"},
		{r(3, 0, 0, leaf.der[:len(leaf.der)-1]), errNoCert, "cut"},
		{r(3, 0, 0, append(bytes.Clone(leaf.der), 0)), errNoCert, "text after it"},
		{r(3, 1, 0, append(leaf.spki(), 0)), errNoKey, "text after it"},
		{r(3, 1, 0, leaf.spki()[:20]), errNoKey, "cut"},
		{r(3, 1, 0, d32), errNoKey, "a digest instead"},
		{r(2, 0, 0, d64), errNoCert, "a digest instead"},
	} {
		if got := Usable(c.record); got != c.want {
			t.Errorf("%s (%s): %v, want %v", short(c.record), c.why, got, c.want)
		}
	}
}

// FuzzVerify: whatever a host shows and DNS says, nothing panics; what matches is a usable record, DANE-EE(3) only the
// leaf, and DANE-TA(2) only what was signed by a key that the host didn't make up.
func FuzzVerify(f *testing.F) {
	for _, c := range cases(f) {
		var other []byte
		if len(c.chain) > 1 {
			other = c.chain[1].der
		}
		r := c.records[0]
		f.Add(r.Usage, r.Selector, r.Matching, r.Data, c.chain[0].der, other)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	m := &maker{t: f}
	honest := m.issueKey("honest", nil, key, authority)
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data, leaf, above []byte) {
		r := policy.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
		now := time.Now()
		got := Verify(rrs(r), [][]byte{leaf, above}, now)
		switch {
		case (got.DANE == policy.DANEUsable) != (Usable(r) == nil), (got.Match == none) != (got.DANE != policy.DANEUsable):
			t.Fatalf("%s: %+v", r, got)
		case got.Match == ee && !(r.Usage == usageEE && matches(r, leaf)), got.Match == ta && r.Usage != usageTA:
			t.Fatalf("%s: %+v", r, got)
		case got.Match == ta:
			if c, err := x509.ParseCertificate(leaf); err != nil || now.After(c.NotAfter) || now.Before(c.NotBefore) {
				t.Fatalf("an anchor for a leaf that isn't valid: %v", err)
			}
		}
		for _, want := range rrs(rr(2, 0, 0, honest), rr(2, 1, 0, honest), rr(2, 1, 1, honest), rr(3, 1, 1, honest)) {
			if got := Verify(rrs(want), [][]byte{leaf, above, honest.der}, now); got.Match != no {
				t.Fatalf("%s matches what its key never signed", short(want))
			}
		}
	})
}
