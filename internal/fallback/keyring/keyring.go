// Package keyring knows recipients' keys and certificates, and encrypts to them:
// it is the methods "openpgp" and "smime" of package fallback.
//
// A key comes from three places, in this order:
//
//  1. Files of the administrator. Where they have one for an address nobody
//     else is asked about it.
//  2. The store: keys that were added by command, and those that were once
//     found where their owner publishes them.
//  3. What the owner publishes. The first key that is found is kept, so that it
//     is the same the next time (it is pinned). Another one that is published
//     later is told, and waits for the administrator; the first one is used as
//     long as it is valid. One that isn't published any more isn't used, and
//     told.
//
// An answer is "certain", "none", or "unknown": that a server, the DNS or the
// store didn't answer is never "none".
package keyring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// Found is a key that can be used now.
type Found struct {
	Fingerprint string
	Algorithm   string
	Created     time.Time
	Expires     time.Time // zero: never
	Source      string
	Octets      []byte

	use any // what the source encrypts with
}

// Source is where keys of one method come from, and what is known about them.
// An error that wraps the source's own "none" says that there is no key for
// certain; any other one that this isn't known.
type Source interface {
	// Method is the word of the rules.
	Method() policy.Method
	// Filed returns the key in the administrator's files. Is is false where they
	// have none for the address, not even one that can't be used.
	Filed(a addr.Address, now time.Time) (f Found, is bool, err error)
	// Addresses are those for which there are keys in the files.
	Addresses() []addr.Address
	// Split cuts a file into keys, beside what can't be read of it.
	Split(text []byte) ([][]byte, error)
	// Discovers reports whether Find has anywhere to look.
	Discovers() bool
	// Find looks where the owner publishes keys.
	Find(ctx context.Context, a addr.Address, now time.Time) (Found, error)
	// Parse reads a key that is kept.
	Parse(octets []byte, a addr.Address, source string, now time.Time) (Found, error)
	// Same reports whether next is the same key as octets that are kept, signed
	// anew by its owner.
	Same(octets []byte, next Found, now time.Time) bool
	// None reports whether an error says that there is no key.
	None(err error) bool
	// Problems are what is wrong with the files.
	Problems() []error
}

// Store keeps keys, as store.Store does.
type Store interface {
	Keys(ctx context.Context, method policy.Method, a addr.Address) ([]store.Key, error)
	ChangeKeys(ctx context.Context, method policy.Method, a addr.Address, change func([]store.Key) ([]store.Key, error)) error
	AddEvents(ctx context.Context, events ...store.Event) error
}

// Config is what a Ring works with. Zero fields mean the defaults named.
type Config struct {
	Source Source
	Store  Store
	// Success, Failure and Unknown are how long an answer serves: a key that was
	// seen published, that there is none, that it isn't known; 24 h, 15 min, 1 min.
	Success, Failure, Unknown time.Duration
	// Limit is for one look-up where keys are published; 20 s.
	Limit time.Duration
	// Tell is told of keys that changed; nil: nobody is.
	Tell func(store.Event)
	Log  *slog.Logger
	Now  func() time.Time
}

// Ring knows the keys of one method. It is safe for concurrent use.
type Ring struct {
	c       Config
	lookups singleflight.Group
	slots   chan struct{}

	mu      sync.Mutex
	answers map[addr.Address]answer
	counts  Counts
}

// Counts are what became of look-ups since the start.
type Counts struct {
	Certain, None, Unknown uint64
	Changed, Withdrawn     uint64 // keys that were told
}

// States are the look-ups by the words of fallback.State.
func (c Counts) States() map[string]uint64 {
	return map[string]uint64{
		fallback.Certain.String(): c.Certain, fallback.None.String(): c.None, fallback.Unknown.String(): c.Unknown,
	}
}

// answer is what was found out about an address, until when.
type answer struct {
	key   *Found // nil: none
	err   error  // why none
	none  bool   // for certain
	until time.Time
}

// The limits of a Ring.
const (
	mostLookups = 16     // under way at once
	mostAnswers = 20_000 // in memory
)

// New returns a Ring.
func New(c Config) *Ring {
	c.Success = cmp.Or(c.Success, 24*time.Hour)
	c.Failure = cmp.Or(c.Failure, 15*time.Minute)
	c.Unknown = cmp.Or(c.Unknown, time.Minute)
	c.Limit = cmp.Or(c.Limit, 20*time.Second)
	if c.Tell == nil {
		c.Tell = func(store.Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Ring{c: c, slots: make(chan struct{}, mostLookups), answers: map[addr.Address]answer{}}
}

// Method returns the word of the rules.
func (r *Ring) Method() policy.Method { return r.c.Source.Method() }

// Problems returns what is wrong with the files.
func (r *Ring) Problems() []error { return r.c.Source.Problems() }

// Counts returns what became of look-ups.
func (r *Ring) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Forget drops what is in memory: the store has been changed by somebody else.
func (r *Ring) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.answers)
}

