package main

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/store"
	"tlsonly/milter"
)

// around is what the settings of the MTA say that bears on answers: how it
// completes senders, which next hops are relays, and who is asked before us.
type around struct {
	names  milter.Names
	relays []addr.Destination
	before []string
}

// surroundings is the last that was read, none before.
type surroundings struct{ atomic.Pointer[around] }

func (s *surroundings) get() around {
	if a := s.Load(); a != nil {
		return *a
	}
	return around{}
}

// readByDaemon returns the directory of the Postfix whose settings a daemon
// reads that systemd has started; "" for none.
func readByDaemon(f config.Forwarding) string {
	switch f.Postfix {
	case "off":
		return ""
	case "auto":
		return "/etc/postfix"
	}
	return f.Postfix
}

// aroundTime is how long the MTA's commands may take to say its settings.
const aroundTime = 30 * time.Second

// readAround asks the Postfix that [forwarding] names, or finds, for what bears
// on answers. What was known stays where it doesn't say.
func (d *service) readAround(ctx context.Context) {
	c := d.config.Load()
	instance, ok := usesPostfix(c.Forwarding)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, aroundTime)
	defer cancel()
	told, err := postfix.ReadAround(ctx, instance, c.Milter.Listen.String())
	if err != nil {
		d.log.Warn("settings of postfix not read, senders without a whole domain are judged strictly",
			"err", err)
		old := d.around.get()
		old.names.Known = false
		d.around.Store(&old)
		return
	}
	a := &around{before: told.Before}
	a.names.Known = true
	read := func(names []string) (found []addr.Domain) {
		for _, name := range names {
			domain, err := addr.ParseDomain(name)
			if err != nil {
				d.log.Warn("name of postfix not understood, senders without a whole domain are judged strictly",
					"err", err)
				a.names.Known = false
				continue
			}
			found = append(found, domain)
		}
		return found
	}
	a.names.Origins, a.names.Below = read(told.Origins), read(told.Below)
	for _, name := range told.Relays {
		hop, err := addr.ParseDestination(name)
		if err == nil && !hop.Direct() && hop.Port() == 0 {
			a.relays = append(a.relays, hop)
		}
	}
	if len(a.before) > 0 && c.Milter.RedactBounces {
		d.log.Warn("milters stand before ours and may change the sender: bounces keep the text of protected mail",
			"milters", strings.Join(a.before, " "))
	}
	d.around.Store(a)
}

// isRelay reports whether a next hop is known to carry mail for other domains: by
// [relay], by the settings of the MTA, or because it did.
func (d *service) isRelay(hop addr.Destination) bool {
	c := d.config.Load()
	return c.Relay.Uses(hop) || slices.Contains(d.around.get().relays, hop) ||
		d.ledger.Used(store.UsedAsRelay, hop.String(), c.Binding.Keep)
}

func (d *service) relayed(ctx context.Context, hop addr.Destination) error {
	return d.ledger.Use(ctx, store.UsedAsRelay, hop.String())
}

func (d *service) lent(ctx context.Context, sender addr.Address) error {
	return d.ledger.Use(ctx, store.UsedByLogin, sender.Fold().String())
}

func (d *service) isLent(sender addr.Address) bool {
	return d.ledger.Used(store.UsedByLogin, sender.Fold().String(), d.config.Load().Binding.Keep)
}
