package milter

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/contract"
)

// Where copies go back nobody comes in but the gateway; elsewhere nobody asks.
func TestReinjected(t *testing.T) {
	var asked []string
	admits := func(_ context.Context, client netip.AddrPort) bool {
		asked = append(asked, client.String())
		return client == netip.MustParseAddrPort("127.0.0.1:4711") || client == netip.MustParseAddrPort("[::1]:4711")
	}
	for _, c := range []struct {
		daemon, addr, port string
		admits             func(context.Context, netip.AddrPort) bool
		want               string // "accept", "refuse", "-": judged as other mail
	}{
		{contract.ReinjectName, "127.0.0.1", "4711", admits, "accept"},
		{contract.ReinjectName, "::1", "4711", admits, "accept"},
		{contract.ReinjectName, "127.0.0.1", "4712", admits, "refuse"},
		{contract.ReinjectName, "192.0.2.1", "4711", admits, "refuse"},
		{contract.ReinjectName, "", "4711", admits, "refuse"},
		{contract.ReinjectName, "127.0.0.1", "", admits, "refuse"},
		{contract.ReinjectName, "unknown", "0", admits, "refuse"},
		{contract.ReinjectName, "127.0.0.1", "4711", nil, "refuse"},
		{"smtpd", "127.0.0.1", "4711", admits, "-"},
	} {
		b := start(t, func(config *Config) { config.Reinjected = c.admits })
		s := b.newSession(0)
		m := gomilter.NewMacroBag()
		m.Set(gomilter.MacroDaemonName, c.daemon)
		m.Set(gomilter.MacroClientAddr, c.addr)
		m.Set(gomilter.MacroClientPort, c.port)
		asked = nil
		resp := s.reinjectedOr(m)
		got := "-"
		switch {
		case resp == gomilter.RespAccept:
			got = "accept"
		case resp != nil:
			got = "refuse"
			if !strings.Contains(resp.String(), "550 5.7.1") {
				t.Errorf("%+v: %s", c, resp)
			}
		case len(asked) > 0:
			t.Errorf("%+v: asked", c)
		}
		if got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
