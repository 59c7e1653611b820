package openpgp

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"tlsonly/internal/addr"
)

var (
	now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	bob = addr.MustAddress("bob@plain.example")
)

const day = 24 * time.Hour

// made is the configuration of a key that is made at t.
func made(t time.Time) *packet.Config {
	return &packet.Config{Time: func() time.Time { return t }, Algorithm: packet.PubKeyAlgoEdDSA,
		DefaultCipher: packet.CipherAES256, DefaultCompressionAlgo: packet.CompressionZLIB}
}

// entity makes a key for an address, with one subkey to encrypt with.
func entity(t testing.TB, address string, c *packet.Config) *pgp.Entity {
	t.Helper()
	e, err := pgp.NewEntity("Bob", "", address, c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func public(t testing.TB, e *pgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func secret(t testing.TB, e *pgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.SerializePrivateWithoutSigning(&b, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func armored(t testing.TB, kind string, octets []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(octets)
	w.Close()
	b.WriteByte('\n')
	return b.Bytes()
}

const block = "PGP PUBLIC KEY BLOCK"

// Of a key, the newest part that may encrypt is chosen, and none that may not.
func TestChoose(t *testing.T) {
	old := now.Add(-100 * day)
	later := func(e *pgp.Entity, c *packet.Config) *pgp.Entity {
		if err := e.AddEncryptionSubkey(c); err != nil {
			t.Fatal(err)
		}
		return e
	}
	expiring := func(t time.Time, life time.Duration) *packet.Config {
		c := made(t)
		c.KeyLifetimeSecs = uint32(life / time.Second)
		return c
	}
	rsa := func(bits int) *packet.Config {
		c := made(old)
		c.Algorithm, c.RSABits = packet.PubKeyAlgoRSA, bits
		if bits < 2048 {
			c.MinRSABits = uint16(bits)
		}
		return c
	}
	revoked := entity(t, "bob@plain.example", made(old))
	if err := revoked.Revoke(packet.KeyCompromised, "", made(now.Add(-day))); err != nil {
		t.Fatal(err)
	}
	revokedSubkey := later(entity(t, "bob@plain.example", made(old)), made(old.Add(day)))
	if err := revokedSubkey.Subkeys[1].Revoke(packet.KeyCompromised, "", made(now.Add(-day))); err != nil {
		t.Fatal(err)
	}
	signOnly := entity(t, "bob@plain.example", made(old))
	signOnly.Subkeys = nil
	if err := signOnly.AddSigningSubkey(made(old)); err != nil {
		t.Fatal(err)
	}
	// The first subkey is bound anew, later than the second was made.
	rebound := later(entity(t, "bob@plain.example", made(old)), made(old.Add(day)))
	if err := rebound.Subkeys[0].Bindings[0].Packet.SignKey(rebound.Subkeys[0].PublicKey, rebound.PrivateKey, made(now.Add(-day))); err != nil {
		t.Fatal(err)
	}
	weakSubkey := later(entity(t, "bob@plain.example", made(old)), rsa(1024))
	weakSubkey.Subkeys = weakSubkey.Subkeys[1:]
	weakBeside := later(entity(t, "bob@plain.example", made(old)), rsa(1024))
	weakPrimary := later(entity(t, "bob@plain.example", rsa(1024)), made(old))
	future := later(entity(t, "bob@plain.example", made(old)), made(now.Add(day)))
	revokedID := entity(t, "bob@plain.example", made(old))
	if err := revokedID.AddUserId("Bob", "", "bob@other.example", made(old)); err != nil {
		t.Fatal(err)
	}
	for _, id := range revokedID.Identities {
		if id.UserId.Email == "bob@plain.example" {
			revocation := *id.SelfCertifications[0].Packet
			revocation.SigType, revocation.CreationTime = packet.SigTypeCertificationRevocation, now.Add(-day)
			if err := revocation.SignUserId(id.Name, revokedID.PrimaryKey, revokedID.PrivateKey, made(now.Add(-day))); err != nil {
				t.Fatal(err)
			}
			id.Revocations = append(id.Revocations, packet.NewVerifiableSig(&revocation))
		}
	}
	for name, tt := range map[string]struct {
		e      *pgp.Entity
		subkey int    // the one that is chosen, -1 for none
		why    string // with none
	}{
		"one subkey":               {entity(t, "bob@plain.example", made(old)), 0, ""},
		"case of the address":      {entity(t, "Bob@PLAIN.example", made(old)), 0, ""},
		"RSA 2048":                 {entity(t, "bob@plain.example", rsa(2048)), 0, ""},
		"a newer subkey":           {later(entity(t, "bob@plain.example", made(old)), made(old.Add(day))), 1, ""},
		"an older one bound later": {rebound, 1, ""},
		"a newer one expired":      {later(entity(t, "bob@plain.example", made(old)), expiring(old.Add(day), 10*day)), 0, ""},
		"a newer one revoked":      {revokedSubkey, 0, ""},
		"one of the future":        {future, 0, ""},
		"a newer one weak":         {weakBeside, 0, ""},

		"expired":               {entity(t, "bob@plain.example", expiring(old, 10*day)), -1, "it has expired"},
		"revoked":               {revoked, -1, "it is revoked"},
		"sign only":             {signOnly, -1, "it has no key that may encrypt"},
		"RSA 1024":              {entity(t, "bob@plain.example", rsa(1024)), -1, "minimum rsa length"},
		"RSA 1024 subkey":       {weakSubkey, -1, "minimum rsa length"},
		"RSA 1024 primary key":  {weakPrimary, -1, "minimum rsa length"},
		"not yet":               {entity(t, "bob@plain.example", made(now.Add(day))), -1, "user id"},
		"another's":             {entity(t, "eve@plain.example", made(old)), -1, "no valid user id"},
		"part of an address":    {entity(t, "notbob@plain.example", made(old)), -1, "no valid user id"},
		"a longer domain":       {entity(t, "bob@plain.example.org", made(old)), -1, "no valid user id"},
		"a revoked user id":     {revokedID, -1, "no valid user id"},
		"address as the name":   {entity(t, "", made(old)), -1, "no valid user id"},
		"domain instead":        {entity(t, "plain.example", made(old)), -1, "no valid user id"},
		"an extension":          {entity(t, "bob+x@plain.example", made(old)), -1, "no valid user id"},
		"only the local part":   {entity(t, "bob", made(old)), -1, "no valid user id"},
		"the domain of another": {entity(t, "bob@plain.example@evil.example", made(old)), -1, "no valid user id"},
	} {
		key, err := ParseKey(public(t, tt.e), bob, "a file", now)
		switch {
		case tt.subkey >= 0 && (err != nil || key.Subkey != fingerprint(tt.e.Subkeys[tt.subkey].PublicKey)):
			t.Errorf("%s: %+v, %v", name, key, err)
		case tt.subkey < 0 && (!errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), tt.why)):
			t.Errorf("%s: %v, want %s", name, err, tt.why)
		}
	}
}

func TestUserAddress(t *testing.T) {
	for id, want := range map[string]string{
		"Bob <bob@plain.example>":                "bob@plain.example",
		"bob@plain.example":                      "bob@plain.example",
		"<bob@plain.example>":                    "bob@plain.example",
		"Bob (work) <bob@plain.example> ":        "bob@plain.example",
		"bob@plain.example <eve@evil.example>":   "eve@evil.example",
		"<bob@plain.example> <eve@evil.example>": "eve@evil.example",
		"bob@plain.example (eve)":                "",
		"bob@plain.example, eve@evil.example":    "",
		"eve@evil.example bob@plain.example":     "",
		"Bob":                                    "",
		"":                                       "",
		"Bob <>":                                 "",
		"Bob <bob>":                              "",
		"Bob <bob@plain.example> x":              "",
		"Bob <bob@plain.example\x00>":            "",
		"J\xc3\xbcrgen <j\xc3\xbcrgen@m\xc3\xbc.example>": "j\xc3\xbcrgen@xn--m-eha.example",
	} {
		a, ok := userAddress(id)
		if got := a.Fold(); (want == "") == ok || ok && got != addr.MustAddress(want).Fold() {
			t.Errorf("%q has address %q, %v, want %q", id, got, ok, want)
		}
	}
}

// What a key is, as people are told it.
func TestKeyWords(t *testing.T) {
	c := made(now.Add(-day))
	c.KeyLifetimeSecs = 10 * 86400
	e := entity(t, "bob@plain.example", c)
	key, err := ParseKey(public(t, e), bob, "a file", now)
	if err != nil {
		t.Fatal(err)
	}
	if key.Algorithm != "ECDH Curve25519" || !key.Expires.Equal(now.Add(9*day)) || !key.Created.Equal(now.Add(-day)) ||
		len(key.Fingerprint) != 40 || len(key.Subkey) != 40 || key.Source != "a file" || key.Address != bob {
		t.Errorf("%+v", key)
	}
}

func write(t *testing.T, file string, parts ...[]byte) {
	t.Helper()
	if err := os.WriteFile(file, bytes.Join(parts, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Bad files and bad keys are named, and are nobody else's fault.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	old := now.Add(-100 * day)
	b := entity(t, "bob@plain.example", made(old))
	newer := entity(t, "bob@plain.example", made(old.Add(day)))
	carol := entity(t, "carol@plain.example", made(old))
	dave := entity(t, "dave@plain.example", made(old))
	erin := entity(t, "erin@plain.example", made(old))
	nobody := entity(t, "nobody", made(old))
	write(t, at("bob.asc"), []byte("Bob's key:\n\n"), armored(t, block, public(t, b)))
	write(t, at("ring.gpg"), public(t, newer), public(t, nobody), public(t, carol))
	// Erin's key between two that are sound: its user id is cut off.
	broken := public(t, erin)
	broken = append(broken[:len(broken)/4:len(broken)/4], public(t, dave)...)
	write(t, at("two.asc"), armored(t, block, public(t, dave)), armored(t, block, broken))
	write(t, at("secret.asc"), armored(t, "PGP PRIVATE KEY BLOCK", secret(t, erin)))
	write(t, at("secret.gpg"), secret(t, erin))
	write(t, at("cert.pem"), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	write(t, at("empty.asc"))
	write(t, at("open.asc"), []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n"))
	write(t, at("pubring.kbx"), []byte("\x00\x00\x00\x20\x01\x01\x00\x00KBXf\x00\x00\x00\x00"))
	write(t, at(".hidden"), []byte("nothing"))
	write(t, at("backup.asc~"), []byte("nothing"))
	if err := os.Mkdir(at("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := OpenStore([]string{dir, at("not-there")})
	told := ""
	for _, p := range s.Problems() {
		told += p.Error() + "\n"
	}
	for _, want := range []string{
		"two.asc", "secret.asc: a secret key", "secret.gpg: key number 1: a secret key", "cert.pem: no OpenPGP key, but CERTIFICATE",
		"empty.asc: empty", "open.asc: block 1 has no end", "pubring.kbx: a keybox", "not-there: no such file",
		"ring.gpg: key " + fingerprint(nobody.PrimaryKey) + ": no user id with an address",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("nothing is said of %q:\n%s", want, told)
		}
	}
	if strings.Contains(told, "hidden") || strings.Contains(told, "~") || strings.Contains(told, "folder") {
		t.Errorf("what isn't to be read was:\n%s", told)
	}
	for a, want := range map[string]*pgp.Entity{"bob@plain.example": newer, "carol@plain.example": carol, "dave@plain.example": dave} {
		key, err := s.Lookup(addr.MustAddress(a), now)
		if err != nil || key.Fingerprint != fingerprint(want.PrimaryKey) {
			t.Errorf("%s: %+v, %v", a, key, err)
		}
	}
	// A file that couldn't be read could have had it.
	if _, err := s.Lookup(addr.MustAddress("frank@plain.example"), now); err == nil || errors.Is(err, ErrNoKey) {
		t.Errorf("frank: %v, want an error that isn't ErrNoKey", err)
	}

	sound := OpenStore([]string{at("bob.asc"), at("ring.gpg")})
	if _, err := sound.Lookup(addr.MustAddress("frank@plain.example"), now); !errors.Is(err, ErrNoKey) {
		t.Errorf("frank: %v, want ErrNoKey", err)
	}
	if sound.Len() != 3 || len(sound.Addresses()) != 2 {
		t.Errorf("%d keys, addresses %v", sound.Len(), sound.Addresses())
	}
	// Bob's newer key goes; the older one takes its place, after the reload only.
	write(t, at("ring.gpg"), public(t, carol))
	for _, want := range []*pgp.Entity{newer, b} {
		if key, err := sound.Lookup(bob, now); err != nil || key.Fingerprint != fingerprint(want.PrimaryKey) {
			t.Errorf("%+v, %v", key, err)
		}
		if problems := sound.Reload(); len(problems) > 0 {
			t.Error(problems)
		}
	}
	// Two years later: each key's own reason.
	expired := made(old)
	expired.KeyLifetimeSecs = 86400
	write(t, at("bob.asc"), public(t, entity(t, "bob@plain.example", expired)))
	sound.Reload()
	if _, err := sound.Lookup(bob, now); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "bob.asc") {
		t.Errorf("an expired key: %v", err)
	}
}

// A file is read in the forms that editors and programs give it.
func TestReadKeys(t *testing.T) {
	octets := public(t, entity(t, "bob@plain.example", made(now.Add(-day))))
	text := string(armored(t, block, octets))
	for name, in := range map[string]string{
		"binary":            string(octets),
		"armored":           text,
		"CRLF":              strings.ReplaceAll(text, "\n", "\r\n"),
		"mark of UTF-8":     "\xef\xbb\xbf" + text,
		"text around":       "Key of Bob\n\n" + text + "\nend\n",
		"headers":           strings.Replace(text, "\n\n", "\nVersion: GnuPG v2\nComment: Bob\n\n", 1),
		"no end of line":    strings.TrimRight(text, "\n"),
		"GnuPG's own notes": string(octets) + "\xb0\x02\x01\x00",
	} {
		keys, err := ReadKeys([]byte(in))
		if err != nil || len(keys) != 1 || !bytes.Equal(keys[0], octets) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
}

// Whatever a file has: it is read, and what is chosen of it encrypts.
func FuzzKeys(f *testing.F) {
	e := entity(f, "bob@plain.example", made(now.Add(-day)))
	f.Add(public(f, e))
	f.Add(armored(f, block, public(f, e)))
	f.Add(secret(f, e))
	f.Add([]byte(v6Certificate))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, _ := ReadKeys(text)
		for _, octets := range keys {
			key, err := ParseKey(octets, bob, "fuzz", now)
			if err != nil {
				if !errors.Is(err, ErrNoKey) {
					t.Error(err)
				}
				continue
			}
			var out bytes.Buffer
			if err := key.Encrypt(&out, Options{}, say("hello")); err != nil {
				t.Errorf("chosen, but: %v", err)
			}
			if bytes.Contains(out.Bytes(), []byte("hello")) {
				t.Error("in the clear")
			}
		}
	})
}
