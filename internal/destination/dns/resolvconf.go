package dns

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

const port = 53

// parseServer takes "192.0.2.1:53", "[2001:db8::1]:53" or an address without a port. A name is refused: it would
// have to be looked up by another resolver, whose word would then count.
func parseServer(s string) (netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(ip, port), nil
	}
	server, err := netip.ParseAddrPort(s)
	if err != nil || server.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("resolver %q: want an IP address and a port, like 127.0.0.1:53", s)
	}
	return server, nil
}

// firstNameserver reads a resolv.conf(5). A file that names no server means the one on this host, as that manual
// says; a file that can't be read is an error here, for it is more often a mistake than a wish.
func firstNameserver(path string) (netip.AddrPort, error) {
	f, err := os.Open(path)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolver not given and not found: %w", err)
	}
	defer f.Close()
	server, err := parseResolvConf(f)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %w", path, err)
	}
	return server, nil
}

func parseResolvConf(r io.Reader) (netip.AddrPort, error) {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		// The C library takes a comment mark in the first column only, and ignores what follows the address.
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "nameserver" {
			continue
		}
		if len(fields) == 1 {
			return netip.AddrPort{}, fmt.Errorf("line %d: nameserver without an address", n)
		}
		ip, err := netip.ParseAddr(fields[1])
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("line %d: nameserver %q: want an IP address", n, fields[1])
		}
		return netip.AddrPortFrom(ip, port), nil
	}
	if err := lines.Err(); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), nil
}
