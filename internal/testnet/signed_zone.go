package testnet

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// signedSource is a zone as it was described.
type signedSource struct {
	SignedZone           // Name is lower case with a final dot
	records    []dns.RR  // of Text, as changed since
	key, rogue signedKey // the one the zone is signed with, and another one
}

// signedKey signs keys and records alike.
type signedKey struct {
	public  *dns.DNSKEY
	private crypto.Signer
}

func newSignedKey(zone string) (signedKey, error) {
	const (
		zoneAndEntry = dns.ZONE | dns.SEP
		protocol     = 3 // RFC 4034, section 2.1.2
	)
	public := &dns.DNSKEY{Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: dnsTTL},
		Flags: zoneAndEntry, Protocol: protocol, Algorithm: dns.ECDSAP256SHA256}
	private, err := public.Generate(256)
	if err != nil {
		return signedKey{}, err
	}
	return signedKey{public, private.(crypto.Signer)}, nil
}

// addSource puts z into sources, with the keys of the zone of that name when there is one.
func addSource(sources map[string]*signedSource, z SignedZone) error {
	z.Name = dns.CanonicalName(z.Name)
	source := &signedSource{SignedZone: z}
	p := dns.NewZoneParser(strings.NewReader(z.Text), z.Name, z.Name)
	p.SetDefaultTTL(dnsTTL)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		source.records = append(source.records, rr)
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("zone %w", err) // the parser says which
	}
	if old := sources[z.Name]; old != nil {
		source.key, source.rogue = old.key, old.rogue
	} else {
		var err1, err2 error
		source.key, err1 = newSignedKey(z.Name)
		source.rogue, err2 = newSignedKey(z.Name)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("key of zone %s: %w", z.Name, err)
		}
	}
	sources[z.Name] = source
	return nil
}

// closestZone returns the zone at name or above; the root is always there.
func closestZone[T any](zones map[string]T, name string) string {
	for name != "." {
		if _, ok := zones[name]; ok {
			break
		}
		name = dnsParent(name)
	}
	return name
}

// signedZone is a zone as it is served.
type signedZone struct {
	*signedSource
	names dnsZones
	chain []denial // of a signed zone: in its order, closed
}

// denial is one link of a zone's NSEC or NSEC3 chain.
type denial struct {
	at []string // where it stands in the order
	rr dns.RR
}

// signedZones makes the zones, which are ready once all delegations are in.
func signedZones(sources map[string]*signedSource) (map[string]*signedZone, error) {
	zones := make(map[string]*signedZone, len(sources))
	for name, source := range sources {
		zones[name] = &signedZone{signedSource: source, names: dnsZones{name: {}}}
	}
	for name, z := range zones {
		for _, rr := range z.records {
			owner, rrtype := dns.CanonicalName(rr.Header().Name), rr.Header().Rrtype
			switch {
			case !dns.IsSubDomain(name, owner):
				return nil, fmt.Errorf("zone %s: %s is outside", name, owner)
			case closestZone(sources, owner) != name:
				return nil, fmt.Errorf("zone %s: %s belongs to zone %s", name, owner, closestZone(sources, owner))
			case rrtype == dns.TypeNS && owner != name:
				return nil, fmt.Errorf("zone %s: %s is delegated to a zone that isn't served", name, owner)
			}
			z.add(rr)
		}
		z.furnish()
		if name != "." {
			z.delegate(zones[closestZone(sources, dnsParent(name))])
		}
	}
	for _, z := range zones {
		z.fillGaps()
		if !z.Unsigned {
			z.link()
		}
	}
	return zones, nil
}

func (z *signedZone) add(rrs ...dns.RR) {
	for _, rr := range rrs {
		name, rrtype := dns.CanonicalName(rr.Header().Name), rr.Header().Rrtype
		if z.names[name] == nil {
			z.names[name] = make(map[uint16][]dns.RR)
		}
		z.names[name][rrtype] = append(z.names[name][rrtype], rr)
	}
}

