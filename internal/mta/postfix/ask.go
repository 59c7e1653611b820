package postfix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// query asks a table what Postfix's programs would, as their user and in their
// directory. found is false for "not found"; an error means that Postfix makes
// the mail wait.
func (d *doctor) query(ctx context.Context, table, key string) (answer string, found bool, err error) {
	// Well above the daemon's own deadline: who isn't answered by then never
	// is.
	ctx, cancel := context.WithTimeout(ctx, d.Deadline+margin)
	defer cancel()
	cmd, err := d.instance.command(ctx, "postmap", "-q", key, table)
	if err != nil {
		return "", false, err
	}
	cmd.Dir = d.value("queue_directory")
	if os.Geteuid() == 0 && d.postfix != nil {
		if err := become(cmd, d.postfix); err != nil {
			return "", false, err
		}
	}
	out, said, err := output(cmd)
	if err == nil {
		return strings.TrimSpace(out), true, nil
	}
	var complaints []string
	for line := range strings.Lines(said) {
		// Complaints about main.cf were there before.
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "main.cf") && !slices.Contains(d.Warnings, line) {
			complaints = append(complaints, line)
		}
	}
	if len(complaints) == 0 && ctx.Err() == nil {
		return "", false, nil
	}
	if len(complaints) == 0 {
		return "", false, ctx.Err()
	}
	return "", false, errors.New(complaints[len(complaints)-1]) // the ones before led to it
}

const policyMaps = "smtp_tls_policy_maps"

// transportOf asks the tables of the sender map in Postfix's order.
func (d *doctor) transportOf(ctx context.Context, tables, keys []string) (transport, table string, err error) {
	for _, key := range keys {
		for _, table := range tables {
			answer, found, err := d.query(ctx, table, key)
			if found || err != nil {
				return answer, table, err
			}
		}
	}
	return "", "", nil
}

// senderTables returns the tables of the sender map as a process that resolves
// addresses sees them.
func (d *doctor) senderTables(s Service) []string {
	return splitList(d.option(s, "sender_dependent_default_transport_maps"))
}

func (d *doctor) ourSenderTable() string {
	if d.Senders == contract.SendersTable {
		return "regexp:" + filepath.Join(d.Dir, sendersFile)
	}
	return senderMap(d.smap, d.Classes, d.writers(), d.planner().asksSite())
}

// isOurSenders returns where ours is among the tables, -1 for nowhere.
func (d *doctor) ourSenders(tables []string) int {
	return slices.IndexFunc(tables, func(table string) bool {
		return table == d.ourSenderTable() || d.Senders == contract.SendersMap && contract.SenderTable(d.smap, table)
	})
}

// senderMap looks whether Postfix asks us for senders, and asks itself.
func (d *doctor) senderMap(ctx context.Context) {
	before := len(d.findings)
	own := d.ourSenderTable()
	for _, s := range d.Services {
		if s.Command != "trivial-rewrite" {
			continue
		}
		tables := d.senderTables(s)
		i := d.ourSenders(tables)
		if i < 0 {
			d.hole("sender-map-missing", s.placeOf(senderMaps), runSetup,
				"sender_dependent_default_transport_maps (%s) doesn't name %s, so no sender is "+
					"protected at delivery", s.ID(), own)
			continue
		}
		if !contract.SameButSite(tables[i], own) {
			d.warn("sender-map-number", s.placeOf(senderMaps), runSetup,
				"sender_dependent_default_transport_maps (%s) has %s, not %s, so the daemon "+
					"doesn't know which transports there are", s.ID(), tables[i], own)
		}
		if i > 0 {
			d.warn("sender-map-order", s.placeOf(senderMaps), "put our map first", "sender_dependent_default_transport_maps (%s): we are not asked about senders that are in %s",
				s.ID(), strings.Join(tables[:i], ", "))
			d.overruled(ctx, s.placeOf(senderMaps), tables[:i])
		}
		d.askSenders(ctx, tables)
		d.askWriters(ctx, s, tables)
		d.twins(ctx, s)
	}
	d.senderFile()
	if d.core {
		d.faultless(before, "sender-map-asked", inMain(senderMaps), "%s is asked first", own)
		return
	}
	if d.away {
		return
	}
	d.faultless(before, "sender-map-asked", inMain(senderMaps),
		"%s is asked first, and sends %d protected senders through our transports", own,
		len(d.Protected))
}

