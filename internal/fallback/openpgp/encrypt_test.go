package openpgp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"tlsonly/internal/fallback/message"
	"tlsonly/internal/testnet/leak"
	"tlsonly/internal/testnet/oracle"
	"tlsonly/internal/testnet/sample"
)

func say(text string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
}

// chosen is the key of e, chosen to encrypt to its address.
func chosen(t testing.TB, e *pgp.Entity) *Key {
	t.Helper()
	key, err := ParseKey(public(t, e), bob, "a file", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// block of a message that WriteMIME has written.
func armorOf(t testing.TB, mime []byte) []byte {
	t.Helper()
	_, rest, found := bytes.Cut(mime, []byte("-----BEGIN PGP MESSAGE-----"))
	inside, _, closed := bytes.Cut(rest, []byte("-----END PGP MESSAGE-----"))
	if !found || !closed {
		t.Fatalf("no armor in\n%.1000s", mime)
	}
	return []byte("-----BEGIN PGP MESSAGE-----" + string(inside) + "-----END PGP MESSAGE-----\r\n")
}

// packets names the packets of a message: what can be seen without the key.
func packets(t testing.TB, armored []byte) []uint8 {
	t.Helper()
	b, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		t.Fatal(err)
	}
	var tags []uint8
	for r := packet.NewOpaqueReader(b.Body); ; {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return tags
		}
		if err != nil {
			t.Fatal(err)
		}
		tags = append(tags, p.Tag)
		if p.Tag == 1 || p.Tag == 18 {
			tags = append(tags, p.Contents[0]) // its version
		}
	}
}

// configs are the kinds of keys that people have.
func configs() map[string]*packet.Config {
	rsa := made(time.Now().Add(-day))
	rsa.Algorithm, rsa.RSABits = packet.PubKeyAlgoRSA, 3072
	p256 := made(time.Now().Add(-day))
	p256.Algorithm, p256.Curve = packet.PubKeyAlgoECDSA, packet.CurveNistP256
	modern := made(time.Now().Add(-day)) // says that it takes SEIPDv2
	modern.AEADConfig = &packet.AEADConfig{DefaultMode: packet.AEADModeOCB}
	plain := made(time.Now().Add(-day)) // prefers nothing
	plain.DefaultCipher, plain.DefaultCompressionAlgo = packet.CipherAES128, packet.CompressionNone
	return map[string]*packet.Config{"curve25519": made(time.Now().Add(-day)), "rsa3072": rsa, "p256": p256, "modern": modern, "plain": plain}
}

// Every program opens what is encrypted to every kind of key, octet for octet;
// with a flipped octet none does.
func TestOracles(t *testing.T) {
	siteConfig := made(time.Now().Add(-day))
	site := entity(t, "gateway@clinic.example", siteConfig)
	file := filepath.Join(t.TempDir(), "sign.asc")
	write(t, file, armored(t, "PGP PRIVATE KEY BLOCK", secret(t, site)))
	signer, err := ReadSigner(file)
	if err != nil {
		t.Fatal(err)
	}
	signerKey := armored(t, block, public(t, site))
	inside := make([]byte, 20_000)
	rand.Read(inside)
	inside = append([]byte("Content-Type: text/plain\r\n\r\nHello \x00\xff\n\r\n.\r\nFrom x\r\n"), inside...)
	for name, config := range configs() {
		e := entity(t, "bob@plain.example", config)
		key := chosen(t, e)
		secretKey := armored(t, "PGP PRIVATE KEY BLOCK", secret(t, e))
		for _, signed := range []bool{false, true} {
			if signed && name != "curve25519" && name != "rsa3072" {
				continue // the key encrypted to doesn't matter to the signature
			}
			o := Options{}
			kind, signedBy := name, []byte(nil)
			if signed {
				o.Signer, kind, signedBy = signer, name+", signed", signerKey
			}
			var out bytes.Buffer
			if err := key.WriteMIME(&out, o, func(w io.Writer) error { _, err := w.Write(inside); return err }); err != nil {
				t.Fatal(err)
			}
			text := armorOf(t, out.Bytes())
			// PKESK version 3, SEIPD version 1.
			if got := packets(t, text); !slices.Equal(got, []uint8{1, 3, 18, 1}) {
				t.Errorf("%s: packets %v", kind, got)
			}
			for _, reader := range oracle.PGP() {
				t.Run(kind+"/"+reader.Name, func(t *testing.T) {
					reader.Need(t)
					if reader.Name == "pgpy" && name == "plain" {
						t.Skip("PGPy 0.6 takes no AES-128 key that RFC 6637, section 8, pads to 40 octets")
					}
					got, err := reader.Open(secretKey, signedBy, text)
					if err != nil || !bytes.Equal(got, inside) {
						t.Errorf("%d octets of %d, %v", len(got), len(inside), err)
					}
					if name != "curve25519" {
						return
					}
					if got, err := reader.Open(secretKey, nil, damaged(t, text)); err == nil {
						t.Errorf("opened with a flipped octet: %d octets", len(got))
					}
					if signed {
						other := armored(t, block, public(t, entity(t, "gateway@clinic.example", siteConfig)))
						if _, err := reader.Open(secretKey, other, text); err == nil {
							t.Error("another's signature is taken for good")
						}
					}
				})
			}
		}
	}
}