// dnsHeader is that of a record of name.
func dnsHeader(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// furnish adds what every zone has at its head.
func (z *signedZone) furnish() {
	if len(z.names[z.Name][dns.TypeSOA]) == 0 {
		z.add(&dns.SOA{Hdr: dnsHeader(z.Name, dns.TypeSOA, dnsNegativeTTL), Ns: "ns.invalid.", Mbox: "hostmaster.invalid.",
			Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: dnsNegativeTTL})
	}
	if len(z.names[z.Name][dns.TypeNS]) == 0 {
		z.add(delegation(z.Name))
	}
	if z.Unsigned {
		return
	}
	z.add(z.key.public)
	if z.NSEC3 {
		z.add(&dns.NSEC3PARAM{Hdr: dnsHeader(z.Name, dns.TypeNSEC3PARAM, 0), Hash: dns.SHA1})
	}
}

// delegation is the NS of a zone. Nobody follows it: resolvers ask this server as a forwarder.
func delegation(zone string) dns.RR {
	return &dns.NS{Hdr: dnsHeader(zone, dns.TypeNS, dnsTTL), Ns: "ns.invalid."}
}

// delegate adds to parent what it says of z.
func (z *signedZone) delegate(parent *signedZone) {
	parent.add(delegation(z.Name))
	switch {
	case z.Unsigned:
	case z.Fault == DNSWrongDS:
		parent.add(z.rogue.public.ToDS(dns.SHA256))
	default:
		parent.add(z.key.public.ToDS(dns.SHA256))
	}
}

// fillGaps adds the empty names between those that have records (RFC 4592, section 2.2.2).
func (z *signedZone) fillGaps() {
	for _, name := range slices.Collect(maps.Keys(z.names)) {
		for name != z.Name {
			name = dnsParent(name)
			if _, ok := z.names[name]; ok {
				break
			}
			z.names[name] = nil
		}
	}
}

// link makes the chain of denials.
func (z *signedZone) link() {
	soa := z.names[z.Name][dns.TypeSOA][0].(*dns.SOA)
	ttl := min(soa.Minttl, soa.Hdr.Ttl) // RFC 9077, section 3
	for name, records := range z.names {
		types := slices.Collect(maps.Keys(records))
		// NS alone is a delegation that nobody signs.
		signed := len(types) > 1 || len(types) == 1 && types[0] != dns.TypeNS
		d := denial{at: z.place(name)}
		if z.NSEC3 {
			if signed {
				types = append(types, dns.TypeRRSIG)
			}
			slices.Sort(types)
			d.rr = &dns.NSEC3{Hdr: dnsHeader(d.at[0]+"."+strings.TrimPrefix(z.Name, "."), dns.TypeNSEC3, ttl), Hash: dns.SHA1,
				HashLength: 20, TypeBitMap: types} // RFC 9276, section 3.1: no iterations, no salt
		} else {
			if len(types) == 0 {
				continue // RFC 4035, section 2.3: names without records have no NSEC
			}
			types = append(types, dns.TypeRRSIG, dns.TypeNSEC)
			slices.Sort(types)
			d.rr = &dns.NSEC{Hdr: dnsHeader(name, dns.TypeNSEC, ttl), TypeBitMap: types}
		}
		z.chain = append(z.chain, d)
	}
	slices.SortFunc(z.chain, func(a, b denial) int { return slices.Compare(a.at, b.at) })
	for i, d := range z.chain {
		next := z.chain[(i+1)%len(z.chain)]
		switch rr := d.rr.(type) {
		case *dns.NSEC:
			rr.NextDomain = next.rr.Header().Name
		case *dns.NSEC3:
			rr.NextDomain = next.at[0]
		}
	}
}

// place returns where name stands in the order of the chain: its labels from the root down (RFC 4034, section 6.1), or its
// hash.
func (z *signedZone) place(name string) []string {
	if z.NSEC3 {
		return []string{dns.HashName(name, dns.SHA1, 0, "")}
	}
	labels := dns.SplitDomainName(name)
	slices.Reverse(labels)
	return labels
}

// denialOf returns the link that stands at name, or else the one that says that nothing does.
func (z *signedZone) denialOf(name string) dns.RR {
	i, found := slices.BinarySearchFunc(z.chain, z.place(name), func(d denial, at []string) int { return slices.Compare(d.at, at) })
	if !found {
		i = (i - 1 + len(z.chain)) % len(z.chain) // before the first one the last one of a circle
	}
	return z.chain[i].rr
}
