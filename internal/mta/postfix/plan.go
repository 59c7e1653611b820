package postfix

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// What is ours, by name.
const (
	// Parameters that setup once defined, and that the lists and single values referred to.
	milterParameter    = "tlsonly_milter"
	senderParameter    = "tlsonly_sender_map"
	policyParameter    = "tlsonly_policy_map"
	requiredParameter  = "tlsonly_tls_required"
	authorityParameter = "tlsonly_ca_file"
	dnsParameter       = "tlsonly_dns_support"
	verifyParameter    = "tlsonly_verify_maps"

	transportPrefix = contract.TransportPrefix

	lostFile    = "tlsonly_on_lost.regexp"
	headerFile  = "tlsonly_header.regexp"
	sendersFile = "tlsonly_senders.regexp"
	ehloFile    = "tlsonly_ehlo.regexp"
	pixFile     = "tlsonly_pix.regexp"
)

// singles are the parameters of the site that setup gives one value, and the
// reference that it once wrote there.
var singles = []struct{ parameter, reference string }{
	// Postfix 3.10 and later skip the policy map for a message that says
	// "TLS-Required: no" (RFC 8689), and copy that into its bounce.
	{requiredEnable, requiredParameter},
	{"smtp_tls_CAfile", authorityParameter},
	{"smtp_dns_support_level", dnsParameter},
	{verifyMaps, verifyParameter},
}

const (
	requiredEnable = "tls_required_enable"
	logLevel       = "smtp_tls_loglevel"
	addressLimit   = "smtp_mx_address_limit"
)

func isSingle(name string) bool {
	for _, s := range singles {
		if s.parameter == name {
			return true
		}
	}
	return false
}

func ourParameters() []string {
	return []string{milterParameter, senderParameter, policyParameter, requiredParameter, authorityParameter, dnsParameter,
		verifyParameter}
}

// isOurParameter reports whether a parameter is there for us alone.
func isOurParameter(name string) bool {
	_, _, limit := limitOf(name)
	return limit || slices.Contains(ourParameters(), name)
}

func ourFiles() []string { return []string{lostFile, headerFile, sendersFile, ehloFile, pixFile} }

// isOurs reports whether a service is one of our transports.
func isOurs(s Service) bool {
	return s.Type == "unix" && contract.IsTransport(s.Name)
}

// margin is what the milter's answer may take on top of the deadline, which is the daemon's own.
const margin = 10 * time.Second

// Timeouts of the milter's entry. Postfix's own defaults are 30 s and 300 s; a site may have lowered them, and they must
// not end before the deadline. RFC 5321, section 4.5.3.2.6: a client waits ten minutes after the message's end.
func commandTimeout(s Settings) time.Duration { return max(30*time.Second, s.Deadline+margin) }
func contentTimeout(s Settings) time.Duration { return max(300*time.Second, s.Deadline+margin) }

// Plan says what must change. The error says why this Postfix can't be bound with these settings, and the way out.
func Plan(s Settings, f Facts) (Setup, error) {
	s = s.withDefaults()
	if !f.atLeast(3, 0) {
		return Setup{}, fmt.Errorf("postfix %d.%d: want 3.0 or later, which has timeouts and a default action for one milter", f.Major, f.Minor)
	}
	milter, err1 := f.socket(s.Milter)
	smap, err2 := f.socket(s.Socketmap)
	if err := errors.Join(err1, err2, f.outside(s.Milter, milter, "smtpd", "cleanup"), f.outside(s.Socketmap, smap, "trivial-rewrite", "smtp")); err != nil {
		return Setup{}, err
	}
	p := planner{Settings: s, facts: f, milter: milter, smap: smap, setup: Setup{Dir: f.Dir}}
	p.setEntries()
	if err := errors.Join(p.conflicts(), p.tableConflict()); err != nil {
		return Setup{}, err
	}
	p.files()
	p.parameters()
	p.services()
	p.notes()
	return p.setup, nil
}

