package postfix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// Home is a next hop by which mail for protected senders' own addresses goes,
// bounces among it, on a route of the site's that the sender map cannot change.
type Home struct {
	Domain    addr.Domain // of the senders; zero for notices about anybody's mail
	At        addr.Domain // of the recipients there
	Transport string
	Hop       string // as Postfix writes it
	// Through is the address whose mail is sent on there; "" where it is the
	// senders' own.
	Through string
	where   string // the setting that says so
}

// Onward is an address that mail for a protected sender is sent on to, or a
// notice of Postfix's about anybody's mail, which is From a zero domain.
type Onward struct{ From, To addr.Address }

// Forwarding finds what mail to protected senders, and to those who get notices,
// is sent on to; nil: nobody can tell.
type Forwarding func(ctx context.Context, notices []addr.Address) []Onward

// anyone stands for all mailboxes of a domain.
const anyone = "tlsonly-home"

// Homes finds the next hops to protected senders' own addresses that don't
// depend on who sends, as far as the tables of the instance can be read.
func (f Facts) Homes(
	ctx context.Context, i Instance, protected []addr.Pattern, forwarding Forwarding,
) []Home {
	t := &Tables{Instance: i, queue: f.value("queue_directory")}
	found, _ := f.homes(ctx, t, protected, f.onward(ctx, forwarding))
	return found
}

// homes finds the next hops to protected senders that don't depend on who
// sends: those that transport_maps name together with a transport, and those of
// the transports for local, virtual and relayed domains (trivial-rewrite(8)).
// The default transport depends on the sender, so that ours holds bounces there.
// What can't be read is unread; its routes are not among the homes.
func (f Facts) homes(
	ctx context.Context, t *Tables, protected []addr.Pattern, onward []Onward,
) (found []Home, unread []string) {
	if len(protected)+len(onward) == 0 {
		return nil, nil
	}
	seen := map[Home]bool{}
	for _, s := range f.Services {
		if s.Command != "trivial-rewrite" {
			continue
		}
		r := router{facts: f, service: s, tables: t}
		r.read(ctx, protected, onward)
		add := func(h Home) {
			if !seen[h] {
				seen[h] = true
				found = append(found, h)
			}
		}
		for _, a := range r.who {
			for _, h := range r.route(a) {
				add(h)
			}
		}
		for _, o := range onward {
			for _, h := range r.route(o.To) {
				h.Domain, h.Through = o.From.Domain, o.From.String()
				add(h)
			}
		}
		for _, table := range r.unread {
			if !slices.Contains(unread, table) {
				unread = append(unread, table)
			}
		}
	}
	return found, unread
}

// router resolves recipients as one trivial-rewrite(8) does.
type router struct {
	facts   Facts
	service Service
	tables  *Tables
	who     []addr.Address
	answers map[string]map[string]string // by table and key
	unread  []string
}

// classes are the settings that list domains with a transport of their own, in
// the order in which resolve.c asks them.
var classes = []struct{ domains, transport string }{
	{"mydestination", "local_transport"},
	{"virtual_alias_domains", ""},
	{"virtual_mailbox_domains", "virtual_transport"},
	{"relay_domains", "relay_transport"},
}

// read asks the tables for all keys at once.
func (r *router) read(ctx context.Context, protected []addr.Pattern, onward []Onward) {
	named := map[addr.Address]bool{}
	add := func(a addr.Address) {
		if !named[a] {
			named[a] = true
			r.who = append(r.who, a)
		}
	}
	for _, p := range protected {
		switch p.Kind() {
		case addr.Exact:
			add(p.Address())
		case addr.InDomain:
			add(addr.Address{Local: anyone, Domain: p.Domain()})
		case addr.Below:
			add(addr.Address{Local: anyone, Domain: p.Domain()})
			if d, err := addr.ParseDomain(anyone + "." + p.Domain().String()); err == nil {
				add(addr.Address{Local: anyone, Domain: d})
			}
		}
	}
	set := map[addr.Pattern]bool{}
	for _, p := range protected {
		set[p] = p.Kind() != addr.Any // whose homes are everywhere
	}
	routes := splitList(r.value("transport_maps"))
	var members []string
	for _, c := range classes {
		for _, item := range r.items(c.domains) {
			if isTable(item) {
				members = append(members, item)
			} else {
				listed(item, set, add)
			}
		}
	}
	// Entries of their own that some of a pattern's senders have.
	for _, table := range slices.Concat(routes, members) {
		if entries, err := r.tables.List(ctx, table); err == nil {
			for key := range entries {
				listed(key, set, add)
			}
		}
	}
	var keys []string
	asked := map[string]bool{}
	ask := func(a addr.Address) {
		for _, key := range r.keys(a) {
			if !asked[key] {
				asked[key] = true
				keys = append(keys, key)
			}
		}
	}
	for _, a := range r.who {
		ask(a)
	}
	for _, o := range onward {
		ask(o.To)
	}
	r.answers = map[string]map[string]string{}
	for _, table := range slices.Concat(routes, members) {
		if r.answers[table] != nil {
			continue
		}
		answers, err := r.tables.Lookup(ctx, table, keys)
		if err != nil {
			r.unread = append(r.unread, table)
			continue
		}
		r.answers[table] = answers
	}
}

