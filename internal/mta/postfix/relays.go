package postfix

import (
	"context"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// relays looks at next hops that stand for another domain than that of the
// recipient.
func (d *doctor) relays(ctx context.Context) {
	if v := d.value("smtp_fallback_relay"); v != "" && d.UserRules && d.Others != contract.OthersOff {
		d.hole("relay-fallback", inMain("smtp_fallback_relay"), "remove smtp_fallback_relay, or give the relay TLS: postconf -e smtp_fallback_relay=",
			"smtp_fallback_relay = %s: mail of rules by login goes there, unjudged, when its "+
				"own destination fails", v)
	}
	for _, name := range []string{"relayhost", "relay_transport", "default_transport"} {
		_, hop, found := strings.Cut(d.value(name), ":")
		if name == "relayhost" {
			hop, found = d.value(name), true
		}
		if !found || hop == "" {
			continue
		}
		d.nextHop(name, inMain(name), hop)
		if name != "relay_transport" && !d.relay(hop) && !d.follows() {
			d.warn("relay-unnamed", inMain(name), `[relay] "*" = "`+hop+`" in tlsonly.toml`, "%s = %s: the milter doesn't learn the route of mail from sendmail(1), so that mail is judged by MX", name, d.value(name))
		}
	}
	for _, at := range d.settings("sender_dependent_relayhost_maps", "trivial-rewrite") {
		for _, table := range splitList(at.value) {
			entries, err := d.entries(ctx, table, at.where)
			for _, e := range entries {
				if from, ok := d.side(e.key); e.pattern || ok && d.Protects(from) != None {
					d.nextHop("sender_dependent_relayhost_maps", e.where, e.value)
				}
			}
			if err != nil {
				d.warn("relay-asked", at.where, "make sure that its answers are in brackets; then accept this finding",
					"sender_dependent_relayhost_maps: %s cannot be looked into: an answer "+
						"without brackets is treated as a mail domain", table)
			}
		}
	}
	for _, at := range d.settings("transport_maps", "trivial-rewrite") {
		for _, table := range splitList(at.value) {
			entries, _ := d.entries(ctx, table, at.where) // routes has said what can't be read
			for _, e := range entries {
				transport, hop, _ := strings.Cut(e.value, ":")
				ok := transport == ""
				if b, _ := d.bondOf(e.value); ok || b != stays {
					d.legible("transport_maps", e.where, hop)
				}
				if domain, err := addr.ParseDomain(hop); ok && err == nil && hop != "" && !strings.EqualFold(hop, e.key) && d.excepted(hop, domain) {
					d.nextHop("transport_maps", e.where, hop)
				}
			}
		}
	}
}

// excepted reports whether a rule exempts mail to a domain that is the next hop
// of mail to others, too.
func (d *doctor) excepted(hop string, domain addr.Domain) bool {
	return !d.relay(hop) && !d.follows() && d.Excepts(domain)
}

// legible looks whether a next hop is one that the daemon understands: what it
// can't judge it makes wait.
func (d *doctor) legible(name, where, hops string) bool {
	for _, hop := range strings.FieldsFunc(hops, func(r rune) bool { return strings.ContainsRune(", \t", r) }) {
		if _, err := addr.ParseDestination(hop); err != nil {
			d.broken("relay-form", where, "write the host in brackets, and its port as a number",
				"%s: %v: the daemon doesn't understand it, so protected mail that goes there is deferred",
				name, err)
			return false
		}
	}
	return true
}

// nextHop judges the name of a relay. One with brackets or a port is no mail
// domain; one without looks like one, and an exception for that domain would be
// an exception for all that goes there.
func (d *doctor) nextHop(name, where, hop string) {
	if hop == "" || strings.EqualFold(hop, "DUNNO") || !d.legible(name, where, hop) || strings.ContainsAny(hop, "[]:,") || d.relay(hop) || d.follows() {
		return
	}
	if domain, err := addr.ParseDomain(hop); err == nil && d.Excepts(domain) {
		d.hole("relay-excepted", where, "write ["+hop+"], or name it in [relay]",
			"%s: %s is treated as a mail domain, and a rule exempts mail to it; the exception "+
				"applies to all mail that goes there", name, hop)
		return
	}
	d.warn("relay-domain", where, "write ["+hop+"], or name it in [relay]",
		"%s: %s is treated as a mail domain, so a rule's exception for it would apply to all mail "+
			"that goes there", name, hop)
}
