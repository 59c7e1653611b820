package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

var (
	errNone = errors.New("no key")
	errAway = errors.New("SERVFAIL")
	amy     = addr.MustAddress("amy@far.example")
)

// published is a Source of keys whose octets are "fingerprint" or
// "fingerprint/version".
type published struct {
	mu      sync.Mutex
	filed   map[string]string // by address; "" for one that can't be used
	filedAs error             // a file can't be read
	is      string            // what is published: octets, "" for nothing
	err     error             // the publisher's
	asked   int
	hold    chan struct{} // Find waits for it
	bad     map[string]bool
	nowhere bool
	panics  bool
}

func (p *published) Method() policy.Method { return policy.OpenPGP }
func (p *published) None(err error) bool   { return errors.Is(err, errNone) }
func (p *published) Discovers() bool       { return !p.nowhere }
func (p *published) Problems() []error     { return nil }

func (p *published) Addresses() []addr.Address { return nil }

func (p *published) Split(text []byte) ([][]byte, error) { return bytes.Fields(text), nil }

func (p *published) Filed(a addr.Address, _ time.Time) (Found, bool, error) {
	octets, is := p.filed[a.Fold().String()]
	switch {
	case is && octets == "":
		return Found{}, true, fmt.Errorf("%w: it has expired", errNone)
	case is:
		return Found{Fingerprint: octets}, true, nil
	case p.filedAs != nil:
		return Found{}, false, p.filedAs
	}
	return Found{}, false, errNone
}

func (p *published) Find(ctx context.Context, a addr.Address, now time.Time) (Found, error) {
	p.mu.Lock()
	p.asked++
	is, err, hold := p.is, p.err, p.hold
	p.mu.Unlock()
	if p.panics {
		panic("a test's panic")
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return Found{}, ctx.Err()
		}
	}
	switch {
	case err != nil:
		return Found{}, err
	case is == "":
		return Found{}, errNone
	}
	return p.Parse([]byte(is), a, "wkd", now)
}

func (p *published) Parse(octets []byte, _ addr.Address, source string, _ time.Time) (Found, error) {
	if p.bad[string(octets)] {
		return Found{}, fmt.Errorf("%w: %s can't be used", errNone, octets)
	}
	name, _, _ := strings.Cut(string(octets), "/")
	return Found{Fingerprint: name, Octets: octets, Source: source}, nil
}

func (p *published) Same(octets []byte, next Found, _ time.Time) bool {
	name, _, _ := strings.Cut(string(octets), "/")
	return name == next.Fingerprint
}

func (p *published) set(is string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.is, p.err = is, err
}

func (p *published) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// kept is a Store in memory.
type kept struct {
	mu     sync.Mutex
	keys   []store.Key
	events []store.Event
	err    error
}

func (k *kept) Keys(context.Context, policy.Method, addr.Address) ([]store.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.keys), k.err
}

func (k *kept) ChangeKeys(_ context.Context, _ policy.Method, _ addr.Address, change func([]store.Key) ([]store.Key, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return k.err
	}
	want, err := change(slices.Clone(k.keys))
	if err == nil {
		k.keys = want
	}
	return err
}

func (k *kept) AddEvents(_ context.Context, events ...store.Event) error {
	k.events = append(k.events, events...)
	return nil
}

// world is a Ring with its surroundings and a clock.
type world struct {
	*testing.T
	source *published
	store  *kept
	ring   *Ring
	now    time.Time
	told   []store.What
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, source: &published{bad: map[string]bool{}}, store: &kept{}, now: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
	w.ring = New(Config{Source: w.source, Store: w.store, Success: 24 * time.Hour, Failure: 15 * time.Minute, Unknown: time.Minute,
		Tell: func(e store.Event) { w.told = append(w.told, e.What) }, Now: func() time.Time { return w.now }})
	return w
}

// want looks amy up, after some time.
func (w *world) want(what string, after time.Duration, state fallback.State, key string) {
	w.Helper()
	if after != 0 { // a look-up that goes on reads it
		w.now = w.now.Add(after)
	}
	f, is, err := w.ring.Lookup(w.Context(), amy)
	if is != state || f.Fingerprint != key || (err == nil) != (is == fallback.Certain) {
		w.Errorf("%s: %s %q, %v; want %s %q", what, is, f.Fingerprint, err, state, key)
	}
}

func (w *world) wantTold(what string, told ...store.What) {
	w.Helper()
	if !slices.Equal(w.told, told) || len(w.store.events) != len(told) {
		w.Errorf("%s: told %v, kept %d; want %v", what, w.told, len(w.store.events), told)
	}
}

