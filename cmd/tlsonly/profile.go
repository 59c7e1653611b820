package main

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"tlsonly/internal/config"
	"tlsonly/internal/mta"
	"tlsonly/internal/mta/sendmail"
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
	if old != nil {
		m = kept(*old, m, err)
	}
	switch {
	case old != nil && reflect.DeepEqual(*old, m):
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

// kept is m with what was known before of the same MTA and could not be found out
// this time: err is about its names and addresses.
func kept(old, m profile.MTA, err error) profile.MTA {
	if old.Dialect != m.Dialect {
		return m
	}
	if err != nil && m.Version == "" { // nothing could be
		return old
	}
	if err != nil {
		m.Hosts = old.Hosts
	}
	if m.TLS.Assumed != "" && old.TLS.Assumed == "" && old.Version == m.Version {
		m.TLS = old.TLS
	}
	return m
}

// doctorProfile says whether what the MTA's TLS offers is known.
func doctorProfile(ctx context.Context, c *config.Config, which, directory string) []mta.Finding {
	ctx, cancel := context.WithTimeout(ctx, aroundTime)
	defer cancel()
	var m profile.MTA
	var err error
	program := "posttls-finger"
	if which == "postfix" {
		m, err = postfixAt(c.Forwarding, directory).Profile(ctx)
	} else {
		program = "sendmail"
		m, err = sendmail.Installation{}.Profile(ctx)
	}
	why := m.TLS.Assumed
	if why == "" && m.TLS.Suites == nil && err != nil {
		why = err.Error()
	}
	if why != "" {
		return []mta.Finding{finding(mta.Warning, "tls-assumed", program,
			"see that the daemon's user can run "+program+", which speaks to a host of the daemon's own on 127.0.0.1",
			"what TLS the MTA offers isn't known (%s): probes offer what %s of Debian 12 does, whatever the site restricts", why, which)}
	}
	return []mta.Finding{finding(mta.OK, "tls-offers", program, "", "probes offer what the MTA does: TLS %s to %s, %d cipher suites, %d groups",
		slices.Min(m.TLS.Versions), slices.Max(m.TLS.Versions), len(m.TLS.Suites), len(m.TLS.Groups))}
}

// onceMTA finds out what the MTA can do when that is asked for first.
func onceMTA(c *config.Config) func() profile.MTA {
	return sync.OnceValue(func() profile.MTA {
		m, _ := profileOf(context.Background(), c) // what can't be found out isn't assumed
		return m
	})
}
