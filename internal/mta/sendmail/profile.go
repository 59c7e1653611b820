package sendmail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/profile"
)

// Profile asks Sendmail what it can do, and has its client say what TLS it offers.
// With an error it is what is known all the same: that it is a Sendmail, at the
// least.
func (in Installation) Profile(ctx context.Context) (profile.MTA, error) {
	said, err := in.names(ctx)
	if said == nil {
		return profile.For(profile.Sendmail), err
	}
	all, failed := net.InterfaceAddrs()
	err = errors.Join(err, failed)
	m := profileOf(said, all)
	text, unread := os.ReadFile(in.cf())
	c := parseConf(string(text))
	var offers profile.TLS
	if unread == nil {
		offers, unread = in.offers(ctx, c)
	}
	switch {
	case unread != nil:
		m.TLS.Assumed = unread.Error()
	default:
		offers.Naming = m.TLS.Naming
		m.TLS = offers
	}
	m.TLS.Certificate = c.option["clientcertfile"] != ""
	return m, err
}

// namesTime is how long Sendmail may take to find the names of this host's
// interfaces, for which it asks the DNS.
const namesTime = 10 * time.Second

// names asks Sendmail for its version and its names. Where it can't find those of
// the interfaces, it is asked for the others; the error says so then.
func (in Installation) names(ctx context.Context) (map[string]string, error) {
	first, cancel := context.WithTimeout(ctx, namesTime)
	defer cancel()
	what := []string{"$v", "$j", "$=w"}
	said, err := in.expand(first, nil, what...)
	if err == nil {
		return said, nil
	}
	said, again := in.expand(ctx, []string{"-ODontProbeInterfaces=True"}, what...)
	if again != nil {
		return nil, again
	}
	return said, fmt.Errorf("the names of this host's interfaces aren't known: %w", err)
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
