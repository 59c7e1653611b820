package socketmap

import (
	"context"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// tlsRcpt answers Sendmail, which asks before a recipient is named to a host: may it go there in the clear, or, over TLS, is
// that the right host?
//
// Sendmail can't be told what would authenticate a host, so it says what the host showed, and the answer is yes where our own
// look saw the same certificate on that host and found it good.
//
// BUGS: A host that shows several certificates in turn is known by those of the last look; mail waits where another comes up.
// Recipients of several domains with the same mail hosts are sent together, and Sendmail then tells the next hop of the first
// for all. Where names of domains are not looked up before (FEATURE(`nocanonify')) that can't be told from a route by
// mailertable: a recipient whose MX records an attacker made those of another recipient's domain is judged by that domain.
func (s *Server) tlsRcpt(b []byte, key string, now time.Time) []byte {
	verdict := policy.Defer
	if q, ok := readQuestion(key); ok {
		verdict = s.mayGo(q, now)
	} else if s.trace != nil {
		s.because(whoDoubt, "the question can't be read, or sender or recipient could mean two addresses in the clear")
	}
	switch verdict {
	case policy.Accept:
		s.counts.add(MapTLSRcpt, AnswerPass)
		return append(b, "OK "+contract.Pass...)
	case policy.Reject:
		s.counts.add(MapTLSRcpt, AnswerReject)
		return append(b, "OK "+contract.Reject...)
	}
	s.counts.add(MapTLSRcpt, AnswerDefer)
	return append(b, "OK "+contract.Defer...)
}

// mayGo judges by the sender as it is queued and as it is written to the host.
func (s *Server) mayGo(q question, now time.Time) policy.Verdict {
	set := s.c.Rules()
	if q.report {
		return s.reportMayGo(set, q, now)
	}
	verdict := s.mayGoFrom(set, q, q.from, now)
	if q.written != (sender{}) {
		verdict = stricter(verdict, s.mayGoFrom(set, q, q.written, now))
	}
	return verdict
}

func stricter(a, b policy.Verdict) policy.Verdict {
	if b.Rank() > a.Rank() {
		return b
	}
	return a
}

// mayGoFrom is mayGo for one form of the sender.
func (s *Server) mayGoFrom(set *rules.Delivery, q question, from sender, now time.Time) policy.Verdict {
	var whose []addr.Address
	if from.known || !from.Domain.IsZero() && !set.Protects(from.Domain, now) {
		whose = s.whoseAt(set, from.Address, q.hostDomain, now)
	}
	switch {
	case len(whose) > 0:
	case q.encrypted:
		// It may be anybody's, so it is held to the most that is asked for anybody's.
		demand := set.Strictest(q.to.Domain, now)
		if s.trace != nil {
			s.because(whoDoubt, "the sender may be anybody, so the strictest of all rules holds: %s", demand.Words())
		}
		if s.right(demand, demand.Level.Enforces(), q) {
			return policy.Accept
		}
		return policy.Defer
	case set.Enforces(now):
		if s.trace != nil {
			s.because(whoDoubt, "the sender may be anybody, and the session is in the clear")
		}
		return policy.Defer
	default:
		whose = []addr.Address{from.Address}
	}
	verdict := policy.Accept
	for _, a := range whose {
		verdict = stricter(verdict, s.mayGoAs(set, a, q, now))
	}
	return verdict
}

// mayGoAs is mayGo for one sender.
func (s *Server) mayGoAs(set *rules.Delivery, from addr.Address, q question, now time.Time) policy.Verdict {
	switch {
	case !q.encrypted:
		return s.clearFor(set, from, q, now)
	case !s.rightFor(set, from, q, now):
		return policy.Defer
	}
	return policy.Accept
}

// rightFor reports whether mail of from to the recipient may be given to the host that the session over TLS is with.
func (s *Server) rightFor(set *rules.Delivery, from addr.Address, q question, now time.Time) bool {
	var ask rules.Requirement
	n := set.Class(from, now)
	switch {
	case n > 0 && q.toKnown:
		ask, _ = set.RequirementFor(from, q.to, now)
	case n > 0:
		ask = set.RequirementAt(from, q.to.Domain, now)
	}
	if s.trace != nil {
		s.traceFor(set, from, q, n, ask, now)
	}
	if ask.Exempt && !q.authenticate {
		return true
	}
	return s.right(ask.Demand, n > 0, q)
}

// right reports whether the host is one that mail under a demand may be given to; protected is mail of a sender that rules
// protect.
func (s *Server) right(demand policy.Demand, protected bool, q question) bool {
	own := addr.DomainDestination(q.to.Domain)
	for _, d := range append([]addr.Destination{own, q.server}, q.via...) {
		if !d.IsZero() {
			demand = rules.Stricter(demand, s.standingDemand(d, protected))
		}
	}
	if q.authenticate && demand.Level.Rank() < policy.LevelSecure.Rank() {
		// So it was accepted: by rules that are no longer, or whose senders an owner-alias has replaced.
		demand.Level, demand.Match = policy.LevelSecure, s.c.Rules().Names(q.to.Domain, s.c.Now())
		demand.Honor = policy.DefaultDemand().Honor
	}
	if s.c.Others != contract.OthersOff && !protected {
		demand.Honor = policy.DefaultDemand().Honor
	}
	protected = protected || demand.Level.Enforces()
	if s.trace != nil {
		s.because(whoAnswer, "over TLS the host must satisfy: %s", demand.Words())
	}
	switch {
	case s.c.Assessor == nil:
		return demand.Level.Rank() <= policy.LevelEncrypt.Rank()
	case !protected && s.c.Others == contract.OthersOff:
		return true
	case !demand.Level.Enforces():
		demand.Level = policy.LevelEncrypt // what is published binds from there up
	}
	// All looks together: Sendmail waits for the answer little longer than for one.
	ctx, cancel := context.WithTimeout(s.ctx, s.c.Deadline)
	defer cancel()
	if len(q.via) == 0 {
		return s.rightAt(ctx, own, demand, protected, q)
	}
	route := q.via[0]
	for _, d := range q.via { // more than one where the mailertable names hosts to fall back to
		if a, ok := s.assessmentFor(ctx, d, protected); ok && hosts(a, q.server.Host()) {
			route = d
			break
		}
	}
	if s.rightAt(ctx, route, demand, protected, q) {
		return true
	}
	a, ok := s.assessmentFor(ctx, own, protected) // the next hop may be that of others, sent together with this
	return ok && judge.Admits(demand, a, q.server.Host(), q.fingerprint)
}

// rightAt is right for a destination that the host was found by.
func (s *Server) rightAt(ctx context.Context, hop addr.Destination, demand policy.Demand, protected bool, q question) bool {
	admits := func(a policy.Assessment) bool {
		bound, ok := judge.Enforcement(demand, a)
		switch {
		case !ok:
			return !protected
		case bound.Level == policy.LevelEncrypt:
			return true
		}
		return judge.Admits(demand, a, q.server.Host(), q.fingerprint)
	}
	a, ok := s.assessmentFor(ctx, hop, protected)
	if s.trace != nil && ok {
		s.traceAssessment(a)
	}
	if !ok || admits(a) {
		return true
	}
	// It may have got another certificate since the look.
	return admits(s.c.Assessor.Refresh(ctx, hop, renewed))
}

// renewed is how old a look may be that is taken for one at a host that shows another certificate now: those who ask can't
// make us look all the time.
const renewed = time.Minute

// assessmentFor returns what is known of a destination; for protected mail, and
// where [binding] says so, it is found out.
func (s *Server) assessmentFor(ctx context.Context, d addr.Destination, protected bool) (policy.Assessment, bool) {
	if protected || s.c.Others == contract.OthersPublished {
		return s.c.Assessor.Assess(ctx, d, nil), true
	}
	return s.c.Assessor.Remembered(d)
}

// hosts reports whether a host is one of a destination's.
func hosts(a policy.Assessment, host addr.Domain) bool {
	return slices.ContainsFunc(a.Hosts, func(h policy.Host) bool { return h.Name == host })
}

func (s *Server) clearFor(set *rules.Delivery, from addr.Address, q question, now time.Time) policy.Verdict {
	var ask rules.Requirement
	var rule *rules.Rule
	n := set.Class(from, now)
	if n > 0 {
		ask, rule = set.RequirementFor(from, q.to, now)
	}
	if s.trace != nil {
		s.traceFor(set, from, q, n, ask, now)
	}
	switch {
	case ask.Demand.Level.Enforces() && s.c.Bounce && rule.OnFail == policy.ActionReject:
		return policy.Reject
	case ask.Demand.Level.Enforces():
		return policy.Defer
	case ask.Exempt:
		return policy.Accept
	}
	for _, hop := range append([]addr.Destination{addr.DomainDestination(q.to.Domain), q.server}, q.via...) {
		if !hop.IsZero() && s.standingDemand(hop, n > 0).Level.Enforces() {
			return policy.Defer
		}
	}
	if s.homeOf(q.to.Domain, now) {
		if s.trace != nil {
			s.because(whoHome, "protected senders get their mail there, so bounces about their mail go there")
		}
		return policy.Defer // as in policy: a bounce to a protected sender
	}
	return policy.Accept
}

// domainOnly reads the domain of an address, which follows the last "@" whatever is quoted before it.
func domainOnly(s string) addr.Address {
	domain, err := addr.ParseDomain(s[strings.LastIndexByte(s, '@')+1:])
	if err != nil {
		return addr.Address{}
	}
	return addr.Address{Local: "unknown", Domain: domain}
}

// readVia reads $h as far as it is not the recipient's own domain. Of a domain that DNS knows Sendmail writes the name with a
// dot at its end, of what stands in a table the name as it stands there; a colon is between hosts to fall back to.
func readVia(h string, own addr.Destination) []addr.Destination {
	if h == "" || strings.HasSuffix(h, ".") {
		return nil
	}
	var via []addr.Destination
	for h != "" {
		part := h
		start := 0
		if strings.HasPrefix(h, "[") {
			start = max(strings.IndexByte(h, ']'), 0) // an address may have colons
		}
		if i := strings.IndexByte(h[start:], ':'); i >= 0 {
			part, h = h[:start+i], h[start+i+1:]
		} else {
			h = ""
		}
		if d, err := addr.ParseDestination(part); err == nil && d != own && d.Port() == 0 {
			via = append(via, d)
		}
	}
	return via
}

// readPlain takes addresses that are the same with and without quotes, for Sendmail shows them without.
func readPlain(s string) (addr.Address, bool) {
	local, domain, found := strings.Cut(s, "@")
	if found && local == "" || strings.ContainsAny(local, " \t\"\\(),;:<>[]") || strings.ContainsAny(domain, " \t\"\\(),;@") {
		return addr.Address{}, false
	}
	a, err := addr.ParsePath(s)
	return a, err == nil
}
