package main

import (
	"fmt"
	"log/slog"
	"os"

	"tlsonly/internal/config"
	"tlsonly/internal/destination"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/milter"
)

// newAssessor builds what looks at destinations, as c says; change, if any, is the caller's last word.
func newAssessor(c *config.Config, log *slog.Logger, change func(*destination.Config)) (*destination.Assessor, error) {
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
	d := destination.Config{
		Resolver:    resolver,
		Prober:      &starttls.Prober{HELO: helo, Timeout: c.Probe.Timeout},
		Port:        c.Probe.Port,
		IPv6:        c.Probe.PreferIPv6,
		Timeout:     c.Probe.Timeout,
		Concurrency: c.Probe.Concurrency,
		PerHost:     c.Probe.PerHost,
		Success:     c.Cache.Success,
		Failure:     c.Cache.Failure,
		Unknown:     c.Cache.Unknown,
		Log:         log,
	}
	if change != nil {
		change(&d)
	}
	return destination.New(d)
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
