package socketmap

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// History says since when a destination is held to what is known of it.
type History struct {
	Pinned   time.Time // zero: not pinned, or not known
	PinnedBy string    // "two successes", "admin", or "rule:" and a name
	Demanded time.Time // of the last rise; zero: nothing is demanded, or not known
}

// Told is one question that an MTA asks at delivery, and the answer.
type Told struct {
	MTA    string       `json:"mta"`            // postfix or sendmail
	When   string       `json:"when,omitempty"` // of several questions to one map: which mail or session it is
	Map    string       `json:"map"`            // its name, as the MTA asks
	Key    string       `json:"key"`
	Answer string       `json:"answer"` // as it goes out
	Means  string       `json:"means"`  // the answer, in words
	Trace  policy.Trace `json:"trace"`  // how it came about, and who decided
}

// Delivery is what Explain is asked.
type Delivery struct {
	To addr.Destination
	// From is the sender; nil: of each class, and of nobody's.
	From *addr.Address
	// Recipient is whom Sendmail asks for; zero: postmaster at To, where that is a
	// domain.
	Recipient addr.Address
}

// Explain asks for delivery to a destination what Postfix and Sendmail ask, and
// says how each answer comes about. The answers are made as for an MTA, from the
// same state, and a destination that an answer needs is probed as for one; but
// nothing is counted, remembered or logged. It ends soon after ctx.
func (s *Server) Explain(ctx context.Context, q Delivery) []Told {
	e := explainer{server: s, now: s.c.Now()}
	e.shadow = &Server{c: s.c, ctx: ctx, recent: s.recent}
	e.shadow.c.Log = slog.New(slog.DiscardHandler)
	e.shadow.c.OnQuestion = func(Map, addr.Address) {}
	e.postfix(q)
	e.sendmail(q)
	return e.told
}

// explainer asks questions.
type explainer struct {
	server *Server
	shadow *Server
	now    time.Time
	told   []Told
}

// ask asks one question and returns the answer.
func (e *explainer) ask(mta, when, name, key string) string {
	e.shadow.trace = &policy.Trace{}
	answer := string(e.shadow.reply(nil, []byte(name+" "+key)))
	e.told = append(e.told, Told{MTA: mta, When: when, Map: name, Key: key, Answer: answer,
		Means: meaning(answer), Trace: distinct(*e.shadow.trace)})
	return answer
}

// distinct leaves each step out that was there before: Sendmail's question is
// judged by each form of the sender.
func distinct(all policy.Trace) policy.Trace {
	var found policy.Trace
	for _, step := range all {
		if !slices.Contains(found, step) {
			found = append(found, step)
		}
	}
	return found
}

// postfix asks for the sender's transport, and in it for the next hop.
func (e *explainer) postfix(q Delivery) {
	set := e.server.c.Rules()
	if q.From == nil {
		for n := range set.Highest() {
			if len(set.Meanings(n+1, e.now)) > 0 {
				e.forced(n+1, q.To.String())
			}
		}
		if set.Enforces(e.now) {
			e.forced(0, q.To.String())
		}
		e.ask("postfix", "mail of senders without a class", string(contract.MapPolicy), q.To.String())
		return
	}
	key := q.From.String()
	if q.From.IsNull() {
		key = nullKey
	}
	seen := map[string]bool{}
	for _, name := range e.server.heard.sender() {
		status, answer, _ := strings.Cut(e.ask("postfix", "", name, key), " ")
		mailer, to, _ := strings.Cut(answer, ":")
		if status != "OK" || to == "" { // else the site's own settings name it
			to = q.To.String()
		}
		class, _, ours := contract.ParseTransport(mailer)
		ours = ours && status == "OK"
		next := fmt.Sprint(class, ours, to)
		switch {
		case seen[next] || status == "TEMP":
		case ours:
			e.forced(class, to)
		default:
			e.ask("postfix", "mail by other transports", string(contract.MapPolicy), to)
		}
		seen[next] = true
	}
}

