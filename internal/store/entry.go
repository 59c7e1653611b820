package store

import (
	"fmt"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Entry is all that is kept of one destination.
type Entry struct {
	Destination addr.Destination
	// Assessment is the last one stored; its When is zero when there is none. Entries share Hosts and Observations:
	// nobody changes them.
	Assessment policy.Assessment
	// Port is where its hosts were looked at.
	Port uint16
	Pin  *Pin // nil when not pinned
	// Demand has no Level when nothing was demanded.
	Demand Demand
	Track  Track
	Used   time.Time // last mail
	Next   time.Time // when the next look is due; zero when none is planned
}

// Pin says that a destination must not fall back behind TLS.
type Pin struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"` // ByAdmin, BySuccesses, or a rule: "rule:clinic"
}

// Who pins, besides rules.
const (
	ByAdmin     = "admin"         // stays until unpinned, used or not
	BySuccesses = "two successes" // at least an hour apart
)

// Demand is the most that was asked of a destination when mail for it was accepted.
type Demand struct {
	Level      policy.Level   `json:"level"`
	MinVersion policy.Version `json:"min_version,omitzero"`
	MinBits    int            `json:"min_bits,omitzero"`
	Since      time.Time      `json:"since,omitzero"` // of the last rise
}

// Covers reports whether d asks for at least what other asks for, so that other costs no write.
func (d Demand) Covers(other Demand) bool {
	return d.Level.Rank() >= other.Level.Rank() && d.MinVersion >= other.MinVersion && d.MinBits >= other.MinBits
}

// Merge returns the higher of each part: no part of a demand ever falls.
func (d Demand) Merge(other Demand) Demand {
	if d.Covers(other) {
		return d
	}
	if other.Level.Rank() > d.Level.Rank() {
		d.Level = other.Level
	}
	d.MinVersion = max(d.MinVersion, other.MinVersion)
	d.MinBits = max(d.MinBits, other.MinBits)
	d.Since = other.Since
	return d
}

// String returns the demand as history shows it: "secure 1.2 128", "" for none.
func (d Demand) String() string {
	if d.Level == "" {
		return ""
	}
	var b strings.Builder
	b.WriteString(string(d.Level))
	if d.MinVersion != 0 {
		fmt.Fprintf(&b, " %s", d.MinVersion)
	}
	if d.MinBits != 0 {
		fmt.Fprintf(&b, " %d", d.MinBits)
	}
	return b.String()
}

// Policy is an MTA-STS policy as it was fetched.
type Policy struct {
	Domain  addr.Domain
	ID      string // of the TXT record
	Text    string // of the policy file
	Fetched time.Time
	Until   time.Time // RFC 8461, section 3.3: fetched and max_age
}

// What says what changed.
type What string

// The changes that history knows.
const (
	LevelChanged  What = "level"    // the highest level the destination satisfies
	LostTLS       What = "lost-tls" // a pinned destination shows none
	TLSBack       What = "tls-back"
	Pinned        What = "pinned"
	Unpinned      What = "unpinned"
	MTASTSChanged What = "mta-sts"
	DANEChanged   What = "dane"
	HostsChanged  What = "hosts"
	Demanded      What = "demand" // risen, or dropped by an administrator
	Forgotten     What = "forgotten"
	ForwardFails  What = "forward"    // From forwards to To, which breaks a rule
	ForwardMended What = "forward-ok" // … and does so no longer

	// Of no destination: this host's own network is suspected of what destinations seem to do, and no longer.
	Outage     What = "own-network"
	OutageOver What = "own-network-ok"
	// Likewise: the MTA here isn't bound to the daemon, and is again.
	Unbound What = "unbound"
	Bound   What = "bound"
	// A recipient publishes another key than the one that was found first, or
	// none any more; Destination is its domain.
	KeyChanged   What = "key-changed"
	KeyWithdrawn What = "key-withdrawn"
)

// Event is one change in the history of a destination.
type Event struct {
	ID          int64            `json:"id"` // growing; set by the store
	When        time.Time        `json:"when"`
	Destination addr.Destination `json:"destination"`
	What        What             `json:"what"`
	From        string           `json:"from,omitempty"`
	To          string           `json:"to,omitempty"`
	Why         string           `json:"why,omitempty"`
	Host        string           `json:"host,omitempty"` // which daemon saw it; Config.Host when empty
}

// Change names what another process changed, to be read again with Get or GetPolicy. The zero Change says that
// changes may have been missed: read everything again with Load.
type Change struct {
	Destination addr.Destination
	Policy      addr.Domain // an MTA-STS policy of this domain
	Rulesets    bool        // the sets of rules
	Usage       bool        // what is in use: Usages
	Keys        bool        // recipients' keys
}
