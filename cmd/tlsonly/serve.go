package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/milter"
	"tlsonly/rules"
)

// drain is how long sessions in the middle of a message may go on after SIGTERM: longer than any deadline.
const drain = 30 * time.Second

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
	log := slog.New(slog.NewTextHandler(p.stderr, nil))
	d, err := newService(*file, c, log)
	if err != nil {
		return p.fail("%v", err)
	}
	if err := d.run(ctx); err != nil {
		log.Error("stopped", "err", err)
		return exitNo
	}
	return exitOK
}

// service is the running daemon.
type service struct {
	file     string
	config   atomic.Pointer[config.Config]
	log      *slog.Logger
	server   *milter.Server
	assessor interface{ Close() error }
}

func newService(file string, c *config.Config, log *slog.Logger) (*service, error) {
	assessor, err := newAssessor(c, log, false)
	if err != nil {
		return nil, err
	}
	d := &service{file: file, log: log, assessor: assessor}
	d.config.Store(c)
	decider := newDecider(c, assessor)
	decider.Local = func(domain addr.Domain) bool { return d.config.Load().Forwarding.IsLocal(domain) }
	decider.Relay = func(domain addr.Domain) (addr.Destination, bool) { return d.config.Load().Relay.For(domain) }
	d.server, err = milter.New(milter.Config{
		Decider:             decider,
		Rules:               func() *rules.Set { return d.config.Load().Rules },
		RefuseTLSRequiredNo: c.Milter.Headers,
		Log:                 log,
	})
	if err != nil {
		assessor.Close()
		return nil, err
	}
	return d, nil
}

// run serves until ctx ends, then lets messages under way finish.
func (d *service) run(ctx context.Context) error {
	defer d.assessor.Close()
	c := d.config.Load()
	listener, err := milter.Listen(c.Milter.Listen.Network, c.Milter.Listen.Address, 0)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(listener) }()

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	d.log.Info("ready", "version", buildVersion(), "milter", c.Milter.Listen.String(), "rules", len(c.Rules.Rules()))
	d.warn(c)
	d.notify(daemon.SdNotifyReady)
	for {
		select {
		case <-hup:
			d.reload()
		case err := <-served:
			if err == nil {
				err = errors.New("the milter's listener was closed")
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
			<-served
			d.log.Info("stopped")
			return nil
		}
	}
}

// reload reads the file again. A bad file changes nothing; what only a restart can change is named.
func (d *service) reload() {
	d.notify(daemon.SdNotifyReloading)
	defer d.notify(daemon.SdNotifyReady)
	fresh, err := config.Load(d.file)
	if err != nil {
		d.log.Error("reload refused, the old rules stay in force", "err", err)
		return
	}
	old := d.config.Load()
	if fresh.Milter != old.Milter || fresh.DNS != old.DNS || fresh.Probe != old.Probe || fresh.Cache != old.Cache {
		d.log.Warn("a change of [milter], [dns], [probe] or [cache] needs a restart; rules, [relay] and [forwarding] are in force now")
	}
	d.config.Store(fresh)
	d.log.Info("reloaded", "rules", len(fresh.Rules.Rules()))
	d.warn(fresh)
}

// warn logs what lint would say.
func (d *service) warn(c *config.Config) {
	for _, f := range config.Warnings(c, time.Now()) {
		d.log.Warn("configuration", "err", f.String())
	}
}

// notify tells systemd, where it listens.
func (d *service) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("systemd not told", "state", state, "err", err)
	}
}
