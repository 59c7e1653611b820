package addr

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// Destination is where an MTA sends next: a domain, for which MX rules apply, or "[host]", for which they don't,
// optionally with a port. It is Postfix's next hop (transport(5)). Destinations are comparable with ==.
type Destination struct {
	host   Domain
	direct bool
	port   uint16
}

// DomainDestination returns the destination of mail for d by MX; for an address literal, that address.
func DomainDestination(d Domain) Destination { return Destination{host: d, direct: d.IsLiteral()} }

// ParseDestination parses "domain", "domain:port", "[host]", "[host]:port",
// with an address or a name in the brackets, and a bare IP address. The port is
// a number or the name of a service that the system knows, as Postfix asks
// getservbyname(3). A trailing dot (Sendmail's mark of a resolved name) is
// taken off.
func ParseDestination(s string) (Destination, error) {
	text := strings.TrimSpace(s)
	if ip, ok := parseIP(text); ok {
		return Destination{host: literal(ip.Unmap()), direct: true}, nil
	}
	host, port := text, ""
	if strings.HasPrefix(text, "[") {
		end := strings.IndexByte(text, ']')
		if end < 0 {
			return Destination{}, fmt.Errorf("destination %q: no closing bracket", s)
		}
		host = text[:end+1]
		if rest := text[end+1:]; rest != "" {
			if rest[0] != ':' {
				return Destination{}, fmt.Errorf("destination %q: text after the bracket", s)
			}
			port = rest[1:]
			if port == "" {
				return Destination{}, fmt.Errorf("destination %q: no port after the colon", s)
			}
		}
	} else if h, p, ok := strings.Cut(text, ":"); ok {
		if host, port = h, p; port == "" {
			return Destination{}, fmt.Errorf("destination %q: no port after the colon", s)
		}
	}
	var d Destination
	if port != "" {
		n, err := parsePort(port)
		if err != nil {
			return Destination{}, fmt.Errorf("destination %q: %w", s, err)
		}
		d.port = n
	}
	var err error
	if name, ok := strings.CutPrefix(host, "["); ok {
		d.direct = true
		if d.host, err = ParseDomain(host); err != nil {
			d.host, err = ParseDomain(strings.TrimSuffix(name, "]"))
		}
	} else {
		d.host, err = ParseDomain(host)
	}
	if err != nil {
		return Destination{}, fmt.Errorf("destination %q: %w", s, err)
	}
	if ip, ok := parseIP(d.host.String()); ok {
		d.host, d.direct = literal(ip), true // "192.0.2.1:25", "[192.0.2.1.]"
	}
	return d, nil
}

// parseIP parses an address without a zone. Most texts are names, which can be told at the last octet: to be refused by netip
// costs them an error.
func parseIP(s string) (netip.Addr, bool) {
	if s == "" || !strings.Contains(s, ":") && (s[len(s)-1] < '0' || '9' < s[len(s)-1]) {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(s)
	return ip, err == nil && ip.Zone() == ""
}

// longestService: RFC 6335, section 5.1, has 15 characters, and systems some
// longer ones.
const longestService = 64

func parsePort(s string) (uint16, error) {
	switch s {
	case "smtp":
		return 25, nil
	case "submission":
		return 587, nil
	case "smtps", "submissions":
		return 465, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n > 0 {
		return uint16(n), nil
	}
	if strings.ContainsFunc(s, unicode.IsLetter) && len(s) <= longestService {
		if port, err := net.LookupPort("tcp", s); err == nil && 0 < port && port <= 65535 {
			return uint16(port), nil
		}
	}
	return 0, fmt.Errorf("port %q: want 1 to 65535, or the name of a service", s)
}

// MustDestination is ParseDestination for constants and tests; it panics on an error.
func MustDestination(s string) Destination {
	d, err := ParseDestination(s)
	if err != nil {
		panic(err)
	}
	return d
}

// Host returns the domain, or the host or literal in the brackets.
func (d Destination) Host() Domain { return d.host }

// Direct reports whether the destination is a host in brackets: no MX look-up, no policy of a domain.
func (d Destination) Direct() bool { return d.direct }

// Port returns the port asked for, 0 for the default.
func (d Destination) Port() uint16 { return d.port }

// PortOr returns the port asked for, or the default given.
func (d Destination) PortOr(port uint16) uint16 { return cmp.Or(d.port, port) }

// IsZero reports whether d is no destination.
func (d Destination) IsZero() bool { return d == Destination{} }

// String returns the destination as Postfix writes a next hop.
func (d Destination) String() string {
	s := d.host.String()
	if d.direct && !d.host.IsLiteral() {
		s = "[" + s + "]"
	}
	if d.port != 0 {
		s += ":" + strconv.Itoa(int(d.port))
	}
	return s
}

// MarshalText gives String.
func (d Destination) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDestination; empty text is the zero Destination.
func (d *Destination) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Destination{}
		return nil
	}
	var err error
	*d, err = ParseDestination(string(b))
	return err
}
