package forward

import (
	"errors"
	"fmt"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/forward/virtual"
)

// cleanup is what cleanup(8) does with a recipient. external is mail that is new: postconf(5), recipient_bcc_maps: of what
// Postfix itself sends on no copies are made.
func (n *postfixConfig) cleanup(r *expansion, a addr.Address, external bool, w cursor) {
	a, w, err := n.canonical(r, n.qualify(a), w)
	if err != nil {
		r.unknown(a, w, err)
		return
	}
	if external {
		n.copy(r, "recipient_bcc_maps", a, w)
	}
	n.virtual(r, a, w)
}

// copies is what is sent besides, whoever the recipient is.
func (n *postfixConfig) copies(r *expansion, w cursor) {
	if bcc := n.set["always_bcc"]; bcc != "" {
		n.bcc(r, bcc, w.step(r.job.to.String(), "always_bcc"))
	}
	if !r.job.from.IsNull() {
		n.copy(r, "sender_bcc_maps", n.qualify(r.job.from), w)
	}
}

// copy follows the copy that a table makes of mail of or for a.
func (n *postfixConfig) copy(r *expansion, name string, a addr.Address, w cursor) {
	h, found, err := n.lookup(r, name, a)
	switch {
	case err != nil:
		r.unknown(a, w, err)
	case found:
		n.bcc(r, h.value, w.by(a.String(), r.origin(name+" ", h)))
	}
}

func (n *postfixConfig) bcc(r *expansion, text string, w cursor) {
	a, err := addr.ParsePath(text)
	if err != nil || a.IsNull() {
		r.leaf(Unknown, r.job.to, w, nil, "copy to %q, which isn't an address", text)
		return
	}
	if a, w, err = n.canonical(r, n.qualify(a), w); err != nil {
		r.unknown(a, w, err)
		return
	}
	n.virtual(r, a, w)
}

// lookup looks an address up in the tables of a parameter.
func (n *postfixConfig) lookup(r *expansion, name string, a addr.Address) (match, bool, error) {
	tables := n.maps(name)
	if len(tables) == 0 {
		return match{}, false, nil
	}
	keys, _, err := n.keys(r, a, false)
	if err != nil {
		return match{}, false, err
	}
	h, found, err := r.find(tables, keys, a.String())
	if err != nil {
		return match{}, false, fmt.Errorf("%s: %w", name, err)
	}
	return h, found, nil
}

// canonical rewrites a recipient: recipient_canonical_maps first, then canonical_maps.
func (n *postfixConfig) canonical(r *expansion, a addr.Address, w cursor) (addr.Address, cursor, error) {
	for _, name := range []string{"recipient_canonical_maps", "canonical_maps"} {
		tables := n.maps(name)
		classes := strings.TrimSuffix(name, "_maps") + "_classes"
		if len(tables) == 0 || !n.has(classes, "envelope_recipient") {
			continue
		}
		for again := 0; ; again++ {
			if again == deepest {
				return a, w, fmt.Errorf("%s: loop at %s", name, a)
			}
			keys, s, err := n.keys(r, a, n.propagates("canonical"))
			if err != nil {
				return a, w, err
			}
			h, found, err := r.find(tables, keys, a.String())
			if err != nil {
				return a, w, fmt.Errorf("%s: %w", name, err)
			}
			if !found {
				break
			}
			targets := virtual.Result(virtual.Virtual, h.value, h.key, a, s)
			if len(targets) == 0 || !isAddress(targets[0]) {
				return a, w, fmt.Errorf("%s: %s: %q isn't an address", name, h.table, h.value)
			}
			next := n.qualify(targets[0].Address) // of several the first counts
			same := next.Fold() == a.Fold()
			if next != a {
				w = w.by(a.String(), r.origin(name+" ", h))
			}
			if a = next; same {
				break
			}
		}
	}
	return a, w, nil
}

func isAddress(t aliases.Target) bool { return t.Kind == aliases.Address || t.Kind == aliases.Name }

// virtual applies virtual_alias_maps until nothing changes any more. An address that expands to itself, perhaps among
// others, is not expanded again.
func (n *postfixConfig) virtual(r *expansion, a addr.Address, w cursor) {
	place := w.stage("virtual")
	next, ok := r.follow(place, a, w)
	if !ok {
		return
	}
	defer r.left(place, a)
	tables := n.maps("virtual_alias_maps")
	if len(tables) == 0 {
		n.deliver(r, a, next)
		return
	}
	keys, s, err := n.keys(r, a, n.propagates("virtual"))
	if err != nil {
		r.unknown(a, w, err)
		return
	}
	h, found, err := r.find(tables, keys, a.String())
	if err != nil {
		r.unknown(a, w, fmt.Errorf("virtual_alias_maps: %w", err))
		return
	}
	if !found {
		n.deliver(r, a, next)
		return
	}
	targets := virtual.Result(virtual.Virtual, h.value, h.key, a, s)
	if len(targets) > n.widest || len(targets) == 0 {
		r.leaf(Unknown, a, w, nil, "virtual_alias_maps: %s: %d addresses for %s", h.table, len(targets), h.key)
		return
	}
	origin := r.origin("", h)
	for _, t := range targets {
		on := next.by(a.String(), origin)
		if !isAddress(t) {
			if !r.text(t, a, on) {
				r.leaf(Unknown, a, on, nil, "virtual_alias_maps: %s: %q isn't an address", h.table, t.Text)
			}
			continue
		}
		if b := n.qualify(t.Address); b.Fold() == a.Fold() {
			n.deliver(r, b, next)
		} else {
			n.virtual(r, b, on)
		}
	}
}

