package openpgp

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"tlsonly/internal/addr"
)

// maxFile is the size, in octets, up to which a file of keys is read: some ten
// thousand keys.
const maxFile = 64 << 20

// Problem is what is wrong with a file of keys, or with one key of it.
type Problem struct {
	File string
	Key  string // fingerprint or number in the file; "" for the whole file
	Err  error
}

func (p Problem) Error() string {
	if p.Key != "" {
		return fmt.Sprintf("%s: key %s: %v", p.File, p.Key, p.Err)
	}
	return fmt.Sprintf("%s: %v", p.File, p.Err)
}

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Err }

// Store holds the keys of files: those that an administrator has put there. It
// is safe for concurrent use.
type Store struct {
	paths []string

	mu       sync.RWMutex
	keys     map[addr.Address][]stored
	count    int
	problems []Problem
	damaged  bool // what isn't in keys may be in a file that couldn't be read
}

// stored is a certificate that was readable.
type stored struct {
	octets []byte
	file   string
}

// OpenStore returns a Store of these files and folders, read. A folder's files
// are all read but those whose names begin with a dot or end in "~". What is
// wrong is told by Problems: it isn't the others' fault.
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
	count, damaged := 0, false
	bad := func(file string, err error) {
		problems = append(problems, Problem{File: file, Err: err})
		damaged = true
	}
	for _, path := range s.paths {
		files, err := list(path)
		if err != nil {
			bad(path, err)
		}
		for _, file := range files {
			certificates, err := readFile(file)
			if err != nil {
				bad(file, err)
			}
			for i, octets := range certificates {
				e, err := readEntity(octets)
				if err != nil {
					problems = append(problems, Problem{File: file, Key: fmt.Sprintf("number %d", i+1), Err: err})
					continue
				}
				named := addresses(e)
				if len(named) == 0 {
					problems = append(problems, Problem{file, fingerprint(e.PrimaryKey), errors.New("no user id with an address")})
					continue
				}
				count++
				for _, a := range named {
					keys[a] = append(keys[a], stored{octets, file})
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.count, s.problems, s.damaged = keys, count, problems, damaged
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

// Lookup returns the key to encrypt to a with at now: of several the one that
// was made last and can be used.
//
// Errors: one that wraps ErrNoKey when there is none, with the reasons of those
// that can't be used; another one when a file couldn't be read, which could
// have had it.
func (s *Store) Lookup(a addr.Address, now time.Time) (*Key, error) {
	s.mu.RLock()
	candidates, problems, damaged := s.keys[a.Fold()], s.problems, s.damaged
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
	switch {
	case best != nil:
		return best, nil
	case damaged:
		for _, p := range problems {
			if p.Key == "" {
				return nil, fmt.Errorf("OpenPGP keys: %w", p)
			}
		}
	case len(why) > 0:
		return nil, errors.Join(why...)
	}
	return nil, fmt.Errorf("%w for %s in the files", ErrNoKey, a)
}

// list returns the files at path, sorted. Path itself must be there.
func list(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	var files []string
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue
		}
		file := filepath.Join(path, name)
		info, statErr := os.Stat(file)
		if errors.Is(statErr, fs.ErrNotExist) {
			continue // gone since
		}
		if statErr != nil {
			err = errors.Join(err, statErr)
		} else if info.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	return files, err
}

// readFile returns the certificates of a file: binary, or any number of armored
// blocks. What it can't read is an error, beside the others.
func readFile(file string) ([][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile:
		return nil, fmt.Errorf("longer than %d octets", maxFile)
	}
	return ReadKeys(text)
}

// ReadKeys cuts a keyring into certificates in binary. It may be binary, or any
// number of armored blocks with text between. What can't be read is an error,
// beside the certificates that can.
func ReadKeys(text []byte) ([][]byte, error) {
	const begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
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
