package policy

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"tlsonly/internal/addr"
)

// TLSA is a TLSA record as published (RFC 6698, section 2.1), usable or not.
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// String returns the record in presentation form: "3 1 1 0a1b…".
func (r TLSA) String() string {
	return fmt.Sprintf("%d %d %d %x", r.Usage, r.Selector, r.Matching, r.Data)
}

// MarshalText gives String.
func (r TLSA) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText takes what MarshalText gives.
func (r *TLSA) UnmarshalText(b []byte) error {
	var data string
	if n, _ := fmt.Sscanf(string(b), "%d %d %d %s", &r.Usage, &r.Selector, &r.Matching, &data); n < 3 {
		return fmt.Errorf("TLSA record %q: want three numbers and hexadecimal digits", b)
	}
	var err error
	if r.Data, err = hex.DecodeString(data); err != nil {
		return fmt.Errorf("TLSA record %q: %w", b, err)
	}
	return nil
}

// DANE says what the TLSA records of a mail host are worth.
type DANE string

// What TLSA records can be worth.
const (
	DANENone DANE = "" // none that DNSSEC vouches for: nothing is promised
	// DANEUsable: at least one can authenticate the host, and so one must (RFC 7672, section 2.2).
	DANEUsable DANE = "usable"
	// DANEUnusable: signed records, none of which a client can use: TLS is promised, nothing more (RFC 7672, section 2.2).
	DANEUnusable DANE = "unusable"
	// DANEUnknown: the question had no answer, so the host must not be used (RFC 7672, section 2.1.2).
	DANEUnknown DANE = "unknown"
)

// DANEMatch says how a chain of certificates stands to usable TLSA records.
type DANEMatch string

// How a chain can stand to them.
const (
	DANENotMatched DANEMatch = ""        // nothing to match, or no chain was seen
	DANEMatchEE    DANEMatch = "dane-ee" // the leaf is the one published; its names and validity don't matter
	// DANEMatchTA: the chain leads to the anchor published; the leaf must bear one of the destination's names, too.
	DANEMatchTA  DANEMatch = "dane-ta"
	DANEMismatch DANEMatch = "mismatch"
)

// Trust says what public key infrastructure makes of a chain of certificates, names not judged (RFC 5280).
type Trust string

// What it can make of a chain.
const (
	TrustNotJudged     Trust = ""               // no chain was seen
	Trusted            Trust = "trusted"        // valid now, and leads to a root of this host's
	TrustExpired       Trust = "expired"        // the leaf, or one above it
	TrustNotYet        Trust = "not-yet-valid"  // the leaf, or one above it
	TrustSelfSigned    Trust = "self-signed"    // the leaf signed itself
	TrustUnknownIssuer Trust = "unknown-issuer" // a certificate above is missing, or its root isn't one of this host's
	TrustInvalid       Trust = "invalid"        // anything else: a leaf that may not be a server's, a broken signature, …
)

// STSMode is the mode of an MTA-STS policy.
type STSMode string

// The modes (RFC 8461, section 5).
const (
	STSNone    STSMode = "none" // also: "there is no policy any more"
	STSTesting STSMode = "testing"
	STSEnforce STSMode = "enforce"
)

// STSRecord begins STS.Problem where it is the TXT record that is at fault.
const STSRecord = "MTA-STS record"

// STS is what a domain publishes by MTA-STS (RFC 8461). The zero STS is nothing.
type STS struct {
	ID      string    `json:"id,omitempty"`
	Mode    STSMode   `json:"mode,omitempty"`
	MX      []string  `json:"mx,omitempty"` // patterns: "mx.example.com", "*.example.net", lower case
	Fetched time.Time `json:"fetched,omitzero"`
	Until   time.Time `json:"until,omitzero"` // the end of max_age
	// Problem is set when a record is there (or that could not be found out) and its policy was not to be had, or only an older one.
	Problem string `json:"problem,omitempty"`
}

// Enforces reports whether the policy binds.
func (s STS) Enforces() bool { return s.Mode == STSEnforce }

// Permits reports whether a pattern of the policy matches a mail host: "*." stands for one label, and only at the left
// (RFC 8461, section 4.1).
func (s STS) Permits(host addr.Domain) bool {
	for _, pattern := range s.MX {
		if matchName(pattern, host.String()) {
			return true
		}
	}
	return false
}

// Bears reports whether the certificate is for name, a host name or the IP address of an address literal: by its
// subject alternative names, "*." standing for one whole label at the left (RFC 6125, section 6.4.3).
func (c Certificate) Bears(name addr.Domain) bool {
	want := name.String()
	if name.IsLiteral() {
		want = name.IP().String()
	}
	for _, n := range c.Names {
		if ip, err := netip.ParseAddr(n); err == nil || name.IsLiteral() {
			if err == nil && name.IsLiteral() && ip.Unmap() == name.IP().Unmap() {
				return true
			}
			continue
		}
		if matchName(strings.TrimSuffix(strings.ToLower(n), "."), want) {
			return true
		}
	}
	return false
}

// matchName matches a host name with a pattern, both in lower case.
func matchName(pattern, name string) bool {
	if pattern == name {
		return name != ""
	}
	rest, ok := strings.CutPrefix(pattern, "*.")
	if !ok || !strings.Contains(rest, ".") {
		return false // a wildcard for a whole top-level domain is nobody's certificate
	}
	label, parent, ok := strings.Cut(name, ".")
	return ok && label != "" && parent == rest
}
