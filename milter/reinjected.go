package milter

import (
	"net/netip"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/contract"
)

// reinjectedOr answers at the service where the gateway hands copies back, nil
// elsewhere.
func (s *session) reinjectedOr(m gomilter.Macros) *gomilter.Response {
	if m.Get(gomilter.MacroDaemonName) != contract.ReinjectName {
		return nil
	}
	return s.reinjected(m)
}

// reinjected answers at the service where the gateway hands copies back, by whom
// its client is.
//
// SECURITY: what is taken there leaves without the TLS that rules ask for. A client
// that isn't known to be the gateway, for whatever reason, is refused.
func (s *session) reinjected(m gomilter.Macros) *gomilter.Response {
	client, err := netip.ParseAddrPort(m.Get(gomilter.MacroClientAddr) + ":" + m.Get(gomilter.MacroClientPort))
	if addr, e := netip.ParseAddr(m.Get(gomilter.MacroClientAddr)); err != nil && e == nil && addr.Is6() {
		client, err = netip.ParseAddrPort("[" + addr.String() + "]:" + m.Get(gomilter.MacroClientPort))
	}
	if admits := s.server.c.Reinjected; err == nil && admits != nil && admits(s.ctx, client) {
		return gomilter.RespAccept
	}
	s.server.c.Log.Warn("stranger where copies go back, refused", "client", m.Get(gomilter.MacroClientAddr),
		"port", m.Get(gomilter.MacroClientPort), "err", err)
	resp, err := gomilter.RejectWithCodeAndReason(550, "5.7.1 This service is for the gateway alone")
	if err != nil {
		return gomilter.RespReject
	}
	return resp
}
