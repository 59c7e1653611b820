// Package openpgp encrypts messages to people's OpenPGP keys: it reads keys
// from files, finds them where their owners publish them, chooses the one that
// is to be used, and writes PGP/MIME as a stream.
//
// A look-up has three results: a key; ErrNoKey, when it is known that there is
// none; and any other error, when that could not be found out. The third is
// "try again", never "no key", and none of them is "in the clear".
//
// It follows RFC 9580 and 4880 (OpenPGP), 3156 (PGP/MIME), 7929 (OPENPGPKEY)
// and the draft draft-koch-openpgp-webkey-service (WKD). The cryptography is
// ProtonMail/go-crypto's.
package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"tlsonly/internal/addr"
)

// ErrNoKey says that there is no key for an address that could be used, for
// certain. Errors that wrap it say which keys there are and why not.
var ErrNoKey = errors.New("no OpenPGP key")

// Key is somebody's public key, of which one part has been chosen to encrypt.
// It is safe for concurrent use.
type Key struct {
	Address     addr.Address // whose it is, as it was asked for
	Fingerprint string       // of the primary key, in upper-case hexadecimal digits
	Subkey      string       // fingerprint of the key that encrypts
	Algorithm   string       // of the key that encrypts: "RSA 3072", "X25519"
	Created     time.Time    // of the primary key
	Expires     time.Time    // the first of both keys to expire; zero: never
	Source      string       // the file, "wkd https://…" or "dane NAME"
	Octets      []byte       // the whole certificate in binary (RFC 9580, section 10.1)

	at time.Time // when it was chosen
}

// weak is the configuration that says what is too weak: MD5, DSA, ElGamal, RSA
// of less than 2048 bits. A modulus of 2047 bits is made as one of 2048.
func weak(now time.Time) *packet.Config {
	return &packet.Config{MinRSABits: 2047, Time: func() time.Time { return now }}
}

// ParseKey reads one certificate in binary and chooses the key to encrypt to a
// with: the newest that is valid at now, may encrypt messages, and isn't weak.
// The address has to be in a user id that is valid, exactly: case doesn't
// matter. Source is where it comes from.
//
// Errors wrap ErrNoKey: it can't be used, and why.
func ParseKey(octets []byte, a addr.Address, source string, now time.Time) (*Key, error) {
	e, err := readEntity(octets)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoKey, source, err)
	}
	return parsed(e, octets, a, source, now)
}

func parsed(e *pgp.Entity, octets []byte, a addr.Address, source string, now time.Time) (*Key, error) {
	name := fingerprint(e.PrimaryKey)
	fail := func(err error) (*Key, error) {
		return nil, fmt.Errorf("%w: %s: key %s: %w", ErrNoKey, source, name, err)
	}
	if !speaksFor(e, a, now) {
		return fail(fmt.Errorf("no valid user id with the address %s", a))
	}
	key, err := choose(e, now)
	if err != nil {
		return fail(err)
	}
	return &Key{
		Address:     a,
		Fingerprint: name,
		Subkey:      fingerprint(key.PublicKey),
		Algorithm:   algorithm(key.PublicKey),
		Created:     e.PrimaryKey.CreationTime,
		Expires:     expires(key),
		Source:      source,
		Octets:      octets,
		at:          now,
	}, nil
}

// readEntity reads one certificate and nothing else. A secret key is an error.
func readEntity(octets []byte) (e *pgp.Entity, err error) {
	// The library parses what strangers write. A fault of it is a fault of one
	// key, not of the daemon.
	defer func() {
		if p := recover(); p != nil {
			e, err = nil, fmt.Errorf("unreadable: %v", p)
		}
	}()
	r := bytes.NewReader(octets)
	e, err = pgp.ReadEntity(packet.NewReader(r))
	if err != nil {
		return nil, err
	}
	if e.PrivateKey != nil {
		return nil, errors.New("a secret key, which has no business here")
	}
	if r.Len() > 0 {
		return nil, errors.New("more than one key")
	}
	return e, nil
}

// choose returns the newest key of e that may encrypt at now. The library takes
// the one that was signed last; so it is asked for each by itself.
func choose(e *pgp.Entity, now time.Time) (key pgp.Key, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("unreadable: %v", p)
		}
	}()
	config := weak(now)
	alone := *e
	alone.Subkeys = nil
	best, err := alone.EncryptionKeyWithError(now, config)
	found := err == nil // the primary key may encrypt; a subkey is better
	var why []string
	for i := range e.Subkeys {
		alone.Subkeys = e.Subkeys[i : i+1]
		k, err := alone.EncryptionKeyWithError(now, config)
		if err == nil && k.PublicKey == e.Subkeys[i].PublicKey {
			if !found || best.PublicKey == e.PrimaryKey ||
				k.PublicKey.CreationTime.After(best.PublicKey.CreationTime) {
				best, found = k, true
			}
		} else if err != nil {
			if reason := explain(err); !slices.Contains(why, reason) {
				why = append(why, reason)
			}
		}
	}
	switch {
	case found:
		return best, nil
	case len(why) > 0:
		return pgp.Key{}, errors.New(strings.Join(why, "; "))
	}
	return pgp.Key{}, errors.New(explain(err))
}

