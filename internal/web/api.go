package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// refusal is an answer that isn't 200.
type refusal struct {
	status int
	detail string
}

func (r *refusal) Error() string { return r.detail }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// absent refuses what this daemon isn't set up for.
func absent(what string) error {
	return refuse(http.StatusNotImplemented, "%s isn't set up in this daemon", what)
}

// api answers with what a handler returns, in JSON.
func (s *Server) api(handle func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := handle(r)
		if err != nil {
			status, detail := s.statusOf(r, err)
			failed(w, r, status, detail)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		write(w, v)
	}
}

// statusOf says what an error is to the client. What the store or the network said is for the administrator, who is who asks.
func (s *Server) statusOf(r *http.Request, err error) (status int, detail string) {
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		return refused.status, refused.detail
	case errors.Is(err, store.ErrUnknown):
		return http.StatusNotFound, "nothing is known of it"
	case r.Context().Err() != nil:
		return http.StatusServiceUnavailable, "it took too long"
	}
	s.c.Log.Warn("request failed", "path", r.URL.Path, "err", err)
	return http.StatusServiceUnavailable, err.Error()
}

// readBody reads a JSON object into v, strictly. A content type that only a program can send keeps forms of other sites out.
func readBody(r *http.Request, v any) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "want Content-Type: application/json")
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		err = errors.New("want one object and nothing after it")
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return refuse(http.StatusRequestEntityTooLarge, "want %d octets at most", large.Limit)
	}
	return refuse(http.StatusBadRequest, "%s", strings.TrimPrefix(err.Error(), "json: "))
}

// pathDestination reads the {d} of a path.
func pathDestination(r *http.Request) (addr.Destination, error) {
	d, err := addr.ParseDestination(r.PathValue("d"))
	if err != nil {
		return d, refuse(http.StatusBadRequest, "%v", err)
	}
	return d, nil
}

// destinationList is the answer of GET /v1/destinations.
type destinationList struct {
	Destinations []Destination `json:"destinations"`
	Matched      int           `json:"matched"`              // on all pages
	Next         string        `json:"next,omitempty"`       // after= of the next page
	Incomplete   bool          `json:"incomplete,omitempty"` // the store is away, this is from memory
}

func (s *Server) listDestinations(r *http.Request) (any, error) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	release, err := slot(r.Context(), s.lists)
	if err != nil {
		return nil, err
	}
	defer release()
	f, ds, away := s.c.page(r.Context(), q)
	list := destinationList{Destinations: ds, Matched: f.Matched, Incomplete: away}
	if f.More {
		list.Next = ds[len(ds)-1].Destination.String()
	}
	return list, nil
}

func (s *Server) getDestination(r *http.Request) (any, error) {
	d, err := pathDestination(r)
	if err != nil {
		return nil, err
	}
	x, _, err := s.c.one(r.Context(), d)
	return x, err
}

// changeList is the answer of the two lists of changes.
type changeList struct {
	Changes []store.Event `json:"changes"`
	Last    int64         `json:"last,omitempty"` // since= of the next question
}

func changes(events []store.Event, err error) (*changeList, error) {
	if events == nil {
		events = []store.Event{}
	}
	return &changeList{Changes: events}, err
}

func (s *Server) getHistory(r *http.Request) (any, error) {
	d, err := pathDestination(r)
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(r.URL.Query())
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	return changes(s.c.Store.History(r.Context(), d, limit))
}

func (s *Server) getChanges(r *http.Request) (any, error) {
	v := r.URL.Query()
	limit, err := limitOf(v)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	since, err := int64(0), error(nil)
	if text := v.Get("since"); text != "" {
		if since, err = strconv.ParseInt(text, 10, 64); err != nil || since < 0 {
			return nil, refuse(http.StatusBadRequest, "since %q: want the id of a change", text)
		}
	}
	list, err := changes(s.c.Store.Events(r.Context(), since, limit))
	if list.Last = since; len(list.Changes) > 0 {
		list.Last = list.Changes[len(list.Changes)-1].ID
	}
	return list, err
}

func (s *Server) getForwards(*http.Request) (any, error) {
	if s.c.Forwards == nil {
		return nil, absent("following forwards")
	}
	failing := s.c.Forwards()
	if failing == nil {
		failing = []Forward{}
	}
	return map[string][]Forward{"forwards": failing}, nil
}

