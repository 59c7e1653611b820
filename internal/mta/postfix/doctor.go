package postfix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
)

// Doctor reports whether the Postfix of the instance is bound as the settings want it, in the order in which mail goes. It asks the
// socket map what Postfix would ask, as the user that Postfix is; it sends no mail and changes nothing. What makes mail wait, such
// as a daemon that is away, is a warning. The error is for a Postfix whose settings can't be read.
func Doctor(ctx context.Context, s Settings, i Instance) ([]mta.Finding, error) {
	f, err := Read(ctx, i)
	if err != nil {
		return nil, err
	}
	d := doctor{Settings: s.withDefaults(), Facts: f, instance: i, postfix: f.owner()}
	if d.milter, err = f.socket(s.Milter); err != nil {
		return nil, err
	}
	if d.smap, err = f.socket(s.Socketmap); err != nil {
		return nil, err
	}
	d.version()
	d.milters()
	d.listens(ctx, "milter", s.Milter, d.milter, "smtpd", "cleanup")
	d.away = !d.listens(ctx, "socketmap", s.Socketmap, d.smap, "trivial-rewrite", "smtp")
	d.transports()
	d.senderMap(ctx)
	d.policies(ctx)
	d.routes(ctx)
	d.site()
	d.clients()
	d.aliases(ctx)
	d.surroundings()
	return d.found, nil
}

type doctor struct {
	Settings
	Facts
	instance     Instance
	milter, smap string
	postfix      *user.User // nil: unknown here
	away         bool       // nobody answers at the socket map, which is a finding by itself
	found        []mta.Finding
}

const runSetup = "tlsonly setup postfix --apply, then postfix reload"