// explain says in our words what the library found.
func explain(err error) string {
	var selection pgperrors.ErrEncryptionKeySelection
	var pointer *pgperrors.ErrEncryptionKeySelection
	if errors.As(err, &pointer) {
		selection = *pointer
	} else if !errors.As(err, &selection) {
		return err.Error()
	}
	say := func(what string, err error) string {
		switch {
		case errors.Is(err, pgperrors.ErrKeyExpired):
			return what + " has expired"
		case errors.Is(err, pgperrors.ErrKeyRevoked):
			return what + " is revoked"
		}
		return what + ": " + err.Error()
	}
	switch {
	case selection.PrimaryKeyErr != nil:
		return say("it", selection.PrimaryKeyErr)
	case selection.EncSelectionKeyId != nil:
		return say("subkey "+*selection.EncSelectionKeyId, selection.EncSelectionErr)
	}
	return "it has no key that may encrypt"
}

// speaksFor reports whether e has a valid user id with exactly this address.
func speaksFor(e *pgp.Entity, a addr.Address, now time.Time) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	if a.IsNull() {
		return false
	}
	for _, id := range e.Identities {
		if b, ok := userAddress(id.Name); ok && b.Fold() == a.Fold() {
			if _, err := id.Verify(now, weak(now)); err == nil {
				return true
			}
		}
	}
	return false
}

// userAddress returns the address of a user id: what stands in angle brackets
// at its end, or all of it. A user id is free text (RFC 9580, section 5.11).
func userAddress(id string) (addr.Address, bool) {
	text := strings.TrimSpace(id)
	if strings.HasSuffix(text, ">") {
		text = text[strings.LastIndexByte(text, '<')+1 : len(text)-1]
	} else if strings.ContainsAny(text, " <") {
		return addr.Address{}, false
	}
	a, err := addr.ParsePath(text)
	return a, err == nil && !a.IsNull() && !a.Domain.IsZero()
}

// addresses returns the addresses that e's user ids name, valid or not.
func addresses(e *pgp.Entity) []addr.Address {
	var all []addr.Address
	for _, id := range e.Identities {
		if a, ok := userAddress(id.Name); ok {
			all = append(all, a.Fold())
		}
	}
	return all
}

// Identity returns the fingerprint of a certificate's primary key, and whether
// its owner has revoked it.
func Identity(octets []byte, now time.Time) (name string, revoked bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("unreadable: %v", p)
		}
	}()
	e, err := readEntity(octets)
	if err != nil {
		return "", false, err
	}
	return fingerprint(e.PrimaryKey), e.Revoked(now), nil
}

func fingerprint(k *packet.PublicKey) string { return fmt.Sprintf("%X", k.Fingerprint) }

// algorithm names a key's algorithm and size.
func algorithm(k *packet.PublicKey) string {
	bits, _ := k.BitLength()
	curve, _ := k.Curve()
	switch k.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSAEncryptOnly:
		return fmt.Sprintf("RSA %d", bits)
	case packet.PubKeyAlgoECDH:
		return "ECDH " + string(curve)
	case packet.PubKeyAlgoX25519:
		return "X25519"
	case packet.PubKeyAlgoX448:
		return "X448"
	}
	return fmt.Sprintf("algorithm %d", k.PubKeyAlgo)
}

// expires returns when the first of a key and its primary key expires.
func expires(k pgp.Key) time.Time {
	var first time.Time
	for _, part := range []struct {
		key *packet.PublicKey
		sig *packet.Signature
	}{{k.Entity.PrimaryKey, k.PrimarySelfSignature}, {k.PublicKey, k.SelfSignature}} {
		if part.sig == nil || part.sig.KeyLifetimeSecs == nil || *part.sig.KeyLifetimeSecs == 0 {
			continue
		}
		t := part.key.CreationTime.Add(time.Duration(*part.sig.KeyLifetimeSecs) * time.Second)
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}

// split cuts a keyring in binary into its certificates. What can't be read any
// further is an error, beside the certificates before it.
func split(r io.Reader) (keys [][]byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("unreadable: %v", p)
		}
	}()
	const (
		tagSecret = 5
		tagPublic = 6
		tagTrust  = 12 // GnuPG's own notes
	)
	packets := packet.NewOpaqueReader(r)
	for {
		p, err := packets.Next()
		switch {
		case errors.Is(err, io.EOF) && len(keys) == 0:
			return nil, errors.New("no keyring: it has no key")
		case errors.Is(err, io.EOF):
			return keys, nil
		case err != nil:
			return keys, err
		}
		var b bytes.Buffer
		if err := p.Serialize(&b); err != nil {
			return keys, err
		}
		switch {
		case p.Tag == tagTrust:
		case p.Tag == tagPublic || p.Tag == tagSecret:
			keys = append(keys, b.Bytes())
		case len(keys) == 0:
			return nil, fmt.Errorf("no keyring: it begins with packet %d", p.Tag)
		default:
			keys[len(keys)-1] = append(keys[len(keys)-1], b.Bytes()...)
		}
	}
}
