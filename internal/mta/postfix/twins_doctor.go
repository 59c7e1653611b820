package postfix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/contract"
)

// unknownRoute is what the daemon says where it can't ask the site's tables.
const unknownRoute = "your own table can't be asked now"

// twins looks whether protected senders keep the way that the site gives them.
func (d *doctor) twins(ctx context.Context, s Service) {
	before := len(d.findings)
	p := d.planner()
	tables := d.senderTables(s)
	asked := slices.ContainsFunc(tables, func(table string) bool {
		return contract.SenderTable(d.smap, table) && contract.SaysSite(table)
	})
	switch {
	case !asked && !d.sendersRouted():
		return
	case asked && !p.reads():
		d.broken("twin-unread", s.placeOf(senderMaps), d.haveItRead()+", or "+runSetup,
			"%s needs the daemon to ask your tables, but it doesn't use this postfix, so "+
				"mail of protected senders waits", senderMaps)
		return
	case d.core:
		if asked {
			d.judgeTwins(ctx)
		}
		return
	case !asked:
		d.unaskedRoutes(p)
		return
	}
	named, sure := d.checkRoutes(ctx)
	missing := 0
	for _, source := range p.twinned() {
		var without []string
		for _, c := range p.all() {
			if _, ok := d.service(contract.Transport(c.Number, source.Name), "unix"); !ok {
				without = append(without, contract.Transport(c.Number, source.Name))
			}
		}
		if len(without) == 0 {
			continue
		}
		missing++
		if slices.Contains(named, source.Name) {
			d.broken("twin-missing", inMaster(source), runSetup,
				"%s isn't in master.cf, so mail of protected senders that you send by %s waits",
				strings.Join(without, ", "), source.Name)
		} else {
			d.warn("twin-missing", inMaster(source), runSetup,
				"%s isn't in master.cf, so mail of a protected sender that you send by %s would wait",
				strings.Join(without, ", "), source.Name)
		}
	}
	d.judgeTwins(ctx)
	what := d.siteRoutes()
	if !sure {
		what += " (which can only be queried)"
	}
	d.faultless(before, "twin-asked", s.placeOf(senderMaps),
		"%s: protected senders keep these routes, by twins of %d clients that are held to TLS",
		what, len(p.twinned())-missing)
}

// judgeTwins looks at the twins in master.cf as at our other transports.
func (d *doctor) judgeTwins(ctx context.Context) {
	for _, s := range d.Services {
		if _, of, ok := contract.ParseTransport(s.Name); ok && of != "" && isOurs(s) {
			d.transport(s)
			d.alike(s)
			d.checkListening(ctx, s)
		}
	}
}

// haveItRead is the remedy where the daemon reads another Postfix, or none.
func (d *doctor) haveItRead() string {
	return fmt.Sprintf("[forwarding] postfix = %q in tlsonly.toml and restart the daemon", d.Dir)
}

// unaskedRoutes says what comes of a site's way that isn't asked for.
func (d *doctor) unaskedRoutes(p *planner) {
	remedy := runSetup
	switch {
	case d.Senders == contract.SendersTable:
		for _, m := range p.tableMisses() {
			d.hole("twin-unasked", m.where, `[binding] senders = "map", then `+runSetup,
				"%s: %s isn't asked about protected senders; with a table of senders their mail leaves "+
					"by the client %s, from its address and by MX or relayhost", m.text, senderMaps, p.site().Name)
		}
		return
	case !p.reads():
		remedy = d.haveItRead() + ", then " + runSetup
	}
	d.warn("twin-unasked", inMain(senderMaps), remedy,
		"%s isn't asked about protected senders, so their mail leaves by a client like %s, "+
			"from its address and by MX or relayhost",
		d.siteRoutes(), p.site().Name)
}

// checkRoutes judges what the site's tables say of protected senders. It returns the
// transports that they name for such; sure says that these are all.
func (d *doctor) checkRoutes(ctx context.Context) (named []string, sure bool) {
	sure = true
	add := func(where, who, value string) {
		name, hop, _ := strings.Cut(value, ":")
		if strings.EqualFold(value, "DUNNO") || isOurs(Service{Name: name, Type: "unix"}) {
			return
		}
		if name != "" && !slices.Contains(named, name) {
			named = append(named, name)
		}
		d.checkRoute(where, who, name, strings.TrimSpace(hop))
	}
	for _, table := range d.siteSenderTables() {
		entries, err := d.entries(ctx, table, inMain(senderMaps))
		for _, e := range entries {
			if from, ok := d.side(e.key); e.pattern || ok && d.Protects(from) != None {
				add(e.where, e.key, e.value)
			}
		}
		if err == nil {
			continue
		}
		sure = false
		for _, a := range d.Protected {
			answer, found, err := d.query(ctx, table, a.String())
			if !found && err == nil && !a.IsNull() {
				answer, found, err = d.query(ctx, table, "@"+a.Domain.String())
			}
			switch {
			case err != nil:
				d.broken("twin-unread", inMain(senderMaps),
					"make it answer: postmap -q "+a.String()+" "+table,
					"%s can't be asked, so mail of protected senders waits: %v", table, err)
				return named, false
			case found:
				add(inMain(senderMaps), a.String(), answer)
			}
		}
	}
	if v := d.value("default_transport"); v != "" {
		name, hop, _ := strings.Cut(v, ":")
		d.checkRoute(inMain("default_transport"), "every other sender", name, hop)
	}
	return named, sure
}

// checkRoute judges what mail of a protected sender is given to.
func (d *doctor) checkRoute(where, who, name, hop string) {
	s, ok := d.service(name, "unix")
	switch {
	case name == "":
		d.broken("twin-form", where, "name a transport: smtp:"+hop,
			"%s: %q names no transport, which postfix doesn't accept, so mail waits", who, ":"+hop)
	case !ok:
		d.broken("twin-form", where, "name a transport that is in master.cf",
			"%s: there is no transport %s in master.cf, so mail waits, except what a twin of it "+
				"in master.cf takes", who, name)
	case EnforcementOf(s.Command, hop) == Unenforceable:
		d.broken("twin-unheld", where, "name an smtp client, or remove the sender from the rules",
			"%s: %s:%s is %s(8), which can't be held to TLS, so mail of protected senders waits",
			who, name, hop, s.Command)
	case s.Command == "pipe" || s.Command == "spawn":
		d.warn("twin-program", where,
			"make sure that the program sends nothing in the clear; then accept this finding",
			"%s: %s gives the mail to a program, which nothing holds to TLS", who, name)
	case s.Command == "smtp" && hop != "":
		d.legible(senderMaps, where, hop)
	}
}

// routeUnknown reports whether the daemon couldn't ask the site's tables.
func routeUnknown(err error) bool {
	return err != nil && strings.Contains(err.Error(), unknownRoute)
}
