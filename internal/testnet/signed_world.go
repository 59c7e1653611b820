package testnet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// SignedZones returns the world's records as zones for StartSigned: example itself, and one for each domain right below it.
// Those named are signed; of the others it is proven that they aren't. The world's own DNS goes on as it is, for whoever asks
// there; records that AddRecords added stay with it.
func (w *World) SignedZones(signed ...string) ([]SignedZone, error) {
	const top = "example."
	texts := map[string]string{top: ""}
	p := dns.NewZoneParser(strings.NewReader(w.zoneText("")), "", "world")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		zone := dns.CanonicalName(rr.Header().Name)
		if !dns.IsSubDomain(top, zone) {
			return nil, fmt.Errorf("world: %s is not below %s", zone, top)
		}
		for zone != top && dnsParent(zone) != top {
			zone = dnsParent(zone)
		}
		texts[zone] += rr.String() + "\n"
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	sign := []string{top}
	for _, domain := range signed {
		name := dns.CanonicalName(domain)
		if _, ok := texts[name]; !ok {
			return nil, fmt.Errorf("world: no domain %s", domain)
		}
		sign = append(sign, name)
	}
	zones := make([]SignedZone, 0, len(texts))
	for name, text := range texts {
		zones = append(zones, SignedZone{Name: name, Text: text, Unsigned: !slices.Contains(sign, name)})
	}
	return zones, nil
}

// TLSA returns the record that a host publishes for its own certificate, DANE-EE(3) SPKI(1) SHA2-256(1) (RFC 7672, section
// 3.1.1): its name, "_25._tcp.mx.good.example.", and its data, as SetRecords takes them. The host must have a certificate.
func (h *SMTP) TLSA() (name, data string) {
	key := sha256.Sum256(h.config.TLS.Certificates[0].Leaf.RawSubjectPublicKeyInfo)
	return fmt.Sprintf("_%d._tcp.%s.", h.Address().Port(), h.config.Name), "3 1 1 " + hex.EncodeToString(key[:])
}
