package postfix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/profile"
)

// Profile asks postconf(1) what this Postfix can do, and has its client say what
// TLS it offers. With an error it is what is known all the same: that it is a
// Postfix, at the least.
func (i Instance) Profile(ctx context.Context) (profile.MTA, error) {
	var text Postconf
	for _, ask := range []struct {
		flag string
		to   *string
	}{{"-x", &text.Expanded}, {"-M", &text.Services}, {"-P", &text.Options}} {
		var err error
		if *ask.to, _, err = i.run(ctx, "", "postconf", ask.flag); err != nil {
			return profile.MTA{Dialect: profile.Postfix}, fmt.Errorf("what postfix can do: %w", err)
		}
	}
	text.All = text.Expanded
	f, err := text.Facts()
	if err != nil {
		return profile.MTA{Dialect: profile.Postfix}, fmt.Errorf("what postfix can do: %w", err)
	}
	look := func(host string) ([]netip.Addr, error) { return net.DefaultResolver.LookupNetIP(ctx, "ip", host) }
	m, err := f.profile(net.InterfaceAddrs, look)
	offers, unread := i.offers(ctx, f)
	if unread != nil {
		m.TLS.Versions = f.settled()
		m.TLS.Assumed = unread.Error()
		return m, err
	}
	offers.Certificate, offers.Naming = m.TLS.Certificate, m.TLS.Naming
	m.TLS = offers
	return m, err
}

// profile says what this Postfix can do; interfaces lists this host's addresses
// as net.InterfaceAddrs does, look those of a name.
func (f Facts) profile(
	interfaces func() ([]net.Addr, error), look func(host string) ([]netip.Addr, error),
) (profile.MTA, error) {
	client := f.clients()[0]
	m := profile.MTA{Dialect: profile.Postfix}
	m.Version = f.all["mail_version"]
	m.Wraps = f.wraps()
	for _, name := range []string{"smtp_tls_chain_files", "smtp_tls_cert_file", "smtp_tls_eccert_file", "smtp_tls_dcert_file"} {
		value := f.option(client, name)
		m.TLS.Certificate = m.TLS.Certificate || value != "" && value != "none"
	}
	h := &m.Hosts
	if name, err := addr.ParseDomain(f.option(client, "myhostname")); err == nil {
		h.Name = name
	}
	protocols := splitList(f.option(client, "inet_protocols"))
	if !slices.Contains(protocols, "all") && len(protocols) > 0 {
		h.No4, h.No6 = !slices.Contains(protocols, "ipv4"), !slices.Contains(protocols, "ipv6")
	}
	if n, err := strconv.Atoi(f.option(client, addressLimit)); err == nil && n > 0 {
		h.Limit = n
	}
	how := splitList(f.option(client, "smtp_host_lookup"))
	h.Native = slices.Contains(how, "native")
	h.OnlyNative = h.Native && !slices.Contains(how, "dns") || f.withoutDNS(client)
	var failed []error
	add := func(ip netip.Addr) {
		if ip = ip.Unmap().WithZone(""); h.Uses(ip) && !slices.Contains(h.Addresses, ip) {
			h.Addresses = append(h.Addresses, ip)
		}
	}
	for _, name := range slices.Concat(splitList(f.option(client, "inet_interfaces")), splitList(f.option(client, "proxy_interfaces"))) {
		ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
		switch {
		case err == nil:
			add(ip)
		case name == "all" || name == "loopback-only":
			all, err := interfaces()
			if err != nil {
				failed = append(failed, fmt.Errorf("inet_interfaces = %s: %w", name, err))
			}
			for _, one := range all {
				prefix, err := netip.ParsePrefix(one.String())
				if err == nil && (name == "all" || prefix.Addr().IsLoopback()) {
					add(prefix.Addr())
				}
			}
		default:
			found, err := look(name)
			if err != nil {
				failed = append(failed, fmt.Errorf("address of %s in inet_interfaces or proxy_interfaces: %w", name, err))
			}
			for _, ip := range found {
				add(ip)
			}
		}
	}
	slices.SortFunc(h.Addresses, netip.Addr.Compare)
	return m, errors.Join(failed...)
}
