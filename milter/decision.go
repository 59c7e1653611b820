package milter

import (
	"log/slog"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Decision is what was decided for one recipient, and from what.
type Decision struct {
	// Rule is the one that decided; nil: no rule concerns the recipient, or none came to decide.
	Rule         *rules.Rule
	Recipient    addr.Address
	Sender       addr.Address       // as the message has it; filled in when the decision is logged
	Destinations []addr.Destination // of the recipient itself; none: delivered here, or sent on
	Forwards     []forward.Leaf     // where else its mail leaves to, as far as a rule asked for that
	Unread       []forward.Leaf     // what can't be read here and is held at delivery
	Assessments  []policy.Assessment
	rules.Judgement
	// Underlying is the reason that a forward has which decided: Reason is
	// policy.Forward then. Otherwise it is Reason.
	Underlying policy.Reason
	// Method is what encrypts the message if its destination doesn't satisfy the
	// rule at delivery, "" for nothing; and Unprotected is why nothing does where
	// the rule falls back.
	Method      policy.Method
	Unprotected error
	Reply       policy.Reply // what the client is told; zero for accept and hold
	Cause       string       // in words, as the log has it; the client never hears it

	plan    plan
	rulings []ruling
	late    policy.Trace // what came after the rules
	said    string       // the recipient as it came, where it can't be read
	took    time.Duration
}

// deferFor defers a recipient for a reason that no rule can excuse: something
// failed on this side. At is the destination concerned, zero for none; cause is
// for the log.
func (d *Decider) deferFor(out *Decision, reason policy.Reason, at addr.Destination, cause string) {
	d.turnDown(out, policy.Defer, reason, at, cause)
}

// refuse rejects a recipient for what its client has said, whatever a rule says.
func (d *Decider) refuse(out *Decision, reason policy.Reason, cause string) {
	d.turnDown(out, policy.Reject, reason, out.Destination, cause)
}

func (d *Decider) turnDown(out *Decision, v policy.Verdict, reason policy.Reason, at addr.Destination, cause string) {
	out.Verdict, out.Would, out.Tag = v, v, policy.TagFail
	out.Reason, out.Underlying, out.Destination = reason, reason, at
	out.Cause = limited(cause)
	out.Reply = d.reply(out)
	out.add(stageOf(reason), "%s: %s: %s", v, reason, out.Cause)
}

// stageOf is the step in which a recipient is turned down for a reason that isn't
// a rule's.
func stageOf(r policy.Reason) string {
	if r == policy.StoreFailed {
		return stageCommit
	}
	return stageSession
}

// firstDestination is a destination of the recipient itself, zero for none.
func (d *Decision) firstDestination() addr.Destination {
	if len(d.Destinations) > 0 {
		return d.Destinations[0]
	}
	return addr.Destination{}
}

// log writes the one line of a recipient, or of a message that is turned down
// before it has any.
func (s *session) log(msg *message, d *Decision, more ...slog.Attr) {
	d.Sender = msg.from
	if observe := s.server.c.Observe; observe != nil && d.Rule != nil {
		observe(d, d.took)
	}
	log := s.server.c.Log
	if !log.Enabled(s.ctx, slog.LevelInfo) {
		return
	}
	from, rcpt := msg.said, d.said
	if from == "" && !msg.unsent {
		from = msg.from.String()
	}
	if rcpt == "" && !d.Recipient.IsNull() {
		rcpt = d.Recipient.String()
	}
	rule, level := "", ""
	if d.Rule != nil {
		rule, level = d.Rule.Name, string(d.Rule.Level)
	}
	attrs := append(make([]slog.Attr, 0, 12),
		slog.String("qid", msg.queueID),
		slog.String("from", limited(from)),
		slog.String("rcpt", limited(rcpt)),
		slog.String("rule", rule),
		slog.String("destination", d.where()),
		slog.String("level", level),
		slog.String("verdict", string(d.Verdict)),
		slog.String("reason", string(d.Reason)),
	)
	if d.Would != d.Verdict {
		attrs = append(attrs, slog.String("would", string(d.Would)))
	}
	if d.Method != "" {
		attrs = append(attrs, slog.String("method", string(d.Method)))
	}
	if d.Cause != "" {
		attrs = append(attrs, slog.String("err", d.Cause))
	}
	if len(d.Unread) > 0 {
		attrs = append(attrs, slog.String("unread", d.Unread[0].Unread))
	}
	log.LogAttrs(s.ctx, slog.LevelInfo, "decision", append(attrs, more...)...)
	if !log.Enabled(s.ctx, slog.LevelDebug) {
		return
	}
	for _, step := range d.Trace() {
		log.LogAttrs(s.ctx, slog.LevelDebug, "trace", slog.String("qid", msg.queueID), slog.String("rcpt", limited(rcpt)),
			slog.String("stage", step.Stage), slog.String("text", step.Text))
	}
}

// where names the destinations for the log, "" where nothing was decided of any.
func (d *Decision) where() string {
	switch {
	case !d.Destination.IsZero():
		return d.Destination.String()
	case len(d.Destinations) == 0 && d.Rule == nil:
		return ""
	case len(d.Destinations) == 0:
		return "local"
	}
	return joined(d.Destinations, ",")
}
