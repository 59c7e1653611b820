package main

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
)

// openJudge lets everything go as it is.
type openJudge struct{}

func (openJudge) Judge(context.Context, addr.Address, addr.Address) (fallback.Way, error) {
	return fallback.Way{Action: fallback.Open}, nil
}

// noCopies remembers nothing.
type noCopies struct{}

func (noCopies) Handed(context.Context, string) (bool, error) { return false, nil }
func (noCopies) PutHanded(context.Context, string) error      { return nil }

// armored returns what is in the first armor of a text.
func armored(t *testing.T, text []byte) io.Reader {
	t.Helper()
	b, err := armor.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return b.Body
}
