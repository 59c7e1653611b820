package socketmap

import (
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// An odd next hop is one that isn't understood whole: a port by a name that this
// system doesn't have, say, or a name that is none in DNS. Postfix may have its
// own idea of it.

// hostOf returns the host of an odd next hop, the zero Destination where not even
// that is understood.
func hostOf(key string) addr.Destination {
	host, _, bracketed := strings.Cut(strings.TrimSpace(key), "]")
	if bracketed {
		host += "]"
	} else if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	hop, err := addr.ParseDestination(host)
	if err != nil {
		return addr.Destination{}
	}
	return hop
}

// oddPolicy answers for other mail: what its host is held to, nothing where that
// is nothing.
func (s *Server) oddPolicy(b []byte, key string, now time.Time) []byte {
	if hop := hostOf(key); !hop.IsZero() {
		if b, ok := s.other(b, MapPolicy, hop, false, now); ok {
			return b
		}
	}
	return s.notFound(b, MapPolicy)
}

// oddForced answers inside the transport of class n: the most that any rule of
// the class asks, and TLS in any case. No exception is for an odd next hop.
func (s *Server) oddForced(b []byte, n int, key string, now time.Time) []byte {
	set := s.c.Rules()
	ask, known := set.Requirement(n, addr.Domain{}, now)
	if s.trace != nil {
		s.because(whoDoubt, "the next hop can't be read whole: no exception is for it")
		s.traceRequirement(set, n, addr.Destination{}, addr.Domain{}, ask, known, now)
	}
	demand := ask.Demand
	if !known {
		demand = set.Strictest(addr.Domain{}, now)
	}
	if !demand.Level.Enforces() {
		demand = policy.DefaultDemand()
	}
	hop := hostOf(key)
	if !hop.IsZero() {
		demand = rules.Stricter(demand, s.standingDemand(hop, true))
	}
	// What the destination publishes isn't known, so the certificate names are
	// the rule's, or else the next hop as Postfix takes it.
	bound := policy.TLSPolicy{
		Level: demand.Level, MinVersion: demand.MinVersion, MinBits: demand.MinBits,
	}
	for _, d := range demand.Match {
		bound.Match = append(bound.Match, d.String())
	}
	return s.write(b, MapForced, hop, bound)
}
