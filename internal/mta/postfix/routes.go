package postfix

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// bond says what holds mail that a transport takes.
type bond int

const (
	stays    bond = iota // on this machine
	enforced             // TLS or nothing
	partly               // something, not always
	loose                // nothing
)

// bondOf says what holds mail that is sent to transport:nexthop, and why.
func (d *doctor) bondOf(route string) (bond, string) {
	name, nexthop, _ := strings.Cut(route, ":")
	s, ok := d.service(name, "unix")
	if !ok {
		return stays, "there is no such transport, so the mail waits"
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
	case isOurs(s), enforcing(level) && len(maps) == 0, enforcing(level) && len(maps) == 1 && ours == 0:
		return enforced, ""
	case ours >= 0:
		return partly, "held only to the pin of its destination"
	}
	why := fmt.Sprintf("transport %s has level %s and not our policy map", name, level)
	if tls == "lmtp" {
		return partly, why // what a site delivers by LMTP doesn't leave the site
	}
	return loose, why
}

// route judges one way around the sender map: transport:nexthop for what a key
// of transport_maps(5), or a domain, selects.
func (d *doctor) route(ctx context.Context, what, where, key, route string) {
	remedy := fmt.Sprintf("leave the transport out (:nexthop), name ours (tlsonly:nexthop), or give it -o smtp_tls_security_level=encrypt; or name its destination in a rule for everybody (from = [%q])", "*")
	b, why := d.bondOf(route)
	switch copied := d.copied(key); {
	case b != partly && b != loose:
	case d.home(ctx, what, where, key, route, b):
	case b == partly && copied != "":
		d.hole("route-explicit", where, remedy,
			"%s bypasses the sender map, and %s sends copies there that nobody has judged: %s",
			what, copied, why)
	case b == partly:
		d.warn("route-explicit", where, remedy, "%s bypasses the sender map: %s", what, why)
	default:
		d.hole("route-explicit", where, remedy, "%s bypasses the sender map: %s", what, why)
	}
}

// home judges a way to protected senders, which bounces go: they have no
// sender, and the route is the same for all. It reports whether it is one.
func (d *doctor) home(ctx context.Context, what, where, key, route string, b bond) bool {
	domain, ok := d.leadsHome(key, route)
	if !ok {
		return false
	}
	transport, hop, _ := strings.Cut(route, ":")
	local := `[forwarding] local = ["` + domain.String() + `"]`
	if b == partly && d.homeEnforced(ctx, cmp.Or(hop, domain.String())) {
		d.warn("route-home-held", where, local+", if that mail stays at the site; otherwise give the inner host TLS",
			"%s leads to protected senders, so bounces of their mail go there: all mail there waits unless %s offers TLS",
			what, cmp.Or(hop, domain.String()))
		return true
	}
	remedy := "name our strict transport, tlsonly:nexthop; or " + local + ", if that mail stays at the site"
	if !d.follows() && d.Bounces == contract.BouncesEncrypt {
		remedy = fmt.Sprintf("[forwarding] postfix = %q, so that the daemon knows this route and holds it to TLS; or ", d.Dir) + remedy
	}
	d.hole("route-home", where, remedy,
		"%s leads to protected senders, so bounces of their mail go there by %s, which nothing "+
			"holds to TLS", what, cmp.Or(transport, "the default transport"))
	return true
}

// homeEnforced reports whether the daemon answers, for each next hop of a route,
// that it takes TLS. Postfix asks it for those of clients with our policy map.
func (d *doctor) homeEnforced(ctx context.Context, hops string) bool {
	if d.away || d.Bounces != contract.BouncesEncrypt {
		return false
	}
	for _, hop := range splitList(hops) {
		answer, found, err := d.query(ctx, contract.MapPolicy.Table(d.smap), hop)
		level, _, _ := strings.Cut(answer, " ")
		if err == nil && (!found || !enforcing(level)) {
			return false
		}
	}
	return true // an error is TEMP: what goes there waits
}

