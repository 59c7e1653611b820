// Package socketmap answers what Postfix and Sendmail ask at delivery: which
// transport is this sender's, how must this next hop be spoken to, may this
// recipient's mail go in the clear. Questions and answers are netstrings, as
// socketmap_table(5) of Postfix and the socket map of Sendmail describe; each
// answer comes from memory: from the rules in force, from what was demanded of
// destinations and pinned, and from what they publish (DANE, MTA-STS). Only for
// a destination of protected mail that memory doesn't have a look is waited
// for.
//
// It judges no destination (package rules does, Bind says what binds an MTA to
// it), and never sees a message.
//
// SECURITY: an answer never weakens. What isn't understood gets the strict
// transport, TEMP or DEFER, all of which make mail wait; NOTFOUND means that
// nothing is asked. Inside a forced-TLS transport "none" and "may" are said
// only where a rule of that class says so, or none asks anything and nothing
// was demanded or is known to be published; "dane" never, because it sends in the
// clear where no TLSA is. A bare "OK" is "not found" to Postfix and a crash to
// Sendmail: every OK has a value.
//
// BUGS: TLS 1.3 has suites of 128 bits that no Postfix attribute switches off:
// a rule's min_bits above that binds up to TLS 1.2. Sendmail asks with quotes
// taken off: mail in the clear waits where that could mean two addresses.
//
// The caller hands listeners to Serve, calls Shutdown, and keeps a unix
// socket's file: both MTAs take a missing one for worse trouble than a refused
// connection.
package socketmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/instance"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Ledger is what is remembered of destinations. Both answer from memory.
type Ledger interface {
	// Pinned reports whether d was seen to offer TLS and must not fall back.
	Pinned(d addr.Destination) bool
	// Demanded returns the most that was asked of d when mail for it was accepted, false for nothing.
	Demanded(d addr.Destination) (policy.Demand, bool)
}

// Assessor is what is known of destinations, and finds out what isn't.
type Assessor interface {
	// Remembered returns what memory has of d, also when that is too old to
	// serve; false for nothing.
	Remembered(d addr.Destination) (policy.Assessment, bool)
	// Assess returns what is known of d, by looking where needed, soon after ctx ends.
	Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment
	// Refresh looks at d unless that was done within age.
	Refresh(ctx context.Context, d addr.Destination, age time.Duration) policy.Assessment
}

// Config is what a Server works with. Rules and Ledger are needed.
type Config struct {
	// Rules returns the rules now in force, and those before that still bind. It
	// is called once a question.
	Rules  func() *rules.Delivery
	Ledger Ledger
	// Assessor knows what destinations publish. Nil: nobody does, so what they publish binds nobody, and mail of level secure
	// waits.
	Assessor Assessor
	Deadline time.Duration // for a look at a destination that an answer needs; 20 s
	// Transports is how many numbered transports an MTA has that asks the map "sender"; one that asks "sender3" says it
	// itself. A sender of a class above gets the strict one.
	Transports int
	// Relay reports whether a next hop carries mail for other domains, too, so that an exception for the domain of its
	// name doesn't reach it. Hosts in brackets and next hops with a port always count. Default: no other.
	Relay func(addr.Destination) bool
	// Origins returns the domains that the MTA may add to a bare name: Postfix's myorigin, Sendmail's own name and what it
	// masquerades as. Without them a bare name is held strictly, for it may be a protected sender.
	Origins func() []addr.Domain
	// Local reports whether a domain is delivered here, or behind us: what protected senders there get isn't held to TLS
	// for their sake. Default: none is.
	Local func(addr.Domain) bool
	// Homes returns whose bounces leave by a next hop, whoever sends: domains of
	// senders, or the zero Domain for anybody's. Where one of them is protected
	// senders', all mail by it is held to TLS. Local isn't asked. Default: none.
	Homes func(addr.Destination) []addr.Domain
	// Site returns where the site's own settings send mail of a sender, as
	// Postfix asks for it, before ctx ends. It is asked where the name of a map
	// of senders says so. Default: it isn't known, and the mail waits.
	Site   func(ctx context.Context, sender string) (SiteRoute, error)
	Others contract.Others // default: OthersPinned
	// FreeBounces lets what MTAs write themselves (bounces, delay warnings, notices) leave as other mail does. Where it is false they
	// are held to TLS while any rule enforces it, for nobody can tell which of them are about protected mail.
	FreeBounces bool
	// Lent reports whether a rule by login accepted mail of a sender of late.
	// All mail of the sender has the strict transport then: neither a copy nor a
	// forward shows a login. Default: none did.
	Lent func(sender addr.Address) bool
	// Gateway is the last host of the route of mail that can't have its TLS, and
	// Fingerprint that of its certificate. Zero: there is none.
	Gateway     addr.Destination
	Fingerprint string
	// TLSRPT says that Postfix knows the attributes of its 3.10 that tell TLS reports which policy was applied (RFC 8460).
	TLSRPT bool
	Bounce bool // [binding] on_lost = "bounce": Sendmail may be told to bounce where a rule says on_fail = "reject"

	MaxConnections int           // served at the same time, more are closed at once; 10,000
	PartTimeout    time.Duration // for the rest of a question that has begun; 30 s
	WriteTimeout   time.Duration // for answers to be taken; 30 s

	// History says since when a destination is pinned and what was demanded of it
	// stands, for Explain. Nil: nobody knows.
	History func(ctx context.Context, d addr.Destination) (History, error)

	// OnQuestion is told of each question of an MTA, and of the protected sender that
	// a question of Postfix's is about. It doesn't wait; nil: nobody is told.
	OnQuestion func(m Map, protected addr.Address)
	// Identity is what doctor and setup are told, who ask who listens here.
	Identity instance.Identity

	Log *slog.Logger // default: none
	Now func() time.Time
}

