package testnet

import (
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// signedReply answers from one zone.
type signedReply struct {
	zone  *signedZone
	fault DNSFault
	do    bool // the query wants signatures
}

// fill answers q: records, an alias, or the absence of both with its proof (RFC 4035, section 3.1.3; RFC 5155, section 7.2).
func (r signedReply) fill(m *dns.Msg, q dnsQuery) error {
	z := r.zone
	if r.fault == DNSNXDomain {
		m.Rcode = dns.RcodeNameError
		return r.sign(&m.Ns, z.Name, z.names[z.Name][dns.TypeSOA])
	}
	records, exists := z.names[q.name]
	source, encloser, next := q.name, "", ""
	var proof []string
	if !exists {
		encloser, next = z.closest(q.name)
		source = "*." + strings.TrimPrefix(encloser, ".")
		records, exists = z.names[source]
		proof = []string{next}
	}
	found := records[q.qtype]
	if len(found) == 0 {
		found = records[dns.TypeCNAME]
	}
	if len(found) > 0 {
		// From a wildcard: proof that no closer name is there.
		return errors.Join(r.sign(&m.Answer, q.name, found), r.deny(&m.Ns, q, proof))
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	if proof = append(proof, source); z.NSEC3 && encloser != "" {
		proof = append(proof, encloser)
	}
	return errors.Join(r.sign(&m.Ns, z.Name, z.names[z.Name][dns.TypeSOA]), r.deny(&m.Ns, q, proof))
}

// closest returns the closest name above one that doesn't exist, and the name below that on the way back.
func (z *signedZone) closest(name string) (encloser, next string) {
	for encloser = name; ; {
		next, encloser = encloser, dnsParent(encloser)
		if _, ok := z.names[encloser]; ok {
			return encloser, next
		}
	}
}

// deny adds the links of the chain that the names lead to, each once.
func (r signedReply) deny(section *[]dns.RR, q dnsQuery, names []string) error {
	if r.zone.Unsigned || !r.do || r.fault == DNSNoDenial || len(names) == 0 {
		return nil
	}
	var links []dns.RR
	for _, name := range names {
		if link := r.zone.denialOf(name); !slices.Contains(links, link) {
			links = append(links, link)
		}
	}
	if r.fault == DNSWrongDenial {
		link, err := r.zone.elsewhere(q.qtype)
		if err != nil {
			return err
		}
		links = []dns.RR{link}
	}
	for _, link := range links {
		if err := r.sign(section, link.Header().Name, []dns.RR{link}); err != nil {
			return err
		}
	}
	return nil
}

// elsewhere is a link that says nothing of any name but the zone's, and of that one that it has the type.
func (z *signedZone) elsewhere(qtype uint16) (dns.RR, error) {
	rr := dns.Copy(z.denialOf(z.Name))
	switch rr := rr.(type) {
	case *dns.NSEC:
		rr.NextDomain = "!." + strings.TrimPrefix(z.Name, ".")
		rr.TypeBitMap = withType(rr.TypeBitMap, qtype)
	case *dns.NSEC3:
		hash, err := base32.HexEncoding.DecodeString(z.place(z.Name)[0])
		if err != nil {
			return nil, err
		}
		for i := len(hash) - 1; i >= 0; i-- {
			if hash[i]++; hash[i] != 0 {
				break
			}
		}
		rr.NextDomain = base32.HexEncoding.EncodeToString(hash)
		rr.TypeBitMap = withType(rr.TypeBitMap, qtype)
	}
	return rr, nil
}

func withType(types []uint16, t uint16) []uint16 {
	types = append(slices.Clone(types), t)
	slices.Sort(types)
	return slices.Compact(types)
}

// sign adds the records under the name owner, and their signature.
func (r signedReply) sign(section *[]dns.RR, owner string, rrset []dns.RR) error {
	*section = append(*section, dnsOwned(rrset, owner)...)
	if r.zone.Unsigned || !r.do || r.fault == DNSStripped {
		return nil
	}
	const day = 24 * time.Hour
	begin, end := time.Now().Add(-day), time.Now().Add(30*day)
	if r.fault == DNSExpired {
		begin, end = begin.Add(-60*day), end.Add(-60*day)
	}
	key := r.zone.key
	sig := &dns.RRSIG{Algorithm: key.public.Algorithm, KeyTag: key.public.KeyTag(), SignerName: r.zone.Name,
		Inception: uint32(begin.Unix()), Expiration: uint32(end.Unix())}
	if r.fault == DNSWrongKey {
		key = r.zone.rogue
	}
	if err := sig.Sign(key.private, rrset); err != nil {
		return fmt.Errorf("sign %s: %w", owner, err)
	}
	sig.Hdr.Name = owner // a wildcard's is signed under its own name
	*section = append(*section, sig)
	return nil
}