// leadsHome reports whether a route leads to protected senders, and mail to them
// needs something that holds it. It returns the domain of theirs.
func (d *doctor) leadsHome(key, route string) (addr.Domain, bool) {
	domain, err := addr.ParseDomain(strings.TrimPrefix(key[strings.LastIndexByte(key, '@')+1:], "."))
	if err != nil || slices.Contains(d.Local, domain.String()) {
		return addr.Domain{}, false
	}
	transport, hop, _ := strings.Cut(route, ":")
	kind := "@"
	if strings.HasPrefix(key, ".") {
		kind = "@."
	}
	p, err := addr.ParsePattern(kind + domain.String())
	known := hop == "" || strings.EqualFold(hop, domain.String())
	if err != nil || d.Protects(p) == None || known && d.Others == contract.OthersPinned || transport == "" && d.Bounces == contract.BouncesEncrypt {
		return addr.Domain{}, false
	}
	return domain, true
}

// routes looks for ways by which mail of a protected sender doesn't come
// through our transports. trivial-rewrite(8): only the default transport
// depends on the sender.
func (d *doctor) routes(ctx context.Context) {
	before := len(d.findings)
	d.copies = d.copyTargets(ctx)
	for _, at := range d.settings("transport_maps", "trivial-rewrite") {
		d.transportMaps(ctx, at)
	}
	d.relayed(ctx)
	d.onwardHomes(ctx)
	d.deliveries(ctx)
	d.filter(inMain("content_filter"), d.value("content_filter"))
	for _, s := range d.Services {
		d.filter(inMaster(s)+"/content_filter", d.expand(s.Options["content_filter"], s.Options))
	}
	d.faultless(before, "route-bound", "", "no table, relay or filter bypasses the sender map")
	for _, name := range []string{"relayhost", "sender_dependent_relayhost_maps"} {
		if v := d.value(name); v != "" {
			d.ok("route-relay", inMain(name),
				"%s = %s: the relay is judged; what it does with the mail is out of "+
					"sight", name, v)
		}
	}
}

// transportMaps judges the entries of transport(5).
func (d *doctor) transportMaps(ctx context.Context, at setting) {
	for _, table := range splitList(at.value) {
		where := at.where
		entries, err := d.entries(ctx, table, where)
		for _, e := range entries {
			what := fmt.Sprintf("transport_maps: %q of %s", e.key+" "+e.value, table)
			if p, ok := patternDomain(e.key); e.pattern && ok {
				e.key = p.Domain().String()
			}
			if transport, hop, _ := strings.Cut(e.value, ":"); transport != "" {
				d.route(ctx, what, e.where, e.key, e.value)
			} else if b, _ := d.bondOf(d.defaultRoute(hop)); b == partly || b == loose {
				d.home(ctx, what, e.where, e.key, e.value, loose)
			}
		}
		if err != nil {
			d.warn("route-asked", where, "make sure that its answers name no transport (:nexthop); then accept this finding",
				"transport_maps: %s can only be queried, so it cannot be looked into: an answer "+
					"with a transport bypasses the sender map", table)
		}
	}
}

// deliveries judges what delivers mail to domains of the site. What is
// delivered here is taken to stay here.
func (d *doctor) deliveries(ctx context.Context) {
	for name, domains := range map[string]string{"local_transport": "mydestination", "virtual_transport": "virtual_mailbox_domains"} {
		key := "" // the milter is told of such a route, and judges it; copies it doesn't see
		for _, domain := range splitList(d.value(domains)) {
			if !isTable(domain) && d.copied(domain) != "" {
				key = domain
			}
		}
		for _, at := range d.settings(name, "trivial-rewrite") {
			d.route(ctx, name+" = "+at.value, at.where, key, at.value)
		}
	}
	// local(8) finds these when the mail was taken as delivered here.
	for _, name := range []string{"mailbox_transport", "fallback_transport"} {
		for _, at := range d.settings(name, "local") {
			transport, _, _ := strings.Cut(at.value, ":")
			s, _ := d.service(transport, "unix")
			if b, why := d.bondOf(at.value); s.Command == "smtp" && (b == partly || b == loose) {
				d.hole("route-explicit", at.where, "give the transport -o smtp_tls_security_level=encrypt, or name tlsonly",
					"%s = %s sends mail on that counted as delivered here, so nobody judged it: %s",
					name, at.value, why)
				continue
			}
			d.route(ctx, name+" = "+at.value, at.where, "", at.value)
		}
	}
	for _, name := range []string{"mailbox_transport_maps", "fallback_transport_maps"} {
		for _, at := range d.settings(name, "local") {
			d.warn("route-local", at.where, "make sure that its mail stays on this machine",
				"%s = %s bypasses the sender map", name, at.value)
		}
	}
}

