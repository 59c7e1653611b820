package openpgp

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/keyfile"
)

// Store holds the keys of files, each in binary. It is safe for concurrent use.
type Store struct{ *keyfile.Store[[]byte] }

// OpenStore returns a Store of these files and folders, read (keyfile.Open).
func OpenStore(paths []string) *Store {
	return &Store{keyfile.Open(paths, func(text []byte, add func([]byte, []addr.Address), bad func(string, error)) {
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
			add(octets, named)
		}
	})}
}

// Lookup returns the key to encrypt to a with at now: of several the one that
// was made last and can be used.
//
// Errors: one that wraps ErrNoKey when there is none, with the reasons of those
// that can't be used; another one when a file couldn't be read, which could
// have had it.
func (s *Store) Lookup(a addr.Address, now time.Time) (*Key, error) {
	return keyfile.Choose(s.Store, a, keyfile.Choice[[]byte, *Key]{
		Kind:   "OpenPGP keys",
		None:   ErrNoKey,
		Use:    func(e keyfile.Entry[[]byte]) (*Key, error) { return ParseKey(e.Key, a, e.File, now) },
		Better: func(x, y *Key) bool { return x.Created.After(y.Created) },
	})
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
