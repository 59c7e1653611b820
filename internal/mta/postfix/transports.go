package postfix

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// transports looks whether our transports let nothing out in the clear.
func (d *doctor) transports(ctx context.Context) {
	before := len(d.findings)
	for _, name := range d.Settings.transports() {
		s, ok := d.service(name, "unix")
		switch {
		case ok:
			d.transport(s)
			d.alike(s)
			d.checkListening(ctx, s)
		case d.counts(name):
			d.broken("transport-missing", "master.cf:"+name+"/unix", runSetup,
				"transport %s isn't in master.cf, so mail of its senders waits", name)
		default:
			d.warn("transport-missing", "master.cf:"+name+"/unix", runSetup,
				"transport %s isn't in master.cf, so mail of its senders uses %s", name,
				transportPrefix)
		}
	}
	for _, name := range splitList(d.value("defer_transports")) {
		if slices.Contains(d.Settings.transports(), name) || isOurs(Service{Name: name, Type: "unix"}) {
			d.broken("transport-deferred", inMain("defer_transports"), "remove "+name+" from it",
				"defer_transports has %s, so mail of its senders waits until somebody makes a "+
					"queue run", name)
		}
	}
	if site := d.value("smtp_tls_security_level"); !d.DANE && strings.HasPrefix(site, "dane") {
		d.warn("transport-dane", inMain("smtp_tls_security_level"), "write a rule with tls = \"dane\", or accept that there other mail is authenticated and protected mail only encrypted",
			"smtp_tls_security_level = %s doesn't apply to our transports: destinations with TLSA "+
				"records need only level encrypt there", site)
	}
	d.faultless(before, "transport-bound", "", "%s require TLS and have our policy maps",
		strings.Join(d.Settings.transports(), ", "))
}

// alike looks whether a transport still has what the site's own client needs to
// reach its hosts, and nothing that the site has taken from that.
func (d *doctor) alike(s Service) {
	p := d.planner()
	want, ok := p.like(s)
	if !ok {
		return
	}
	_, of, _ := contract.ParseTransport(s.Name)
	site := p.source(of)
	const wrapper = "smtp_tls_wrappermode"
	if ours, theirs := d.option(s, wrapper), d.option(site, wrapper); ours != theirs {
		d.broken("transport-differs", inMaster(s)+"/"+wrapper, runSetup,
			"transport %s: %s is %q, but %q for %s: hosts with TLS from the first octet, or with "+
				"STARTTLS only, can't be reached", s.Name, wrapper, ours, theirs, site.ID())
	}
	names := maps.Clone(want.Options)
	maps.Copy(names, s.Options)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch name {
		case wrapper, "syslog_name", "smtp_header_checks", "smtp_delivery_status_filter", "smtp_dns_support_level",
			"tls_append_default_CA", logLevel,
			"smtp_never_send_ehlo", "smtp_always_send_ehlo", discardWords, discardMaps, pixWords, pixMaps:
			continue // others judge these
		case addressLimit:
			if limit := d.option(s, name); limit != "0" {
				d.warn("transport-differs", inMaster(s)+"/"+name, runSetup,
					"transport %s: %s is %q: mail waits for ever if only a later address of a destination satisfies the rule",
					s.Name, name, limit)
			}
			continue
		}
		if ours, theirs := s.Options[name], want.Options[name]; !slices.Contains(setLevel, name) && ours != theirs {
			d.warn("transport-differs", inMaster(s)+"/"+name, runSetup,
				"transport %s: %s is %q, but %q for %s, which a host may need",
				s.Name, name, ours, theirs, site.ID())
		}
	}
	const policies = "smtp_tls_policy_maps"
	if theirs := want.Options[policies]; strings.HasPrefix(theirs, s.Options[policies]+"/") {
		d.warn("transport-differs", inMaster(s)+"/"+policies, runSetup,
			"transport %s: smtp_tls_security_level = %s of %s doesn't apply there: the rules replace it",
			s.Name, d.option(site, "smtp_tls_security_level"), site.ID())
	}
	if s.Columns != want.Columns {
		d.warn("transport-differs", inMaster(s), runSetup, "transport %s: its columns are %q, but %q for %s",
			s.Name, strings.Join(s.Columns[:], " "), strings.Join(want.Columns[:], " "), site.ID())
	}
	limits := p.limitsOf(s)
	for _, limit := range queueLimits {
		name := s.Name + limit
		if _, set := d.Set[name]; set && !d.limitSetByUs(name) {
			continue // the site has set it for this transport
		}
		if d.Set[name] != limits[name] {
			d.warn("transport-differs", inMain(name), runSetup, "%s is %q, but %q for %s",
				name, d.Set[name], limits[name], site.ID())
		}
	}
}

// counts reports whether mail may be given to a transport: the sender map is
// asked for by how many there are.
func (d *doctor) counts(name string) bool {
	number, _, _ := contract.ParseTransport(name)
	if number == 0 || d.Senders == contract.SendersTable {
		return true // the strict one, which all may be given to
	}
	for _, table := range splitList(d.value("sender_dependent_default_transport_maps")) {
		if have, ok := contract.SenderTransports(d.smap, table); ok {
			return have < 0 || number <= have
		}
	}
	return false
}

