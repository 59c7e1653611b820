package judge

import "tlsonly/internal/policy"

// Outcome is what a look at a destination or a host came to, for how long its
// result serves.
type Outcome int

// The outcomes.
const (
	Success Outcome = iota // a host offered TLS that may be used
	Failure                // every host was seen not to, or there is none
	Unknown
)

// OutcomeOf is the outcome of a look at a destination: what kept it from its
// hosts, "" for nothing, and the hosts.
func OutcomeOf(problem policy.Reason, hosts []policy.Host) Outcome {
	result := Failure
	if problem.Unknown() {
		result = Unknown
	}
	for _, h := range hosts {
		if h.Problem.Unknown() {
			result = Unknown
		}
		if h.DANE == policy.DANEUnknown {
			result = Unknown // whatever it offers, nobody may use it: RFC 7672, section 2.1.2
			continue
		}
		for _, o := range h.Observations {
			switch o.Outcome {
			case policy.SawTLS:
				return Success
			case policy.SawUnreachable, policy.SawTimeout, policy.SawMangled:
				result = Unknown
			}
		}
	}
	return result
}

// published is the demand of nobody but the destination itself.
func published() policy.Demand {
	return policy.Demand{Level: policy.LevelEncrypt, Honor: policy.Honor{DANE: true, MTASTS: true}}
}

// Broken reports whether hosts speak TLS and none of them keeps what the
// destination publishes, by DANE or by MTA-STS. Mail is refused for it, and
// somebody may be mending it.
func Broken(a policy.Assessment) bool {
	spoken := false
	for _, h := range a.Hosts {
		for _, o := range h.Observations {
			if o.Outcome != policy.SawTLS {
				continue
			}
			h.Observations = []policy.Observation{o}
			if Host(published(), a, h) == "" {
				return false
			}
			spoken = true
		}
	}
	return spoken
}

// Final reports whether an address of a host shows what satisfies a demand and
// everything that may be published for the host, so that its other addresses need
// no look: its DANE records, or else a valid certificate for its own name, which
// MTA-STS asks for.
func Final(d policy.Demand, h policy.Host, o policy.Observation) bool {
	if o.Outcome != policy.SawTLS || o.HelloOnly || o.Version < d.MinVersion || o.Bits < d.MinBits {
		return false
	}
	return Proves(h, o)
}

// Proves reports whether an address shows everything that may be published for its
// host: its DANE records, or else a valid certificate for its own name.
func Proves(h policy.Host, o policy.Observation) bool {
	named := len(o.Chain) == 0 || o.Chain[0].Bears(h.Name)
	if h.DANE == policy.DANEUsable {
		return o.DANE == policy.DANEMatchEE || o.DANE == policy.DANEMatchTA && named
	}
	return o.Trust == policy.Trusted && named
}
