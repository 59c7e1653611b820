package postfix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// A FILTER action gives a message another transport and next hop than its
// recipients have, after they were judged. It may come from any table of
// access(5), and from header_checks(5).

// stages are the lists of restrictions of smtpd(8), without smtpd_ and
// _restrictions.
var stages = []string{"client", "helo", "sender", "relay", "recipient", "data", "end_of_data", "etrn"}

// listable are the types of tables that can be gone through.
var listable = []string{"hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash", "inline", "static", "regexp", "pcre", "cidr",
	"unionmap", "pipemap", "randmap", "proxy", "fail"}

// isTable reports whether a word of a list of restrictions names a table.
func isTable(word string) bool {
	kind, _, ok := strings.Cut(word, ":")
	return ok && (slices.Contains(listable, kind) || slices.Contains(queriedTypes, kind))
}

// filters looks for FILTER actions that lead around our transports.
func (d *doctor) filters(ctx context.Context) {
	before := len(d.findings)
	f := filterSearch{doctor: d, ctx: ctx, seen: make(map[string]bool)}
	for _, stage := range stages {
		for _, at := range d.settings("smtpd_"+stage+"_restrictions", "smtpd") {
			f.restrictions(at, splitList(at.value), 0)
		}
	}
	for _, name := range []string{"header_checks", "mime_header_checks", "nested_header_checks", "body_checks", "milter_header_checks"} {
		for _, at := range d.settings(name, "cleanup") {
			f.checks(name, at)
		}
	}
	d.faultless(before, "filter-none", "",
		"no FILTER in restrictions, header_checks or body_checks bypasses our transports")
}

type filterSearch struct {
	*doctor
	ctx  context.Context
	seen map[string]bool // findings, and tables
}

func (f filterSearch) first(what string) bool {
	if f.seen[what] {
		return false
	}
	f.seen[what] = true
	return true
}

// restrictions goes through a list of restrictions, and those that it names.
func (f filterSearch) restrictions(at setting, list []string, depth int) {
	const deepest = 10 // classes can name each other
	if depth > deepest {
		return
	}
	classes := splitList(f.value("smtpd_restriction_classes"))
	before := ""
	for i, word := range list {
		switch inner, inBraces := braced(word); {
		case before == "check_policy_service":
			service := word
			if inBraces {
				service = splitList(inner)[0]
			}
			if f.first("policy " + service) {
				f.warn("filter-asked", at.where, "make sure that the service never answers FILTER; then accept this finding",
					"%s: check_policy_service %s cannot be looked into: an answer of FILTER "+
						"bypasses our transports", at.where, service)
			}
		case inBraces:
			f.restrictions(at, splitList(inner), depth+1)
		case isTable(word):
			f.table(at, before, word, depth)
		case slices.Contains(classes, word):
			f.restrictions(setting{f.option(at.service, word), at.service.placeOf(word), at.service}, splitList(f.option(at.service, word)), depth+1)
		}
		if before = ""; i < len(list) {
			before = word
		}
	}
}

// table looks through a table of access(5); check is the restriction that names
// it.
func (f filterSearch) table(at setting, check, table string, depth int) {
	if !f.first("access " + check + " " + table) {
		return
	}
	entries, err := f.entries(f.ctx, table, at.where)
	for _, e := range entries {
		f.action(at, check, e, depth)
	}
	if err == nil {
		return
	}
	if check == "check_sender_access" {
		for _, a := range f.Protected {
			for _, key := range []string{a.String(), a.Domain.String()} {
				if answer, ok, _ := f.query(f.ctx, table, key); ok {
					f.action(at, check, entry{key: key, value: answer, where: at.where}, depth)
				}
			}
		}
	}
	f.warn("filter-asked", at.where, "make sure that it never answers FILTER; then accept this finding",
		"%s: %s cannot be looked into: an answer of FILTER bypasses our transports",
		at.where, table)
}

// action judges what an entry of a table of access(5) does.
func (f filterSearch) action(at setting, check string, e entry, depth int) {
	words := splitList(e.value)
	switch {
	case len(words) == 0:
	case strings.EqualFold(words[0], "FILTER"):
		if check == "check_sender_access" && !e.pattern && f.unprotectedKey(e.key) {
			return
		}
		f.filter("filter-access", e, words)
	case isTable(words[0]), strings.HasPrefix(words[0], "check_"), slices.Contains(splitList(f.value("smtpd_restriction_classes")), words[0]):
		f.restrictions(setting{e.value, e.where, at.service}, words, depth+1)
	}
}

// unprotectedKey reports whether no protected sender is found under a key of
// check_sender_access: access(5), "EMAIL ADDRESS PATTERNS".
func (f filterSearch) unprotectedKey(key string) bool {
	local, domain, isAddress := strings.Cut(key, "@")
	switch {
	case f.UserRules, key == "*", isAddress && domain == "": // "local@" is found in every domain
		return false
	case isAddress:
		domain = local + "@" + domain
	default:
		// "domain" stands for those below it, too, unless
		// parent_domain_matches_subdomains says otherwise.
		domain = "@." + strings.TrimPrefix(key, ".")
	}
	p, err := addr.ParsePattern(domain)
	return err == nil && f.Protects(p) == None
}

// checks looks through the tables of header_checks(5).
func (f filterSearch) checks(name string, at setting) {
	for _, table := range splitList(at.value) {
		if !f.first("checks " + table) {
			continue
		}
		entries, err := f.entries(f.ctx, table, at.where)
		for _, e := range entries {
			if words := splitList(e.value); len(words) > 0 && strings.EqualFold(words[0], "FILTER") {
				f.filter("filter-header", e, words)
			}
		}
		if err != nil {
			f.warn("filter-asked", at.where, "make sure that it never answers FILTER; then accept this finding",
				"%s: %s cannot be looked into: an answer of FILTER bypasses our transports",
				name, table)
		}
	}
}

// filter judges one FILTER action.
func (f filterSearch) filter(code string, e entry, words []string) {
	route := ""
	if len(words) > 1 {
		route = words[1]
	}
	_, hop, _ := strings.Cut(route, ":")
	f.filtering = f.filtering || loopback(hop)
	b, why := f.bondOf(route)
	if b != partly && b != loose || !f.first(fmt.Sprint(code, e)) {
		return
	}
	f.hole(code, e.where, fmt.Sprintf("FILTER %s:%s, by our strict transport, or remove the entry", transportPrefix, hop),
		"FILTER %s for %s sends mail by another route than the one it was judged for: %s",
		route, e.key, why)
}
