package destination

import (
	"time"

	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// keepAssessment and keepHost say that an answer was good and the new one found out nothing.
func keepAssessment(old, found policy.Assessment) bool {
	return judge.OutcomeOf(old.Problem, old.Hosts) == judge.Success &&
		judge.OutcomeOf(found.Problem, found.Hosts) == judge.Unknown
}

func keepHost(old, found policy.Host) bool {
	return judge.OutcomeOf("", []policy.Host{old}) == judge.Success &&
		judge.OutcomeOf("", []policy.Host{found}) == judge.Unknown
}

// until says how long an answer found at when serves: not longer than a certificate in it is valid.
func (a *Assessor) until(when time.Time, problem policy.Reason, hosts []policy.Host) time.Time {
	switch judge.OutcomeOf(problem, hosts) {
	case judge.Failure:
		return when.Add(a.c.Failure)
	case judge.Unknown:
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
