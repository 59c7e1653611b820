package postfix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/contract"
)

// What Postfix writes itself, bounces, delay warnings and notices, has the null
// sender or $double_bounce_sender@$myhostname. Which of it is about protected
// mail shows nowhere, so the strict transport takes all of it while any rule
// enforces. Its probes of addresses have the same sender and carry nothing: they
// go by the site's own transports, or a host without TLS would be said to have
// no users.

const (
	senderMaps = "sender_dependent_default_transport_maps"
	verifyMaps = "address_verify_" + senderMaps

	usualNull   = "<>"
	usualDouble = "double-bounce"
)

// writers returns the senders of Postfix's own mail that aren't the usual ones,
// as Postfix asks for them.
func (f Facts) writers() []string {
	var found []string
	if v := f.value("double_bounce_sender"); v != "" && v != usualDouble {
		found = append(found, v)
	}
	if v := f.value("empty_address_default_transport_maps_lookup_key"); v != "" && v != usualNull {
		found = append(found, v)
	}
	return found
}

// sendersOf is the static table of senders, for Postfix's own mail too where
// rules enforce something.
func (p *planner) sendersOf(entries []Entry, enforces bool) string {
	return sendersOf(p.Settings, p.facts, entries, enforces)
}

func (d *doctor) sendersOf(entries []Entry, enforces bool) string {
	return sendersOf(d.Settings, d.Facts, entries, enforces)
}

func sendersOf(s Settings, f Facts, entries []Entry, enforces bool) string {
	if s.Bounces == contract.BouncesOthers || !enforces {
		return senderTable(entries)
	}
	var b strings.Builder
	line := func(re string) { b.WriteString("/" + re + "/ " + transportPrefix + ":\n") }
	line(`^("<>"|<>)?$`)
	for _, name := range append([]string{usualDouble}, f.writers()...) {
		re := literally(name)
		if !strings.Contains(name, "@") {
			re = `^("` + re + `"|` + re + `)(@[^@]*)?$`
		} else {
			re = "^" + re + dotAtEnd
		}
		line(re)
	}
	return b.String() + senderTable(entries)
}

// probes keeps our map of senders out of what probes of addresses go by.
func (p *planner) probes() {
	f := p.facts
	site := func(value string) string {
		return without(value, slices.DeleteFunc(splitList(value), func(item string) bool { return p.kindOf(item) == "" })...)
	}
	base, changed := f.probesUndone(site)
	if p.Bounces == contract.BouncesOthers {
		if changed {
			p.setup.parameter(f, verifyMaps, base)
		}
		return
	}
	switch {
	case changed && base == "":
		base = "$" + senderMaps // its default
	case !changed:
		base = f.all[verifyMaps]
	}
	if without := site(base); without != base { // by hand: it is as it must not be
		p.setup.parameter(f, verifyMaps, without)
		return
	}
	if !f.refersTo(base, senderMaps) {
		return // a list of the site's own
	}
	value := base
	for _, r := range references(senderMaps) {
		value = strings.ReplaceAll(value, r, strings.Join(f.siteTables(site), ", "))
	}
	if f.refersTo(value, senderMaps) {
		return // it refers to the other through a third, which stays
	}
	p.setup.parameter(f, verifyMaps, value)
}

// askWriters looks whether Postfix's own mail goes by the strict transport.
func (d *doctor) askWriters(ctx context.Context, s Service, tables []string) {
	if d.core || d.Bounces == contract.BouncesOthers || !d.Enforces || d.away && d.Senders == contract.SendersMap {
		return
	}
	null := d.value("empty_address_default_transport_maps_lookup_key")
	keys := []string{null}
	if null == usualNull {
		keys = []string{`"<>"`, usualNull}
	}
	double := d.value("double_bounce_sender") + "@" + d.value("myhostname")
	for _, w := range []struct {
		what string
		keys []string
	}{{"bounces", keys}, {"notices of " + double, []string{double}}} {
		answer, table, err := d.transportOf(ctx, tables, w.keys)
		name, _, _ := strings.Cut(answer, ":")
		if err != nil || isOurs(Service{Name: name, Type: "unix"}) {
			continue // that all mail waits is said elsewhere
		}
		text := fmt.Sprintf("%s go by %q, says %s", w.what, answer, table)
		if answer == "" {
			text = w.what + " aren't sent through our transports"
		}
		d.hole("bounces-unbound", inMain(senderMaps), runSetup, "%s: they carry headers of protected mail, and may leave in the clear", text)
	}
	probes := splitList(d.option(s, verifyMaps))
	if i := slices.IndexFunc(probes, func(t string) bool { return t == d.ourSenderTable() || contract.SenderTable(d.smap, t) }); i >= 0 {
		d.warn("probes-bound", inMain(verifyMaps), runSetup, "%s has %s, so addresses at hosts without TLS can't be verified", verifyMaps, probes[i])
	}
}