func (e *explainer) forced(n int, key string) {
	when := fmt.Sprintf("mail by the transport %s", contract.Transport(n, ""))
	for _, name := range e.server.heard.forced(n) {
		e.ask("postfix", when, name, key)
	}
}

// nobody is a sender that no rule names (RFC 6761, section 6.4).
var nobody = addr.MustAddress("nobody@elsewhere.invalid")

// sendmail asks for a session in the clear and for one over TLS.
func (e *explainer) sendmail(q Delivery) {
	from, to := nobody, q.Recipient
	if q.From != nil {
		from = *q.From
	}
	if to.IsNull() && !q.To.Direct() && q.To.Port() == 0 {
		to = addr.Address{Local: "postmaster", Domain: q.To.Host()}
	}
	if to.IsNull() {
		return // it asks for a recipient, and no next hop says whose mail it carries
	}
	f, tag := from.String(), contract.Tag("")
	if q.From != nil && !from.IsNull() {
		if ask, _ := e.server.c.Rules().RequirementFor(from, to, e.now); ask.Demand.Level.Enforces() {
			tag = contract.TagEncrypt
			if ask.Demand.Level.Rank() > policy.LevelEncrypt.Rank() {
				tag = contract.TagName
			}
		}
	}
	if from.IsNull() {
		f = reporter
		e.ask("sendmail", "a report, in the process that wrote it", string(contract.MapReport), "<>")
	}
	host, hop := q.To.Host().String(), q.To.Host().String()+"."
	if q.To.Host().IsLiteral() {
		hop = host
	} else if q.To.Direct() {
		hop = "[" + host + "]"
	} else if to.Domain != q.To.Host() {
		hop = host
	}
	print := ""
	if e.server.c.Assessor != nil {
		if a, ok := e.server.c.Assessor.Remembered(q.To); ok {
			host, print = shown(a, host)
		}
	}
	question := func(verify, print string) string {
		return contract.Question{Verify: verify, Fingerprint: print, Server: host, Hop: hop, Tag: tag,
			Sender: bare(f), Written: bare(f), Reporter: reporter, Recipient: bare(to.String())}.Key()
	}
	e.ask("sendmail", "a session in the clear", string(contract.MapTLSRcpt), question("NONE", ""))
	when := "a session over TLS with " + host
	if print != "" {
		when += ", which shows the certificate that was seen last"
	} else {
		when += ", which shows no certificate"
	}
	e.ask("sendmail", when, string(contract.MapTLSRcpt), question("FAIL", print))
}

// reporter is Sendmail's name for the sender of what it writes itself.
const reporter = "MAILER-DAEMON"

// bare is an address as a field of the question, which has no brackets in it.
func bare(a string) string { return strings.Trim(a, "<>") }

// shown returns a mail host that spoke TLS, and the fingerprint of its certificate.
func shown(a policy.Assessment, otherwise string) (host, print string) {
	host = otherwise
	for i, h := range a.Hosts {
		if i == 0 {
			host = h.Name.String()
		}
		for _, o := range h.Observations {
			if o.Outcome == policy.SawTLS && len(o.Chain) > 0 {
				return h.Name.String(), o.Chain[0].Fingerprint
			}
		}
	}
	return host, ""
}

// meaning says what an answer is to the MTA.
func meaning(answer string) string {
	status, rest, _ := strings.Cut(answer, " ")
	level, _, _ := strings.Cut(rest, " ")
	switch {
	case status == "NOTFOUND":
		return "nothing is asked: the MTA's own settings hold"
	case status != "OK":
		return "the mail waits: " + rest
	}
	switch level {
	case string(contract.Pass):
		return "the mail may go"
	case string(contract.Free):
		return "the report may go"
	case string(contract.Defer):
		return "the mail waits"
	case string(contract.Reject):
		return "the mail bounces"
	case "none":
		return "no TLS is asked, and none is used"
	case "may":
		return "TLS if the host offers it, else in the clear"
	case "encrypt":
		return "TLS, or the mail waits"
	case "secure", "verify", "fingerprint":
		return "TLS with a host that proves its name, or the mail waits"
	case "dane-only":
		return "TLS with a host that matches its DANE records, or the mail waits"
	}
	if name, hop, ok := strings.Cut(rest, ":"); ok {
		if hop != "" {
			hop = ", to " + hop
		}
		return "the mail goes by the transport " + name + hop
	}
	return rest
}

