package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/inbound"
	"tlsonly/internal/instance"
	"tlsonly/internal/mta"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// setup writes, or shows, what the MTA must be told.
func (p *program) setup(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("setup", flag.ContinueOnError)
	file := configFlag(fs)
	directory := fs.String("config-directory", "", "postfix: configuration `DIR`; default: $MAIL_CONFIG or the system's")
	apply := fs.Bool("apply", false, "write the settings, with backups, and reload or restart Postfix")
	noReload := fs.Bool("no-reload", false, "postfix: do not reload or restart it, but say what it needs")
	undo := fs.Bool("undo", false, "take back what setup has written (with --apply; without it, show what would be done)")
	keep := fs.Bool("keep", false, "postfix: keep running, and write settings again when main.cf or master.cf lose them")
	hide := fs.Bool("hide-header", false, "postfix: remove the header TLS-Only from protected mail when it leaves")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) != 1 || rest[0] != "postfix" && rest[0] != "sendmail" {
		return p.fail("setup needs postfix or sendmail")
	}
	if rest[0] == "sendmail" && (*hide || *keep || *noReload || *directory != "") {
		return p.fail("--hide-header, --keep, --no-reload and --config-directory are for postfix")
	}
	if *keep && (*apply || *undo || *noReload) {
		return p.fail("--keep excludes --apply, --undo and --no-reload")
	}
	if *noReload && !*apply {
		return p.fail("--no-reload needs --apply")
	}
	if *keep {
		return p.keepPostfix(ctx, *file, *directory, *hide)
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	err := hasMap(c)
	if err != nil && !*undo {
		return p.fail("%v", err)
	}
	if rest[0] == "sendmail" {
		err = p.setupSendmail(ctx, c, *apply, *undo)
	} else {
		err = p.setupPostfix(ctx, c, postfixAt(c.Forwarding, *directory),
			setupHow{apply: *apply, renew: !*noReload, undo: *undo, hide: *hide})
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
	}
	switch {
	case errors.Is(err, mta.ErrBusy):
		return exitUnknown
	case err != nil:
		return exitNo
	}
	return exitOK
}

// hasMap says what is wrong where the MTA has nobody to ask at delivery.
func hasMap(c *config.Config) error {
	if c.Socketmap.Listen == (config.Endpoint{}) {
		return errors.New("[socketmap] listen is off, so the MTA would have nobody to ask at delivery")
	}
	return nil
}

// setupHow says what setup does.
type setupHow struct {
	apply bool // write; else only shown
	renew bool // make the running Postfix use what was written
	undo  bool // take back what was written
	hide  bool // take the header TLS-Only off
	again bool // only where it is set up, and wasn't undone meanwhile
}

func (p *program) setupPostfix(ctx context.Context, c *config.Config, i postfix.Instance, how setupHow) error {
	if how.apply {
		directory, err := i.Directory(ctx)
		if err != nil {
			return err
		}
		unlock, err := lockSetup(ctx, directory)
		if err != nil {
			return err
		}
		defer unlock()
		if how.again {
			if is, err := isSetUp(directory); err != nil || !is {
				return err
			}
		}
	}
	facts, settings, plan, err := p.planPostfix(ctx, c, i, how)
	if err != nil {
		return err
	}
	if !how.apply {
		return plan.Print(p.stdout)
	}
	if how.renew && !plan.Empty() {
		// Said before anything is written.
		if r, err := facts.Renewal(); err == nil && r.How != postfix.NotRunning {
			if err := facts.Renewable(); err != nil {
				return fmt.Errorf("nothing is written: %w; or use --no-reload, and restart postfix yourself", err)
			}
		}
	}
	copies, err := plan.Apply(ctx, i, time.Now())
	if err != nil {
		return err
	}
	if plan.Empty() {
		fmt.Fprintf(p.stdout, "%s: nothing to change\n", plan.Dir)
	}
	for _, change := range plan.Changes {
		fmt.Fprintf(p.stdout, "%s: %s\n", change.Kind, change.Name)
	}
	for _, name := range copies {
		fmt.Fprintf(p.stdout, "backup: %s\n", name)
	}
	for _, note := range plan.Notes {
		fmt.Fprintf(p.stdout, "note: %s\n", note)
	}
	return p.renewPostfix(ctx, settings, i, how.renew, how.undo, plan.Empty())
}

