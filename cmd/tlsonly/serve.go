package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"tlsonly/internal/addr"
	"tlsonly/internal/audit"
	"tlsonly/internal/binding"
	"tlsonly/internal/classes"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/mtasts"
	"tlsonly/internal/fallback/gateway"
	"tlsonly/internal/fallback/keyring"
	"tlsonly/internal/forward"
	"tlsonly/internal/inbound"
	"tlsonly/internal/instance"
	"tlsonly/internal/ledger"
	"tlsonly/internal/monitor"
	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/observe"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/internal/store"
	"tlsonly/milter"
	"tlsonly/rules"
)

// drain is how long sessions in the middle of a message may go on after SIGTERM. It is short, for meanwhile nobody else is
// served; a message that is cut gets 451 from the MTA.
const drain = 3 * time.Second

func (p *program) serve(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	file := configFlag(fs)
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) > 0 {
		return p.fail("serve takes no arguments")
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	level := new(slog.LevelVar)
	log := newLog(p.stderr, c.Log, level)
	d, err := newService(ctx, *file, c, log, time.Now)
	if err != nil {
		return p.notOpened(err)
	}
	d.stats.level = level
	if err := d.run(ctx); err != nil {
		log.Error("stopped", "err", err)
		return exitNo
	}
	log.Info("stopped")
	return exitOK
}

// service is the running daemon.
type service struct {
	file       string
	size       int // of the file, when it was read last
	state      atomic.Pointer[configFile]
	config     atomic.Pointer[config.Config]
	delivery   atomic.Pointer[rules.Delivery]
	classes    classes.Keeper
	rulesets   chan struct{} // another process changed the sets of rules
	using      sync.Mutex    // held while the rules in force change
	log        *slog.Logger
	now        func() time.Time // the one clock of all its parts; deadlines go by another, which nobody sets
	store      *store.Store
	assessor   *engine
	ledger     *ledger.Ledger
	monitor    *monitor.Monitor
	notifier   *monitor.Notifier
	forwards   *forward.Expander
	onward     *onward           // what of it bounces take
	senders    *sendmail.Senders // nil: the MTA is asked of none
	audit      *audit.Watcher
	observed   *observe.Recorder
	server     *milter.Server
	maps       *socketmap.Server // nil: off
	gateway    *gateway.Server   // nil: off, and what follows is empty
	identity   *gateway.Identity
	reinject   *gateway.Reinjector
	gatewayHop addr.Destination
	stats      stats
	around     surroundings
	mta        mtaProfile
	reading    sync.Mutex // held while they are read
	activity   *binding.Activity
	binding    *binding.Watcher
	sources    sourceFaults
	keys       rings
	methods    keyring.Methods
}

// demands is the ledger as the socketmap server asks it.
type demands struct{ *ledger.Ledger }

// Demanded returns what is demanded of d.
func (l demands) Demanded(d addr.Destination) (policy.Demand, bool) {
	demand := l.Demand(d)
	return policy.Demand{Level: demand.Level, MinVersion: demand.MinVersion, MinBits: demand.MinBits}, demand.Level != ""
}

// saveTime is how long it may take to store a policy.
const saveTime = 5 * time.Second

