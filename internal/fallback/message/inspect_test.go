package message

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"tlsonly/internal/testnet/sample"
)

func inspected(t testing.TB, text string) Protection {
	t.Helper()
	p, err := Inspect(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Only samples that are encrypted as a whole are taken to be.
func TestInspectSamples(t *testing.T) {
	seen := 0
	for _, s := range append(sample.All(), sample.Large(100_000)) {
		p := inspected(t, string(s.Text))
		if (p != None) != s.Encrypted {
			t.Errorf("%s: %q", s.Name, p)
		}
		if s.Encrypted {
			seen++
		}
	}
	if seen != 2 {
		t.Errorf("%d encrypted samples, want 2", seen)
	}
}

const pgpHeader = "Subject: x\r\nContent-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=enc\r\n\r\n"
const pgpFirst = "--enc\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n\r\n"
const pgpSecond = "--enc\r\nContent-Type: application/octet-stream\r\n\r\n"

// pgp makes a message of packets.
func pgp(packets ...[]byte) string {
	all := base64.StdEncoding.EncodeToString(bytes.Join(packets, nil))
	var armored strings.Builder
	for ; len(all) > 64; all = all[64:] {
		armored.WriteString(all[:64] + "\r\n")
	}
	return pgpHeader + pgpFirst + pgpSecond + "-----BEGIN PGP MESSAGE-----\r\n\r\n" + armored.String() + all + "\r\n-----END PGP MESSAGE-----\r\n--enc--\r\n"
}

func packet(tag byte, body []byte) []byte {
	return append([]byte{0xc0 | tag, 0xff, byte(len(body) >> 24), byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

func TestInspectPGP(t *testing.T) {
	pkesk := packet(1, append([]byte{3}, make([]byte, 100)...))
	seipd := packet(18, append([]byte{1}, make([]byte, 100)...))
	good := pgp(pkesk, seipd)
	real := pgpHeader + pgpFirst + pgpSecond + sample.PGP + "\r\n--enc--\r\n"
	replace := func(old, new string) string {
		if !strings.Contains(real, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(real, old, new, 1)
	}
	old := []byte{0x80 | 1<<2 | 1, 0, 101, 3}
	old = append(old, make([]byte, 100)...)
	parts := append([]byte{0xc0 | 18, 0xe0 | 9, 1}, make([]byte, 511)...) // 512 octets, then 5
	parts = append(append(parts, 5), make([]byte, 5)...)
	for name, tt := range map[string]struct {
		text string
		want Protection
	}{
		"made by hand":        {good, OpenPGP},
		"made by GnuPG":       {real, OpenPGP},
		"bare LF":             {strings.ReplaceAll(real, "\r\n", "\n"), OpenPGP},
		"quoted boundary":     {strings.ReplaceAll(replace("boundary=enc", `boundary="e c"`), "--enc", "--e c"), OpenPGP},
		"two keys":            {pgp(pkesk, pkesk, seipd), OpenPGP},
		"old length":          {pgp(old, seipd), OpenPGP},
		"in parts":            {pgp(pkesk, parts), OpenPGP},
		"SEIPD version 2":     {pgp(packet(1, append([]byte{6}, make([]byte, 90)...)), packet(18, append([]byte{2}, make([]byte, 90)...))), OpenPGP},
		"GnuPG's OCB":         {pgp(pkesk, packet(20, append([]byte{1}, make([]byte, 90)...))), OpenPGP},
		"padding":             {pgp(pkesk, packet(21, make([]byte, 10)), seipd), OpenPGP},
		"Enigmail's preamble": {replace("\r\n--enc", "\r\nThis is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)\r\n--enc"), OpenPGP},
		"file name":           {replace("octet-stream\r\n", "octet-stream; name=\"encrypted.asc\"\r\nContent-Disposition: inline; filename=\"encrypted.asc\"\r\n"), OpenPGP},
		"comment of armor":    {replace("MESSAGE-----\r\n\r\n", "MESSAGE-----\r\nVersion: GnuPG v2\r\nComment: x\r\n\r\n"), OpenPGP},

		"preamble":                {replace("\r\n--enc", "\r\nThe biopsy was malignant.\r\n--enc"), None},
		"epilogue":                {real + "The biopsy was malignant.\r\n", None},
		"third part":              {replace("--enc--", "--enc\r\n\r\nThe biopsy was malignant.\r\n--enc--"), None},
		"text in the first part":  {replace("Version: 1\r\n", "Version: 1\r\nThe biopsy was malignant.\r\n"), None},
		"no version":              {replace("Version: 1\r\n", ""), None},
		"two versions":            {replace("Version: 1\r\n", "Version: 1\r\nVersion: 1\r\n"), None},
		"text before the armor":   {replace("-----BEGIN", "The biopsy was malignant.\r\n-----BEGIN"), None},
		"text after the armor":    {replace("END PGP MESSAGE-----", "END PGP MESSAGE-----\r\nThe biopsy."), None},
		"text in the armor":       {replace("\r\n\r\nhF4", "\r\n\r\nThe biopsy was malignant.\r\nhF4"), None},
		"text as the armor":       {replace("\r\n\r\nhF4", "\r\n\r\nVGhlIGJpb3BzeSB3YXMgbWFsaWduYW50Lg==\r\nhF4"), None},
		"header of armor":         {replace("MESSAGE-----\r\n\r\n", "MESSAGE-----\r\nBiopsy: malignant\r\n\r\n"), None},
		"long header of armor":    {replace("MESSAGE-----\r\n\r\n", "MESSAGE-----\r\nComment: "+strings.Repeat("x", 200)+"\r\n\r\n"), None},
		"field of a part":         {replace("octet-stream\r\n", "octet-stream\r\nSubject: biopsy\r\n"), None},
		"long field of a part":    {replace("octet-stream\r\n", "octet-stream\r\nContent-Description: "+strings.Repeat("x", 200)+"\r\n"), None},
		"base64 part":             {replace("octet-stream\r\n", "octet-stream\r\nContent-Transfer-Encoding: base64\r\n"), None},
		"other second part":       {replace("octet-stream", "pdf"), None},
		"other first part":        {replace("Type: application/pgp-encrypted", "Type: text/plain"), None},
		"other protocol":          {replace("protocol=\"application/pgp-encrypted\"", "protocol=\"application/x\""), None},
		"no protocol":             {replace("protocol=\"application/pgp-encrypted\";", ""), None},
		"no boundary":             {replace("; boundary=enc", ""), None},
		"other boundary":          {replace("boundary=enc", "boundary=other"), None},
		"multipart/mixed":         {replace("multipart/encrypted", "multipart/mixed"), None},
		"two content types":       {"Content-Type: text/plain\r\n" + real, None},
		"no end of armor":         {replace("-----END PGP MESSAGE-----", ""), None},
		"no end of parts":         {replace("--enc--", ""), None},
		"cut off":                 {real[:len(real)/2], None},
		"only a word":             {pgpHeader + pgpFirst + pgpSecond + "-----BEGIN PGP MESSAGE-----\r\n\r\nThe biopsy\r\n-----END PGP MESSAGE-----\r\n--enc--\r\n", None},
		"empty armor":             {pgp(), None},
		"no session key":          {pgp(seipd), None},
		"session key by password": {pgp(packet(3, make([]byte, 60)), seipd), None},
		"a password beside":       {pgp(pkesk, packet(3, make([]byte, 60)), seipd), None},
		"without integrity":       {pgp(pkesk, packet(9, make([]byte, 100))), None},
		"literal":                 {pgp(packet(11, make([]byte, 100))), None},
		"literal behind":          {pgp(pkesk, seipd, packet(11, make([]byte, 100))), None},
		"literal between":         {pgp(pkesk, packet(11, make([]byte, 100)), seipd), None},
		"too little":              {pgp(pkesk, packet(18, []byte{1, 2, 3})), None},
		"packet cut off":          {pgp(pkesk, seipd[:50]), None},
		"parts cut off":           {pgp(pkesk, parts[:100]), None},
		"unknown version":         {pgp(pkesk, packet(18, append([]byte{9}, make([]byte, 100)...))), None},
		"much padding":            {pgp(pkesk, packet(21, make([]byte, maxPart+1)), seipd), None},
		"old, without length":     {pgp(pkesk, append([]byte{0x80 | 9<<2 | 3, 1}, make([]byte, 100)...)), None},
	} {
		if got := inspected(t, tt.text); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// tlv makes an element of BER; with a negative length it is indefinite.
func tlv(id byte, indefinite bool, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	if indefinite {
		return append(append([]byte{id, 0x80}, body...), 0, 0)
	}
	return append([]byte{id, 0x83, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

func oid(t *testing.T, o ...int) []byte {
	b, err := asn1.Marshal(asn1.ObjectIdentifier(o))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInspectCMS(t *testing.T) {
	mime := func(ct, cte string, body []byte) string {
		text := "Content-Type: " + ct + "\r\nContent-Transfer-Encoding: " + cte + "\r\n\r\n"
		if cte == "base64" {
			return text + base64.StdEncoding.EncodeToString(body) + "\r\n"
		}
		return text + string(body)
	}
	// cms makes an EnvelopedData whose parts can be replaced by name.
	cms := func(indefinite bool, other map[string][]byte) []byte {
		or := func(name string, part []byte) []byte {
			if o, ok := other[name]; ok {
				return o
			}
			return part
		}
		recipient := or("recipient", tlv(0x30, false, make([]byte, 60)))
		content := or("content", tlv(0xa0, indefinite, tlv(0x04, false, make([]byte, 64)), tlv(0x04, false, make([]byte, 32))))
		cipher := or("cipher", oid(t, 2, 16, 840, 1, 101, 3, 4, 1, 42))
		info := tlv(0x30, indefinite, oid(t, 1, 2, 840, 113549, 1, 7, 1), tlv(0x30, false, cipher, tlv(0x04, false, make([]byte, 16))), content)
		data := tlv(0x30, indefinite, []byte{2, 1, 0}, tlv(0x31, indefinite, recipient), info, or("after", nil))
		return append(tlv(0x30, indefinite, or("type", oid(t, 1, 2, 840, 113549, 1, 7, 3)), tlv(0xa0, indefinite, data), or("end", nil)), or("behind", nil)...)
	}
	const media = "application/pkcs7-mime; smime-type=enveloped-data"
	for name, tt := range map[string]struct {
		text string
		want Protection
	}{
		"made by OpenSSL": {"Content-Type: application/x-pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\n" + sample.CMS, SMIME},
		"definite":        {mime(media, "base64", cms(false, nil)), SMIME},
		"indefinite":      {mime(media, "base64", cms(true, nil)), SMIME},
		"binary":          {mime(media, "binary", cms(true, nil)), SMIME},
		"primitive":       {mime(media, "base64", cms(false, map[string][]byte{"content": tlv(0x80, false, make([]byte, 64))})), SMIME},
		"key agreement":   {mime(media, "base64", cms(true, map[string][]byte{"recipient": tlv(0xa1, false, make([]byte, 60))})), SMIME},
		"authenticated, long length": {mime(media, "base64", cms(true, map[string][]byte{"type": oid(t, 1, 2, 840, 113549, 1, 9, 16, 1, 23),
			"after": tlv(0x04, false, make([]byte, 16))})), SMIME},
		"authenticated": {mime(media, "base64", cms(true, map[string][]byte{"type": oid(t, 1, 2, 840, 113549, 1, 9, 16, 1, 23),
			"after": append([]byte{4, 16}, make([]byte, 16)...)})), SMIME},

		"without a MAC":       {mime(media, "base64", cms(true, map[string][]byte{"type": oid(t, 1, 2, 840, 113549, 1, 9, 16, 1, 23)})), None},
		"signed":              {mime(media, "base64", cms(true, map[string][]byte{"type": oid(t, 1, 2, 840, 113549, 1, 7, 2)})), None},
		"compressed":          {mime(media, "base64", cms(true, map[string][]byte{"type": oid(t, 1, 2, 840, 113549, 1, 9, 16, 1, 9)})), None},
		"data":                {mime(media, "base64", tlv(0x30, false, oid(t, 1, 2, 840, 113549, 1, 7, 1), tlv(0xa0, false, tlv(0x04, false, make([]byte, 100))))), None},
		"password":            {mime(media, "base64", cms(true, map[string][]byte{"recipient": tlv(0xa3, false, make([]byte, 60))})), None},
		"no recipient":        {mime(media, "base64", cms(true, map[string][]byte{"recipient": nil})), None},
		"huge recipient":      {mime(media, "base64", cms(true, map[string][]byte{"recipient": tlv(0x30, false, make([]byte, maxCMS+1))})), None},
		"single DES":          {mime(media, "base64", cms(true, map[string][]byte{"cipher": oid(t, 1, 3, 14, 3, 2, 7)})), None},
		"RC2":                 {mime(media, "base64", cms(true, map[string][]byte{"cipher": oid(t, 1, 2, 840, 113549, 3, 2)})), None},
		"no content":          {mime(media, "base64", cms(true, map[string][]byte{"content": nil})), None},
		"other content":       {mime(media, "base64", cms(true, map[string][]byte{"content": tlv(0xa0, true, tlv(0x0c, false, make([]byte, 64)))})), None},
		"too little content":  {mime(media, "base64", cms(true, map[string][]byte{"content": []byte{0x80, 1, 0}})), None},
		"attributes in clear": {mime(media, "base64", cms(true, map[string][]byte{"after": tlv(0xa1, false, []byte("The biopsy was malignant."))})), None},
		"more at the end":     {mime(media, "base64", cms(true, map[string][]byte{"end": tlv(0x04, false, []byte("biopsy"))})), None},
		"more behind":         {mime(media, "base64", cms(false, map[string][]byte{"behind": []byte("The biopsy was malignant.")})), None},
		"more behind, binary": {mime(media, "binary", cms(true, map[string][]byte{"behind": []byte("The biopsy was malignant.")})), None},
		"text behind":         {mime(media, "base64", cms(true, nil)) + "The biopsy was malignant.\r\n", None},
		"text before":         {strings.Replace(mime(media, "base64", cms(true, nil)), "\r\n\r\n", "\r\n\r\nThe biopsy was malignant.\r\n\r\n", 1), None},
		"cut off":             {mime(media, "binary", cms(true, nil)[:100]), None},
		"text only":           {mime(media, "7bit", []byte("The biopsy was malignant.\r\n")), None},
		"other media type":    {mime("application/octet-stream; name=smime.p7m", "base64", cms(true, nil)), None},
		"two encodings":       {"Content-Transfer-Encoding: base64\r\n" + mime(media, "base64", cms(true, nil)), None},
	} {
		if got := inspected(t, tt.text); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// Nothing is held of a large message.
func TestInspectStreams(t *testing.T) {
	const size = 20 << 20
	line := strings.Repeat("A", 64) + "\r\n"
	head := packet(1, append([]byte{3}, make([]byte, 100)...))
	seipd := append([]byte{0xc0 | 18, 0xff, 0, 0, 0, 0}, 1)
	n := len(head) + 6
	octets := size/64*48 - n
	seipd[2], seipd[3], seipd[4], seipd[5] = byte(octets>>24), byte(octets>>16), byte(octets>>8), byte(octets)
	first := append(head, seipd...)
	first = append(first, make([]byte, 48*3-len(first))...)
	b64 := base64.StdEncoding.EncodeToString(first)
	text := io.MultiReader(strings.NewReader(pgpHeader+pgpFirst+pgpSecond+"-----BEGIN PGP MESSAGE-----\r\n\r\n"+
		b64[:64]+"\r\n"+b64[64:128]+"\r\n"+b64[128:]+"\r\n"),
		io.LimitReader(&repeat{text: line}, int64(len(line))*(size/64-3)), strings.NewReader("-----END PGP MESSAGE-----\r\n\r\n--enc--\r\n"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p, err := Inspect(text)
	runtime.ReadMemStats(&after)
	live := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if p != OpenPGP || err != nil || live > 8<<20 {
		t.Errorf("%q, %v, %d octets live", p, err, live)
	}
}

type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// A reader's error is no verdict, wherever it comes.
func TestInspectErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, s := range sample.All() {
		if !s.Encrypted {
			continue
		}
		for n := 0; n < len(s.Text); n += 7 {
			p, err := Inspect(io.MultiReader(bytes.NewReader(s.Text[:n]), iotest.ErrReader(broken)))
			if p != None || !errors.Is(err, broken) {
				t.Fatalf("%s, broken after %d octets: %q, %v", s.Name, n, p, err)
			}
		}
	}
}

// What is taken to be encrypted doesn't show what is inside.
func FuzzInspect(f *testing.F) {
	for _, s := range sample.All() {
		if len(s.Text) < 10_000 {
			f.Add(s.Text)
		}
	}
	f.Add([]byte(pgp(packet(1, append([]byte{3}, make([]byte, 100)...)), packet(18, append([]byte{1}, make([]byte, 100)...)))))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Inspect(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if p == None {
			return
		}
		// A line of prose anywhere in the content makes it None.
		_, body, _ := strings.Cut(string(text), "\n\r\n")
		if _, body, ok := strings.Cut(body, "\n"); ok && !strings.Contains(strings.ToLower(string(text)), "binary") {
			if q := inspected(t, strings.Replace(string(text), body, "The biopsy was malignant!\r\n"+body, 1)); body != "" && q != None {
				t.Errorf("%q with a line of text in it", q)
			}
		}
	})
}
