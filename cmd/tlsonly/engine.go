package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/mtasts"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/destination/webpki"
	"tlsonly/internal/policy"
	"tlsonly/milter"
	"tlsonly/rules"
)

// engine is what looks at destinations.
type engine struct {
	*destination.Assessor
	policies *mtasts.Keeper
	prober   *starttls.Prober
}

// Close ends all looks under way.
func (e *engine) Close() error {
	return errors.Join(e.Assessor.Close(), e.policies.Close())
}

// newEngine builds what looks at destinations, as c says. MTA-STS policies that are fetched are handed to save, if that is
// not nil; change, if any, is the caller's last word, and its Now is the clock of all parts.
func newEngine(c *config.Config, log *slog.Logger, save func(mtasts.Saved) error, change func(*engine, *destination.Config)) (*engine, error) {
	resolver, err := dns.New(dns.Config{
		Server:        c.DNS.Resolver,
		DNSSEC:        c.DNS.DNSSEC,
		TrustResolver: c.DNS.TrustResolver,
	})
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	helo := c.Probe.HELO
	if helo == "" {
		if helo, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("name of this host: %w", err)
		}
	}
	roots, err := webpki.Roots(c.Probe.CAFile)
	switch {
	case err != nil && c.Probe.CAFile != "":
		return nil, fmt.Errorf("[probe] ca_file: %w", err)
	case err != nil:
		// A host without roots can judge TLS all the same; no certificate is valid to it.
		log.Warn("no root certificates", "err", err)
		roots = x509.NewCertPool()
	}
	e := &engine{prober: &starttls.Prober{HELO: helo, Timeout: c.Probe.Timeout}}
	d := destination.Config{
		Resolver:    resolver,
		Prober:      e.prober,
		Roots:       roots,
		Port:        c.Probe.Port,
		IPv6:        c.Probe.PreferIPv6,
		Timeout:     c.Probe.Timeout,
		Confirm:     c.Probe.Confirm,
		MTA:         onceMTA(c),
		Concurrency: c.Probe.Concurrency,
		PerHost:     c.Probe.PerHost,
		Success:     c.Cache.Success,
		Failure:     c.Cache.Failure,
		Unknown:     c.Cache.Unknown,
		Log:         log,
		Wanted:      func() policy.Demand { return wanted(c.Rules, time.Now()) },
	}
	if change != nil {
		change(e, &d)
	}
	e.prober.Now, e.prober.MTA = d.Now, d.MTA
	if e.policies, err = mtasts.New(mtasts.Config{Resolver: resolver, Roots: roots, Save: save, Log: log, Now: d.Now}); err != nil {
		return nil, err
	}
	d.Policies = e.policies
	if e.Assessor, err = destination.New(d); err != nil {
		return nil, errors.Join(err, e.policies.Close())
	}
	return e, nil
}

// wanted is the most that rules ask of any destination, and what is said where no
// rule asks.
func wanted(asked interface {
	Strictest(addr.Domain, time.Time) policy.Demand
}, now time.Time) policy.Demand {
	return rules.Stricter(policy.DefaultDemand(), asked.Strictest(addr.Domain{}, now))
}

// newDecider builds what decides for one recipient, as c says.
func newDecider(c *config.Config, assessor milter.Assessor, ledger milter.Ledger) milter.Decider {
	return milter.Decider{
		Assessor: assessor,
		Ledger:   ledger,
		Local:    c.Forwarding.IsLocal,
		Relay:    c.Relay.For,
		Deadline: c.Milter.Deadline,
		Help:     c.Milter.Help,
	}
}

// enforcedAtDelivery returns what says whether delivery holds a forward that can't
// be read to what a rule asks; nil where that isn't to count. Rules are those
// by which the MTA is answered now.
func enforcedAtDelivery(c *config.Config, rs func() *rules.Delivery) func(rules.Candidates, *rules.Rule) bool {
	if c.Forwarding.Unreadable != contract.UnreadableLocal || c.Socketmap.Listen == (config.Endpoint{}) || c.Binding.Senders != contract.SendersMap {
		return nil
	}
	// In Postfix all mail of a sender is bound whose mail a rule by login
	// accepted; Sendmail knows its recipients only.
	_, lends := usesPostfix(c.Forwarding)
	return func(from rules.Candidates, r *rules.Rule) bool { return rs().Covers(from, r, lends) }
}
