package postfix

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// What is written into the site's own lists, in main.cf and in the services of
// master.cf. The values stand there themselves: a reference would be empty
// where main.cf is cut or made anew, and the list with it.

const (
	smtpdMilters = "smtpd_milters"
	otherMilters = "non_smtpd_milters"
)

// lists plans the lists. What is there of ours is brought up to date where it
// stands; what is missing is added.
func (p *planner) lists() {
	now := p.facts
	now.all = maps.Clone(now.all)
	for name, value := range p.facts.Set {
		if !isOurParameter(name) && !isSingle(name) {
			now.all[name] = p.renewed(value, ", ")
		}
	}
	// The milter comes first, unless the site has put it elsewhere. At the end
	// of a message it gives the sender back as MAIL had it, for the sake of
	// RET, and Postfix shows nobody what a milter before has made of it: SRS or
	// BATV would be undone. One after it changes the sender, and RET stays. The
	// second list may refer to the first.
	p.ensure(now, smtpdMilters, kindMilter, true)
	p.ensure(now, otherMilters, kindMilter, true)
	// Ours first: only the table that answers first counts, and for senders we
	// don't know the others are asked.
	p.ensure(now, senderMaps, kindSenders, true)
	// Ours last: what the site says of a destination ("secure match=…") must
	// not become our "encrypt".
	p.ensure(now, policyMaps, kindPolicy, false)
	names := []string{smtpdMilters, otherMilters, senderMaps, policyMaps}
	for _, name := range slices.Sorted(maps.Keys(p.facts.Set)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if now.all[name] != p.facts.all[name] {
			p.setup.parameter(p.facts, name, now.all[name])
		}
	}
	p.options(now)
	p.references(now)
}

// ensure adds our entry to a list that hasn't it, by itself or through what it
// refers to.
func (p *planner) ensure(now Facts, name string, kind entryKind, first bool) {
	if p.entries[kind] != "" && !p.has(splitList(now.expand(now.all[name], nil)), kind) {
		now.all[name] = joinLists(first, now.all[name], p.entries[kind])
	}
}

// has reports whether a list has an entry of ours.
func (p *planner) has(items []string, kind entryKind) bool {
	return slices.ContainsFunc(items, func(item string) bool {
		return p.kindOf(item) == kind || kind == kindMilter && p.handMade(item)
	})
}

func (p *planner) kindOf(item string) entryKind { return p.facts.kindOf(item, p.milter, p.smap) }

// handMade reports whether an entry is the site's own for our milter's socket,
// however that is written. Conflicts has found out before that it does.
func (p *planner) handMade(item string) bool {
	return p.kindOf(item) == "" && p.facts.sameSocket(milterEndpoint(item), p.milter)
}

// renewed brings the entries of ours in a list up to date: each kind once,
// those that are not wanted any more not at all.
func (p *planner) renewed(value, separator string) string {
	seen := make(map[entryKind]bool)
	var items []string
	changed := false
	for _, item := range splitList(value) {
		kind := p.kindOf(item)
		want := p.entries[kind]
		if separator == "," {
			want = unblanked(want)
		}
		switch {
		case kind == "", unblanked(item) == unblanked(want) && !seen[kind]:
			items = append(items, item)
		case want == "" || seen[kind]:
			changed = true
		default:
			changed = true
			items = append(items, want)
		}
		seen[kind] = true
	}
	if !changed {
		return value
	}
	return relisted(value, value, strings.Join(items, separator), separator)
}

// options plans the lists of services that have their own. A service in which
// the site has switched milters off, and which a content filter gives mail back
// to, stays as it is: what comes there was shown to our milter on its way in.
func (p *planner) options(now Facts) {
	for _, s := range p.facts.Services {
		if isOurs(s) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(s.Options)) {
			value := p.renewed(s.Options[name], ",")
			asked := s.Command == "smtpd" && name == smtpdMilters ||
				s.Command == "cleanup" && name == otherMilters && p.facts.feeds(s)
			if asked && !p.has(splitList(now.expand(value, s.Options)), kindMilter) {
				if sign := p.facts.reinjection(s); sign != "" {
					p.setup.note("%s listens on loopback and has %s: it seems to be where a content filter "+
						"gives mail back, so it stays without our milter; if other mail comes in there: "+
						"postconf -P '%s/%s=%s'", s.ID(), sign, s.ID(), name, p.inService(value))
				} else {
					value = p.inService(value)
				}
			}
			if value != s.Options[name] {
				p.setup.Changes = append(p.setup.Changes,
					Change{Kind: KindOption, Name: s.ID() + "/" + name, Old: s.Options[name], New: value})
			}
		}
	}
	p.setup.lines, p.setup.unended = p.facts.lines(), p.facts.unended()
}

