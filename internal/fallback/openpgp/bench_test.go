package openpgp

import (
	"io"
	"testing"

	"tlsonly/internal/testnet/sample"
)

// Octets of the message by second: compare with gpg --encrypt.
func BenchmarkWriteMIME(b *testing.B) {
	text := sample.Large(25 << 20).Text
	for name, config := range configs() {
		key := chosen(b, entity(b, "bob@plain.example", config))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				err := key.WriteMIME(io.Discard, Options{}, func(w io.Writer) error { _, err := w.Write(text); return err })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
