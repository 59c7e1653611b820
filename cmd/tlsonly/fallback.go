package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/fallback/gateway"
	"tlsonly/internal/fallback/reassess"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/place"
	"tlsonly/internal/policy"
	"tlsonly/milter"
	"tlsonly/rules"
)

// stateDir is where the daemon keeps what isn't in the store: beside it, where that
// is a file.
func stateDir(c *config.Config) string {
	if path, ok := strings.CutPrefix(c.Store.URL, "sqlite://"); ok {
		return filepath.Dir(path)
	}
	return place.Data
}

// gatewayOf is where the gateway is, zero for none.
func gatewayOf(c *config.Config) (postfix.Gateway, error) {
	if c.Fallback.Listen == (config.Endpoint{}) {
		return postfix.Gateway{}, nil
	}
	back, err := contract.ReinjectAddress(c.Fallback.Listen.Address)
	if err != nil {
		return postfix.Gateway{}, fmt.Errorf("[fallback] listen: %w", err)
	}
	return postfix.Gateway{Listen: c.Fallback.Listen.Address, Reinject: back}, nil
}

// noFallback says which rules ask for what Sendmail can't be set up for yet.
func noFallback(c *config.Config) error {
	for _, r := range c.Rules.Rules() {
		if r.FallsBack() {
			return fmt.Errorf(`rule %q: on_fail = "fallback" is not supported with Sendmail yet: its mail has no way to the gateway; `+
				"want reject, defer, hold or tag", r.Name)
		}
	}
	return nil
}

// gatewayHop is the gateway as the MTA names it when it asks.
func gatewayHop(g postfix.Gateway) (addr.Destination, error) {
	host, port, err := net.SplitHostPort(g.Listen)
	if err != nil {
		return addr.Destination{}, err
	}
	return addr.ParseDestination("[" + host + "]:" + port)
}

// newGateway makes the gateway, where there is to be one, before all that has to
// know of it.
func (d *service) newGateway(c *config.Config, host string) error {
	where, err := gatewayOf(c)
	if err != nil || where == (postfix.Gateway{}) {
		return err
	}
	if d.identity, err = gateway.OpenIdentity(filepath.Join(stateDir(c), "gateway.pem")); err != nil {
		return err
	}
	if d.gatewayHop, err = gatewayHop(where); err != nil {
		return err
	}
	d.reinject = gateway.NewReinjector(where.Reinject)
	decider := newDecider(c, reassess.Fresh(d.assessor, c.Probe.Confirm), pinsOf{d.ledger})
	decider.Dry, decider.Forwards = true, d.forwards
	decider.Local = d.isLocal
	decider.Relay = func(domain addr.Domain) (addr.Destination, bool) { return d.config.Load().Relay.For(domain) }
	domain := host
	if c.Probe.HELO != "" {
		domain = c.Probe.HELO
	}
	d.gateway, err = gateway.New(gateway.Config{
		Judge: &reassess.Judge{Decider: decider, Candidates: d.candidates, Methods: d.methods,
			Bounce: c.Binding.OnLost == contract.OnLostBounce},
		Copies:   d.store,
		Identity: d.identity,
		Reinject: d.reinject,
		Spool:    filepath.Join(stateDir(c), "spool"),
		Domain:   domain,
		Log:      d.log,
	})
	return err
}

// pinsOf is the ledger to whom nothing is promised.
type pinsOf struct{ milter.Ledger }

// Owe stores nothing: what is asked of the message was stored when it was accepted.
func (pinsOf) Owe(context.Context, addr.Destination, string, policy.Demand, bool) error { return nil }

// candidates returns the rules for a sender as delivery knows it.
func (d *service) candidates(sender addr.Address) (rules.Candidates, error) {
	now, rs := d.now(), d.delivery.Load()
	var whose []addr.Address
	for _, a := range append([]addr.Address{sender}, d.senders.Written(sender)...) {
		inside, err := rs.Forms(now).Senders(a)
		if err != nil {
			return rules.Candidates{}, err
		}
		whose = append(whose, inside...)
	}
	return rs.Doubt(rs.Under(rs.Set().SenderOf(sender, whose, "", now)), whose), nil
}

// reinjected says who is the gateway among clients of the service for copies; nil
// where there is none.
func (d *service) reinjected() func(context.Context, netip.AddrPort) bool {
	if d.reinject == nil {
		return nil
	}
	return d.reinject.Admits
}

// endsAtGateway reports whether the MTA sends by a transport that turns to the
// gateway in the end.
func (d *service) endsAtGateway(r milter.Route) bool {
	return d.gateway != nil && contract.IsTransport(r.Mailer)
}
