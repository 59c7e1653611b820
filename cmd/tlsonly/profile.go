package main

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"

	"tlsonly/internal/config"
	"tlsonly/internal/profile"
)

// profileOf finds out what the MTA can do that is to deliver: the one that
// [forwarding] names, or else the one on this host. The zero profile is that of
// none; with an error it is what is known all the same.
func profileOf(ctx context.Context, c *config.Config) (profile.MTA, error) {
	ctx, cancel := context.WithTimeout(ctx, aroundTime)
	defer cancel()
	which, i, in := watchedMTA(c.Forwarding)
	switch which {
	case "postfix":
		if i.Commands == "" {
			i.Commands = c.Forwarding.Postconf
		}
		return i.Profile(ctx)
	case "sendmail":
		return in.Profile(ctx)
	}
	return profile.MTA{}, nil
}

// mtaProfile is what is known of the MTA.
type mtaProfile struct {
	atomic.Pointer[profile.MTA]
	failed string // why not all could be found out the last time
}

func (k *mtaProfile) get() profile.MTA {
	if m := k.Load(); m != nil {
		return *m
	}
	return profile.MTA{}
}

// learnMTA finds out anew what the MTA can do. What was found out for one that
// could do other things ends with that. Where the MTA can't be asked, what was
// known of it stays.
func (d *service) learnMTA(ctx context.Context) {
	d.reading.Lock()
	defer d.reading.Unlock()
	m, err := profileOf(ctx, d.config.Load())
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if failed != "" && failed != d.mta.failed {
		d.log.Warn("abilities of the MTA not fully known", "err", err)
	}
	d.mta.failed = failed
	old := d.mta.Load()
	switch {
	case old != nil && (err != nil && old.Dialect == m.Dialect || reflect.DeepEqual(*old, m)):
		return
	case old != nil && old.Digest() != m.Digest():
		d.log.Info("the abilities of the MTA have changed, so all destinations are probed again",
			"mta", string(m.Dialect), "version", m.Version)
	}
	d.mta.Store(&m)
	if old != nil && d.assessor != nil && old.Digest() != m.Digest() {
		d.assessor.Expire()
	}
}

// onceMTA finds out what the MTA can do when that is asked for first.
func onceMTA(c *config.Config) func() profile.MTA {
	return sync.OnceValue(func() profile.MTA {
		m, _ := profileOf(context.Background(), c) // what can't be found out isn't assumed
		return m
	})
}