func (s *Server) postForwardTest(r *http.Request) (any, error) {
	if s.c.TestForward == nil {
		return nil, absent("following forwards")
	}
	var asked struct {
		Owner  string `json:"owner"`
		Target string `json:"target"`
	}
	if err := readBody(r, &asked); err != nil {
		return nil, err
	}
	owner, err := wantAddress("owner", asked.Owner)
	if err != nil {
		return nil, err
	}
	target, err := wantAddress("target", asked.Target)
	if err != nil {
		return nil, err
	}
	return s.limited(r, func(ctx context.Context) (any, error) { return s.c.TestForward(ctx, owner, target) })
}

func wantAddress(name, text string) (addr.Address, error) {
	a, err := addr.ParsePath(text)
	switch {
	case err != nil:
		return a, refuse(http.StatusBadRequest, "%s: %v", name, err)
	case a.IsNull() || a.Domain.IsZero():
		return a, refuse(http.StatusBadRequest, "%s %q: want local@domain", name, text)
	}
	return a, nil
}

// limited does what may take a while, a few at a time.
func (s *Server) limited(r *http.Request, work func(context.Context) (any, error)) (any, error) {
	release, err := slot(r.Context(), s.slow)
	if err != nil {
		return nil, err
	}
	defer release()
	return work(r.Context())
}

// checkedNow is the answer of POST /v1/check.
type checkedNow struct {
	Destination addr.Destination  `json:"destination"`
	Level       policy.Level      `json:"level"`            // reached; "" when that isn't known
	Reason      policy.Reason     `json:"reason,omitempty"` // why not encrypt
	Advice      []string          `json:"advice,omitempty"`
	Assessment  policy.Assessment `json:"assessment"`
}

// postCheck looks at a destination now, if it is a known one: nobody's scanner is to be made of this.
func (s *Server) postCheck(r *http.Request) (any, error) {
	if s.c.Assess == nil {
		return nil, absent("looking at destinations")
	}
	var asked struct {
		Destination addr.Destination `json:"destination"`
	}
	if err := readBody(r, &asked); err != nil {
		return nil, err
	}
	d := asked.Destination
	if d.IsZero() {
		return nil, refuse(http.StatusBadRequest, "want a destination")
	}
	if _, _, err := s.c.one(r.Context(), d); err != nil {
		return nil, err
	}
	return s.limited(r, func(ctx context.Context) (any, error) {
		a := s.c.Assess(ctx, d)
		x := checkedNow{Destination: d, Level: judge.Reached(a), Reason: judge.Destination(policy.DefaultDemand(), a), Assessment: a}
		if s.c.Advice != nil {
			x.Advice = s.c.Advice(a)
		}
		return x, nil
	})
}

// logLevel is the body of /v1/log-level, and its answer.
type logLevel struct {
	Level string `json:"level"`
}

func (s *Server) getLogLevel(*http.Request) (any, error) {
	if s.c.LogLevel == nil {
		return nil, absent("the level of the log")
	}
	return logLevel{strings.ToLower(s.c.LogLevel.Level().String())}, nil
}

// putLogLevel changes how much is logged, until the next start. Whoever comes through a proxy needs the password for it.
func (s *Server) putLogLevel(r *http.Request) (any, error) {
	if s.c.LogLevel == nil {
		return nil, absent("the level of the log")
	}
	if s.c.Password == "" && (s.c.BehindProxy || !fromLoopback(r)) {
		return nil, refuse(http.StatusForbidden, "the level of the log is changed from this host only, or with a password")
	}
	var asked logLevel
	if err := readBody(r, &asked); err != nil {
		return nil, err
	}
	var level slog.Level
	switch asked.Level {
	case "debug", "info", "warn", "error":
		_ = level.UnmarshalText([]byte(asked.Level)) // it takes these
	default:
		return nil, refuse(http.StatusBadRequest, "level %q: want debug, info, warn or error", asked.Level)
	}
	if old := s.c.LogLevel.Level(); old != level {
		s.c.LogLevel.Set(level)
		s.c.Log.Warn("log level changed", "from", old.String(), "to", level.String())
	}
	return logLevel{asked.Level}, nil
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// destinationPath is the page of a destination.
func destinationPath(d addr.Destination) string { return "/destinations/" + url.PathEscape(d.String()) }