// defaultRoute is the way of mail without a sender to a next hop.
func (d *doctor) defaultRoute(hop string) string {
	transport, _, _ := strings.Cut(d.value("default_transport"), ":")
	return transport + ":" + hop
}

// relayed judges the way to each domain that is relayed.
func (d *doctor) relayed(ctx context.Context) {
	local := splitList(d.value("mydestination"))
	route := d.value("relay_transport")
	var domains []entry
	for _, item := range splitList(d.value("relay_domains")) {
		if !isTable(item) && !strings.HasPrefix(item, "/") {
			domains = append(domains, entry{key: item, where: inMain("relay_domains")})
			continue
		}
		entries, err := d.entries(ctx, item, inMain("relay_domains"))
		domains = append(domains, entries...)
		if err != nil {
			d.route(ctx, "relay_transport = "+route+", for relay_domains, of which "+item+" cannot be looked into,", inMain("relay_domains"), "*", route)
		}
	}
	domains = slices.DeleteFunc(domains, func(e entry) bool { return slices.Contains(local, e.key) })
	var rest []string
	for _, e := range domains {
		before := len(d.findings)
		if _, home := d.leadsHome(e.key, route); home || d.copied(e.key) != "" {
			d.route(ctx, fmt.Sprintf("relay_transport = %s, for relay_domains = %s,", route, e.key), e.where, e.key, route)
		}
		if len(d.findings) == before {
			rest = append(rest, e.key)
		}
	}
	if len(rest) > 0 {
		d.route(ctx, fmt.Sprintf("relay_transport = %s, for relay_domains = %s,", route, strings.Join(rest, " ")), inMain("relay_transport"), "", route)
	}
}

// filter judges the way to a content filter, by which mail goes before its
// sender counts.
func (d *doctor) filter(where, route string) {
	if route == "" {
		return
	}
	switch b, why := d.bondOf(route); b {
	case partly, loose:
		d.hole("content-filter", where, "filter on this machine, or over a transport with -o smtp_tls_security_level=encrypt",
			"content_filter = %s gets mail before our transports: %s", route, why)
	default:
		d.ok("content-filter-bound", where,
			"content_filter = %s: mail is bound after the filter gives it back", route)
	}
}

// clients looks for SMTP clients that have less TLS than main.cf says.
func (d *doctor) clients() {
	levels := []string{"none", "may", "dane", "encrypt", "fingerprint", "verify", "secure", "dane-only"}
	site := d.value("smtp_tls_security_level")
	for _, s := range d.Services {
		if s.Command != "smtp" || isOurs(s) {
			continue
		}
		if level, ok := s.Options["smtp_tls_security_level"]; ok && slices.Index(levels, level) < slices.Index(levels, site) {
			d.warn("client-level", s.placeOf("smtp_tls_security_level"), "remove the option",
				"%s in master.cf lowers smtp_tls_security_level from %s to %s", s.ID(), site, level)
		}
		if v, ok := s.Options["smtp_tls_policy_maps"]; ok && d.Others != contract.OthersOff &&
			!slices.Contains(splitList(d.expand(v, s.Options)), contract.MapPolicy.Table(d.smap)) {
			d.warn("client-policies", s.placeOf("smtp_tls_policy_maps"), fmt.Sprintf("postconf -P '%s/smtp_tls_policy_maps=%s'", s.ID(), strings.ReplaceAll(joinLists(false, v, contract.MapPolicy.Table(d.smap)), ", ", ",")),
				"%s in master.cf has its own policy maps, so pinned destinations aren't "+
					"held to it there", s.ID())
		}
	}
}
