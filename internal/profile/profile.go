// Package profile says what the MTA of this site can do, as far as that decides
// whether it delivers to a mail host over TLS: how it reads replies, what its TLS
// library takes, when it names the host in its hello, and which hosts and
// addresses it tries. What looks at a destination or judges it goes by this, so
// that what is promised is what the MTA will do.
//
// A profile is a value. It is found out from the running MTA elsewhere; For gives
// what is assumed of one of which nothing is known but which it is.
package profile

import (
	"fmt"
	"slices"

	"tlsonly/internal/policy"
)

// Dialect is whose way of reading SMTP replies is meant.
type Dialect string

// The dialects. AnyDialect is for an MTA that isn't known: only what every one
// reads the same way counts.
const (
	AnyDialect Dialect = ""
	Postfix    Dialect = "postfix"
	Sendmail   Dialect = "sendmail"
)

// Naming says when an MTA names the host in its hello (SNI, RFC 6066, section 3).
type Naming string

// When an MTA names the host.
const (
	// NamesAsTold: where the answer to it says so, and with DANE always.
	NamesAsTold Naming = ""
	NamesNever  Naming = "never"
)

// MTA is what one MTA can do. The zero MTA is one of which nothing is known, and
// is taken for the strictest of all in how it reads replies, and for one without
// limits in all else.
type MTA struct {
	Dialect Dialect
	Version string // as it tells it, "3.7.11"; "" where that isn't known
	TLS     TLS
	Hosts   Hosts
	// Wraps reports that the MTA has a client that speaks TLS from the first octet
	// on, whatever the port.
	Wraps bool
}

// TakesLongBanner reports whether the MTA goes on after a banner with a line of
// more than 4096 octets. Postfix 3.7 leaves the rest of the line out; 3.10 loses
// the connection at EHLO, as was seen with 4,800 octets, and not with 2,100.
// Versions between are taken for the stricter.
func (m MTA) TakesLongBanner() bool { return m.Dialect != Postfix || !m.since(3, 8) }

// since reports whether the version is known and at least that.
func (m MTA) since(major, minor int) bool {
	var is [2]int
	n, _ := fmt.Sscanf(m.Version, "%d.%d", &is[0], &is[1])
	return n == 2 && (is[0] > major || is[0] == major && is[1] >= minor)
}

// TLS is what the MTA's TLS library takes, with its configuration and the MTA's
// settings. A nil list is no limit.
type TLS struct {
	Naming Naming
	// Versions are those that it offers.
	Versions []policy.Version
	// Suites are the cipher suites that it offers, by IANA's numbers, TLS 1.3's
	// among them.
	Suites []uint16
	// Groups are those of a key exchange, by IANA's numbers (RFC 8446, section
	// 4.2.7). They bind Diffie-Hellman over finite fields from TLS 1.3 on.
	Groups []uint16
	// Signatures are the signature schemes, by IANA's numbers (RFC 8446, section
	// 4.2.3).
	Signatures []uint16
	// MinDH is the least size of a prime for Diffie-Hellman over a finite field below
	// TLS 1.3, in bits.
	MinDH int
	// Certificate reports that the MTA has a certificate of its own to show to a host
	// that asks for one.
	Certificate bool
	// Assumed says why not all of this could be found out, "" where it was: what isn't
	// here is what For has then. It binds nobody.
	Assumed string `json:"-"`
}

// Or is what one or the other of two clients takes.
func (t TLS) Or(other TLS) TLS {
	if t.Suites == nil {
		return other
	}
	t.Versions = union(t.Versions, other.Versions)
	t.Suites = union(t.Suites, other.Suites)
	t.Groups = union(t.Groups, other.Groups)
	t.Signatures = union(t.Signatures, other.Signatures)
	t.MinDH = min(t.MinDH, other.MinDH)
	return t
}

func union[T comparable](a, b []T) []T {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}

// Takes reports whether a suite is among those offered.
func (t TLS) Takes(suite uint16) bool { return t.Suites == nil || slices.Contains(t.Suites, suite) }

// Speaks reports whether a version is among those offered.
func (t TLS) Speaks(v policy.Version) bool {
	return t.Versions == nil || slices.Contains(t.Versions, v)
}

// Shares reports whether a group is among those offered.
func (t TLS) Shares(group uint16) bool { return t.Groups == nil || slices.Contains(t.Groups, group) }

// Signs reports whether a signature scheme is among those offered.
func (t TLS) Signs(scheme uint16) bool {
	return t.Signatures == nil || slices.Contains(t.Signatures, scheme)
}