func (d *doctor) transport(s Service) {
	fault := func(code, parameter, format string, args ...any) {
		d.hole(code, inMaster(s)+parameter, runSetup, "transport %s: %s", s.Name,
			fmt.Sprintf(format, args...))
	}
	if s.Command != "smtp" {
		fault("transport-program", "", "%s isn't the smtp client", s.Command)
		return
	}
	switch level := d.option(s, "smtp_tls_security_level"); {
	case !enforcing(level):
		fault("transport-level", "/smtp_tls_security_level",
			"smtp_tls_security_level = %s can send in the clear", level)
	case level != "encrypt": // setup has it from the site's client
		d.warn("transport-floor", inMaster(s)+"/smtp_tls_security_level",
			"set the site's own to encrypt, write rules with tls = \"secure\", and run "+runSetup,
			"transport %s: smtp_tls_security_level = %s, so mail that a rule of level encrypt accepts "+
				"waits where a destination is not authenticated", s.Name, level)
	}
	class, _, _ := contract.ParseTransport(s.Name)
	want := contract.ForcedMap(class, "").Table(d.smap)
	switch maps, own := s.Options["smtp_tls_policy_maps"]; {
	case !own && d.value("smtp_tls_policy_maps") != "":
		fault("transport-policies", "/smtp_tls_policy_maps",
			"the site's smtp_tls_policy_maps apply here, too, and an answer from them replaces the level")
	case !own || d.expand(maps, s.Options) != want && !strings.HasPrefix(d.expand(maps, s.Options), want+"/"):
		fault("transport-policies", "/smtp_tls_policy_maps",
			"smtp_tls_policy_maps isn't %s alone, and another answer replaces the level", want)
	}
	lowest := policy.TLS12
	for _, c := range d.Classes {
		if c.Number == class && c.MinVersion != 0 {
			lowest = c.MinVersion
		}
	}
	if got := d.option(s, "smtp_tls_mandatory_protocols"); lowestProtocol(got) < lowest {
		fault("transport-protocols", "/smtp_tls_mandatory_protocols",
			"smtp_tls_mandatory_protocols = %s takes TLS below %v", got, lowest)
	}
	d.verifies("transport "+s.Name, s)
	if v := d.option(s, "smtp_fallback_relay"); v != "" && !(d.Gateway.on() && v == d.Gateway.hop()) {
		fault("transport-fallback", "/smtp_fallback_relay",
			"smtp_fallback_relay = %s: mail goes there without a decision if its own destination fails",
			v)
	}
	if v := d.option(s, bestMX); v != "" {
		if b, why := d.bondOf(v); b == partly || b == loose {
			fault("transport-fallback", "/"+bestMX,
				"%s = %s: mail goes there, unjudged, for a domain whose best mail host is this one: %s",
				bestMX, v, why)
		}
	}
	d.greets(s)
	if d.heedsTLSRequired() && d.option(s, "tls_required_enable") != "no" {
		fault("transport-tls-required", "/tls_required_enable",
			`tls_required_enable isn't no: a message that says "TLS-Required: No" goes in the clear`)
	}
	if bounces := slices.Contains(splitList(d.option(s, "smtp_delivery_status_filter")), "regexp:"+filepath.Join(d.Dir, lostFile)); bounces != d.bouncesLost() {
		d.warn("transport-on-lost", inMaster(s)+"/smtp_delivery_status_filter", runSetup,
			"transport %s: if a destination has lost TLS, its mail isn't treated as on_lost = %q says",
			s.Name, d.OnLost)
	}
}

// enforcing reports whether a security level, the first word of a policy, never
// sends in the clear. postconf(5), smtp_tls_security_level: "dane" does where
// there are no TLSA records.
func enforcing(level string) bool {
	return slices.Contains([]string{"encrypt", "dane-only", "fingerprint", "verify", "secure"}, level)
}

// lowestProtocol returns the lowest version that a list of TLS protocols lets
// through. postconf(5), smtp_tls_mandatory_protocols: bounds, exclusions, or
// names of all that may be.
func lowestProtocol(list string) policy.Version {
	names := []string{"SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
	first := 0
	excluded, named := make(map[string]bool), make(map[string]bool)
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(" \t,:", r) }) {
		if name, ok := strings.CutPrefix(word, ">="); ok {
			first = max(first, slices.Index(names, name))
		} else if name, ok := strings.CutPrefix(word, "!"); ok {
			excluded[name] = true
		} else if !strings.HasPrefix(word, "<=") {
			named[word] = true
		}
	}
	for i, name := range names {
		if i >= first && !excluded[name] && (len(named) == 0 || named[name]) {
			return policy.TLS10 + policy.Version(i) - 2
		}
	}
	return policy.TLS13 + 1 // nothing is let through
}
