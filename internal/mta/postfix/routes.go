package postfix

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// bond says what holds mail that a transport takes.
type bond int

const (
	stays bond = iota // on this machine
	bound             // TLS or nothing
	held              // something, not always
	loose             // nothing
)

// bondOf says what holds mail that is sent to transport:nexthop, and why.
func (d *doctor) bondOf(route string) (bond, string) {
	name, nexthop, _ := strings.Cut(route, ":")
	s, ok := d.service(name, "unix")
	if !ok {
		return stays, "no such transport: the mail waits"
	}
	tls := "smtp"
	switch s.Command {
	case "smtp":
	case "lmtp":
		tls = "lmtp"
		if strings.HasPrefix(nexthop, "unix:") {
			return stays, ""
		}
	default: // local, virtual, error, retry, discard; pipe, for what a program on this machine does is out of sight
		return stays, ""
	}
	maps := splitList(d.option(s, tls+"_tls_policy_maps"))
	ours := slices.IndexFunc(maps, func(m string) bool { return strings.HasPrefix(m, "socketmap:"+d.smap+":") })
	level := d.option(s, tls+"_tls_security_level")
	if level == "" {
		level = "none"
	}
	switch {
	case loopback(strings.TrimPrefix(nexthop, "inet:")):
		return stays, ""
	case isOwn(s), enforcing(level) && len(maps) == 0, enforcing(level) && len(maps) == 1 && ours == 0:
		return bound, ""
	case ours >= 0:
		return held, "held only by what its destination was pinned to"
	}
	why := fmt.Sprintf("transport %s has level %s and no policies of ours", name, level)
	if tls == "lmtp" {
		return held, why // what a site delivers by LMTP doesn't leave the site
	}
	return loose, why
}

// route judges one way around the sender map.
func (d *doctor) route(what, route string) {
	remedy := fmt.Sprintf("leave the transport out (:nexthop), or give it -o smtp_tls_security_level=encrypt; or name its destination in a rule for everybody (from = [%q])", "*")
	switch b, why := d.bondOf(route); b {
	case held:
		d.warn("route", remedy, "%s goes around the sender map: %s", what, why)
	case loose:
		d.hole("route", remedy, "%s goes around the sender map: %s", what, why)
	}
}

// routes looks for ways by which mail of a protected sender doesn't come through our transports. trivial-rewrite(8): only the
// default transport depends on the sender.
func (d *doctor) routes(ctx context.Context) {
	before := len(d.found)
	for _, table := range splitList(d.value("transport_maps")) {
		entries, err := d.entries(ctx, table)
		if err != nil {
			d.warn("route", "see that its answers name no transport: :nexthop", "transport_maps: %s can only be asked: an answer with a transport goes around the sender map", table)
			continue
		}
		for _, e := range entries {
			if transport, _, _ := strings.Cut(e.value, ":"); transport != "" {
				d.route(fmt.Sprintf("transport_maps: %q of %s", e.key+" "+e.value, table), e.value)
			}
		}
	}
	local := splitList(d.value("mydestination"))
	relayed := slices.DeleteFunc(splitList(d.value("relay_domains")), func(domain string) bool { return slices.Contains(local, domain) })
	if len(relayed) > 0 {
		d.route(fmt.Sprintf("relay_transport = %s, for relay_domains = %s,", d.value("relay_transport"), strings.Join(relayed, " ")), d.value("relay_transport"))
	}
	// What is delivered here is taken to stay here.
	for _, name := range []string{"local_transport", "virtual_transport", "mailbox_transport", "fallback_transport"} {
		if v := d.value(name); v != "" {
			d.route(name+" = "+v, v)
		}
	}
	for _, name := range []string{"mailbox_transport_maps", "fallback_transport_maps"} {
		if v := d.value(name); v != "" {
			d.warn("route", "see that its answers stay on this machine", "%s = %s goes around the sender map", name, v)
		}
	}
	d.filter("main.cf", d.value("content_filter"))
	for _, s := range d.Services {
		d.filter(s.ID(), d.expand(s.Options["content_filter"], s.Options))
	}
	d.faultless(before, "route", "no table, relay or filter goes around the sender map")
	for _, name := range []string{"relayhost", "sender_dependent_relayhost_maps"} {
		if v := d.value(name); v != "" {
			d.ok("route", "%s = %s: it is the relay that is judged; what it does with the mail is out of sight", name, v)
		}
	}
}

