package keyfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"tlsonly/internal/addr"
)

// Entry is one key of a file.
type Entry[K any] struct {
	Key  K
	File string
}

// Parse reads the keys of one file. It calls add with each one and the addresses
// of its owners, and bad with what is wrong: key says which one of the file, "" is
// the whole file.
type Parse[K any] func(text []byte, add func(key K, owners []addr.Address), bad func(key string, err error))

// Store holds the keys of files: those that an administrator has put there. It
// is safe for concurrent use. Make one with Open.
type Store[K any] struct {
	paths []string
	parse Parse[K]

	mu       sync.RWMutex
	keys     map[addr.Address][]Entry[K]
	count    int
	problems []Problem
}

// Open returns a Store of these files and folders, read (Each). What is wrong is
// told by Problems: it isn't the others' fault.
func Open[K any](paths []string, parse Parse[K]) *Store[K] {
	s := &Store[K]{paths: paths, parse: parse}
	s.Reload()
	return s
}

// Reload reads all files anew, puts what they have in place of what they had,
// and returns what is wrong with them.
func (s *Store[K]) Reload() []Problem {
	keys := make(map[addr.Address][]Entry[K])
	var problems []Problem
	count := 0
	unread := Each(s.paths, func(file string, text []byte) {
		add := func(key K, owners []addr.Address) {
			count++
			for _, a := range owners {
				keys[a] = append(keys[a], Entry[K]{key, file})
			}
		}
		bad := func(key string, err error) {
			problems = append(problems, Problem{File: file, Key: key, Err: err})
		}
		s.parse(text, add, bad)
	})
	problems = append(problems, unread...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.count, s.problems = keys, count, problems
	return problems
}

// Problems returns what was wrong when the files were last read.
func (s *Store[K]) Problems() []Problem {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.problems)
}

// Len returns how many keys there are, whether or not they can be used.
func (s *Store[K]) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

// Addresses returns the addresses for which there are keys, sorted.
func (s *Store[K]) Addresses() []addr.Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]addr.Address, 0, len(s.keys))
	for a := range s.keys {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b addr.Address) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// Has reports whether the files have any key for a, also one that can't be used.
func (s *Store[K]) Has(a addr.Address) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.keys[a.Fold()]) > 0
}

// Choice is how one of several keys is chosen.
type Choice[K, U any] struct {
	Kind string                    // what the keys are, for errors: "OpenPGP keys"
	None error                     // there is none
	Use  func(Entry[K]) (U, error) // what can be used of a key
	// Better reports whether a is to be taken rather than b.
	Better func(a, b U) bool
}

// Choose returns the best of the keys for a that can be used.
//
// Errors: one that wraps c.None when there is none, or those of the keys that
// can't be used; another one when a file couldn't be read, which could have had
// it.
func Choose[K, U any](s *Store[K], a addr.Address, c Choice[K, U]) (best U, err error) {
	s.mu.RLock()
	candidates, problems := s.keys[a.Fold()], s.problems
	s.mu.RUnlock()
	found := false
	var why []error
	for _, candidate := range candidates {
		key, err := c.Use(candidate)
		switch {
		case err != nil:
			why = append(why, err)
		case !found || c.Better(key, best):
			best, found = key, true
		}
	}
	if found {
		return best, nil
	}
	for _, p := range problems {
		if p.Key == "" { // it could have had the key
			return best, fmt.Errorf("%s: %w", c.Kind, p)
		}
	}
	if len(why) > 0 {
		return best, errors.Join(why...)
	}
	return best, fmt.Errorf("%w for %s in the files", c.None, a)
}
