package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/audit"
	"tlsonly/internal/config"
	"tlsonly/internal/forward"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/place"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

// newForwards builds what follows forwards: with the MTA's own tables where [forwarding] says so or one is found.
func newForwards(ctx context.Context, c *config.Config, log *slog.Logger) (*forward.Expander, error) {
	f := c.Forwarding
	fc := forward.Config{Sieve: f.Sieve, Log: log}
	switch instance, ok := usesPostfix(f); {
	case ok:
		fc.Tables = &postfix.Tables{Instance: instance}
	case usesSendmail(f):
		in, _ := sendmailOf(f)
		s, err := in.Sources(ctx)
		if err != nil {
			return nil, fmt.Errorf("[forwarding] sendmail: %w", err)
		}
		for _, unread := range s.Unread {
			log.Warn("table can't be followed, so mail that may depend on it waits", "table", unread)
			fc.Unfollowed = append(fc.Unfollowed, forward.Unfollowed(unread))
		}
		fc.Dialect, fc.Aliases, fc.Virtual, fc.Mailertables = aliases.Sendmail, s.Aliases, s.Virtual, s.Mailertables
		fc.Bound = in.Asks
		fc.Forward, fc.Local = s.Forward, append(s.Local, f.Domains()...)
		fc.VirtualIn, fc.VirtualBelow = s.VirtualIn, s.VirtualBelow
		fc.SmartHost, fc.MailHub, fc.LocalRelay, fc.UserRelay = s.SmartHost, s.MailHub, s.LocalRelay, s.UserRelay
	default:
		fc.Aliases, fc.Virtual, fc.Forward, fc.Local = f.Aliases, f.Virtual, f.Forward, f.Domains()
	}
	e, err := forward.New(fc)
	if err != nil {
		return nil, fmt.Errorf("[forwarding] postfix: %w", err)
	}
	return e, nil
}

// usesPostfix says which Postfix is asked. Without its main.cf one that is installed runs nothing.
func usesPostfix(f config.Forwarding) (postfix.Instance, bool) {
	switch f.Postfix {
	case "off":
		return postfix.Instance{}, false
	case "auto":
		dir := os.Getenv("MAIL_CONFIG")
		if dir == "" {
			dir = place.Postfix
		}
		_, err := os.Stat(dir + "/main.cf")
		instance := postfixAt(f, "")
		return instance, err == nil && instance.Installed()
	}
	return postfixAt(f, f.Postfix), true
}

// postfixAt is the Postfix with a configuration directory, "" for the usual one.
func postfixAt(f config.Forwarding, directory string) postfix.Instance {
	return postfix.Instance{Dir: directory, Commands: f.Postconf}
}

func usesSendmail(f config.Forwarding) bool {
	switch f.Sendmail {
	case "off":
		return false
	case "auto":
		_, err := os.Stat("/etc/mail/sendmail.cf")
		return !errors.Is(err, fs.ErrNotExist)
	}
	return true
}

// newAuditor builds what audits forwards.
func newAuditor(c func() *config.Config, forwards audit.Forwards, assessor audit.Assessor, pinned func(addr.Destination) bool) *audit.Auditor {
	return &audit.Auditor{
		Forwards: forwards,
		Assessor: assessor,
		Rules:    func() *rules.Set { return c().Rules },
		Pinned:   pinned,
		Relay:    func(d addr.Domain) (addr.Destination, bool) { return c().Relay.For(d) },
		Local:    func(d addr.Domain) bool { return c().Forwarding.IsLocal(d) },
	}
}

