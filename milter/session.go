package milter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// session is one connection of an MTA: one SMTP client, any number of messages one after the other. The library
// calls its methods from one goroutine.
type session struct {
	server        *Server
	canQuarantine bool
	setsMacros    bool // the MTA lets itself be asked for macros
	ctx           context.Context
	cancel        context.CancelFunc
	msg           *message // from MAIL to the end of the message; nil between messages
}

// message is all that is known of one message. Nothing of it outlives the message.
type message struct {
	ctx        context.Context
	cancel     context.CancelFunc
	from       addr.Address
	said       string // the sender as it came, where it can't be read
	unsent     bool   // the MTA named no sender
	candidates rules.Candidates
	queueID    string // "" while the MTA hasn't said
	envelope   envelope
	// atEnd: Postfix handed the message in itself (sendmail command, re-injection), and there is no client that could
	// be refused a recipient. Recipients are decided in the background, the message is answered at its end.
	atEnd bool
	// broken says what went wrong in here; nothing of the message is accepted any
	// more. "": nothing has.
	broken        string
	free          bool // no rule concerns one of its recipients
	warned        bool // warned of a transport that doesn't enforce TLS
	copies        int  // headers with our name that came with it
	tlsRequiredNo bool
	recipients    []*recipient // that a rule concerns and that were not refused at RCPT
	watched       []*watched   // those of whom rules only observe
	decisions     sync.WaitGroup
	slots         chan struct{}

	arrival       inbound.Arrival // as the macros tell it; see cameIn
	inbound       inbound.Candidates
	admitted      []admission // recipients that an [[inbound]] rule let pass
	inboundCopies int         // headers with the name of inboundHeader that came with it
}

// recipient is one that waits for the end of its message.
type recipient struct {
	Decision
	decided bool // false: the message was dropped before it was
	logged  bool
}

// maxDecisions bounds the decisions under way at the same time for one message without a client.
const maxDecisions = 16

func (s *Server) newSession(actions gomilter.OptAction) *session {
	ctx, cancel := context.WithCancel(s.ctx)
	return &session{server: s, canQuarantine: actions&gomilter.OptQuarantine != 0,
		setsMacros: actions&gomilter.OptSetMacros != 0, ctx: ctx, cancel: cancel}
}

// recovered turns a panic of a callback into a temporary failure of the message;
// other sessions don't notice. About is the address of the command.
func (s *session) recovered(event, about string, resp **gomilter.Response, m gomilter.Modifier) {
	p := recover()
	if p == nil {
		return
	}
	msg := s.msg
	if msg == nil {
		msg = &message{unsent: true}
	}
	msg.identify(m)
	s.panicked(event, msg.queueID, p)
	msg.broken = fmt.Sprintf("panic: %v", p)
	if resp == nil {
		return
	}
	// It may be the log that panics.
	defer func() {
		if p := recover(); p != nil {
			s.panicked(event, msg.queueID, p)
			*resp = gomilter.RespTempFail
		}
	}()
	switch event {
	case "mail":
		msg.said = about
		*resp = s.failOne(msg, "")
	case "rcpt":
		*resp = s.failOne(msg, about)
	case "end of message":
		*resp = s.failAll(msg)
	default:
		*resp = gomilter.RespContinue // the end of the message will say it
	}
}

