package policy

// TLSPolicy is what an MTA is held to at delivery to one destination.
type TLSPolicy struct {
	// Level is none, may, encrypt, secure (the certificate must be valid and bear a name of Match) or dane (the host must have
	// usable TLSA records, and match them).
	Level      Level
	MinVersion Version
	MinBits    int
	// Unnamed is for a host that ends a handshake where it is named (SNI): the MTA must
	// not name it.
	Unnamed bool
	// Match are names, and ".example.com" for every name below example.com.
	Match []string
	// STS is the policy that Match is from, nil where it is from elsewhere.
	STS *STS
}
