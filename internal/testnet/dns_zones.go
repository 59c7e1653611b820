package testnet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// dnsZones holds records by owner name, lower case with a final dot, and type. A name between an owner and the root
// that has no record is there too, empty: it exists.
type dnsZones map[string]map[uint16][]dns.RR

const (
	dnsTTL         = 300
	dnsNegativeTTL = 60
)

func parseDNSZones(text string) (dnsZones, error) {
	z := dnsZones{".": nil}
	p := dns.NewZoneParser(strings.NewReader(text), ".", "zones")
	p.SetDefaultTTL(dnsTTL)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name, rrtype := dns.CanonicalName(rr.Header().Name), rr.Header().Rrtype
		if z[name] == nil {
			z[name] = make(map[uint16][]dns.RR)
		}
		z[name][rrtype] = append(z[name][rrtype], rr)
		for name != "." {
			name = dnsParent(name)
			if _, ok := z[name]; ok {
				break
			}
			z[name] = nil
		}
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("zones: %w", err)
	}
	return z, nil
}

func dnsParent(name string) string {
	next, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[next:]
}

// at returns the records of name, from a wildcard when nothing else is there. RFC 4592, section 3.3.1: the
// wildcard is that of the closest name that exists, and no other.
func (z dnsZones) at(name string) (records map[uint16][]dns.RR, exists bool) {
	if records, ok := z[name]; ok {
		return records, true
	}
	encloser := dnsParent(name)
	for {
		if _, ok := z[encloser]; ok {
			break
		}
		encloser = dnsParent(encloser)
	}
	records, exists = z["*."+strings.TrimPrefix(encloser, ".")]
	return records, exists
}

// soa returns the SOA of the zone name lies in; of the root when the zones have none above it.
func (z dnsZones) soa(name string) dns.RR {
	for at := name; ; at = dnsParent(at) {
		if rrs := z[at][dns.TypeSOA]; len(rrs) > 0 {
			return dns.Copy(rrs[0])
		}
		if at == "." {
			break
		}
	}
	return &dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: dnsNegativeTTL},
		Ns: "ns.invalid.", Mbox: "hostmaster.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: dnsNegativeTTL}
}

// fill answers m's question and returns the names the answer rests on: the one asked and those of its alias chain.
func (z dnsZones) fill(m *dns.Msg, fault DNSFault) []string {
	name, qtype := dns.CanonicalName(m.Question[0].Name), m.Question[0].Qtype
	names := []string{name}
	if fault == DNSNXDomain {
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{z.soa(name)}
		return names
	}
	if fault == DNSCNAMELoop {
		other := "loop." + name
		m.Answer = []dns.RR{dnsAlias(name, other), dnsAlias(other, name)}
		return append(names, other)
	}
	for {
		records, exists := z.at(name)
		if !exists {
			m.Rcode = dns.RcodeNameError
			break
		}
		if found := records[qtype]; len(found) > 0 {
			m.Answer = append(m.Answer, dnsOwned(found, name)...)
			return names
		}
		cname := records[dns.TypeCNAME]
		if len(cname) == 0 {
			break
		}
		m.Answer = append(m.Answer, dnsOwned(cname[:1], name)...)
		name = dns.CanonicalName(cname[0].(*dns.CNAME).Target)
		if fault == DNSNoFollow || slices.Contains(names, name) {
			return names
		}
		names = append(names, name)
	}
	m.Ns = []dns.RR{z.soa(name)}
	return names
}

// dnsOwned returns copies of the records that belong to name, which a wildcard's don't by themselves.
func dnsOwned(rrs []dns.RR, name string) []dns.RR {
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = name
	}
	return out
}

func dnsAlias(name, target string) dns.RR {
	return &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: dnsTTL}, Target: target}
}
