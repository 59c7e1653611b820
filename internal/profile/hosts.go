package profile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"

	"tlsonly/internal/addr"
)

// Hosts says which mail hosts of a destination an MTA tries, and at which of their
// addresses. The zero Hosts is that of one that knows no name of its own and tries
// them all.
type Hosts struct {
	// Name is what the MTA calls itself to others.
	Name addr.Domain
	// Names and Addresses are its own: a mail host that has one of them is the MTA
	// itself, and ends the list. Addresses are also those of what forwards to it.
	Names     []addr.Domain
	Addresses []netip.Addr
	// Limit is how many addresses of a destination are tried, 0 for all.
	Limit int
	// No4 and No6 report that addresses of the family are not used.
	No4, No6 bool
	// Native reports that a host that the DNS has no address of is looked up as other
	// programs here do, in hosts(5) for example; OnlyNative that the DNS isn't asked.
	Native, OnlyNative bool
}

// Is reports whether a mail host's name is one of the MTA's own.
func (h Hosts) Is(name addr.Domain) bool { return slices.Contains(h.Names, name) }

// Has reports whether an address is one of the MTA's own.
func (h Hosts) Has(ip netip.Addr) bool { return slices.Contains(h.Addresses, ip.Unmap()) }

// Uses reports whether addresses of the family of ip are used.
func (h Hosts) Uses(ip netip.Addr) bool {
	if ip.Unmap().Is4() {
		return !h.No4
	}
	return !h.No6
}

// OneAddress reports whether the MTA tries no other address of a host after the
// first that takes the connection, whatever becomes of the TLS there.
func (m MTA) OneAddress() bool { return m.Dialect == Sendmail }

// Digest is the same for MTAs that can do the same: what was found for one of
// another digest may not hold. Who the MTA is isn't in it, because several share
// what they find. "" is for one of which nothing is known.
func (m MTA) Digest() string {
	m.Hosts.Name, m.Hosts.Names, m.Hosts.Addresses = addr.Domain{}, nil, nil
	if reflect.DeepEqual(m, MTA{}) {
		return ""
	}
	text, err := json.Marshal(m)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}