// newService opens the store, reads it into memory and builds everything else around it. now is the time of day.
func newService(ctx context.Context, file string, c *config.Config, log *slog.Logger, now func() time.Time) (_ *service, err error) {
	d := &service{file: file, log: log, now: now, stats: newTally(now), rulesets: make(chan struct{}, 1), activity: binding.NewActivity(now)}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	d.config.Store(c)
	read := stateOf(file)
	d.state.Store(&read)
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of this host: %w", err)
	}
	if d.store, err = store.Open(ctx, store.Config{URL: c.Store.URL, Daemon: true, Host: host, Log: log, Now: now}); err != nil {
		return nil, err
	}
	d.classes = classes.Keeper{Store: d.store, Keep: c.Binding.Keep, Now: now}
	d.observed = observe.New(d.store, log, now)
	last, err := d.classes.Last(ctx)
	if err == nil {
		err = d.use(ctx, c.Rules, nil)
	}
	if err != nil {
		return nil, err
	}
	if last != nil {
		d.warnLost(last, c)
	}
	d.notifier = monitor.NewNotifier(monitor.NotifyConfig{
		Command: c.Notify.Command,
		Mail:    c.Notify.Mail,
		Host:    host,
		Log:     log,
		Now:     now,
	})
	// All methods, not only those of today's rules: a reload may name others.
	if c.Fallback.Listen != (config.Endpoint{}) {
		if d.keys, err = newRings(c, policy.Methods(), d.store, log, now, d.notifier.Tell); err != nil {
			return nil, err
		}
		d.keys.warn(log)
		if d.methods, err = newMethods(c, d.keys, now()); err != nil {
			return nil, err
		}
	}
	d.ledger, err = ledger.New(ledger.Config{
		Keys:   func() { d.keys.forget() },
		Store:  d.store,
		Port:   c.Probe.Port,
		Every:  c.Monitor.Every,
		Policy: func(p store.Policy) { d.assessor.policies.Seed(mtasts.Saved(p)) },
		Rulesets: func() {
			select {
			case d.rulesets <- struct{}{}:
			default:
			}
		},
		Notify: d.notifier.Tell,
		Log:    log,
		Now:    now,
	})
	if err != nil {
		return nil, err
	}
	save := func(p mtasts.Saved) error {
		ctx, cancel := context.WithTimeout(context.Background(), saveTime)
		defer cancel()
		return d.store.PutPolicy(ctx, store.Policy(p))
	}
	d.learnMTA(ctx)
	d.assessor, err = newEngine(c, log, save, func(_ *engine, dc *destination.Config) {
		dc.OnResult, dc.Now = d.ledger.Record, now
		dc.Wanted = func() policy.Demand { return wanted(d.delivery.Load(), now()) }
		dc.MTA = d.mta.get
		d.stats.watch(dc)
	})
	if err != nil {
		return nil, err
	}
	if err := d.ledger.Load(ctx, d.assessor); err != nil {
		return nil, err
	}
	d.monitor, err = monitor.New(monitor.Config{
		Schedule:    d.store,
		Assessor:    d.assessor,
		Ledger:      d.ledger,
		Every:       c.Monitor.Every,
		Forget:      c.Monitor.Forget,
		Retention:   c.Store.Retention,
		Concurrency: c.Probe.Concurrency,
		Log:         log,
		Now:         now,
	})
	if err != nil {
		return nil, err
	}
	if d.forwards, err = newForwards(ctx, c, log); err != nil {
		return nil, err
	}
	if d.senders, err = newSenders(ctx, c, log); err != nil {
		return nil, err
	}
	d.audit = d.newWatcher(ctx)
	d.onward = &onward{follow: d.forwards, protected: d.protected, log: d.log}
	d.readAround(ctx)
	if d.binding, err = d.newBinding(ctx); err != nil {
		return nil, err
	}
	if err := d.newGateway(c, host); err != nil {
		return nil, err
	}
	who := instance.New(buildVersion(), c.Store.URL)
	decider := newDecider(c, d.assessor, d.ledger)
	decider.Forwards, decider.EnforcedAtDelivery = d.forwards, enforcedAtDelivery(c, d.delivery.Load)
	decider.Local = d.isLocal
	decider.FailingSince = d.ledger.FailingSince
	if len(d.methods) > 0 {
		decider.Protect, decider.Gateway = d.methods, d.endsAtGateway
	}
	decider.Relay = func(domain addr.Domain) (addr.Destination, bool) { return d.config.Load().Relay.For(domain) }
	d.server, err = milter.New(milter.Config{
		Decider:             decider,
		Rules:               func() *rules.Set { return d.config.Load().Rules },
		Written:             d.senders.Written,
		Reinjected:          d.reinjected(),
		Inbound:             func() *inbound.Set { return d.config.Load().Inbound },
		InboundHeader:       c.Milter.InboundHeader,
		RefuseTLSRequiredNo: c.Milter.Headers,
		RedactBounces:       c.Milter.RedactBounces,
		TagEnvelope:         c.Socketmap.Listen != config.Endpoint{},
		Attest:              c.Milter.Attest,
		Under:               func(c rules.Candidates) rules.Candidates { return d.delivery.Load().Under(c) },
		Doubt: func(c rules.Candidates, whose []addr.Address) rules.Candidates {
			return d.delivery.Load().Doubt(c, whose)
		},
		Forms:          func() addr.Forms { return d.delivery.Load().Forms(d.now()) },
		Settled:        func(from addr.Address) bool { return d.maps == nil || d.maps.Settled(from) },
		Observe:        d.observe,
		OnMessage:      d.activity.Message,
		ObserveInbound: d.stats.observeInbound,
		MaxConnections: c.Milter.Connections,
		Relayed:        d.relayed,
		Lent:           d.lent,
		IsLent:         d.isLent,
		Names:          func() milter.Names { return d.around.get().names },
		SenderTaken:    func() bool { return len(d.around.get().before) > 0 },
		Identity:       who,
		Log:            log,
		Now:            now,
	})
	if err != nil || c.Socketmap.Listen == (config.Endpoint{}) {
		return d, err
	}
	_, reads := usesPostfix(c.Forwarding)
	d.maps, err = socketmap.New(socketmap.Config{
		Rules:          d.delivery.Load,
		Ledger:         demands{d.ledger},
		Assessor:       d.assessor,
		Deadline:       c.Milter.Deadline,
		TLSRPT:         c.Socketmap.KnowsTLSRPT(),
		Transports:     d.delivery.Load().Highest(),
		MaxConnections: c.Socketmap.Connections,
		Relay:          d.isRelay,
		Lent:           d.isLent,
		Origins: func() []addr.Domain {
			return append(originsOf(host, d.config.Load(), d.senders), d.around.get().names.Origins...)
		},
		Local:       d.isLocal,
		Homes:       d.homes,
		OnQuestion:  func(m socketmap.Map, protected addr.Address) { d.activity.Question(string(m), protected) },
		Site:        siteRoutes(d.forwards, reads),
		History:     d.promisedSince,
		Others:      c.Binding.Others,
		FreeBounces: c.Binding.Bounces == contract.BouncesOthers,
		Bounce:      c.Binding.OnLost == contract.OnLostBounce,
		Gateway:     d.gatewayHop,
		Fingerprint: d.identity.Fingerprint(),
		Identity:    who,
		Log:         log,
		Now:         now,
	})
	return d, err
}