// inService puts our milter first in a list of a service.
func (p *planner) inService(value string) string {
	if value == "" {
		return unblanked(p.entries[kindMilter])
	}
	return unblanked(p.entries[kindMilter]) + "," + value
}

// lines returns the services as `postconf -M` has them.
func (f Facts) lines() map[string]string {
	found := make(map[string]string)
	for _, s := range f.Services {
		found[s.ID()] = s.line
	}
	return found
}

// unended returns the files whose last line has no end.
func (f Facts) unended() []string {
	var found []string
	for _, file := range []struct{ name, text string }{{masterFile, f.master}, {mainFile, f.main}} {
		if file.text != "" && !strings.HasSuffix(file.text, "\n") {
			found = append(found, f.path(file.name))
		}
	}
	return found
}

// reinjection says by what a service is known as the one where a content filter
// gives mail back, "" where it isn't: it listens on loopback, and the site has
// switched off there what the mail has been through.
func (f Facts) reinjection(s Service) string {
	if s.Command != "smtpd" || !loopback(s.Name) {
		return ""
	}
	if slices.Contains(splitList(s.Options["receive_override_options"]), "no_milters") {
		return "receive_override_options=no_milters"
	}
	for _, name := range []string{"content_filter", smtpdMilters} {
		if value, ok := s.Options[name]; ok && value == "" {
			return name + "="
		}
	}
	return ""
}

// references takes out the parameters that entries of lists were references to,
// as setup wrote them once. One that something else refers to stays, up to
// date.
func (p *planner) references(now Facts) {
	values := map[string]string{
		milterParameter: p.entries[kindMilter], senderParameter: p.entries[kindSenders],
		policyParameter: p.entries[kindPolicy], requiredParameter: "no", dnsParameter: "dnssec",
	}
	single := func(c Change) bool { return c.Kind == KindParameter && isSingle(c.Name) }
	for _, name := range ourParameters() {
		if _, set := p.facts.Set[name]; !set {
			continue
		}
		by := ""
		for _, other := range slices.Sorted(maps.Keys(p.facts.Set)) {
			value := now.all[other]
			for _, c := range p.setup.Changes {
				if single(c) && c.Name == other {
					value = c.New
				}
			}
			if !isOurParameter(other) && refersByName(value, name) {
				by = other
			}
		}
		for _, s := range p.facts.Services {
			for option, value := range s.Options {
				if !isOurs(s) && refersByName(p.renewed(value, ","), name) {
					by = s.ID() + "/" + option
				}
			}
		}
		value := ""
		if by != "" {
			value = values[name]
			if value == "" {
				value = p.facts.Set[name]
			}
			p.setup.note("%s refers to $%s, which stays because of that: write the value itself there, "+
				"so that it isn't empty when main.cf is cut or made anew", by, name)
		}
		p.setup.parameter(p.facts, name, value)
	}
}

// refersByName reports whether a value names a parameter after a dollar.
func refersByName(value, name string) bool {
	for _, m := range reference.FindAllStringSubmatch(value, -1) {
		if m[1] == name || m[2] == name || m[3] == name {
			return true
		}
	}
	return false
}

