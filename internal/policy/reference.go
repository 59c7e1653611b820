package policy

import (
	"net/netip"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// ReferenceNames is how a destination led to a mail host. It decides for which
// names the host may show a certificate where DANE-TA(2) matched.
type ReferenceNames struct {
	Base    addr.Domain // the name below which the TLSA records were found
	NextHop addr.Domain // the destination as asked for: a domain, or the host in brackets
	Alias   addr.Domain // where a chain of CNAMEs at NextHop ended, DNSSEC-validated; zero when there was none
	MX      bool        // NextHop has MX records, and one of them named the host
	Secure  bool        // DNSSEC vouches for the answer with the MX records
}

// Names returns the reference identifiers (RFC 7672, section 3.2.2), each once, the first one being Base.
func (w ReferenceNames) Names() []addr.Domain {
	names := []addr.Domain{w.Base}
	// With MX records that DNSSEC doesn't vouch for, whoever wrote them chose the host: the next hop's name proves
	// nothing about it that way, and the host's own name is all there is. Without MX records the next hop is the host.
	if w.Secure || !w.MX {
		names = append(names, w.NextHop)
		if w.MX {
			names = append(names, w.Alias)
		}
	}
	var unique []addr.Domain
	for _, n := range names {
		if !n.IsZero() && !slices.Contains(unique, n) {
			unique = append(unique, n)
		}
	}
	return unique
}

// Admits reports whether the host's certificate, which DANE-TA(2) matched, bears one of the names of Names.
func (w ReferenceNames) Admits(leaf Certificate) bool {
	// RFC 7672, section 3.2.3: common names count only where there are no names of the kind that are made for it.
	if !slices.ContainsFunc(leaf.Names, isName) {
		leaf.Names = commonNames(leaf.Subject)
	}
	return slices.ContainsFunc(w.Names(), leaf.Bears)
}

// isName reports whether one of a certificate's names is a DNS name, not an address.
func isName(name string) bool {
	_, err := netip.ParseAddr(name)
	return err != nil
}

// commonNames finds the common names in a subject as RFC 2253 writes it. One with anything escaped in it is no host name.
func commonNames(subject string) []string {
	var names []string
	for _, part := range attributes(subject) {
		if name, ok := strings.CutPrefix(part, "CN="); ok && !strings.Contains(name, `\`) {
			names = append(names, name)
		}
	}
	return names
}

// attributes takes a subject apart at the commas and plus signs that aren't escaped.
func attributes(subject string) []string {
	var parts []string
	start := 0
	for i := 0; i < len(subject); i++ {
		switch subject[i] {
		case '\\':
			i++
		case ',', '+':
			parts = append(parts, subject[start:i])
			start = i + 1
		}
	}
	return append(parts, subject[start:])
}
