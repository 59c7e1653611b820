package destination

import (
	"time"

	"tlsonly/internal/policy"
)

// keepAssessment and keepHost say that an answer was good and the new one found out nothing.
func keepAssessment(old, found policy.Assessment) bool {
	return quality(old.Problem, old.Hosts) == success && quality(found.Problem, found.Hosts) == unknown
}

func keepHost(old, found policy.Host) bool {
	return quality("", []policy.Host{old}) == success && quality("", []policy.Host{found}) == unknown
}

// What a look was, for how long it serves.
type outcome int

const (
	success outcome = iota // a host offered TLS
	failure                // every host was seen not to, or there is none
	unknown
)

func quality(problem policy.Reason, hosts []policy.Host) outcome {
	result := failure
	if problem.Unknown() {
		result = unknown
	}
	for _, h := range hosts {
		if h.Problem.Unknown() {
			result = unknown
		}
		if h.DANE == policy.DANEUnknown {
			result = unknown // whatever it offers, nobody may use it: RFC 7672, section 2.1.2
			continue
		}
		for _, o := range h.Observations {
			switch o.Outcome {
			case policy.SawTLS:
				return success
			case policy.SawUnreachable, policy.SawTimeout, policy.SawMangled:
				result = unknown
			}
		}
	}
	return result
}

// broken reports whether hosts speak TLS and none of them keeps what is published: by DANE, or by MTA-STS.
func broken(a policy.Assessment) bool {
	spoken := false
	for _, h := range a.Hosts {
		for _, o := range h.Observations {
			if o.Outcome != policy.SawTLS {
				continue
			}
			kept := true
			switch {
			case h.DANE == policy.DANEUnknown:
				kept = false
			case h.DANE == policy.DANEUsable:
				kept = o.DANE != policy.DANEMismatch
			case a.MTASTS.Enforces():
				kept = a.MTASTS.Permits(h.Name) && o.Trust == policy.Trusted && len(o.Chain) > 0 && o.Chain[0].Bears(h.Name)
			}
			if kept {
				return false
			}
			spoken = true
		}
	}
	return spoken
}

// until says how long an answer found at when serves: not longer than a certificate in it is valid.
func (a *Assessor) until(when time.Time, problem policy.Reason, hosts []policy.Host) time.Time {
	switch quality(problem, hosts) {
	case failure:
		return when.Add(a.c.Failure)
	case unknown:
		return when.Add(a.c.Unknown)
	}
	end := when.Add(a.c.Success)
	for _, h := range hosts {
		for _, o := range h.Observations {
			for _, c := range o.Chain {
				if o.Trust == policy.Trusted && c.NotAfter.After(when) && c.NotAfter.Before(end) {
					end = c.NotAfter
				}
			}
		}
	}
	return end
}
