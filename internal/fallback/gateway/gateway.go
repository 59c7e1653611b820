// Package gateway is the last mail host of the MTA's route: when no host of a
// destination has the TLS that is asked, the MTA turns to it in the same attempt,
// with the real envelope. For each sender and recipient it asks a judge anew and
// answers 451 with the true cause, 550 where the destination is known not to
// satisfy the rule, or takes the message, has a method encrypt it, and hands the
// copy to an smtpd(8) of our own (Reinjector).
//
// It keeps no queue: the MTA's is the only one. A message is taken, 250, when all
// its copies are with the MTA and that is stored. Until then it is the MTA's to
// try again. Each copy has a key, made of sender, recipient and octets, so that
// one that was handed over isn't made a second time (Copies).
//
// It speaks ESMTP (RFC 5321) with PIPELINING, 8BITMIME, SMTPUTF8 (6531), DSN
// (3461) and CHUNKING (3030), by go-smtp. A client has to start TLS, which the MTA
// checks by the fingerprint of the gateway's own certificate (Identity).
//
// SECURITY: whatever fails in here is 451, never a copy in the clear. A copy that
// is said to be encrypted is read again, whole, before it leaves (finished).
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/net/netutil"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/message"
	"tlsonly/internal/policy"
)

// Copies remembers which copies were handed to the MTA.
type Copies interface {
	// Handed reports whether the copy with this key was.
	Handed(ctx context.Context, key string) (bool, error)
	// PutHanded makes durable, before it returns nil, that it was.
	PutHanded(ctx context.Context, key string) error
}

// Config is what a Server works with. All fields are needed but those with a
// default.
type Config struct {
	Judge    fallback.Judge
	Copies   Copies
	Identity *Identity
	Reinject *Reinjector
	// Spool is the directory for messages under way. They have mode 0600 and no
	// name.
	Spool string
	// Domain is that of the Message-IDs of copies.
	Domain string

	Connections int           // served at the same time, more wait; 500
	Patience    time.Duration // for all copies of one message; 25 min

	// Observe is told of each recipient that was decided. It doesn't wait; nil:
	// nobody is told.
	Observe func(Event)
	Log     *slog.Logger // default: none
}

// Event is what became of a message to one recipient.
type Event struct {
	Sender, Recipient addr.Address
	Action            fallback.Action
	Method            string // that encrypted it, "" for none
	Reason            policy.Reason
	Rule              string
	Took              time.Duration
}

// Server is the gateway. Make one with New.
type Server struct {
	c        Config
	lib      *smtp.Server
	ctx      context.Context // ends when what is under way is cut
	cancel   context.CancelFunc
	sessions sync.WaitGroup // messages under way

	mu   sync.Mutex
	jobs map[message.Key]*job

	count struct{ again, refused, handed, repeated atomic.Uint64 }
}

// Stats are a Server's counters, of recipients.
type Stats struct {
	Again    uint64 // told to come again
	Refused  uint64
	Handed   uint64 // whose copy was handed to the MTA
	Repeated uint64 // whose copy had been handed before
}

// spoolPattern is of files that only a crash between two system calls leaves.
const spoolPattern = "gateway-*.spool"

// New returns a Server that isn't serving yet.
func New(c Config) (*Server, error) {
	if c.Judge == nil || c.Copies == nil || c.Identity == nil || c.Reinject == nil || c.Spool == "" {
		return nil, errors.New("gateway: a judge, a memory, an identity, a way back and a spool are needed")
	}
	c.Connections = cmp.Or(c.Connections, 500)
	c.Patience = cmp.Or(c.Patience, 25*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("gateway: spool: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(c.Spool, spoolPattern))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return nil, fmt.Errorf("gateway: spool: %w", err)
	}
	s := &Server{c: c, jobs: map[message.Key]*job{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.lib = smtp.NewServer(smtp.BackendFunc(s.newSession))
	// Not the MTA's own name: Postfix would take that for a loop.
	s.lib.Domain = contract.GatewayName
	s.lib.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c.Identity.certificate}}
	s.lib.EnableSMTPUTF8, s.lib.EnableDSN = true, true
	s.lib.ReadTimeout, s.lib.WriteTimeout = 10*time.Minute, time.Minute // RFC 5321, section 4.5.3.2
	s.lib.MaxLineLength = maxLine
	s.lib.ErrorLog = libraryLog{c.Log}
	return s, nil
}

// maxLine bounds what a command can make us keep. MTAs send lines of at most 998
// octets, but for their settings.
const maxLine = 1 << 20

// Serve answers on ln until Shutdown, then returns nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	err := s.lib.Serve(netutil.LimitListener(ln, s.c.Connections))
	if errors.Is(err, smtp.ErrServerClosed) || s.ctx.Err() != nil {
		return nil
	}
	return err
}

// Shutdown takes no new messages, lets those under way end until ctx does, and
// cuts the rest: their copies are not handed over, or are and will be known.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.sessions.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.cancel()
	return errors.Join(err, s.lib.Close())
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{
		Again:    s.count.again.Load(),
		Refused:  s.count.refused.Load(),
		Handed:   s.count.handed.Load(),
		Repeated: s.count.repeated.Load(),
	}
}

// libraryLog has go-smtp's own warnings in our log.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(format string, v ...any) {
	l.log.Warn("session of the gateway failed", "err", fmt.Sprintf(format, v...))
}
func (l libraryLog) Println(v ...any) {
	l.log.Warn("session of the gateway failed", "err", fmt.Sprintln(v...))
}
