package milter

import (
	"cmp"
	"context"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// A recipient of whom rules only observe what would be done is answered at once:
// the sender must not wait for what is known later and changes nothing. What
// enforcing would have done is found out in the background, and told when it is
// known.

const (
	// mostWatched bounds the recipients that are judged so at the same time.
	mostWatched = 4096
	// patience is how long the end of a message waits for what is nearly known, so
	// that its header can tell.
	patience = 50 * time.Millisecond
)

// watched is such a recipient. It is logged once both the message has ended, for
// only then its queue ID is known, and the recipient has been judged.
type watched struct {
	to      addr.Address
	rule    *rules.Rule // nil: one for forwards alone may concern it
	took    time.Duration
	done    chan struct{} // closed when it has been judged, or never will be
	ends    sync.Mutex
	ended   bool
	judged  bool
	decided Decision // once judged; Rule is nil where no rule turned out to concern it
}

// watch judges a recipient in the background.
func (s *session) watch(to addr.Address, route Route, began time.Time) {
	msg := s.msg
	msg.free = true
	server := s.server
	select {
	case server.watching <- struct{}{}:
	default:
		if server.unwatched.Add(1) == 1 {
			server.c.Log.Warn("too many recipients at once for rules in observe mode, some are not judged", "limit", mostWatched)
		}
		return
	}
	w := &watched{to: to, rule: msg.candidates.Match(to), done: make(chan struct{})}
	msg.watched = append(msg.watched, w)
	candidates, queueID := msg.candidates, msg.queueID
	w.took = time.Since(began)
	server.watches.Go(func() {
		defer func() { <-server.watching }()
		defer close(w.done)
		defer func() {
			if p := recover(); p != nil {
				s.panicked("rcpt", queueID, p)
			}
		}()
		ctx, cancel := context.WithTimeout(server.ctx, cmp.Or(max(server.c.Decider.Deadline, 0), defaultDeadline))
		defer cancel()
		d := server.c.Decider.Decide(ctx, candidates, to, route)
		if server.ctx.Err() != nil {
			return // it was cut, which says nothing
		}
		d.took = w.took
		w.ends.Lock()
		defer w.ends.Unlock()
		w.decided, w.judged = d, true
		if w.ended {
			s.tell(msg, w)
		}
	})
}

// tell logs what has been judged of a message that has ended.
func (s *session) tell(msg *message, w *watched) {
	if w.decided.Rule != nil {
		s.log(msg, &w.decided)
	}
}

// endWatched logs what is known of a message that ends now; the rest is logged
// when it is known.
func (s *session) endWatched(msg *message) {
	for _, w := range msg.watched {
		w.ends.Lock()
		if !w.ended && w.judged {
			s.tell(msg, w)
		}
		w.ended = true
		w.ends.Unlock()
	}
}

// seen returns what the header of a message can say of those observed.
func (msg *message) seen() []*Decision {
	limit := time.After(patience)
	var found []*Decision
	for _, w := range msg.watched {
		select {
		case <-w.done:
		case <-limit:
			limit = time.After(0)
		}
		w.ends.Lock()
		d := w.decided
		if !w.judged {
			d = Decision{Rule: w.rule, Recipient: w.to, Judgement: rules.Judgement{
				Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagObserve}}
		}
		w.ends.Unlock()
		if d.Rule != nil {
			found = append(found, &d)
		}
	}
	return found
}
