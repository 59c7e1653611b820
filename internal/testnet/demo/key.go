package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"tlsonly/internal/testnet/rig"
)

// pgpBegin is where the encrypted part of a message begins.
var pgpBegin = []byte("-----BEGIN PGP MESSAGE-----")

// keyOwner is a recipient who has an OpenPGP key, in gpg's hands.
type keyOwner struct {
	home      string // gpg's, with the secret key
	published string // a folder with the public key
}

// newKeyOwner has gpg make a key for an address.
func newKeyOwner(ctx context.Context, address string) (*keyOwner, error) {
	dir, err := rig.TempDir()
	if err != nil {
		return nil, err
	}
	k := &keyOwner{home: filepath.Join(dir, "gnupg"), published: filepath.Join(dir, "keys")}
	if err := errors.Join(os.Mkdir(k.home, 0o700), os.Mkdir(k.published, 0o755)); err != nil {
		return nil, err
	}
	_, err = k.gpg(ctx, nil, "--passphrase", "", "--quick-generate-key", address, "future-default", "default", "never")
	if err != nil {
		return nil, err
	}
	public, err := k.gpg(ctx, nil, "--armor", "--export", address)
	if err != nil {
		return nil, err
	}
	return k, os.WriteFile(filepath.Join(k.published, address+".asc"), public, 0o644)
}

// gpg runs gpg on what stdin has and returns what it prints.
func (k *keyOwner) gpg(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "gpg", append([]string{"--homedir", k.home, "--batch", "--quiet", "--pinentry-mode", "loopback"}, args...)...)
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gpg: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return out, nil
}

// opens says whether gpg finds inside a message what was sent with this subject,
// and whether nothing of that stands outside.
func (k *keyOwner) opens(ctx context.Context, message []byte, subject string) string {
	if bytes.Contains(message, []byte("Hello.")) || bytes.Contains(message, []byte(subject)) {
		return "IN THE CLEAR"
	}
	inside, err := k.gpg(ctx, message[bytes.Index(message, pgpBegin):], "--decrypt")
	switch {
	case err != nil:
		return err.Error()
	case !bytes.Contains(inside, []byte("Hello.")) || !bytes.Contains(inside, []byte(subject)):
		return "encrypted, and another one"
	}
	return "encrypted; gpg opens it"
}

// end ends what gpg started.
func (k *keyOwner) end() error {
	return exec.Command("gpgconf", "--homedir", k.home, "--kill", "all").Run()
}
