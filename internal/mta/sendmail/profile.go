package sendmail

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/profile"
)

// Profile asks Sendmail what it can do. With an error it is what is known all the
// same: that it is a Sendmail, at the least.
func (in Installation) Profile(ctx context.Context) (profile.MTA, error) {
	said, err := in.expand(ctx, "$v", "$j", "$=w")
	if err != nil {
		return profile.For(profile.Sendmail), err
	}
	all, err := net.InterfaceAddrs()
	m := profileOf(said, all)
	if text, failed := os.ReadFile(in.cf()); failed == nil {
		m.TLS.Certificate = parseConf(string(text)).option["clientcertfile"] != ""
	}
	return m, err
}

// profileOf makes a profile of what Sendmail says of its names; interfaces are
// this host's addresses, where it would meet itself.
func profileOf(said map[string]string, interfaces []net.Addr) profile.MTA {
	m := profile.For(profile.Sendmail)
	m.Version = said["$v"]
	h := &m.Hosts
	h.Native = true // gethostbyname(3) finds what DNS doesn't have
	if name, err := addr.ParseDomain(said["$j"]); err == nil {
		h.Name = name
	}
	add := func(ip netip.Addr) {
		if ip = ip.Unmap().WithZone(""); !slices.Contains(h.Addresses, ip) {
			h.Addresses = append(h.Addresses, ip)
		}
	}
	for name := range strings.FieldsSeq(said["$=w"]) {
		d, err := addr.ParseDomain(name)
		switch {
		case err != nil:
		case d.IsLiteral():
			add(d.IP())
		case !slices.Contains(h.Names, d):
			h.Names = append(h.Names, d)
		}
	}
	for _, one := range interfaces {
		if prefix, err := netip.ParsePrefix(one.String()); err == nil {
			add(prefix.Addr())
		}
	}
	slices.SortFunc(h.Addresses, netip.Addr.Compare)
	slices.SortFunc(h.Names, func(x, y addr.Domain) int { return strings.Compare(x.String(), y.String()) })
	return m
}
