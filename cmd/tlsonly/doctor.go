package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/mta"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/place"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

// doctor looks whether the running MTA is really bound.
func (p *program) doctor(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("doctor", flag.ContinueOnError)
	file := configFlag(fs)
	directory := fs.String("config-directory", "", "postfix: configuration `DIR`; default: $MAIL_CONFIG or the system's")
	probe := fs.Bool("probe", false, "postfix: also send a real message to a host without TLS on loopback; it must stay")
	asJSON := fs.Bool("json", false, "answer in JSON")
	asNagios := fs.Bool("nagios", false, "answer as a monitoring plugin: one line, status 0 ok, 1 warning, 2 critical, 3 unknown")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	which := ""
	switch {
	case len(rest) == 0:
		which = installed(*directory)
	case len(rest) == 1:
		which = rest[0]
	}
	if which != "postfix" && which != "sendmail" {
		return p.fail("no MTA is configured here: name one, postfix or sendmail")
	}
	if *asJSON && *asNagios {
		return p.fail("--json and --nagios exclude each other")
	}
	c, ok := p.load(*file, false)
	switch {
	case !ok && *asNagios:
		return p.nagios(nil, errors.New(*file+" has faults: tlsonly lint shows them"))
	case !ok:
		return exitUsage
	}
	if *probe && which != "postfix" {
		return p.fail("--probe is for postfix")
	}
	found, err := p.examine(ctx, c, which, *directory)
	if err == nil {
		found = append(found, doctorProfile(ctx, c, which, *directory)...)
		found = append(found, p.doctorResolver(ctx, c, which == "postfix")...)
		found = append(found, doctorForwards(ctx, c, *file, which, *directory)...)
		found = append(found, doctorObserving(c.Rules, time.Now())...)
	}
	if err == nil && *probe {
		var probed []mta.Finding
		probed, err = p.sendProbe(ctx, c, *directory)
		found = append(found, probed...)
	}
	found = capped(accept(found, c.Doctor.Accept))
	switch {
	case *asNagios:
		return p.nagios(found, err)
	case *asJSON:
		_ = p.answer(map[string]any{"mta": which, "findings": found})
	default:
		p.printFindings(found)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
	}
	switch {
	case mta.Fails(found):
		return exitNo
	case err != nil:
		return exitUnknown
	}
	return exitOK
}

// doctorObserving tells of rules that protect nobody because they only observe.
func doctorObserving(set *rules.Set, now time.Time) []mta.Finding {
	var found []mta.Finding
	for _, r := range set.Observing(now) {
		found = append(found, finding(mta.Warning, "rules-observe", "tlsonly.toml:rule="+r.Name,
			`see tlsonly observe; then remove mode = "observe" from the rule and reload`,
			"rule %q only observes, so it protects nobody", r.Name))
	}
	return found
}

// installed says which MTA is on this host: the one with a configuration, and Postfix where both have one.
func installed(directory string) string {
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	switch {
	case directory != "", os.Getenv("MAIL_CONFIG") != "", exists(place.Postfix + "/main.cf"):
		return "postfix"
	case exists("/etc/mail/sendmail.cf"):
		return "sendmail"
	}
	return ""
}

func (p *program) examine(ctx context.Context, c *config.Config, which, directory string) ([]mta.Finding, error) {
	if c.Socketmap.Listen == (config.Endpoint{}) {
		return []mta.Finding{finding(mta.Hole, "socketmap-off", "tlsonly.toml:socketmap.listen", `set [socketmap] listen = "inet:127.0.0.1:8690"`,
			"[socketmap] listen is off, so nothing binds the MTA at delivery")}, nil
	}
	if which == "postfix" {
		var found []mta.Finding
		delivery, err := p.delivery(ctx, c, false)
		if errors.Is(err, fs.ErrPermission) {
			delivery, err = rules.Alone(c.Rules), nil
			found = append(found, finding(mta.Warning, "not-looked-at", "tlsonly.toml:store.url", "run doctor as root",
				"the store can't be read, so the numbers of classes come from the file alone"))
		}
		if err != nil {
			return nil, err
		}
		settings := postfixSettings(c, delivery)
		i := postfixAt(c.Forwarding, directory)
		settings.Forwarding = onwardOf(i, patternsOf(delivery.Senders(time.Now())))
		more, err := postfix.Doctor(ctx, settings, i)
		return append(found, more...), err
	}
	settings, err := sendmailSettings(c)
	if err != nil {
		return nil, err
	}
	return sendmail.Installation{}.Doctor(ctx, settings)
}

// sendProbe sends a message of a protected sender, and takes back what its acceptance left with the daemon.
func (p *program) sendProbe(ctx context.Context, c *config.Config, directory string) ([]mta.Finding, error) {
	delivery, err := p.delivery(ctx, c, false)
	if err != nil {
		return nil, err
	}
	settings := postfixSettings(c, delivery)
	if len(settings.Protected) == 0 {
		return nil, errors.New("--probe: no rule names a protected sender")
	}
	probed, err := postfix.Probe(ctx, settings, postfixAt(c.Forwarding, directory), settings.Protected[0])
	var found []mta.Finding
	if err == nil {
		found = append(found, probed.Finding)
	}
	if probed.Destination.IsZero() {
		return found, err
	}
	if left := p.release(ctx, c, probed.Destination); left != nil {
		found = append(found, finding(mta.Warning, "probe-left", probed.Destination.String(),
			fmt.Sprintf("tlsonly domains unpin '%s' --demand", probed.Destination), "the probe's destination stays in the store, held to TLS: %v", left))
	}
	return found, err
}

