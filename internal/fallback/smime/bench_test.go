package smime

import (
	"crypto/elliptic"
	"io"
	"testing"

	"tlsonly/internal/testnet/sample"
)

// Octets of the message by second: compare with openssl cms -encrypt.
func BenchmarkWriteMIME(b *testing.B) {
	text := sample.Large(25 << 20).Text
	c := issue(b, ecKey(b, elliptic.P256())).use(b)
	for name, o := range map[string]Options{"CBC": {}, "GCM": {GCM: true}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if err := c.WriteMIME(io.Discard, o, put(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
