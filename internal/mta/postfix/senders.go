package postfix

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// senders looks for settings that give a message another sender after the
// milter has judged it. The address of a sender at delivery is that in the
// queue, so what cleanup(8) makes of it counts; what smtp(8) makes of it is
// seen on the wire only.
func (d *doctor) senders(ctx context.Context) {
	before := len(d.findings)
	site := d.planner().site()
	for _, at := range d.settings("smtp_generic_maps", "smtp") {
		if isOurs(at.service) && at.value == d.option(site, "smtp_generic_maps") {
			continue // inherited
		}
		d.rewrites(ctx, "smtp_generic_maps", at, true)
	}
	for name, classes := range map[string]string{"sender_canonical_maps": "sender_canonical_classes", "canonical_maps": "canonical_classes"} {
		for _, at := range d.settings(name, "cleanup") {
			if slices.Contains(splitList(d.option(at.service, classes)), "envelope_sender") {
				d.rewrites(ctx, name, at, false)
			}
		}
	}
	for _, at := range d.settings("masquerade_domains", "cleanup") {
		if slices.Contains(splitList(d.option(at.service, "masquerade_classes")), "envelope_sender") {
			d.masquerades(at)
		}
	}
	d.faultless(before, "sender-kept", "",
		"no setting turns another sender into a protected one, or a protected sender into another")
	if v := d.value("recipient_delimiter"); strings.Trim(v, "+"+d.Forms.Delimiter) != "" {
		d.warn("sender-delimiter", inMain("recipient_delimiter"),
			fmt.Sprintf("remove [senders] delimiter from tlsonly.toml, or set it to %q", v),
			"recipient_delimiter = %s: only %s counts as one, so an address with another "+
				"extension doesn't match a rule", v, strings.Join(strings.Split("+"+d.Forms.Delimiter, ""), " "))
	}
}

// srsTable knows the tables of postsrsd(8), by its ports, the name of its socket
// map, or that of its socket.
var srsTable = regexp.MustCompile(`(?i)^(?:tcp:(?:.*:)?10001|socketmap:.*(?:srs|:10003:).*)$`)

// srs tells whose mail is taken to be that of strangers which this site forwards.
func (d *doctor) srs(name, table string, at setting) {
	switch {
	case d.Forms.SRS != addr.SRSMatch:
		d.ok("sender-srs", at.where, "%s = %s rewrites senders (SRS): the address inside the new "+
			`one decides, so forwarded mail of strangers stays theirs ([senders] srs = "ignore")`, name, table)
	case d.WholeDomains:
		d.warn("sender-srs", at.where, `[senders] srs = "ignore", or accept this finding`,
			`%s = %s rewrites senders (SRS), and [senders] srs = "match": a rule for the new `+
				"domain binds forwarded mail of strangers, too, which isn't judged at RCPT and "+
				"may wait", name, table)
	default:
		d.ok("sender-srs", at.where, `%s = %s rewrites senders (SRS), and [senders] srs = "match": `+
			"no rule is for a whole domain, so forwarded mail of strangers isn't bound", name, table)
	}
}

// rewrites compares the two sides of each entry of a table of canonical(5) or
// generic(5).
func (d *doctor) rewrites(ctx context.Context, name string, at setting, generic bool) {
	for _, table := range splitList(at.value) {
		if !generic && srsTable.MatchString(table) {
			d.srs(name, table, at)
			continue
		}
		entries, err := d.entries(ctx, table, at.where)
		for _, e := range entries {
			if e.pattern {
				d.rewritesPattern(name, e, generic)
				continue
			}
			from, ok := d.side(e.key)
			to, ok2 := d.side(e.value)
			if ok && ok2 {
				d.rewritten(name, e.where, d.full(e.key), d.full(e.value), d.Protects(from), d.Protects(to), generic)
			}
		}
		if err == nil {
			continue
		}
		for _, a := range d.Protected {
			for _, key := range []string{a.String(), "@" + a.Domain.String()} {
				answer, found, _ := d.query(ctx, table, key)
				if to, ok := d.side(answer); found && ok {
					d.rewritten(name, at.where, key, answer, All, d.Protects(to), generic)
					break
				}
			}
		}
		d.warn("sender-asked", at.where, "name senders in the rules both as they are before and after; then accept this finding",
			"%s: %s cannot be looked into: senders may be rewritten after they were judged",
			name, table)
	}
}

