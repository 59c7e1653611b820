package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/emersion/go-smtp"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/fallback/message"
	"tlsonly/internal/fallback/openpgp"
	"tlsonly/internal/testnet/leak"
)

// pgpMethod encrypts to one key, whoever the recipient is.
type pgpMethod struct {
	key    *openpgp.Key
	entity *pgp.Entity
}

func newPGP(t testing.TB) *pgpMethod {
	t.Helper()
	bob := addr.MustAddress("bob@plain.example")
	e, err := pgp.NewEntity("Bob", "", bob.String(), &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA,
		Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	key, err := openpgp.ParseKey(b.Bytes(), bob, "a test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &pgpMethod{key, e}
}

func (*pgpMethod) Name() string { return "openpgp" }

func (*pgpMethod) Known(context.Context, addr.Address, addr.Address) (fallback.State, error) {
	return fallback.Certain, nil
}

func (p *pgpMethod) Encrypt(_ context.Context, w io.Writer, original io.Reader, c fallback.Copy) error {
	m, err := message.Read(original)
	if err != nil {
		return err
	}
	wrapping := message.Wrapping{MessageID: c.MessageID, Extra: c.Extra}
	if err := m.WriteOutside(w, wrapping); err != nil {
		return err
	}
	return p.key.WriteMIME(w, openpgp.Options{}, func(w io.Writer) error { return m.WriteInside(w, wrapping) })
}

// writes is a method that writes what the test says.
type writes struct {
	name string
	do   func(w io.Writer, original io.Reader) error
}

func (m writes) Name() string { return m.name }

func (writes) Known(context.Context, addr.Address, addr.Address) (fallback.State, error) {
	return fallback.Certain, nil
}

func (m writes) Encrypt(_ context.Context, w io.Writer, original io.Reader, _ fallback.Copy) error {
	return m.do(w, original)
}

// judge has a way for each recipient.
type judge map[string]func() (fallback.Way, error)

func (j judge) Judge(_ context.Context, _, recipient addr.Address) (fallback.Way, error) {
	if f := j[recipient.String()]; f != nil {
		return f()
	}
	return j[recipient.Domain.String()]()
}

func always(w fallback.Way) func() (fallback.Way, error) {
	return func() (fallback.Way, error) { return w, nil }
}

// memory is a Copies.
type memory struct {
	mu   sync.Mutex
	keys map[string]bool
	fail error
}

func (m *memory) Handed(_ context.Context, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys[key], m.fail
}

func (m *memory) PutHanded(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[key] = true
	return nil
}

// taken is a message that the MTA was handed.
type taken struct {
	from string
	to   []string
	mail smtp.MailOptions
	rcpt smtp.RcptOptions
	text []byte
}

// mta is the smtpd(8) that takes copies.
type mta struct {
	mu       sync.Mutex
	messages []taken
	refuse   error
	wait     chan struct{} // content is taken once it is closed; nil: at once
	arrived  chan struct{} // told of each message whose content came
	admits   func(client netip.AddrPort) bool
}

type mtaSession struct {
	m   *mta
	now taken
}

func (m *mta) NewSession(c *smtp.Conn) (smtp.Session, error) {
	if m.admits != nil && !m.admits(c.Conn().RemoteAddr().(*net.TCPAddr).AddrPort()) {
		return nil, errors.New("not one of ours")
	}
	return &mtaSession{m: m}, nil
}
func (s *mtaSession) Mail(from string, o *smtp.MailOptions) error {
	s.now.from, s.now.mail = from, *o
	return nil
}
func (s *mtaSession) Rcpt(to string, o *smtp.RcptOptions) error {
	s.now.to, s.now.rcpt = append(s.now.to, to), *o
	return nil
}
func (s *mtaSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.m.arrived <- struct{}{}
	if s.m.wait != nil {
		<-s.m.wait
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.m.refuse != nil {
		return s.m.refuse
	}
	s.now.text = text
	s.m.messages = append(s.m.messages, s.now)
	return nil
}
func (s *mtaSession) Reset()        { s.now = taken{} }
func (s *mtaSession) Logout() error { return nil }

func (m *mta) got() []taken {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages)
}

// world is a gateway with an MTA behind it.
type world struct {
	t       *testing.T
	mta     *mta
	memory  *memory
	events  []Event
	mu      sync.Mutex
	server  *Server
	address string
	spool   string
	id      *Identity
}

func newWorld(t *testing.T, j fallback.Judge) *world {
	t.Helper()
	w := &world{t: t, memory: &memory{keys: map[string]bool{}}, mta: &mta{arrived: make(chan struct{}, 1000)}}
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(w.mta)
	s.EnableDSN, s.EnableSMTPUTF8 = true, true
	go s.Serve(back)
	t.Cleanup(func() { s.Close() })
	w.spool = filepath.Join(t.TempDir(), "spool")
	if w.id, err = OpenIdentity(filepath.Join(t.TempDir(), "state", "gateway.pem")); err != nil {
		t.Fatal(err)
	}
	reinject := NewReinjector(back.Addr().String())
	w.mta.admits = func(client netip.AddrPort) bool { return reinject.Admits(t.Context(), client) }
	w.server, err = New(Config{Judge: j, Copies: w.memory, Identity: w.id, Reinject: reinject, Spool: w.spool, Domain: "clinic.example",
		Observe: func(e Event) { w.mu.Lock(); defer w.mu.Unlock(); w.events = append(w.events, e) }})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w.server.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

// dial connects as Postfix does: over TLS, to a certificate known by its
// fingerprint.
func (w *world) dial() *smtp.Client {
	w.t.Helper()
	c, err := smtp.DialStartTLS(w.address, &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if got := fingerprintOf(s.PeerCertificates[0].Raw); got != w.id.Fingerprint() {
			return errors.New(got)
		}
		return nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	if err := c.Hello("mta.clinic.example"); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// code returns the code of a reply: "451 4.3.0".
func code(err error) string {
	var e *smtp.SMTPError
	if err == nil {
		return "250"
	}
	if !errors.As(err, &e) {
		return err.Error()
	}
	return fmt.Sprintf("%d %d.%d.%d", e.Code, e.EnhancedCode[0], e.EnhancedCode[1], e.EnhancedCode[2])
}

// send gives a message to the gateway and returns the codes of its recipients and
// of the end.
func (w *world) send(from string, to []string, text string) (rcpt []string, end string) {
	w.t.Helper()
	c := w.dial()
	if err := c.Mail(from, &smtp.MailOptions{EnvelopeID: "abc", Return: smtp.DSNReturnHeaders}); err != nil {
		return nil, code(err)
	}
	some := false
	for _, a := range to {
		err := c.Rcpt(a, &smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifyFailure}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: "orig@plain.example"})
		rcpt = append(rcpt, code(err))
		some = some || err == nil
	}
	if !some {
		return rcpt, ""
	}
	d, err := c.Data()
	if err != nil {
		return rcpt, code(err)
	}
	if _, err := io.WriteString(d, text); err != nil {
		w.t.Fatal(err)
	}
	return rcpt, code(d.Close())
}

const secretWord = "xanthoproctic"

func letter(more ...string) string {
	return strings.Join(more, "") + "DKIM-Signature: v=1; b=abc\r\nFrom: <doctor@clinic.example>\r\nTo: <bob@plain.example>\r\nMessage-ID: <1@clinic.example>\r\n" +
		"Subject: " + secretWord + "\r\n\r\nBody: " + secretWord + "\r\n.leading dot\r\n"
}

var (
	waits    = fallback.Way{Code: "4.7.10", Cause: "plain.example does not offer STARTTLS", Rule: "clinic"}
	refuses  = fallback.Way{Action: fallback.Refuse, Code: "5.7.10", Cause: "plain.example does not offer STARTTLS", Passes: []string{"openpgp"}}
	refuses2 = fallback.Way{Action: fallback.Refuse, Code: "5.7.10", Cause: "it has no key"}
)

func encrypts(m fallback.Method) fallback.Way {
	return fallback.Way{Action: fallback.Encrypt, Method: m, Passes: []string{"openpgp"}}
}

// Each recipient gets its own answer, and what is taken leaves encrypted.
func TestWays(t *testing.T) {
	method := newPGP(t)
	w := newWorld(t, judge{
		"wait.example": always(waits), "refused.example": always(refuses), "other.example": always(refuses2),
		"plain.example": always(encrypts(method)), "open.example": always(fallback.Way{Action: fallback.Open}),
		"fault.example": func() (fallback.Way, error) { return fallback.Way{Action: fallback.Open}, errors.New("broken") },
		"panic.example": func() (fallback.Way, error) { panic("in the judge") },
		"none.example":  always(fallback.Way{Action: fallback.Encrypt}),
	})
	for _, c := range []struct {
		to   []string
		rcpt string
		end  string
	}{
		{[]string{"u@wait.example"}, "451 4.7.10", ""},
		{[]string{"u@refused.example"}, "250", "550 5.7.10"},
		{[]string{"u@refused.example", "v@refused.example"}, "250, 250", "550 5.7.10"},
		{[]string{"u@refused.example", "u@other.example"}, "250, 451 4.5.3", "550 5.7.10"},
		{[]string{"u@refused.example", "u@plain.example"}, "250, 451 4.5.3", "550 5.7.10"},
		{[]string{"u@fault.example"}, "451 4.3.0", ""},
		{[]string{"u@panic.example"}, "451 4.3.0", ""},
		{[]string{"u@none.example"}, "451 4.3.0", ""},
		{[]string{"u@plain.example", "u@wait.example", "u@refused.example", "v@plain.example"}, "250, 451 4.7.10, 451 4.5.3, 250", "250"},
		{[]string{"u@open.example"}, "250", "250"},
	} {
		rcpt, end := w.send("doctor@clinic.example", c.to, letter())
		if got := strings.Join(rcpt, ", "); got != c.rcpt || end != c.end {
			t.Errorf("%v: %s; %s, want %s; %s", c.to, got, end, c.rcpt, c.end)
		}
	}
	oracle := leak.New([]byte(secretWord), []byte("leading dot"))
	var to []string
	for _, m := range w.mta.got() {
		to = append(to, m.to...)
		found := oracle.Find(m.text)
		if strings.HasSuffix(m.to[0], "@open.example") {
			if len(found) == 0 || string(m.text) != letter() {
				t.Errorf("%v: the oracle is blind, or it isn't the message: %s", m.to, m.text)
			}
			continue
		}
		if len(found) > 0 {
			t.Errorf("%v: %v", m.to, found)
		}
		parsed, err := message.Read(bytes.NewReader(m.text))
		if err != nil {
			t.Fatal(err)
		}
		if len(parsed.All("DKIM-Signature")) > 0 || len(parsed.All(markField)) != 1 || len(parsed.All(sentField)) != 1 ||
			!strings.HasSuffix(parsed.All("Message-ID")[0].Value(), "@clinic.example>") {
			t.Errorf("outside of the copy: %q", parsed.Fields)
		}
		if m.from != "doctor@clinic.example" || m.mail.EnvelopeID != "abc" || m.mail.Return != smtp.DSNReturnHeaders ||
			m.rcpt.OriginalRecipient != "orig@plain.example" || !slices.Equal(m.rcpt.Notify, []smtp.DSNNotify{smtp.DSNNotifyFailure}) {
			t.Errorf("envelope of the copy: %+v", m)
		}
	}
	if got := strings.Join(to, " "); got != "u@plain.example v@plain.example u@open.example" {
		t.Errorf("copies for %s", got)
	}
	if s := w.server.Stats(); s.Handed != 3 || s.Refused != 5 || s.Again != 5 {
		t.Errorf("%+v", s)
	}
}

// A copy in the clear, an empty one, half of one: none of them leaves.
func TestNeverClear(t *testing.T) {
	clear := func(w io.Writer, r io.Reader) error { _, err := io.Copy(w, r); return err }
	ways := judge{}
	for name, m := range map[string]writes{
		"clear":    {"openpgp", clear},
		"clearcms": {"smime", clear},
		"empty":    {"other", func(io.Writer, io.Reader) error { return nil }},
		"headless": {"other", func(w io.Writer, _ io.Reader) error { _, err := io.WriteString(w, "\r\ntext"); return err }},
		"bodiless": {"other", func(w io.Writer, _ io.Reader) error { _, err := io.WriteString(w, "A: b\r\n"); return err }},
		"failing":  {"openpgp", func(w io.Writer, r io.Reader) error { return errors.Join(clear(w, r), errors.New("no key")) }},
		"panicking": {"openpgp", func(w io.Writer, r io.Reader) error {
			clear(w, r)
			panic("in the method")
		}},
	} {
		ways[name+".example"] = always(encrypts(m))
	}
	w := newWorld(t, ways)
	for domain := range ways {
		if rcpt, end := w.send("doctor@clinic.example", []string{"u@" + domain}, letter()); rcpt[0] != "250" || !strings.HasPrefix(end, "451") {
			t.Errorf("%s: %v, %s", domain, rcpt, end)
		}
	}
	if got := w.mta.got(); len(got) > 0 {
		t.Errorf("%d messages left, the first:\n%s", len(got), got[0].text)
	}
}

// What was handed over is not handed over again; what was not, is.
func TestOnce(t *testing.T) {
	w := newWorld(t, judge{"plain.example": always(encrypts(newPGP(t)))})
	to := []string{"u@plain.example", "v@plain.example"}
	w.mta.refuse = &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 3, 4}, Message: "too large"}
	if _, end := w.send("doctor@clinic.example", to, letter()); end != "451 4.0.0" && !strings.HasPrefix(end, "451") {
		t.Errorf("refused by the MTA: %s, but the message is the sender's to get back only when the MTA says so", end)
	}
	w.mta.mu.Lock()
	w.mta.refuse = nil
	w.mta.mu.Unlock()
	for range 3 {
		if _, end := w.send("doctor@clinic.example", to, letter()); end != "250" {
			t.Errorf("end %s", end)
		}
	}
	if _, end := w.send("doctor@clinic.example", to[:1], letter("X: another\r\n")); end != "250" {
		t.Errorf("end %s", end)
	}
	w.memory.mu.Lock()
	w.memory.fail = errors.New("disk")
	w.memory.mu.Unlock()
	if _, end := w.send("doctor@clinic.example", to[:1], letter("X: a third\r\n")); !strings.HasPrefix(end, "451") {
		t.Errorf("without memory: %s", end)
	}
	got := w.mta.got()
	if len(got) != 3 {
		t.Fatalf("%d copies, want 3", len(got))
	}
	id := func(m taken) string {
		parsed, err := message.Read(bytes.NewReader(m.text))
		if err != nil {
			t.Fatal(err)
		}
		return parsed.All("Message-ID")[0].Value()
	}
	if id(got[0]) == id(got[1]) || id(got[0]) == id(got[2]) {
		t.Error("two copies have one Message-ID")
	}
	// A crash after the hand-over: the same Message-ID comes again.
	w.memory.mu.Lock()
	w.memory.keys, w.memory.fail = map[string]bool{}, nil
	w.memory.mu.Unlock()
	if _, end := w.send("doctor@clinic.example", to[:1], letter()); end != "250" {
		t.Errorf("end %s", end)
	}
	if again := w.mta.got()[3]; id(again) != id(got[0]) {
		t.Errorf("%s, and before %s", id(again), id(got[0]))
	}
}

// The same message that comes again while its copy is under way joins it.
func TestJoined(t *testing.T) {
	w := newWorld(t, judge{"plain.example": always(encrypts(newPGP(t)))})
	w.mta.wait = make(chan struct{})
	ends := make(chan string, 2)
	send := func() {
		_, end := w.send("doctor@clinic.example", []string{"u@plain.example"}, letter())
		ends <- end
	}
	go send()
	<-w.mta.arrived
	go send()
	close(w.mta.wait)
	for range 2 {
		if end := <-ends; end != "250" {
			t.Error(end)
		}
	}
	if n := len(w.mta.got()); n != 1 {
		t.Errorf("%d copies", n)
	}
}

// A copy that comes back, as after postsuper -r, goes on as it is; so does what is
// encrypted already. What only says so doesn't.
func TestComesBack(t *testing.T) {
	w := newWorld(t, judge{"plain.example": always(encrypts(newPGP(t))), "refused.example": always(refuses), "other.example": always(refuses2)})
	w.send("doctor@clinic.example", []string{"u@plain.example"}, letter())
	copied := string(w.mta.got()[0].text)
	received := "Received: by mta.clinic.example (Postfix, from userid 102)\r\n"
	for _, to := range []string{"u@plain.example", "u@refused.example", "u@other.example"} {
		if rcpt, end := w.send("doctor@clinic.example", []string{to}, received+copied); end != "250" {
			t.Errorf("%s: %s, %s", to, rcpt, end)
		}
	}
	if got := w.mta.got(); len(got) != 4 || string(got[1].text) != received+copied || string(got[3].text) != received+copied {
		t.Errorf("%d messages, or not as they were", len(got))
	}
	head, body, _ := strings.Cut(copied, "\r\n\r\n")
	mark, rest, _ := strings.Cut(head, "\r\n")
	if !strings.HasPrefix(mark, markField) {
		t.Fatal(mark)
	}
	// Without the mark it is encrypted all the same, which only some rules let pass.
	if _, end := w.send("doctor@clinic.example", []string{"u@refused.example"}, rest+"\r\n\r\n"+body); end != "250" {
		t.Errorf("encrypted already: %s", end)
	}
	if _, end := w.send("doctor@clinic.example", []string{"u@other.example"}, rest+"\r\n\r\n"+body); end != "550 5.7.10" {
		t.Errorf("encrypted already, and the rule wants TLS: %s", end)
	}
	n := len(w.mta.got())
	// The mark of a copy on other content is none.
	for _, forged := range []string{mark + "\r\n" + letter(), mark + "\r\n" + mark + "\r\n" + rest + "\r\n\r\n" + body + "more",
		mark + "\r\n" + rest + "\r\n\r\nText: " + secretWord + "\r\n" + body} {
		if _, end := w.send("doctor@clinic.example", []string{"u@other.example"}, forged); end != "550 5.7.10" {
			t.Errorf("forged: %s\n%.300s", end, forged)
		}
	}
	if len(w.mta.got()) != n {
		t.Error("a forged copy left")
	}
}

// Addresses and senders as MTAs have them.
func TestPaths(t *testing.T) {
	w := newWorld(t, judge{"plain.example": always(fallback.Way{Action: fallback.Open}),
		"xn--bcher-kva.example": always(fallback.Way{Action: fallback.Open})})
	for _, c := range []struct{ from, to, wantFrom, wantTo string }{
		{"", "u@plain.example", "", "u@plain.example"},
		{`"a b"@clinic.example`, `"u v"@plain.example`, "a b@clinic.example", "u v@plain.example"},
		{"a@clinic.example", `"u@v"@plain.example`, "a@clinic.example", "u@v@plain.example"},
		{"a+b=c@clinic.example", "u/v@PLAIN.example", "a+b=c@clinic.example", "u/v@plain.example"},
		{"grün@clinic.example", "u@bücher.example", "grün@clinic.example", "u@xn--bcher-kva.example"},
	} {
		before := len(w.mta.got())
		c2 := w.dial()
		if err := c2.Mail(c.from, &smtp.MailOptions{UTF8: true}); err != nil {
			t.Errorf("%q: %v", c.from, err)
			continue
		}
		if err := c2.Rcpt(c.to, nil); err != nil {
			t.Errorf("%q: %v", c.to, err)
			continue
		}
		d, err := c2.Data()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(d, letter())
		if err := d.Close(); err != nil {
			t.Errorf("%q: %v", c.to, err)
			continue
		}
		if got := w.mta.got()[before]; got.from != c.wantFrom || got.to[0] != c.wantTo || !got.mail.UTF8 {
			t.Errorf("%+v: %q, %q, %t", c, got.from, got.to, got.mail.UTF8)
		}
	}
}

// Without TLS there is no transaction; a client that goes in the middle leaves
// nothing; a stranger isn't admitted where copies go back.
func TestClosed(t *testing.T) {
	w := newWorld(t, judge{"plain.example": always(encrypts(newPGP(t)))})
	c, err := smtp.Dial(w.address)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Mail("doctor@clinic.example", nil); code(err) != "530 5.7.0" {
		t.Errorf("without TLS: %v", err)
	}
	c.Close()

	cut := w.dial()
	cut.Mail("doctor@clinic.example", nil)
	cut.Rcpt("u@plain.example", nil)
	d, err := cut.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(d, letter())
	cut.Close()
	if _, end := w.send("doctor@clinic.example", []string{"u@plain.example"}, letter("X: y\r\n")); end != "250" {
		t.Error(end)
	}
	if n := len(w.mta.got()); n != 1 {
		t.Errorf("%d messages", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if w.server.c.Reinject.Admits(ctx, netip.MustParseAddrPort("127.0.0.1:9")) {
		t.Error("a stranger is admitted")
	}
	left, err := os.ReadDir(w.spool)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
}

// A large message takes no memory of its size.
func TestMemory(t *testing.T) {
	w := newWorld(t, judge{"plain.example": always(encrypts(newPGP(t)))})
	w.server.c.Reinject = NewReinjector(sinkMTA(t))
	var before, most runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			if now.HeapInuse > most.HeapInuse {
				most = now
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	c := w.dial()
	if err := errors.Join(c.Mail("doctor@clinic.example", nil), c.Rcpt("u@plain.example", nil)); err != nil {
		t.Fatal(err)
	}
	d, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(d, "From: <doctor@clinic.example>\r\n\r\n")
	line := strings.Repeat("abcdefghi", 8) + "\r\n"
	for n := 0; n < 50<<20; n += len(line) {
		if _, err := io.WriteString(d, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-watched
	grew := int64(most.HeapInuse) - int64(before.HeapInuse)
	t.Logf("the heap grew by %d KB", grew>>10)
	if grew > 32<<20 {
		t.Errorf("the heap grew by %d MB", grew>>20)
	}
}

// sinkMTA takes messages and keeps nothing of them.
func sinkMTA(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &sinkSession{}, nil }))
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return ln.Addr().String()
}

type sinkSession struct{}

func (*sinkSession) Mail(string, *smtp.MailOptions) error { return nil }
func (*sinkSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (*sinkSession) Data(r io.Reader) error               { _, err := io.Copy(io.Discard, r); return err }
func (*sinkSession) Reset()                               {}
func (*sinkSession) Logout() error                        { return nil }

// The identity is made once, and isn't read where others may.
func TestIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "gateway.pem")
	one, err := OpenIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := OpenIdentity(path)
	if err != nil || one.Fingerprint() != two.Fingerprint() || len(one.Fingerprint()) != 95 {
		t.Errorf("%s, %s, %v", one.Fingerprint(), two.Fingerprint(), err)
	}
	if !bytes.Equal(one.derive("x"), two.derive("x")) || bytes.Equal(one.derive("x"), one.derive("y")) {
		t.Error("secrets")
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenIdentity(path); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Error(err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenIdentity(path); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Error(err)
	}
}