func (p *program) forwards(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("forwards", flag.ContinueOnError)
	file := configFlag(fs)
	asJSON := fs.Bool("json", false, "answer in JSON, one object a line for each forward")
	failing := fs.Bool("failing", false, "show only forwards that break a rule")
	listSources := fs.Bool("sources", false, "show which sources of forwards the daemon can read, instead")
	ownRights := fs.Bool("own-rights", false, "read with the rights of the calling user, not the daemon's")
	var tests []string
	fs.Func("test", "show what would happen if OWNER forwarded to TARGET, `OWNER=TARGET`, instead; repeatable", func(s string) error {
		tests = append(tests, s)
		return nil
	})
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	var only []addr.Address
	for _, arg := range rest {
		a, err := addr.ParsePath(arg)
		if err != nil || a.IsNull() {
			return p.fail("%q: want an address", arg)
		}
		only = append(only, a)
	}
	type pair struct{ owner, target addr.Address }
	var pairs []pair
	for _, s := range tests {
		owner, target, _ := strings.Cut(s, "=")
		o, err := addr.ParsePath(owner)
		t, err2 := addr.ParsePath(target)
		if err != nil || err2 != nil || o.IsNull() || t.IsNull() {
			return p.fail("--test %q: want owner@here=target@there", s)
		}
		pairs = append(pairs, pair{o, t})
	}
	if *listSources && len(pairs)+len(only) > 0 {
		return p.fail("--sources takes neither addresses nor --test")
	}
	if len(pairs) > 0 && len(only) > 0 {
		return p.fail("--test takes no other addresses")
	}
	c, ok := p.load(*file, true)
	if !ok {
		return exitUsage
	}
	if !*ownRights {
		if code, done := p.asDaemon(ctx, c, *file, append([]string{"forwards"}, args...)...); done {
			return code
		}
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if *listSources {
		return p.sources(ctx, c, log, *asJSON)
	}
	expander, err := newForwards(ctx, c, log)
	if err != nil {
		return p.fail("%v", err)
	}
	e, err := newEngine(c, log, nil, nil)
	if err != nil {
		return p.fail("%v", err)
	}
	defer e.Close()
	pinned, err := readPins(ctx, c)
	if err != nil {
		return p.notOpened(err)
	}
	auditor := newAuditor(func() *config.Config { return c }, expander, e, pinned.Pinned)

	answer := exitOK
	out := newAuditTable(p.stdout, *asJSON, terminal(p.stdout))
	tell := func(f audit.Finding) {
		switch {
		case f.Fails() && f.Unknown():
			answer = worse(answer, exitUnknown)
		case f.Fails():
			answer = worse(answer, exitNo)
		}
		if f.Fails() || !*failing {
			out.print(f)
		}
	}
	if len(pairs) > 0 {
		for _, t := range pairs {
			found := auditor.Test(ctx, t.owner, t.target)
			for _, f := range found {
				tell(f)
			}
			if len(found) == 0 && !*failing {
				out.print(audit.Finding{Owner: t.owner.String(), Origin: policy.Origin{Source: "test"}, Verdict: policy.Accept, Detail: "stays here"})
			}
		}
		return answer
	}
	progress := newProgress(p.stderr, 0, terminal(p.stderr))
	auditor.Progress = func(done, total int) { progress.set(done, total) }
	out.pause = progress.pause
	sum, err := auditor.Run(ctx, only, tell)
	progress.clear()
	if err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitUnknown
	}
	closed := 0
	for _, u := range sum.Unlisted {
		if u.User {
			if closed++; closed > 1 {
				continue // one says it of all
			}
		}
		fmt.Fprintf(p.stderr, "tlsonly: %s can't be listed, so its forwards are not known: %s\n", u.Source, u.Reason)
	}
	if closed > 1 {
		fmt.Fprintf(p.stderr, "tlsonly: %s can't be read, too\n", plural(closed-1, "other file of users"))
	}
	if !*asJSON && (!*failing || sum.Failing > 0) {
		fmt.Fprintf(p.stdout, "%s of %s, %s, %d failing\n", plural(sum.Forwards, "forward"), plural(sum.Owners, "owner"),
			plural(sum.Destinations, "destination"), sum.Failing)
	}
	return answer
}

// auditTable shows what an audit finds.
type auditTable struct {
	w      io.Writer
	json   *json.Encoder // nil: text
	colour bool
	pause  func(func())
	head   bool
}

