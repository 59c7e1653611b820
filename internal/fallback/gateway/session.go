package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/message"
	"tlsonly/internal/policy"
)

// session is one connection of the MTA. The library calls its methods one after
// the other.
type session struct {
	server *Server
	conn   *smtp.Conn
	said   string // the sender as it came
	sender addr.Address
	mail   smtp.MailOptions
	to     []*recipient
}

// recipient is one that the message is taken for, or that only its content
// decides about.
type recipient struct {
	envelope
	said string // the path as it came
	way  fallback.Way
	took time.Duration // for the judge
}

func (s *Server) newSession(c *smtp.Conn) (smtp.Session, error) {
	return &session{server: s, conn: c}, nil
}

// Logout ends the connection.
func (s *session) Logout() error { return nil }

// Reset ends the transaction.
func (s *session) Reset() {
	s.said, s.sender, s.mail, s.to = "", addr.Address{}, smtp.MailOptions{}, nil
}

// reply makes an SMTP reply. Its text is one line of printable characters.
func reply(code int, enhanced, text string) *smtp.SMTPError {
	e := &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 7, 0}}
	var class, subject, detail int
	if n, err := fmt.Sscanf(enhanced, "%d.%d.%d", &class, &subject, &detail); err == nil && n == 3 && class == code/100 {
		e.EnhancedCode = smtp.EnhancedCode{class, subject, detail}
	}
	text = strings.Map(func(c rune) rune {
		if !strconv.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	const most = 450 // RFC 5321, section 4.5.3.1.5, with the codes
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	e.Message = text
	return e
}

// fault is the reply to what failed in here.
func fault(what string, err error) *smtp.SMTPError {
	return reply(451, "4.3.0", fmt.Sprintf("%s: %v", what, err))
}

// readPath reads an address as the library hands it over: without quotes.
func readPath(s string) (addr.Address, error) {
	if s == "" {
		return addr.Address{}, nil
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return addr.Address{Local: s}, nil
	}
	d, err := addr.ParseDomain(s[at+1:])
	return addr.Address{Local: s[:at], Domain: d}, err
}

// Mail begins a transaction.
func (s *session) Mail(from string, o *smtp.MailOptions) error {
	if _, ok := s.conn.TLSConnectionState(); !ok {
		return reply(530, "5.7.0", "Must issue a STARTTLS command first") // RFC 3207, section 4
	}
	sender, err := readPath(from)
	if err != nil {
		return fault("sender can't be read", err)
	}
	s.said, s.sender = from, sender
	if o != nil {
		s.mail = *o
	}
	return nil
}

// Rcpt has the judge decide about a recipient. What waits is told so at once.
//
// All that is taken is answered at the end of the content, with one reply for all
// of them. A message may be encrypted already, and then a recipient isn't refused
// that would be otherwise: so a refusal waits for the content, and those who would
// have another reply come in a transaction of their own.
func (s *session) Rcpt(to string, o *smtp.RcptOptions) error {
	began := time.Now()
	a, err := readPath(to)
	if err != nil || a.IsNull() {
		return fault("recipient can't be read", errors.Join(err, errors.New(strconv.QuoteToASCII(to))))
	}
	r := &recipient{envelope: envelope{sender: s.sender, recipient: a, mail: s.mail}, said: to}
	if o != nil {
		r.rcpt = *o
	}
	r.way = s.server.judge(s.sender, a)
	r.took = time.Since(began)
	if r.way.Action == fallback.Again {
		return s.server.again(r, r.way.Cause)
	}
	if len(s.to) > 0 && !alike(s.to[0].way, r.way) {
		return reply(451, "4.5.3", "this recipient needs a transaction of its own")
	}
	s.to = append(s.to, r)
	return nil
}

// alike reports whether two ways can share a reply.
func alike(a, b fallback.Way) bool {
	if a.Action == fallback.Refuse || b.Action == fallback.Refuse {
		return a.Action == b.Action && a.Code == b.Code && a.Cause == b.Cause
	}
	return true
}

// judge asks the judge. A panic in it is its error.
func (s *Server) judge(sender, recipient addr.Address) (way fallback.Way) {
	failed := func(err error) fallback.Way {
		return fallback.Way{Code: "4.3.0", Reason: policy.Internal, Cause: fmt.Sprintf("not judged: %v", err)}
	}
	defer func() {
		if p := recover(); p != nil {
			s.c.Log.Error("panic in the gateway", "event", "judge", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			way = failed(errors.New("internal error"))
		}
	}()
	way, err := s.c.Judge.Judge(s.ctx, sender, recipient)
	if err != nil {
		return failed(err)
	}
	if way.Action == fallback.Encrypt && way.Method == nil {
		return failed(errors.New("no method"))
	}
	return way
}

// again tells a recipient to come again, and logs it.
func (s *Server) again(r *recipient, cause string) error {
	r.way.Action = fallback.Again
	s.count.again.Add(1)
	s.log(r, "", slog.String("cause", cause))
	return reply(451, r.way.Code, cause)
}

// Data takes the content and answers for all recipients: 250 when each of them
// has its copy with the MTA.
func (s *session) Data(content io.Reader) (err error) {
	s.server.sessions.Add(1)
	defer s.server.sessions.Done()
	defer func() {
		if p := recover(); p != nil {
			s.server.c.Log.Error("panic in the gateway", "event", "data", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = reply(451, "4.3.0", "internal error")
		}
	}()
	original, err := newSpool(s.server.c.Spool)
	if err != nil {
		return fault("no room for the message", err)
	}
	defer original.Close()
	hash := message.NewHash()
	_, err = io.Copy(io.MultiWriter(original, hash), content)
	if err = errors.Join(err, original.flush()); err != nil {
		return fault("message not taken", err)
	}
	ctx, cancel := context.WithTimeout(s.server.ctx, s.server.c.Patience)
	defer cancel()
	m := &mail{server: s.server, octets: original}
	var failed error
	for _, r := range s.to {
		err := s.server.deliver(ctx, m, hash.Key(s.said, r.said), r)
		// All share a reply: of several the one that waits.
		if failed == nil || temporary(err) {
			if err != nil {
				failed = err
			}
		}
	}
	return failed
}

func temporary(err error) bool {
	var e *smtp.SMTPError
	return errors.As(err, &e) && e.Code/100 == 4
}
