package smime

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 3394, sections 4.3 and 4.6.
func TestWrapKey(t *testing.T) {
	kek := unhex(t, "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F")
	for key, want := range map[string]string{
		"00112233445566778899AABBCCDDEEFF":                                 "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7",
		"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F": "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
	} {
		if got, err := wrapKey(kek, unhex(t, key)); err != nil || !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("%s is wrapped as %X, %v", key, got, err)
		}
	}
	for _, n := range []int{0, 8, 17} {
		if _, err := wrapKey(kek, make([]byte, n)); err == nil {
			t.Errorf("%d octets are wrapped", n)
		}
	}
	if _, err := wrapKey(kek[:5], make([]byte, 32)); err == nil {
		t.Error("a key of 5 octets wraps")
	}
}

// The first vector of NIST's for ANSI X9.63 with SHA-256.
func TestX963KDF(t *testing.T) {
	z := unhex(t, "96c05619d56c328ab95fe84b18264b08725b85e33fd34f08")
	if got := x963KDF(sha256.New, z, nil, 16); !bytes.Equal(got, unhex(t, "443024c3dae66b95e6f5670601558f71")) {
		t.Errorf("derived %x", got)
	}
	if got := x963KDF(sha256.New, z, nil, 100); len(got) != 100 || !bytes.Equal(got[:16], x963KDF(sha256.New, z, nil, 16)) {
		t.Errorf("derived %x", got)
	}
}

// A stream in any pieces is what the standard library makes of it at once.
func TestGCM(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 31, 32, 100, gcmChunk - 1, gcmChunk, gcmChunk + 1, gcmChunk + 16, gcmChunk + 17, 3*gcmChunk + 5} {
		key, nonce, text := make([]byte, 32), make([]byte, 12), make([]byte, n)
		rand.Read(key)
		rand.Read(nonce)
		rand.Read(text)
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		want := aead.Seal(nil, nonce, text, nil)
		for _, piece := range []int{1, 13, 16, 1000, gcmChunk, n + 1} {
			if piece == 1 && n > 1000 {
				continue
			}
			var out bytes.Buffer
			g, err := newGCM(&out, key, nonce)
			if err != nil {
				t.Fatal(err)
			}
			for rest := text; len(rest) > 0; {
				part := rest[:min(piece, len(rest))]
				rest = rest[len(part):]
				if _, err := g.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			out.Write(g.sum())
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("%d octets in pieces of %d differ", n, piece)
			}
		}
	}
	g, err := newGCM(&bytes.Buffer{}, make([]byte, 32), make([]byte, 12))
	if err != nil {
		t.Fatal(err)
	}
	g.total = maxGCM
	if _, err := g.Write([]byte{1}); err == nil {
		t.Error("longer than GCM may be")
	}
}

// NIST SP 800-38D's own test case 3 of the GCM submission: one block and more.
func TestElement(t *testing.T) {
	x := load(unhex(t, "66e94bd4ef8a2c3b884cfa59ca342b2e"))
	one := element{hi: 1 << 63}
	if x.times(one) != x || one.times(x) != x || x.times(x.inverse()) != one || (element{}).inverse() != (element{}) {
		t.Error("no field")
	}
	// GHASH of test case 2: 0388dace60b6a392f328c2b971b2fe78 * H.
	var got [16]byte
	load(unhex(t, "0388dace60b6a392f328c2b971b2fe78")).times(x).store(got[:])
	if want := unhex(t, "5e2ec746917062882c85b0685353deb7"); !bytes.Equal(got[:], want) {
		t.Errorf("product %x, want %x", got, want)
	}
}

func FuzzGCM(f *testing.F) {
	f.Add([]byte("hello"), uint16(3))
	f.Add(make([]byte, 100), uint16(16))
	f.Fuzz(func(t *testing.T, text []byte, piece uint16) {
		key, nonce := sha256.Sum256(text), make([]byte, 12)
		block, _ := aes.NewCipher(key[:])
		aead, _ := cipher.NewGCM(block)
		var out bytes.Buffer
		g, err := newGCM(&out, key[:], nonce)
		if err != nil {
			t.Fatal(err)
		}
		for rest := text; len(rest) > 0; {
			part := rest[:min(int(piece)+1, len(rest))]
			rest = rest[len(part):]
			g.Write(part)
		}
		if got := append(out.Bytes(), g.sum()...); !bytes.Equal(got, aead.Seal(nil, nonce, text, nil)) {
			t.Error("differs")
		}
	})
}

// unCBC decrypts and takes the padding off.
func unCBC(t testing.TB, key, iv, text []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil || len(text) == 0 || len(text)%16 != 0 {
		t.Fatalf("%v, %d octets", err, len(text))
	}
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(text, text)
	pad := int(text[len(text)-1])
	if pad < 1 || pad > 16 {
		t.Fatalf("padding of %d octets", pad)
	}
	for _, c := range text[len(text)-pad:] {
		if int(c) != pad {
			t.Fatal("padding differs")
		}
	}
	return text[:len(text)-pad]
}

func pieceWise(text []byte, piece int) func(io.Writer) error {
	return func(w io.Writer) error {
		for rest := text; len(rest) > 0; {
			part := rest[:min(piece, len(rest))]
			rest = rest[len(part):]
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	}
}