func newAuditTable(w io.Writer, asJSON, colour bool) *auditTable {
	f := &auditTable{w: w, colour: colour, pause: func(print func()) { print() }}
	if asJSON {
		f.json = json.NewEncoder(w)
	}
	return f
}

func (o *auditTable) print(f audit.Finding) {
	o.pause(func() {
		if o.json != nil {
			_ = o.json.Encode(f)
			return
		}
		row := func(owner, leaves, destination, level, rule, verdict string) {
			fmt.Fprintf(o.w, "%-30s %-30s %-24s %-8s %-12s %s\n", owner, leaves, destination, level, rule, verdict)
		}
		if !o.head {
			o.head = true
			row("OWNER", "LEAVES TO", "DESTINATION", "LEVEL", "RULE", "VERDICT")
		}
		verdict := string(f.Verdict)
		switch {
		case f.Fails() && f.Unknown():
			verdict = paint(o.colour, yellow, verdict+" "+string(f.Reason))
		case f.Fails():
			verdict = paint(o.colour, red, verdict+" "+string(f.Reason))
		}
		dash := func(s string) string {
			if s == "" {
				return "-"
			}
			return s
		}
		destination := ""
		if !f.Destination.IsZero() {
			destination = f.Destination.String()
		}
		row(f.Owner, dash(f.Leaves), dash(destination), dash(string(f.Level)), dash(f.Rule), dash(verdict))
		var way []string
		for _, step := range f.Path {
			way = append(way, step.From+" ("+step.Origin.String()+")")
		}
		if len(way) > 0 {
			fmt.Fprintf(o.w, "    by %s\n", strings.Join(way, " -> "))
		} else if f.Source != "" {
			fmt.Fprintf(o.w, "    in %s\n", f.Origin)
		}
		if f.Detail != "" {
			fmt.Fprintf(o.w, "    %s\n", f.Detail)
		}
	})
}

// auditForwards audits all forwards at the start, or once a reload brings rules, and whenever one may have changed, until ctx ends.
func (d *service) auditForwards(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for len(d.config.Load().Rules.Rules()) == 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	d.audit.Run(ctx)
}

// newWatcher builds what audits forwards while the daemon runs. A forward that begins to break a rule is a change like a destination
// that loses TLS.
func (d *service) newWatcher(ctx context.Context) *audit.Watcher {
	tell := func(what store.What, level slog.Level) func(audit.Finding) {
		return func(f audit.Finding) {
			e := store.Event{When: d.now(), Destination: f.Destination, What: what, From: f.Owner, To: f.Leaves,
				Why: fmt.Sprintf("rule %q: %s", f.Rule, f.Reason)}
			if e.Destination.IsZero() {
				return // where it leads to isn't known: that is in the log, and passes
			}
			d.log.Log(ctx, level, "change", "destination", e.Destination.String(), "what", string(what), "from", e.From, "to", e.To, "reason", e.Why)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
			defer cancel()
			if err := d.store.AddEvents(ctx, e); err != nil {
				d.log.Warn("change not stored", "err", err)
			}
			d.notifier.Tell(e)
		}
	}
	auditor := newAuditor(d.config.Load, d.forwards, d.assessor, d.ledger.Pinned)
	auditor.Now = d.now
	return &audit.Watcher{
		Auditor: auditor,
		Changed: d.forwards.Changed(),
		Every:   auditEvery,
		Began:   tell(store.ForwardFails, slog.LevelWarn),
		Ceased:  tell(store.ForwardMended, slog.LevelInfo),
		FailedBefore: func(f audit.Finding) bool {
			ctx, cancel := context.WithTimeout(ctx, saveTime)
			defer cancel()
			history, err := d.store.History(ctx, f.Destination, 100)
			if err != nil {
				return false
			}
			for _, e := range history { // the newest first
				if e.From == f.Owner && e.To == f.Leaves && (e.What == store.ForwardFails || e.What == store.ForwardMended) {
					return e.What == store.ForwardFails
				}
			}
			return false
		},
		Log: d.log,
	}
}

// auditEvery is how often forwards are audited without a change of theirs: their destinations change, too.
const auditEvery = time.Hour