// items returns the items of a list of domains, those of files among them.
func (r *router) items(name string) (found []string) {
	for _, item := range splitList(r.value(name)) {
		if !strings.HasPrefix(item, "/") {
			found = append(found, item)
			continue
		}
		lines, err := logicalLines(item)
		if err != nil {
			r.unread = append(r.unread, item)
		}
		for _, l := range lines {
			found = append(found, splitList(l.text)...)
		}
	}
	return found
}

// listed adds whom a key of a table selects, where that is a protected sender.
func listed(key string, protected map[addr.Pattern]bool, add func(addr.Address)) {
	if !strings.Contains(key, "@") {
		key = anyone + "@" + strings.TrimPrefix(key, ".")
	}
	p, err := addr.ParsePattern(key)
	if err != nil || p.Kind() != addr.Exact {
		return
	}
	if slices.ContainsFunc(p.Wider(), func(w addr.Pattern) bool { return protected[w] }) {
		add(p.Address())
	}
}

func (r *router) value(name string) string { return r.facts.option(r.service, name) }

// keys returns what tables are asked for an address, the nearest first.
func (r *router) keys(a addr.Address) []string {
	keys := []string{a.String()}
	if base := a.Base(); base != a {
		keys = append(keys, base.String())
	}
	for d := a.Domain; !d.IsZero(); d = d.Parent() {
		if d != a.Domain {
			keys = append(keys, "."+d.String())
		}
		keys = append(keys, d.String())
		if d.IsLiteral() {
			break
		}
	}
	return keys
}

// route returns the homes of an address, none where its mail depends on the
// sender or stays here.
func (r *router) route(a addr.Address) []Home {
	transport, hop, where := r.class(a.Domain)
	name, nexthop := r.entry(a)
	if name != "" {
		transport, hop, where = name, "", r.service.placeOf("transport_maps")
	}
	if nexthop != "" {
		hop = nexthop
	}
	if where == "" {
		return nil
	}
	s, ok := r.facts.service(transport, "unix")
	if !ok || s.Command != "smtp" || isOurs(s) {
		return nil
	}
	var found []Home
	for _, h := range splitList(hop) {
		if !loopback(h) {
			found = append(found, Home{Domain: a.Domain, At: a.Domain, Transport: transport, Hop: h, where: where})
		}
	}
	if hop == "" {
		found = append(found, Home{Domain: a.Domain, At: a.Domain, Transport: transport, Hop: a.Domain.String(), where: where})
	}
	return found
}

// class returns the route of a domain without an entry of its own, and the
// setting that says so, "" where it is the default transport's.
func (r *router) class(domain addr.Domain) (transport, hop, where string) {
	for _, c := range classes {
		if !r.member(c.domains, domain) {
			continue
		}
		transport, hop, _ := strings.Cut(r.value(c.transport), ":")
		return transport, hop, r.service.placeOf(c.transport)
	}
	return "", "", ""
}

// member reports whether a setting lists a domain; postconf(5).
func (r *router) member(name string, domain addr.Domain) bool {
	below := slices.Contains(splitList(r.value("parent_domain_matches_subdomains")), name)
	matches := func(key string, d addr.Domain) bool {
		switch {
		case d == domain:
			return strings.EqualFold(key, d.String())
		case below:
			return strings.EqualFold(key, d.String())
		}
		return strings.EqualFold(key, "."+d.String())
	}
	for _, item := range r.items(name) {
		item, not := strings.CutPrefix(item, "!")
		for d := domain; !d.IsZero(); d = d.Parent() {
			in := matches(item, d)
			if isTable(item) {
				key := d.String()
				if d != domain && !below {
					key = "." + key
				}
				_, in = r.answers[item][key]
			}
			if in {
				return !not
			}
			if d.IsLiteral() {
				break
			}
		}
	}
	return false
}

