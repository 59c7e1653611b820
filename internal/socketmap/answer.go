package socketmap

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/judge"
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
	case bytes.HasPrefix(name, []byte(contract.MapSender)):
		if m, ok := contract.ParseSenderMap(name); ok {
			if m.Transports < 0 {
				m.Transports = s.c.Transports
			}
			s.onQuestion(MapSender, name, key)
			return s.sender(b, m, readSenderKey(string(key)), now)
		}
	case string(name) == string(contract.MapPolicy):
		s.onQuestion(MapPolicy, name, key)
		return s.policy(b, key, now)
	case string(name) == string(contract.MapTLSRcpt), string(name) == "tlsonly": // Sendmail says what its K line calls the map
		s.onQuestion(MapTLSRcpt, name, key)
		return s.tlsRcpt(b, string(key), now)
	case string(name) == string(contract.MapReport):
		s.onQuestion(MapReport, name, key)
		return s.tlsReport(b, now)
	case string(name) == string(contract.MapIdentify): // doctor asks, no MTA, so it isn't counted
		if who := s.c.Identity.Answer(string(key)); who != "" {
			return append(append(b, "OK "...), who...)
		}
	case bytes.HasPrefix(name, []byte(contract.MapForced)):
		if n, floor, ok := contract.ParseForcedMap(name); ok {
			s.onQuestion(MapForced, name, key)
			if hop, err := addr.ParseDestination(string(key)); err == nil && !hop.IsZero() && hop == s.c.Gateway {
				return s.gateway(b)
			}
			if s.trace != nil && floor != "" {
				s.because(whoFloor, "no answer is below %s, which the transport's map says", floor)
			}
			return raise(s.forced(b, n, key, now), len(b), floor)
		}
	}
	return s.temp(b, MapUnknown, "no such map")
}

// onQuestion tells of a question, but not of those that doctor asks in the MTA's
// place: of a parent domain, or of a name of its own.
func (s *Server) onQuestion(m Map, name, key []byte) {
	if bytes.HasPrefix(key, []byte{'.'}) || bytes.Contains(key, []byte(contract.Doctor)) {
		return
	}
	s.c.OnQuestion(m, addr.Address{})
	if m == MapSender || m == MapForced {
		s.heard.note(name)
	}
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

// senderKey is a sender as Postfix asks for it: as it was typed.
type senderKey struct {
	key  string
	from addr.Address
	err  error // it can't be read as an address, and from is nothing
}

func readSenderKey(key string) senderKey {
	if key == nullKey {
		return senderKey{key: key}
	}
	from, err := addr.ParsePath(key)
	return senderKey{key, from, err}
}

// nullKey is the null sender as Postfix quotes it.
const nullKey = `"<>"`

// sender answers with the transport of the sender's class, the strict one where
// that isn't among the MTA's, or where it is doubtful whose the mail is.
func (s *Server) sender(b []byte, m contract.SenderMap, of senderKey, now time.Time) []byte {
	set := s.c.Rules()
	if s.enforcesNotice(m.Notices, of, now) {
		if s.trace != nil {
			s.because(whoBounces, "bounces and notices have the strict transport while any rule enforces: nobody can tell which are about protected mail")
		}
		return s.transport(b, m, 0, of.key)
	}
	from := of.from
	if bare := !from.IsNull() && from.Domain.IsZero(); of.err != nil || bare {
		if of.err == nil && !s.protects(set, from, now) || !set.Enforces(now) {
			return s.notFound(b, MapSender)
		}
		if s.trace != nil {
			s.because(whoDoubt, "the sender can't be read whole, so it may be a protected one")
		}
		return s.transport(b, m, 0, of.key)
	}
	r := s.routeOf(set, from, now)
	if s.trace != nil {
		s.traceRoute(set, from, r, now)
	}
	if r.doubt || r.lent {
		return s.transport(b, m, 0, of.key)
	}
	n := r.class
	if n == 0 {
		if s.trace == nil {
			s.recent.add(from, now)
		}
		return s.notFound(b, MapSender)
	}
	if from.Local != contract.Doctor {
		s.c.OnQuestion(MapSender, from)
	}
	if n > m.Transports {
		if s.surplus.Swap(set) != set {
			s.c.Log.Warn("more sender classes than transports, so the strict one is used", "class", n, "transports", m.Transports)
		}
		n = 0
	}
	return s.transport(b, m, n, of.key)
}

// whose returns what addresses a sender can be: itself or those inside of it,
// and for a bare name that name in every domain that the MTA may add. None says
// that nobody knows.
func (s *Server) whose(set *rules.Delivery, from addr.Address, now time.Time) []addr.Address {
	given := []addr.Address{from}
	if !from.IsNull() && from.Domain.IsZero() {
		given = nil
		for _, d := range s.c.Origins() {
			given = append(given, addr.Address{Local: from.Local, Domain: d})
		}
	}
	var found []addr.Address
	for _, a := range given {
		inside, err := set.Forms(now).Senders(a)
		if err != nil {
			return nil
		}
		found = append(found, inside...)
	}
	return found
}

// protects reports whether an enforcing rule names the sender, or may name it.
func (s *Server) protects(set *rules.Delivery, from addr.Address, now time.Time) bool {
	whose := s.whose(set, from, now)
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
		return s.oddForced(b, n, string(key), now)
	}
	set := s.c.Rules()
	// Mail for a domain goes to a next hop of its name. Any other next hop carries mail for who knows whom, and so the
	// strictest rule holds for all of it.
	domain := hop.Host()
	if hop.Direct() || hop.Port() != 0 || s.c.Relay(hop) {
		domain = addr.Domain{}
	}
	ask, known := set.Requirement(n, domain, now)
	if s.trace != nil {
		s.traceRequirement(set, n, hop, domain, ask, known, now)
	}
	if !known {
		if ask.Demand = set.Strictest(domain, now); !ask.Demand.Level.Enforces() {
			ask.Demand = policy.DefaultDemand()
		}
	}
	switch {
	case ask.Exempt:
		return s.tls(b, MapForced, hop, ask.Demand)
	case ask.Demand.Level != "":
		return s.tls(b, MapForced, hop, rules.Stricter(ask.Demand, s.standingDemand(hop, true)))
	}
	// The rules leave recipients there alone, so that this mail is held to what all other mail is held to.
	if b, ok := s.other(b, MapForced, hop, true, now); ok {
		return b
	}
	return s.tls(b, MapForced, hop, policy.Demand{Level: policy.LevelMay}) // the transport's own floor would ask for more
}

