package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"tlsonly/internal/classes"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/rules"
)

// How long a file must have stood still before it is taken for whole, and
// how long that is waited for.
const (
	quiet        = time.Second
	quietShorter = 3 * time.Second // it has lost something: an editor may be writing it anew
	quietLimit   = 30 * time.Second
)

// errWriting says that the file changed all the time.
var errWriting = errors.New("the file is still being written")

// readQuiet reads a file that nobody writes any more. Before is how long it
// was when it was read last.
func readQuiet(ctx context.Context, path string, before int) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, quietLimit, errWriting)
	defer cancel()
	var last []byte
	var since time.Time // last has been read again and again
	for {
		data, changed, err := readFile(path)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		if since.IsZero() || !bytes.Equal(data, last) {
			last, since = data, now
		}
		need := quiet
		if len(data) < before {
			need = quietShorter
		}
		wait := need - now.Sub(changed)
		if len(data) < before || wait > need { // the time of the file may be anything, too
			wait = need - now.Sub(since)
		}
		if wait <= 0 {
			return data, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(min(wait, quiet) + time.Millisecond):
		}
	}
}

func readFile(path string) (data []byte, changed time.Time, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("configuration: %w", err)
	}
	data, err = config.Read(path)
	return data, info.ModTime(), err
}

// reload reads the file again. A bad file changes nothing; what only a
// restart can change is named, and so is what is not protected any more.
func (d *service) reload(ctx context.Context) {
	d.notify(daemon.SdNotifyReloading)
	defer d.notify(daemon.SdNotifyReady)
	old := d.config.Load()
	data, err := readQuiet(ctx, d.file, d.size)
	read := stateOf(d.file)
	read.Size = int64(len(data)) // it may be another by now
	var fresh *config.Config
	if err == nil {
		fresh, err = config.Parse(d.file, data, time.Now())
	}
	if err == nil {
		var unread error
		if fresh, unread = withDelimiter(ctx, fresh); unread != nil {
			fresh = fresh.WithDelimiter(old.Rules.Forms().Delimiter)
			d.log.Warn("recipient_delimiter not read, the former delimiter stays", "err", unread)
		}
	}
	if err == nil && len(fresh.Rules.Rules()) == 0 && len(old.Rules.Rules()) > 0 {
		// Between an editor's truncating and its writing a file says nothing at
		// all: that must not end all protection.
		err = errors.New("no rule is left in the file; if you mean that, restart")
	}
	if err == nil {
		// What binds at delivery comes first: it is never weaker than before.
		err = d.use(ctx, fresh.Rules, old.Rules)
	}
	d.stats.meter.Reloaded(d.now(), err)
	if err != nil {
		d.log.Error("reload refused, the old rules stay in force", "err", err)
		return
	}
	if needsRestart(old, fresh) {
		d.log.Warn("reloaded in part: only rules, [senders], [relay], [doctor], [log] level, [forwarding] local and [binding] watch apply, other changes need a restart")
	}
	if fresh.Log.Level != old.Log.Level {
		d.stats.level.Set(fresh.Log.Level) // else what was set meanwhile stays
	}
	d.config.Store(fresh)
	d.readAround(ctx)
	d.learnMTA(ctx)
	d.binding.Again()
	d.size = len(data)
	d.state.Store(&read)
	d.log.Info("reloaded", "rules", len(fresh.Rules.Rules()), "inbound", len(fresh.Inbound.Rules()))
	d.warnLost(old.Rules, fresh)
	d.warn(fresh)
}

// useTime is how long it may take to store which rules are in force.
const useTime = 10 * time.Second

// use stores that rules are in force, and answers MTAs by them from now on.
func (d *service) use(ctx context.Context, set, before *rules.Set) error {
	ctx, cancel := context.WithTimeout(ctx, useTime)
	defer cancel()
	delivery, err := d.classes.Use(ctx, set, before)
	if err != nil {
		return err
	}
	d.delivery.Store(delivery)
	return nil
}

// keepUsing says again and again that the rules are in force, and hears of
// the rules of other processes on the store, until ctx ends.
func (d *service) keepUsing(ctx context.Context) {
	tick := time.NewTicker(classes.Often)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.rulesets:
		}
		d.using.Lock()
		set := d.config.Load().Rules
		if err := d.use(ctx, set, set); err != nil && ctx.Err() == nil {
			d.log.Warn("rules in force not stored", "err", err)
		}
		d.using.Unlock()
	}
}

// shown is how many senders one line of the log names.
const shown = 50

// warnLost names every rule and every protected sender that a file has no
// more, or asks less of.
func (d *service) warnLost(old *rules.Set, fresh *config.Config) {
	now := d.now()
	until := now.Add(d.classes.Keep).Format(time.DateTime)
	for _, lost := range old.Weakened(fresh.Rules, now) {
		d.log.Warn("rule requires less than before, but mail accepted before stays bound", "rule", lost.Name, "why", lost.Why, "until", until)
	}
	for _, name := range old.Exceptions(fresh.Rules, now) {
		d.log.Warn("exception does not apply at delivery yet, because former rules still bind", "rule", name, "until", until, "remedy", "tlsonly classes release")
	}
	senders := old.Unprotected(fresh.Rules, now)
	for part := range slices.Chunk(senders, shown) {
		d.log.Warn("senders not protected any more, but mail accepted before stays bound", "senders", strings.Join(part, " "), "until", until)
	}
	if fresh.Binding.Senders == contract.SendersTable && !reflect.DeepEqual(old.Senders(now), fresh.Rules.Senders(now)) {
		d.log.Warn("the table of senders is out of date", "remedy", "tlsonly setup postfix --apply")
	}
}

// needsRestart reports whether a file changes what was read once, at the start.
func needsRestart(old, fresh *config.Config) bool {
	binding := fresh.Binding
	binding.Watch = old.Binding.Watch
	_, asks := usesPostfix(old.Forwarding)
	return fresh.Log.JSON != old.Log.JSON || fresh.Log.Hash != old.Log.Hash || fresh.Milter != old.Milter || fresh.DNS != old.DNS || fresh.Probe != old.Probe || fresh.Cache != old.Cache ||
		fresh.Socketmap != old.Socketmap || fresh.HTTP != old.HTTP || binding != old.Binding || fresh.Store != old.Store ||
		fresh.Fallback != old.Fallback || !reflect.DeepEqual(fresh.OpenPGP, old.OpenPGP) || !reflect.DeepEqual(fresh.SMIME, old.SMIME) ||
		fresh.Monitor != old.Monitor || !reflect.DeepEqual(fresh.Notify, old.Notify) ||
		!reflect.DeepEqual(fresh.Forwarding.Sources(), old.Forwarding.Sources()) ||
		// Without a Postfix to ask, what follows forwards knows from the file
		// alone what is delivered here.
		!asks && !slices.Equal(fresh.Forwarding.Domains(), old.Forwarding.Domains())
}