// keepObserved keeps what a rule that only observes would have done.
func (d *service) keepObserved(one *milter.Decision) {
	if one.Rule.Mode != policy.Observe {
		return
	}
	to := one.Destination
	if to.IsZero() && len(one.Destinations) > 0 {
		to = one.Destinations[0]
	}
	for _, other := range one.Destinations {
		d.ledger.Mail(other, one.Rule.Name)
	}
	d.observed.Add(observe.Decision{Rule: one.Rule.Name, Destination: to, Reason: one.Reason, Would: one.Would,
		From: one.Sender, To: one.Recipient})
}

// isLocal reports whether mail to a domain is delivered here, as the file now in force says.
func (d *service) isLocal(domain addr.Domain) bool { return d.config.Load().Forwarding.IsLocal(domain) }

// origins are the domains that an MTA may give a bare sender: the host's name, its domain, and what is delivered here.
func origins(host string, c *config.Config) []addr.Domain {
	found := c.Forwarding.Domains()
	if d, err := addr.ParseDomain(host); err == nil {
		found = append(found, d)
		if parent := d.Parent(); !parent.IsZero() {
			found = append(found, parent)
		}
	}
	return found
}

// close gives back what newService took, the store last.
func (d *service) close() {
	if d.assessor != nil {
		d.assessor.Close()
	}
	if d.store != nil {
		if err := d.store.Close(); err != nil {
			d.log.Warn("store not closed well", "err", err)
		}
	}
}

