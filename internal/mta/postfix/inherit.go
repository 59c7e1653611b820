package postfix

import (
	"slices"
	"strings"
)

// setLevel are the parameters that set what TLS a destination is held to, and
// whom its certificate must be of. In our transports they are ours; all others,
// such as the address that mail is sent from, a client certificate, ciphers, or
// TLS at once at port 465, the site's hosts may want of us, too.
var setLevel = []string{
	"smtp_tls_security_level",
	"smtp_tls_policy_maps", "smtp_tls_mandatory_protocols", "smtp_tls_per_site",
	"smtp_use_tls", "smtp_enforce_tls", "smtp_tls_enforce_peername", "tls_required_enable",
	"smtp_tls_CAfile", "smtp_tls_CApath", // see authorities
	"smtp_fallback_relay", bestMX, // nobody has judged where they lead
}

// site returns the client by which the site's own mail leaves, which ours are
// made after.
func (p *planner) site() Service {
	name, _, _ := strings.Cut(p.facts.value("default_transport"), ":")
	if s, ok := p.facts.service(name, "unix"); ok && s.Command == "smtp" && !isOurs(s) {
		return s
	}
	if s, ok := p.facts.service("smtp", "unix"); ok {
		return s
	}
	return Service{Columns: [5]string{"-", "-", "n", "-", "-"}}
}

// inherited are options of the site's transport smtp that ours take over.
func (p *planner) inherited(options map[string]string) map[string]string {
	own := make(map[string]string)
	for name, value := range options {
		if !slices.Contains(setLevel, name) {
			own[name] = value
		}
	}
	return own
}
