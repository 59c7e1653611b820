package main

import (
	"context"
	"fmt"

	"tlsonly/internal/forward"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/socketmap"
)

// siteWays answers where the site's own settings send a sender's mail; nil where
// no Postfix is read.
func siteWays(forwards *forward.Expander, reads bool) func(context.Context, string) (socketmap.Way, error) {
	if !reads {
		return nil
	}
	return func(ctx context.Context, sender string) (socketmap.Way, error) {
		way, err := forwards.BySender(ctx, sender)
		if err != nil {
			return socketmap.Way{}, err
		}
		return heldWay(way)
	}
}

// heldWay says how a way is held.
func heldWay(way forward.Way) (socketmap.Way, error) {
	switch postfix.HoldingOf(way.Program, way.Hop) {
	case postfix.AsItIs:
		return socketmap.Way{AsItIs: way.Transport + ":" + way.Hop}, nil
	case postfix.Unheld:
		return socketmap.Way{}, fmt.Errorf("%s:%s is %s(8), which can't be held to TLS", way.Transport, way.Hop, way.Program)
	}
	held := socketmap.Way{Twin: way.Transport, Hop: way.Hop}
	if way.Usual {
		held.Twin = ""
	}
	return held, nil
}
