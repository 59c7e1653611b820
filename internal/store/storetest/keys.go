package storetest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// testKeys wants that keys are kept by method and address, whatever the case of
// the address, and that changes of one address come one after the other.
func testKeys(t *testing.T, s suite) {
	one, other := s.open(t, "one"), s.open(t, "other")
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	amy := addr.MustAddress("Amy@Far.example")
	key := func(method policy.Method, fingerprint string, state store.KeyState) store.Key {
		return store.Key{Method: method, Address: amy.Fold(), Fingerprint: fingerprint, Octets: []byte{0, 1, 0xff},
			Source: "wkd https://openpgpkey.far.example/", State: state, Found: at, Seen: at.Add(time.Hour)}
	}
	put := func(keys ...store.Key) func([]store.Key) ([]store.Key, error) {
		return func([]store.Key) ([]store.Key, error) { return keys, nil }
	}
	must(t, one.ChangeKeys(s.ctx, policy.OpenPGP, amy, put(key(policy.OpenPGP, "AA", store.KeyFound), key(policy.OpenPGP, "BB", store.KeyWaiting))))
	must(t, one.ChangeKeys(s.ctx, policy.SMIME, amy, put(key(policy.SMIME, "CC", store.KeyAdded))))
	found, err := other.Keys(s.ctx, policy.OpenPGP, addr.MustAddress("amy@far.example"))
	must(t, err)
	equal(t, "of a method", found, []store.Key{key(policy.OpenPGP, "AA", store.KeyFound), key(policy.OpenPGP, "BB", store.KeyWaiting)})
	found, err = other.Keys(s.ctx, "", addr.Address{})
	must(t, err)
	if len(found) != 3 {
		t.Errorf("all: %+v", found)
	}
	// An error changes nothing.
	wrong := errors.New("wrong")
	err = one.ChangeKeys(s.ctx, policy.SMIME, amy, func([]store.Key) ([]store.Key, error) { return nil, wrong })
	if !errors.Is(err, wrong) {
		t.Error(err)
	}
	must(t, one.Healthy())
	found, err = other.Keys(s.ctx, policy.SMIME, amy)
	must(t, err)
	equal(t, "after an error", found, []store.Key{key(policy.SMIME, "CC", store.KeyAdded)})
	// Of many that find a first key one is the first.
	bob := addr.MustAddress("bob@far.example")
	var all sync.WaitGroup
	for i := range 8 {
		use := one
		if i%2 == 1 {
			use = other
		}
		all.Go(func() {
			err := use.ChangeKeys(s.ctx, policy.OpenPGP, bob, func(have []store.Key) ([]store.Key, error) {
				state := store.KeyFound
				if len(have) > 0 {
					state = store.KeyWaiting
				}
				k := key(policy.OpenPGP, string(rune('A'+i)), state)
				return append(have, k), nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	found, err = one.Keys(s.ctx, policy.OpenPGP, bob)
	must(t, err)
	used := 0
	for _, k := range found {
		if k.State.Used() {
			used++
		}
	}
	if len(found) != 8 || used != 1 {
		t.Errorf("%d keys, %d of them used", len(found), used)
	}
	if err := one.ChangeKeys(s.ctx, policy.OpenPGP, addr.Address{}, put()); err == nil {
		t.Error("keys of nobody")
	}
}
