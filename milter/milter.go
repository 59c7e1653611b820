// Package milter is the MTA's conversation with us: the envelope of a message comes in, one reply a recipient goes
// out. It answers which rule concerns a recipient, where the recipient's mail goes and what the client is told; what
// a rule is belongs to package rules, what a destination does to whoever is the Assessor. It reads from the MTA's macros how
// a message comes in, too, and asks package inbound what to make of that (inbound.go).
//
// The protocol is Sendmail's milter protocol, versions 2 to 6, spoken by the library go-milter behind a guard that
// lets only well-formed packets through (guard.go). What is asked of the MTA is little: MAIL, RCPT, headers without a
// reply, end of message. What the MTAs punish is never done: no progress and no skip before the end of the message
// (Sendmail drops the filter and delivers), no accept for one recipient (Postfix ends the filter for the message).
//
// The caller holds a Server, hands it listeners (Listen, or systemd's), and ends it with Shutdown. Each message is
// judged by the rules that were in force at its MAIL.
//
// SECURITY: the MTA is trusted, its socket is not to be reachable by others. Whatever goes wrong in here (a panic, a
// deadline, a packet out of order) ends in a temporary failure for one message, never in its acceptance. This holds
// only where the MTA treats a lost filter the same: milter_default_action = tempfail, F=T.
package milter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/instance"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Config is what a Server works with. Decider.Assessor and Rules are needed; zero fields mean the defaults named.
type Config struct {
	Decider Decider
	// Rules returns the rules now in force. It is called once a message.
	Rules func() *rules.Set
	// Written returns what else than a sender the MTA may name to hosts in its
	// place, by masquerading and the like; nil: nothing. The strictest counts.
	Written func(addr.Address) []addr.Address
	// Reinjected reports whether a client of the service that takes the gateway's
	// copies is the gateway. Copies aren't judged: they are encrypted. Nil: there is
	// no gateway, and nobody comes in there.
	Reinjected func(ctx context.Context, client netip.AddrPort) bool
	// Inbound returns the [[inbound]] rules now in force; nil: there never are any. It is called once a message.
	Inbound func() *inbound.Set
	// InboundHeader adds the header TLS-Only-Inbound to all mail that comes from elsewhere.
	InboundHeader bool
	// RefuseTLSRequiredNo refuses protected messages with the header "TLS-Required: no" (RFC 8689).
	RefuseTLSRequiredNo bool
	// RedactBounces has bounces of protected messages carry headers only, where the MTA lets the sender be changed.
	RedactBounces bool
	// TagEnvelope binds messages in Sendmail by their envelope id; other MTAs' messages stay as they are.
	TagEnvelope bool
	// Under adds the rules that aren't in force any more and still bind a
	// sender's mail at delivery. Nil: there are none.
	Under func(rules.Candidates) rules.Candidates
	// Doubt has nothing accepted of a sender, one of several addresses, by an
	// exception that Postfix's delivery doesn't know of. Nil: all is as the
	// rules say. Sendmail's delivery asks for each recipient.
	Doubt func(c rules.Candidates, whose []addr.Address) rules.Candidates
	// Forms are those in which senders come at delivery, besides what the rules
	// say. Nil: there are no others.
	Forms func() addr.Forms
	// Settled reports whether the MTA routes a sender's mail by the rules now in
	// force. Nil: it always does.
	Settled func(from addr.Address) bool
	// Attest is what to do when Postfix would send a protected recipient's mail by a transport that is neither one of
	// ours by its name (tlsonly, tlsonly1 …) nor enforcing by Enforcing; the default is AttestOff.
	Attest    Attest
	Enforcing func(transport string) bool // nil: none is

	MaxConnections int           // served at the same time, more wait; 2000
	IdleTimeout    time.Duration // between two packets, so longer than an MTA waits for its client; 2 h
	PacketTimeout  time.Duration // for the rest of a packet that has begun, and for the first one; 30 s
	WriteTimeout   time.Duration // for an answer to be taken; 10 s

	// Observe is told of each decision, when it is logged, and how long it took. It doesn't wait; nil: nobody is told.
	Observe func(d *Decision, took time.Duration)
	// OnMessage is told of each message that an MTA begins. It doesn't wait; nil: nobody is told.
	OnMessage func()
	// ObserveInbound is told of each decision of an [[inbound]] rule, likewise: of
	// one that only observes, what it would have been.
	ObserveInbound func(rule *inbound.Rule, would policy.Verdict, reason inbound.Reason)

	// Relayed makes durable, before it returns nil, that a next hop carries mail
	// for other domains than its own. Nil: nobody wants to know.
	Relayed func(ctx context.Context, hop addr.Destination) error
	// Lent makes durable that a rule by login accepted mail of a sender, and
	// IsLent reports whether one did of late: all mail of the sender is bound at
	// delivery then, for a copy shows no login. Nil: nobody wants to know.
	Lent   func(ctx context.Context, sender addr.Address) error
	IsLent func(sender addr.Address) bool
	// Names are those by which the MTA completes senders. Nil: none are known.
	Names func() Names
	// SenderTaken reports whether another milter is asked before us at the end
	// of a message, whose change of the sender ours would undo: Postfix doesn't
	// show it. Nil: none is.
	SenderTaken func() bool

	// Identity is what doctor and setup are told, who ask who listens here.
	Identity instance.Identity

	Log *slog.Logger // default: none
	Now func() time.Time
}

