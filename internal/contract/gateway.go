package contract

// What the gateway and the MTA must spell alike: the gateway is the last host of
// the route of mail that can't have its TLS, and hands copies back to the MTA.

// GatewayName is by what the gateway greets. Nobody can have it (RFC 2606,
// section 2), so that no MTA takes the gateway for itself.
const GatewayName = "gateway.tlsonly.invalid"

// What setup makes in Postfix for copies. None of them is a transport for
// protected mail, see IsTransport.
const (
	OpenTransport   = TransportPrefix + "_open"    // copies leave by it, over ordinary TLS
	ReinjectName    = TransportPrefix + "_copies"  // {daemon_name} of the smtpd that takes them
	ReinjectCleanup = TransportPrefix + "_cleanup" // the cleanup behind it
)