// lockSetup is mta.Lock, but that it waits a moment for another setup, such as
// one that keeps Postfix bound, to end.
func lockSetup(ctx context.Context, directory string) (unlock func(), err error) {
	const longest, again = 5 * time.Second, 100 * time.Millisecond
	limit := time.Now().Add(longest)
	for {
		unlock, err = mta.Lock(directory)
		if !errors.Is(err, mta.ErrBusy) || time.Now().After(limit) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(again):
		}
	}
}

// planPostfix says what is to be written, and of what it makes that.
func (p *program) planPostfix(ctx context.Context, c *config.Config, i postfix.Instance, how setupHow) (
	facts postfix.Facts, settings postfix.Settings, plan postfix.Setup, err error) {
	if facts, err = postfix.Read(ctx, i); err != nil {
		return facts, settings, plan, err
	}
	if how.undo {
		plan = postfix.PlanUndo(postfix.Settings{Milter: c.Milter.Listen.String(), Socketmap: c.Socketmap.Listen.String()}, facts)
		plan.Unit = facts.Unit()
		return facts, settings, plan, nil
	}
	delivery, err := p.delivery(ctx, c, how.apply)
	if err != nil {
		return facts, settings, plan, err
	}
	settings = postfixSettings(c, delivery)
	settings.HideHeader = how.hide
	if readByDaemon(c.Forwarding) == facts.Dir {
		protected := patternsOf(delivery.Senders(time.Now()))
		settings.Homes = facts.Homes(ctx, i, protected, onwardOf(i, protected))
	}
	settings.Whose = func(endpoint string) (bool, error) { return settings.Daemon.IsMilter(ctx, endpoint) }
	if plan, err = postfix.Plan(settings, facts); err != nil {
		return facts, settings, plan, err
	}
	notes, err := answererOf(ctx, facts, settings)
	if err != nil && how.apply {
		return facts, settings, plan, err
	} else if err != nil {
		notes = append(notes, err.Error())
	}
	plan.Notes = append(plan.Notes, notes...)
	plan.Unit = facts.Unit()
	return facts, settings, plan, nil
}

// answererOf finds out who answers where Postfix is about to be bound to. The error
// is for anybody but this daemon: mail would be judged by others, or by nobody.
func answererOf(ctx context.Context, f postfix.Facts, s postfix.Settings) (notes []string, err error) {
	found, err := f.Answering(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, finding := range found {
		switch finding.Severity {
		case mta.OK:
		case mta.Down:
			notes = append(notes, fmt.Sprintf("%s; to start it: %s", finding.Text, finding.Remedy))
		default:
			err = errors.Join(err, fmt.Errorf("%s; %s", finding.Text, finding.Remedy))
		}
	}
	return notes, err
}

// renewPostfix makes the running Postfix use its files, and sees that it
// answers and does. Where nothing was to change that is only done if it doesn't.
func (p *program) renewPostfix(ctx context.Context, s postfix.Settings, i postfix.Instance, renew, undo, unchanged bool) error {
	if !renew {
		facts, err := postfix.Read(ctx, i)
		if err != nil || unchanged {
			return err
		}
		r, err := facts.Renewal()
		if err != nil {
			return err
		}
		if r.How == postfix.NotRunning {
			fmt.Fprintf(p.stdout, "Postfix isn't running, to start it: %s\n", r.Words())
		} else {
			fmt.Fprintf(p.stdout, "Postfix has not read the settings yet; it needs a %s: %s\n", r.How, r.Words())
		}
		return nil
	}
	if unchanged {
		s.Patience = time.Millisecond
		if found, err := postfix.Running(ctx, s, i, !undo); err != nil || !slices.ContainsFunc(found, stale) {
			return err
		}
		s.Patience = 0
	}
	r, err := i.Renew(ctx)
	if err != nil {
		return fmt.Errorf("the settings are written, but postfix needs a %s: %s: %w", r.How, r.Words(), err)
	}
	switch r.How {
	case postfix.NotRunning:
		fmt.Fprintf(p.stdout, "Postfix isn't running, to start it: %s\n", r.Words())
		return nil
	case postfix.Restart:
		fmt.Fprintf(p.stdout, "Postfix was restarted: %s\n", r.Why())
	default:
		fmt.Fprintln(p.stdout, "Postfix was reloaded")
	}
	found, err := postfix.Running(ctx, s, i, !undo)
	for _, f := range found {
		if f.Severity != mta.OK {
			err = errors.Join(err, fmt.Errorf("%s; %s", f.Text, f.Remedy))
		}
	}
	return err
}

// stale reports whether a finding says that Postfix must be renewed.
func stale(f mta.Finding) bool {
	return slices.Contains([]string{"not-reloaded", "transport-unknown", "postfix-silent"}, f.Code)
}

func (p *program) setupSendmail(ctx context.Context, c *config.Config, apply, undo bool) error {
	if undo && !apply {
		fmt.Fprintln(p.stdout, `dnl Remove the lines from "dnl tlsonly: begin" to "dnl tlsonly: end" in sendmail.mc. `+
			"Then make sendmail.cf and restart Sendmail.")
		return nil
	}
	if apply {
		unlock, err := lockSetup(ctx, sendmail.Installation{}.Directory())
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", sendmail.ErrLayout, err)
		}
		if err != nil {
			return p.printChange(sendmail.Change{}, err)
		}
		defer unlock()
	}
	if undo {
		done, err := sendmail.Installation{}.Undo(ctx, time.Now())
		return p.printChange(done, err)
	}
	if err := noFallback(c); err != nil {
		return err
	}
	settings, err := sendmailSettings(c)
	if err != nil {
		return err
	}
	if !apply {
		fmt.Fprintln(p.stdout, "dnl Add these lines to the end of sendmail.mc. Then make sendmail.cf and restart Sendmail.")
		fmt.Fprint(p.stdout, sendmail.Snippet(settings))
		return nil
	}
	done, err := sendmail.Installation{}.Apply(ctx, settings, time.Now())
	return p.printChange(done, err)
}