// Lookup returns the key to encrypt to a with, fallback.Certain; without, the
// state says whether that is certain, and the error why.
func (r *Ring) Lookup(ctx context.Context, a addr.Address) (Found, fallback.State, error) {
	f, state, err := r.lookup(ctx, a)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch state {
	case fallback.Certain:
		r.counts.Certain++
	case fallback.None:
		r.counts.None++
	default:
		r.counts.Unknown++
	}
	return f, state, err
}

func (r *Ring) lookup(ctx context.Context, a addr.Address) (Found, fallback.State, error) {
	now := r.c.Now()
	switch f, is, err := r.c.Source.Filed(a, now); {
	case is && err == nil:
		return f, fallback.Certain, nil
	case is && r.c.Source.None(err):
		return Found{}, fallback.None, err
	case err != nil && !r.c.Source.None(err):
		return Found{}, fallback.Unknown, err
	}
	got, ok := r.remembered(a, now)
	if !ok {
		// It goes on when the caller has left, so that the next one finds it.
		done := r.lookups.DoChan(a.Fold().String(), func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.Limit)
			defer cancel()
			found := r.find(ctx, a)
			r.remember(a, found)
			return found, nil
		})
		select {
		case <-ctx.Done():
			return Found{}, fallback.Unknown, fmt.Errorf("%s: keys of %s: no answer in time", r.Method(), a)
		case result := <-done:
			got = result.Val.(answer)
		}
	}
	switch {
	case got.key != nil:
		return *got.key, fallback.Certain, nil
	case got.none:
		return Found{}, fallback.None, got.err
	}
	return Found{}, fallback.Unknown, got.err
}

// remembered returns an answer that still serves. A key that has expired since
// doesn't.
func (r *Ring) remembered(a addr.Address, now time.Time) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	got, ok := r.answers[a.Fold()]
	if !ok || !now.Before(got.until) || got.key != nil && !got.key.Expires.IsZero() && !now.Before(got.key.Expires) {
		return answer{}, false
	}
	return got, true
}

func (r *Ring) remember(a addr.Address, got answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= mostAnswers {
		for other := range r.answers {
			delete(r.answers, other)
			if len(r.answers) < mostAnswers*9/10 {
				break
			}
		}
	}
	r.answers[a.Fold()] = got
}

