package postfix

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A client that doesn't say EHLO, or that is told not to see STARTTLS, never
// gets TLS: what our transports take would wait for ever. Sites have such
// settings against old or broken hosts, for mail that may leave in the clear.

// bestMX is a transport that smtp(8) hands mail to, whatever its own policy,
// where this host is the best mail host of a domain.
const bestMX = "best_mx_transport"

// without STARTTLS, or without EHLO.
const (
	discardWords = "smtp_discard_ehlo_keywords"
	discardMaps  = "smtp_discard_ehlo_keyword_address_maps"
	pixWords     = "smtp_pix_workarounds"
	pixMaps      = "smtp_pix_workaround_maps"
)

// ehloSettings are lists of words of which one takes TLS from a client: the
// list, tables of such lists by the address of a host, and our file that takes
// the word out of what these tables answer.
var ehloSettings = []struct{ words, maps, word, file, text string }{
	{discardWords, discardMaps, "starttls", ehloFile,
		// Something must be left, and this word does nothing but that.
		"/^(.*)starttls(.*)$/ silent-discard $1 $2\n/^(.*)$/ $1\n"},
	// After 500 seconds in the queue Postfix takes a greeting full of stars for that
	// of a firewall which breaks EHLO. Such firewalls let STARTTLS through today.
	{pixWords, pixMaps, "disable_esmtp", pixFile,
		"/^(.*)disable_esmtp(.*)$/ delay_dotcrlf $1 $2\n/^(.*)$/ $1\n"},
}

// ehloSwitches say whether a client says EHLO, and what they are in ours.
var ehloSwitches = map[string]string{
	"smtp_never_send_ehlo": "no", "smtp_always_send_ehlo": "yes",
}

// passing has a transport of ours hand mail to itself, where the site's client
// hands it to another.
func (p *planner) passing(ours, site Service) {
	value := p.facts.option(site, bestMX)
	if value == "" {
		return
	}
	name, hop, _ := strings.Cut(value, ":")
	program := ""
	if s, ok := p.facts.service(name, "unix"); ok {
		program = s.Command
	}
	switch EnforcementOf(program, hop) {
	case AsItIs: // as main.cf has it, or the service
		if own, ok := site.Options[bestMX]; ok {
			ours.Options[bestMX] = own
		}
	case ByTwin:
		ours.Options[bestMX] = ours.Name + ":" + hop
	default:
		ours.Options[bestMX] = "" // the mail comes back
	}
}

// greeting has a transport of ours say EHLO, and see STARTTLS.
func (p *planner) greeting(ours, site Service) {
	for name, want := range ehloSwitches {
		if value := p.facts.option(site, name); value != "" && value != want {
			ours.Options[name] = want
		}
	}
	for _, s := range ehloSettings {
		if value := p.facts.option(site, s.words); hasWord(value, s.word) {
			ours.Options[s.words] = strings.Join(withoutWord(value, s.word), ",")
		}
		if tables := splitList(p.facts.option(site, s.maps)); len(tables) > 0 {
			for i, table := range tables {
				if own := ",regexp:" + p.path(s.file) + "}"; !strings.HasSuffix(table, own) {
					tables[i] = "pipemap:{" + table + own
				}
			}
			ours.Options[s.maps] = strings.Join(tables, ",")
		}
	}
}

// greetingFiles returns our files that transports refer to.
func (p *planner) greetingFiles() map[string]string {
	files := map[string]string{}
	for _, ours := range p.wanted() {
		for _, s := range ehloSettings {
			if strings.Contains(ours.Options[s.maps], "regexp:"+p.path(s.file)) {
				files[s.file] = s.text
			}
		}
	}
	return files
}

// greets looks whether a transport of ours can get TLS at all.
func (d *doctor) greets(s Service) {
	stuck := func(name, format string, args ...any) {
		d.broken("transport-differs", inMaster(s)+"/"+name, runSetup,
			"transport %s: %s: mail waits for ever", s.Name, fmt.Sprintf(format, args...))
	}
	for _, name := range slices.Sorted(maps.Keys(ehloSwitches)) {
		if value := d.option(s, name); value != "" && value != ehloSwitches[name] {
			stuck(name, "with %s = %s it doesn't say EHLO", name, value)
		}
	}
	for _, e := range ehloSettings {
		if value := d.option(s, e.words); hasWord(value, e.word) {
			stuck(e.words, "%s = %s keeps it from TLS", e.words, value)
		}
		for _, table := range splitList(d.option(s, e.maps)) {
			if !strings.HasSuffix(table, "regexp:"+d.path(e.file)+"}") {
				stuck(e.maps, "%s = %s may keep it from TLS", e.maps, table)
			}
		}
	}
}

// hasWord reports whether a list has a word, in any case.
func hasWord(list, word string) bool {
	return len(withoutWord(list, word)) < len(splitList(list))
}

func withoutWord(list, word string) []string {
	return slices.DeleteFunc(splitList(list), func(w string) bool { return strings.EqualFold(w, word) })
}