// printChange tells what was done to Sendmail.
func (p *program) printChange(done sendmail.Change, err error) error {
	if errors.Is(err, sendmail.ErrLayout) {
		return fmt.Errorf("%w; without --apply, setup shows what to do by hand", err)
	}
	if err != nil {
		return err
	}
	for _, name := range done.Backups {
		fmt.Fprintf(p.stdout, "backup: %s\n", name)
	}
	for _, name := range done.Written {
		fmt.Fprintf(p.stdout, "written: %s\n", name)
	}
	if len(done.Written) == 0 {
		fmt.Fprintln(p.stdout, "nothing to change")
	} else {
		fmt.Fprintln(p.stdout, "Restart Sendmail now.")
	}
	return nil
}

// postfixSettings is what the configuration asks of Postfix.
func postfixSettings(c *config.Config, delivery *rules.Delivery) postfix.Settings {
	s := postfix.Settings{
		Milter:       c.Milter.Listen.String(),
		Socketmap:    c.Socketmap.Listen.String(),
		Daemon:       instance.Expected(buildVersion(), c.Store.URL),
		Deadline:     c.Milter.Deadline,
		Senders:      c.Binding.Senders,
		DANE:         c.DNS.DNSSEC != "off",
		CAFile:       c.Probe.CAFile,
		Reports:      c.Socketmap.KnowsTLSRPT(),
		Read:         readByDaemon(c.Forwarding),
		Others:       c.Binding.Others,
		Bounces:      c.Binding.Bounces,
		OnLost:       c.Binding.OnLost,
		Keep:         c.Binding.Keep,
		Protects:     protects(c.Rules, time.Now()),
		Excepts:      excepts(c.Rules, time.Now()),
		Protected:    examples(c.Rules),
		Forms:        c.Rules.Forms(),
		Destinations: []string{contract.DoctorDomain, "[" + contract.DoctorDomain + "]:587"},
	}
	s.Gateway, _ = gatewayOf(c) // its fault is the daemon's to tell
	for _, d := range c.Forwarding.Domains() {
		s.Local = append(s.Local, d.String())
	}
	for _, hop := range c.Relay.Hops() {
		s.Relays = append(s.Relays, hop.String())
	}
	now := time.Now()
	s.Verified = slices.ContainsFunc(c.Inbound.Rules(), func(r *inbound.Rule) bool { return r.Level == inbound.Verified && r.Active(now) })
	for n := 1; n <= delivery.Highest(); n++ {
		ask, _ := delivery.Requirement(n, addr.Domain{}, now)
		lowest := ask.Demand.MinVersion
		for _, m := range delivery.Meanings(n, now) {
			if m.Until.IsZero() && m.Class.Observes(now) {
				lowest = max(lowest, m.Class.Floor()) // as on the day it enforces
			}
		}
		s.Classes = append(s.Classes, postfix.Class{Number: n, MinVersion: lowest})
	}
	for _, r := range c.Rules.Rules() {
		s.WholeDomains = s.WholeDomains || r.Enforcing() && r.Active(now) &&
			(len(r.From)+len(r.User) == 0 || slices.ContainsFunc(r.From, func(p addr.Pattern) bool { return p.Kind() != addr.Exact && p.Kind() != addr.Null }))
		s.UserRules = s.UserRules || len(r.User) > 0
	}
	s.Enforces = delivery.Enforces(now)
	if s.Senders == contract.SendersTable {
		setTable(&s, c.Rules, delivery, c.Binding.Keep, now)
	}
	return s
}