// damaged flips an octet near the end of a message.
func damaged(t *testing.T, text []byte) []byte {
	t.Helper()
	b, err := armor.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	octets, err := io.ReadAll(b.Body)
	if err != nil {
		t.Fatal(err)
	}
	octets[len(octets)-40] ^= 1
	return armored(t, "PGP MESSAGE", octets)
}

// Each sample arrives whole at gpg, is seen by nobody on the way, and counts as
// encrypted.
func TestSamples(t *testing.T) {
	gpg := oracle.PGP()[0]
	e := entity(t, "bob@plain.example", made(time.Now().Add(-day)))
	key := chosen(t, e)
	secretKey := armored(t, "PGP PRIVATE KEY BLOCK", secret(t, e))
	for _, s := range append(sample.All(), sample.Large(300_000)) {
		t.Run(s.Name, func(t *testing.T) {
			m, err := message.Read(bytes.NewReader(s.Text))
			if err != nil {
				t.Fatal(err)
			}
			var wire, inside bytes.Buffer
			if err := m.WriteOutside(&wire, message.Wrapping{}); err != nil {
				t.Fatal(err)
			}
			err = key.WriteMIME(&wire, Options{}, func(w io.Writer) error {
				return m.WriteInside(io.MultiWriter(w, &inside), message.Wrapping{})
			})
			if err != nil {
				t.Fatal(err)
			}
			var secrets [][]byte
			for _, secret := range s.Secrets {
				secrets = append(secrets, []byte(secret))
			}
			if found := leak.NewSize(8, secrets...).Find(wire.Bytes()); found != nil {
				t.Errorf("on the wire: %v", found)
			}
			if len(secrets) > 0 && leak.NewSize(8, secrets...).Find(s.Text) == nil {
				t.Error("the oracle is blind")
			}
			if p, err := message.Inspect(bytes.NewReader(wire.Bytes())); p != message.OpenPGP || err != nil {
				t.Errorf("isn't taken to be encrypted: %q, %v", p, err)
			}
			for line := range bytes.Lines(wire.Bytes()) {
				if !bytes.HasSuffix(line, []byte("\r\n")) {
					t.Fatalf("line %q", line)
				}
			}
			if gpg.Missing() != "" {
				t.Skip("gpg isn't there to open it")
			}
			got, err := gpg.Open(secretKey, nil, armorOf(t, wire.Bytes()))
			if err != nil || !bytes.Equal(got, inside.Bytes()) {
				t.Errorf("gpg has %d octets of %d, %v", len(got), inside.Len(), err)
			}
		})
	}
}

// open decrypts with the library: what ciphers and packets are inside.
func open(t *testing.T, e *pgp.Entity, message []byte) (*pgp.MessageDetails, []byte) {
	t.Helper()
	md, err := pgp.ReadMessage(bytes.NewReader(message), pgp.EntityList{e}, nil, &packet.Config{CacheSessionKey: true})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(md.UnverifiedBody)
	if err != nil {
		t.Fatal(err)
	}
	return md, text
}

