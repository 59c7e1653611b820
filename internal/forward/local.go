package forward

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/policy"
)

// localState is what local(8) remembers while it expands.
type localState struct {
	alias string   // the alias being expanded: found in its own expansion it is the user
	owner string   // the user in whose .forward it is
	kind  string   // "alias", "include" or "forward"
	done  []string // users whose .forward was followed for this message: then their mail is theirs
}

// local is what local(8) does: aliases, .forward, mailbox. What an alias stands for is delivered at once when it is local again;
// everything else, and what users forward to other users, is sent on as a new message through cleanup(8).
func (n *postfixConfig) local(r *expansion, a addr.Address, w cursor, in localState) {
	place := w.stage("local " + in.alias + " " + in.owner)
	w, ok := r.follow(place, a, w)
	if !ok {
		return
	}
	defer r.left(place, a)
	whole := lower(a.Local)
	name, delimiter, extension := n.split(whole)
	keys := []string{whole}
	if extension != "" {
		keys = append(keys, name)
	}
	for _, key := range keys {
		if key == in.alias {
			continue
		}
		table, value, found, err := n.alias(r, key)
		if err != nil {
			r.unknown(a, w, fmt.Errorf("alias_maps: %w", err))
			return
		}
		if !found {
			continue
		}
		targets, _ := aliases.ParseValue(value, table, 0, aliases.Postfix)
		rest := ""
		if key != whole && n.propagates("alias") {
			rest = delimiter + extension
		}
		if len(targets) == 0 {
			r.leaf(Unknown, a, w, nil, "%s: %q of %s isn't understood", table, value, key)
		}
		if w, err = n.listOwner(r, key, w); err != nil {
			r.unknown(a, w, fmt.Errorf("alias_maps: %w", err))
			return
		}
		owner := addr.Address{Local: key, Domain: a.Domain} // not of the domain that led here
		w = w.by(owner.String(), r.origin("", match{table, key, value}))
		n.targets(r, targets, a, rest, w, localState{alias: key, kind: "alias", done: in.done})
		return
	}
	if in.owner != "" && in.owner != name {
		n.cleanup(r, a, false, w)
		return
	}
	u, err := r.user(name)
	if err != nil && !errors.Is(err, ErrNoUser) {
		r.unknown(a, w, fmt.Errorf("user %s: %w", name, err))
		return
	}
	if err == nil && !slices.Contains(in.done, u.Name) && n.forward(r, a, u, w, in) {
		return
	}
	n.mailbox(r, a, w)
}

// listOwner has what an alias stands for sent on in its owner's name, where it has one: aliases(5).
func (n *postfixConfig) listOwner(r *expansion, key string, w cursor) (cursor, error) {
	if n.set["owner_request_special"] != "no" && (strings.HasPrefix(key, "owner-") || strings.HasSuffix(key, "-request")) {
		return w, nil
	}
	name := "owner-" + key
	_, value, found, err := n.alias(r, name)
	if err != nil || !found {
		return w, err
	}
	sender := addr.Address{Local: name, Domain: n.origin}
	if targets, _ := aliases.ParseValue(value, "", 0, aliases.Postfix); n.set["expand_owner_alias"] == "yes" && len(targets) > 0 && isAddress(targets[0]) {
		sender = n.qualify(targets[0].Address)
	}
	w.sender = &sender
	return w, nil
}

func (n *postfixConfig) alias(r *expansion, key string) (table, value string, found bool, err error) {
	for _, table := range n.maps("alias_maps") {
		// local(8), SECURITY: proxymap isn't asked for aliases.
		table = strings.TrimPrefix(table, "proxy:")
		if value, found, err := r.lookup(table, key); err != nil || found {
			return table, value, found, err
		}
	}
	return "", "", false, nil
}

// forward follows a user's .forward file. It is false when there is none that counts.
func (n *postfixConfig) forward(r *expansion, a addr.Address, u User, w cursor, in localState) bool {
	whole := lower(a.Local)
	name, delimiter, extension := n.split(whole)
	values := map[string]string{"user": name, "home": u.Home, "extension": extension, "domain": a.Domain.String(), "local": whole,
		"recipient": whole + "@" + a.Domain.String(), "recipient_delimiter": n.delimiters, "shell": "/bin/sh"}
	if delimiter != "" {
		values["recipient_delimiter"] = delimiter
	}
	if strings.ContainsAny(extension, "/") {
		values["extension"] = "" // local(8) ignores it: it would lead out of the directory
	}
	for _, template := range n.maps("forward_path") {
		path, defined := expandMacros(template, values)
		if !defined || path == "" {
			continue
		}
		targets, err := r.forwardFile(path, u)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			continue
		case errors.Is(err, errIgnored):
			return false
		case err != nil:
			r.unread(a, w, path, err, n.aside(r))
			return false // it may be empty
		case len(targets) == 0: // local(8): an empty file means do not forward
			return false
		}
		rest := ""
		if extension != "" && n.propagates("forward") {
			rest = delimiter + extension
		}
		n.targets(r, targets, a, rest, w.by(a.String(), policy.Origin{Source: path, File: path}),
			localState{alias: in.alias, owner: name, kind: "forward", done: append(slices.Clip(in.done), u.Name)})
		return true
	}
	return false
}

