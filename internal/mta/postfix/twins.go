package postfix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// A site may give mail of some senders a transport of its own, by
// sender_dependent_default_transport_maps, and all other mail a next hop, by
// default_transport: another source address, a relay. Our table stands first in
// that list, so the daemon asks the site's after it, and answers with the twin of
// the transport that they name: a client with the same options, held to TLS.
//
// transport_maps and relay_transport don't know the sender, and what they name
// has no twins: doctor judges it (routes.go).

// SiteSenders is what the site's own tables of senders name.
type SiteSenders struct {
	Transports []string // that answers name, sorted; DUNNO is none
	// Unlisted are tables of which not all answers are known, because they can
	// only be asked or can't be read.
	Unlisted []string
	entries  []entry
}

// siteSenderTables returns the site's tables of senders.
func (f Facts) siteSenderTables() []string {
	lost := references(senderParameter) // without their definition
	return slices.DeleteFunc(splitList(f.value(senderMaps)), func(table string) bool {
		return isOurSenders(table) || slices.Contains(lost, table)
	})
}

// readSenders lists the site's tables of senders.
func (f Facts) readSenders(ctx context.Context, i Instance) SiteSenders {
	var found SiteSenders
	d := doctor{Facts: f, instance: i}
	for _, table := range f.siteSenderTables() {
		entries, err := d.entries(ctx, table, "")
		found.entries = append(found.entries, entries...)
		for _, e := range entries {
			name, _, _ := strings.Cut(e.value, ":")
			if name != "" && !strings.EqualFold(e.value, "DUNNO") &&
				!slices.Contains(found.Transports, name) {
				found.Transports = append(found.Transports, name)
			}
		}
		if err != nil {
			found.Unlisted = append(found.Unlisted, table)
		}
	}
	slices.Sort(found.Transports)
	return found
}

// Enforcement says how mail of a protected sender can be held that the site gives to
// a transport.
type Enforcement int

// The ways to hold it.
const (
	ByTwin        Enforcement = iota // by the twin of an smtp(8) client
	AsItIs                           // it needn't be: it is thrown back, or stays on this machine
	Unenforceable                    // it can't be: it waits
)

// EnforcementOf says how mail is held that goes to transport:nexthop, whose program
// master.cf names; "" for a transport that isn't in it, for which Postfix makes
// mail wait.
func EnforcementOf(program, nexthop string) Enforcement {
	switch program {
	case "", "smtp":
		return ByTwin
	case "error", "retry", "discard", "local", "virtual":
		return AsItIs
	case "pipe", "spawn": // what a program does is out of sight
		return AsItIs
	case "lmtp":
		if strings.HasPrefix(nexthop, "unix:") || loopback(strings.TrimPrefix(nexthop, "inet:")) {
			return AsItIs
		}
	}
	return Unenforceable
}

// sendersRouted reports whether the site says anything of where mail of senders
// goes that our transports alone don't do.
func (f Facts) sendersRouted() bool {
	name, hop, _ := strings.Cut(f.value("default_transport"), ":")
	s, ok := f.service(name, "unix")
	return len(f.siteSenderTables()) > 0 || hop != "" || ok && s.Command != "smtp"
}

// reads reports whether the daemon reads the settings of this Postfix.
func (p *planner) reads() bool {
	return p.Read != "" && filepath.Clean(p.Read) == filepath.Clean(p.facts.Dir)
}

// asksSite reports whether the daemon is to ask the site's tables.
func (p *planner) asksSite() bool {
	return p.Senders != contract.SendersTable && p.facts.sendersRouted() && p.reads()
}

// twinned returns the clients that twins are made of: those that the site's
// tables name, or all where they may name any.
func (p *planner) twinned() []Service {
	if !p.asksSite() {
		return nil
	}
	var found []Service
	all := len(p.facts.SiteSenders.Unlisted) > 0
	site := p.site().Name
	for _, s := range p.facts.Services {
		if s.Type == "unix" && s.Command == "smtp" && !isOurs(s) && s.Name != site &&
			(all || slices.Contains(p.facts.SiteSenders.Transports, s.Name)) {
			found = append(found, s)
		}
	}
	return found
}