// overruled looks for protected senders in tables that are asked before ours.
func (d *doctor) overruled(ctx context.Context, where string, tables []string) {
	for _, table := range tables {
		entries, _ := d.entries(ctx, table, where) // that it is asked first is said in any case
		for _, e := range entries {
			from, ok := d.side(e.key)
			name, _, _ := strings.Cut(e.value, ":")
			if !ok || e.pattern || d.Protects(from) == None || isOurs(Service{Name: name, Type: "unix"}) {
				continue
			}
			if b, why := d.bondOf(e.value); b == partly || b == loose {
				d.hole("sender-map-overruled", e.where, "put our map first, or remove the entry",
					"mail of %s uses %q, not one of our transports: %s", e.key, e.value, why)
			}
		}
	}
}

// senderFile looks whether the static table is that of the rules.
func (d *doctor) senderFile() {
	path := filepath.Join(d.Dir, sendersFile)
	was := func(table []Entry, enforces bool) bool { return d.Files[path] == comment+d.sendersOf(table, enforces) }
	switch {
	case d.Senders != contract.SendersTable || was(d.Table, d.Enforces):
	case was(d.Table, true), slices.ContainsFunc(d.Former, func(t []Entry) bool { return was(t, true) || was(t, d.Enforces) }):
		d.warn("sender-table-former", path, runSetup, "%s is from before a rule ended, so its senders still use our transports", path)
	default:
		d.hole("sender-table-stale", path, runSetup, "%s doesn't say what the rules say now", path)
	}
}

func (d *doctor) askSenders(ctx context.Context, tables []string) {
	if d.away && d.Senders == contract.SendersMap {
		return
	}
	for _, a := range d.Protected {
		keys := []string{a.String()}
		if a.IsNull() {
			keys = []string{`"<>"`, "<>"}
		}
		answer, table, err := d.transportOf(ctx, tables, keys)
		name, _, _ := strings.Cut(answer, ":")
		program := ""
		if s, ok := d.service(name, "unix"); ok {
			program = s.Command
		}
		_, hop, _ := strings.Cut(answer, ":")
		switch {
		case routeUnknown(err):
			d.broken("twin-unread", inMain(senderMaps), "let the daemon's user read your tables; its log says what fails",
				"the daemon can't ask your tables about %s, so mail of protected senders waits", a)
			return
		case err != nil:
			d.broken("sender-map-failing", inMain(senderMaps), mta.StartDaemon()+", and read its log",
				"postfix can't find the transport of %s, so all remote mail waits: %v", a, err)
			return
		case answer == "":
			d.hole("sender-map-unprotected", inMain(senderMaps),
				"have the daemon read its file (systemctl reload tlsonly, or SIGHUP); see the "+
					"rules: tlsonly explain",
				"%s is protected, but the answer about it names no transport of ours", a)
		default:
			if table == d.ourSenderTable() && EnforcementOf(program, hop) == AsItIs {
				continue // as the site has it: twins says what that is
			}
			if !isOurs(Service{Name: name, Type: "unix"}) {
				d.hole("sender-map-overruled", inMain(senderMaps),
					"put our map first, or remove the entry",
					"mail of %s uses %q, according to %s, not one of our transports", a, answer, table)
			} else if _, twin, _ := contract.ParseTransport(name); program == "" && twin != "" {
				d.broken("twin-missing", "master.cf:"+name+"/unix", runSetup,
					"%s isn't in master.cf, so mail of %s waits", name, a)
			} else if program == "" && !slices.Contains(d.Settings.transports(), name) {
				d.broken("sender-map-transport", "master.cf:"+name+"/unix", runSetup,
					"mail of %s waits, because it would use %q, which isn't in master.cf", a, answer)
			}
		}
	}
}

// policies asks for the level of destinations, in the transports and outside.
func (d *doctor) policies(ctx context.Context) {
	before := len(d.findings)
	if !d.away {
		for _, name := range d.Settings.transports() {
			class, _, _ := contract.ParseTransport(name)
			d.askPolicy(ctx, contract.ForcedMap(class, ""), class)
		}
		d.faultless(before, "forced-answers", "",
			"the policy maps of our transports answer, and never below encrypt")
	}
	if d.Others == contract.OthersOff {
		return
	}
	before = len(d.findings)
	own := contract.MapPolicy.Table(d.smap)
	tables := splitList(d.value("smtp_tls_policy_maps"))
	i := slices.Index(tables, own)
	if i < 0 {
		d.hole("policy-missing", inMain(policyMaps), runSetup,
			"smtp_tls_policy_maps doesn't name %s, so bounces, mail of alias owners and mail by explicit routes "+
				"may go in the clear", own)
		return
	}
	if d.heedsTLSRequired() && d.value("tls_required_enable") != "no" {
		d.hole("policy-tls-required", inMain("tls_required_enable"), runSetup,
			`tls_required_enable isn't no, so the policy map isn't asked about a message with "TLS-Required: no", nor about its bounce`)
	}
	if !d.away {
		d.askPolicy(ctx, contract.MapPolicy, 0)
	}
	if s, ok := d.service("smtp", "unix"); ok {
		d.verifies("smtp/unix", s)
	}
	if !d.core {
		d.sitePolicies(ctx, slices.Delete(slices.Clone(tables), i, i+1), tables[:i])
	}
	d.faultless(before, "policy-asked", inMain(policyMaps), "%s is asked about other mail", own)
}