// outside refuses a socket that processes in the chroot can't reach.
func (f Facts) outside(given, endpoint string, commands ...string) error {
	path, ok := strings.CutPrefix(endpoint, "unix:")
	if !ok || !filepath.IsAbs(path) {
		return nil
	}
	for _, s := range f.Services {
		if slices.Contains(commands, s.Command) && f.chrooted(s) {
			queue := f.value("queue_directory")
			// Not proxy: either: it has to be named in proxy_read_maps, and smtpd knows no such thing for milters.
			return fmt.Errorf("%s: %s (%s) runs chrooted to %s and can't reach it: listen below that directory, as in unix:%s, or at an inet: address",
				given, s.Command, s.ID(), queue, filepath.Join(queue, "tlsonly", filepath.Base(path)))
		}
	}
	return nil
}

type planner struct {
	Settings
	facts        Facts
	milter, smap string
	entries      map[entryKind]string // of lists, "" for one that isn't wanted
	setup        Setup
}

func (f Facts) path(file string) string { return filepath.Join(f.Dir, file) }

func (p *planner) path(file string) string { return p.facts.path(file) }

// setEntries says what our entries are in lists.
func (p *planner) setEntries() {
	p.entries = map[entryKind]string{
		kindMilter: fmt.Sprintf("{ %s, command_timeout=%s, content_timeout=%s, default_action=tempfail, protocol=6 }",
			p.milter, seconds(commandTimeout(p.Settings)), seconds(contentTimeout(p.Settings))),
		kindSenders: senderMap(p.smap, p.Classes, p.facts.writers(), p.asksSite()),
	}
	if p.Senders == contract.SendersTable {
		p.entries[kindSenders] = "regexp:" + p.path(sendersFile)
	}
	if p.Others != contract.OthersOff {
		p.entries[kindPolicy] = contract.MapPolicy.Table(p.smap)
	}
}

// parameters plans main.cf, and the lists in master.cf.
func (p *planner) parameters() {
	// A "no" of the site's own stays.
	before, ours := p.facts.setByUs(requiredEnable, requiredParameter)
	switch {
	case p.facts.heedsTLSRequired() && p.Others != contract.OthersOff && (ours || p.facts.value(requiredEnable) != "no"):
		p.setup.parameter(p.facts, requiredEnable, "no")
	case ours:
		p.setup.parameter(p.facts, requiredEnable, before)
	}
	p.probes()
	p.verifying()
	p.lists()
	p.setup.entries = p.entries
	p.setup.ours = func(item string) bool { return p.kindOf(item) != "" }
}

// senderMap names the map of senders. The number tells the daemon how many
// transports this Postfix has, so that it names none that isn't there,
// whichever of the two was started last. What follows tells it who the senders
// of Postfix's own mail are, and whether transports of the site's own have
// twins here.
func senderMap(smap string, classes []Class, writers []string, twins bool) string {
	return contract.SenderMap{Transports: len(classes), Site: twins, Notices: writers}.Map().Table(smap)
}

// seconds writes a time rounded up to seconds.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%ds", (d+time.Second-1)/time.Second)
}

// references returns the ways to write a parameter's value in another's.
func references(name string) []string {
	return []string{"$" + name, "${" + name + "}", "$(" + name + ")"}
}

func joinLists(first bool, value, item string) string {
	switch {
	case value == "":
		return item
	case first:
		return item + ", " + value
	}
	return value + ", " + item
}

// without takes items out of a list and leaves the rest as it is written.
func without(value string, items ...string) string {
	for _, at := range slices.Backward(spans(value)) {
		if !slices.Contains(items, value[at.from:at.to]) {
			continue
		}
		before, after := value[:at.from], value[at.to:]
		if trimmed := strings.TrimRight(before, ", \t"); trimmed != "" {
			before = trimmed
		} else {
			before, after = "", strings.TrimLeft(after, ", \t")
		}
		value = before + after
	}
	return value
}

