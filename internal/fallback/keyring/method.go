package keyring

import (
	"context"
	"errors"
	"io"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/message"
)

// method encrypts to the keys of a Ring.
type method struct {
	ring    *Ring
	subject string // of the outside, "" for the default
	// writeMIME writes to w what it makes of the inside for a key.
	writeMIME func(w io.Writer, found Found, inside func(io.Writer) error) error
}

func (m method) Name() string { return string(m.ring.Method()) }

func (m method) Known(ctx context.Context, _, recipient addr.Address) (fallback.State, error) {
	_, state, err := m.ring.Lookup(ctx, recipient)
	return state, err
}

// errNoLonger says that a method that could be had can't be any more.
var errNoLonger = errors.New("no key can be had any more")

// Encrypt writes a message anew: its outside, then the encrypted inside.
func (m method) Encrypt(ctx context.Context, w io.Writer, text io.Reader, c fallback.Copy) error {
	found, state, err := m.ring.Lookup(ctx, c.Recipient)
	if state != fallback.Certain {
		return errors.Join(errNoLonger, err)
	}
	original, err := message.Read(text)
	if err != nil {
		return err
	}
	wrapping := message.Wrapping{Subject: m.subject, MessageID: c.MessageID, Extra: c.Extra}
	if err := original.WriteOutside(w, wrapping); err != nil {
		return err
	}
	return m.writeMIME(w, found, func(inside io.Writer) error { return original.WriteInside(inside, wrapping) })
}
