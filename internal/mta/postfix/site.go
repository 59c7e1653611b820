package postfix

import (
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// site looks at settings of the site that change, after the milter has judged, who sends, where mail goes, or what the
// daemon takes it for.
func (d *doctor) site() {
	if v := d.value("smtp_fallback_relay"); v != "" && d.UserRules && d.Others != OthersOff {
		d.hole("relay", "take smtp_fallback_relay out, or give the relay TLS: postconf -e smtp_fallback_relay=",
			"smtp_fallback_relay = %s: mail of rules by login goes there, unjudged, when its own destination fails", v)
	}
	for _, name := range []string{"relayhost", "relay_transport", "default_transport"} {
		_, hop, found := strings.Cut(d.value(name), ":")
		if name == "relayhost" {
			hop, found = d.value(name), true
		}
		if !found || hop == "" {
			continue
		}
		if name == "default_transport" {
			d.warn("relay", "set relayhost = "+hop, "default_transport has a next hop of its own, %s: mail by our transports goes by MX instead", hop)
		}
		// A next hop with brackets or a port is no mail domain; one without looks like one, and an exception for that
		// domain would be an exception for all that goes there.
		if !strings.ContainsAny(hop, "[]:,") && !d.relay(hop) {
			d.warn("relay", "write ["+hop+"], or name it in [relay]",
				"%s: %s is taken for a mail domain: a rule's exception for it would hold for all mail that goes there", name, hop)
		}
	}
	if v := d.value("relayhost"); v != "" && !d.relay(v) {
		d.warn("relay", `[relay] "*" = "`+v+`" in tlsonly.toml`, "relayhost = %s: mail from sendmail(1) comes without its route and is judged by MX", v)
	}
	for _, name := range []string{"sender_canonical_maps", "canonical_maps", "masquerade_domains"} {
		if v := d.value(name); v != "" {
			d.warn("sender", "name senders in the rules as they are before and after", "%s = %s: senders are rewritten after the milter has judged", name, v)
		}
	}
	if v := d.value("recipient_delimiter"); v != "" && v != "+" {
		d.warn("sender", "name addresses with extensions in the rules, or use +", "recipient_delimiter = %s: only + is known as one", v)
	}
	d.local()
}

// relay reports whether the daemon knows a next hop as a relay, however it is written.
func (d *doctor) relay(hop string) bool {
	if parsed, err := addr.ParseDestination(hop); err == nil {
		hop = parsed.String()
	}
	return slices.Contains(d.Relays, hop)
}

// local compares what is delivered here with what the daemon knows of it. Postfix tells it with each recipient, but not of
// mail from sendmail(1).
func (d *doctor) local() {
	var missing []string
	for _, name := range []string{"mydestination", "virtual_mailbox_domains", "virtual_alias_domains"} {
		for _, domain := range splitList(d.value(name)) {
			plain := !strings.ContainsAny(domain, ":/$") && strings.Contains(domain, ".")
			if plain && !slices.Contains(d.Local, strings.ToLower(domain)) && !strings.EqualFold(domain, "localhost."+d.value("mydomain")) &&
				!strings.EqualFold(domain, "localhost.localdomain") && !strings.EqualFold(domain, d.value("myhostname")) && !slices.Contains(missing, domain) {
				missing = append(missing, domain)
			}
		}
	}
	if len(missing) > 0 {
		d.warn("local", `[forwarding] local = ["`+strings.Join(missing, `", "`)+`"] in tlsonly.toml`,
			"mail from sendmail(1) to %s is judged as if it left", strings.Join(missing, ", "))
	}
	for _, domain := range splitList(d.value("relay_domains")) {
		for _, p := range d.Protected {
			if strings.EqualFold(domain, p.Domain.String()) && !slices.Contains(d.Local, strings.ToLower(domain)) && d.Others != OthersOff {
				d.warn("local", `[forwarding] local = ["`+domain+`"] in tlsonly.toml, if the inner host needs no TLS`,
					"relay_domains = %s is a protected sender's: mail for it, from whomever, waits unless the inner host offers TLS", domain)
				break
			}
		}
	}
}