// targets follows the values of an alias, a .forward file or a list.
func (n *postfixConfig) targets(r *expansion, targets []aliases.Target, a addr.Address, extension string, w cursor, in localState) {
	for _, t := range targets {
		w := w.line(t.Line)
		switch {
		case isAddress(t):
			n.target(r, t, a, extension, w, in)
		case t.Kind == aliases.Include:
			if !strings.HasPrefix(t.Text, "/") {
				r.leaf(Refused, a, w, nil, ":include:%s: not an absolute path", t.Text)
				continue
			}
			next, ok := r.follow("include "+t.Text, a, w)
			if !ok {
				continue
			}
			members, err := r.included(t.Text)
			if errors.Is(err, fs.ErrNotExist) { // seen: "mail system configuration error", bounced
				r.leaf(Refused, a, w, nil, "%v", err)
				continue
			}
			if err != nil {
				r.unknown(a, w, err)
				continue
			}
			if len(members) == 0 {
				r.leaf(Discard, a, next, nil, ":include:%s is empty", t.Text)
			}
			list := in
			list.kind = "include"
			if !n.propagates("include") {
				extension = ""
			}
			n.targets(r, members, a, extension, next.included(a, t.Text), list)
		case t.Kind == aliases.Command && !n.has("allow_mail_to_commands", in.kind),
			t.Kind == aliases.Path && !n.has("allow_mail_to_files", in.kind):
			r.leaf(Refused, a, w, nil, "%s isn't allowed here", t.Text)
		default:
			r.text(t, a, w)
		}
	}
}

func (n *postfixConfig) target(r *expansion, t aliases.Target, a addr.Address, extension string, w cursor, in localState) {
	b := t.Address
	b.Local += extension
	b = n.qualify(b)
	rt, err := n.resolve(r, b, w)
	switch {
	case err != nil:
		r.unknown(b, w, err)
	case rt.program != "local":
		n.cleanup(r, b, false, w)
	case t.Escaped:
		n.mailbox(r, rt.to, w)
	default:
		n.local(r, rt.to, w, in)
	}
}

// mailbox is the end of local(8); postconf(5) tells the order under mailbox_transport_maps.
func (n *postfixConfig) mailbox(r *expansion, a addr.Address, w cursor) {
	name, _, extension := n.split(lower(a.Local))
	u, err := r.user(name)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNoUser) {
		r.unknown(a, w, fmt.Errorf("user %s: %w", name, err))
		return
	}
	ways := []string{"mailbox"}
	if !known {
		ways = append(ways, "fallback")
	}
	for _, way := range ways {
		spec := ""
		for _, table := range n.maps(way + "_transport_maps") {
			value, found, err := r.lookup(table, name)
			if err != nil {
				r.unknown(a, w, fmt.Errorf("%s_transport_maps: %w", way, err))
				return
			}
			if found {
				spec = value
				break
			}
		}
		if spec == "" {
			spec = n.set[way+"_transport"]
		}
		if spec == "" {
			continue
		}
		rt := route{to: a, deliveredHere: true, local: true}
		rt.transport, rt.nexthop, _ = strings.Cut(spec, ":")
		if rt.nexthop == "" {
			rt.nexthop, rt.byMX = a.Domain.String(), true
		}
		rt.program = n.transports[rt.transport]
		n.hand(r, rt, w)
		return
	}
	if !known {
		n.luser(r, a, w, name, extension)
		return
	}
	if command := n.set["mailbox_command"]; command != "" {
		r.leaf(Mailbox, a, w, nil, "mailbox_command %s", command)
	} else {
		r.leaf(Mailbox, a, w, nil, "")
	}
	base := a
	base.Local = name
	r.scripts(base, u, w, func(b addr.Address, on cursor) { n.cleanup(r, b, true, on) })
}

// luser is what becomes of mail for nobody.
func (n *postfixConfig) luser(r *expansion, a addr.Address, w cursor, name, extension string) {
	relay := n.set["luser_relay"]
	if relay == "" {
		r.leaf(Refused, a, w, nil, "no such user")
		return
	}
	values := map[string]string{"user": name, "local": lower(a.Local), "extension": extension, "domain": a.Domain.String(),
		"recipient": lower(a.Local) + "@" + a.Domain.String(), "recipient_delimiter": n.delimiters}
	text, _ := expandMacros(relay, values)
	b, err := addr.ParsePath(text)
	if err != nil || b.IsNull() {
		r.leaf(Unknown, a, w, nil, "luser_relay %q isn't an address", text)
		return
	}
	next, ok := r.follow("luser_relay", a, w)
	if ok {
		to := aliases.Target{Kind: aliases.Address, Address: b}
		n.target(r, to, a, "", next.step(a.String(), "luser_relay"), localState{kind: "alias"})
	}
}
