package main

import (
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta/postfix"
	"tlsonly/rules"
)

// Mail to protected senders, and so each bounce, may have a route of the site's
// that the sender map cannot change. Its next hop shows at delivery, who sends
// does not: so all mail by it is held to TLS.

// protected returns the patterns of the senders that rules protect, and that
// rules protected whose mail may still wait.
func (d *service) protected() []addr.Pattern {
	return patternsOf(d.delivery.Load().Senders(d.now()))
}

func patternsOf(senders []rules.Sender) (found []addr.Pattern) {
	for _, s := range senders {
		found = append(found, s.Pattern)
	}
	return found
}

// readHomes takes over the next hops to protected senders. What could not be
// read now is as it was before.
func (d *service) readHomes(a *around, told postfix.Around) {
	add := func(hop addr.Destination, h homeRoute) {
		if !slices.Contains(a.homes[hop], h) {
			a.homes[hop] = append(a.homes[hop], h)
		}
	}
	old := d.around.get()
	for _, h := range told.Homes {
		hop, err := addr.ParseDestination(h.Hop)
		if err != nil {
			continue // doctor names next hops that are none
		}
		one := homeRoute{of: h.Domain, at: h.At}
		add(hop, one)
		if !slices.Contains(old.homes[hop], one) && d.enforcesHome(h.At) {
			d.log.Info("all mail to protected senders leaves over TLS or waits, because it may be a bounce",
				"domain", h.At.String(), "nexthop", hop.String(), "through", h.Through)
		}
	}
	if len(told.UnreadHomes) == 0 {
		return
	}
	for hop, homes := range old.homes {
		for _, h := range homes {
			add(hop, h)
		}
	}
	if !slices.Equal(old.unread, told.UnreadHomes) {
		d.log.Warn("tables of postfix not read: bounces to protected senders by them may go in the clear",
			"tables", strings.Join(told.UnreadHomes, " "))
	}
}

// enforcesHome reports whether mail to a domain of protected senders is held to TLS.
func (d *service) enforcesHome(domain addr.Domain) bool {
	return d.config.Load().Binding.Bounces != contract.BouncesOthers && !d.isLocal(domain)
}

// homes returns whose bounces leave by a next hop, domains of protected senders,
// or the zero Domain for anybody's.
func (d *service) homes(hop addr.Destination) (found []addr.Domain) {
	for _, h := range d.around.get().homes[hop] {
		if !d.isLocal(h.at) {
			found = append(found, h.of)
		}
	}
	return found
}
