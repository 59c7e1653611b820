package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/place"
	"tlsonly/internal/store"
	"tlsonly/milter"
)

// around is what the settings of the MTA say that bears on answers: how it
// completes senders, which next hops are relays or lead to protected senders, and
// who is asked before us.
type around struct {
	names  milter.Names
	relays []addr.Destination
	before []string
	homes  map[addr.Destination][]homeRoute // next hops to protected senders
	unread []string                         // tables of such next hops
	failed string                           // why nothing could be read the last time
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
		return place.Postfix
	}
	return f.Postfix
}

// withDelimiter asks the Postfix that [forwarding] names, or finds, which characters
// begin the extension of an address, where [senders] doesn't say. The configuration
// is returned in any case.
func withDelimiter(ctx context.Context, c *config.Config) (*config.Config, error) {
	instance, ok := usesPostfix(c.Forwarding)
	if !ok || c.Senders.Delimiter != "auto" {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, aroundTime)
	defer cancel()
	chars, err := instance.Delimiter(ctx)
	if err != nil {
		return c, fmt.Errorf("%w; until [senders] delimiter is set, only + counts", err)
	}
	return c.WithDelimiter(chars), nil
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
	d.reading.Lock()
	defer d.reading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, aroundTime)
	defer cancel()
	told, err := postfix.ReadAround(ctx, instance, c.Milter.Listen.String(), d.protected(), d.onward.find)
	if err != nil {
		old := d.around.get()
		if old.failed != err.Error() {
			d.log.Warn("settings of postfix not read, so senders without a full domain are judged strictly",
				"err", err)
		}
		old.names.Known, old.failed = false, err.Error()
		d.around.Store(&old)
		return
	}
	a := &around{before: told.Before, homes: map[addr.Destination][]homeRoute{}, unread: told.UnreadHomes}
	a.names.Known = true
	old := d.around.get()
	read := func(names []string) (found []addr.Domain) {
		for _, name := range names {
			domain, err := addr.ParseDomain(name)
			if err != nil && !old.names.Known && d.around.Load() != nil {
				a.names.Known = false // said before
				continue
			}
			if err != nil {
				d.log.Warn("name of postfix not understood, so senders without a full domain are judged strictly",
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
	d.readHomes(a, told)
	if len(a.before) > 0 && c.Milter.RedactBounces && !slices.Equal(a.before, old.before) {
		d.log.Warn("milters before ours may change the sender, so bounces keep the text of protected mail",
			"milters", strings.Join(a.before, " "))
	}
	d.around.Store(a)
}

// aroundEvery is how soon a change of the MTA's tables and settings is noticed.
const aroundEvery = time.Minute

// keepAround reads the MTA's settings again and again until ctx ends.
func (d *service) keepAround(ctx context.Context) {
	if d.onward.late() {
		d.readAround(ctx)
	}
	tick := time.NewTicker(aroundEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.readAround(ctx)
			d.learnMTA(ctx)
		}
	}
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
