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

// Way is where the MTA's site itself sends mail of a sender.
type Way struct {
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
	way, err := s.wayOf(key)
	if s.trace != nil {
		s.traceWay(way, err)
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

// wayOf asks for the site's way of a sender, once for what is asked in a moment.
func (s *Server) wayOf(key string) (Way, error) {
	now := s.c.Now()
	if w, ok := s.ways.get(key, now); ok {
		return w.way, w.err
	}
	wait := &lazyWait{Context: s.ctx, limit: s.c.Deadline}
	defer wait.end()
	way, err := s.c.Site(wait, key)
	s.ways.put(key, remembered{way, err, s.c.Now()})
	return way, err
}

// noSite is for a server to whom nobody reads the MTA's settings.
func noSite(context.Context, string) (Way, error) {
	return Way{}, errors.New("the settings of the MTA aren't read: [forwarding] postfix")
}

// wayServes is how long a way serves: as long as the MTA asks for one recipient
// of a message after the other. It is far below the time for which Postfix itself
// keeps a route, or a table.
const wayServes = 2 * time.Second

// mostWays bounds what is kept: senders are strangers' to choose.
const mostWays = 10_000

// ways remembers where senders' mail goes.
type ways struct {
	mu    sync.Mutex
	known map[string]remembered
}

type remembered struct {
	way  Way
	err  error
	when time.Time
}

func (w *ways) get(key string, now time.Time) (remembered, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.known[key]
	age := now.Sub(r.when)
	return r, ok && 0 <= age && age < wayServes
}

func (w *ways) put(key string, r remembered) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil || len(w.known) >= mostWays {
		w.known = map[string]remembered{}
	}
	w.known[strings.Clone(key)] = r
}
