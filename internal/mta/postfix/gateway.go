package postfix

import (
	"maps"
	"net"
	"slices"
	"strings"

	"tlsonly/internal/contract"
)

// The gateway takes what our transports can't deliver over TLS, as the last host
// of their route (smtp_fallback_relay), and hands encrypted copies to an smtpd(8)
// of its own. From there they leave by a transport of their own, over ordinary
// TLS: whoever reads them on the way reads nothing.
//
// SECURITY: what comes in at that smtpd leaves without the TLS that rules ask for.
// So our milter is asked there, first and for every client, and lets nobody in but
// the gateway's own connections; without the milter nothing is taken.

// Gateway is where the gateway is, and where it hands copies back, both as
// "host:port" with a loopback address.
type Gateway struct{ Listen, Reinject string }

// on reports whether there is one.
func (g Gateway) on() bool { return g.Listen != "" }

// hop is the gateway as Postfix writes a next hop.
func (g Gateway) hop() string {
	host, port, _ := net.SplitHostPort(g.Listen)
	if strings.Contains(host, ":") {
		host = "ipv6:" + host
	}
	return "[" + host + "]:" + port
}

// isGateway reports whether a service of master.cf is there for the gateway.
func isGateway(s Service) bool {
	switch s.Name {
	case contract.OpenTransport, contract.ReinjectCleanup:
		return s.Type == "unix"
	}
	return s.Type == "inet" && s.Command == "smtpd" && s.Options[daemonName] == contract.ReinjectName
}

const daemonName = "milter_macro_daemon_name"

// reachGateway has a transport turn to the gateway when no host of a destination
// has the TLS that is asked.
func (p *planner) reachGateway(s Service) {
	if !p.Gateway.on() {
		return
	}
	maps.Copy(s.Options, map[string]string{
		"smtp_fallback_relay": p.Gateway.hop(),
		// Otherwise mail goes to the gateway by a connection that is kept, and its own
		// mail hosts are never asked.
		"smtp_connection_cache_on_demand":    "no",
		"smtp_connection_cache_destinations": "",
		// The policy for the gateway names the fingerprint of its certificate.
		"smtp_tls_fingerprint_digest": "sha256",
		// For as long as it takes to encrypt a message for all its recipients.
		"smtp_data_done_timeout": "1800s",
	})
}

// gatewayServices returns what master.cf is to have for the gateway, none without
// one.
func (p *planner) gatewayServices() []Service {
	if !p.Gateway.on() {
		return nil
	}
	return []Service{p.copiesIn(), p.copiesCleanup(), p.copiesOut()}
}

// copiesIn is the smtpd that takes copies. What the site asks of its clients isn't
// asked there: the message has been through that.
func (p *planner) copiesIn() Service {
	s := Service{Name: p.Gateway.Reinject, Type: "inet", Columns: [5]string{"n", "-", "n", "-", "-"}, Command: "smtpd"}
	site := slices.DeleteFunc(splitList(p.facts.value(smtpdMilters)), func(item string) bool {
		return p.kindOf(item) == kindMilter || p.handMade(item)
	})
	s.Options = map[string]string{
		daemonName:   contract.ReinjectName,
		smtpdMilters: p.inService(strings.Join(site, ",")), // the site's signer signs the copy
		// Where the site's mail goes by a relay the copy does, too: a filter's next hop
		// replaces relayhost.
		"content_filter":                      contract.OpenTransport + ":" + p.facts.value("relayhost"),
		"receive_override_options":            "no_address_mappings,no_header_body_checks,no_unknown_recipient_checks",
		"cleanup_service_name":                contract.ReinjectCleanup,
		"message_size_limit":                  "0", // a copy is larger than its message
		"mynetworks":                          "127.0.0.0/8,[::1]/128",
		"local_header_rewrite_clients":        "",
		"smtpd_relay_restrictions":            "permit_mynetworks,reject",
		"smtpd_recipient_restrictions":        "permit_mynetworks,reject",
		"smtpd_authorized_xclient_hosts":      "", // who could say that it has another port
		"smtpd_authorized_xforward_hosts":     "",
		"smtpd_client_event_limit_exceptions": "127.0.0.0/8,[::1]/128",
		"smtpd_tls_security_level":            "none",
		"smtpd_sasl_auth_enable":              "no",
		"smtpd_reject_unlisted_sender":        "no",
		"smtpd_reject_unlisted_recipient":     "no",
		"strict_rfc821_envelopes":             "no",
		"syslog_name":                         p.facts.syslogName() + "/" + contract.ReinjectName,
	}
	for _, name := range []string{"smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions",
		"smtpd_data_restrictions", "smtpd_end_of_data_restrictions", "smtpd_sender_login_maps", "smtpd_proxy_filter",
		"smtpd_upstream_proxy_protocol", "smtpd_command_filter", "smtpd_discard_ehlo_keywords",
		"smtpd_discard_ehlo_keyword_address_maps"} {
		s.Options[name] = ""
	}
	if p.facts.atLeast(3, 2) {
		s.Options["smtpd_milter_maps"] = "" // no client comes past our milter
	}
	return s
}