// entry returns what transport_maps say of an address, "" for nothing.
func (r *router) entry(a addr.Address) (transport, hop string) {
	below := slices.Contains(splitList(r.value("parent_domain_matches_subdomains")), "transport_maps")
	for i, key := range r.keys(a) {
		inner := strings.TrimPrefix(key, ".")
		parent := !strings.Contains(key, "@") && inner != a.Domain.String()
		if parent && strings.HasPrefix(key, ".") == below {
			continue
		}
		for _, table := range splitList(r.value("transport_maps")) {
			kind, _, _ := strings.Cut(strings.TrimPrefix(table, "proxy:"), ":")
			if i > 0 && slices.Contains([]string{"regexp", "pcre", "cidr"}, kind) {
				continue // asked for whole addresses only
			}
			if answer, ok := r.answers[table][key]; ok {
				transport, hop, _ = strings.Cut(answer, ":")
				return transport, hop
			}
		}
	}
	return "", ""
}

// homeNotes says what bounces make wait.
func (p *planner) homeNotes() {
	if p.Bounces != contract.BouncesEncrypt || p.Others == contract.OthersOff {
		return
	}
	said := map[string]bool{}
	for _, h := range p.Homes {
		at := h.At.String()
		if key := at + " " + h.Hop; !slices.Contains(p.Local, at) && !said[key] {
			said[key] = true
			p.setup.note("all mail to %s, incoming mail too, waits unless %s (%s) offers TLS, because bounces to protected senders go there%s; "+
				"if it needs none: [forwarding] local = [%q]", at, h.Hop, h.Transport, h.by(), at)
		}
	}
}

// by says whose mail is sent on to a home, as the end of a sentence.
func (h Home) by() string {
	if h.Through == "" {
		return ""
	}
	return " from " + h.Through
}

// onward asks what is sent on, where any of it may have a route that doesn't
// depend on who sends.
func (f Facts) onward(ctx context.Context, forwarding Forwarding) []Onward {
	explicit := false
	for _, s := range f.Services {
		if s.Command != "trivial-rewrite" {
			continue
		}
		explicit = explicit || f.option(s, "transport_maps") != "" || f.option(s, "relay_domains") != ""
		for _, name := range []string{"local_transport", "virtual_transport"} {
			transport, _, _ := strings.Cut(f.option(s, name), ":")
			to, ok := f.service(transport, "unix")
			explicit = explicit || ok && to.Command == "smtp"
		}
	}
	if forwarding == nil || !explicit {
		return nil
	}
	return forwarding(ctx, f.notices())
}

// notices returns who gets what Postfix writes about mail that failed, with the
// headers of that mail in it: postconf(5), notify_classes. Other notices have
// the commands of a session only.
func (f Facts) notices() (found []addr.Address) {
	origins, _, _ := f.completion()
	for _, s := range f.Services {
		if s.Command != "bounce" {
			continue
		}
		for _, class := range splitList(f.option(s, "notify_classes")) {
			name := class + "_notice_recipient"
			if class != "bounce" && class != "2bounce" && class != "delay" {
				continue
			}
			a, err := addr.ParsePath(f.option(s, name))
			if err == nil && !a.IsNull() && a.Domain.IsZero() && len(origins) > 0 {
				a.Domain, err = addr.ParseDomain(origins[0])
			}
			if err == nil && !a.IsNull() && !slices.Contains(found, a) {
				found = append(found, a)
			}
		}
	}
	return found
}

// onwardHomes judges the routes by which bounces and notices that are sent on
// leave.
func (d *doctor) onwardHomes(ctx context.Context) {
	t := &Tables{Instance: d.instance, queue: d.value("queue_directory")}
	homes, _ := d.homes(ctx, t, nil, d.onward(ctx, d.Forwarding))
	said := map[string]bool{}
	for _, h := range homes {
		at, route := h.At.String(), h.Transport+":"+h.Hop
		b, _ := d.bondOf(route)
		if slices.Contains(d.Local, at) || b != partly && b != loose || said[at+" "+route] {
			continue
		}
		said[at+" "+route] = true
		local := fmt.Sprintf(`[forwarding] local = [%q]`, at)
		if b == partly && d.homeEnforced(ctx, h.Hop) {
			d.warn("route-home-held", h.where, local+", if what goes there stays at the site; else have the inner host offer TLS",
				"%s for %s: bounces and notices%s are sent on there, so all mail there, from whomever, waits unless %s offers TLS",
				route, at, h.by(), h.Hop)
			continue
		}
		remedy := "name our strict transport, tlsonly:nexthop; or " + local + ", if what goes there stays at the site"
		if !d.follows() && d.Bounces == contract.BouncesEncrypt {
			remedy = fmt.Sprintf("[forwarding] postfix = %q, so that the daemon reads this route and holds it; or ", d.Dir) + remedy
		}
		d.hole("route-home", h.where, remedy,
			"%s for %s: bounces and notices%s are sent on there, and nothing holds them to TLS",
			route, at, h.by())
	}
}