// Server answers MTAs. Make one with New.
type Server struct {
	c    Config
	ctx  context.Context // ends with Shutdown: nobody waits for a look then
	stop context.CancelFunc

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[net.Conn]bool
	full      bool // the last connection was refused
	sessions  sync.WaitGroup
	draining  atomic.Bool

	surplus atomic.Pointer[rules.Delivery] // the rules of which a surplus class was warned of
	routes  routeCache
	unread  atomic.Int64 // the second in which a way that isn't known was warned of
	recent  *recent
	counts  counters
	heard   heard
	trace   *policy.Trace // of Explain; nil: nobody asks how an answer comes about

	acceptPause time.Duration // the first one after a failed accept; each is longer, up to a second
}

// New checks the configuration; it opens nothing.
func New(c Config) (*Server, error) {
	if c.Rules == nil || c.Ledger == nil {
		return nil, errors.New("socketmap: rules and a ledger are needed")
	}
	if c.Others == "" {
		c.Others = contract.OthersPinned
	}
	if c.Others != contract.OthersPinned && c.Others != contract.OthersPublished && c.Others != contract.OthersOff {
		return nil, fmt.Errorf("socketmap: others %q: want pinned, published or off", c.Others)
	}
	if c.Deadline == 0 {
		c.Deadline = 20 * time.Second
	}
	if c.Relay == nil {
		c.Relay = func(addr.Destination) bool { return false }
	}
	if c.Origins == nil {
		c.Origins = func() []addr.Domain { return nil }
	}
	if c.Site == nil {
		c.Site = noSite
	}
	if c.Lent == nil {
		c.Lent = func(addr.Address) bool { return false }
	}
	if c.OnQuestion == nil {
		c.OnQuestion = func(Map, addr.Address) {}
	}
	if c.Local == nil {
		c.Local = func(addr.Domain) bool { return false }
	}
	if c.Homes == nil {
		c.Homes = func(addr.Destination) []addr.Domain { return nil }
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 10_000
	}
	if c.PartTimeout == 0 {
		c.PartTimeout = 30 * time.Second
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{c: c, recent: newRecent(), acceptPause: 5 * time.Millisecond, listeners: map[net.Listener]bool{}, conns: map[net.Conn]bool{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Serve answers on l until Shutdown, then returns nil. It closes l. Several listeners can be served at once.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
	}()
	wait := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case s.draining.Load():
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		case err != nil:
			// Out of file descriptors or the like: that passes, and a server that gave up would stop all remote mail.
			wait = max(min(2*wait, time.Second), s.acceptPause)
			s.c.Log.Warn("connection not accepted", "err", err)
			select {
			case <-time.After(wait):
			case <-s.ctx.Done(): // Accept says the rest
			}
			continue
		}
		wait = 0
		if !s.enter(nc) {
			nc.Close()
			continue
		}
		go s.session(nc)
	}
}

// enter counts a connection in, unless there are too many.
func (s *Server) enter(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return false
	}
	if len(s.conns) >= s.c.MaxConnections {
		s.counts.refused.Add(1)
		if !s.full {
			s.c.Log.Warn("too many connections", "limit", s.c.MaxConnections)
		}
		s.full = true
		return false
	}
	s.full = false
	s.conns[nc] = true
	s.sessions.Add(1)
	s.counts.connections.Add(1)
	return true
}

func (s *Server) session(nc net.Conn) {
	defer func() {
		if p := recover(); p != nil {
			// The question stays unanswered and its mail waits; all other connections go on.
			s.counts.panics.Add(1)
			s.c.Log.Error("panic at a question", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		nc.Close()
		s.mu.Lock()
		delete(s.conns, nc)
		s.mu.Unlock()
		s.sessions.Done()
	}()
	c := conn{s: s, nc: nc}
	c.serve()
}

// Shutdown stops accepting, lets each connection finish the answers it is at, and closes it. When ctx ends first the
// rest is cut and its error returned. MTAs connect again by themselves.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	s.mu.Lock()
	s.draining.Store(true)
	for l := range s.listeners {
		l.Close()
	}
	for nc := range s.conns {
		nc.SetReadDeadline(time.Unix(1, 0)) // ends the read it waits in, not the write
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.sessions.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}