// Server answers MTAs. Make one with New.
type Server struct {
	c      Config
	lib    *gomilter.Server
	ctx    context.Context // ends when sessions are cut
	cancel context.CancelFunc
	slots  chan struct{}

	mu        sync.Mutex
	listeners map[*listener]bool
	conns     map[*conn]bool
	sessions  sync.WaitGroup
	watches   sync.WaitGroup // of recipients that are only observed
	watching  chan struct{}  // a slot each
	draining  atomic.Bool

	connections, messages, panics, malformed, unattested, unwatched atomic.Uint64
	unattestedAt                                                    atomic.Int64 // Unix seconds; 0 for never
	shared                                                          atomic.Int64 // taken of sharedMemory
}

// Stats are a server's counters.
type Stats struct {
	Sessions     int       // connections now
	Connections  uint64    // connections ever
	Messages     uint64    // messages some rule could concern
	Panics       uint64    // recovered ones
	Malformed    uint64    // packets refused, each with its connection
	Unattested   uint64    // protected recipients whose transport was found not to enforce TLS
	UnattestedAt time.Time // of the last of these; zero for none
	Unwatched    uint64    // recipients that rules only observe and that weren't judged, because too many were
}

// libraryLog directs the library's own warnings, a variable of its package, to the first server's log. They are
// about a peer's habits and broken connections; what an operator should see is logged here.
var libraryLog sync.Once