// copiesCleanup is the cleanup behind it.
func (p *planner) copiesCleanup() Service {
	s := Service{Name: contract.ReinjectCleanup, Type: "unix", Columns: [5]string{"n", "-", "n", "-", "0"}, Command: "cleanup"}
	if site, ok := p.facts.service("cleanup", "unix"); ok {
		s.Columns = site.Columns
	}
	s.Options = map[string]string{
		"message_size_limit":   "0",
		"milter_header_checks": "", // which could choose another filter
		"syslog_name":          p.facts.syslogName() + "/" + contract.ReinjectName,
	}
	return s
}

// copiesOut is the transport by which copies leave, made after the client of the
// site's other mail.
func (p *planner) copiesOut() Service {
	site := p.site()
	s := Service{Name: contract.OpenTransport, Type: "unix", Columns: site.Columns, Command: "smtp"}
	s.Options = maps.Clone(site.Options)
	if s.Options == nil {
		s.Options = make(map[string]string)
	}
	s.Options["syslog_name"] = p.facts.syslogName() + "/" + s.Name
	// Not our own policies: they hold all mail for a destination to the TLS that it
	// had, and a copy needs none.
	policies := slices.DeleteFunc(splitList(p.facts.option(site, policyMaps)), func(item string) bool { return p.kindOf(item) == kindPolicy })
	s.Options[policyMaps] = strings.Join(policies, ",")
	if level := p.facts.option(site, "smtp_tls_security_level"); level == "" || level == "none" {
		s.Options["smtp_tls_security_level"] = "may"
	}
	return s
}

// gatewayNotes says what of the site's settings copies don't follow.
func (p *planner) gatewayNotes() {
	if !p.Gateway.on() {
		return
	}
	if level := p.facts.option(p.site(), "smtp_tls_security_level"); enforcing(level) {
		p.setup.note("smtp_tls_security_level = %s holds for encrypted copies, too: they wait where there is no TLS", level)
	}
	if p.facts.option(p.site(), "smtp_tls_wrappermode") == "yes" {
		p.setup.note("smtp_tls_wrappermode = yes: the gateway can't be reached, and mail waits that would fall back")
	}
	if p.facts.value("smtp_generic_maps") != "" {
		p.setup.note("smtp_generic_maps rewrites senders on the way to the gateway, too: it judges by what they become")
	}
	for _, name := range []string{"transport_maps", "sender_dependent_relayhost_maps"} {
		if v := p.facts.value(name); v != "" {
			p.setup.note("encrypted copies don't follow %s = %s: they go by %s", name, v, p.copiesIn().Options["content_filter"])
		}
	}
}

// gateway looks whether what falls back gets to the gateway, and whether nobody
// else gets in where copies go back.
func (d *doctor) gateway() {
	before := len(d.findings)
	p := d.planner()
	p.setEntries()
	wanted := p.gatewayServices()
	for _, have := range d.forGateway {
		i := slices.IndexFunc(wanted, func(w Service) bool { return w.ID() == have.ID() })
		if have.Command == "smtpd" && (i < 0 || !d.closed(have)) {
			d.hole("gateway-open", inMaster(have), runSetup,
				"%s takes mail that leaves without the TLS that rules ask for, and our milter isn't the first to be asked there", have.ID())
		}
		if i < 0 {
			continue
		}
		names := maps.Clone(wanted[i].Options)
		maps.Copy(names, have.Options)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if got, want := have.Options[name], wanted[i].Options[name]; unblanked(got) != unblanked(want) {
				d.warn("gateway-differs", inMaster(have)+"/"+name, runSetup, "%s: %s is %q, and setup writes %q", have.ID(), name, got, want)
			}
		}
	}
	for _, want := range wanted {
		if !slices.ContainsFunc(d.forGateway, func(have Service) bool { return have.ID() == want.ID() }) {
			d.broken("gateway-missing", inMaster(want), runSetup, "%s isn't in master.cf: encrypted copies can't leave, and mail that falls back waits", want.ID())
		}
	}
	if d.Gateway.on() {
		d.faultless(before, "gateway-bound", "", "what has no TLS falls back to %s, and encrypted copies go back by %s", d.Gateway.hop(), d.Gateway.Reinject)
	}
}

// closed reports whether our milter is the first to be asked at a service, and
// nothing is taken without it.
func (d *doctor) closed(s Service) bool {
	list := splitList(d.option(s, smtpdMilters))
	return len(list) > 0 && d.ourMilter(list[0]) && refuses(milterSettings(d.milterDefaults(s), list[0])["default_action"]) &&
		d.option(s, "smtpd_milter_maps") == "" && s.Options["smtpd_authorized_xclient_hosts"] == "" &&
		!slices.Contains(splitList(d.option(s, "receive_override_options")), "no_milters")
}
