package policy

import (
	"net/netip"
	"time"

	"tlsonly/internal/addr"
)

// Assessment is what is known of one destination. It is a value: nobody changes one that was handed out.
type Assessment struct {
	Destination addr.Destination `json:"destination"`
	// Problem is set when there is no host to speak of: null-mx, no-such-domain, dns-failure, timeout.
	Problem Reason `json:"problem,omitempty"`
	// Detail is the cause in words, for logs and administrators, never for a stranger.
	Detail string `json:"detail,omitempty"`
	// Hosts are the mail hosts in the order an MTA tries them.
	Hosts []Host `json:"hosts,omitempty"`
	// Alias is the end of a CNAME chain at the destination's name, zero when it is none.
	Alias addr.Domain `json:"cname,omitzero"`
	// Secure reports that the MX answer (or its proven absence) was DNSSEC-validated.
	Secure bool `json:"dnssec"`
	// When the look was taken, and until when it serves without another.
	When  time.Time `json:"when"`
	Until time.Time `json:"until"`
	// DNSUntil is the end of the MX answer, or of not knowing what MTA-STS policy there is; the hosts or the policy may be others
	// afterwards. Zero: there was no answer.
	DNSUntil time.Time `json:"dns_until,omitzero"`
	// MTASTS is what the destination's domain publishes by MTA-STS; a host in brackets has none.
	MTASTS STS `json:"mta_sts,omitzero"`
	// Pinned reports that the destination was seen to offer TLS and must not fall back behind it.
	Pinned bool `json:"pinned,omitempty"`
	// LostFor is for how long a pinned destination has been seen without TLS, by
	// one look after the other; 0 where none saw that before.
	LostFor time.Duration `json:"-"`
	// OneAddress reports that the MTA tries no other address of a host after the
	// first that takes the connection.
	OneAddress bool `json:"one_address,omitempty"`
	// For is the digest of the profile of the MTA that this was found for.
	For string `json:"for,omitempty"`
	// Partial reports that hosts were still being looked at: those have no observation yet.
	Partial bool `json:"partial,omitempty"`
}

// Host is one mail host of a destination.
type Host struct {
	Name       addr.Domain `json:"name"` // the MX host, or an address literal
	Preference uint16      `json:"preference"`
	Implicit   bool        `json:"implicit,omitempty"` // no MX record: RFC 5321, section 5.1
	// Problem is set when the MTA can't try the host: no-such-domain (it has no
	// address), loop, not-tried, dns-failure, timeout, unreachable.
	Problem Reason `json:"problem,omitempty"`
	Detail  string `json:"detail,omitempty"`
	// Addresses is how many addresses the host has that the MTA would use.
	Addresses int `json:"addresses,omitempty"`
	// Alias is the end of a CNAME chain at the host's name, which RFC 5321 forbids and MTAs follow.
	Alias addr.Domain `json:"cname,omitzero"`
	// Secure reports that the address answers were DNSSEC-validated.
	Secure bool `json:"dnssec"`
	// TLSABase is the name below which TLSA records were asked for, and the name sent as SNI (RFC 7672, section 2.2.3); zero
	// where none were, for neither the address answers nor an alias at Name are secure.
	TLSABase addr.Domain `json:"tlsa_base,omitzero"`
	TLSA     []TLSA      `json:"tlsa,omitempty"` // as published, signed
	DANE     DANE        `json:"dane,omitempty"`
	// DANEDetail says why DANE is unusable or unknown.
	DANEDetail string `json:"dane_detail,omitempty"`
	// Observations are what the addresses did, in the order they were tried.
	Observations []Observation `json:"observations,omitempty"`
	// Earlier are those of a probe before, by a moment at least; Once reports that
	// there was none, within the time that a bad result serves. A moment's fault
	// is not to be taken for good.
	Earlier []Observation `json:"earlier,omitempty"`
	Once    bool          `json:"once,omitempty"`
}

// Outcome is what one address did when it was probed. It is what was seen, not a judgement.
type Outcome string

