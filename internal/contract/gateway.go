package contract

import (
	"fmt"
	"net"
	"strconv"
)

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

// ReinjectAddress returns where copies go back to the MTA, host:port: two ports
// above the gateway's own address.
func ReinjectAddress(gateway string) (string, error) {
	host, port, err := net.SplitHostPort(gateway)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n > 65533 {
		return "", fmt.Errorf("port %s: want a number up to 65533, because copies go back two ports above", port)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n+2, 10)), nil
}