// New returns a server that isn't serving yet.
func New(c Config) (*Server, error) {
	if c.Decider.Assessor == nil || c.Rules == nil {
		return nil, errors.New("milter: an assessor and rules are needed")
	}
	setDefault(&c.MaxConnections, 2000)
	setDefault(&c.IdleTimeout, 2*time.Hour)
	setDefault(&c.PacketTimeout, 30*time.Second)
	setDefault(&c.WriteTimeout, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	libraryLog.Do(func() {
		log := c.Log
		gomilter.LogWarning = func(format string, v ...any) { log.Debug("go-milter", "err", fmt.Sprintf(format, v...)) }
	})
	s := &Server{
		c:         c,
		slots:     make(chan struct{}, c.MaxConnections),
		watching:  make(chan struct{}, mostWatched),
		listeners: map[*listener]bool{},
		conns:     map[*conn]bool{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	atMail := []string{gomilter.MacroQueueId, gomilter.MacroAuthAuthen, gomilter.MacroMailMailer, gomilter.MacroMailAddr,
		gomilter.MacroMTAFQDN, gomilter.MacroMTAVersion, macroSender,
		gomilter.MacroDaemonName}
	if c.Reinjected != nil {
		atMail = append(atMail, gomilter.MacroClientAddr, gomilter.MacroClientPort)
	}
	if c.Inbound != nil || c.InboundHeader {
		atMail = append(atMail, inboundMacros()...)
	}
	s.lib = gomilter.NewServer(
		gomilter.WithDynamicMilter(func(_ uint32, actions gomilter.OptAction, _ gomilter.OptProtocol, _ gomilter.DataSize) gomilter.Milter {
			return s.newSession(actions)
		}),
		gomilter.WithNegotiationCallback(s.negotiate),
		// Asked for where the MTA can be asked (version 6); others send what their own configuration says.
		gomilter.WithMacroRequest(gomilter.StageMail, atMail),
		gomilter.WithMacroRequest(gomilter.StageRcpt,
			[]string{gomilter.MacroQueueId, gomilter.MacroRcptMailer, gomilter.MacroRcptHost, gomilter.MacroRcptAddr}),
		// Sendmail (8.17) heeds the second list only with the first.
		gomilter.WithMacroRequest(gomilter.StageEOH, []string{gomilter.MacroQueueId}),
		gomilter.WithMacroRequest(gomilter.StageEOM, []string{gomilter.MacroQueueId, macroSender}),
		gomilter.WithWriteTimeout(c.WriteTimeout),
	)
	return s, nil
}

// inboundRules returns the [[inbound]] rules now in force, nil for none.
func (s *Server) inboundRules() *inbound.Set {
	if s.c.Inbound == nil {
		return nil
	}
	return s.c.Inbound()
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// negotiate takes of what the MTA offers only what is needed, whatever version it speaks.
func (s *Server) negotiate(version, _ uint32, actions, _ gomilter.OptAction, protocol, _ gomilter.OptProtocol, _ gomilter.DataSize) (
	uint32, gomilter.OptAction, gomilter.OptProtocol, gomilter.DataSize, error) {
	if version < 2 {
		s.c.Log.Warn("MTA uses a milter version older than 2, connection closed", "version", version)
		return 0, 0, 0, 0, fmt.Errorf("milter version %d", version)
	}
	needed := gomilter.OptAddHeader | gomilter.OptChangeHeader | gomilter.OptQuarantine | gomilter.OptSetMacros
	if version >= 6 && (s.c.RedactBounces || s.c.TagEnvelope) {
		needed |= gomilter.OptChangeFrom
	}
	actions &= needed
	want := gomilter.OptNoConnect | gomilter.OptNoHelo | gomilter.OptNoBody | gomilter.OptNoEOH |
		gomilter.OptNoUnknown | gomilter.OptNoData | gomilter.OptNoHeaderReply
	if actions&gomilter.OptChangeHeader == 0 && !s.c.RefuseTLSRequiredNo {
		want |= gomilter.OptNoHeaders // nothing could be done about one
	}
	return min(version, gomilter.MaxServerProtocolVersion), actions, protocol & want, gomilter.DataSize64K, nil
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	return Stats{
		Sessions:     n,
		Connections:  s.connections.Load(),
		Messages:     s.messages.Load(),
		Panics:       s.panics.Load(),
		Malformed:    s.malformed.Load(),
		Unattested:   s.unattested.Load(),
		UnattestedAt: s.lastUnattested(),
		Unwatched:    s.unwatched.Load(),
	}
}

// lastUnattested is when a recipient was last found unbound.
func (s *Server) lastUnattested() time.Time {
	if at := s.unattestedAt.Load(); at != 0 {
		return time.Unix(at, 0)
	}
	return time.Time{}
}

// Serve answers on ln until Shutdown, then returns nil; it returns an error when ln can accept no more. It can be
// called for several listeners. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	l := &listener{Listener: ln, server: s, closed: make(chan struct{})}
	defer l.Close()
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = true
	s.mu.Unlock()

	err := s.lib.Serve(l)
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	if s.draining.Load() {
		return nil
	}
	return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
}

// cutGrace is how long a session that was cut may take to notice.
const cutGrace = 5 * time.Second

// Shutdown stops accepting, closes the sessions that have no message under way, lets the others finish theirs until
// ctx ends, and cuts what is left then: the error is that of ctx. The MTA tells the clients of those to come back.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining.Store(true)
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		if !c.busy.Load() {
			c.wakeAt(time.Unix(1, 0))
		}
	}
	s.mu.Unlock()
	defer s.watches.Wait() // soon, for they are cut
	defer s.cancel()

	done := make(chan struct{})
	go func() { s.sessions.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.Conn.Close()
	}
	s.mu.Unlock()
	select {
	case <-done:
	case <-time.After(cutGrace):
	}
	return ctx.Err()
}

// listener hands the library guarded connections, no more than the server has slots for.
type listener struct {
	net.Listener
	server *Server
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
	})
	return err
}

func (l *listener) Accept() (net.Conn, error) {
	s := l.server
	select {
	case s.slots <- struct{}{}:
	default:
		s.c.Log.Warn("all connections in use, further MTA sessions wait", "connections", s.c.MaxConnections)
		select {
		case s.slots <- struct{}{}:
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	raw, err := l.accept()
	if err != nil {
		<-s.slots
		return nil, err
	}
	var c *conn
	c = newConn(raw, s, func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		<-s.slots
		s.sessions.Done()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		raw.Close()
		<-s.slots
		return nil, net.ErrClosed
	}
	s.conns[c] = true
	s.sessions.Add(1)
	s.connections.Add(1)
	return c, nil
}

// accept goes on after what passes by itself: descriptors or memory used up, a client that left.
func (l *listener) accept() (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		raw, err := l.Listener.Accept()
		if err == nil || !passing(err) {
			return raw, err
		}
		l.server.c.Log.Warn("accept", "err", err)
		select {
		case <-time.After(wait):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
