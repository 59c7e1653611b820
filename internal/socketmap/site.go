package socketmap

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/contract"
)

// SiteRoute is where the MTA's site itself sends mail of a sender.
type SiteRoute struct {
	// Twin is the transport of which that of the class has a twin to use; "" for
	// the one of all other mail.
	Twin string
	Hop  string // next hop; "": as the MTA finds it
	// AsItIs, where not empty, is the whole answer: what it names need not be held,
	// because the mail is thrown back or stays on the MTA's machine.
	AsItIs string
}

// transport appends the transport of a class, 0 for the strict one.
func (s *Server) transport(b []byte, m contract.SenderMap, class int, key string) []byte {
	if !m.Site {
		return append(contract.AppendTransport(s.ok(b, MapSender), class, ""), ':')
	}
	way, err := s.siteRouteOf(key)
	if s.trace != nil {
		s.traceSiteRoute(way, err)
	}
	if err != nil {
		if now := s.c.Now().Unix(); s.unread.Swap(now) != now { // not for each of many senders
			s.c.Log.LogAttrs(s.ctx, slog.LevelWarn, "the site's way of a sender isn't known, its mail waits",
				slog.String("from", key), slog.String("err", err.Error()))
		}
		return s.temp(b, MapSender, "the site's own table isn't known now")
	}
	b = s.ok(b, MapSender)
	if way.AsItIs != "" {
		return append(b, way.AsItIs...)
	}
	b = append(contract.AppendTransport(b, class, way.Twin), ':')
	return append(b, way.Hop...)
}

// siteRouteOf asks for the site's way of a sender, once for what is asked in a moment.
func (s *Server) siteRouteOf(key string) (SiteRoute, error) {
	now := s.c.Now()
	if w, ok := s.routes.get(key, now); ok {
		return w.route, w.err
	}
	wait := &lazyWait{Context: s.ctx, limit: s.c.Deadline}
	defer wait.end()
	way, err := s.c.Site(wait, key)
	s.routes.put(key, remembered{way, err, s.c.Now()})
	return way, err
}

// noSite is for a server to whom nobody reads the MTA's settings.
func noSite(context.Context, string) (SiteRoute, error) {
	return SiteRoute{}, errors.New("the settings of the MTA aren't read: [forwarding] postfix")
}

// routeServes is how long a way serves: as long as the MTA asks for one recipient
// of a message after the other. It is far below the time for which Postfix itself
// keeps a route, or a table.
const routeServes = 2 * time.Second

// maxRoutes bounds what is kept: senders are strangers' to choose.
const maxRoutes = 10_000

// routeCache remembers where senders' mail goes.
type routeCache struct {
	mu     sync.Mutex
	routes map[string]remembered
}

type remembered struct {
	route SiteRoute
	err   error
	when  time.Time
}

func (w *routeCache) get(key string, now time.Time) (remembered, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.routes[key]
	age := now.Sub(r.when)
	return r, ok && 0 <= age && age < routeServes
}

func (w *routeCache) put(key string, r remembered) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.routes == nil || len(w.routes) >= maxRoutes {
		w.routes = map[string]remembered{}
	}
	w.routes[strings.Clone(key)] = r
}