// askPolicy asks one map of policies. A parent domain is answered at once,
// whatever is known: it shows that the map is there.
func (d *doctor) askPolicy(ctx context.Context, name contract.Map, class int) {
	table := name.Table(d.smap)
	where := "socketmap:" + string(name)
	if _, _, err := d.query(ctx, table, ".invalid"); err != nil {
		d.broken("policy-failing", where, mta.StartDaemon()+", and read its log",
			"%s doesn't answer, so mail waits: %v", table, err)
		return
	}
	if name == contract.MapPolicy {
		return // it has no floor
	}
	for _, destination := range d.Destinations {
		answer, found, err := d.query(ctx, table, destination)
		level, _, _ := strings.Cut(answer, " ")
		switch {
		case err != nil:
			d.warn("policy-unknown", where, "check again later: tlsonly check "+destination,
				"%s: the level of %s is not known now: %v", table, destination, err)
		case !found || enforcing(level):
		case class > 0 && (level == "may" || level == "none"):
			d.warn("policy-exception", where,
				"check that a rule makes this exception on purpose: tlsonly explain",
				"%s: mail of class %d to %s may go in the clear (%s)", table, class, destination,
				level)
		default:
			d.hole("policy-weak", where, "check that the daemon at the socketmap is tlsonly serve",
				"%s: %s for %s can send in the clear", table, level, destination)
		}
	}
}

// sitePolicies looks what the site's own policies do to ours.
func (d *doctor) sitePolicies(ctx context.Context, others, first []string) {
	for _, table := range others {
		entries, err := d.entries(ctx, table, inMain(policyMaps))
		if err != nil {
			d.warn("policy-site-asked", inMain(policyMaps), `write rules for what it requires of partners (tls = "secure", match = …)`,
				"smtp_tls_policy_maps: %s isn't asked about mail of protected senders", table)
		}
		for _, e := range entries {
			level, _, _ := strings.Cut(e.value, " ")
			switch {
			case level == "encrypt":
			case enforcing(level):
				d.warn("policy-site", e.where, `write a rule for it (tls = "secure", match = …)`,
					"smtp_tls_policy_maps: %q of %s doesn't apply to mail of protected senders",
					e.key+" "+e.value, table)
			case slices.Contains(first, table):
				d.warn("policy-first", e.where, "remove it, or accept that only mail of protected senders is bound there",
					"smtp_tls_policy_maps: %q of %s comes before what a destination is pinned to",
					e.key+" "+e.value, table)
			}
		}
	}
}

// aliases looks for aliases whose mail leaves in another's name. aliases(5):
// with owner-list, what list expands to is sent by owner-list, not by the
// protected sender.
func (d *doctor) aliases(ctx context.Context) {
	tables := splitList(d.value(senderMaps))
	if d.away || d.ourSenders(tables) < 0 {
		return // a hole by itself
	}
	for _, table := range splitList(d.value("alias_maps")) {
		entries, err := d.entries(ctx, table, inMain("alias_maps"))
		if err != nil {
			d.warn("aliases-asked", inMain("alias_maps"), "name its owner- aliases in a rule; then accept this finding",
				"alias_maps: %s can't be read, so its owner- aliases cannot be looked into", table)
		}
		var unbound []string
		where := ""
		for _, e := range entries {
			key := strings.TrimSuffix(strings.Trim(e.key, "\"\x00"), ":")
			if e.pattern || !strings.HasPrefix(key, "owner-") || key == "owner-" {
				continue
			}
			owner := key + "@" + d.value("myorigin")
			answer, _, err := d.transportOf(ctx, tables, []string{owner})
			if err != nil {
				return // the sender map has said so already
			}
			name, _, _ := strings.Cut(answer, ":")
			if !isOurs(Service{Name: name, Type: "unix"}) {
				unbound = append(unbound, owner)
				where = cmp.Or(where, e.where)
			}
		}
		const shown = 5
		if n := len(unbound); n > shown {
			unbound = append(unbound[:shown], fmt.Sprintf("and %d more", n-shown))
		}
		if len(unbound) > 0 {
			d.hole("aliases-owner", where, "name them in the rules, too",
				"mail to these lists leaves in their owner's name, which isn't protected: %s",
				strings.Join(unbound, ", "))
		}
	}
}
