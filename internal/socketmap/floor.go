package socketmap

import "bytes"

// raise puts the floor that the name of a map says (contract.ForcedMap) in the
// place of a lower level in the answer from start on. The names that a
// certificate must have are then those of the client's options,
// smtp_tls_secure_cert_match and the like.
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