// all returns the classes, the strict one first, each with a lowest version.
func (p *planner) all() []Class {
	classes := []Class{{MinVersion: policy.TLS12}}
	for _, c := range p.Classes {
		if c.MinVersion == 0 {
			c.MinVersion = policy.TLS12
		}
		classes[0].MinVersion = max(classes[0].MinVersion, c.MinVersion)
		classes = append(classes, c)
	}
	return classes
}

// wanted returns our transports: the strict one, one a class, and the twins.
func (p *planner) wanted() []Service {
	var found []Service
	classes := p.all()
	for _, c := range classes {
		found = append(found, p.transport(p.site(), c.Number, "", c.MinVersion))
	}
	for _, s := range p.twinned() {
		for _, c := range classes {
			found = append(found, p.transport(s, c.Number, s.Name, c.MinVersion))
		}
	}
	return found
}

// surplus returns our transports that master.cf has and nobody needs any more.
// They stay, because mail may be on its way by them, and a service that leaves
// master.cf takes a restart. They are as strict as any: a twin is made after its
// client, or after itself where the site has taken that out.
func (p *planner) surplus(wanted []Service) []Service {
	strictest := p.all()[0].MinVersion
	var found []Service
	for _, s := range p.facts.Services {
		if !isOurs(s) || slices.ContainsFunc(wanted, func(w Service) bool { return w.Name == s.Name }) {
			continue
		}
		class, of, _ := contract.ParseTransport(s.Name)
		source := p.source(of)
		if source.Command != "smtp" {
			source = p.bare(s)
		}
		stays := p.transport(source, class, of, strictest)
		stays.Name = s.Name // "tlsonly01" is none that we'd write
		found = append(found, stays)
	}
	return found
}

// bare returns a transport of ours without what we put into its lists.
func (p *planner) bare(s Service) Service {
	s.Options = maps.Clone(s.Options)
	for name, file := range map[string]string{
		"smtp_delivery_status_filter": lostFile, "smtp_header_checks": headerFile,
	} {
		value, ok := s.Options[name]
		if !ok {
			continue
		}
		if value = without(value, "regexp:"+p.path(file)); value == "" {
			delete(s.Options, name)
		} else {
			s.Options[name] = value
		}
	}
	return s
}

// source returns the client that the twin of a transport is made after, "" for
// that of other mail. Without one in master.cf it has no name.
func (p *planner) source(of string) Service {
	if of == "" {
		return p.site()
	}
	s, _ := p.facts.service(of, "unix")
	return s
}

// like returns a transport of ours as it would be made now; false for one whose
// class or source isn't there any more.
func (p *planner) like(s Service) (Service, bool) {
	class, of, _ := contract.ParseTransport(s.Name)
	source := p.source(of)
	for _, c := range p.all() {
		if c.Number == class && (of == "" || source.Name != "") {
			return p.transport(source, class, of, c.MinVersion), true
		}
	}
	return Service{}, false
}

// queueLimits are parameters of qmgr(8) for one transport, whose name stands
// before: how much at a time, how fast.
var queueLimits = []string{
	"_delivery_slot_cost", "_delivery_slot_discount", "_delivery_slot_loan",
	"_destination_concurrency_failed_cohort_limit", "_destination_concurrency_limit",
	"_destination_concurrency_negative_feedback", "_destination_concurrency_positive_feedback",
	"_destination_rate_delay", "_destination_recipient_limit", "_extra_recipient_limit",
	"_initial_destination_concurrency", "_minimum_delivery_slots", "_recipient_limit",
	"_recipient_refill_delay", "_recipient_refill_limit", "_transport_rate_delay",
}

// limitOf takes apart a name of main.cf that is a limit of one of our transports.
func limitOf(parameter string) (name, limit string, ok bool) {
	for _, limit := range queueLimits {
		if name, ok := strings.CutSuffix(parameter, limit); ok && contract.IsTransport(name) {
			return name, limit, true
		}
	}
	return "", "", false
}

