package message

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"tlsonly/internal/testnet/leak"
	"tlsonly/internal/testnet/sample"
)

// wrap returns outside and inside of a message.
func wrap(t testing.TB, text []byte, w Wrapping) (string, []byte) {
	t.Helper()
	m, err := Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var out, in bytes.Buffer
	if err := m.WriteOutside(&out, w); err != nil {
		t.Fatal(err)
	}
	if err := m.WriteInside(&in, w); err != nil {
		t.Fatal(err)
	}
	return out.String(), in.Bytes()
}

// entityOf returns the entity that the message had: its MIME fields and all
// behind the header, cut with other means than Read's.
func entityOf(text []byte) []byte {
	var fields, rest []byte
	keep, first := false, true
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line = text[:i+1]
		}
		blank := string(line) == "\r\n" || string(line) == "\n"
		colon := bytes.IndexByte(line, ':')
		folded := !first && (line[0] == ' ' || line[0] == '\t')
		if blank {
			return append(fields, text...)
		}
		if !folded {
			if colon < 1 || bytes.ContainsAny(bytes.TrimRight(line[:colon], " \t"), " \t") {
				rest = append([]byte("\r\n"), text...)
				break
			}
			name := strings.ToLower(string(bytes.TrimRight(line[:colon], " \t")))
			keep = name == "mime-version" || strings.HasPrefix(name, "content-")
		}
		if keep {
			fields = append(fields, line...)
		}
		text, first = text[len(line):], false
	}
	if len(fields) > 0 && fields[len(fields)-1] != '\n' {
		fields = append(fields, "\r\n"...)
	}
	if rest == nil {
		rest = []byte("\r\n")
	}
	return append(fields, rest...)
}

// Of every sample the content is inside, octet for octet, and nothing of it is
// outside.
func TestWrap(t *testing.T) {
	for _, s := range append(sample.All(), sample.Large(100_000)) {
		t.Run(s.Name, func(t *testing.T) {
			out, in := wrap(t, s.Text, Wrapping{})
			if want := entityOf(s.Text); !bytes.Contains(in, want) {
				t.Errorf("inside\n%q\nlacks the content\n%.2000q", in, want)
			}
			var secrets [][]byte
			for _, secret := range s.Secrets {
				secrets = append(secrets, []byte(secret))
			}
			o := leak.New(secrets...)
			if found := o.Find([]byte(out)); found != nil {
				t.Errorf("outside shows %v:\n%s", found, out)
			}
			if o.Len() > 0 && o.Find(s.Text) == nil {
				t.Error("the original shows nothing either: the oracle is blind")
			}
			if !strings.Contains(out, "\r\nSubject: [...]\r\n") {
				t.Errorf("outside has no subject [...]:\n%s", out)
			}
			if bytes.Contains(in, []byte("hidden-person")) || bytes.Contains(in, []byte("dkimselector")) {
				t.Error("inside has Bcc or a signature that no longer signs anything")
			}
			lawful(t, out)
			again, err := Read(strings.NewReader(out + "\r\nbody"))
			if err != nil || string(again.Blank) != "\r\n" {
				t.Errorf("outside is no header: %v\n%s", err, out)
			}
			hpOuter(t, again.Fields, in)
		})
	}
}

// lawful wants CRLF at the end of every line and nowhere else, and no NUL.
func lawful(t *testing.T, header string) {
	t.Helper()
	rest := strings.ReplaceAll(header, "\r\n", "")
	if strings.ContainsAny(rest, "\r\n\x00") || !strings.HasSuffix(header, "\r\n") {
		t.Errorf("lines of %q", header)
	}
	for line := range strings.Lines(header) {
		if strings.TrimSpace(line) == "" {
			t.Errorf("a blank line in %q", header)
		}
		if name, _, _ := strings.Cut(line, ":"); !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") && strings.ContainsAny(name, " \t") {
			t.Errorf("blanks before the colon of %q", line)
		}
	}
}