func (s *session) panicked(event, queueID string, p any) {
	s.server.panics.Add(1)
	s.server.c.Log.Error("panic in a milter session", "event", event, "qid", queueID, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// failOne defers one recipient, or at MAIL the message, because something failed
// in here: msg.broken says what.
func (s *session) failOne(msg *message, rcpt string) *gomilter.Response {
	d := Decision{said: rcpt}
	s.server.c.Decider.deferFor(&d, policy.Internal, addr.Destination{}, msg.broken)
	return s.turnDown(msg, &d)
}

// failAll defers a message at its end, because something failed in here:
// msg.broken says what. Each recipient has its line, a message without any has one.
func (s *session) failAll(msg *message) *gomilter.Response {
	decider := &s.server.c.Decider
	all := Decision{}
	decider.deferFor(&all, policy.Internal, addr.Destination{}, msg.broken)
	for _, r := range msg.recipients {
		if !r.logged {
			decider.deferFor(&r.Decision, policy.Internal, r.Destination, msg.broken)
			r.decided = true
		}
	}
	if len(msg.recipients) == 0 {
		s.log(msg, &all)
	}
	s.logAll(msg, policy.Defer)
	return s.answer(all.Reply)
}

// turnDown logs the line of one recipient, or of a message at MAIL, and returns
// the reply.
func (s *session) turnDown(msg *message, d *Decision) *gomilter.Response {
	s.log(msg, d)
	return s.answer(d.Reply)
}

// turnDownSender refuses a message at MAIL whose sender can't be read.
func (s *session) turnDownSender(msg *message, text string, err error) *gomilter.Response {
	d := Decision{Judgement: rules.Judgement{
		Verdict: policy.Reject, Would: policy.Reject, Tag: policy.TagFail, Reason: policy.BadAddress}}
	d.Underlying, d.Cause = d.Reason, limited(err.Error())
	d.Reply = policy.Reply{Code: 501, Enhanced: "5.1.7", Text: text}
	return s.turnDown(msg, &d)
}

// MailFrom begins a message. One that no rule can concern is accepted at once: the MTA sends nothing more of it.
func (s *session) MailFrom(path, args string, m gomilter.Modifier) (resp *gomilter.Response, err error) {
	defer s.recovered("mail", path, &resp, m)
	s.drop()
	if copied := s.reinjectedOr(m); copied != nil {
		return copied, nil
	}
	if asked := s.server.c.OnMessage; asked != nil {
		asked()
	}
	set, in := s.server.c.Rules(), s.server.inboundRules()
	if len(set.Rules())+len(in.Rules()) == 0 && !s.server.c.InboundHeader && s.server.c.Under == nil {
		return gomilter.RespAccept, nil
	}
	if !s.setsMacros && len(in.Rules()) > 0 {
		if in.Demands(s.server.c.Now()) {
			queueID := m.Get(gomilter.MacroQueueId)
			s.server.c.Log.Warn("MTA reports no macros about incoming sessions, which [[inbound]] rules need: message deferred",
				"qid", queueID)
			d := Decision{}
			s.server.c.Decider.deferFor(&d, policy.NotBound, addr.Destination{}, "MTA can't be asked how mail comes in")
			return s.turnDown(&message{said: path, queueID: queueID}, &d), nil
		}
		in = nil
	}
	from, err := sender(path, m)
	if err != nil {
		// Who it is can't be said, so no rule can be ruled out.
		return s.turnDownSender(&message{said: path, queueID: m.Get(gomilter.MacroQueueId)}, "Bad sender address syntax", err), nil
	}
	whose, err := s.whose(set, path, from, m)
	if err != nil {
		return s.turnDownSender(&message{from: from, queueID: m.Get(gomilter.MacroQueueId)}, "Bad sender address", err), nil
	}
	candidates := s.lent(set, set.SenderOf(from, whose, m.Get(gomilter.MacroAuthAuthen), s.server.c.Now()))
	if under := s.server.c.Under; under != nil {
		candidates = under(candidates)
	}
	if doubt := s.server.c.Doubt; doubt != nil && mtaOf(m.Get(gomilter.MacroMTAVersion)) != sendmailMTA {
		candidates = doubt(candidates, whose)
	}
	came, admitting := s.comesIn(in, from, m)
	if candidates.Empty() && len(admitting) == 0 && (came.Here() || !s.tagsInbound()) {
		return gomilter.RespAccept, nil
	}
	s.server.messages.Add(1)
	queueID := m.Get(gomilter.MacroQueueId)
	s.msg = &message{
		from:       from,
		candidates: candidates,
		queueID:    queueID,
		envelope:   newEnvelope(path, args, m),
		// Postfix's smtpd says the mailer and no queue ID here, Sendmail says both, Postfix's cleanup for mail without
		// a client only the queue ID. RcptTo looks again.
		atEnd:   queueID != "" && m.Get(gomilter.MacroMailMailer) == "",
		arrival: came,
		inbound: admitting,
	}
	s.msg.ctx, s.msg.cancel = context.WithCancel(s.ctx)
	return gomilter.RespContinue, nil
}

// sender parses the envelope sender. Without a domain it is what the MTA makes of it: Postfix completes a bare name and
// turns "host!user" and "user%host" around, Sendmail will add the host's own name.
func sender(path string, m gomilter.Modifier) (addr.Address, error) {
	from, err := addr.ParsePath(path)
	if err != nil || from.IsNull() || !from.Domain.IsZero() {
		return from, err
	}
	full, err := addr.ParsePath(m.Get(gomilter.MacroMailAddr))
	if err == nil && !full.Domain.IsZero() {
		return full, nil
	}
	if host, err := addr.ParseDomain(m.Get(gomilter.MacroMTAFQDN)); err == nil {
		from.Domain = host
	}
	return from, nil
}

// RcptTo decides for one recipient. Accept is never the answer: Postfix would take it for the whole message.
func (s *session) RcptTo(path, _ string, m gomilter.Modifier) (resp *gomilter.Response, err error) {
	defer s.recovered("rcpt", path, &resp, m)
	began := time.Now()
	msg := s.msg
	if msg == nil {
		msg = &message{unsent: true, broken: "RCPT without MAIL"}
	}
	msg.identify(m)
	if msg.broken != "" {
		return s.failOne(msg, path), nil
	}
	route := Route{Mailer: m.Get(gomilter.MacroRcptMailer), Host: m.Get(gomilter.MacroRcptHost)}
	if route.Mailer != "" {
		msg.atEnd = false
	}
	to, err := addr.ParsePath(path)
	if err == nil && to.IsNull() {
		err = errors.New("the null address is no recipient")
	}
	if err != nil {
		d := Decision{said: path}
		s.server.c.Decider.refuse(&d, policy.BadAddress, err.Error())
		if msg.atEnd {
			msg.recipients = append(msg.recipients, &recipient{Decision: d, decided: true})
			return gomilter.RespContinue, nil
		}
		return s.turnDown(msg, &d), nil
	}
	to = routed(to, m)
	if refusal := s.admit(msg, to, m); refusal != nil {
		return refusal, nil
	}
	if msg.candidates.Match(to) == nil && !msg.candidates.Forwarders() {
		msg.free = true
		return gomilter.RespContinue, nil
	}
	if msg.atEnd && isMTAName(to.Domain, m) {
		route.Mailer = "local"
	}
	if msg.candidates.Observe(to) {
		s.watch(to, route, began)
		return gomilter.RespContinue, nil
	}
	if msg.atEnd {
		s.decideLater(to, route)
		return gomilter.RespContinue, nil
	}
	d := s.decide(msg, to, route)
	if d.Rule == nil {
		msg.free = true
		return gomilter.RespContinue, nil
	}
	if d.Verdict.Accepted() {
		msg.recipients = append(msg.recipients, &recipient{Decision: d, decided: true})
		return gomilter.RespContinue, nil
	}
	return s.turnDown(msg, &d), nil
}

// routed returns the recipient that the MTA made of one who names another host in the local part: "user%host@local" and
// "host!user@local" leave for that host. RFC 5321, section 3.3, has such routes deprecated; both MTAs know them for their own clients.
func routed(to addr.Address, m gomilter.Modifier) addr.Address {
	if strings.ContainsAny(to.Local, "%!@") {
		if full, err := addr.ParsePath(m.Get(gomilter.MacroRcptAddr)); err == nil && !full.Domain.IsZero() {
			return full
		}
	}
	return to
}

// isMTAName reports whether d is what the MTA calls itself, or localhost.
// Without a client it doesn't say that it delivers that here: what cron mails
// to root must not be taken for mail that leaves. If it does leave, delivery
// holds it.
func isMTAName(d addr.Domain, m gomilter.Modifier) bool {
	own, err := addr.ParseDomain(m.Get(gomilter.MacroMTAFQDN))
	return d.String() == "localhost" || err == nil && d == own
}

// decide is Decide with what the session knows besides: whether the MTA can
// hold a message, and whether it would enforce TLS on this one.
func (s *session) decide(msg *message, to addr.Address, route Route) Decision {
	decider := &s.server.c.Decider
	start := time.Now()
	d := decider.decide(msg.ctx, msg.candidates, to, route, func(d *Decision) {
		if d.Verdict == policy.Hold && !s.canQuarantine {
			d.Verdict, d.Would = policy.Defer, policy.Defer
			d.Reply = decider.reply(d)
			d.add("session", "deferred, because the MTA can't hold a message")
		}
		s.attest(msg, d, route)
	})
	s.note(msg, &d)
	s.settled(msg, &d)
	d.took = time.Since(start)
	return d
}

// settled defers a recipient that would be accepted while Postfix may still
// route the sender's mail as before the rules changed: copies that the milter
// doesn't see would leave unbound.
func (s *session) settled(msg *message, d *Decision) {
	settled := s.server.c.Settled
	if settled == nil || msg.envelope.mta == sendmailMTA || d.Rule == nil || !d.Rule.Enforcing() ||
		!d.Verdict.Accepted() || settled(msg.from) {
		return
	}
	decider := &s.server.c.Decider
	decider.deferFor(d, policy.NotBound, d.firstDestination(), "postfix may still route this sender as before the rules changed")
	d.Reply.Text = "TLS rules have just changed here, try again in a minute"
}

// decideLater decides in the background; EndOfMessage waits for it. It blocks while too many are under way.
func (s *session) decideLater(to addr.Address, route Route) {
	msg := s.msg
	if msg.slots == nil {
		msg.slots = make(chan struct{}, maxDecisions)
	}
	r := &recipient{Decision: Decision{Recipient: to}}
	msg.recipients = append(msg.recipients, r)
	msg.slots <- struct{}{} // freed within a deadline
	queueID := msg.queueID
	msg.decisions.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				s.panicked("rcpt", queueID, p)
				s.server.c.Decider.deferFor(&r.Decision, policy.Internal, addr.Destination{}, fmt.Sprintf("panic: %v", p))
				r.decided = true
			}
			<-msg.slots
		}()
		d := s.decide(msg, to, route)
		if msg.ctx.Err() == nil {
			r.Decision, r.decided = d, true
		}
	})
}