// limitsSet returns the limits of our transports that main.cf sets, sorted.
func (f Facts) limitsSet() []string {
	var found []string
	for name := range f.Set {
		if _, _, ok := limitOf(name); ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// limitSetByUs reports whether a limit of our transports that main.cf sets is from
// setup. One that was changed since, or set by hand, is the site's. Where no
// record tells, it is ours if the site has set the same for the client that the
// transport is made after, because then it is as setup writes it.
func (f Facts) limitSetByUs(name string) bool {
	if f.record != nil && f.record.Limits {
		_, ours := f.before(name)
		return ours
	}
	service, _, _ := limitOf(name)
	like, ok := (&planner{facts: f}).limitsOf(Service{Name: service})[name]
	return ok && folded(like) == folded(f.Set[name])
}

// limitsOf returns the limits that the site has set for the transport which ours
// is made after.
func (p *planner) limitsOf(ours Service) map[string]string {
	_, of, _ := contract.ParseTransport(ours.Name)
	if of == "" {
		of = p.site().Name
	}
	found := make(map[string]string)
	for _, limit := range queueLimits {
		if value, ok := p.facts.Set[of+limit]; ok && value != "" {
			found[ours.Name+limit] = value
		}
	}
	return found
}

// limits plans main.cf for our transports.
func (p *planner) limits(wanted []Service) {
	want := make(map[string]string)
	for _, s := range wanted {
		for name, value := range p.limitsOf(s) {
			want[name] = value
		}
	}
	names := p.facts.limitsSet()
	for name := range want {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if _, set := p.facts.Set[name]; !set || p.facts.limitSetByUs(name) {
			p.setup.parameter(p.facts, name, want[name])
		}
	}
}

// A miss is what the site says of where mail of protected senders goes, and what
// a static table of ours doesn't follow.
type miss struct{ where, text string }

// tableMisses returns them, none unless such a table is wanted. Our table stands
// first in the list and names a transport for each protected sender, so that the
// site's tables aren't asked for them; only the daemon can ask those.
func (p *planner) tableMisses() []miss {
	if p.Senders != contract.SendersTable || !p.facts.sendersRouted() {
		return nil
	}
	var found []miss
	d := doctor{Settings: p.Settings, Facts: p.facts}
	for _, e := range p.facts.SiteSenders.entries {
		name, _, _ := strings.Cut(e.value, ":")
		if strings.EqualFold(e.value, "DUNNO") || isOurs(Service{Name: name, Type: "unix"}) {
			continue
		}
		if from, ok := d.side(e.key); e.pattern || ok && p.Protects(from) != None {
			found = append(found, miss{e.where, e.key + " uses " + e.value})
		}
	}
	for _, table := range p.facts.SiteSenders.Unlisted {
		found = append(found, miss{inMain(senderMaps), table + " can name any transport"})
	}
	value := p.facts.value("default_transport")
	name, hop, _ := strings.Cut(value, ":")
	if s, ok := p.facts.service(name, "unix"); hop != "" || ok && s.Command != "smtp" {
		found = append(found, miss{inMain("default_transport"), "all mail uses " + value})
	}
	return found
}

// tableConflict refuses a table of senders where the site gives protected ones a
// way of their own.
func (p *planner) tableConflict() error {
	var errs []error
	for _, m := range p.tableMisses() {
		errs = append(errs, fmt.Errorf("%s: %s, which a table of senders can't follow", m.where, m.text))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w\nprotected senders would leave by the client %s, from its address and by "+
		`MX or relayhost: set [binding] senders = "map", and they keep their way`,
		errors.Join(errs...), p.site().Name)
}

// siteNotes says what becomes of the site's own ways for protected senders.
func (p *planner) siteNotes() {
	tables := strings.Join(p.facts.siteSenderTables(), ", ")
	switch {
	case !p.facts.sendersRouted():
	case p.Senders == contract.SendersTable: // no word of theirs is for protected senders
	case !p.reads():
		p.setup.note("the daemon doesn't read this postfix, so protected senders leave by the client %s, "+
			"whatever your settings say (%s); with [forwarding] postfix = %q they keep their routes",
			p.site().Name, p.facts.siteRoutes(), p.facts.Dir)
	case len(p.facts.SiteSenders.Unlisted) > 0:
		p.setup.note("not all transports that %s can name are known, "+
			"so every smtp client in master.cf gets twins", tables)
	}
}

// siteRoutes names the settings by which the site gives senders a way of their own.
func (f Facts) siteRoutes() string {
	if tables := f.siteSenderTables(); len(tables) > 0 {
		return senderMaps + " = " + strings.Join(tables, ", ")
	}
	return "default_transport = " + f.value("default_transport")
}