// find asks the store and, where that is due, the owner of a.
func (r *Ring) find(ctx context.Context, a addr.Address) (got answer) {
	defer func() {
		// What strangers publish is parsed: a fault of that is not known, not a crash.
		if p := recover(); p != nil {
			r.c.Log.Error("panic in a look-up of keys", "rcpt", a.String(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			got = r.unknown(fmt.Errorf("%s: keys of %s: panic: %v", r.Method(), a, p))
		}
	}()
	now := r.c.Now()
	kept, err := r.c.Store.Keys(ctx, r.Method(), a)
	if err != nil {
		return r.unknown(err)
	}
	used := usedOf(kept)
	switch {
	case used != nil && used.State == store.KeyAdded, !r.c.Source.Discovers() && len(kept) > 0:
		return r.of(a, kept, now.Add(r.c.Success))
	case used != nil && now.Sub(used.Seen) < r.c.Success && !used.Seen.After(now):
		if got := r.of(a, kept, used.Seen.Add(r.c.Success)); got.key != nil {
			return got
		}
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return r.unknown(fmt.Errorf("%s: keys of %s: too many look-ups under way", r.Method(), a))
	}
	published, err := r.c.Source.Find(ctx, a, now)
	switch {
	case err != nil && !r.c.Source.None(err):
		// What is published isn't known. A key that is kept and valid is still its owner's.
		if got := r.of(a, kept, now.Add(r.c.Unknown)); got.key != nil {
			return got
		}
		return r.unknown(err)
	case err != nil && len(kept) == 0:
		return answer{err: err, none: true, until: now.Add(r.c.Failure)}
	case err != nil:
		return r.settle(ctx, a, nil, err)
	}
	return r.settle(ctx, a, &published, nil)
}

// settle keeps what is published for a, nil for nothing, and says what is used.
func (r *Ring) settle(ctx context.Context, a addr.Address, published *Found, why error) answer {
	now := r.c.Now()
	var kept []store.Key
	var told []store.Event
	err := r.c.Store.ChangeKeys(ctx, r.Method(), a, func(have []store.Key) ([]store.Key, error) {
		kept, told = r.after(slices.Clone(have), a, published, now)
		return kept, nil
	})
	if err != nil {
		return r.unknown(err) // what couldn't be kept could be another the next time
	}
	r.tell(ctx, told)
	got := r.of(a, kept, now.Add(r.c.Success))
	if got.key == nil && got.none {
		if why != nil {
			got.err = errors.Join(got.err, why)
		}
		got.until = now.Add(r.c.Failure)
	}
	return got
}

// after returns the keys of a once published, nil for nothing, was seen, and
// what is to be told of that.
func (r *Ring) after(kept []store.Key, a addr.Address, published *Found, now time.Time) (after []store.Key, told []store.Event) {
	event := func(what store.What, from, to, why string) {
		told = append(told, store.Event{What: what, Destination: addr.DomainDestination(a.Domain), From: from, To: to, Why: why, When: now})
	}
	used := usedOf(kept)
	if published == nil {
		for i := range kept {
			if kept[i].State == store.KeyFound {
				kept[i].State = store.KeyGone
				event(store.KeyWithdrawn, kept[i].Fingerprint, "", fmt.Sprintf("%s: its %s key isn't published any more, and isn't used", a, r.Method()))
			}
		}
		return slices.DeleteFunc(kept, func(k store.Key) bool { return k.State == store.KeyWaiting }), told
	}
	fresh := store.Key{Method: r.Method(), Address: a.Fold(), Fingerprint: published.Fingerprint, Octets: published.Octets,
		Source: published.Source, State: store.KeyFound, Found: now, Seen: now}
	if len(kept) == 0 {
		r.c.Log.Info("key found", "method", string(r.Method()), "rcpt", a.String(), "fingerprint", published.Fingerprint, "source", published.Source)
		return []store.Key{fresh}, nil
	}
	known := used
	if known == nil {
		if i := slices.IndexFunc(kept, func(k store.Key) bool { return k.State == store.KeyGone }); i >= 0 {
			known = &kept[i]
		}
	}
	if known != nil && r.c.Source.Same(known.Octets, *published, now) {
		fresh.Found, fresh.State = known.Found, known.State
		if fresh.State == store.KeyGone {
			fresh.State = store.KeyFound
		}
		return []store.Key{fresh}, nil
	}
	// Another one. It is told once, and kept in place of one that waited before.
	fresh.State = store.KeyWaiting
	var rest []store.Key
	isNew := true
	for _, k := range kept {
		if k.State == store.KeyWaiting {
			if k.Fingerprint == fresh.Fingerprint {
				isNew, fresh.Found = false, k.Found
			}
			continue
		}
		if known != nil && k.Fingerprint == known.Fingerprint && k.State.Used() {
			k.Seen = now // it was looked after
		}
		rest = append(rest, k)
	}
	if isNew {
		was := ""
		if known != nil {
			was = known.Fingerprint
		}
		event(store.KeyChanged, was, fresh.Fingerprint, fmt.Sprintf("%s publishes another %s key (%s): \"tlsonly keys trust %s\" if it is right", a, r.Method(), fresh.Source, a))
	}
	return append(rest, fresh), told
}

// tell counts, logs, keeps and tells what changed.
func (r *Ring) tell(ctx context.Context, told []store.Event) {
	for _, e := range told {
		r.mu.Lock()
		if e.What == store.KeyChanged {
			r.counts.Changed++
		} else {
			r.counts.Withdrawn++
		}
		r.mu.Unlock()
		r.c.Log.Warn("key changed", "what", string(e.What), "from", e.From, "to", e.To, "err", e.Why)
		r.c.Tell(e)
	}
	if len(told) > 0 {
		if err := r.c.Store.AddEvents(ctx, told...); err != nil {
			r.c.Log.Warn("change not stored", "err", err)
		}
	}
}

// of says what the keys that are kept of a are good for.
func (r *Ring) of(a addr.Address, kept []store.Key, until time.Time) answer {
	used, waits := usedOf(kept), slices.ContainsFunc(kept, func(k store.Key) bool { return k.State == store.KeyWaiting })
	var err error
	if used != nil {
		var f Found
		if f, err = r.c.Source.Parse(used.Octets, a, used.Source, r.c.Now()); err == nil {
			return answer{key: &f, until: until}
		}
	}
	if waits {
		// Somebody can make it usable, so it isn't "none".
		return answer{until: until, err: errors.Join(err, fmt.Errorf("%s: another key of %s is published, and waits: "+
			"tlsonly keys trust %s", r.Method(), a, a))}
	}
	if err == nil {
		err = fmt.Errorf("%s: no key of %s is published any more", r.Method(), a)
	}
	return answer{err: err, none: true, until: until}
}

func (r *Ring) unknown(err error) answer {
	return answer{err: err, until: r.c.Now().Add(r.c.Unknown)}
}

// usedOf returns the key that is used, nil for none.
func usedOf(kept []store.Key) *store.Key {
	for i := range kept {
		if kept[i].State.Used() {
			return &kept[i]
		}
	}
	return nil
}