// The first key is kept. Another one is told once, and isn't used until the
// administrator says so; the first is used meanwhile.
func TestAnotherKeyWaits(t *testing.T) {
	w := newWorld(t)
	w.source.set("one", nil)
	w.want("first", 0, fallback.Certain, "one")
	w.want("again", time.Hour, fallback.Certain, "one")
	if n := w.source.times(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	w.source.set("two", nil)
	w.want("before its time", time.Hour, fallback.Certain, "one")
	w.wantTold("before its time")
	w.want("changed", 25*time.Hour, fallback.Certain, "one")
	w.wantTold("changed", store.KeyChanged)
	w.want("changed still", 25*time.Hour, fallback.Certain, "one")
	w.wantTold("once", store.KeyChanged)
	w.source.set("three", nil)
	w.want("changed again", 25*time.Hour, fallback.Certain, "one")
	w.wantTold("changed again", store.KeyChanged, store.KeyChanged)
	if _, err := w.ring.Trust(t.Context(), amy, "two"); !errors.Is(err, ErrNothing) {
		t.Errorf("a key that waits no more is trusted: %v", err)
	}
	if k, err := w.ring.Trust(t.Context(), amy, "three"); err != nil || k.State != store.KeyTrusted {
		t.Errorf("trust: %+v, %v", k, err)
	}
	w.want("trusted", 0, fallback.Certain, "three")
	if len(w.store.keys) != 1 {
		t.Errorf("kept %+v", w.store.keys)
	}
	// Not even back to the first by itself.
	w.source.set("one", nil)
	w.want("the first again", 25*time.Hour, fallback.Certain, "three")
	w.wantTold("the first again", store.KeyChanged, store.KeyChanged, store.KeyChanged)
}

// The owner may sign the same key anew: that is no other key.
func TestSameKeyAnew(t *testing.T) {
	w := newWorld(t)
	w.source.set("one/1", nil)
	w.want("first", 0, fallback.Certain, "one")
	w.source.set("one/2", nil)
	w.want("anew", 25*time.Hour, fallback.Certain, "one")
	w.wantTold("anew")
	if string(w.store.keys[0].Octets) != "one/2" || len(w.store.keys) != 1 {
		t.Errorf("kept %+v", w.store.keys)
	}
	// One that has expired is looked for before its time.
	w.source.bad["one/2"] = true
	w.source.set("one/3", nil)
	w.ring.Forget()
	w.want("expired", time.Minute, fallback.Certain, "one")
	if string(w.store.keys[0].Octets) != "one/3" {
		t.Errorf("kept %+v", w.store.keys)
	}
}

// What isn't known is never "none": a key that is kept is used, and without one
// the answer is "unknown", for a short time.
func TestUnknownIsNotNone(t *testing.T) {
	w := newWorld(t)
	w.source.set("", errAway)
	w.want("no answer", 0, fallback.Unknown, "")
	w.want("no answer", time.Second, fallback.Unknown, "")
	if n := w.source.times(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	w.source.set("one", nil)
	w.want("an answer", time.Minute, fallback.Certain, "one")
	w.source.set("", errAway)
	w.want("no answer, and a key is kept", 25*time.Hour, fallback.Certain, "one")
	w.wantTold("no answer")
	w.store.err = errors.New("disk full")
	w.want("no store, from memory", 0, fallback.Certain, "one")
	w.want("no store", 25*time.Hour, fallback.Unknown, "")
	// A first key that can't be kept isn't used: the next one could be another.
	w = newWorld(t)
	w.source.set("one", nil)
	w.store.err = errors.New("disk full")
	w.want("can't be kept", 0, fallback.Unknown, "")
	// A store that reads and doesn't write.
	w.source.hold = make(chan struct{})
	w.store.err = nil
	w.now = w.now.Add(time.Hour)
	done := make(chan fallback.State)
	go func() { _, is, _ := w.ring.Lookup(t.Context(), amy); done <- is }()
	for w.source.times() == 0 {
		time.Sleep(time.Millisecond)
	}
	w.store.mu.Lock()
	w.store.err = errors.New("read-only")
	w.store.mu.Unlock()
	close(w.source.hold)
	if is := <-done; is != fallback.Unknown {
		t.Errorf("not written: %s", is)
	}
}

// A fault of what reads a stranger's key is "not known", and no crash.
func TestPanic(t *testing.T) {
	w := newWorld(t)
	w.source.panics = true
	w.want("panic", 0, fallback.Unknown, "")
	w.source.panics = false
	w.source.set("one", nil)
	w.want("later", time.Minute, fallback.Certain, "one")
}

// That there is none is known for a while.
func TestNone(t *testing.T) {
	w := newWorld(t)
	w.want("none", 0, fallback.None, "")
	w.want("none", 14*time.Minute, fallback.None, "")
	if n := w.source.times(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	w.source.set("one", nil)
	w.want("one now", 2*time.Minute, fallback.Certain, "one")
	if c := w.ring.Counts(); c.None != 2 || c.Certain != 1 || c.Unknown != 0 {
		t.Errorf("counts %+v", c)
	}
}

// A key that isn't published any more isn't used. If it comes back it is; another
// one in its place waits. One that is trusted stays.
func TestWithdrawn(t *testing.T) {
	w := newWorld(t)
	w.source.set("one", nil)
	w.want("first", 0, fallback.Certain, "one")
	w.source.set("", nil)
	w.want("withdrawn", 25*time.Hour, fallback.None, "")
	w.wantTold("withdrawn", store.KeyWithdrawn)
	w.want("withdrawn still", 25*time.Hour, fallback.None, "")
	w.wantTold("once", store.KeyWithdrawn)
	w.source.set("two", nil)
	w.want("another in its place", 25*time.Hour, fallback.Unknown, "")
	w.wantTold("another in its place", store.KeyWithdrawn, store.KeyChanged)
	w.source.set("one", nil)
	w.want("back", 25*time.Hour, fallback.Certain, "one")
	if _, err := w.ring.Trust(t.Context(), amy, ""); err != nil {
		t.Error(err)
	}
	w.source.set("", nil)
	w.want("trusted", 25*time.Hour, fallback.Certain, "one")
}

// Files win, whatever is published or kept, and so does what is wrong with them.
func TestFilesWin(t *testing.T) {
	w := newWorld(t)
	w.source.set("one", nil)
	w.want("published", 0, fallback.Certain, "one")
	w.source.filed = map[string]string{"amy@far.example": "filed"}
	w.want("filed", 0, fallback.Certain, "filed")
	w.source.filed["amy@far.example"] = ""
	w.want("filed, and expired", 0, fallback.None, "")
	w.source.filed = nil
	w.source.filedAs = errors.New("permission denied")
	w.want("a file can't be read", 0, fallback.Unknown, "")
	w.source.filedAs = nil
	// So does what was added, without looking elsewhere.
	if _, err := w.ring.Add(t.Context(), amy, []byte("added"), "command"); err != nil {
		t.Fatal(err)
	}
	asked := w.source.times()
	w.source.set("two", nil)
	w.want("added", 1000*time.Hour, fallback.Certain, "added")
	w.source.bad["added"] = true
	w.ring.Forget()
	w.want("added, and expired", 0, fallback.None, "")
	if n := w.source.times(); n != asked {
		t.Errorf("asked %d times", n-asked)
	}
	if _, err := w.ring.Add(t.Context(), amy, []byte("added"), "command"); err == nil {
		t.Error("what can't be used is added")
	}
	if gone, err := w.ring.Drop(t.Context(), amy, ""); err != nil || len(gone) != 1 {
		t.Errorf("drop: %v, %v", gone, err)
	}
	if _, err := w.ring.Drop(t.Context(), amy, ""); !errors.Is(err, ErrNothing) {
		t.Errorf("drop nothing: %v", err)
	}
	w.want("dropped", 0, fallback.Certain, "two")
	// Where nobody is asked any more, what was found stays.
	w.source.nowhere = true
	w.source.set("", nil)
	w.want("nowhere", 1000*time.Hour, fallback.Certain, "two")
	w.wantTold("nowhere")
}

// Who waits no longer than a deadline hears "unknown"; the look-up goes on, once
// for all who ask, and the next one has its answer.
func TestSlowLookup(t *testing.T) {
	w := newWorld(t)
	w.source.is, w.source.hold = "one", make(chan struct{})
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, is, err := w.ring.Lookup(ctx, amy); is != fallback.Unknown || err == nil {
				t.Errorf("%s, %v", is, err)
			}
		})
	}
	for w.source.times() == 0 {
		time.Sleep(time.Millisecond)
	}
	leave()
	all.Wait()
	close(w.source.hold)
	w.want("later", 0, fallback.Certain, "one")
	if n := w.source.times(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

// Of several methods the first that is certain is taken. Without one it is
// "none" only where all of them are.
func TestFirst(t *testing.T) {
	known := func(is fallback.State) fallback.Method { return knows{is: is} }
	both := []policy.Method{policy.OpenPGP, policy.SMIME}
	for _, c := range []struct {
		openpgp, smime fallback.State
		names          []policy.Method
		want           fallback.State
		of             int
	}{
		{fallback.Certain, fallback.Certain, both, fallback.Certain, 0},
		{fallback.None, fallback.Certain, both, fallback.Certain, 1},
		{fallback.Unknown, fallback.Certain, both, fallback.Certain, 1},
		{fallback.Certain, fallback.Certain, []policy.Method{policy.SMIME}, fallback.Certain, 1},
		{fallback.None, fallback.None, both, fallback.None, -1},
		{fallback.Unknown, fallback.None, both, fallback.Unknown, -1},
		{fallback.None, fallback.Unknown, both, fallback.Unknown, -1},
		{fallback.Certain, fallback.Certain, nil, fallback.None, -1},
		{fallback.None, fallback.None, []policy.Method{policy.OpenPGP, "portal"}, fallback.Unknown, -1},
	} {
		m := Methods{policy.OpenPGP: known(c.openpgp), policy.SMIME: known(c.smime)}
		method, is, err := m.First(t.Context(), c.names, addr.Address{}, amy)
		if is != c.want || (method != nil) != (c.of >= 0) || (err == nil) != (is == fallback.Certain) {
			t.Errorf("%+v: %s, %v", c, is, err)
		} else if method != nil && method != m[both[c.of]] {
			t.Errorf("%+v: another method", c)
		}
	}
}

type knows struct {
	fallback.Method
	is fallback.State
}

func (s knows) Known(context.Context, addr.Address, addr.Address) (fallback.State, error) {
	if s.is == fallback.Certain {
		return s.is, nil
	}
	return s.is, errors.New("why")
}