// setTable fills in what a static table of senders is now, was, and what of it ends.
func setTable(s *postfix.Settings, set *rules.Set, delivery *rules.Delivery, keep time.Duration, now time.Time) {
	table := func(at time.Time) (entries []postfix.Entry) {
		for _, sender := range delivery.Senders(at) {
			entries = append(entries, postfix.Entry{Pattern: sender.Pattern, Transport: contract.Transport(sender.Class, "")})
		}
		return entries
	}
	s.Table = table(now)
	for _, r := range set.Rules() {
		switch {
		case r.Until.IsZero() || !r.Enforcing() || len(r.Forwarder) > 0 || len(r.From) == 0 && len(r.User) > 0: // no sender of the table
		case r.Active(now):
			s.Ends = append(s.Ends, fmt.Sprintf("rule %q ends with %s", r.Name, r.Until.AddDate(0, 0, -1).Format(time.DateOnly)))
		default:
			s.Former = append(s.Former, table(r.Until.Add(keep-1)))
		}
	}
}

// sendmailSettings is what the configuration asks of Sendmail.
func sendmailSettings(c *config.Config) (sendmail.Settings, error) {
	// One ruleset for all senders: the strictest of the rules holds.
	s := sendmail.Settings{
		Daemon:        instance.Expected(buildVersion(), c.Store.URL),
		Deadline:      c.Milter.Deadline,
		RedactBounces: c.Milter.RedactBounces,
		MinVersion:    c.Rules.Strictest(addr.Domain{}, time.Now()).MinVersion,
	}
	if s.MinVersion == 0 {
		s.MinVersion = policy.TLS12
	}
	doctorsSenders(&s, c)
	var err error
	if s.Milter, err = sendmail.Endpoint(c.Milter.Listen.Network, c.Milter.Listen.Address); err != nil {
		return s, err
	}
	if s.Socketmap, err = sendmail.Endpoint(c.Socketmap.Listen.Network, c.Socketmap.Listen.Address); err != nil {
		return s, err
	}
	for _, from := range examples(c.Rules) {
		s.Protected = append(s.Protected, sendmail.Question{From: from, To: addr.MustAddress("doctor@" + contract.DoctorDomain)})
	}
	return s, nil
}

// examples returns a protected sender of each class, as far as rules name any by address.
func examples(set *rules.Set) []addr.Address {
	now := time.Now()
	found := map[int]bool{0: true}
	var senders []addr.Address
	for _, r := range set.Rules() {
		for _, p := range r.From {
			var a addr.Address
			switch p.Kind() {
			case addr.Exact:
				a = p.Address()
			case addr.InDomain, addr.Below:
				a = addr.Address{Local: contract.Doctor, Domain: p.Domain()}
			case addr.Any:
				a = addr.MustAddress(contract.Doctor + "@" + contract.DoctorDomain)
			}
			if n := set.Class(a, now); !found[n] {
				found[n] = true
				senders = append(senders, a)
			}
		}
	}
	return senders
}
