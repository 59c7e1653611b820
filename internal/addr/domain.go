// Package addr answers what a mail address, a mail domain and a next hop are, so that nothing else in the
// program compares strings. A value is parsed once, at the edge (a milter packet, the rule file, the command
// line), and is comparable with == from then on.
//
// It decides nothing about mail and looks nothing up. What it follows: RFC 5321 sections 4.1.2 and 4.1.3 (paths,
// source routes, address literals), RFC 5890 (IDNA: the A-label is the form kept, the U-label is only shown),
// and Postfix's transport(5) for next hops.
//
// Parsing is lenient where mail is: underscores in host names and a trailing dot are taken, for they are seen in
// the wild and a refusal here would be a refusal of mail. It is strict where leniency would let two spellings of
// one domain differ: case, U-labels and A-labels always fold to one value.
package addr

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Domain is a mail domain in its one canonical form: lower-case A-labels without a trailing dot, or an address
// literal as RFC 5321, section 4.1.3, writes it ("[192.0.2.1]", "[IPv6:2001:db8::1]"). The zero value is "no
// domain". Domains are comparable with ==.
type Domain struct{ s string }

// profile maps what a user may have typed (case, width, NFC) and encodes, but does not refuse underscores, nor the
// hyphens in third and fourth place that hosts like "r3---sn.example" have.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false),
	idna.CheckHyphens(false), idna.BidiRule())

var (
	errEmpty   = errors.New("empty domain")
	errTooLong = errors.New("domain longer than 253 octets")
)

// ParseDomain parses a domain name, in U-labels or A-labels, or a bracketed address literal. One trailing dot is
// taken off. The error says what is wrong with s and never contains more than s.
func ParseDomain(s string) (Domain, error) {
	if strings.HasPrefix(s, "[") {
		ip, err := parseLiteral(s)
		if err != nil {
			return Domain{}, err
		}
		return literal(ip), nil
	}
	name := strings.TrimSuffix(s, ".")
	if name == "" {
		return Domain{}, errEmpty
	}
	if !utf8.ValidString(name) {
		return Domain{}, fmt.Errorf("domain %q: not UTF-8", s) // the mapping below would make all such bytes one letter
	}
	ascii := strings.ToLower(name)
	// Asked of name, not of ascii: ToLower makes "i" of U+0130, IDNA doesn't, and the MTA would go elsewhere.
	if !plainASCII(name) || strings.Contains(ascii, "xn--") {
		var err error
		ascii, err = profile.ToASCII(name)
		if err != nil {
			return Domain{}, fmt.Errorf("domain %q: %w", s, err)
		}
		ascii = strings.TrimSuffix(strings.ToLower(ascii), ".")
		// Rules that the letters kept may be broken by what they were mapped to; what can't be read again can't be stored.
		if again, err := profile.ToASCII(ascii); err != nil || again != ascii {
			return Domain{}, fmt.Errorf("domain %q: its ASCII form is another domain's, or nobody's", s)
		}
	}
	if len(ascii) > 253 {
		return Domain{}, errTooLong
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if err := checkLabel(label); err != nil {
			return Domain{}, fmt.Errorf("domain %q: %w", s, err)
		}
	}
	return Domain{ascii}, nil
}

// ParseHost reads the name of a mail host as the DNS has it, also one that is not
// a host name by RFC 1123 but that resolvers look up: a hyphen at the end of a
// label, "xn--" before nothing. An address is a host, too, as in "192.0.2.1.".
func ParseHost(s string) (Domain, error) {
	name := strings.TrimSuffix(s, ".")
	if ip, err := netip.ParseAddr(name); err == nil && ip.Zone() == "" {
		return literal(ip.Unmap()), nil
	}
	d, err := ParseDomain(s)
	if err == nil && !d.IsLiteral() {
		return d, nil
	}
	name = strings.ToLower(name)
	if name == "" || len(name) > 253 || !plainASCII(name) {
		return Domain{}, fmt.Errorf("host %q: not a name that can be looked up", s)
	}
	for label := range strings.SplitSeq(name, ".") {
		if bare := strings.Trim(label, "-"); len(label) > 63 || checkLabel(bare) != nil {
			return Domain{}, fmt.Errorf("host %q: not a name that can be looked up", s)
		}
	}
	return Domain{name}, nil
}

// MustDomain is ParseDomain for constants and tests; it panics on an error.
func MustDomain(s string) Domain {
	d, err := ParseDomain(s)
	if err != nil {
		panic(err)
	}
	return d
}

func plainASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("empty label")
	case len(label) > 63:
		return errors.New("label longer than 63 octets")
	case label[0] == '-' || label[len(label)-1] == '-':
		return errors.New("label begins or ends with a hyphen")
	}
	for i := range len(label) {
		c := label[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return fmt.Errorf("character %q", c)
		}
	}
	return nil
}

// parseLiteral takes "[192.0.2.1]", "[IPv6:2001:db8::1]" (RFC 5321, section 4.1.3) and, as Postfix does,
// "[2001:db8::1]".
func parseLiteral(s string) (netip.Addr, error) {
	inner, ok := strings.CutPrefix(s, "[")
	if ok {
		inner, ok = strings.CutSuffix(inner, "]")
	}
	if !ok {
		return netip.Addr{}, fmt.Errorf("address literal %q: no closing bracket", s)
	}
	if len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:") {
		inner = inner[5:]
	}
	ip, err := netip.ParseAddr(inner)
	if err != nil || ip.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("address literal %q: want an IPv4 or IPv6 address", s)
	}
	return ip.Unmap(), nil
}

func literal(ip netip.Addr) Domain {
	if ip.Is4() {
		return Domain{"[" + ip.String() + "]"}
	}
	return Domain{"[IPv6:" + ip.String() + "]"}
}

// String returns the A-label form, the one used in DNS, logs and replies.
func (d Domain) String() string { return d.s }

// Unicode returns the U-label form for people to read; where that can't be made, the A-label form.
func (d Domain) Unicode() string {
	if !strings.Contains(d.s, "xn--") {
		return d.s
	}
	u, err := profile.ToUnicode(d.s)
	if err != nil {
		return d.s
	}
	return u
}

// IsZero reports whether d is no domain at all.
func (d Domain) IsZero() bool { return d.s == "" }

// IsLiteral reports whether d is an address literal.
func (d Domain) IsLiteral() bool { return strings.HasPrefix(d.s, "[") }

// IP returns the address of a literal, and the zero Addr for a name.
func (d Domain) IP() netip.Addr {
	if !d.IsLiteral() {
		return netip.Addr{}
	}
	ip, _ := parseLiteral(d.s)
	return ip
}

// Parent returns the domain without its first label, and the zero Domain for a top-level domain or a literal.
func (d Domain) Parent() Domain {
	if d.IsLiteral() {
		return Domain{}
	}
	_, rest, _ := strings.Cut(d.s, ".")
	return Domain{rest}
}

// Under reports whether d is parent or lies below it.
func (d Domain) Under(parent Domain) bool {
	if d == parent {
		return true
	}
	return !parent.IsZero() && !d.IsLiteral() && strings.HasSuffix(d.s, "."+parent.s)
}

// MarshalText gives the A-label form.
func (d Domain) MarshalText() ([]byte, error) { return []byte(d.s), nil }

// UnmarshalText is ParseDomain; empty text is the zero Domain.
func (d *Domain) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Domain{}
		return nil
	}
	var err error
	*d, err = ParseDomain(string(b))
	return err
}
