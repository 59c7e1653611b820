package policy

import "strings"

// Method is a way to encrypt a message itself, for a destination without the
// TLS that is asked.
type Method string

// The methods.
const (
	OpenPGP Method = "openpgp"
	SMIME   Method = "smime"
)

// Methods lists the methods that there are.
func Methods() []Method { return []Method{OpenPGP, SMIME} }

// Planned reports whether m is a method that is documented for a later version.
func (m Method) Planned() bool {
	return m == "portal" || strings.HasPrefix(string(m), "gateway:")
}
