package config

import (
	"net"
	"strings"

	"tlsonly/internal/config/value"
)

// Endpoint is where the daemon listens, in the words of net.Listen.
type Endpoint struct {
	Network string // "tcp" or "unix"
	Address string // "host:port" or a path
}

// String returns the endpoint as the file has it and Postfix takes it, "off" for none.
func (e Endpoint) String() string {
	if e.Network == "" {
		return "off"
	}
	if e.Network == "unix" {
		return "unix:" + e.Address
	}
	return "inet:" + e.Address
}

// readEndpoint takes Postfix's "inet:host:port" and "unix:/path", and Sendmail's "inet:port@host",
// "inet6:port@host" and "local:/path", so that the same word can stand in both files. Port 0 lets the system
// choose; inet6 wants an IPv6 address. A host must be there: a filter that the whole network may ask isn't set up by leaving a word out.
func readEndpoint(v value.Value) (Endpoint, error) {
	s, err := value.Text(v)
	if err != nil {
		return Endpoint{}, err
	}
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "unix", "local":
		// 108 octets with a NUL are what the kernel takes.
		if strings.HasPrefix(rest, "/") && len(rest) < 108 {
			return Endpoint{"unix", rest}, nil
		}
	case "inet", "inet6":
		if port, host, ok := strings.Cut(rest, "@"); ok {
			if inner, ok := strings.CutPrefix(host, "["); ok {
				host = strings.TrimSuffix(inner, "]")
			}
			rest = net.JoinHostPort(host, port)
		}
		if hp, ok := hostPort(rest); ok && (scheme == "inet" || strings.HasPrefix(hp, "[")) {
			return Endpoint{"tcp", hp}, nil
		}
	}
	return Endpoint{}, value.Wrong(v, `want "inet:host:port", "inet:port@host" or "unix:/path"`)
}
