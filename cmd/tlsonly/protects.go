package main

import (
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/mta/postfix"
	"tlsonly/rules"
)

// protects says how many of the senders that a pattern selects rules in force
// protect. Rules by login name nobody's address.
func protects(set *rules.Set, now time.Time) func(addr.Pattern) postfix.Share {
	return func(p addr.Pattern) postfix.Share {
		if p.Kind() == addr.Exact {
			if set.Class(p.Address(), now) > 0 {
				return postfix.All
			}
			return postfix.None
		}
		share := postfix.None
		for _, r := range set.Rules() {
			if !r.Enforcing() || !r.Active(now) || len(r.Forwarder) > 0 {
				continue
			}
			if len(r.From) == 0 && len(r.User) == 0 {
				return postfix.All
			}
			for _, from := range r.From {
				switch {
				case from.Covers(p):
					return postfix.All
				case p.Covers(from):
					share = postfix.Some
				}
			}
		}
		return share
	}
}

// excepts reports whether a rule in force lets mail to a domain go in the
// clear: as an exception from another it holds for all mail whose next hop has
// that name.
func excepts(set *rules.Set, now time.Time) func(addr.Domain) bool {
	return func(d addr.Domain) bool {
		for _, r := range set.Rules() {
			if r.Level.Enforces() || !r.Active(now) || len(r.Forwarder) > 0 {
				continue
			}
			for _, to := range r.To {
				switch to.Kind() {
				case addr.InDomain, addr.Exact:
					if to.Domain() == d {
						return true
					}
				case addr.Below:
					if d.Under(to.Domain()) {
						return true
					}
				}
			}
		}
		return false
	}
}
