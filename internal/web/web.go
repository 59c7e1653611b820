// Package web is what a browser, a scraper and a script see of the daemon: metrics for Prometheus, health, a status page
// and JSON. It answers how the daemon is and what it knows; it decides nothing about mail and changes nothing but the
// level of the log. What it shows it is handed by Config, so it holds no state but counters (Meter).
//
// Pages are made on the server, work without JavaScript and load nothing from elsewhere. Errors of the JSON interface
// are RFC 9457 problems. A list is a walk through memory that keeps the page asked for, so that it costs the same
// whatever is asked; details of that page come from the store and, when that is away, from memory.
//
// The caller listens, calls Serve, and Shutdown at the end. Meter counts from the start of the daemon, whether anything
// is served or not.
//
// SECURITY: on a loopback address no password is needed, but a request must
// name a loopback host: else a page on the internet could have its own name
// resolve to 127.0.0.1 and read all this (DNS rebinding). Elsewhere Serve
// refuses to run without a password, and everything wants it, metrics and
// health too. Basic authentication (RFC 7617) needs TLS around it: Config.Cert,
// or a proxy. GET changes and probes nothing, other methods take no request
// that another site's page caused: JSON only, and forms that a page from here
// sent. There are no cookies. Pages carry a policy under which a browser runs
// no script at all.
package web

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/net/netutil"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/ledger"
	"tlsonly/internal/observe"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

// Summary is what memory has of a destination, in short.
type Summary struct {
	Destination addr.Destination
	Level       policy.Level // reached; "" when that isn't known
	Demand      store.Demand
	Failures    int          // looks in a row
	Fault       ledger.Fault // of the last of them
	Pinned      bool
	Lost        bool // pinned, and shows no TLS
}

// Store is the part of store.Store that is read here.
type Store interface {
	Get(ctx context.Context, d addr.Destination) (store.Entry, error)
	Page(ctx context.Context, ds []addr.Destination) ([]store.Entry, map[addr.Destination]time.Time, error)
	History(ctx context.Context, d addr.Destination, limit int) ([]store.Event, error)
	Events(ctx context.Context, since int64, limit int) ([]store.Event, error)
	Latest(ctx context.Context, limit int) ([]store.Event, error)
	NextDue(ctx context.Context) (time.Time, error)
	Healthy() error
}

// Forward is a forward that a rule would not let mail through, or of which that isn't known.
type Forward struct {
	Owner string `json:"owner"` // the recipient here, or the pattern of an entry for many
	policy.Origin
	Leaves      string           `json:"leaves,omitempty"`     // the address that the mail leaves to
	Destination addr.Destination `json:"destination,omitzero"` // the next hop there
	Rule        string           `json:"rule"`
	Reason      policy.Reason    `json:"reason"`
	Detail      string           `json:"detail,omitempty"`
}

// Check is one thing that must be well for the daemon to be ready.
type Check struct {
	Name string
	Test func(ctx context.Context) error // what is wrong, in words
}

// Config is what a Server shows. Survey, Remembered, Store, Rules and Meter are
// needed; a nil function means that there is nothing of the kind, zero fields
// mean the defaults named.
type Config struct {
	Version string

	// Survey hands what is known to each, in no order, until it returns false. It asks no database.
	Survey func(each func(Summary) bool)
	// Remembered returns what memory has of a destination, Assess looks at it now.
	Remembered func(addr.Destination) (policy.Assessment, bool)
	Assess     func(context.Context, addr.Destination) policy.Assessment
	Store      Store
	Rules      func() *rules.Set
	// Inbound are the [[inbound]] rules; nil: there never are any.
	Inbound func() *inbound.Set
	Meter   *Meter
	Counts  func() Counts // of other parts of the daemon
	Checks  []Check       // for /readyz

	// Explain says what would be decided.
	Explain func(ctx context.Context, from, to addr.Address, user string) Explanation
	// ExplainDelivery says what MTAs are told at delivery to a destination,
	// likewise: of mail of a sender, nil for anybody's, to a recipient, if one is
	// named.
	ExplainDelivery func(ctx context.Context, to addr.Destination, from *addr.Address, recipient addr.Address) Explanation
	// Advice says what the other side could do better.
	Advice func(policy.Assessment) []string
	// Outage says what is wrong with this host's own network, "" when nothing is.
	Outage func() string
	// Resolver says why the resolver's word on DNSSEC isn't believed, "" where it is
	// or where that isn't known yet.
	Resolver func() string
	// Binding says how the MTA here is bound to the daemon; false while nobody watches.
	Binding func() (Binding, bool)
	// LastAsked says when the milter and each map was asked last, since the start.
	LastAsked func() map[string]time.Time
	// Forwards lists those that fail; TestForward says where mail would end if owner forwarded to target.
	Forwards    func() []Forward
	TestForward func(ctx context.Context, owner, target addr.Address) (any, error)
	// Observed sums up what rules that only observe would have done since a time.
	Observed func(ctx context.Context, since time.Time) (observe.Summary, error)
	LogLevel *slog.LevelVar

	Host        string // that is listened on, as configured: a loopback one may be asked for by this name
	Password    string // bcrypt hash; "" wants none
	Cert, Key   string // paths of a TLS certificate and its key; "" serves without TLS
	BehindProxy bool   // a proxy adds TLS, so TLS isn't wanted here

	MaxConnections int           // 64
	Timeout        time.Duration // of one request; 40 s
	Log            *slog.Logger  // default: none
	Now            func() time.Time
}