// milterEndpoint returns the endpoint of an entry of a list of milters.
func milterEndpoint(item string) string {
	inner, ok := strings.CutPrefix(item, "{")
	if !ok {
		return item
	}
	words := splitList(strings.TrimSuffix(inner, "}"))
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// services plans master.cf.
func (p *planner) services() {
	wanted := append(p.wanted(), p.gatewayServices()...)
	surplus := p.surplus(wanted)
	wanted = append(wanted, surplus...)
	if len(surplus) > 0 {
		p.setup.note("%d of our transports not needed, because there are fewer classes of senders or fewer transports "+
			"of yours; they stay, unused, because to remove a service from master.cf takes a restart of "+
			"Postfix; --undo removes all", len(surplus))
	}
	for _, want := range wanted {
		have, ok := p.facts.anyService(want.Name, want.Type)
		if ok && have.Columns == want.Columns && have.Command == want.Command && maps.Equal(have.Options, want.Options) {
			continue
		}
		old := ""
		if ok {
			old = have.String()
		}
		p.setup.Changes = append(p.setup.Changes, Change{Kind: KindService, Name: want.ID(), Old: old, New: want.String()})
	}
	for _, have := range p.facts.forGateway {
		if !slices.ContainsFunc(wanted, func(w Service) bool { return w.ID() == have.ID() }) {
			p.setup.Changes = append(p.setup.Changes, Change{Kind: KindService, Name: have.ID(), Old: have.String()})
		}
	}
	p.limits(wanted)
}

// transport makes the transport of a class, 0 for the strict one, after a client of the site's.
func (p *planner) transport(smtp Service, class int, of string, minVersion policy.Version) Service {
	s := Service{Name: contract.Transport(class, of), Type: "unix", Columns: smtp.Columns, Command: "smtp"}
	s.Options = p.inherited(smtp.Options)
	s.Options["syslog_name"] = p.facts.syslogName() + "/" + s.Name
	// Where the site asks more of all mail, ours isn't to be less.
	s.Options["smtp_tls_security_level"] = "encrypt"
	floor := ""
	if level := p.facts.option(smtp, "smtp_tls_security_level"); enforcing(level) {
		s.Options["smtp_tls_security_level"] = level
		floor = level // an answer replaces the level, so it has to know it
	}
	minVersion = max(minVersion, lowestProtocol(p.facts.option(smtp, "smtp_tls_mandatory_protocols")))
	s.Options["smtp_tls_mandatory_protocols"] = p.facts.protocols(minVersion)
	// Not the site's policies: an answer replaces the level, and "may" or "dane" can send in the clear.
	s.Options["smtp_tls_policy_maps"] = contract.ForcedMap(class, floor).Table(p.smap)
	maps.Copy(s.Options, p.authorities(smtp))
	if p.DANE && !p.facts.withoutDNS(smtp) {
		s.Options["smtp_dns_support_level"] = "dnssec"
	}
	if p.facts.option(smtp, "smtp_fallback_relay") != "" || p.facts.value("smtp_fallback_relay") != "" {
		s.Options["smtp_fallback_relay"] = "" // nobody has judged it
	}
	p.passing(s, smtp)
	p.greeting(s, smtp)
	p.reachGateway(s)
	// Postfix gives up after five addresses, with or without TLS; a good one may come
	// after them.
	s.Options[addressLimit] = "0"
	if p.facts.atLeast(3, 10) {
		// RFC 8689, section 5: "TLS-Required: No" in a message would lower the level.
		s.Options["tls_required_enable"] = "no"
	}
	// So that the log says of each delivery that there was TLS; a report needs no guess then.
	if level, err := strconv.Atoi(p.facts.option(smtp, logLevel)); err != nil || level < 1 {
		s.Options[logLevel] = "1"
	}
	if p.bouncesLost() {
		s.Options["smtp_delivery_status_filter"] = joinLists(true, p.facts.option(smtp, "smtp_delivery_status_filter"), "regexp:"+p.path(lostFile))
	}
	if p.HideHeader {
		s.Options["smtp_header_checks"] = joinLists(true, p.facts.option(smtp, "smtp_header_checks"), "regexp:"+p.path(headerFile))
	}
	return s
}

// syslogName returns the name that Postfix's programs log under.
func (f Facts) syslogName() string {
	if _, ok := f.Set["syslog_name"]; ok {
		return f.value("syslog_name")
	}
	if name := f.value("multi_instance_name"); name != "" {
		return name
	}
	return "postfix"
}

// protocols writes a lowest TLS version.
func (f Facts) protocols(lowest policy.Version) string {
	names := []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
	i := min(max(int(lowest)-int(policy.TLS10), 0), len(names)-1)
	if f.atLeast(3, 6) {
		return ">=" + names[i]
	}
	not := []string{"!SSLv2", "!SSLv3"}
	for _, name := range names[:i] {
		not = append(not, "!"+name)
	}
	return strings.Join(not, ",")
}

// bouncesLost reports whether mail is to be returned by what Postfix says of a
// host without TLS. The gateway says it of each recipient, and better.
func (s Settings) bouncesLost() bool { return s.OnLost == contract.OnLostBounce && !s.Gateway.on() }

// files plans our own files.
func (p *planner) files() {
	wanted := make(map[string]string)
	if p.bouncesLost() {
		// Only this: a host that refuses to start TLS today, or whose handshake fails, may do better tomorrow.
		wanted[lostFile] = comment + `/^4\.7\.4 (TLS is required, but was not offered by host .*)$/ 5.7.10 $1` + "\n"
	}
	if p.HideHeader {
		wanted[headerFile] = comment + "/^" + contract.Header + ":/ IGNORE\n"
	}
	if p.Senders == contract.SendersTable {
		wanted[sendersFile] = comment + p.sendersOf(p.Table, p.Enforces)
	}
	for name, text := range p.greetingFiles() {
		wanted[name] = comment + text
	}
	for _, name := range ourFiles() {
		p.setup.file(p.facts, p.path(name), wanted[name])
	}
}

const comment = "# Written by tlsonly setup; it writes it anew each time.\n"

// notes says what an admin should know of what isn't changed.
func (p *planner) notes() {
	p.reports()
	p.gatewayNotes()
	p.homeNotes()
	p.siteNotes()
	if slices.ContainsFunc(splitList(p.facts.expand(p.facts.all[policyMaps], nil)), func(item string) bool { return p.kindOf(item) == "" }) {
		p.setup.note("your tables in smtp_tls_policy_maps are asked about other mail, before ours, but never about mail of protected senders: write rules for what they require")
	}
	if p.Senders == contract.SendersTable {
		p.setup.note("the table of senders is out of date: run setup again when senders in them change, and reload")
		if many := inexpressible(p.Table); len(many) > 0 {
			p.setup.note("the table can't list all forms of %s: an address that may be one of them uses the strict transport, "+
				"which has no exceptions", strings.Join(many, ", "))
		}
		if p.UserRules {
			p.setup.note("a table can't follow rules by login: copies and forwards of mail that they accept leave like other mail")
		}
		for _, end := range p.Ends {
			p.setup.note("%s: its senders stay in the table until setup is run again", end)
		}
		if p.Others != contract.OthersOff {
			p.setup.note(`other mail still waits for the daemon's answer, in smtp_tls_policy_maps; [binding] others = "off" takes that away, too`)
		}
	}
}

// reports says where [socketmap] postfix is higher than this Postfix, and where it could be higher with a gain.
func (p *planner) reports() {
	if text := p.facts.reportsUnknown(p.Reports); text != "" {
		p.setup.note("%s; %s", text, p.facts.reportsRemedy())
	}
	if p.facts.knowsReports() && !p.Reports && p.facts.value("smtp_tlsrpt_enable") == "yes" {
		p.setup.note("this is postfix %d.%d, and it sends TLS reports: with [socketmap] postfix = \"3.10\" they name the MTA-STS policy; set that if no older Postfix asks",
			p.facts.Major, p.facts.Minor)
	}
}

// knowsReports reports whether Postfix knows the attributes policy_type and so on: TLSRPT_README.
func (f Facts) knowsReports() bool { return f.atLeast(3, 10) }

// reportsUnknown says what comes of telling them to one that doesn't.
func (f Facts) reportsUnknown(told bool) string {
	if !told || f.knowsReports() {
		return ""
	}
	return fmt.Sprintf("[socketmap] postfix = \"3.10\" or higher, and this is postfix %d.%d, which doesn't understand these answers, so mail to MTA-STS domains waits (invalid attribute name)",
		f.Major, f.Minor)
}

func (f Facts) reportsRemedy() string {
	return fmt.Sprintf("set it to \"%d.%d\", the oldest Postfix that asks, and restart the daemon", f.Major, f.Minor)
}