// Who decides about an answer: the stages of its trace.
const (
	whoRule      = "rule"      // one in force
	whoFormer    = "former"    // a rule that isn't in force any more
	whoClass     = "class"     // of senders
	whoNobody    = "nobody"    // asks anything
	whoPin       = "pin"       // the destination showed TLS before
	whoDemand    = "demand"    // mail was accepted under one
	whoPublished = "published" // DANE or MTA-STS
	whoHome      = "home"      // protected senders are there
	whoBounces   = "bounces"   // what MTAs write themselves
	whoLogin     = "login"     // a rule by login accepted mail of the sender of late
	whoSite      = "site"      // the MTA's own settings
	whoGateway   = "gateway"
	whoFloor     = "floor"  // the site's own level
	whoRecent    = "recent" // what Postfix may remember
	whoDoubt     = "doubt"  // something can't be read
	whoProbe     = "probe"  // what is known of the destination
	whoAnswer    = "answer" // what that comes to
)

// because adds a step to the trace. Callers look first whether there is one, so
// that a normal answer pays nothing.
func (s *Server) because(who, format string, args ...any) { s.trace.Add(who, format, args...) }

// traceRoute says why a sender has the transport it has.
func (s *Server) traceRoute(set *rules.Delivery, from addr.Address, r route, now time.Time) {
	switch {
	case r.lent:
		s.because(whoLogin, "a rule by login accepted mail of this sender of late, so all of it has the strict transport")
	case r.doubt:
		s.because(whoDoubt, "the sender may be several addresses, of different classes or none that can be told")
	case r.class == 0:
		s.because(whoNobody, "no rule that enforces names the sender")
	}
	if r.class == 0 {
		return
	}
	s.traceClass(set, r.class, now)
	if s.recent.has(from, now) {
		s.because(whoRecent, "within the last %d seconds this sender had no class, and Postfix may route so once more: "+
			"the milter answers 451 until then (not-bound)", int(cached/time.Second))
	}
}

// traceClass says what a class's number stands for.
func (s *Server) traceClass(set *rules.Delivery, n int, now time.Time) {
	for _, m := range set.Meanings(n, now) {
		var names, senders []string
		for _, r := range m.Class.Rules() {
			names = append(names, strconv.Quote(r.Name))
		}
		for _, p := range m.Class.Senders() {
			senders = append(senders, p.String())
		}
		state := "in force"
		if !m.Until.IsZero() {
			state = "binds mail accepted before, until " + stamp(m.Until)
		}
		s.because(whoClass, "class %d: senders %s; rules %s; %s", n, few(senders), few(names), state)
	}
}

