package postfix

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// Around is what the daemon must know of the Postfix that asks it.
type Around struct {
	// Origins is what a bare name gets, Below what a domain without a dot gets.
	Origins, Below []string
	// Relays are next hops that carry mail for other domains than their own, as
	// far as the settings name them.
	Relays []string
	// Before are milters that are asked before ours, as main.cf names them.
	Before []string
	// Homes are where bounces go on routes that don't depend on the sender.
	Homes []Home
	// Unread are tables that name next hops and can only be asked, UnreadHomes
	// those that cannot even be asked.
	Unread, UnreadHomes []string
}

// Delimiter returns recipient_delimiter: the characters that begin the extension
// of an address.
func (i Instance) Delimiter(ctx context.Context) (string, error) {
	text, _, err := i.run(ctx, "", "postconf", "-h", "-x", "recipient_delimiter")
	if err != nil {
		return "", fmt.Errorf("recipient_delimiter of postfix: %w", err)
	}
	return strings.TrimSpace(text), nil
}

// ReadAround asks postconf(1), and reads tables that name next hops. Milter is
// where ours listens, protected selects the senders that rules protect, forwarding
// says where mail to them is sent on to. It needs
// no privileges but to read what the tables are made of.
func ReadAround(
	ctx context.Context, i Instance, milter string, protected []addr.Pattern, forwarding Forwarding,
) (Around, error) {
	var text Postconf
	for _, ask := range []struct {
		flag string
		to   *string
	}{{"-x", &text.Expanded}, {"-M", &text.Services}, {"-P", &text.Options}} {
		var err error
		if *ask.to, _, err = i.run(ctx, "", "postconf", ask.flag); err != nil {
			return Around{}, fmt.Errorf("read the settings of postfix: %w", err)
		}
	}
	text.All = text.Expanded
	f, err := text.Facts()
	if err != nil {
		return Around{}, fmt.Errorf("read the settings of postfix: %w", err)
	}
	var a Around
	if a.Origins, a.Below, err = f.completion(); err != nil {
		return Around{}, err
	}
	if milter, err = f.socket(milter); err != nil {
		return Around{}, err
	}
	a.Before = f.milterBefore(milter)
	t := &Tables{Instance: i}
	t.queue = f.value("queue_directory")
	list := func(table string) (map[string]string, error) { return t.List(ctx, table) }
	a.Relays, a.Unread = f.relays(list)
	a.Homes, a.UnreadHomes = f.homes(ctx, t, protected, f.onward(ctx, forwarding))
	return a, nil
}

// completion returns what Postfix adds to senders; trivial-rewrite(8).
func (f Facts) completion() (origins, below []string, err error) {
	origin := f.value("myorigin")
	if strings.HasPrefix(origin, "/") { // postconf(5): or a file, as on Debian
		text, err := os.ReadFile(origin)
		if err != nil {
			return nil, nil, fmt.Errorf("myorigin: %w", err)
		}
		origin, _, _ = strings.Cut(string(text), "\n")
	}
	add := func(names []string, name string) []string {
		if name = strings.TrimSpace(name); name == "" || slices.Contains(names, name) {
			return names
		}
		return append(names, name)
	}
	origins = add(origins, origin)
	// What Postfix calls itself in its own mail, and what other programs here
	// take for the same.
	origins = add(origins, f.value("myhostname"))
	origins = add(origins, f.value("mydomain"))
	if f.value("append_dot_mydomain") == "yes" {
		below = add(below, f.value("mydomain"))
	}
	return origins, below, nil
}

// milterBefore returns the milters that any service asks before ours.
func (f Facts) milterBefore(milter string) []string {
	var found []string
	for _, s := range f.Services {
		name := map[string]string{"smtpd": "smtpd_milters", "cleanup": "non_smtpd_milters"}[s.Command]
		if name == "" {
			continue
		}
		list := splitList(f.option(s, name))
		i := slices.IndexFunc(list, func(item string) bool { return f.sameSocket(milterEndpoint(item), milter) })
		for _, item := range list[:max(i, 0)] {
			if endpoint := milterEndpoint(item); !slices.Contains(found, endpoint) {
				found = append(found, endpoint)
			}
		}
	}
	return found
}

// relays returns the next hops that settings name for other domains than their
// own, and the tables that can't be listed.
func (f Facts) relays(list func(table string) (map[string]string, error)) (hops, unread []string) {
	add := func(value string) {
		for _, hop := range splitList(value) {
			hop = strings.TrimPrefix(hop, "inet:")
			if hop != "" && !strings.HasPrefix(hop, "unix:") && !slices.Contains(hops, hop) {
				hops = append(hops, hop)
			}
		}
	}
	route := func(value string) {
		name, hop, _ := strings.Cut(value, ":")
		if s, ok := f.service(name, "unix"); name == "" || ok && s.Command == "smtp" {
			add(hop)
		}
	}
	add(f.value("relayhost"))
	for _, name := range []string{"default_transport", "relay_transport"} {
		route(f.value(name))
	}
	for _, name := range []string{"sender_dependent_relayhost_maps", "transport_maps", senderMaps} {
		for _, table := range splitList(f.value(name)) {
			if isOurSenders(table) {
				continue
			}
			entries, err := list(table)
			if err != nil {
				unread = append(unread, table)
				continue
			}
			for key, value := range entries {
				if _, hop, _ := strings.Cut(value, ":"); hop == key {
					continue // a transport for a domain's own hosts
				}
				if name == "sender_dependent_relayhost_maps" {
					if !strings.EqualFold(value, "DUNNO") {
						add(value)
					}
				} else {
					route(value)
				}
			}
		}
	}
	slices.Sort(hops)
	return hops, unread
}

// milterBefore says what comes of milters that are asked before ours.
func (d *doctor) milterBefore(where, place, parameter string, before []string) {
	d.warn("milter-not-first", where, "put ours first in "+parameter,
		"%s: %s comes before ours and may change the sender at the end of a message, which Postfix shows to nobody; "+
			"ours doesn't undo that, so bounces of protected mail keep its text, whatever redact_bounces says", place, strings.Join(before, " "))
}
