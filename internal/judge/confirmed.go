package judge

import "tlsonly/internal/policy"

// Confirmed reports whether a destination that does not satisfy a demand may be
// refused for good: each of its hosts failed in two probes, with a moment between
// them. Otherwise one bad moment would decide: a host behind a load balancer, a
// restart, a certificate being replaced. Of what the DNS says one answer is
// enough.
func Confirmed(d policy.Demand, a policy.Assessment) bool {
	for _, h := range a.Hosts {
		if h.Problem != "" || Host(d, a, h) == "" {
			continue
		}
		if h.Once {
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

// Doubtful reports whether a second probe of a destination's hosts is owed to it
// before it is refused: its hosts were reached, and one of them was probed once.
func Doubtful(a policy.Assessment) bool {
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
