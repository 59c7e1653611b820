package socketmap

import (
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// What Sendmail writes itself has the null sender on the wire. In the queue it
// is from the name that Sendmail has for errors, and nothing there says which
// message it is about. So while any rule enforces, none of it leaves in the
// clear, unless a rule for "<>" says so.
//
// A refusal in the process that wrote a report is the end of it: the reason for
// the report is taken for that of the refusal. So that process is told to leave
// it in the queue, and it is judged in the next queue run, where a refusal is a
// deferral like any other.

// errorName is Sendmail's name for errors unless a site chose another.
const errorName = "mailer-daemon"

// isReport reports whether a sender in the queue is the null sender, or
// Sendmail's name for errors, bare, in its own domain, or as the site wrote it.
func isReport(from, name string, own addr.Domain) bool {
	if from == "" || from == "<>" || strings.EqualFold(from, name) {
		return true
	}
	local, domain, qualified := strings.Cut(from, "@")
	if local = strings.ToLower(local); local != errorName && local != strings.ToLower(name) {
		return false
	}
	d, err := addr.ParseDomain(domain)
	return !qualified || err == nil && d == own
}

// tlsReport answers whether a report may leave in the process that wrote it.
func (s *Server) tlsReport(b []byte, now time.Time) []byte {
	if s.reportsFree(s.c.Rules(), now) {
		if s.trace != nil {
			s.because(whoNobody, "no rule enforces")
		}
		s.counts.add(MapReport, AnswerFree)
		return append(b, "OK "+contract.Free...)
	}
	if s.trace != nil {
		s.because(whoBounces, "while a rule enforces, a report is judged in a queue run, where a refusal keeps it")
	}
	s.counts.add(MapReport, AnswerWait)
	return append(b, "TEMP a report waits for a queue run"...)
}

// reportsFree reports whether nothing that is asked of a report is refused.
func (s *Server) reportsFree(set *rules.Delivery, now time.Time) bool {
	return !set.Enforces(now) && s.c.Others != contract.OthersPublished
}

// reportMayGo judges a report, by the rules for "<>" and by what is known of
// its destination.
func (s *Server) reportMayGo(set *rules.Delivery, q question, now time.Time) policy.Verdict {
	if s.reportsFree(set, now) {
		return policy.Accept
	}
	verdict := s.mayGoAs(set, addr.Address{}, q, now)
	if q.encrypted || s.c.FreeBounces || !set.Enforces(now) || exempt(set, q.to, now) {
		return verdict
	}
	if s.trace != nil {
		s.because(whoBounces, "reports leave over TLS while any rule enforces: nobody can tell which are about protected mail")
	}
	return stricter(verdict, policy.Defer)
}

// exempt reports whether a rule that names the null sender lets reports for a
// recipient go without TLS. One for everybody is not meant for them.
func exempt(set *rules.Delivery, to addr.Address, now time.Time) bool {
	r := set.Under(set.Set().Sender(addr.Address{}, "", now)).Match(to)
	return r != nil && r.Mode == policy.Enforce && !r.Level.Enforces() &&
		slices.ContainsFunc(r.From, func(p addr.Pattern) bool { return p.Kind() == addr.Null })
}

// whoseAt is whose where the MTA has said what it adds to a bare name.
func (s *Server) whoseAt(set *rules.Delivery, from addr.Address, own addr.Domain, now time.Time) []addr.Address {
	if !from.IsNull() && from.Domain.IsZero() {
		from.Domain = own
	}
	return s.whose(set, from, now)
}
