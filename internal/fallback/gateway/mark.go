package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"tlsonly/internal/fallback/message"
)

// The mark of a copy is a header field with a MAC of its content. A copy comes
// back to the gateway where the MTA forgets how it was to leave (postsuper -r in
// Postfix); it is handed over again then, as it is.
//
// SECURITY: the MAC is over the content, so no other message passes as a copy,
// whoever has seen one.
const markField = "TLS-Only-Copy"

// marked returns the mark, a field with its line end, for a message that content
// is of.
func (i *Identity) marked(content io.Reader) (string, error) {
	sum, err := i.sum(content)
	if err != nil {
		return "", err
	}
	return markField + ": " + sum + "\r\n", nil
}

// knows reports whether a message is a copy of the gateway's.
func (i *Identity) knows(m *message.Message) (bool, error) {
	fields := m.All(markField)
	if len(fields) != 1 {
		return false, nil
	}
	sum, err := i.sum(m.Body)
	return err == nil && hmac.Equal([]byte(sum), []byte(fields[0].Value())), err
}

func (i *Identity) sum(content io.Reader) (string, error) {
	mac := hmac.New(sha256.New, i.derive("copy"))
	if _, err := io.Copy(mac, content); err != nil {
		return "", err
	}
	return hex.EncodeToString(mac.Sum(nil)), nil
}