// settle waits for what is decided in the background, and lets go of recipients that no rule turned out to concern.
func (msg *message) settle() {
	msg.decisions.Wait()
	msg.recipients = slices.DeleteFunc(msg.recipients, func(r *recipient) bool {
		unconcerned := r.decided && r.Rule == nil && r.Verdict == policy.Accept
		msg.free = msg.free || unconcerned
		return unconcerned
	})
}

// identify keeps the queue ID, when the MTA has said it.
func (msg *message) identify(m gomilter.Modifier) {
	if id := m.Get(gomilter.MacroQueueId); id != "" {
		msg.queueID = id
	}
}

// Header counts forged copies of our header and finds TLS-Required. The MTA waits for no answer, where it can.
func (s *session) Header(name, value string, m gomilter.Modifier) (resp *gomilter.Response, err error) {
	defer s.recovered("header", "", &resp, m)
	if s.msg != nil {
		switch {
		case isHeader(name, tagHeader):
			s.msg.copies++
		case isHeader(name, inboundHeader):
			s.msg.inboundCopies++
		case isHeader(name, tlsRequiredHeader) && saysNo(value):
			s.msg.tlsRequiredNo = true
		}
	}
	return gomilter.RespContinue, nil
}

// EndOfMessage answers for the message: tags it, holds it, or refuses it where RcptTo could not.
func (s *session) EndOfMessage(m gomilter.Modifier) (resp *gomilter.Response, err error) {
	defer s.forget()
	defer s.recovered("end of message", "", &resp, m)
	msg := s.msg
	if msg == nil {
		msg = &message{unsent: true, broken: "end of a message without MAIL"}
	}
	msg.settle()
	msg.identify(m)
	if msg.broken == "" {
		verdict, reply := s.outcome(msg)
		if reply.Code != 0 {
			s.logAll(msg, verdict)
			return s.answer(reply), nil
		}
		if err := s.edit(msg, m, &verdict); err != nil {
			msg.broken = err.Error()
		} else {
			s.logAll(msg, verdict)
			return gomilter.RespAccept, nil
		}
	}
	return s.failAll(msg), nil
}

