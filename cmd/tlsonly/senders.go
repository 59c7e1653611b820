package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta/sendmail"
)

// newSenders reads what a Sendmail makes of senders; nil where [forwarding] has
// none, or a Postfix is asked instead.
func newSenders(ctx context.Context, c *config.Config, log *slog.Logger) (*sendmail.Senders, error) {
	in, ok := sendmailOf(c.Forwarding)
	if !ok {
		return nil, nil
	}
	s, err := in.Senders(ctx)
	if err != nil {
		return nil, fmt.Errorf("[forwarding] sendmail: %w", err)
	}
	for _, unread := range s.Unread {
		log.Warn("table can't be followed, so senders that it rewrites are judged only at delivery", "table", unread)
	}
	return s, nil
}

// sendmailOf says which Sendmail's settings are read.
func sendmailOf(f config.Forwarding) (sendmail.Installation, bool) {
	var in sendmail.Installation
	if _, ok := usesPostfix(f); ok || !usesSendmail(f) {
		return in, false
	}
	if f.Sendmail != "auto" {
		in.Cf = f.Sendmail
	}
	return in, true
}

// doctorsSenders fills in what doctor needs for senders. It looks at the
// sendmail.cf of Debian's package.
func doctorsSenders(s *sendmail.Settings, c *config.Config) {
	in, ok := sendmailOf(c.Forwarding)
	s.Followed = ok && (in.Cf == "" || in.Cf == "/etc/mail/sendmail.cf")
	s.FreeBounces = c.Binding.Bounces == contract.BouncesOthers
	s.Protects = func(a addr.Address) bool { return c.Rules.Class(a, time.Now()) > 0 }
}

// originsOf are the domains that an MTA may give a bare sender: those that it
// says itself, else what can be guessed.
func originsOf(host string, c *config.Config, s *sendmail.Senders) []addr.Domain {
	if s == nil {
		return origins(host, c)
	}
	return append(origins(host, c), s.Names...)
}