// side makes a pattern of one side of an entry: canonical(5).
func (d *doctor) side(s string) (addr.Pattern, bool) {
	s = strings.TrimSpace(s)
	if s == "*" || strings.HasPrefix(s, "@.") { // "*": of static:; no address begins so
		p, err := addr.ParsePattern("*")
		return p, err == nil && s == "*"
	}
	p, err := addr.ParsePattern(d.full(s))
	return p, err == nil
}

// full completes a bare name as Postfix does.
func (d *doctor) full(s string) string {
	if s == "*" || strings.Contains(s, "@") {
		return s
	}
	return s + "@" + d.value("myorigin")
}

// rewritten judges one change of senders.
func (d *doctor) rewritten(name, where, from, to string, before, after Share, generic bool) {
	switch {
	case after != None && before != All:
		d.hole("sender-rewritten", where, "name "+from+" in the rules, too",
			"%s: %s becomes %s, which is protected, after its mail was judged "+
				"as that of %[2]s", name, from, to)
	case !generic && before != None && after != All: // in the queue: our transports are chosen by it
		d.hole("sender-rewritten", where, "name "+to+" in the rules, too",
			"%s: %s, which is protected, becomes %s, whose mail uses no transport of ours",
			name, from, to)
	}
}

// rewritesPattern judges a rule of regexp_table(5), as far as its domains stand
// in it.
func (d *doctor) rewritesPattern(name string, e entry, generic bool) {
	_, host, hasHost := strings.Cut(e.value, "@")
	if !hasHost {
		host = d.value("myorigin")
	}
	to, err := addr.ParsePattern("@" + host)
	if strings.Contains(host, "$") || err != nil {
		d.warn("sender-asked", e.where, "name senders in the rules both as they are before and after; then accept this finding",
			"%s: it cannot be looked into how /%s/ rewrites senders", name, e.key)
		return
	}
	if from, ok := patternDomain(e.key); ok {
		d.rewritten(name, e.where, "@"+from.Domain().String(), e.value, d.Protects(from), d.Protects(to), generic)
		return
	}
	before := Some
	if !slices.ContainsFunc(d.Protected, func(a addr.Address) bool { return matches(e.key, a.String()) }) {
		before = None
	}
	d.rewritten(name, e.where, "/"+e.key+"/", e.value, before, d.Protects(to), generic)
}

// plainDomain is the end of a regular expression that stands for one domain.
var plainDomain = regexp.MustCompile(`@((?:[A-Za-z0-9-]+\\\.)*[A-Za-z0-9-]+)\$$`)

// patternDomain returns the domain whose addresses alone a regular expression
// matches.
func patternDomain(pattern string) (addr.Pattern, bool) {
	m := plainDomain.FindStringSubmatch(pattern)
	if m == nil || strings.Contains(pattern, "|") {
		return addr.Pattern{}, false
	}
	p, err := addr.ParsePattern("@" + strings.ReplaceAll(m[1], `\.`, "."))
	return p, err == nil
}

// matches reports whether a regular expression of Postfix matches; one that
// can't be understood may.
func matches(pattern, s string) bool {
	re, err := regexp.Compile("(?i)" + pattern)
	return err != nil || re.MatchString(s)
}

// masquerades compares the domains that lose what is below them.
func (d *doctor) masquerades(at setting) {
	for _, domain := range splitList(at.value) {
		below, err := addr.ParsePattern("@." + domain)
		own, err2 := addr.ParsePattern("@" + domain)
		if err != nil || err2 != nil { // "!domain" is an exception
			continue
		}
		d.rewritten("masquerade_domains", at.where, "@."+domain, "@"+domain, d.Protects(below), d.Protects(own), false)
	}
}
