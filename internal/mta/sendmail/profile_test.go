package sendmail

import (
	"net"
	"net/netip"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/profile"
)

func TestProfileOf(t *testing.T) {
	all := []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}, &net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)}}
	m := profileOf(map[string]string{"$v": "8.17.1", "$j": "MTA.test", "$=w": "localhost\nmta.test\n[192.0.2.1]\n[127.0.0.1]\n[IPv6:2001:db8::1]\n"}, all)
	if m.Dialect != profile.Sendmail || m.Version != "8.17.1" || m.TLS.Naming != profile.NamesNever || !m.OneAddress() {
		t.Errorf("%+v", m)
	}
	h := m.Hosts
	for _, ip := range []string{"127.0.0.1", "192.0.2.1", "192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7"} {
		if !h.Has(netip.MustParseAddr(ip)) {
			t.Errorf("%s isn't its own: %v", ip, h.Addresses)
		}
	}
	if h.Has(netip.MustParseAddr("192.0.2.2")) || h.Has(netip.MustParseAddr("127.0.0.2")) || len(h.Addresses) != 4 {
		t.Errorf("its own: %v", h.Addresses)
	}
	if h.Name != addr.MustDomain("mta.test") || !h.Is(addr.MustDomain("localhost")) || h.Is(addr.MustDomain("x.test")) || !h.Native {
		t.Errorf("%+v", h)
	}
}