// gateway appends what a transport is told of the gateway: nobody else can pass
// for it.
func (s *Server) gateway(b []byte) []byte {
	if s.trace != nil {
		s.because(whoGateway, "this is the gateway, which takes what can't have its TLS; it is known by its certificate")
	}
	return append(append(s.ok(b, MapForced), "fingerprint protocols=>=TLSv1.2 match="...), s.c.Fingerprint...)
}

// policy answers for all other mail. What goes to a protected sender's domain is held to TLS too: a bounce has no sender,
// and it carries the subject, if not the text, of what bounced.
func (s *Server) policy(b, key []byte, now time.Time) []byte {
	if bytes.HasPrefix(key, []byte{'.'}) {
		return s.notFound(b, MapPolicy)
	}
	hop, err := addr.ParseDestination(string(key))
	if err != nil {
		return s.oddPolicy(b, string(key), now)
	}
	if b, ok := s.other(b, MapPolicy, hop, false, now); ok {
		return b
	}
	return s.notFound(b, MapPolicy)
}

// other appends what holds mail of which no rule asks anything, false for nothing. Protected is mail of a class.
func (s *Server) other(b []byte, m Map, hop addr.Destination, protected bool, now time.Time) ([]byte, bool) {
	demand := s.standingDemand(hop, protected)
	if !hop.Direct() && s.homeOf(hop.Host(), now) || s.leadsHome(hop, now) {
		if s.trace != nil {
			s.because(whoHome, "protected senders get their mail there, so bounces about their mail go there")
		}
		demand = rules.Stricter(demand, policy.DefaultDemand())
	}
	if demand.Level.Enforces() {
		demand.Honor = policy.DefaultDemand().Honor
		return s.tls(b, m, hop, demand), true
	}
	// Nobody here asks anything of the destination. What it publishes itself binds all the same.
	if bound, ok := s.published(hop); ok {
		if s.trace != nil {
			s.tracePublished(hop, bound)
		}
		return s.write(b, m, hop, bound), true
	}
	if s.trace != nil {
		s.traceNothing(hop)
	}
	return b, false
}

// published returns what a destination is held to by DANE or MTA-STS alone, false for nothing. Mail that nobody protects
// doesn't wait for a look, unless [binding] says that what is published is to be looked for.
func (s *Server) published(hop addr.Destination) (policy.TLSPolicy, bool) {
	if s.c.Others == contract.OthersOff || s.c.Assessor == nil {
		return policy.TLSPolicy{}, false
	}
	demand := policy.Demand{Level: policy.LevelEncrypt, Honor: policy.DefaultDemand().Honor}
	a, known := s.c.Assessor.Remembered(hop)
	if s.c.Others == contract.OthersPublished {
		if bound, ok := judge.Enforcement(demand, s.assess(hop)); ok {
			return bound, bound.Level != policy.LevelEncrypt
		}
	}
	if !known { // what was known before a look that found out nothing holds
		return policy.TLSPolicy{}, false
	}
	bound, ok := judge.Enforcement(demand, a)
	return bound, ok && bound.Level != policy.LevelEncrypt
}

// assess assesses a destination, joining a look under way. It is from memory where that serves.
func (s *Server) assess(hop addr.Destination) policy.Assessment {
	wait := &lazyWait{Context: s.ctx, limit: s.c.Deadline}
	defer wait.end()
	return s.c.Assessor.Assess(wait, hop, nil)
}

