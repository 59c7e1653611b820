package judge

import "tlsonly/internal/policy"

// Confirmed reports whether a destination that does not satisfy a demand may be
// refused for good: each of its hosts failed in two probes, with a moment between
// them. Otherwise one bad moment would decide: a host behind a load balancer, a
// restart, a certificate being replaced. Of what the DNS says one answer is
// enough. Where an MTA tries one address of a host, none of the others may do.
func Confirmed(d policy.Demand, a policy.Assessment) bool {
	for _, h := range a.Hosts {
		if h.Problem != "" || Host(d, a, h) == "" {
			continue
		}
		if h.Once || a.OneAddress && oneGood(d, a, h) {
			return false
		}
		if len(h.Earlier) == 0 {
			continue // stored by a version that knew no second probe
		}
		h.Observations = h.Earlier
		if before := Host(d, a, h); before == "" || before.Unknown() {
			return false
		}
	}
	return true
}

// oneGood reports whether any address of a host satisfies a demand. An MTA that
// tries one only may come to it another time, because the order changes.
func oneGood(d policy.Demand, a policy.Assessment, h policy.Host) bool {
	a.OneAddress = false
	return Host(d, a, h) == ""
}

// Repeatable reports whether a second probe of a destination's hosts is owed to it
// before it is refused: its hosts were reached, and one of them was probed once.
func Repeatable(a policy.Assessment) bool {
	if a.Problem != "" || OutcomeOf("", a.Hosts) == Unknown {
		return false
	}
	for _, h := range a.Hosts {
		if h.Problem == "" && h.Once {
			return true
		}
	}
	return false
}
