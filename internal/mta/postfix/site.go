package postfix

import (
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// relay reports whether the daemon knows a next hop as a relay, however it is written.
func (d *doctor) relay(hop string) bool {
	if parsed, err := addr.ParseDestination(hop); err == nil {
		hop = parsed.String()
	}
	return slices.Contains(d.Relays, hop)
}

// follows reports whether the daemon reads the relays of this Postfix itself.
func (d *doctor) follows() bool { return d.planner().reads() }

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
		d.warn("local-unnamed", inMain("mydestination"), `[forwarding] local = ["`+strings.Join(missing, `", "`)+`"] in tlsonly.toml`,
			"mail from sendmail(1) to %s is judged as if it left this host", strings.Join(missing, ", "))
	}
	for _, domain := range splitList(d.value("relay_domains")) {
		p, err := addr.ParsePattern("@" + domain)
		if err != nil || d.Protects(p) == None || slices.Contains(d.Local, strings.ToLower(domain)) || d.Others == contract.OthersOff {
			continue
		}
		said := slices.ContainsFunc(d.findings, func(f mta.Finding) bool {
			return (f.Code == "route-home" || f.Code == "route-home-held") && strings.Contains(f.Text, domain)
		})
		if !said { // else nothing holds what goes there, and nothing waits
			d.warn("local-unnamed", inMain("relay_domains"), `[forwarding] local = ["`+domain+`"] in tlsonly.toml, if the inner host needs no TLS`,
				"relay_domains = %s is a protected sender's domain: all mail for it waits "+
					"unless the inner host offers TLS", domain)
		}
	}
}
