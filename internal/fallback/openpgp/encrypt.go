package openpgp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Options says how a message is encrypted. The zero value is what every client
// reads.
type Options struct {
	// Modern uses SEIPD version 2 (RFC 9580, section 5.13.2) where the key says
	// that its owner reads it. GnuPG 2.2 and RNP 0.16 don't, though keys that they
	// get from newer programs say so.
	Modern bool
	// Signer signs the message inside; nil for none.
	Signer *Signer
}

// Encrypt writes the message that write writes, encrypted to the key, as an
// OpenPGP message in binary: AES-256 where the key takes it, compressed by ZLIB
// where it prefers that. It works as a stream and keeps nothing.
//
// Errors are those of write and dst, and of a key that can't be used any more.
// What was written before one is no message and must not be sent.
func (k *Key) Encrypt(dst io.Writer, o Options, write func(io.Writer) error) error {
	e, err := readEntity(k.Octets)
	if err != nil {
		return err
	}
	chosen, err := choose(e, k.at)
	if err != nil {
		return err
	}
	if fingerprint(chosen.PublicKey) != k.Subkey {
		return fmt.Errorf("key %s: another subkey was chosen before", k.Fingerprint)
	}
	// The library chooses by another rule: it gets no choice.
	var subkeys []pgp.Subkey
	for _, s := range e.Subkeys {
		if s.PublicKey == chosen.PublicKey {
			subkeys = append(subkeys, s)
		}
	}
	e.Subkeys = subkeys
	if !o.Modern && e.PrimaryKey.Version < 6 {
		for _, id := range e.Identities {
			for _, s := range id.SelfCertifications {
				s.Packet.SEIPDv2 = false
			}
		}
		for _, s := range e.DirectSignatures {
			s.Packet.SEIPDv2 = false
		}
	}
	config := weak(k.at)
	config.DefaultCipher = packet.CipherAES256
	config.DefaultHash = crypto.SHA256
	// A client writes base64 into the message, and the armor writes it again: ZLIB
	// takes what grows away, and its first level is as fast as the rest.
	config.DefaultCompressionAlgo = packet.CompressionZLIB
	config.CompressionConfig = &packet.CompressionConfig{Level: 1}
	if o.Modern {
		config.AEADConfig = &packet.AEADConfig{}
	}
	params := &pgp.EncryptParams{Config: config, EncryptionTime: &k.at, Hints: &pgp.FileHints{IsUTF8: false}}
	if o.Signer != nil {
		params.Signers = []*pgp.Entity{o.Signer.entity}
		config.Time = time.Now // a signature's time is when it is made
	}
	plain, err := pgp.EncryptWithParams(dst, []*pgp.Entity{e}, nil, params)
	if err != nil {
		return fmt.Errorf("key %s: %w", k.Fingerprint, err)
	}
	if err := write(plain); err != nil {
		return err
	}
	return plain.Close()
}

// WriteMIME writes what comes behind the outside of an encrypted message: the
// MIME fields, the empty line and the multipart/encrypted (RFC 3156, section 4)
// in short lines with CRLF. The entity inside is what write
// writes. Errors are as with Encrypt.
func (k *Key) WriteMIME(dst io.Writer, o Options, write func(io.Writer) error) error {
	var random [16]byte
	rand.Read(random[:]) // never fails
	boundary := "=_" + hex.EncodeToString(random[:])
	_, err := io.WriteString(dst, "MIME-Version: 1.0\r\n"+
		"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n"+
		" boundary=\""+boundary+"\"\r\n"+
		"\r\n"+
		"--"+boundary+"\r\n"+
		"Content-Type: application/pgp-encrypted\r\n"+
		"Content-Description: PGP/MIME version identification\r\n"+
		"\r\n"+
		"Version: 1\r\n"+
		"\r\n"+
		"--"+boundary+"\r\n"+
		"Content-Type: application/octet-stream; name=\"encrypted.asc\"\r\n"+
		"Content-Description: OpenPGP encrypted message\r\n"+
		"Content-Disposition: inline; filename=\"encrypted.asc\"\r\n"+
		"\r\n")
	if err != nil {
		return err
	}
	armored, err := newArmor(dst)
	if err != nil {
		return err
	}
	if err := k.Encrypt(armored, o, write); err != nil {
		return err
	}
	if err := armored.close(); err != nil {
		return err
	}
	_, err = io.WriteString(dst, "\r\n--"+boundary+"--\r\n")
	return err
}

// Signer is the key of the site that signs what is encrypted.
type Signer struct {
	Fingerprint string
	entity      *pgp.Entity
}

// ReadSigner reads a secret key, armored or binary, from a file. It must be
// alone there, without a passphrase, and able to sign now.
func ReadSigner(file string) (*Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Signer, error) { return nil, fmt.Errorf("%s: %w", file, err) }
	var keys pgp.EntityList
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN")) {
		keys, err = pgp.ReadArmoredKeyRing(bytes.NewReader(text))
	} else {
		keys, err = pgp.ReadKeyRing(bytes.NewReader(text))
	}
	switch {
	case err != nil:
		return fail(err)
	case len(keys) != 1:
		return fail(fmt.Errorf("%d keys, want one", len(keys)))
	case keys[0].PrivateKey == nil:
		return fail(errors.New("a public key: a secret key is needed to sign"))
	}
	now := time.Now()
	key, ok := keys[0].SigningKey(now, weak(now))
	switch {
	case !ok:
		return fail(errors.New("no key that may sign now"))
	case key.PrivateKey == nil:
		return fail(errors.New("the secret part of the key that signs is missing"))
	case key.PrivateKey.Encrypted:
		return fail(errors.New("a passphrase protects it: write it without one, readable by the daemon only"))
	}
	return &Signer{Fingerprint: fingerprint(keys[0].PrimaryKey), entity: keys[0]}, nil
}
