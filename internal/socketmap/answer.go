package socketmap

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// reply appends the answer to one question, "mapname SP key".
func (s *Server) reply(b, question []byte) []byte {
	name, key, ok := bytes.Cut(question, []byte{' '})
	if !ok {
		return s.temp(b, MapUnknown, "no key")
	}
	now := s.c.Now()
	switch {
	case string(name) == "sender":
		return s.sender(b, string(key), now)
	case string(name) == "policy":
		return s.policy(b, key, now)
	case string(name) == "tls_rcpt", string(name) == "tlsonly": // Sendmail says what its K line calls the map
		return s.tlsRcpt(b, string(key), now)
	case bytes.HasPrefix(name, []byte("forced")):
		if n, ok := classNumber(name[len("forced"):]); ok {
			return s.forced(b, n, key, now)
		}
	}
	return s.temp(b, MapUnknown, "no such map")
}

// classNumber reads what follows "forced": a number from 1 without leading zeros, or nothing, which is 0.
func classNumber(b []byte) (int, bool) {
	if len(b) == 0 {
		return 0, true
	}
	if b[0] == '0' || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func (s *Server) temp(b []byte, m Map, why string) []byte {
	s.counts.add(m, AnswerTemp)
	return append(append(b, "TEMP "...), why...)
}

func (s *Server) notFound(b []byte, m Map) []byte {
	s.counts.add(m, AnswerNotFound)
	return append(b, "NOTFOUND "...)
}

func (s *Server) ok(b []byte, m Map) []byte {
	s.counts.add(m, AnswerOK)
	return append(b, "OK "...)
}

// sender answers with the transport of the sender's class. Postfix asks for the address as it was typed.
func (s *Server) sender(b []byte, key string, now time.Time) []byte {
	set := s.c.Rules()
	var from addr.Address
	if key != `"<>"` { // the null sender in Postfix's quoted form
		var err error
		from, err = addr.ParsePath(key)
		if bare := !from.IsNull() && from.Domain.IsZero(); err != nil || bare {
			if err == nil && !s.protects(set, from, now) || !set.Enforces(now) {
				return s.notFound(b, MapSender)
			}
			return append(s.ok(b, MapSender), "tlsonly:"...)
		}
	}
	n := set.Class(from, now)
	if n == 0 {
		return s.notFound(b, MapSender)
	}
	b = append(s.ok(b, MapSender), "tlsonly"...)
	if n <= s.c.Transports {
		b = strconv.AppendInt(b, int64(n), 10)
	} else if s.surplus.Swap(set) != set {
		s.c.Log.Warn("more sender classes than transports, the strict one is used", "class", n, "transports", s.c.Transports)
	}
	return append(b, ':')
}

// whose returns what addresses a sender can be: itself, or for a bare name that name in every domain that the MTA may
// add. None says that nobody knows.
func (s *Server) whose(from addr.Address) []addr.Address {
	if from.IsNull() || !from.Domain.IsZero() {
		return []addr.Address{from}
	}
	var found []addr.Address
	for _, d := range s.c.Origins {
		found = append(found, addr.Address{Local: from.Local, Domain: d})
	}
	return found
}

// protects reports whether an enforcing rule names the sender, or may name it.
func (s *Server) protects(set *rules.Set, from addr.Address, now time.Time) bool {
	whose := s.whose(from)
	return len(whose) == 0 && set.Enforces(now) ||
		slices.ContainsFunc(whose, func(a addr.Address) bool { return set.Class(a, now) > 0 })
}

// forced answers inside the transport of class n, or inside the strict one, 0, which serves classes without one, too.
func (s *Server) forced(b []byte, n int, key []byte, now time.Time) []byte {
	if bytes.HasPrefix(key, []byte{'.'}) {
		return s.notFound(b, MapForced) // the domain itself was asked for before
	}
	hop, err := addr.ParseDestination(string(key))
	if err != nil {
		return s.temp(b, MapForced, "next hop not understood")
	}
	set := s.c.Rules()
	// Mail for a domain goes to a next hop of its name. Any other next hop carries mail for who knows whom, and so the
	// strictest rule holds for all of it.
	domain := hop.Host()
	if hop.Direct() || hop.Port() != 0 || s.c.Relay(hop) {
		domain = addr.Domain{}
	}
	var ask rules.Ask
	classes := set.Classes()
	switch {
	case n == 0 || n > len(classes):
		if ask.Demand = set.Strictest(domain, now); !ask.Demand.Level.Enforces() {
			ask.Demand = policy.DefaultDemand()
		}
	case domain.IsZero():
		ask.Demand = classes[n-1].Strictest(now)
	default:
		ask = classes[n-1].Ask(domain, now)
	}
	demand := ask.Demand
	if !ask.Exempt {
		demand = rules.Stricter(demand, s.binding(hop, true))
	}
	if demand.Level == "" {
		demand.Level = policy.LevelMay // the transport's own floor would ask for more than the rules
	}
	return s.tls(b, MapForced, demand)
}

// policy answers for all other mail. What goes to a protected sender's domain is held to TLS too: a bounce has no sender,
// and it carries the subject, if not the text, of what bounced.
func (s *Server) policy(b, key []byte, now time.Time) []byte {
	if bytes.HasPrefix(key, []byte{'.'}) {
		return s.notFound(b, MapPolicy)
	}
	hop, err := addr.ParseDestination(string(key))
	if err != nil {
		return s.temp(b, MapPolicy, "next hop not understood")
	}
	demand := s.binding(hop, false)
	if !hop.Direct() && s.homeOf(hop.Host(), now) {
		demand = rules.Stricter(demand, policy.DefaultDemand())
	}
	if !demand.Level.Enforces() {
		return s.notFound(b, MapPolicy)
	}
	return s.tls(b, MapPolicy, demand)
}

// homeOf reports whether mail to a domain is held to TLS because protected senders are there.
func (s *Server) homeOf(d addr.Domain, now time.Time) bool {
	return s.c.Others == OthersPinned && s.c.Rules().Protects(d, now) && !s.c.Local(d)
}

// binding is what a destination is held to whoever sends. Mail of a class heeds demands in any case: it may be mail
// that was accepted for another recipient, or by another rule, and forwarded.
func (s *Server) binding(hop addr.Destination, protected bool) policy.Demand {
	var found policy.Demand
	if s.c.Others == OthersPinned && s.c.Ledger.Pinned(hop) {
		found.Level = policy.LevelEncrypt
	}
	if s.c.Others == OthersPinned || protected {
		if demand, ok := s.c.Ledger.Demanded(hop); ok && demand.Level.Enforces() {
			found = rules.Stricter(found, demand)
		}
	}
	return found
}

// tls appends a demand as smtp_tls_policy_maps takes it, in the words of Postfix 3.7.
func (s *Server) tls(b []byte, m Map, d policy.Demand) []byte {
	var protocols string
	switch d.MinVersion {
	case 0:
	case policy.TLS10:
		protocols = " protocols=>=TLSv1"
	case policy.TLS11:
		protocols = " protocols=>=TLSv1.1"
	case policy.TLS12:
		protocols = " protocols=>=TLSv1.2"
	case policy.TLS13:
		protocols = " protocols=>=TLSv1.3"
	default:
		return s.temp(b, m, "TLS version not supported")
	}
	switch d.Level {
	case policy.LevelNone, policy.LevelMay:
		return append(s.ok(b, m), d.Level...)
	case policy.LevelEncrypt:
		b = append(append(s.ok(b, m), "encrypt"...), protocols...)
	default: // of a later version, by way of the store: encrypt would be less
		return s.temp(b, m, "level not supported")
	}
	switch {
	case d.MinBits > 128:
		b = append(b, " ciphers=high exclude=AES128:ARIA128:CAMELLIA128"...)
	case d.MinBits > 0:
		b = append(b, " ciphers=medium"...) // 128 bits and more
	}
	return b
}

// tlsRcpt answers Sendmail, which asks only before a recipient is sent in the clear.
func (s *Server) tlsRcpt(b []byte, key string, now time.Time) []byte {
	verdict := s.mayGoClear(key, now)
	switch verdict {
	case policy.Accept:
		s.counts.add(MapTLSRcpt, AnswerPass)
		return append(b, "OK PASS"...)
	case policy.Reject:
		s.counts.add(MapTLSRcpt, AnswerReject)
		return append(b, "OK REJECT"...)
	}
	s.counts.add(MapTLSRcpt, AnswerDefer)
	return append(b, "OK DEFER"...)
}

func (s *Server) mayGoClear(key string, now time.Time) policy.Verdict {
	q, ok := readQuestion(key)
	if !ok {
		return policy.Defer
	}
	set := s.c.Rules()
	whose := s.whose(q.from)
	if len(whose) == 0 {
		if set.Enforces(now) {
			return policy.Defer
		}
		whose = []addr.Address{q.from}
	}
	worst := policy.Accept
	for _, from := range whose {
		if v := s.clearFor(set, from, q, now); v.Rank() > worst.Rank() {
			worst = v
		}
	}
	return worst
}

func (s *Server) clearFor(set *rules.Set, from addr.Address, q question, now time.Time) policy.Verdict {
	var ask rules.Ask
	var rule *rules.Rule
	n := set.Class(from, now)
	if n > 0 {
		ask, rule = set.Classes()[n-1].AskFor(q.to, now)
	}
	switch {
	case ask.Demand.Level.Enforces() && s.c.Bounce && rule.OnFail == policy.ActionReject:
		return policy.Reject
	case ask.Demand.Level.Enforces():
		return policy.Defer
	case ask.Exempt:
		return policy.Accept
	}
	for _, hop := range []addr.Destination{addr.DomainDestination(q.to.Domain), q.server} {
		if !hop.IsZero() && s.binding(hop, n > 0).Level.Enforces() {
			return policy.Defer
		}
	}
	if s.homeOf(q.to.Domain, now) {
		return policy.Defer // as in policy: a bounce to a protected sender
	}
	return policy.Accept
}

// question is what Sendmail tells of a recipient.
type question struct {
	from, to addr.Address
	server   addr.Destination // the host it is at, zero where that is not a destination one could name
}

// readQuestion takes "v1<verify><server_name><server_addr><qid><msgid><sender><recipient>".
//
// SECURITY: the message id is the client's to choose and has brackets of its own. So the number of brackets is fixed: no
// field holds any, but for one pair around the message id; any more, wherever they are from, is a doubt.
func readQuestion(key string) (question, bool) {
	rest, ok := strings.CutPrefix(key, "v1")
	if !ok {
		return question{}, false
	}
	var fields [7]string
	for i := range fields {
		nested := i == 4 && strings.HasPrefix(rest, "<<")
		if nested {
			rest = rest[1:]
		}
		inner, after, closed := strings.Cut(rest, ">")
		if !closed || !strings.HasPrefix(inner, "<") || strings.Contains(inner[1:], "<") {
			return question{}, false
		}
		if nested {
			if after, ok = strings.CutPrefix(after, ">"); !ok {
				return question{}, false
			}
		}
		fields[i], rest = inner[1:], after
	}
	if rest != "" {
		return question{}, false
	}
	var q question
	var fromOK, toOK bool
	q.from, fromOK = readPlain(fields[5])
	q.to, toOK = readPlain(fields[6])
	if name, err := addr.ParseDomain(fields[1]); err == nil && !name.IsLiteral() {
		q.server = addr.MustDestination("[" + name.String() + "]")
	}
	return q, fromOK && toOK && !q.to.Domain.IsZero()
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
