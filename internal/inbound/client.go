package inbound

import (
	"fmt"
	"net/netip"
	"strings"

	"tlsonly/internal/addr"
)

// Client selects SMTP clients. Make one with ParseClient; the zero value selects none.
type Client struct {
	any     bool
	name    addr.Domain
	below   bool // name's hosts, and name itself
	network netip.Prefix
}

// ParseClient parses "mail.example.com" (that host), "@.example.com" (the hosts of the domain), "192.0.2.1",
// "2001:db8::/32" or "*". The error names the form that would be right.
func ParseClient(s string) (Client, error) {
	if s == "*" {
		return Client{any: true}, nil
	}
	if name, ok := strings.CutPrefix(s, "@."); ok {
		d, err := parseName(name)
		return Client{name: d, below: true}, err
	}
	if name, ok := strings.CutPrefix(s, "@"); ok {
		// Of addresses it means the domain without what is below it: here that would be one host, and hardly the one meant.
		return Client{}, fmt.Errorf(`want "@.%s" for the hosts of the domain, or the name of one host`, name)
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || p.Addr().Is4In6():
			return Client{}, fmt.Errorf("want a network, as 192.0.2.0/24 or 2001:db8::/32")
		case p != p.Masked():
			return Client{}, fmt.Errorf("want %s, or the address alone", p.Masked())
		}
		return Client{network: p}, nil
	}
	if d, err := addr.ParseDomain(s); err == nil && d.IsLiteral() {
		return host(d.IP()), nil
	}
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		return host(ip.Unmap()), nil
	}
	d, err := parseName(s)
	return Client{name: d}, err
}

func host(ip netip.Addr) Client { return Client{network: netip.PrefixFrom(ip, ip.BitLen())} }

// parseName takes a host name. No name's last label is a number (RFC 1123, section 2.1): "192.0.2" is a slip.
func parseName(s string) (addr.Domain, error) {
	d, err := addr.ParseDomain(s)
	if err != nil {
		return addr.Domain{}, err
	}
	last := d.String()[strings.LastIndexByte(d.String(), '.')+1:]
	if d.IsLiteral() || strings.Trim(last, "0123456789") == "" {
		return addr.Domain{}, fmt.Errorf("want a host name, an address or a network")
	}
	return d, nil
}

// Match reports whether c selects the client from which a message comes.
func (c Client) Match(a Arrival) bool {
	switch {
	case c.any:
		return true
	case c.network.IsValid():
		return c.network.Contains(a.Addr)
	case c.below:
		return !a.Name.IsZero() && a.Name.Under(c.name)
	}
	return !c.name.IsZero() && a.Name == c.name
}

// covers reports whether c selects every client that d does.
func (c Client) covers(d Client) bool {
	switch {
	case c.any:
		return true
	case c.network.IsValid():
		return d.network.IsValid() && c.network.Bits() <= d.network.Bits() && c.network.Contains(d.network.Addr())
	case c.below:
		return !d.name.IsZero() && d.name.Under(c.name)
	}
	return c == d
}

// String returns the client as ParseClient takes it.
func (c Client) String() string {
	switch {
	case c.any:
		return "*"
	case c.network.IsValid() && c.network.IsSingleIP():
		return c.network.Addr().String()
	case c.network.IsValid():
		return c.network.String()
	case c.below:
		return "@." + c.name.String()
	}
	return c.name.String()
}