// edit has the MTA change an accepted message: its headers, its sender, and
// whether it is held, which verdict says then.
func (s *session) edit(msg *message, m gomilter.Modifier, verdict *policy.Verdict) error {
	accepted := make([]*Decision, 0, len(msg.recipients))
	var held *Decision
	for _, r := range msg.recipients {
		accepted = append(accepted, &r.Decision)
		if r.Verdict == policy.Hold && held == nil {
			held = &r.Decision
		}
	}
	if came := msg.cameIn(); !came.Here() && s.tagsInbound() {
		if err := editHeaders(m, inboundHeader, msg.inboundCopies, inboundValue(came, msg.admitted)); err != nil {
			return fmt.Errorf("edit headers: %w", err)
		}
	}
	accepted = append(accepted, msg.seen()...)
	if !msg.candidates.Empty() {
		if err := editHeaders(m, tagHeader, msg.copies, tagValue(accepted)); err != nil {
			return fmt.Errorf("edit headers: %w", err)
		}
	}
	why := ""
	if admitted := msg.inboundHold(); held != nil {
		why = fmt.Sprintf("tlsonly: rule %+q: %s", held.Rule.Name, held.Reason)
	} else if admitted != nil {
		*verdict = policy.Hold
		why = fmt.Sprintf("tlsonly: inbound rule %+q: %s", admitted.rule.Name, admitted.Reason)
	}
	if why != "" {
		if err := m.Quarantine(why); err != nil {
			return fmt.Errorf("quarantine: %w", err)
		}
	}
	return s.reissueSender(msg, m)
}

