package forward

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// SenderRoute is how Postfix's own settings send mail of a sender, where a recipient's
// don't say otherwise.
type SenderRoute struct {
	Transport string
	Program   string // of the transport, in master.cf; "" where it isn't there
	Hop       string // "": as relayhost says, or by MX
	// Usual says that the transport is the one of all other mail.
	Usual bool
}

// BySender returns the way of a sender as Postfix asks for it, an address or the
// null sender as it writes that: what sender_dependent_default_transport_maps has,
// tables of ours left out, or else default_transport. postconf(5). It needs
// Tables. The error is for a table that doesn't answer, or whose answer Postfix
// doesn't take: it makes the mail wait.
func (e *Expander) BySender(ctx context.Context, key string) (SenderRoute, error) {
	if e.cfg.Tables == nil {
		return SenderRoute{}, errors.New("there is no postfix whose settings are read")
	}
	s := e.newSession(ctx)
	n, err := s.settings(ctx)
	if err != nil {
		return SenderRoute{}, err
	}
	s.site = n
	from, err := n.sender(key)
	if err != nil {
		return SenderRoute{}, err
	}
	// The chains of keys are short: each round asks for all that is known to be
	// wanted.
	for range rounds {
		r := &expansion{session: s, job: &job{from: from}}
		spec, err := n.bySender(r, cursor{}, "default_transport", senderMaps)
		if errors.Is(err, errPending) {
			s.flushLookups()
			if ctx.Err() != nil {
				return SenderRoute{}, ctx.Err()
			}
			continue
		}
		if err != nil {
			return SenderRoute{}, err
		}
		return n.senderRoute(spec)
	}
	return SenderRoute{}, fmt.Errorf("%s: no end for %s", senderMaps, from)
}

const senderMaps = "sender_dependent_default_transport_maps"

// sender reads a sender as Postfix asks for it.
func (n *postfixConfig) sender(key string) (addr.Address, error) {
	null := n.set["empty_address_default_transport_maps_lookup_key"]
	if key == "" || key == null || key == "<>" || key == `"<>"` {
		return addr.Address{}, nil
	}
	return addr.ParsePath(key)
}

// senderRoute takes apart what default_transport or a table says.
func (n *postfixConfig) senderRoute(spec string) (SenderRoute, error) {
	name, hop, _ := strings.Cut(strings.TrimSpace(spec), ":")
	if name == "" {
		return SenderRoute{}, fmt.Errorf("%q names no transport, and postfix takes no other for it", spec)
	}
	usual := n.usual()
	if _, of, ok := contract.ParseTransport(name); ok { // by hand, before there were twins
		if name = of; of == "" {
			name = usual
		}
	}
	way := SenderRoute{Transport: name, Program: n.transports[name], Usual: name == usual}
	way.Hop = strings.TrimSpace(hop)
	return way, nil
}

// usual returns the transport of other mail, which ours are made after: package
// postfix has it so, too.
func (n *postfixConfig) usual() string {
	name, _, _ := strings.Cut(n.set["default_transport"], ":")
	if n.transports[name] == "smtp" && !contract.IsTransport(name) {
		return name
	}
	return "smtp"
}