// Server serves. Make one with New.
type Server struct {
	c       Config
	http    *http.Server
	pages   *pages
	guard   *guard
	metrics http.Handler
	lists   chan struct{} // walks through memory at the same time
	slow    chan struct{} // looks and explanations at the same time
}

// The limits of a request, besides Config.Timeout.
const (
	maxHeader = 16 << 10
	maxBody   = 64 << 10
	maxLists  = 4
	maxSlow   = 4
)

// New returns a Server that isn't serving yet. The error names what Config lacks, or a certificate that can't be read.
func New(c Config) (*Server, error) {
	if c.Survey == nil || c.Remembered == nil || c.Store == nil || c.Rules == nil || c.Meter == nil {
		return nil, errors.New("web: a survey, what is known, a store, rules and a meter are needed")
	}
	c.MaxConnections = cmp.Or(c.MaxConnections, 64)
	c.Timeout = cmp.Or(c.Timeout, 40*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Inbound == nil {
		c.Inbound = func() *inbound.Set { return nil }
	}
	if c.Counts == nil {
		c.Counts = func() Counts { return Counts{} }
	}
	s := &Server{c: c, lists: make(chan struct{}, maxLists), slow: make(chan struct{}, maxSlow)}
	var err error
	if s.pages, err = parsePages(c.Now); err != nil {
		return nil, err
	}
	if s.guard, err = newGuard(c.Password, c.Host, c.Now); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(&s.c); err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      c.Timeout + 5*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // a peer's habits
	}
	if c.Cert != "" {
		k := &keeper{cert: c.Cert, key: c.Key, log: c.Log, now: c.Now}
		if _, err := k.get(nil); err != nil {
			return nil, fmt.Errorf("[http] cert: %w", err)
		}
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: k.get}
	}
	return s, nil
}

// Serve answers on ln until Shutdown, then returns nil. It closes ln. Where ln isn't on a loopback address it refuses to
// run without a password, and without TLS unless a proxy adds that.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.allowed(ln.Addr()); err != nil {
		ln.Close()
		return err
	}
	ln = netutil.LimitListener(ln, s.c.MaxConnections)
	var err error
	if s.http.TLSConfig != nil {
		err = s.http.ServeTLS(ln, "", "")
	} else {
		err = s.http.Serve(ln)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("http: %w", err)
}

// ServeHTTP answers one request, as Serve does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.http.Handler.ServeHTTP(w, r) }

func (s *Server) allowed(at net.Addr) error {
	ip, ok := at.(*net.TCPAddr)
	switch {
	case !ok || ip.IP.IsLoopback():
		return nil
	case s.c.Password == "":
		return fmt.Errorf("http: %s isn't a loopback address, so a password is needed", at)
	case s.http.TLSConfig == nil && !s.c.BehindProxy:
		return fmt.Errorf("http: %s isn't a loopback address, so a certificate or a proxy is needed", at)
	}
	return nil
}

// Shutdown stops serving: requests under way may finish until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	return err
}

// handler is everything that is served, the guard outermost.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)

	mux.HandleFunc("GET /{$}", s.page(s.overview))
	mux.HandleFunc("GET /destinations", s.page(s.destinations))
	mux.HandleFunc("GET /destinations/{d}", s.page(s.destination))
	mux.HandleFunc("GET /rules", s.page(s.rules))
	mux.HandleFunc("GET /explain", s.page(s.explainForm))
	mux.HandleFunc("POST /explain", s.page(s.explainAnswer))
	mux.HandleFunc("GET /style.css", s.pages.asset("style.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /icon.svg", s.pages.asset("icon.svg", "image/svg+xml"))

	mux.HandleFunc("GET /v1/status", s.api(s.getStatus))
	mux.HandleFunc("GET /v1/destinations", s.api(s.listDestinations))
	mux.HandleFunc("GET /v1/destinations/{d}", s.api(s.getDestination))
	mux.HandleFunc("GET /v1/destinations/{d}/history", s.api(s.getHistory))
	mux.HandleFunc("GET /v1/changes", s.api(s.getChanges))
	mux.HandleFunc("GET /v1/forwards", s.api(s.getForwards))
	mux.HandleFunc("POST /v1/check", s.api(s.postCheck))
	mux.HandleFunc("POST /v1/explain", s.api(s.postExplain))
	mux.HandleFunc("POST /v1/forwards/test", s.api(s.postForwardTest))
	mux.HandleFunc("PUT /v1/log-level", s.api(s.putLogLevel))
	mux.HandleFunc("GET /v1/log-level", s.api(s.getLogLevel))
	return s.recovered(s.guard.wrap(s.bounded(s.errorPages(mux))))
}

// recovered answers 500 for what went wrong in here; other requests don't notice.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.c.Log.Error("panic in a request", "path", r.URL.Path, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			failed(w, r, http.StatusInternalServerError, "something went wrong here; the log says what")
		}()
		next.ServeHTTP(w, r)
	})
}

// bounded limits what one request can take.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.c.Timeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// errorPages answers in our words what the mux has no handler for.
func (s *Server) errorPages(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			other := r.Clone(r.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); pattern != "" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			failed(w, r, http.StatusNotFound, "there is no such page")
			return
		}
		for _, method := range allowed {
			w.Header().Add("Allow", method)
		}
		failed(w, r, http.StatusMethodNotAllowed, r.Method+" isn't answered here")
	})
}

// slot takes one of a bounded number, or ctx ends first.
func slot(ctx context.Context, slots chan struct{}) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
