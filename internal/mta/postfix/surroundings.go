package postfix

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// surroundings looks at what else bears on the promise.
func (d *doctor) surroundings() {
	if d.UserRules {
		d.logins()
	}
	if d.Verified {
		d.certificates()
	}
	if v := d.value("internal_mail_filter_classes"); v != "" {
		d.warn("milter-bounces", inMain("internal_mail_filter_classes"), "remove bounce from it",
			"internal_mail_filter_classes = %s: if the milter refuses a bounce, the "+
				"message waits", v)
	}
	for _, name := range copySettings {
		for _, at := range d.settings(name, "cleanup") {
			if d.UserRules && d.Senders == contract.SendersTable {
				d.hole("logins-copies", at.where, `[binding] senders = "map", or name the senders in the rule, too (from)`,
					"%s = %s: a table of senders doesn't know logins, so nothing binds copies of mail to which a rule by user applies", name, at.value)
				continue
			}
			d.ok("copies-bound", at.where,
				"%s = %s: copies aren't judged at acceptance, but bound at delivery like other mail",
				name, at.value)
		}
	}
	if v := d.Set["virtual_alias_domains"]; v != "" {
		d.ok("aliases-bound", inMain("virtual_alias_domains"),
			"virtual_alias_domains = %s: the sender stays the same, so what leaves is bound", v)
	}
	d.lifetime()
}

// lifetime compares how long mail may wait with how long it is bound.
func (d *doctor) lifetime() {
	for _, name := range []string{"maximal_queue_lifetime", "bounce_queue_lifetime"} {
		for _, at := range d.settings(name, "qmgr", "nqmgr") {
			value := at.value
			if strings.Trim(value, "0123456789") == "" {
				value += "d" // postconf(5): the unit is days
			}
			if lasts, err := parseTime(value); err == nil && lasts+24*time.Hour > d.Keep {
				days := int((lasts+24*time.Hour-1)/(24*time.Hour)) + 1
				d.warn("queue-lifetime", at.where, fmt.Sprintf(`[binding] keep = "%dd" in tlsonly.toml`, days),
					"%s = %s: mail may wait longer than its rules are kept ([binding] keep = "+
						"%v)", name, at.value, d.Keep)
			}
		}
	}
}

// logins looks whether a login can send in a name that isn't its own: then a
// rule by user binds at acceptance only.
func (d *doctor) logins() {
	const remedy = "smtpd_sender_login_maps and reject_sender_login_mismatch in smtpd_sender_restrictions"
	if d.value("smtpd_sender_login_maps") == "" {
		d.warn("logins-any", inMain("smtpd_sender_login_maps"), remedy,
			"rules name users, but no smtpd_sender_login_maps say which senders they may use: "+
				"with another sender a rule binds only at acceptance")
		return
	}
	before := len(d.findings)
	for _, s := range d.Services {
		if s.Command != "smtpd" || d.option(s, "smtpd_sasl_auth_enable") != "yes" {
			continue
		}
		refuses := false
		for _, stage := range stages {
			for _, r := range splitList(d.option(s, "smtpd_"+stage+"_restrictions")) {
				refuses = refuses || r == "reject_sender_login_mismatch" || r == "reject_authenticated_sender_login_mismatch" || r == "reject_known_sender_login_mismatch"
			}
		}
		if !refuses {
			d.warn("logins-any", inMaster(s), remedy,
				"%s: rules name users, but a login may use any sender; with another one a rule "+
					"binds only at acceptance", s.ID())
		}
	}
	d.faultless(before, "logins-own", "", "a login may use only its own senders")
}

// copySettings make copies of messages that no milter is shown.
var copySettings = []string{"always_bcc", "sender_bcc_maps", "recipient_bcc_maps"}

// target is where copies go: an address or a whole table of which nobody knows.
type target struct {
	address addr.Address // null: unknown
	by      string       // the setting
}

// copyTargets finds where copies of protected mail go.
func (d *doctor) copyTargets(ctx context.Context) (found []target) {
	add := func(by, value string) {
		if !strings.Contains(value, "@") {
			value += "@" + d.value("myorigin")
		}
		a, err := addr.ParsePath(value)
		if strings.Contains(value, "$") || err != nil {
			a = addr.Address{}
		}
		found = append(found, target{a, by})
	}
	for _, name := range copySettings {
		for _, at := range d.settings(name, "cleanup") {
			by := name + " = " + at.value
			if name == "always_bcc" {
				add(by, at.value)
				continue
			}
			for _, table := range splitList(at.value) {
				entries, err := d.entries(ctx, table, at.where)
				for _, e := range entries {
					from, ok := d.side(e.key)
					if name == "recipient_bcc_maps" || e.pattern || !ok || d.Protects(from) != None {
						add(by, e.value)
					}
				}
				if err != nil {
					found = append(found, target{addr.Address{}, by})
				}
			}
		}
	}
	return found
}

// copied says by which setting copies may come to what a key of
// transport_maps(5), or a domain, selects; "" for none.
func (d *doctor) copied(key string) string {
	if key == "" {
		return ""
	}
	for _, t := range d.copies {
		if t.address.IsNull() || selects(key, t.address) {
			return t.by
		}
	}
	return ""
}

// selects reports whether a key of transport_maps(5) may select an address. A
// domain stands for what is below it, too, where
// parent_domain_matches_subdomains says so, as it does for relay_domains.
func selects(key string, a addr.Address) bool {
	local, domain, isAddress := strings.Cut(key, "@")
	switch {
	case key == "*":
		return true
	case isAddress && domain != "":
		p, err := addr.ParsePattern(local + "@" + domain)
		return err == nil && p.Match(a)
	}
	p, err := addr.ParsePattern("@." + strings.TrimPrefix(key, "."))
	return err != nil || p.Match(a) // a pattern of a table may select anything
}
