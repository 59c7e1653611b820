package postfix

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/profile"
)

func TestProfile(t *testing.T) {
	interfaces := func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}, &net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("::1"), Mask: net.CIDRMask(128, 128)}, &net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)}}, nil
	}
	look := func(name string) ([]netip.Addr, error) {
		if name == "nat.test" {
			return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.99")}, nil
		}
		return nil, errors.New("no such host")
	}
	const base = "mail_version = 3.7.11\nconfig_directory = /etc/postfix\nmyhostname = mta.test\ndefault_transport = smtp\n"
	const usual = base + "inet_interfaces = all\ninet_protocols = all\nsmtp_mx_address_limit = 5\nsmtp_host_lookup = dns\n"
	const services = "smtp unix - - n - - smtp\nsmtp inet n - n - - smtpd\n"
	for _, c := range []struct {
		name, main, options string
		own                 string
		limit               int
		no4, no6            bool
		native, onlyNative  bool
		certificate, failed bool
	}{
		{name: "as shipped", main: usual, own: "127.0.0.1 192.0.2.7 ::1 2001:db8::7", limit: 5},
		{name: "bound", main: usual, options: "tlsonly1/unix/smtp_mx_address_limit = 0\n", own: "127.0.0.1 192.0.2.7 ::1 2001:db8::7"},
		{name: "IPv4", main: usual + "inet_protocols = ipv4\n", own: "127.0.0.1 192.0.2.7", limit: 5, no6: true},
		{name: "IPv6", main: usual + "inet_protocols = ipv6\n", own: "::1 2001:db8::7", limit: 5, no4: true},
		{name: "of the transport", main: usual, options: "tlsonly1/unix/inet_protocols = ipv4\ntlsonly1/unix/smtp_mx_address_limit = 0\n", own: "127.0.0.1 192.0.2.7", no6: true},
		{name: "loopback", main: usual + "inet_interfaces = loopback-only\n", own: "127.0.0.1 ::1", limit: 5},
		{name: "addresses", main: usual + "inet_interfaces = 192.0.2.8, [2001:db8::8] nat.test\n", own: "192.0.2.8 192.0.2.99 2001:db8::8", limit: 5},
		{name: "proxy", main: usual + "inet_interfaces = 192.0.2.8\nproxy_interfaces = 192.0.2.50, $other\nother = nat.test\n", own: "192.0.2.8 192.0.2.50 192.0.2.99", limit: 5},
		{name: "a name nobody knows", main: usual + "inet_interfaces = 192.0.2.8 x.test\n", own: "192.0.2.8", limit: 5, failed: true},
		{name: "hosts file too", main: usual + "inet_interfaces = 192.0.2.8\nsmtp_host_lookup = dns, native\n", own: "192.0.2.8", limit: 5, native: true},
		{name: "hosts file alone", main: usual + "inet_interfaces = 192.0.2.8\nsmtp_host_lookup = native\n", own: "192.0.2.8", limit: 5, native: true, onlyNative: true},
		{name: "without DNS", main: usual + "inet_interfaces = 192.0.2.8\nsmtp_dns_support_level = disabled\n", own: "192.0.2.8", limit: 5, onlyNative: true},
		{name: "a certificate", main: usual + "inet_interfaces = 192.0.2.8\nsmtp_tls_cert_file = /etc/ssl/c.pem\n", own: "192.0.2.8", limit: 5, certificate: true},
	} {
		list := services
		if c.options != "" {
			list += "tlsonly1 unix - - n - - smtp\n"
		}
		f, err := Postconf{All: c.main, Services: list, Options: c.options}.Facts()
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.profile(interfaces, look)
		if (err != nil) != c.failed {
			t.Errorf("%s: %v", c.name, err)
		}
		var own []string
		for _, ip := range m.Hosts.Addresses {
			own = append(own, ip.String())
		}
		slices.Sort(own)
		want := strings.Fields(c.own)
		slices.Sort(want)
		h := m.Hosts
		if !slices.Equal(own, want) || h.Limit != c.limit || h.No4 != c.no4 || h.No6 != c.no6 || h.Native != c.native || h.OnlyNative != c.onlyNative ||
			m.TLS.Certificate != c.certificate || m.Dialect != profile.Postfix || m.Version != "3.7.11" || h.Name != addr.MustDomain("mta.test") {
			t.Errorf("%s: %q, %+v", c.name, own, h)
		}
	}
}