// AES-256 where the key takes it; SEIPDv2 only if asked; ZLIB where preferred.
func TestChoices(t *testing.T) {
	text := strings.Repeat("The same words again. ", 10_000)
	for name, tt := range map[string]struct {
		config  string
		modern  bool
		cipher  packet.CipherFunction
		seipd   uint8
		smaller bool
	}{
		"curve25519":           {"curve25519", false, packet.CipherAES256, 1, true},
		"nothing preferred":    {"plain", false, packet.CipherAES128, 1, false},
		"SEIPDv2 not asked":    {"modern", false, packet.CipherAES256, 1, true},
		"SEIPDv2 asked":        {"modern", true, packet.CipherAES256, 2, true},
		"asked, not supported": {"curve25519", true, packet.CipherAES256, 1, true},
	} {
		e := entity(t, "bob@plain.example", configs()[tt.config])
		var out bytes.Buffer
		if err := chosen(t, e).Encrypt(&out, Options{Modern: tt.modern}, say(text)); err != nil {
			t.Fatal(err)
		}
		md, got := open(t, e, out.Bytes())
		if string(got) != text {
			t.Errorf("%s: %d octets", name, len(got))
		}
		tags := packets(t, armored(t, "PGP MESSAGE", out.Bytes()))
		if tags[len(tags)-1] != tt.seipd {
			t.Errorf("%s: packets %v", name, tags)
		}
		if len(md.SessionKey) != tt.cipher.KeySize() {
			t.Errorf("%s: a session key of %d octets", name, len(md.SessionKey))
		}
		if smaller := out.Len() < len(text)/10; smaller != tt.smaller {
			t.Errorf("%s: %d octets of %d", name, out.Len(), len(text))
		}
	}
}

// What fails in between is an error, and nothing that was written can be
// opened.
func TestEncryptErrors(t *testing.T) {
	e := entity(t, "bob@plain.example", made(time.Now().Add(-day)))
	key := chosen(t, e)
	broken := errors.New("broken")
	var out bytes.Buffer
	err := key.WriteMIME(&out, Options{}, func(w io.Writer) error {
		w.Write(make([]byte, 100_000))
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("a message that breaks off: %v", err)
	}
	if bytes.Contains(out.Bytes(), []byte("-----END")) {
		t.Error("what broke off looks whole")
	}
	for n := range 5 {
		if err := key.WriteMIME(&full{left: n * 1000}, Options{}, func(w io.Writer) error {
			_, err := w.Write(make([]byte, 1<<20))
			return err
		}); !errors.Is(err, errFull) && n < 2 {
			t.Errorf("a full disk after %d octets: %v", n*1000, err)
		}
	}
	if err := (&Key{Octets: []byte("x")}).Encrypt(io.Discard, Options{}, say("x")); err == nil {
		t.Error("no key, but no error")
	}
	other := *key
	other.Subkey = "0000"
	if err := other.Encrypt(io.Discard, Options{}, say("x")); err == nil || !strings.Contains(err.Error(), "another subkey") {
		t.Errorf("another subkey: %v", err)
	}
}

var errFull = errors.New("full")

type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// 16 MB cost no more memory than the buffers do.
func TestEncryptStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const size = 16 << 20
	key := chosen(t, entity(t, "bob@plain.example", made(time.Now().Add(-day))))
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	var most uint64
	err := key.WriteMIME(io.Discard, Options{}, func(w io.Writer) error {
		part := make([]byte, 64<<10)
		rand.Read(part)
		for n := 0; n < size; n += len(part) {
			if _, err := w.Write(part); err != nil {
				return err
			}
			if n%(8<<20) == 0 {
				runtime.GC()
				runtime.ReadMemStats(&during)
				most = max(most, during.HeapAlloc)
			}
		}
		return nil
	})
	if grown := int64(most) - int64(before.HeapAlloc); err != nil || grown > 4<<20 {
		t.Errorf("grown by %d octets, %v", grown, err)
	}
	t.Logf("grown by %d octets", int64(most)-int64(before.HeapAlloc))
}