// run serves until ctx ends, then lets messages under way finish.
func (d *service) run(ctx context.Context) error {
	defer d.close()
	c := d.config.Load()
	passed, err := passedSockets()
	if err != nil {
		return err
	}
	listener, err := passed.listen("milter", c.Milter.Listen)
	if err != nil {
		return err
	}
	// What works behind the milter ends after it: no new looks, none under way, what was seen is learned, people are told.
	background := func(work func(context.Context)) (stop func()) {
		ctx, end := context.WithCancel(context.WithoutCancel(ctx))
		var wg sync.WaitGroup
		wg.Go(func() { work(ctx) })
		return func() { end(); wg.Wait() }
	}
	defer background(d.notifier.Run)()
	defer background(d.ledger.Run)()
	defer background(d.keepUsing)()
	defer background(d.keepAround)()
	defer background(d.observed.Run)()
	defer d.assessor.Close()
	defer background(d.monitor.Run)()
	defer background(func(ctx context.Context) {
		if err := d.forwards.Run(ctx); err != nil {
			d.log.Error("forwards not watched", "err", err)
		}
	})()
	defer background(d.auditForwards)()
	defer background(d.watchSources)()
	served := make(chan error, 4)
	if d.maps != nil {
		maps, err := passed.listen("socketmap", c.Socketmap.Listen)
		if err != nil {
			listener.Close()
			return err
		}
		// The maps answer until the last: what the milter accepts at the end is delivered, too.
		go func() { served <- d.maps.Serve(maps) }()
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			if err := d.maps.Shutdown(end); err != nil {
				d.log.Warn("socketmap connections cut", "err", err)
			}
		}()
	}
	if d.gateway != nil {
		ln, err := passed.listen("fallback", c.Fallback.Listen)
		if err != nil {
			listener.Close()
			return err
		}
		go func() { served <- d.gateway.Serve(ln) }()
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			if err := d.gateway.Shutdown(end); err != nil {
				d.log.Warn("messages cut that fell back, the MTA tries them again", "err", err)
			}
		}()
	}
	stopHTTP, err := d.serveHTTP(ctx, passed, served)
	if err != nil {
		listener.Close()
		return err
	}
	defer stopHTTP()
	passed.close(d.log)
	go func() { served <- d.server.Serve(listener) }()
	defer background(d.binding.Run)()

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	d.log.Info("ready", "version", buildVersion(), "milter", c.Milter.Listen.String(), "socketmap", c.Socketmap.Listen.String(), "fallback", c.Fallback.Listen.String(), "http", c.HTTP.Listen, "rules", len(c.Rules.Rules()),
		"inbound", len(c.Inbound.Rules()), "destinations", d.ledger.Len())
	d.warn(c)
	defer background(func(ctx context.Context) {
		if problem := resolverProblem(ctx, c); problem != "" && ctx.Err() == nil {
			d.log.Warn("resolver not trusted about DNSSEC", "err", problem)
		}
	})()
	d.notify(daemon.SdNotifyReady)
	for {
		select {
		case <-hup:
			d.using.Lock()
			d.reload(ctx)
			d.using.Unlock()
		case err := <-served:
			if err == nil {
				err = errors.New("a listener was closed")
			}
			return err
		case <-ctx.Done():
			d.notify(daemon.SdNotifyStopping)
			d.log.Info("stopping")
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			if err := d.server.Shutdown(end); err != nil {
				d.log.Warn("sessions cut at the end of the drain", "err", err)
			}
			return nil
		}
	}
}

// warn logs what lint would say.
func (d *service) warn(c *config.Config) {
	for _, f := range config.Warnings(c, d.now()) {
		d.log.Warn("configuration", "err", f.String())
	}
}

// notify tells systemd, where it listens.
func (d *service) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("systemd not told", "state", state, "err", err)
	}
}
