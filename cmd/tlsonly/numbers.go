package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"tlsonly/internal/classes"
	"tlsonly/internal/config"
	"tlsonly/rules"
)

// delivery returns what the daemon answers MTAs from once it has read the
// file: the store has the numbers of classes. With use they are given out
// now, because what is written into the MTA's files stays. Before a daemon
// has ever run there is no store, and the file alone counts.
func (p *program) delivery(ctx context.Context, c *config.Config, use bool) (*rules.Delivery, error) {
	s, err := openStore(ctx, c)
	if errors.Is(err, fs.ErrNotExist) {
		return rules.Alone(c.Rules), nil
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	k := classes.Keeper{Store: s, Keep: c.Binding.Keep, Now: time.Now}
	if use {
		// Those in force stay in force: the daemon hasn't read the file yet.
		return k.Use(ctx, c.Rules, nil)
	}
	return k.Preview(ctx, c.Rules)
}