// filter judges the way to a content filter, by which mail goes before its sender counts.
func (d *doctor) filter(place, route string) {
	if route == "" {
		return
	}
	switch b, why := d.bondOf(route); b {
	case held, loose:
		d.hole("route", "filter on this machine, or over a transport with -o smtp_tls_security_level=encrypt",
			"content_filter = %s (%s) gets mail before our transports do: %s", route, place, why)
	default:
		d.ok("route", "content_filter = %s (%s): mail is bound when the filter gives it back", route, place)
	}
}

// clients looks for SMTP clients that have less TLS than main.cf says.
func (d *doctor) clients() {
	levels := []string{"none", "may", "dane", "encrypt", "fingerprint", "verify", "secure", "dane-only"}
	site := d.value("smtp_tls_security_level")
	for _, s := range d.Services {
		if s.Command != "smtp" || isOwn(s) {
			continue
		}
		if level, ok := s.Options["smtp_tls_security_level"]; ok && slices.Index(levels, level) < slices.Index(levels, site) {
			d.warn("client", "take the option out", "%s in master.cf lowers smtp_tls_security_level from %s to %s", s.ID(), site, level)
		}
		if v, ok := s.Options["smtp_tls_policy_maps"]; ok && d.Others != OthersOff &&
			!slices.Contains(splitList(d.expand(v, s.Options)), "socketmap:"+d.smap+":policy") {
			d.warn("client", fmt.Sprintf("postconf -P '%s/smtp_tls_policy_maps=%s'", s.ID(), joinLists(false, v, "$"+policyParameter)),
				"%s in master.cf has policies of its own: destinations that are pinned aren't held to it there", s.ID())
		}
	}
}

// surroundings looks at what else bears on the promise.
func (d *doctor) surroundings() {
	if d.UserRules {
		d.logins()
	}
	if d.Verified {
		d.certificates()
	}
	if v := d.value("internal_mail_filter_classes"); v != "" {
		d.warn("milter", "leave bounce out of it", "internal_mail_filter_classes = %s: a bounce that the milter refuses makes the message wait", v)
	}
	for _, name := range []string{"always_bcc", "sender_bcc_maps", "recipient_bcc_maps"} {
		if v := d.value(name); v != "" {
			d.ok("copies", "%s = %s: not judged when mail is accepted, but bound at delivery like the rest", name, v)
		}
	}
	if v := d.Set["virtual_alias_domains"]; v != "" {
		d.ok("aliases", "virtual_alias_domains = %s: the sender stays, what leaves is bound", v)
	}
}

// logins looks whether a login can send in a name that isn't its own: then a rule by user binds at acceptance only.
func (d *doctor) logins() {
	const remedy = "smtpd_sender_login_maps and reject_sender_login_mismatch in smtpd_sender_restrictions"
	if d.value("smtpd_sender_login_maps") == "" {
		d.warn("logins", remedy, "rules name users, but no smtpd_sender_login_maps say which senders are theirs: with another sender a rule binds at acceptance only")
		return
	}
	before := len(d.found)
	for _, s := range d.Services {
		if s.Command != "smtpd" || d.option(s, "smtpd_sasl_auth_enable") != "yes" {
			continue
		}
		refuses := false
		for _, stage := range []string{"client", "helo", "sender", "relay", "recipient", "data", "end_of_data"} {
			for _, r := range splitList(d.option(s, "smtpd_"+stage+"_restrictions")) {
				refuses = refuses || r == "reject_sender_login_mismatch" || r == "reject_authenticated_sender_login_mismatch" || r == "reject_known_sender_login_mismatch"
			}
		}
		if !refuses {
			d.warn("logins", remedy, "%s: rules name users, but a login may use any sender: with another one a rule binds at acceptance only", s.ID())
		}
	}
	d.faultless(before, "logins", "a login may use its own senders only")
}
