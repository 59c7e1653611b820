package main

import (
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/mta/postfix"
	"tlsonly/rules"
)

// protects is rules.Set.Share as package postfix asks it.
func protects(set *rules.Set, now time.Time) func(addr.Pattern) postfix.Share {
	return func(p addr.Pattern) postfix.Share {
		switch some, all := set.Share(p, now); {
		case all:
			return postfix.All
		case some:
			return postfix.Some
		}
		return postfix.None
	}
}

// excepts is rules.Set.Excepts as package postfix asks it.
func excepts(set *rules.Set, now time.Time) func(addr.Domain) bool {
	return func(d addr.Domain) bool { return set.Excepts(d, now) }
}
