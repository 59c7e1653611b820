package ledger

import (
	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Summary is what is remembered of one destination, in short.
type Summary struct {
	Destination addr.Destination
	Level       policy.Level // reached at the last look that found something out; "" when that isn't known
	Demand      store.Demand
	Failures    int // looks in a row
	Fault       Fault
	Pinned      bool
	Lost        bool // pinned, and shows no TLS
}

// Fault says what fails at a destination, "" for nothing.
type Fault string

// The faults.
const (
	NoMail      Fault = "no-mail"     // its domain doesn't exist or accepts no mail: mostly a typing error
	NoTLS       Fault = "no-tls"      // it was reached, and did no TLS
	Unreachable Fault = "unreachable" // or its names don't resolve: what it does isn't known
)

// fault sorts k's last look.
func (k *record) fault() Fault {
	switch {
	case k.failures == 0:
		return ""
	case k.reason.Permanent():
		return NoMail
	case k.reason == "" || k.reason.Unknown():
		return Unreachable
	}
	return NoTLS
}

// yieldEvery is after how many destinations All lets others write.
const yieldEvery = 500

// All hands what is known to each, in no order, until it returns false.
// Decisions go on meanwhile, so what is learned while All runs may be in it or
// not. Each doesn't call the Ledger, and it doesn't wait.
func (l *Ledger) All(each func(Summary) bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := 0
	for d, k := range l.records {
		if !each(Summary{d, k.seen.level, k.demand, k.failures, k.fault(), k.pinned, k.seen.lost && k.pinned}) {
			return
		}
		// Changing a map between two steps of a range over it is allowed.
		if n++; n%yieldEvery == 0 {
			l.mu.RUnlock()
			l.mu.RLock() // whoever waits to write comes first
		}
	}
}