// The outcomes.
const (
	SawTLS         Outcome = "tls"              // handshake done, or as much of it as shows version and cipher
	SawNoSTARTTLS  Outcome = "no-starttls"      // a whole EHLO (or HELO) reply, no STARTTLS in it
	SawRefused     Outcome = "starttls-refused" // STARTTLS offered, then answered with 454, 502 or the like
	SawBroken      Outcome = "handshake"        // 220 to STARTTLS, then no TLS: an alert, garbage, a reset, injection
	SawUnreachable Outcome = "unreachable"      // no connection, or no SMTP service: refused, reset, 421, 4xx, 5xx, garbage
	SawTimeout     Outcome = "timeout"          // silence, at any stage
	SawMangled     Outcome = "mangled"          // EHLO keywords overwritten (250-XXXXXXXA) by a device between: our network or theirs
)

// Stage is a step of the dialogue with a mail host.
type Stage string

// The stages, in their order.
const (
	StageConnect   Stage = "connect"
	StageBanner    Stage = "banner"
	StageEHLO      Stage = "ehlo"
	StageSTARTTLS  Stage = "starttls"
	StageHandshake Stage = "handshake"
	StageSecure    Stage = "ehlo-tls" // EHLO again, over TLS
	StageQuit      Stage = "quit"
)

// Observation is what one address of a mail host did, once.
type Observation struct {
	Address netip.AddrPort `json:"address"`
	Outcome Outcome        `json:"outcome"`
	// Stage is where the dialogue ended: quit when all went well.
	Stage Stage `json:"stage"`
	// Detail is the cause in words: an error, or the host's own reply (printable, cut to 200 octets).
	Detail     string        `json:"detail,omitempty"`
	Banner     string        `json:"banner,omitempty"`     // first line after the code
	HELO       string        `json:"helo,omitempty"`       // the name that it gives in its reply to EHLO
	Extensions []string      `json:"extensions,omitempty"` // EHLO keywords with parameters, as sent
	Version    Version       `json:"tls_version,omitempty"`
	Cipher     string        `json:"cipher,omitempty"`       // IANA name
	Bits       int           `json:"bits,omitempty"`         // strength of the symmetric cipher
	Exchange   string        `json:"key_exchange,omitempty"` // "X25519", "X25519MLKEM768", "RSA", …
	HelloOnly  bool          `json:"hello_only,omitempty"`   // version and cipher chosen by the host, but our TLS stack can't go on from there
	Unsent     bool          `json:"sni_unsent,omitempty"`   // the hello didn't name the host (SNI), because the MTA's never does
	Unnamed    bool          `json:"unnamed,omitempty"`      // TLS is there only when the hello doesn't name the host (SNI)
	NeedsName  bool          `json:"needs_name,omitempty"`   // the right certificate comes only when it does, and the MTA names none
	Chain      []Certificate `json:"chain,omitempty"`        // as shown, leaf first
	Accepts    []Version     `json:"accepts,omitempty"`      // TLS versions, each tried on a connection of its own; nil: not tried
	// AcceptsUnknown are versions of which that could not be found out.
	AcceptsUnknown []Version `json:"accepts_unknown,omitempty"`
	// DANE says how the chain stands to the host's TLSA records, DANERecord is the one that matched, DANEDetail why none did.
	DANE       DANEMatch `json:"dane,omitempty"`
	DANERecord string    `json:"tlsa_matched,omitempty"`
	DANEDetail string    `json:"dane_detail,omitempty"`
	// KeyDigest is the SHA-256 of the leaf's public key in hexadecimal, what a TLSA record "3 1 1" has; only where versions
	// were tried.
	KeyDigest string `json:"key_digest,omitempty"`
	// Trust is what public key infrastructure makes of the chain, TrustDetail why.
	Trust       Trust         `json:"trust,omitempty"`
	TrustDetail string        `json:"trust_detail,omitempty"`
	Took        time.Duration `json:"took"` // connect to QUIT, in ns
	When        time.Time     `json:"when"`
}

// Certificate is what a host showed of itself.
type Certificate struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names,omitempty"` // DNS names and addresses, as in the certificate
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Key         string    `json:"key"`         // "RSA 2048", "ECDSA P-256", "Ed25519"
	Signature   string    `json:"signature"`   // "SHA256-RSA"
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the certificate, hex
	Raw         []byte    `json:"-"`           // DER
}
