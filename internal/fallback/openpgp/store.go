package openpgp

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/keyfile"
)

// Problem is what is wrong with a file of keys, or with one key of it.
type Problem = keyfile.Problem

// Store holds the keys of files: those that an administrator has put there. It
// is safe for concurrent use.
type Store struct {
	paths []string

	mu       sync.RWMutex
	keys     map[addr.Address][]stored
	count    int
	problems []Problem
}

// stored is a certificate that was readable.
type stored struct {
	octets []byte
	file   string
}

// OpenStore returns a Store of these files and folders, read (keyfile.Each).
// What is wrong is told by Problems: it isn't the others' fault.
func OpenStore(paths []string) *Store {
	s := &Store{paths: paths}
	s.Reload()
	return s
}

// Reload reads all files anew, puts what they have in place of what they had,
// and returns what is wrong with them.
func (s *Store) Reload() []Problem {
	keys := make(map[addr.Address][]stored)
	var problems []Problem
	count := 0
	unread := keyfile.Each(s.paths, func(file string, text []byte) {
		bad := func(key string, err error) {
			problems = append(problems, Problem{File: file, Key: key, Err: err})
		}
		certificates, err := ReadKeys(text)
		if err != nil {
			bad("", err)
		}
		for i, octets := range certificates {
			e, err := readEntity(octets)
			if err != nil {
				bad(fmt.Sprintf("key number %d", i+1), err)
				continue
			}
			named := addresses(e)
			if len(named) == 0 {
				bad("key "+fingerprint(e.PrimaryKey), errors.New("no user id with an address"))
				continue
			}
			count++
			for _, a := range named {
				keys[a] = append(keys[a], stored{octets, file})
			}
		}
	})
	problems = append(problems, unread...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.count, s.problems = keys, count, problems
	return problems
}

// Problems returns what was wrong when the files were last read.
func (s *Store) Problems() []Problem {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.problems)
}

// Len returns how many keys there are, whether or not they can be used.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

// Addresses returns the addresses for which there are keys, sorted.
func (s *Store) Addresses() []addr.Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]addr.Address, 0, len(s.keys))
	for a := range s.keys {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b addr.Address) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// Has reports whether the files have any key for a, also one that can't be
// used.
func (s *Store) Has(a addr.Address) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.keys[a.Fold()]) > 0
}

// Lookup returns the key to encrypt to a with at now: of several the one that
// was made last and can be used.
//
// Errors: one that wraps ErrNoKey when there is none, with the reasons of those
// that can't be used; another one when a file couldn't be read, which could
// have had it.
func (s *Store) Lookup(a addr.Address, now time.Time) (*Key, error) {
	s.mu.RLock()
	candidates, problems := s.keys[a.Fold()], s.problems
	s.mu.RUnlock()
	var best *Key
	var why []error
	for _, c := range candidates {
		key, err := ParseKey(c.octets, a, c.file, now)
		switch {
		case err != nil:
			why = append(why, err)
		case best == nil || key.Created.After(best.Created):
			best = key
		}
	}
	if best != nil {
		return best, nil
	}
	for _, p := range problems {
		if p.Key == "" { // it could have had the key
			return nil, fmt.Errorf("OpenPGP keys: %w", p)
		}
	}
	if len(why) > 0 {
		return nil, errors.Join(why...)
	}
	return nil, fmt.Errorf("%w for %s in the files", ErrNoKey, a)
}

// ReadKeys cuts a keyring into certificates in binary. It may be binary, or any
// number of armored blocks with text between. What can't be read is an error,
// beside the certificates that can.
func ReadKeys(text []byte) ([][]byte, error) {
	const begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // an editor's mark of UTF-8
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return nil, errors.New("empty")
	case len(text) >= 12 && string(text[8:12]) == "KBXf":
		return nil, errors.New("a keybox of GnuPG: write its keys with \"gpg --export\"")
	case text[0]&0x80 != 0:
		return split(bytes.NewReader(text))
	case bytes.Contains(text, []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----")):
		return nil, errors.New("a secret key, which has no business here")
	}
	var all [][]byte
	var faults []error
	for number := 1; ; number++ {
		_, rest, found := bytes.Cut(text, []byte(begin))
		if !found {
			break
		}
		inside, after, closed := bytes.Cut(rest, []byte(end))
		if !closed {
			faults = append(faults, fmt.Errorf("block %d has no end", number))
			break
		}
		block, err := armor.Decode(strings.NewReader(begin + string(inside) + end + "\n"))
		if err == nil {
			var keys [][]byte
			keys, err = split(block.Body)
			all = append(all, keys...)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("block %d: %w", number, err))
		}
		text = after
	}
	if len(all) == 0 && len(faults) == 0 {
		if block, _ := pem.Decode(text); block != nil {
			return nil, fmt.Errorf("no OpenPGP key, but %s", block.Type)
		}
		return nil, errors.New("no OpenPGP key")
	}
	return all, errors.Join(faults...)
}
