package main

import (
	"context"
	"fmt"

	"tlsonly/internal/forward"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/socketmap"
)

// siteRoutes answers where the site's own settings send a sender's mail; nil where
// no Postfix is read.
func siteRoutes(forwards *forward.Expander, reads bool) func(context.Context, string) (socketmap.SiteRoute, error) {
	if !reads {
		return nil
	}
	return func(ctx context.Context, sender string) (socketmap.SiteRoute, error) {
		way, err := forwards.BySender(ctx, sender)
		if err != nil {
			return socketmap.SiteRoute{}, err
		}
		return enforcedRoute(way)
	}
}

// enforcedRoute says how a way is held.
func enforcedRoute(way forward.SenderRoute) (socketmap.SiteRoute, error) {
	switch postfix.EnforcementOf(way.Program, way.Hop) {
	case postfix.AsItIs:
		return socketmap.SiteRoute{AsItIs: way.Transport + ":" + way.Hop}, nil
	case postfix.Unenforceable:
		return socketmap.SiteRoute{}, fmt.Errorf("%s:%s is %s(8), which can't be held to TLS", way.Transport, way.Hop, way.Program)
	}
	held := socketmap.SiteRoute{Twin: way.Transport, Hop: way.Hop}
	if way.Usual {
		held.Twin = ""
	}
	return held, nil
}
