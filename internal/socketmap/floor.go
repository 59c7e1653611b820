package socketmap

import (
	"bytes"
	"slices"
)

// A policy that is answered replaces smtp_tls_security_level, so the site's own
// would not count in a transport made after a client that has a stricter one than
// "encrypt". There the map's name says which, "forced1/secure", and no answer is
// below it. The names that a certificate must have are then those of the client's
// options, smtp_tls_secure_cert_match and the like.

// floors are the levels above "encrypt", as postconf(5) writes them.
var floors = []string{"dane-only", "fingerprint", "verify", "secure"}

// cutFloor reads what follows "forced": a number, and after a slash a level.
func cutFloor(b []byte) (number []byte, floor string, ok bool) {
	number, level, found := bytes.Cut(b, []byte{'/'})
	if !found {
		return number, "", true
	}
	return number, string(level), slices.Contains(floors, string(level))
}

// raise puts the floor in the place of a lower level in the answer from start on.
func raise(b []byte, start int, floor string) []byte {
	answer, ok := bytes.CutPrefix(b[start:], []byte("OK "))
	if floor == "" || !ok {
		return b
	}
	level, attributes, more := bytes.Cut(answer, []byte{' '})
	switch string(level) {
	case "none", "may", "encrypt":
	default:
		return b
	}
	raised := append(append(b[:start:start], "OK "...), floor...)
	if more {
		raised = append(append(raised, ' '), attributes...)
	}
	return raised
}
