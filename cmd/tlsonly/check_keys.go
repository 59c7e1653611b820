package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/fallback/keyring"
	"tlsonly/internal/policy"
)

// checkedMethod says whether a method can encrypt to an address.
type checkedMethod struct {
	Method      string `json:"method"`
	State       string `json:"state"` // "certain", "none" or "unknown"
	Algorithm   string `json:"algorithm,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Source      string `json:"source,omitempty"`
	Cause       string `json:"cause,omitempty"` // why it can't
}

// asked returns the destination that name is, or that mail for it goes to where
// it is an address; to is the address then.
func asked(c *config.Config, name string) (d addr.Destination, to addr.Address, err error) {
	if !strings.Contains(name, "@") {
		d, err = addr.ParseDestination(name)
		return d, to, err
	}
	if to, err = addr.ParsePath(name); err == nil && to.Domain.IsZero() {
		err = errors.New("the address has no domain")
	}
	if err != nil {
		return d, addr.Address{}, err
	}
	if hop, ok := c.Relay.For(to.Domain); ok {
		return hop, to, nil
	}
	return addr.DomainDestination(to.Domain), to, nil
}

// keyLookups returns what begins to look up an address's keys, and what waits
// for that. Nothing is kept of it. What stop ends is no longer asked.
func keyLookups(ctx context.Context, c *config.Config, names []string) (begin func(addr.Address) func() []checkedMethod, stop func(), err error) {
	none := func(addr.Address) func() []checkedMethod { return func() []checkedMethod { return nil } }
	if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "@") }) {
		return none, func() {}, nil
	}
	rs, stop, err := ringsBeside(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return func(a addr.Address) func() []checkedMethod {
		if a.IsNull() {
			return func() []checkedMethod { return nil }
		}
		found := make([]checkedMethod, len(rs))
		var all sync.WaitGroup
		for i, r := range rs {
			all.Go(func() { found[i] = lookedUp(ctx, r, a) })
		}
		return func() []checkedMethod { all.Wait(); return found }
	}, stop, nil
}

// ringsBeside are the keys of all methods as a command sees them that keeps
// nothing. stop gives the store back.
func ringsBeside(ctx context.Context, c *config.Config) (rs rings, stop func(), err error) {
	keys, stop := keyring.Dry(nil), func() {}
	switch s, err := openStore(ctx, c); {
	case err == nil:
		keys, stop = keyring.Dry(s), func() { s.Close() }
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	}
	if rs, err = newRings(c, policy.Methods(), keys, slog.New(slog.DiscardHandler), time.Now, nil); err != nil {
		stop()
		return nil, nil, err
	}
	return rs, stop, nil
}

// methodsBeside are the methods as a command sees them, none where there is no
// gateway.
func methodsBeside(ctx context.Context, c *config.Config) (keyring.Methods, func(), error) {
	if c.Fallback.Listen == (config.Endpoint{}) {
		return nil, func() {}, nil
	}
	rs, stop, err := ringsBeside(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	// Nothing is signed here, so no key for that is needed.
	unsigned := *c
	unsigned.OpenPGP.Sign, unsigned.SMIME.Sign = "", ""
	methods, err := newMethods(&unsigned, rs, time.Now())
	return methods, stop, err
}

func lookedUp(ctx context.Context, r *keyring.Ring, a addr.Address) checkedMethod {
	f, state, err := r.Lookup(ctx, a)
	m := checkedMethod{Method: string(r.Method()), State: state.String(), Algorithm: f.Algorithm, Fingerprint: f.Fingerprint, Source: f.Source}
	if err != nil {
		m.Cause = oneLine(err.Error())
	}
	return m
}
