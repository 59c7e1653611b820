// Package policy holds the words of the program: Level, Version, Reason, Verdict, Action, Demand and Assessment, each the
// same in rules, code, logs, metrics and the manual. It answers what can be said of a destination and of a
// recipient; it does no I/O and decides nothing: judging is package rules, finding out is package destination.
//
// Enumerations are strings, so that a log line, a JSON answer and a rule file carry the same word.
package policy

import (
	"crypto/tls"
	"fmt"
	"slices"

	"tlsonly/internal/addr"
)

// Level is what a rule asks of a destination.
type Level string

// The levels, weakest first.
const (
	LevelNone    Level = "none"    // the MTA must not use TLS (for broken peers)
	LevelMay     Level = "may"     // TLS when offered
	LevelEncrypt Level = "encrypt" // TLS, the certificate not judged
	LevelSecure  Level = "secure"  // TLS with an authenticated host
	LevelDane    Level = "dane"    // TLS authenticated by DNSSEC and TLSA alone
)

// Levels lists all levels, weakest first.
func Levels() []Level {
	return []Level{LevelNone, LevelMay, LevelEncrypt, LevelSecure, LevelDane}
}

// Rank orders levels: 0 for none up to 4 for dane, -1 for no level.
func (l Level) Rank() int { return slices.Index(Levels(), l) }

// Enforces reports whether l asks for TLS at all.
func (l Level) Enforces() bool { return l.Rank() >= LevelEncrypt.Rank() }

// ParseLevel takes one of the five words.
func ParseLevel(s string) (Level, error) {
	if l := Level(s); l.Rank() >= 0 {
		return l, nil
	}
	return "", fmt.Errorf("level %q: want none, may, encrypt, secure or dane", s)
}

// Version is a TLS protocol version as crypto/tls numbers it; 0 is "none seen".
type Version uint16

// The versions a rule can name as its minimum, and SSL 3, which only a probe can meet.
const (
	SSL30 Version = 0x0300
	TLS10 Version = tls.VersionTLS10
	TLS11 Version = tls.VersionTLS11
	TLS12 Version = tls.VersionTLS12
	TLS13 Version = tls.VersionTLS13
)

// ParseVersion takes "1.0", "1.1", "1.2" or "1.3".
func ParseVersion(s string) (Version, error) {
	for _, v := range []Version{TLS10, TLS11, TLS12, TLS13} {
		if v.String() == s {
			return v, nil
		}
	}
	return 0, fmt.Errorf("TLS version %q: want 1.0, 1.1, 1.2 or 1.3", s)
}

// String returns "1.2" and the like, "SSL 3.0", or "" for 0.
func (v Version) String() string {
	switch v {
	case 0:
		return ""
	case SSL30:
		return "SSL 3.0"
	case TLS10, TLS11, TLS12, TLS13:
		return fmt.Sprintf("1.%d", v-TLS10)
	}
	return fmt.Sprintf("0x%04x", uint16(v))
}

// MarshalText gives String.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText takes what MarshalText gives.
func (v *Version) UnmarshalText(b []byte) error {
	switch s := string(b); s {
	case "":
		*v = 0
	case "SSL 3.0":
		*v = SSL30
	default:
		var err error
		*v, err = ParseVersion(s)
		return err
	}
	return nil
}

// Verdict is what is decided for one recipient.
type Verdict string

// The verdicts. Fallback accepts a recipient to whom the message leaves
// encrypted by a Method, unless TLS is there at delivery.
const (
	Accept   Verdict = "accept"
	Reject   Verdict = "reject"
	Defer    Verdict = "defer"
	Hold     Verdict = "hold"
	Fallback Verdict = "fallback"
)

// Accepted reports whether the client hears that the recipient is taken.
func (v Verdict) Accepted() bool { return v == Accept || v == Fallback || v == Hold }

// Rank orders verdicts by strictness, accept being 0; of several destinations of a recipient the strictest counts.
func (v Verdict) Rank() int { return slices.Index([]Verdict{Accept, Fallback, Hold, Defer, Reject}, v) }

// Action is what a rule does when a requirement isn't met (on_fail) or can't be known (on_unknown).
type Action string

// The actions. ActionAccept is for on_unknown only, ActionFallback for on_fail only.
const (
	ActionReject   Action = "reject"
	ActionDefer    Action = "defer"
	ActionHold     Action = "hold"
	ActionTag      Action = "tag"
	ActionAccept   Action = "accept"
	ActionFallback Action = "fallback"
)

// Verdict is the verdict an action makes.
func (a Action) Verdict() Verdict {
	switch a {
	case ActionReject:
		return Reject
	case ActionHold:
		return Hold
	case ActionTag, ActionAccept:
		return Accept
	case ActionFallback:
		return Fallback
	}
	return Defer
}

// Mode says whether a rule acts.
type Mode string

// The modes of a rule.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe" // log, count and tag what would have happened, change nothing
)

// Tag is the first word of the header TLS-Only.
type Tag string

// The tags, the one that counts most for a message first.
const (
	TagFail    Tag = "fail"
	TagObserve Tag = "observe"
	TagPass    Tag = "pass"
)

// DefaultDemand is what a rule of level encrypt asks when it says no more than that, and what is spoken of where no rule is.
func DefaultDemand() Demand {
	return Demand{Level: LevelEncrypt, MinVersion: TLS12, MinBits: 128, Honor: Honor{DANE: true, MTASTS: true}}
}

// Demand is what a rule asks of a destination.
type Demand struct {
	Level      Level
	MinVersion Version
	MinBits    int  // strength of the cipher
	Pin        bool // a pinned destination without STARTTLS has lost it, whatever else is asked
	Honor      Honor
	Match      []addr.Domain // certificate names accepted for secure, besides what the destination publishes
}

// Honor says which published promises of a destination bind, whatever the level from encrypt up.
type Honor struct{ DANE, MTASTS bool }