// route is where trivial-rewrite(8) sends an address.
type route struct {
	to                 addr.Address // without source routes
	transport, nexthop string
	program            string
	deliveredHere      bool // by class: local, virtual mailbox
	local              bool // class local
	byMX               bool // nexthop is the address's own domain
}

// resolve is what trivial-rewrite(8) does: class, transport, next hop, then transport_maps and relocated_maps.
func (n *postfixConfig) resolve(r *expansion, a addr.Address, w cursor) (route, error) {
	a, own, err := n.unroute(r, a)
	if err != nil {
		return route{}, err
	}
	rt := route{to: a, local: own}
	var in [3]bool
	parents := n.has("parent_domain_matches_subdomains", "relay_domains")
	for i, name := range []string{"virtual_alias_domains", "virtual_mailbox_domains", "relay_domains"} {
		if own {
			break
		}
		if in[i], err = n.matches(r, name, a.Domain, parents && name == "relay_domains"); err != nil {
			return route{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	spec := ""
	switch {
	case own:
		spec, rt.deliveredHere = n.set["local_transport"], true
	case in[0]:
		spec = "error:user unknown in virtual alias table"
	case in[1]:
		spec, rt.deliveredHere = n.set["virtual_transport"], true
	case in[2]:
		spec = n.set["relay_transport"]
	default:
		if spec, err = n.bySender(r, w, "default_transport", "sender_dependent_default_transport_maps"); err != nil {
			return route{}, err
		}
	}
	rt.transport, rt.nexthop, _ = strings.Cut(spec, ":")
	if rt.nexthop == "" {
		rt.nexthop, rt.byMX = a.Domain.String(), true
		if !rt.deliveredHere && !in[0] {
			relay, err := n.bySender(r, w, "relayhost", "sender_dependent_relayhost_maps")
			if err != nil {
				return route{}, err
			}
			if relay != "" {
				rt.nexthop, rt.byMX = relay, false
			}
		}
	}
	if err := n.transportMaps(r, &rt); err != nil {
		return route{}, fmt.Errorf("transport_maps: %w", err)
	}
	h, moved, err := n.lookup(r, "relocated_maps", a)
	if err != nil {
		return route{}, err
	}
	if moved {
		rt.transport, rt.nexthop = "error", "user has moved to "+h.value
	}
	rt.program = n.transports[rt.transport]
	return rt, nil
}

// bySender returns a setting, or what a table has for the sender in its place; DUNNO there is the setting of default_transport, and
// no relayhost.
func (n *postfixConfig) bySender(r *expansion, w cursor, setting, maps string) (string, error) {
	sender := r.job.from
	if w.sender != nil {
		sender = *w.sender
	}
	h, found, err := n.lookup(r, maps, n.qualify(sender))
	if sender.IsNull() && len(n.maps(maps)) > 0 {
		// postconf(5), empty_address_relayhost_maps_lookup_key and empty_address_default_transport_maps_lookup_key.
		key := n.set["empty_address_"+strings.TrimPrefix(maps, "sender_dependent_")+"_lookup_key"]
		h, found, err = r.find(n.maps(maps), []string{key}, key)
	}
	switch {
	case err != nil:
		return "", err
	case found && !strings.EqualFold(h.value, "DUNNO"):
		return h.value, nil
	case found && setting == "relayhost":
		return "", nil
	}
	return n.set[setting], nil
}

// unroute turns "user%remote@here", "remote!user@here" and "user@remote"@here into what Postfix sends them to; own says that
// what is left is for this host.
func (n *postfixConfig) unroute(r *expansion, a addr.Address) (addr.Address, bool, error) {
	for {
		own, err := n.isSelf(r, a.Domain)
		if err != nil || !own {
			return a, false, err
		}
		local, domain := a.Local, ""
		switch {
		case strings.Contains(local, "@"):
			i := strings.LastIndexByte(local, '@')
			local, domain = local[:i], local[i+1:]
		case strings.Contains(local, "!") && n.set["swap_bangpath"] != "no":
			domain, local, _ = strings.Cut(local, "!")
		case strings.Contains(local, "%") && n.set["allow_percent_hack"] != "no":
			i := strings.LastIndexByte(local, '%')
			local, domain = local[:i], local[i+1:]
		default:
			return a, true, nil
		}
		d, err := addr.ParseDomain(domain)
		if err != nil || local == "" {
			return a, true, nil
		}
		a = addr.Address{Local: local, Domain: d}
	}
}

// transportMaps applies transport(5): the address, then its domain and the domains above, then "*".
func (n *postfixConfig) transportMaps(r *expansion, rt *route) error {
	tables := n.maps("transport_maps")
	if len(tables) == 0 {
		return nil
	}
	a := rt.to
	keys := []string{a.String()}
	if name, _, ext := n.split(a.Local); ext != "" {
		keys = append(keys, addr.Address{Local: name, Domain: a.Domain}.String())
	}
	keys = append(keys, a.Domain.String())
	dot := "."
	if n.has("parent_domain_matches_subdomains", "transport_maps") {
		dot = ""
	}
	for p := a.Domain.Parent(); !p.IsZero(); p = p.Parent() {
		keys = append(keys, dot+p.String())
	}
	h, found, err := r.find(tables, keys, keys[0])
	if err == nil && !found {
		h, found, err = r.find(tables, []string{"*"}, "*")
	}
	if err != nil || !found {
		return err
	}
	transport, nexthop, _ := strings.Cut(h.value, ":")
	if transport != "" {
		rt.transport, rt.nexthop, rt.byMX = transport, a.Domain.String(), true
	}
	if nexthop = strings.TrimSpace(nexthop); nexthop != "" {
		rt.nexthop, rt.byMX = nexthop, false
	}
	return nil
}

// deliver ends an address's way through cleanup(8), or starts that through local(8).
func (n *postfixConfig) deliver(r *expansion, a addr.Address, w cursor) {
	rt, err := n.resolve(r, a, w)
	if err != nil {
		r.unknown(a, w, err)
		return
	}
	if rt.to != a {
		w = w.step(a.String(), inAddress)
	}
	if rt.program == "local" {
		n.local(r, rt.to, w, localState{})
		return
	}
	n.hand(r, rt, w)
}

// hand gives mail to a transport other than local(8).
func (n *postfixConfig) hand(r *expansion, rt route, w cursor) {
	if rt.deliveredHere && !rt.local && rt.program != "error" && rt.program != "retry" && len(n.maps("virtual_mailbox_maps")) > 0 {
		_, found, err := n.lookup(r, "virtual_mailbox_maps", rt.to)
		switch {
		case err != nil:
			r.unknown(rt.to, w, err)
			return
		case !found:
			r.leaf(Refused, rt.to, w, nil, "no such user: not in virtual_mailbox_maps")
			return
		}
	}
	base := rt.to
	base.Local, _, _ = n.split(base.Local)
	kind := Mailbox
	switch rt.program {
	case "":
		r.leaf(Unknown, rt.to, w, nil, "no transport %q in master.cf", rt.transport)
		return
	case "error", "retry":
		r.leaf(Refused, rt.to, w, nil, "%s", rt.nexthop)
		return
	case "discard":
		r.leaf(Discard, rt.to, w, nil, "transport %s", rt.transport)
		return
	case "smtp":
		hops, own, err := hopsOf(rt)
		switch {
		case err != nil:
			r.leaf(Unknown, rt.to, w, nil, "transport %s: %v", rt.transport, err)
			return
		case !own:
			r.leaf(Leaves, rt.to, w, hops, "transport %s", rt.transport)
			return
		}
	case "local", "virtual", "lmtp":
	case "pipe":
		if !rt.deliveredHere {
			kind = Command
		}
	default:
		r.leaf(Unknown, rt.to, w, nil, "transport %s is %s(8), of which nothing is known", rt.transport, rt.program)
		return
	}
	r.leaf(kind, rt.to, w, nil, "transport %s", rt.transport)
	if kind == Mailbox && rt.deliveredHere {
		var u User
		if rt.local {
			var err error
			if u, err = r.user(lower(base.Local)); err != nil && !errors.Is(err, ErrNoUser) {
				r.unknown(rt.to, w, fmt.Errorf("user %s: %w", base.Local, err))
				return
			}
		}
		r.scripts(base, u, w, func(b addr.Address, on cursor) { n.cleanup(r, b, true, on) })
	}
}

// hopsOf reads the next hops of a route: none by MX. own says that all of them are this machine's loopback addresses.
func hopsOf(rt route) (hops []addr.Destination, own bool, err error) {
	if rt.byMX {
		return nil, false, nil
	}
	own = true
	for _, item := range splitList(rt.nexthop) {
		d, err := addr.ParseDestination(strings.TrimPrefix(item, "inet:"))
		if err != nil {
			return nil, false, err
		}
		hops = append(hops, d)
		own = own && d.Direct() && (d.Host().IsLiteral() && d.Host().IP().IsLoopback() || d.Host().String() == "localhost")
	}
	if len(hops) == 0 {
		return nil, false, errors.New("no next hop")
	}
	return hops, own, nil
}