// conflicts refuses milters of the site at our milter's socket, unless they are
// this daemon, and as they must be.
func (p *planner) conflicts() error {
	check := func(place, value string, settings map[string]string) error {
		for _, item := range splitList(value) {
			if !p.handMade(item) {
				continue
			}
			ours, err := false, error(nil)
			if p.Whose != nil {
				ours, err = p.Whose(p.absolute(p.milter))
			}
			endpoint := milterEndpoint(item)
			switch {
			case err != nil || p.Whose == nil:
				why := ""
				if err != nil {
					why = ": " + err.Error()
				}
				return fmt.Errorf("%s has %s, where [milter] listen is, too, and whose that is can't be told%s: "+
					"start tlsonly serve and try again, or give [milter] listen another port, "+
					"or take the entry out", place, endpoint, why)
			case !ours:
				return fmt.Errorf("%s: %s is another program's, and [milter] listen is the same address: "+
					`give [milter] listen another port, as in "inet:127.0.0.1:8689", and restart the daemon`,
					place, endpoint)
			}
			if why := p.unfit(item, settings); why != "" {
				return fmt.Errorf("%s: %s was written by hand for this daemon, but %s: make it %s, "+
					"or take it out and run setup again", place, item, why, p.entries[kindMilter])
			}
		}
		return nil
	}
	// What references of ours refer to is brought up to date.
	now := p.facts
	now.all = maps.Clone(now.all)
	now.all[milterParameter] = p.entries[kindMilter]
	for _, name := range []string{smtpdMilters, otherMilters} {
		value := now.expand(now.all[name], nil)
		if err := check(name, value, p.facts.milterDefaults(Service{})); err != nil {
			return err
		}
	}
	for _, s := range p.facts.Services {
		for _, name := range []string{smtpdMilters, otherMilters} {
			if value, ok := s.Options[name]; ok {
				place := s.ID() + " in master.cf: " + name
				if err := check(place, now.expand(value, s.Options), p.facts.milterDefaults(s)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// absolute writes an endpoint with the whole path.
func (p *planner) absolute(endpoint string) string {
	if path, ok := strings.CutPrefix(endpoint, "unix:"); ok && !filepath.IsAbs(path) {
		return "unix:" + filepath.Join(p.facts.value("queue_directory"), path)
	}
	return endpoint
}

// unfit says why an entry doesn't do for our milter, "" where it does.
func (p *planner) unfit(item string, settings map[string]string) string {
	entry := milterSettings(settings, item)
	if !refuses(entry["default_action"]) {
		return "with default_action=" + entry["default_action"] + " mail is taken unseen while it is down"
	}
	for _, name := range []string{"command_timeout", "content_timeout"} {
		if got, err := parseTime(entry[name]); err != nil || got <= p.Deadline {
			return fmt.Sprintf("%s=%s isn't above the deadline of %v", name, entry[name], p.Deadline)
		}
	}
	return ""
}

// refuses reports whether a default action lets no mail in.
func refuses(action string) bool {
	return slices.Contains([]string{"tempfail", "reject", "quarantine", "shutdown"}, action)
}

// milterDefaults returns the settings that hold for milters of a service
// without their own.
func (f Facts) milterDefaults(s Service) map[string]string {
	settings := make(map[string]string)
	for _, name := range []string{"default_action", "command_timeout", "content_timeout"} {
		settings[name] = f.option(s, "milter_"+name)
	}
	return settings
}

// milterSettings returns what holds for one entry of a list of milters: its own
// settings, else the others.
func milterSettings(defaults map[string]string, item string) map[string]string {
	settings := maps.Clone(defaults)
	if inner, ok := strings.CutPrefix(item, "{"); ok {
		for _, word := range splitList(strings.TrimSuffix(inner, "}")) {
			if name, value, ok := strings.Cut(word, "="); ok {
				settings[name] = value
			}
		}
	}
	return settings
}

// sameSocket reports whether two endpoints are one, however they are written:
// localhost is any address of loopback's that it stands for, and a port may
// have a name.
func (f Facts) sameSocket(a, b string) bool {
	a, errA := f.socket(a)
	b, errB := f.socket(b)
	if errA != nil || errB != nil {
		return false
	}
	if a == b {
		return true
	}
	hostA, portA, okA := inetParts(a)
	hostB, portB, okB := inetParts(b)
	if !okA || !okB || portA != portB {
		return false
	}
	const local = "localhost"
	home := func(host string) bool { return host == local || host == "127.0.0.1" || host == "::1" }
	return hostA == hostB || (hostA == local || hostB == local) && home(hostA) && home(hostB)
}

// inetParts returns the host and the number of the port of "inet:host:port".
func inetParts(endpoint string) (host string, port int, ok bool) {
	rest, ok := strings.CutPrefix(endpoint, "inet:")
	if !ok {
		return "", 0, false
	}
	host, service, err := net.SplitHostPort(rest)
	if err != nil {
		colon := strings.LastIndexByte(rest, ':') // "inet:::1:8689"
		host, service = rest[:colon], rest[colon+1:]
	}
	if port, err = net.LookupPort("tcp", service); err != nil {
		return "", 0, false
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	return host, port, true
}