// homeOf reports whether mail to a domain is held to TLS because protected senders are there.
func (s *Server) homeOf(d addr.Domain, now time.Time) bool {
	return s.c.Others == contract.OthersPinned && s.c.Rules().Protects(d, now) && !s.c.Local(d)
}

// leadsHome reports whether mail by a next hop is held to TLS because bounces of
// protected senders' mail are among it.
func (s *Server) leadsHome(hop addr.Destination, now time.Time) bool {
	return !s.c.FreeBounces && slices.ContainsFunc(s.c.Homes(hop), func(d addr.Domain) bool {
		return d.IsZero() && s.c.Rules().Enforces(now) || s.c.Rules().Protects(d, now)
	})
}

// standingDemand is what a destination is held to whoever sends. Mail of a
// class heeds demands in any case: it may be mail that was accepted for another
// recipient, or by another rule, and forwarded.
func (s *Server) standingDemand(hop addr.Destination, protected bool) policy.Demand {
	var found policy.Demand // honors nothing: that is for those who ask to say
	if s.trace != nil {
		s.traceDemand(hop, protected)
	}
	if s.c.Others == contract.OthersPinned && s.c.Ledger.Pinned(hop) {
		found.Level = policy.LevelEncrypt
	}
	if s.c.Others == contract.OthersPinned || protected {
		if demand, ok := s.c.Ledger.Demanded(hop); ok && demand.Level.Enforces() {
			var whose addr.Domain // of a relay that is anybody's
			if !hop.Direct() && hop.Port() == 0 {
				whose = hop.Host()
			}
			demand.Match = s.c.Rules().Names(whose, s.c.Now())
			found = rules.Stricter(found, demand)
		}
	}
	return found
}

// tls appends what holds Postfix to a demand. Where that takes knowing the destination, it is looked at; where nothing can be
// found out, the mail waits.
func (s *Server) tls(b []byte, m Map, hop addr.Destination, d policy.Demand) []byte {
	if s.c.Assessor == nil {
		d.Honor = policy.Honor{}
	}
	bound, ok := judge.Enforcement(d, policy.Assessment{})
	switch {
	case s.c.Assessor == nil:
	case !ok:
		a := s.assess(hop)
		bound, ok = judge.Enforcement(d, a)
		if s.trace != nil {
			s.traceAssessment(a)
		}
	default:
		a, _ := s.c.Assessor.Remembered(hop)
		bound.Unnamed = judge.Unnamed(d, a)
	}
	if !ok {
		return s.temp(b, m, "destination not known yet")
	}
	return s.write(b, m, hop, bound)
}

// write appends a binding as smtp_tls_policy_maps takes it, in the words of Postfix 3.7.
func (s *Server) write(b []byte, m Map, hop addr.Destination, d policy.TLSPolicy) []byte {
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
		b = nameHost(append(s.ok(b, m), "encrypt"...), hop, d)
	case policy.LevelSecure:
		b = append(s.ok(b, m), "secure"...)
		for i, name := range d.Match {
			if i == 0 {
				b = append(b, " match="...)
			} else {
				b = append(b, ':')
			}
			b = append(b, name...)
		}
		b = nameHost(b, hop, d)
		if s.c.TLSRPT && d.STS != nil {
			b = appendReport(b, hop.Host(), d.STS)
		}
	case policy.LevelDane:
		b = append(s.ok(b, m), "dane-only"...)
	default: // of a later version, by way of the store: anything else could be less
		return s.temp(b, m, "level not supported")
	}
	b = append(b, protocols...)
	switch {
	case d.MinBits > 128:
		b = append(b, " ciphers=high exclude=AES128:ARIA128:CAMELLIA128"...)
	case d.MinBits > 0:
		b = append(b, " ciphers=medium"...) // 128 bits and more
	}
	return b
}

// nameHost has the MTA name a mail host in its hello (SNI), as the probe did, at every
// level: hosts show their right certificate for it, and some want it. A host that
// ends the handshake for it is not named, nor is one without a name.
func nameHost(b []byte, hop addr.Destination, d policy.TLSPolicy) []byte {
	if d.Unnamed || hop.Host().IsLiteral() {
		return b
	}
	return append(b, " servername=hostname"...)
}

// appendReport appends what Postfix tells its TLS reports of an MTA-STS policy: TLSRPT_README of Postfix 3.10.
func appendReport(b []byte, domain addr.Domain, p *policy.STS) []byte {
	age := int64(p.Until.Sub(p.Fetched) / time.Second)
	b = fmt.Appendf(b, " policy_type=sts policy_domain=%s policy_ttl=%d { policy_string = version: STSv1 } { policy_string = mode: %s }",
		domain, age, p.Mode)
	for _, mx := range p.MX {
		b = fmt.Appendf(b, " { policy_string = mx: %s }", mx)
	}
	b = fmt.Appendf(b, " { policy_string = max_age: %d }", age)
	for _, mx := range p.MX {
		b = fmt.Appendf(b, " mx_host_pattern=%s", mx)
	}
	return b
}
