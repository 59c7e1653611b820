package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/message"
)

// sentField says on the outside of a copy by which method it is encrypted.
const sentField = "TLS-Only-Sent"

// mail is one message that the MTA has given us.
type mail struct {
	server *Server
	octets *spool

	read       bool
	ours       bool // a copy of the gateway's
	protection message.Protection
	err        error
}

// inspect reads the message once: is it a copy of ours, is it encrypted?
func (m *mail) inspect() error {
	if m.read {
		return m.err
	}
	m.read = true
	parsed, err := message.Read(m.octets.reader())
	if err == nil {
		m.ours, err = m.server.c.Identity.knows(parsed)
	}
	if err == nil {
		m.protection, err = message.Inspect(m.octets.reader())
	}
	m.err = err
	return err
}

// passes returns by what a message may leave as it is, "" if it may not.
func (m *mail) passes(way fallback.Way) string {
	switch {
	case m.ours:
		return "copy"
	case way.Action == fallback.Open:
		return "open"
	case m.protection != message.None && slices.Contains(way.Passes, string(m.protection)):
		return string(m.protection)
	}
	return ""
}

// job is one copy that is made and handed over.
type job struct {
	done chan struct{} // closed at the end
	err  error
}

// deliver brings a message to one recipient: nil when its copy is with the MTA.
// Where the same is under way already, it waits for that.
func (s *Server) deliver(ctx context.Context, m *mail, key message.Key, r *recipient) (err error) {
	s.mu.Lock()
	j, running := s.jobs[key]
	if !running {
		j = &job{done: make(chan struct{})}
		s.jobs[key] = j
	}
	s.mu.Unlock()
	if running {
		select {
		case <-j.done:
			return j.err
		case <-ctx.Done():
			return s.again(r, "still under way")
		}
	}
	defer func() {
		if p := recover(); p != nil {
			s.c.Log.Error("panic in the gateway", "event", "copy", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = s.again(r, "internal error")
		}
		j.err = err
		s.mu.Lock()
		delete(s.jobs, key)
		s.mu.Unlock()
		close(j.done)
	}()
	return s.work(ctx, m, key, r)
}

// work is deliver for the one who does it.
func (s *Server) work(ctx context.Context, m *mail, key message.Key, r *recipient) error {
	began := time.Now()
	handed, err := s.c.Copies.Handed(ctx, key.String())
	switch {
	case err != nil:
		return s.again(r, fmt.Sprintf("what was sent can't be looked up: %v", err))
	case handed:
		s.count.repeated.Add(1)
		s.log(r, "", slog.Bool("repeated", true))
		return nil
	}
	if err := m.inspect(); err != nil {
		return s.again(r, fmt.Sprintf("message can't be read: %v", err))
	}
	method, octets := m.passes(r.way), m.octets
	switch {
	case method != "":
		r.way.Action = fallback.Open
	case r.way.Action == fallback.Refuse:
		s.count.refused.Add(1)
		s.log(r, "", slog.String("cause", r.way.Cause))
		return reply(550, r.way.Code, r.way.Cause)
	case r.way.Action == fallback.Encrypt:
		method = r.way.Method.Name()
		made, err := s.encrypt(ctx, m, key, r)
		if err != nil {
			return s.again(r, fmt.Sprintf("not encrypted by %s: %v", method, err))
		}
		defer made.Close()
		octets = made
	default:
		return s.again(r, r.way.Cause)
	}
	queueID, err := s.c.Reinject.hand(ctx, r.envelope, octets.reader())
	if err != nil {
		return s.again(r, fmt.Sprintf("copy not taken by the MTA: %v", err))
	}
	// From here on a crash means that the copy comes twice, with one Message-ID.
	if err := s.c.Copies.PutHanded(context.WithoutCancel(ctx), key.String()); err != nil {
		s.c.Log.Error("copy handed over and not recorded: it may come twice", "qid", queueID, "err", err)
	}
	s.count.handed.Add(1)
	r.took += time.Since(began)
	s.log(r, method, slog.String("qid", queueID))
	return nil
}

// encrypt makes the copy for one recipient.
func (s *Server) encrypt(ctx context.Context, m *mail, key message.Key, r *recipient) (_ *spool, err error) {
	inside, err := newSpool(s.c.Spool)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	c := fallback.Copy{
		Sender: r.sender, Recipient: r.recipient,
		MessageID: key.MessageID(s.c.Identity.derive("message-id"), s.c.Domain),
		Extra:     []string{sentField + ": " + r.way.Method.Name()},
	}
	err = r.way.Method.Encrypt(ctx, inside, m.octets.reader(), c)
	if err = errors.Join(err, inside.flush()); err != nil {
		return nil, err
	}
	return s.finished(inside, r.way.Method.Name())
}

// finished marks what a method has made, after it has read it again: a method that
// says that it encrypts by OpenPGP or S/MIME has done that or nothing leaves.
func (s *Server) finished(made *spool, method string) (_ *spool, err error) {
	parsed, err := message.Read(made.reader())
	if err != nil {
		return nil, err
	}
	if len(parsed.Fields) == 0 || len(parsed.Blank) == 0 {
		return nil, errors.New("it is no message")
	}
	if known := []string{string(message.OpenPGP), string(message.SMIME)}; slices.Contains(known, method) {
		found, err := message.Inspect(made.reader())
		if err != nil {
			return nil, err
		}
		if string(found) != method {
			return nil, errors.New("it isn't encrypted")
		}
	}
	mark, err := s.c.Identity.marked(parsed.Body)
	if err != nil {
		return nil, err
	}
	out, err := newSpool(s.c.Spool)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(out, io.MultiReader(strings.NewReader(mark), made.reader()))
	if err = errors.Join(err, out.flush()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// log writes the one line of a recipient and tells Observe.
func (s *Server) log(r *recipient, method string, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("from", r.sender.String()), slog.String("to", r.recipient.String()),
		slog.String("action", r.way.Action.String()), slog.String("method", method),
		slog.String("reason", string(r.way.Reason)), slog.String("rule", r.way.Rule),
	}, more...)
	s.c.Log.LogAttrs(context.Background(), slog.LevelInfo, "fallback", attrs...)
	if s.c.Observe != nil {
		s.c.Observe(Event{Sender: r.sender, Recipient: r.recipient, Action: r.way.Action, Method: method,
			Reason: r.way.Reason, Rule: r.way.Rule, Took: r.took})
	}
}