func (d *doctor) ok(check, format string, args ...any) {
	d.found = append(d.found, mta.Finding{Level: mta.OK, Check: check, Text: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(check, remedy, format string, args ...any) {
	d.found = append(d.found, mta.Finding{Level: mta.Warning, Check: check, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (d *doctor) hole(check, remedy, format string, args ...any) {
	d.found = append(d.found, mta.Finding{Level: mta.Hole, Check: check, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// faultless adds an ok when a check has found nothing else.
func (d *doctor) faultless(before int, check, format string, args ...any) {
	if len(d.found) == before {
		d.ok(check, format, args...)
	}
}

func (f Facts) owner() *user.User {
	u, err := user.Lookup(f.value("mail_owner"))
	if err != nil {
		return nil
	}
	return u
}

func (d *doctor) version() {
	if !d.atLeast(3, 0) {
		d.hole("version", "upgrade postfix to 3.0 or later", "postfix %d.%d can't be bound", d.Major, d.Minor)
	}
	if text := d.reportsUnknown(d.Reports); text != "" {
		d.warn("version", d.reportsRemedy(), "%s", text)
	}
}

// milters looks whether all mail that comes in is shown to ours, and what happens when it doesn't answer.
func (d *doctor) milters() {
	before := len(d.found)
	smtpds := 0
	for _, s := range d.Services {
		switch s.Command {
		case "smtpd":
			smtpds++
			d.milterOf(s, "smtpd_milters")
			if d.option(s, "smtpd_proxy_filter") != "" {
				d.warn("milter", "use content_filter, or a milter, for what the proxy does",
					"%s has smtpd_proxy_filter: the milter never sees the end of a message there, so bounces carry its text", s.ID())
			}
			if v := d.option(s, "smtpd_milter_maps"); v != "" {
				d.warn("milter", "see that no client of protected senders is in it", "%s has smtpd_milter_maps = %s: clients in it pass the milter by", s.ID(), v)
			}
		case "cleanup":
			d.milterOf(s, "non_smtpd_milters")
		}
	}
	d.faultless(before, "milter", "all %d smtpd services and sendmail(1) ask the milter at %s, first, and refuse mail for now when it is away", smtpds, d.milter)
}

func (d *doctor) milterOf(s Service, parameter string) {
	place := parameter
	if _, ok := s.Options[parameter]; ok {
		place = s.ID() + " in master.cf: " + parameter
	}
	list := splitList(d.option(s, parameter))
	i := slices.IndexFunc(list, func(item string) bool {
		endpoint, err := d.socket(milterEndpoint(item))
		return err == nil && endpoint == d.milter
	})
	overridden := slices.Contains(splitList(d.option(s, "receive_override_options")), "no_milters")
	if i < 0 || overridden {
		what := fmt.Sprintf("%s (%s): our milter isn't asked", place, s.ID())
		remedy := runSetup
		if _, ok := s.Options[parameter]; ok {
			remedy = fmt.Sprintf("postconf -P '%s/%s=%s'", s.ID(), parameter, joinLists(true, s.Options[parameter], "$"+milterParameter))
		}
		if overridden {
			what, remedy = fmt.Sprintf("%s: receive_override_options has no_milters: our milter isn't asked", s.ID()), "take no_milters out of it"
		}
		// What comes back from a content filter has been shown to us on its way in.
		if s.Command == "smtpd" && d.filtered() && loopback(s.Name) {
			d.warn("milter", "nothing, if only the content filter can connect there", "%s; it seems to be where the content filter gives mail back", what)
			return
		}
		d.hole("milter", remedy, "%s", what)
		return
	}
	entry := d.milterEntry(s, list[i])
	switch action := entry["default_action"]; action {
	case "tempfail", "reject", "quarantine", "shutdown":
	default:
		d.hole("milter", runSetup, "%s: default_action=%s for our milter: while it's away, mail is taken unseen", place, action)
	}
	for _, name := range []string{"command_timeout", "content_timeout"} {
		if got, err := parseTime(entry[name]); err != nil || got <= d.Deadline {
			d.warn("milter", runSetup, "%s: %s=%s for our milter isn't above the deadline of %v: Postfix gives up before it is answered", place, name, entry[name], d.Deadline)
		}
	}
	if i > 0 {
		d.milterBefore(place, parameter, list[:i])
	}
}

// milterEntry returns the settings that hold for one milter of a service: its own, else the global ones.
func (d *doctor) milterEntry(s Service, item string) map[string]string {
	settings := make(map[string]string)
	for _, name := range []string{"default_action", "command_timeout", "content_timeout"} {
		settings[name] = d.option(s, "milter_"+name)
	}
	if inner, ok := strings.CutPrefix(item, "{"); ok {
		for _, word := range splitList(strings.TrimSuffix(inner, "}")) {
			if name, value, ok := strings.Cut(word, "="); ok {
				settings[name] = value
			}
		}
	}
	return settings
}

// filtered reports whether some mail goes to a content filter and comes back.
func (d *doctor) filtered() bool {
	return d.value("content_filter") != "" || slices.ContainsFunc(d.Services, func(s Service) bool { return s.Options["content_filter"] != "" })
}

// loopback reports whether a host:port, with brackets or without, is on this machine.
func loopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	host = strings.TrimPrefix(strings.Trim(host, "[]"), "IPv6:")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// listens looks whether Postfix's processes get through to a socket of ours, and reports whether they do.
func (d *doctor) listens(ctx context.Context, check, given, endpoint string, commands ...string) bool {
	scheme, address, _ := strings.Cut(endpoint, ":")
	network := "tcp"
	if err := d.outside(given, endpoint, commands...); err != nil {
		d.warn(check, "move the socket and run "+runSetup, "%v", err)
		return false
	}
	if scheme == "unix" {
		network = "unix"
		if !filepath.IsAbs(address) {
			address = filepath.Join(d.value("queue_directory"), address)
		}
		if err := accessible(address, d.postfix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.warn(check, "give the user "+d.value("mail_owner")+" access", "%s: %v: no mail gets through", endpoint, err)
			return false
		}
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		d.warn(check, "start tlsonly serve", "%s: %v: no mail gets through until it answers", endpoint, err)
		return false
	}
	_ = conn.Close()
	d.ok(check, "%s answers", endpoint)
	return true
}

// accessible reports why a user can't connect to a unix socket. Postfix's processes have that user's own group only.
func accessible(path string, u *user.User) error {
	if u == nil {
		return nil
	}
	uid, gid, err := idsOf(u)
	if err != nil {
		return err
	}
	for p, want := path, uint32(2); ; p, want = filepath.Dir(p), 1 {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		mode := uint32(info.Mode().Perm())
		switch owner, group := ownerOf(info); {
		case owner == uid:
			mode >>= 6
		case group == gid:
			mode >>= 3
		}
		if mode&want == 0 {
			return fmt.Errorf("user %s can't use %s, mode %v", u.Username, p, info.Mode())
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// transports looks whether our transports let nothing out in the clear.
func (d *doctor) transports() {
	before := len(d.found)
	for _, name := range d.Settings.transports() {
		s, ok := d.service(name, "unix")
		if !ok {
			d.warn("transport", runSetup, "transport %s isn't in master.cf: mail of its senders waits", name)
			continue
		}
		d.transport(s)
		d.known(s)
	}
	if site := d.value("smtp_tls_security_level"); !d.DANE && strings.HasPrefix(site, "dane") {
		d.warn("transport", "until a rule asks for dane, know that others' mail there is authenticated and protected mail is encrypted",
			"smtp_tls_security_level = %s doesn't reach our transports: destinations with TLSA records are held to encrypt there", site)
	}
	d.faultless(before, "transport", "%s ask for TLS and have a policy of their own", strings.Join(d.Settings.transports(), ", "))
}

// known looks whether the running master has read master.cf since the transport is in it: it makes a socket for each service.
func (d *doctor) known(s Service) {
	sockets := filepath.Join(d.value("queue_directory"), "private")
	if _, err := os.Stat(filepath.Join(sockets, "smtp")); err != nil {
		return // it doesn't run, or we aren't root and can't see
	}
	if _, err := os.Stat(filepath.Join(sockets, s.Name)); err != nil {
		d.hole("transport", "postfix reload", "transport %s isn't known to the running postfix: mail of its senders waits", s.Name)
	}
}

func (d *doctor) transport(s Service) {
	fault := func(format string, args ...any) {
		d.hole("transport", runSetup, "transport %s: %s", s.Name, fmt.Sprintf(format, args...))
	}
	if s.Command != "smtp" {
		fault("%s isn't the smtp client", s.Command)
		return
	}
	if level := d.option(s, "smtp_tls_security_level"); !enforcing(level) {
		fault("smtp_tls_security_level = %s can send in the clear", level)
	}
	number := strings.TrimPrefix(s.Name, transportPrefix)
	want := "socketmap:" + d.smap + ":forced" + number
	switch maps, own := s.Options["smtp_tls_policy_maps"]; {
	case !own && d.value("smtp_tls_policy_maps") != "":
		fault("the site's smtp_tls_policy_maps hold here too, and an answer replaces the level")
	case !own || d.expand(maps, s.Options) != want:
		fault("smtp_tls_policy_maps isn't %s alone, and another answer replaces the level", want)
	}
	lowest := policy.TLS12
	for _, c := range d.Classes {
		if fmt.Sprint(c.Number) == number && c.MinVersion != 0 {
			lowest = c.MinVersion
		}
	}
	if got := d.option(s, "smtp_tls_mandatory_protocols"); lowestProtocol(got) < lowest {
		fault("smtp_tls_mandatory_protocols = %s takes TLS below %v", got, lowest)
	}
	d.verifies("transport", "transport "+s.Name, s)
	if v := d.option(s, "smtp_fallback_relay"); v != "" {
		fault("smtp_fallback_relay = %s: mail goes there, unjudged, when its own destination fails", v)
	}
	if d.heedsTLSRequired() && d.option(s, "tls_required_enable") != "no" {
		fault(`tls_required_enable isn't no: a message that says "TLS-Required: No" goes in the clear`)
	}
	if bounces := slices.Contains(splitList(d.option(s, "smtp_delivery_status_filter")), "regexp:"+filepath.Join(d.Dir, lostFile)); bounces != (d.OnLost == OnLostBounce) {
		d.warn("transport", runSetup, "transport %s: mail whose destination lost TLS isn't treated as on_lost = %q says", s.Name, d.OnLost)
	}
}

// enforcing reports whether a security level, the first word of a policy, never sends in the clear. postconf(5),
// smtp_tls_security_level: "dane" does where there are no TLSA records.
func enforcing(level string) bool {
	return slices.Contains([]string{"encrypt", "dane-only", "fingerprint", "verify", "secure"}, level)
}

// lowestProtocol returns the lowest version that a list of TLS protocols lets through. postconf(5),
// smtp_tls_mandatory_protocols: bounds, exclusions, or names of all that may be.
func lowestProtocol(list string) policy.Version {
	names := []string{"SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
	first := 0
	excluded, named := make(map[string]bool), make(map[string]bool)
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(" \t,:", r) }) {
		if name, ok := strings.CutPrefix(word, ">="); ok {
			first = max(first, slices.Index(names, name))
		} else if name, ok := strings.CutPrefix(word, "!"); ok {
			excluded[name] = true
		} else if !strings.HasPrefix(word, "<=") {
			named[word] = true
		}
	}
	for i, name := range names {
		if i >= first && !excluded[name] && (len(named) == 0 || named[name]) {
			return policy.TLS10 + policy.Version(i) - 2
		}
	}
	return policy.TLS13 + 1 // nothing is let through
}
