package ledger

import (
	"slices"
	"strings"
	"time"

	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// anyTLS is what a look must have seen to count as a success for a pin: TLS of any version.
func anyTLS() policy.Demand { return policy.Demand{Level: policy.LevelEncrypt} }

// seen is what the looks that found something out came to.
type seen struct {
	level policy.Level // "" when it isn't known
	lost  bool         // the destination is pinned, showed no STARTTLS, and no TLS since
	hosts []policy.Host
	dane  string // mail hosts that usable TLSA records authenticate
	sts   string // the MTA-STS policy: its mode and id
}

// seenIn is what is seen in a stored assessment.
func seenIn(a policy.Assessment, pinned bool) seen {
	if a.When.IsZero() {
		return seen{}
	}
	return seen{judge.Reached(a), judge.Lost(a, pinned), a.Hosts, daneOf(a, ""), stsOf(a, "")}
}

// then is s after one more look, and what is new in it, for the history. What couldn't be found out is no change.
// When and Destination of the events are left to the caller.
func (s seen) then(found policy.Assessment, pinned bool) (seen, []store.Event) {
	reason := judge.Destination(anyTLS(), found)
	if reason.Unknown() {
		return s, nil
	}
	is := seen{s.level, s.lost && pinned, found.Hosts, daneOf(found, s.dane), stsOf(found, s.sts)}
	if level := judge.Reached(found); level != "" {
		is.level = level
	}
	e := store.Event{From: string(s.level), To: string(is.level), Why: string(judge.Destination(policy.DefaultDemand(), found))}
	switch {
	case judge.Lost(found, pinned) && !is.lost:
		e.What, is.lost = store.LostTLS, true
	case is.lost && reason == "":
		e.What, is.lost = store.TLSBack, false
	case is.level != s.level:
		e.What = store.LevelChanged
	}
	var events []store.Event
	if e.What != "" {
		events = append(events, e)
	}
	if len(s.hosts) > 0 && len(is.hosts) > 0 && !slices.EqualFunc(s.hosts, is.hosts, sameName) {
		if from, to := names(s.hosts), names(is.hosts); from != to {
			events = append(events, store.Event{What: store.HostsChanged, From: from, To: to})
		}
	}
	if s.level != "" && s.dane != is.dane {
		events = append(events, store.Event{What: store.DANEChanged, From: s.dane, To: is.dane})
	}
	if s.level != "" && s.sts != is.sts {
		events = append(events, store.Event{What: store.MTASTSChanged, From: s.sts, To: is.sts})
	}
	return is, events
}

// daneOf names the hosts that have usable TLSA records, sorted; before where that isn't known of all.
func daneOf(a policy.Assessment, before string) string {
	var usable []policy.Host
	for _, h := range a.Hosts {
		switch {
		case h.DANE == policy.DANEUnknown, h.Problem.Unknown():
			return before
		case h.DANE == policy.DANEUsable:
			usable = append(usable, h)
		}
	}
	return names(usable)
}

// stsOf names an MTA-STS policy; before where it isn't known.
func stsOf(a policy.Assessment, before string) string {
	switch {
	case a.MTASTS.Mode == "" && a.MTASTS.Problem != "":
		return before
	case a.MTASTS.Mode == "":
		return ""
	}
	return string(a.MTASTS.Mode) + " " + a.MTASTS.ID
}

func sameName(a, b policy.Host) bool { return a.Name == b.Name }

// names lists mail hosts, sorted.
func names(hosts []policy.Host) string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name.String())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// firstGap is how soon a failed look is taken again; the gap doubles with each further failure.
const firstGap = 15 * time.Minute

// Next is how long after a look the next one is due: every, spread by a tenth either way so that what was learned at
// one time isn't looked at again at one time; soon after a failure, with growing gaps. failures counts the looks in a
// row that failed, spread is from [0,1).
func Next(every time.Duration, failures int, spread float64) time.Duration {
	gap := every
	if n := failures - 1; n >= 0 && n < 16 {
		gap = min(every, firstGap<<n)
	}
	return time.Duration(float64(gap) * (0.9 + 0.2*spread))
}
