package milter

import (
	"context"
	"fmt"
	"slices"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// note makes durable, before a recipient is accepted, what delivery must know and
// isn't shown: that a next hop is a relay, and that a sender is one of a rule's
// logins. Where that can't be done the recipient is deferred.
func (s *session) note(msg *message, d *Decision) {
	if d.Rule == nil || !d.Rule.Enforcing() || !d.Verdict.Accepted() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(msg.ctx), storeTime)
	defer cancel()
	if err := s.noteWith(ctx, msg, d); err != nil {
		s.server.c.Decider.deferFor(d, policy.StoreFailed, d.firstDestination(), fmt.Sprintf("not stored: %v", err))
	}
}

func (s *session) noteWith(ctx context.Context, msg *message, d *Decision) error {
	c := &s.server.c
	if c.Relayed != nil && msg.envelope.mta != sendmailMTA {
		if err := s.noteRelays(ctx, d.Recipient, d.Destinations); err != nil {
			return err
		}
		for _, leaf := range d.Forwards {
			if err := s.noteRelays(ctx, leaf.Address, leaf.Hops); err != nil {
				return err
			}
		}
	}
	if c.Lent == nil || len(d.Rule.User) == 0 {
		return nil
	}
	for _, from := range msg.candidates.Senders() {
		if from.IsNull() || d.Rule.NamesSender(msg.candidates.Forms(), from) {
			continue
		}
		if err := c.Lent(ctx, from); err != nil {
			return err
		}
	}
	return nil
}

// noteRelays notes hops that bear another domain's name than a recipient's, and so
// would be taken for that domain. What has brackets or a port is known as a relay.
func (s *session) noteRelays(ctx context.Context, to addr.Address, hops []addr.Destination) error {
	for _, hop := range hops {
		if hop.Direct() || hop.Port() != 0 || hop == addr.DomainDestination(to.Domain) {
			continue
		}
		if err := s.server.c.Relayed(ctx, hop); err != nil {
			return err
		}
	}
	return nil
}

// lent adds the rules by login to those of a sender whose mail they bind at
// delivery: else it would be accepted and wait.
func (s *session) lent(set *rules.Set, c rules.Candidates) rules.Candidates {
	if isLent := s.server.c.IsLent; isLent != nil && slices.ContainsFunc(c.Senders(), isLent) {
		return set.ByLogin(c, s.server.c.Now())
	}
	return c
}