// few names the first of many.
func few(words []string) string {
	const most = 5
	if more := len(words) - most; more > 0 {
		words = append(slices.Clone(words[:most]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, " ")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// traceRequirement says which rules ask what of a next hop, inside the transport of class n.
func (s *Server) traceRequirement(set *rules.Delivery, n int, hop addr.Destination, domain addr.Domain, ask rules.Requirement, known bool, now time.Time) {
	if n > 0 {
		s.traceClass(set, n, now)
	}
	if !known {
		why := "the strict transport: the most that any rule asks of mail there, TLS in any case"
		if n > 0 {
			why = fmt.Sprintf("class %d means nothing now: the most that any rule asks of mail there, TLS in any case", n)
		}
		s.because(whoClass, "%s", why)
		return
	}
	if domain.IsZero() && !hop.IsZero() {
		s.because(whoClass, "%s carries mail for any domain, so the strictest rule of the class holds", hop)
	}
	s.traceRules(set.Deciding(n, domain, now), ask)
}

func (s *Server) traceRules(asking []rules.DecidingRule, ask rules.Requirement) {
	for _, a := range asking {
		r, line := a.Rule, ""
		if r.Line > 0 {
			line = fmt.Sprintf(" (line %d)", r.Line)
		}
		who, more := whoRule, ""
		if !a.Until.IsZero() {
			who, more = whoFormer, ", not in force any more, binds until "+stamp(a.Until)
		}
		if r.Mode != policy.Enforce {
			more += ", but only observes"
		}
		s.because(who, "rule %q%s asks for %s%s", r.Name, line, r.Demand().Words(), more)
	}
	switch {
	case ask.Exempt:
		s.because(whoRule, "it is an exception: nothing else can have been promised to this mail")
	case ask.Demand.Level == "":
		s.because(whoNobody, "no rule of the class asks anything of mail there, so it is held to what all other mail is held to")
	}
}

// traceFor says which rules ask what of one recipient, of Sendmail.
func (s *Server) traceFor(set *rules.Delivery, from addr.Address, q question, n int, ask rules.Requirement, now time.Time) {
	if n == 0 {
		s.because(whoNobody, "no rule that enforces names the sender %s", from)
		return
	}
	s.traceClass(set, n, now)
	s.traceRules(set.DecidingFor(from, q.to, now), ask)
}

// traceDemand says what was promised of a destination before.
func (s *Server) traceDemand(hop addr.Destination, protected bool) {
	if s.c.Others != contract.OthersPinned && !protected {
		s.because(whoAnswer, "[binding] others = %q: no pin or demand counts for this mail", s.c.Others)
		return
	}
	var h History
	if s.c.History != nil {
		h, _ = s.c.History(s.ctx, hop) // without it only the times are missing
	}
	since := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return " since " + stamp(t)
	}
	if s.c.Others == contract.OthersPinned && s.c.Ledger.Pinned(hop) {
		by := ""
		if h.PinnedBy != "" {
			by = ", by " + h.PinnedBy
		}
		s.because(whoPin, "%s is pinned%s%s: TLS", hop, since(h.Pinned), by)
	}
	if demand, ok := s.c.Ledger.Demanded(hop); ok && demand.Level.Enforces() {
		s.because(whoDemand, "mail for %s was accepted under a demand%s: %s", hop, since(h.Demanded), demand.Words())
	}
}

// tracePublished says what a destination publishes.
func (s *Server) tracePublished(hop addr.Destination, bound policy.TLSPolicy) {
	how := "DANE"
	if bound.STS != nil {
		how = "MTA-STS"
	}
	seen := ""
	if a, ok := s.c.Assessor.Remembered(hop); ok {
		seen = ", as seen at " + stamp(a.When)
	}
	s.because(whoPublished, "%s publishes %s%s, which holds all mail for it", hop, how, seen)
}

func (s *Server) traceNothing(hop addr.Destination) {
	s.because(whoNobody, "%s is not pinned, nothing is demanded of it, and it is not known to publish DANE or MTA-STS", hop)
}

// traceAssessment says what is known of a destination that an answer takes into account.
func (s *Server) traceAssessment(a policy.Assessment) {
	text := fmt.Sprintf("%s was probed at %s", a.Destination, stamp(a.When))
	if a.When.IsZero() {
		text = fmt.Sprintf("nothing is known of %s", a.Destination)
	}
	if a.Problem != "" {
		text += ": " + string(a.Problem)
	}
	if a.Secure {
		text += ", its MX records are signed"
	}
	if a.MTASTS.Enforces() {
		text += ", it publishes MTA-STS"
	}
	s.because(whoProbe, "%s", text)
}

// traceSiteRoute says where the site's own settings send mail of the sender.
func (s *Server) traceSiteRoute(w SiteRoute, err error) {
	switch {
	case err != nil:
		s.because(whoSite, "the site's own table isn't known now: %v", err)
	case w.AsItIs != "":
		s.because(whoSite, "the site's own settings send it by %s, which need not be held", w.AsItIs)
	case w.Twin != "" || w.Hop != "":
		s.because(whoSite, "the site's own settings send it by the transport %q to %q", w.Twin, w.Hop)
	}
}