// release takes back the pin and the demand of a destination that is no real one.
func (p *program) release(ctx context.Context, c *config.Config, d addr.Destination) error {
	s, err := openStore(ctx, c)
	if err != nil {
		return err
	}
	defer s.Close()
	err = p.unpinDomain(ctx, s, d, "doctor --probe", true, true)
	if errors.Is(err, store.ErrUnknown) {
		return nil // it was refused, or a relay was judged in its place
	}
	return err
}

// What doctor asks of the resolver. The first lies in the root's own zones, signed since 2010; the second's signatures are
// broken on purpose, by its owner, for such tests.
const (
	signedName = "arpa"
	bogusName  = "dnssec-failed.org"
)

// doctorResolver looks whether the resolver's word on DNSSEC can be believed: what destinations publish by DANE, and who their
// mail hosts are, rests on it. With postfix, it looks at the one that Postfix asks, too.
func (p *program) doctorResolver(ctx context.Context, c *config.Config, forPostfix bool) []mta.Finding {
	if c.DNS.DNSSEC == "off" {
		return []mta.Finding{finding(mta.OK, "resolver-off", "tlsonly.toml:dns.dnssec", "", `[dns] dnssec = "off": no answer counts as signed, so DANE is not used`)}
	}
	warning := func(code, where, remedy, format string, args ...any) mta.Finding {
		return finding(mta.Warning, code, where, remedy, format, args...)
	}
	const local = "run a validating resolver, such as unbound, on this host, and set [dns] resolver to it"
	resolver, err := dns.New(dns.Config{Server: c.DNS.Resolver, DNSSEC: c.DNS.DNSSEC, TrustResolver: c.DNS.TrustResolver})
	if err != nil {
		return []mta.Finding{finding(mta.Broken, "resolver-failing", "tlsonly.toml:dns.resolver", local, "%v: the daemon can't start", err)}
	}
	var found []mta.Finding
	if !resolver.Believed() {
		found = append(found, warning("resolver-remote", resolver.Server(), local+"; or trust_resolver = true, if nobody can tamper with the connection",
			"%s isn't on this host, so it isn't trusted about DNSSEC, and DANE is not used", resolver.Server()))
	}
	found = append(found, validates(ctx, resolver.Server()))
	if system, err := dns.New(dns.Config{}); forPostfix && err == nil && system.Server() != resolver.Server() {
		if f := validates(ctx, system.Server()); f.Severity != mta.OK {
			found = append(found, warning("resolver-postfix", system.Server(), "set it to "+resolver.Server()+" in /etc/resolv.conf, too",
				"Postfix uses another resolver, so mail that needs DANE waits: %s", f.Text))
		}
	}
	return found
}

// resolverProblem says why the resolver's word on DNSSEC is not to be had, "" where it is, or where nobody asks for it.
func resolverProblem(ctx context.Context, c *config.Config) string {
	return disbelief(ctx, c, validates)
}

// disbelief is resolverProblem; ask looks what the resolver is worth.
func disbelief(ctx context.Context, c *config.Config, ask func(context.Context, string) mta.Finding) string {
	if c.DNS.DNSSEC == "off" {
		return ""
	}
	resolver, err := dns.New(dns.Config{Server: c.DNS.Resolver, TrustResolver: c.DNS.TrustResolver})
	if err != nil {
		return err.Error()
	}
	if !resolver.Believed() {
		return resolver.Server() + " isn't on this host, so it isn't trusted about DNSSEC"
	}
	if f := ask(ctx, resolver.Server()); f.Severity != mta.OK {
		return f.Text
	}
	return ""
}

// resolverFinding is about a resolver.
func resolverFinding(level mta.Severity, code, server, format string, args ...any) mta.Finding {
	return finding(level, code, server, "make it validate (in unbound: auto-trust-anchor-file), or set [dns] resolver to another one",
		"%s: %s", server, fmt.Sprintf(format, args...))
}

// seesSigned asks a resolver for what is signed.
func seesSigned(ctx context.Context, server string) mta.Finding {
	resolver, err := dns.New(dns.Config{Server: server, TrustResolver: true})
	if err != nil {
		return resolverFinding(mta.Warning, "resolver-failing", server, "%v", err)
	}
	signed, err := resolver.MX(ctx, addr.MustDomain(signedName))
	if err != nil {
		return resolverFinding(mta.Warning, "resolver-failing", server, "%v: until it answers, new destinations can't be judged", err)
	}
	if !signed.Secure {
		return resolverFinding(mta.Warning, "resolver-unsigned", server,
			"it doesn't validate DNSSEC: it gives no AD bit for %s, which is signed, so DANE is not used", signedName)
	}
	return finding(mta.OK, "resolver-validates", server, "", "%s validates DNSSEC", server)
}

// validates asks a resolver for what is signed and for what is signed wrongly.
func validates(ctx context.Context, server string) mta.Finding {
	found := seesSigned(ctx, server)
	if found.Severity != mta.OK {
		return found
	}
	resolver, err := dns.New(dns.Config{Server: server, TrustResolver: true})
	if err != nil {
		return resolverFinding(mta.Warning, "resolver-failing", server, "%v", err)
	}
	answer, err := resolver.MX(ctx, addr.MustDomain(bogusName))
	var failed *dns.Error
	switch {
	case err == nil && answer.Status == dns.NoSuchDomain: // by a filter, or in a world of its own
		return resolverFinding(mta.Warning, "resolver-unproved", server,
			"it is not known whether it refuses forged answers: it says that %s doesn't exist", bogusName)
	case err == nil:
		return resolverFinding(mta.Hole, "resolver-forged", server, "it accepts forged answers: it gives one for %s, whose signatures are wrong", bogusName)
	case !errors.As(err, &failed) || failed.Rcode != "SERVFAIL":
		return resolverFinding(mta.Warning, "resolver-unproved", server, "it is not known whether it refuses forged answers: %v", err)
	}
	return found
}
