package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/binding"
	"tlsonly/internal/config"
	"tlsonly/internal/mta"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/web"
	"tlsonly/milter"
)

// newBinding builds what watches whether the MTA is bound while the daemon runs.
func (d *service) newBinding(ctx context.Context) (*binding.Watcher, error) {
	return binding.New(binding.Config{
		Plan:   d.watchPlan,
		Told:   func(s binding.State) { d.tellBinding(ctx, s) },
		Before: func() (bool, time.Time) { return d.wasUnbound(ctx) },
		Log:    d.log,
		Now:    d.now,
	})
}

// watchPlan says which MTA is watched now, by the file in force: the one that
// [forwarding] names, or else the one on this host.
func (d *service) watchPlan() binding.Plan {
	c := d.config.Load()
	p := binding.Plan{Every: c.Binding.Watch, Silent: d.activity.Silent}
	switch {
	case c.Binding.Watch == 0:
		p.Idle = `[binding] watch = "off"`
	case c.Socketmap.Listen == (config.Endpoint{}):
		p.Idle = "[socketmap] listen is off, so nothing binds the MTA at delivery"
	case len(c.Rules.Rules())+len(c.Inbound.Rules()) == 0 && d.delivery.Load().Highest() == 0:
		p.Idle = "there is no rule"
	}
	if p.Idle != "" {
		return p
	}
	which, i, in := watchedMTA(c.Forwarding)
	var look func(context.Context) (mta.Inspection, error)
	switch p.MTA = which; which {
	case "postfix":
		look = func(ctx context.Context) (mta.Inspection, error) {
			return postfix.CheckBinding(ctx, postfixSettings(c, d.delivery.Load()), i)
		}
	case "sendmail":
		look = func(ctx context.Context) (mta.Inspection, error) {
			settings, err := sendmailSettings(c)
			if err != nil {
				return mta.Inspection{}, err
			}
			return in.CheckBinding(ctx, settings)
		}
	default:
		p.Idle = "no MTA on this host"
	}
	p.Inspect = func(ctx context.Context) (mta.Inspection, error) {
		found, err := look(ctx)
		found.Findings = accept(found.Findings, c.Doctor.Accept)
		return found, err
	}
	p.Silent = func(now time.Time) []mta.Finding { return accept(d.activity.Silent(now), c.Doctor.Accept) }
	return p
}

// watchedMTA says whose binding is watched, "" for none. That [forwarding] reads
// nothing of an MTA doesn't mean that it isn't bound.
func watchedMTA(f config.Forwarding) (which string, i postfix.Instance, in sendmail.Installation) {
	named := func(s string) bool { return s != "auto" && s != "off" }
	switch {
	case named(f.Postfix):
		return "postfix", postfix.Instance{Dir: f.Postfix}, in
	case named(f.Sendmail):
		in.Cf = f.Sendmail
		return "sendmail", i, in
	}
	if i, ok := usesPostfix(config.Forwarding{Postfix: "auto"}); ok {
		return "postfix", i, in
	}
	if _, err := os.Stat("/etc/mail/sendmail.cf"); !errors.Is(err, fs.ErrNotExist) {
		return "sendmail", i, in
	}
	return "", i, in
}

// tellBinding stores that the MTA is bound no longer, or again, and tells of it.
func (d *service) tellBinding(ctx context.Context, s binding.State) {
	e := store.Event{When: d.now(), What: store.Bound, Why: s.MTA}
	if !s.OK {
		e.What, e.Why = store.Unbound, s.MTA+": "+s.Describe()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	if err := d.store.AddEvents(ctx, e); err != nil {
		d.log.Warn("change not stored", "what", e.What, "err", err)
	}
	d.notifier.Tell(e)
}

// wasUnbound says what this host's daemon told last, before this one started.
func (d *service) wasUnbound(ctx context.Context) (bool, time.Time) {
	ctx, cancel := context.WithTimeout(ctx, saveTime)
	defer cancel()
	host, err := os.Hostname()
	if err != nil {
		return false, time.Time{}
	}
	history, err := d.store.History(ctx, addr.Destination{}, 1000)
	if err != nil {
		d.log.Warn("not known whether the MTA was bound before", "err", err)
		return false, time.Time{}
	}
	for _, e := range history { // the newest first
		if e.Host == host && (e.What == store.Unbound || e.What == store.Bound) {
			return e.What == store.Unbound, e.When
		}
	}
	return false, time.Time{}
}

// bindingState is what is shown of the binding; false while nothing is watched.
func (d *service) bindingState() (web.Binding, bool) {
	s := d.binding.State()
	return web.Binding{MTA: s.MTA, Known: s.Known, OK: s.OK, Since: s.Since, Findings: s.Findings, Checks: s.Checks,
		Problem: s.Problem, Text: s.Describe()}, s.MTA != ""
}

// observe counts a decision, and that it was asked for.
func (d *service) observe(decision *milter.Decision, took time.Duration) {
	d.stats.observe(decision, took)
	d.keepObserved(decision)
	d.activity.Decided(decision.Verdict.Accepted() && decision.Verdict != policy.Hold && decision.Rule != nil && decision.Rule.Enforcing() && len(decision.Destinations) > 0)
}
