package postfix

import (
	"context"
	"fmt"
	"os/user"
	"strings"
	"time"

	"tlsonly/internal/instance"
	"tlsonly/internal/mta"
)

// Doctor reports whether the Postfix of the instance is bound as the settings
// want it, in the order in which mail goes. It asks the processes that run, and
// the socket map what Postfix would ask, as the user that Postfix is; it sends
// no mail and changes nothing. The error is for a Postfix whose settings can't
// be read.
func Doctor(ctx context.Context, s Settings, i Instance) ([]mta.Finding, error) {
	f, err := Read(ctx, i)
	if err != nil {
		return nil, err
	}
	d := doctor{Settings: s.withDefaults(), Facts: f, instance: i, postfix: f.owner()}
	d.until = time.Now().Add(d.Patience)
	if d.milter, err = f.socket(s.Milter); err != nil {
		return nil, err
	}
	if d.smap, err = f.socket(s.Socketmap); err != nil {
		return nil, err
	}
	d.filters(ctx) // first, because the milter has seen what comes back from a filter
	filters := d.findings
	d.findings = nil
	d.version()
	d.running(ctx)
	d.milters(ctx)
	milter := d.listens(ctx, "milter", s.Milter, d.milter, "smtpd", "cleanup")
	smap := d.listens(ctx, "socketmap", s.Socketmap, d.smap, "trivial-rewrite", "smtp")
	d.findings = append(d.findings, mta.OneDaemon(milter, smap)...)
	d.away = smap == instance.Identity{}
	d.transports(ctx)
	d.gateway()
	d.senderMap(ctx)
	d.policies(ctx)
	d.routes(ctx)
	d.findings = append(d.findings, filters...)
	d.relays(ctx)
	d.senders(ctx)
	d.local()
	d.clients()
	d.aliases(ctx)
	d.surroundings()
	return d.findings, nil
}

type doctor struct {
	Settings
	Facts
	instance     Instance
	milter, smap string
	postfix      *user.User // nil: unknown here
	away         bool       // this daemon isn't at the socket map, which is a finding by itself
	core         bool       // what Bound looks at: nobody is asked, no table is gone through for a warning
	until        time.Time  // a reload is done by then
	stopped      bool       // Postfix doesn't run, or nobody can tell
	copies       []target
	filtering    bool // a FILTER action names a content filter on this machine
	findings     []mta.Finding
}

// runSetup also has Postfix read its files.
const runSetup = "tlsonly setup postfix --apply"

func (d *doctor) ok(code, where, format string, args ...any) {
	d.add(mta.OK, code, where, "", fmt.Sprintf(format, args...))
}

func (d *doctor) warn(code, where, remedy, format string, args ...any) {
	d.add(mta.Warning, code, where, remedy, fmt.Sprintf(format, args...))
}

func (d *doctor) broken(code, where, remedy, format string, args ...any) {
	d.add(mta.Broken, code, where, remedy, fmt.Sprintf(format, args...))
}

func (d *doctor) down(code, where, remedy, format string, args ...any) {
	d.add(mta.Down, code, where, remedy, fmt.Sprintf(format, args...))
}

func (d *doctor) hole(code, where, remedy, format string, args ...any) {
	d.add(mta.Hole, code, where, remedy, fmt.Sprintf(format, args...))
}

func (d *doctor) add(level mta.Severity, code, where, remedy, text string) {
	check, _ := mta.CheckOf(code) // a test looks that all are known
	d.findings = append(d.findings, mta.Finding{Severity: level, Code: code, Where: strings.Join(strings.Fields(where), "_"),
		Check: check, Text: text, Remedy: remedy})
}

// planner is what would be set up now.
func (d *doctor) planner() *planner {
	return &planner{Settings: d.Settings, facts: d.Facts, milter: d.milter, smap: d.smap}
}

// faultless adds an ok when a check has found nothing else.
func (d *doctor) faultless(before int, code, where, format string, args ...any) {
	if len(d.findings) == before {
		d.ok(code, where, format, args...)
	}
}

// Places in the two files.

func inMain(name string) string { return "main.cf:" + name }

func inMaster(s Service) string { return "master.cf:" + s.ID() }

// placeOf says where a parameter of a service is set.
func (s Service) placeOf(name string) string {
	if _, own := s.Options[name]; own {
		return inMaster(s) + "/" + name
	}
	return inMain(name)
}

// a setting is a value of a parameter with the place that gives it.
type setting struct {
	value, where string
	service      Service // one that has it
}

// settings returns the values that a parameter has for the services that run
// one of the programs, each once.
func (d *doctor) settings(name string, commands ...string) []setting {
	var found []setting
	seen := make(map[string]bool)
	for _, s := range d.Services {
		for _, command := range commands {
			at := setting{d.option(s, name), s.placeOf(name), s}
			if s.Command == command && at.value != "" && !seen[at.where+" "+at.value] {
				seen[at.where+" "+at.value] = true
				found = append(found, at)
			}
		}
	}
	return found
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
		d.hole("version-too-old", "", "upgrade postfix to 3.0 or later",
			"postfix %d.%d can't be bound", d.Major, d.Minor)
	}
	if text := d.reportsUnknown(d.Reports); text != "" {
		d.warn("version-reports", "", d.reportsRemedy(), "%s", text)
	}
}

// reloadTime is how long the master may take for a reload: the command doesn't
// wait for it.
const reloadTime = 2 * time.Second