func TestReadSigner(t *testing.T) {
	dir := t.TempDir()
	e := entity(t, "gateway@clinic.example", made(time.Now().Add(-day)))
	expired := made(time.Now().Add(-10 * day))
	expired.KeyLifetimeSecs = 86400
	locked := entity(t, "gateway@clinic.example", made(time.Now().Add(-day)))
	if err := locked.EncryptPrivateKeys([]byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text []byte
		want string
	}{
		"armored":    {armored(t, "PGP PRIVATE KEY BLOCK", secret(t, e)), ""},
		"binary":     {secret(t, e), ""},
		"public":     {public(t, e), "a public key"},
		"two":        {append(secret(t, e), secret(t, locked)...), "2 keys"},
		"passphrase": {secret(t, locked), "passphrase"},
		"expired":    {secret(t, entity(t, "g@clinic.example", expired)), "no key that may sign"},
		"garbage":    {[]byte("garbage"), "sign.asc: "},
	} {
		file := filepath.Join(dir, "sign.asc")
		write(t, file, tt.text)
		s, err := ReadSigner(file)
		if tt.want == "" && (err != nil || s.Fingerprint != fingerprint(e.PrimaryKey)) ||
			tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := ReadSigner(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// The key of RFC 9580, appendices A.3 and A.4, with a user id: it takes
// SEIPDv2, asked or not.
const v6Certificate = `-----BEGIN PGP PRIVATE KEY BLOCK-----

xUsGY4d/4xsAAAAg+U2nu0jWCmHlZ3BqZYfQMxmZu52JGggkLq2EVD34laMAGXKB
exK+cH6NX1hs5hNhIB00TrJmosgv3mg1ditlsLfCsQYfGwoAAABCBYJjh3/jAwsJ
BwUVCg4IDAIWAAKbAwIeCSIhBssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce6
2azJBScJAgcCAAAAAK0oIBA+LX0ifsDm185Ecds2v8lwgyU2kCcUmKfvBXbAf6rh
RYWzuQOwEn7E/aLwIwRaLsdry0+VcallHhSu4RN6HWaEQsiPlR4zxP/TP7mhfVEe
7XWPxtnMUMtf15OyA51YBMdLBmOHf+MZAAAAIIaTJINn+eUBXbki+PSAld2nhJh/
LVmFsS+60WyvXkQ1AE1gCk95TUR3XFeibg/u/tVY6a//1q0NWC1X+yui3O24wpsG
GBsKAAAALAWCY4d/4wKbDCIhBssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce6
2azJAAAAAAQBIKbpGG2dWTX8j+VjFM21J0hqWlEg+bdiojWnKfA5AQpWUWtnNwDE
M0g12vYxoWM8Y81W+bHBw805I8kWVkXU6vFOi+HWvv/ira7ofJu16NnoUkhclkUr
k0mXubZvyl4GBg==
-----END PGP PRIVATE KEY BLOCK-----
`

func TestRFC9580(t *testing.T) {
	keys, err := pgp.ReadArmoredKeyRing(strings.NewReader(v6Certificate))
	if err != nil {
		t.Fatal(err)
	}
	e := keys[0]
	if err := e.AddUserId("", "", "bob@plain.example", &packet.Config{Time: func() time.Time { return time.Now().Add(-day) }}); err != nil {
		t.Fatal(err)
	}
	key := chosen(t, e)
	// The fingerprints that the RFC names.
	if key.Fingerprint != "CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9" ||
		key.Subkey != "12C83F1E706F6308FE151A417743A1F033790E93E9978488D1DB378DA9930885" || key.Algorithm != "X25519" {
		t.Errorf("%+v", key)
	}
	for _, modern := range []bool{false, true} {
		var out bytes.Buffer
		if err := key.Encrypt(&out, Options{Modern: modern}, say("hello")); err != nil {
			t.Fatal(err)
		}
		if got := packets(t, armored(t, "PGP MESSAGE", out.Bytes())); !slices.Equal(got, []uint8{1, 6, 18, 2}) {
			t.Errorf("packets %v", got)
		}
		if _, text := open(t, e, out.Bytes()); string(text) != "hello" {
			t.Errorf("%q", text)
		}
	}
}

// The armor is what the library's is, but for the line ends.
func TestArmor(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 47, 48, 49, 96, armorLines * lineOctets, armorLines*lineOctets + 1, 3*armorLines*lineOctets + 50} {
		octets := make([]byte, n)
		rand.Read(octets)
		for _, piece := range []int{7, 1000, n + 1} {
			var out bytes.Buffer
			a, err := newArmor(&out)
			if err != nil {
				t.Fatal(err)
			}
			for rest := octets; len(rest) > 0; {
				part := rest[:min(piece, len(rest))]
				rest = rest[len(part):]
				if _, err := a.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.close(); err != nil {
				t.Fatal(err)
			}
			b, err := armor.Decode(bytes.NewReader(out.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b.Body); err != nil || !bytes.Equal(got, octets) {
				t.Errorf("%d octets: %d, %v", n, len(got), err)
			}
			want := strings.ReplaceAll(string(armored(t, "PGP MESSAGE", octets)), "\n", "\r\n")
			if n > 0 && out.String() != want {
				t.Errorf("%d octets\n%s\nwant\n%s", n, out.String(), want)
			}
		}
	}
}
