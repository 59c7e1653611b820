package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"tlsonly/internal/config"
)

// wrapped returns what tells whether this host's Postfix has a client that speaks
// TLS from the first octet on. It is asked for probes of ports other than 25 and
// 465; what is known serves for some seconds. What can't be read counts as no.
func wrapped(f config.Forwarding, log *slog.Logger) func() bool {
	const serves, limit = 10 * time.Second, 10 * time.Second
	var mu sync.Mutex
	var known bool
	var when time.Time
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		if !when.IsZero() && time.Since(when) < serves {
			return known
		}
		i, ok := usesPostfix(f)
		if known = false; ok {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			var err error
			if known, err = i.Wraps(ctx); err != nil {
				log.Debug("whether a client of postfix speaks TLS at once isn't known", "err", err)
			}
		}
		when = time.Now()
		return known
	}
}