// outcome is the verdict for the whole message: the strictest of its recipients'.
// A recipient that was not decided fails it.
func (s *session) outcome(msg *message) (verdict policy.Verdict, reply policy.Reply) {
	verdict = policy.Accept
	c := &s.server.c
	for _, r := range msg.recipients {
		switch {
		case !r.decided: // the daemon ends
			c.Decider.deferFor(&r.Decision, policy.Internal, addr.Destination{}, "not decided yet")
			r.decided = true
		case msg.tlsRequiredNo && c.RefuseTLSRequiredNo && r.Verdict != policy.Reject && r.Rule != nil && r.Rule.Enforcing():
			// RFC 8689, section 4.2: the header asks every MTA on the way to do
			// without the TLS that the rule asks for.
			c.Decider.refuse(&r.Decision, policy.TLSRequiredNo, "the message says TLS-Required: no")
		}
		if r.Verdict.Rank() > verdict.Rank() {
			verdict, reply = r.Verdict, r.Reply
		}
	}
	return verdict, reply
}

// answer makes a reply the library's. Doubled percent signs and the like are its care.
func (s *session) answer(r policy.Reply) *gomilter.Response {
	resp, err := gomilter.RejectWithCodeAndReason(uint16(r.Code), r.Enhanced+" "+r.Text)
	if err != nil {
		s.server.c.Log.Error("reply cannot be sent", "reply", r.String(), "err", err)
		return gomilter.RespTempFail
	}
	return resp
}

// Abort drops the message: RSET, a second EHLO, a client that left.
func (s *session) Abort(m gomilter.Modifier) error {
	defer s.recovered("abort", "", nil, m)
	s.name(m)
	s.drop()
	return nil
}

// Cleanup ends the session. Sendmail sends no abort before it.
func (s *session) Cleanup(m gomilter.Modifier) {
	defer s.recovered("cleanup", "", nil, m)
	defer s.cancel()
	s.name(m)
	s.drop()
}

// NewConnection comes at the start, and when the MTA uses the connection for another SMTP client.
func (s *session) NewConnection(m gomilter.Modifier) error {
	defer s.recovered("connection", "", nil, m)
	s.drop()
	return nil
}

// name keeps the queue ID while the library still knows it.
func (s *session) name(m gomilter.Modifier) {
	if s.msg != nil {
		s.msg.identify(m)
	}
}

// drop ends a message that didn't come to its end. What was decided for it is logged all the same.
func (s *session) drop() {
	defer s.forget()
	if msg := s.msg; msg != nil {
		msg.cancel()
		msg.settle()
		s.logAll(msg, "")
	}
}

func (s *session) forget() {
	if s.msg != nil {
		s.msg.cancel()
		s.msg = nil
	}
}

// logAll logs the recipients that waited for the queue ID. message is the verdict for the whole, "" for none.
func (s *session) logAll(msg *message, message policy.Verdict) {
	s.endWatched(msg)
	for i := range msg.admitted {
		s.logAdmission(msg, &msg.admitted[i], message)
	}
	for _, r := range msg.recipients {
		if !r.decided || r.logged {
			continue
		}
		r.logged = true // before: it may panic
		if message != "" && message != r.Verdict {
			s.log(msg, &r.Decision, slog.String("message", string(message)))
		} else {
			s.log(msg, &r.Decision)
		}
	}
}

// The events below are not asked for. An MTA that can't leave one out gets the answer that changes nothing.

func (s *session) Connect(string, string, uint16, string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (s *session) Helo(string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (s *session) Data(gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (s *session) Headers(gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (s *session) BodyChunk([]byte, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

// Unknown answers who this is; an MTA doesn't show such commands.
func (s *session) Unknown(line string, _ gomilter.Modifier) (*gomilter.Response, error) {
	if who := s.server.c.Identity.AnswerCommand(line); who != "" {
		return s.answer(policy.Reply{Code: 502, Enhanced: "5.5.1", Text: who}), nil
	}
	return gomilter.RespContinue, nil
}