// hpOuter wants an HP-Outer for each field of the outside, and no others
// (RFC 9788, section 2.2).
func hpOuter(t *testing.T, outside []Field, in []byte) {
	t.Helper()
	m, err := Read(bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, f := range outside {
		want = append(want, f.Name+": "+f.Value())
	}
	for _, f := range m.All("HP-Outer") {
		name, value, _ := strings.Cut(f.Value(), ":")
		got = append(got, strings.TrimSpace(name)+": "+strings.TrimSpace(value))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("HP-Outer %q\nwant %q", got, want)
	}
}

// The whole of one message, as it stands.
func TestWrapExactly(t *testing.T) {
	text := "Received: from a by b\r\nFrom: a@example.org\r\nTo: b@example.org,\r\n c@example.org\r\nSubject: Gr\xc3\xbc\xc3\x9fe =26\r\n" +
		"Message-ID: <1@example.org>\r\nBcc: d@example.org\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
	out, in := wrap(t, []byte(text), Wrapping{Subject: "...", MessageID: "<2@example.org>", Extra: []string{"TLS-Only-Sent: openpgp"}})
	wantOut := "From: a@example.org\r\nTo: b@example.org,\r\n c@example.org\r\nSubject: ...\r\nMessage-ID: <2@example.org>\r\nTLS-Only-Sent: openpgp\r\n"
	if out != wantOut {
		t.Errorf("outside\n%s\nwant\n%s", out, wantOut)
	}
	boundary, _, _ := strings.Cut(strings.SplitN(string(in), `boundary="`, 2)[1], `"`)
	wantIn := "Content-Type: multipart/mixed; boundary=\"BOUNDARY\";\r\n hp=\"cipher\"; protected-headers=\"v1\"\r\n" +
		"Received: from a by b\r\nFrom: a@example.org\r\nTo: b@example.org,\r\n c@example.org\r\nSubject: Gr\xc3\xbc\xc3\x9fe =26\r\nMessage-ID: <1@example.org>\r\n" +
		"HP-Outer: From: a@example.org\r\nHP-Outer: To: b@example.org,\r\n c@example.org\r\nHP-Outer: Subject: ...\r\n" +
		"HP-Outer: Message-ID: <2@example.org>\r\nHP-Outer: TLS-Only-Sent: openpgp\r\n\r\n" +
		"--BOUNDARY\r\nContent-Type: text/plain; charset=\"utf-8\"; hp-legacy-display=\"1\";\r\n protected-headers=\"v1\"\r\n" +
		"Content-Disposition: inline\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSubject: Gr=C3=BC=C3=9Fe =3D26\r\n\r\n\r\n" +
		"--BOUNDARY\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nHello\r\n\r\n--BOUNDARY--\r\n"
	if got := strings.ReplaceAll(string(in), boundary, "BOUNDARY"); got != wantIn {
		t.Errorf("inside\n%s\nwant\n%s", got, wantIn)
	}
	_, other := wrap(t, []byte(text), Wrapping{})
	if bytes.Contains(other, []byte(boundary)) {
		t.Error("two messages have the same boundary")
	}
}

// What is configured can't add lines.
func TestWrapInjection(t *testing.T) {
	out, _ := wrap(t, []byte("From: a@example.org\r\n\r\nx"), Wrapping{
		Subject: "a\r\nX: 1", MessageID: "<a>\r\nX: 2", Extra: []string{"Y: 1\nX: 3"}})
	if strings.Contains(out, "\nX") {
		t.Errorf("outside\n%s", out)
	}
}

func TestReadableSubject(t *testing.T) {
	for value, want := range map[string]string{
		"plain":                        "plain",
		"=?utf-8?Q?a=0D=0AX:_1?=":      "a  X: 1",
		"=?iso-8859-1?Q?Gr=F6=DFe?= 3": "Größe 3",
		"=?koi8-r?B?8NLJ18XU?=":        "Привет",
		"=?no-such-charset?Q?x=F6?= y": "x? y",
		"=?utf-8?Q?unclosed":           "=?utf-8?Q?unclosed",
		"raw \xf6":                     "raw ?",
	} {
		if got := readable(value); got != want {
			t.Errorf("%q is read as %q, want %q", value, got, want)
		}
	}
}

// The header has its limit, and a reader's errors are told.
func TestReadErrors(t *testing.T) {
	long := "A: " + strings.Repeat("x", MaxHeader)
	for name, text := range map[string]string{
		"one field":   long,
		"many fields": strings.Repeat("A: b\r\n", MaxHeader/6+1),
		"no field":    strings.Repeat("x", MaxHeader+1),
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %v, want ErrHeader", name, err)
		}
	}
	broken := errors.New("broken")
	m, err := Read(io.MultiReader(strings.NewReader("A: b\r\n\r\nhello"), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteInside(io.Discard, Wrapping{}); !errors.Is(err, broken) {
		t.Errorf("inside of a message that breaks off: %v", err)
	}
	if _, err := Read(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("header that breaks off: %v", err)
	}
	if _, err := Inspect(io.MultiReader(strings.NewReader("A: b\r\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("inspecting a message that breaks off: %v", err)
	}
}

// A message is never held: 50 MB cost no more than 1 MB.
func TestWrapStreams(t *testing.T) {
	const size = 50 << 20
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := Read(io.MultiReader(strings.NewReader("Subject: a\r\n\r\n"), io.LimitReader(zeros{}, size)))
	if err != nil {
		t.Fatal(err)
	}
	var n counter
	if err := m.WriteInside(&n, Wrapping{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; n < size || grown > 1<<20 {
		t.Errorf("%d octets written, %d allocated", n, grown)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// A key is the same for the same triple only.
func TestKey(t *testing.T) {
	key := func(sender, recipient, data string) Key {
		h := NewHash()
		io.WriteString(h, data[:len(data)/2])
		io.WriteString(h, data[len(data)/2:])
		return h.Key(sender, recipient)
	}
	k := key("a@example.org", "b@example.org", "data")
	if k != key("a@example.org", "b@example.org", "data") {
		t.Error("the same triple has two keys")
	}
	for _, other := range []Key{
		key("a@example.orgb", "@example.org", "data"), key("a@example.org", "b@example.orgd", "ata"),
		key("A@example.org", "b@example.org", "data"), key("a@example.org", "b@example.org", "data\r\n"),
	} {
		if other == k {
			t.Error("two triples have one key")
		}
	}
	id := k.MessageID([]byte("secret"), "clinic.example")
	if id != k.MessageID([]byte("secret"), "clinic.example") || id == k.MessageID([]byte("other"), "clinic.example") ||
		strings.Contains(id, k.String()[:16]) || !strings.HasSuffix(id, "@clinic.example>") {
		t.Errorf("Message-ID %s", id)
	}
}

func TestRemove(t *testing.T) {
	m, err := Read(strings.NewReader("TLS-Only: encrypt\r\nA: b\r\ntls-only: x\r\n\r\n"))
	if err != nil || !m.Remove("TLS-Only") || m.Remove("TLS-Only") || len(m.Fields) != 1 {
		t.Errorf("%v, %v", m.Fields, err)
	}
}

// Whatever comes: all of it is inside, and only what may be is outside.
func FuzzWrap(f *testing.F) {
	for _, s := range sample.All() {
		if len(s.Text) < 10_000 {
			f.Add(s.Text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Read(bytes.NewReader(text))
		if err != nil {
			t.Skip("no message")
		}
		var all []byte
		for _, field := range m.Fields {
			all = append(all, field.Raw...)
		}
		body, _ := io.ReadAll(m.Body)
		all = append(append(all, m.Blank...), body...)
		if !bytes.Equal(all, text) {
			t.Fatalf("cut to %q", all)
		}
		out, in := wrap(t, text, Wrapping{})
		lawful(t, out)
		if !bytes.Contains(in, body) {
			t.Errorf("inside lacks the body")
		}
		again, err := Read(strings.NewReader(out))
		if err != nil || len(again.Blank) > 0 {
			t.Fatalf("outside is no header: %v", err)
		}
		if rest, _ := io.ReadAll(again.Body); len(rest) > 0 {
			t.Errorf("outside has a body: %q", rest)
		}
		for _, field := range again.Fields {
			if kindOf(field.Name) != shown && field.Name != "Subject" {
				t.Errorf("outside has %q", field.Raw)
			}
		}
		hpOuter(t, again.Fields, in)
	})
}
