// Package inbound holds the [[inbound]] tables: what is asked of the TLS session in which a message comes in. It parses
// them, finds the rule that decides for a client, a sender and a recipient, and judges by it what the MTA says of the
// session. It is pure: no I/O, no clock of its own; where the macros come from is package milter's business.
//
// The first rule that matches decides; where none matches, nothing is asked. Selectors of one rule are joined by "and",
// the values of one selector by "or". Finding a rule walks over all of them: they name partners, so they are few.
//
// What comes from this host itself (a loopback address, or no client at all: sendmail(1), a content filter that hands mail
// back) has been in no foreign network and satisfies every rule, except one that names loopback addresses as its clients. A
// client that has logged in is asked for TLS like everybody; its login stands for a certificate, but bears no name.
//
// RFC 3207, section 4, says that a server that the world's MX records name must not demand TLS of everybody; a rule here
// is an agreement with somebody. RFC 5248 and its registry have the codes of the replies.
//
// SECURITY: client says whom a rule is for, and a rule that doesn't match asks nothing. Who connects from elsewhere is
// somebody else; to have no mail of a partner's senders come in any other way than protected, name them in from, with no client.
//
// BUGS: a client's name is what the MTA believes, name and address confirming each other. While DNS is away it has none, and
// rules by name pass it over: addresses and networks always match. Of a certificate both MTAs tell the common name alone. A
// recipient is the one that the client names; where its aliases lead isn't looked at.
package inbound

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Level is what a rule asks of the session.
type Level string

// The levels, weakest first.
const (
	May      Level = "may"      // nothing: an exception from a rule below
	Encrypt  Level = "encrypt"  // TLS
	Verified Level = "verified" // TLS with a client certificate that the MTA has verified
)

// Arrival is how a message comes in, as the MTA tells it. The zero Arrival is mail that was handed in on this host.
type Arrival struct {
	Addr  netip.Addr  // of the client, without a zone, never IPv4 in IPv6; zero: there is none
	Name  addr.Domain // of the client, as the MTA has confirmed it; zero: not known
	Login string      // SASL login; "": none

	TLS     bool
	Version policy.Version // 0: one that isn't known to us
	Cipher  string         // as OpenSSL calls it
	Bits    int            // strength of the cipher
	// Verified: the client has shown a certificate, and the MTA has verified it.
	Verified    bool
	Certificate string // the common name of such a certificate; may be empty
}

// Here reports whether the message comes from this host itself.
func (a Arrival) Here() bool { return !a.Addr.IsValid() || a.Addr.IsLoopback() }

// Rule is one [[inbound]] table.
type Rule struct {
	Name       string
	Client     []Client // empty: everybody
	From       []addr.Pattern
	To         []addr.Pattern
	Level      Level
	MinVersion policy.Version
	MinBits    int
	Cert       []string // common names, folded; empty: any
	OnFail     policy.Action
	Mode       policy.Mode
	Until      time.Time // the first instant at which the rule is over; zero: it never is
	Why        string    // key "reason"
	Line       int       // where its table begins in the file
}

// Active reports whether the rule is in force at now.
func (r *Rule) Active(now time.Time) bool { return r.Until.IsZero() || now.Before(r.Until) }

// Demands reports whether mail is refused, deferred or held for the rule's sake.
func (r *Rule) Demands() bool {
	return r.Level != May && r.Mode == policy.Enforce && r.OnFail.Verdict() != policy.Accept
}

// Set is all rules of a file, in their order. It never changes. A nil Set has none.
type Set struct{ rules []*Rule }

// New makes a Set of rules that Parse has found good. It keeps the slice.
func New(rs []*Rule) *Set { return &Set{rs} }

// Rules returns the rules in their order; the caller doesn't change them.
func (s *Set) Rules() []*Rule {
	if s == nil {
		return nil
	}
	return s.rules
}

// Demands reports whether any rule in force at now does.
func (s *Set) Demands(now time.Time) bool {
	return slices.ContainsFunc(s.Rules(), func(r *Rule) bool { return r.Active(now) && r.Demands() })
}

// Candidates returns the rules that can decide for a message, in order.
func (s *Set) Candidates(a Arrival, from addr.Address, now time.Time) Candidates {
	var found Candidates
	for _, r := range s.Rules() {
		if r.Active(now) && (len(r.Client) == 0 || slices.ContainsFunc(r.Client, func(c Client) bool { return c.Match(a) })) &&
			selects(r.From, from) {
			found = append(found, r)
		}
	}
	return found
}

// Candidates are the rules that can decide for one message, in order.
type Candidates []*Rule

// Match returns the rule that decides for a recipient, or nil.
func (c Candidates) Match(to addr.Address) *Rule {
	for _, r := range c {
		if selects(r.To, to) {
			return r
		}
	}
	return nil
}

// selects reports whether one of the patterns matches; none at all select everybody.
func selects(ps []addr.Pattern, a addr.Address) bool {
	return len(ps) == 0 || slices.ContainsFunc(ps, func(p addr.Pattern) bool { return p.Match(a) })
}

// namesLoopback reports whether the rule is expressly for clients on this host at a's address.
func (r *Rule) namesLoopback(a Arrival) bool {
	return slices.ContainsFunc(r.Client, func(c Client) bool {
		return c.network.IsValid() && c.network.Addr().IsLoopback() && c.Match(a)
	})
}

// foldName gives the one form of a common name that is compared.
func foldName(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), " ")) }
