package starttls

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is far more than a probe takes that isn't meant to time out; impatience is what one gets that is.
const (
	patience   = 20 * time.Second
	impatience = 150 * time.Millisecond
)

func issue(t *testing.T, spec testnet.CertSpec) tls.Certificate {
	t.Helper()
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(spec)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func start(t *testing.T, config testnet.SMTPConfig) *testnet.SMTP {
	t.Helper()
	h, err := testnet.StartSMTP(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// probe looks at h and checks what holds for every probe: it says nothing that could begin a message. When silent is
// a stage, the probe's time is over as soon as it waits there.
func probe(t *testing.T, h *testnet.SMTP, timeout time.Duration, silent policy.Stage) policy.Observation {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := Prober{HELO: "probe.test", Timeout: timeout, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &ending{conn, cancel, silent}, nil
	}}
	o := p.Probe(ctx, Target{Address: h.Address(), Name: "mx.test"})
	for _, c := range h.Commands() {
		if !slices.Contains([]string{"EHLO probe.test", "HELO probe.test", "STARTTLS", "QUIT"}, c) {
			t.Errorf("the probe said %q", c)
		}
	}
	if o.Address != h.Address() || o.When.IsZero() || o.Took <= 0 {
		t.Errorf("address %s, when %s, took %s", o.Address, o.When, o.Took)
	}
	return o
}

// ending ends a context when the probe waits at a stage.
type ending struct {
	net.Conn
	end   context.CancelFunc
	stage policy.Stage
}

func (c *ending) Read(b []byte) (int, error) {
	if c.stage == policy.StageBanner {
		c.end()
	}
	return c.Conn.Read(b)
}

func (c *ending) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	switch {
	case c.stage == policy.StageEHLO && bytes.HasPrefix(b, []byte("EHLO")),
		c.stage == policy.StageSTARTTLS && bytes.HasPrefix(b, []byte("STARTTLS")),
		c.stage == policy.StageHandshake && b[0] == recordHandshake:
		c.end()
	}
	return n, err
}

// TestProbeFaults meets every fault of testnet. Where the host is silent the caller's context ends the probe.
func TestProbeFaults(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), 0, 0)
	cases := []struct {
		fault   testnet.Fault
		outcome policy.Outcome
		stage   policy.Stage
		detail  string // contained in Detail
		last    string // the last command the host got
	}{
		{testnet.HangConnect, policy.SawTimeout, policy.StageBanner, "timeout", ""},
		{testnet.ResetConnect, policy.SawUnreachable, policy.StageBanner, "reset", ""},
		{testnet.ResetBanner, policy.SawUnreachable, policy.StageBanner, "reset", ""},
		{testnet.Banner421, policy.SawUnreachable, policy.StageBanner, "421 4.3.2 mx.test shutting down", ""},
		{testnet.Banner450, policy.SawUnreachable, policy.StageBanner, "450 4.3.2", "QUIT"},
		{testnet.Banner554, policy.SawUnreachable, policy.StageBanner, "554 5.3.2", "QUIT"},
		{testnet.BannerMultiline, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.BannerSlow, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.BannerGarbage, policy.SawUnreachable, policy.StageBanner, `not an SMTP reply: "HTTP/1.1 400`, ""},
		{testnet.BannerStars, policy.SawMangled, policy.StageEHLO, "250 mx.test", "QUIT"},
		{testnet.BannerLong, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.BannerEndless, policy.SawUnreachable, policy.StageBanner, "more than 1048576 octets", ""},
		{testnet.HangEHLO, policy.SawTimeout, policy.StageEHLO, "timeout", ""},
		{testnet.ResetEHLO, policy.SawUnreachable, policy.StageEHLO, "reset", "EHLO probe.test"},
		{testnet.EHLO421, policy.SawUnreachable, policy.StageEHLO, "421 4.3.2", "EHLO probe.test"},
		{testnet.EHLO451, policy.SawUnreachable, policy.StageEHLO, "451 4.3.0", "QUIT"},
		{testnet.EHLO502, policy.SawNoSTARTTLS, policy.StageEHLO, "250 mx.test", "QUIT"},
		{testnet.EHLOMangled, policy.SawMangled, policy.StageEHLO, "XXXXXXXA", "QUIT"},
		{testnet.EHLOLong, policy.SawNoSTARTTLS, policy.StageEHLO, "250 mx.test", "QUIT"},
		{testnet.EHLOEndless, policy.SawUnreachable, policy.StageEHLO, "more than 1048576 octets", "EHLO probe.test"},
		{testnet.NoSTARTTLS, policy.SawNoSTARTTLS, policy.StageEHLO, "PIPELINING", "QUIT"},
		{testnet.STARTTLS421, policy.SawUnreachable, policy.StageSTARTTLS, "421 4.3.2", "STARTTLS"},
		{testnet.STARTTLS454, policy.SawRefused, policy.StageSTARTTLS, "454 4.7.0 TLS not available", "QUIT"},
		{testnet.STARTTLS502, policy.SawRefused, policy.StageSTARTTLS, "502 5.5.1", "QUIT"},
		{testnet.ResetSTARTTLS, policy.SawUnreachable, policy.StageSTARTTLS, "reset", "STARTTLS"},
		{testnet.EndlessSTARTTLS, policy.SawUnreachable, policy.StageSTARTTLS, "more than 1048576 octets", "STARTTLS"},
		{testnet.HangSTARTTLS, policy.SawTimeout, policy.StageSTARTTLS, "timeout", ""},
		{testnet.GarbageAfter, policy.SawBroken, policy.StageHandshake, "", "STARTTLS"},
		{testnet.CloseAfter, policy.SawBroken, policy.StageHandshake, "", "STARTTLS"},
		{testnet.ResetAfter, policy.SawBroken, policy.StageHandshake, "", "STARTTLS"},
		{testnet.InjectAfter, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.HangHandshake, policy.SawTimeout, policy.StageHandshake, "", ""},
		{testnet.HandshakeAlert, policy.SawBroken, policy.StageHandshake, "remote error: tls: internal error", "STARTTLS"},
		{testnet.HelloRequests, policy.SawBroken, policy.StageHandshake, "", "STARTTLS"},
		{testnet.Drip, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.HangQuit, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.ResetQuit, policy.SawTLS, policy.StageQuit, "", "QUIT"},
		{testnet.EndlessQuit, policy.SawTLS, policy.StageQuit, "", "QUIT"},
	}
	met := map[testnet.Fault]bool{}
	for _, c := range cases {
		met[c.fault] = true
		t.Run(string(c.fault), func(t *testing.T) {
			h := start(t, testnet.SMTPConfig{TLS: config, Fault: c.fault, Delay: time.Millisecond})
			var silent policy.Stage
			if c.outcome == policy.SawTimeout {
				silent = c.stage
			}
			o := probe(t, h, patience, silent)
			if o.Stage == policy.StageConnect && c.stage == policy.StageBanner && c.detail == "reset" {
				o.Stage = c.stage // a reset may come before connect has looked
			}
			if o.Outcome != c.outcome || o.Stage != c.stage || !strings.Contains(o.Detail, c.detail) {
				t.Errorf("%s at %s: %q, want %s at %s: %q", o.Outcome, o.Stage, o.Detail, c.outcome, c.stage, c.detail)
			}
			if (o.Detail == "") != (c.outcome == policy.SawTLS) {
				t.Errorf("detail %q with %s", o.Detail, o.Outcome)
			}
			if (o.Version != 0) != (c.outcome == policy.SawTLS) || (len(o.Chain) > 0) != (c.outcome == policy.SawTLS) {
				t.Errorf("version %q, %d certificates with %s", o.Version, len(o.Chain), o.Outcome)
			}
			last := ""
			if cmds := h.Commands(); len(cmds) > 0 {
				last = cmds[len(cmds)-1]
			}
			if last != c.last && silent == "" { // what gets no reply may not have been read yet
				t.Errorf("last command %q, want %q", last, c.last)
			}
			connections := 1
			if c.outcome == policy.SawBroken && c.stage == policy.StageHandshake {
				connections = 2 // a hello of our own
				if c.fault != testnet.GarbageAfter && c.fault != testnet.HelloRequests {
					connections = 3 // the host ended it, which may be for its name in the hello
				}
			}
			if n := h.Connections(); n != connections && silent != policy.StageBanner { // nor may that one have been accepted yet
				t.Errorf("%d connections, want %d", n, connections)
			}
		})
	}
	for _, f := range testnet.Faults() {
		if !met[f] {
			t.Errorf("fault %s isn't met", f)
		}
	}
}

// TestProbeSlow: the prober's own timeout ends what is slower, also when something comes all the time.
func TestProbeSlow(t *testing.T) {
	for f, delay := range map[testnet.Fault]time.Duration{
		testnet.BannerSlow: time.Hour, testnet.BannerMultiline: time.Hour, testnet.Drip: impatience / 3,
	} {
		h := start(t, testnet.SMTPConfig{Fault: f, Delay: delay})
		if o := probe(t, h, impatience, ""); o.Outcome != policy.SawTimeout || o.Stage != policy.StageBanner {
			t.Errorf("%s: %s at %s: %s", f, o.Outcome, o.Stage, o.Detail)
		}
	}
}

// TestProbeTLS observes hosts that MTAs can still meet, each as it is.
func TestProbeTLS(t *testing.T) {
	ecdsa := issue(t, testnet.CertSpec{Names: []string{"mx.test", "192.0.2.1"}, Intermediates: 1})
	rsa := issue(t, testnet.CertSpec{Names: []string{"mx.test"}, RSA: true})
	expired := issue(t, testnet.Expired("mx.test"))
	self := issue(t, testnet.SelfSigned("mx.test"))
	wrong := issue(t, testnet.CertSpec{Names: []string{"other.test"}, ExtraChain: 2})
	classic := testnet.ServerTLS(ecdsa, 0, 0)
	classic.CurvePreferences = []tls.CurveID{tls.X25519}
	p521 := testnet.ServerTLS(ecdsa, 0, tls.VersionTLS12)
	p521.CurvePreferences = []tls.CurveID{tls.CurveP521}
	for _, c := range []struct {
		name     string
		config   *tls.Config
		version  policy.Version
		cipher   string
		bits     int
		exchange string
		chain    int
		key      string
	}{
		{"default", testnet.ServerTLS(ecdsa, 0, 0), policy.TLS13, "TLS_AES_128_GCM_SHA256", 128, "X25519MLKEM768", 2, "ECDSA P-256"},
		{"classic", classic, policy.TLS13, "TLS_AES_128_GCM_SHA256", 128, "X25519", 2, "ECDSA P-256"},
		{"1.2 only", testnet.ServerTLS(ecdsa, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), policy.TLS12,
			"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 256, "X25519", 2, "ECDSA P-256"},
		{"P-521", p521, policy.TLS12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 128, "CurveP521", 2, "ECDSA P-256"},
		{"1.1 only", testnet.ServerTLS(rsa, tls.VersionTLS11, tls.VersionTLS11), policy.TLS11,
			"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", 128, "X25519", 1, "RSA 2048"},
		{"1.0 only", testnet.ServerTLS(ecdsa, tls.VersionTLS10, tls.VersionTLS10), policy.TLS10,
			"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", 128, "X25519", 2, "ECDSA P-256"},
		{"RSA key exchange", testnet.ServerTLS(rsa, 0, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384), policy.TLS12,
			"TLS_RSA_WITH_AES_256_GCM_SHA384", 256, "RSA", 1, "RSA 2048"},
		{"3DES", testnet.ServerTLS(rsa, tls.VersionTLS10, tls.VersionTLS12, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA), policy.TLS12,
			"TLS_RSA_WITH_3DES_EDE_CBC_SHA", 112, "RSA", 1, "RSA 2048"},
		{"RC4", testnet.ServerTLS(rsa, tls.VersionTLS10, tls.VersionTLS10, tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA), policy.TLS10,
			"TLS_ECDHE_RSA_WITH_RC4_128_SHA", 128, "X25519", 1, "RSA 2048"},
		{"expired", testnet.ServerTLS(expired, 0, 0), policy.TLS13, "TLS_AES_128_GCM_SHA256", 128, "X25519MLKEM768", 1, "ECDSA P-256"},
		{"self-signed", testnet.ServerTLS(self, 0, 0), policy.TLS13, "TLS_AES_128_GCM_SHA256", 128, "X25519MLKEM768", 1, "ECDSA P-256"},
		{"wrong name", testnet.ServerTLS(wrong, 0, 0), policy.TLS13, "TLS_AES_128_GCM_SHA256", 128, "X25519MLKEM768", 3, "ECDSA P-256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start(t, testnet.SMTPConfig{TLS: c.config})
			o := probe(t, h, patience, "")
			if o.Outcome != policy.SawTLS || o.Stage != policy.StageQuit || o.HelloOnly || o.Detail != "" {
				t.Fatalf("%s at %s, hello only %t: %s", o.Outcome, o.Stage, o.HelloOnly, o.Detail)
			}
			if o.Version != c.version || o.Bits != c.bits || o.Exchange != c.exchange {
				t.Errorf("version %s, %d bits, exchange %s", o.Version, o.Bits, o.Exchange)
			}
			// With TLS 1.3 the cipher hangs on whether this machine has AES instructions.
			if o.Cipher != c.cipher && c.version != policy.TLS13 {
				t.Errorf("cipher %s, want %s", o.Cipher, c.cipher)
			}
			shown := c.config.Certificates[0].Certificate
			if len(o.Chain) != c.chain || len(shown) != c.chain {
				t.Fatalf("%d certificates of %d, want %d", len(o.Chain), len(shown), c.chain)
			}
			for i, der := range shown {
				sum := sha256.Sum256(der)
				if !bytes.Equal(o.Chain[i].Raw, der) || o.Chain[i].Fingerprint != hex.EncodeToString(sum[:]) {
					t.Errorf("certificate %d isn't the one shown", i)
				}
			}
			if o.Chain[0].Key != c.key {
				t.Errorf("key %s, want %s", o.Chain[0].Key, c.key)
			}
			if o.Banner != "mx.test ESMTP" || !slices.Contains(o.Extensions, "SIZE 33554432") || o.Extensions[0] != "PIPELINING" {
				t.Errorf("banner %q, extensions %q", o.Banner, o.Extensions)
			}
			if want := []string{"EHLO probe.test", "STARTTLS", "EHLO probe.test", "QUIT"}; !slices.Equal(h.Commands(), want) {
				t.Errorf("commands %q, want %q", h.Commands(), want)
			}
			if plain := string(h.Plaintext()); plain != "EHLO probe.test\r\nSTARTTLS\r\n" {
				t.Errorf("said in the clear: %q", plain)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	cert := issue(t, testnet.CertSpec{Names: []string{"mx.test", "*.mx.test", "192.0.2.1", "2001:db8::1"}, CommonName: "a\nb\x1b[2J"})
	got := Certificates([]*x509.Certificate{cert.Leaf})
	if len(got) != 1 {
		t.Fatalf("%d certificates", len(got))
	}
	c := got[0]
	if c.Issuer != "CN=testnet root" || c.Signature != "ECDSA-SHA256" || c.Key != "ECDSA P-256" ||
		!slices.Equal(c.Names, []string{"mx.test", "*.mx.test", "192.0.2.1", "2001:db8::1"}) ||
		!c.NotAfter.Equal(cert.Leaf.NotAfter) || !c.NotBefore.Equal(cert.Leaf.NotBefore) {
		t.Errorf("%+v", c)
	}
	if strings.ContainsAny(c.Subject, "\n\x1b") || !strings.HasPrefix(c.Subject, "CN=a?b") {
		t.Errorf("subject %q is not printable", c.Subject)
	}
}

func TestProbeNoConnection(t *testing.T) {
	h := start(t, testnet.SMTPConfig{})
	closed := h.Address()
	h.Close()
	refused := (&Prober{}).Probe(t.Context(), Target{Address: closed})
	if refused.Outcome != policy.SawUnreachable || refused.Stage != policy.StageConnect || !strings.Contains(refused.Detail, "refused") {
		t.Errorf("closed port: %s at %s: %s", refused.Outcome, refused.Stage, refused.Detail)
	}
	for err, want := range map[error]policy.Outcome{
		syscall.EHOSTUNREACH:                    policy.SawUnreachable,
		syscall.ETIMEDOUT:                       policy.SawTimeout, // the kernel's patience ended before ours
		context.DeadlineExceeded:                policy.SawTimeout,
		errors.New("no route, said the dialer"): policy.SawUnreachable,
	} {
		p := Prober{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}}
		o := p.Probe(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:25")})
		if o.Outcome != want || o.Stage != policy.StageConnect {
			t.Errorf("%v: %s at %s, want %s", err, o.Outcome, o.Stage, want)
		}
	}
}

func TestMasked(t *testing.T) {
	for word, want := range map[string]bool{
		"XXXXXXXA": true, "XXXXXXXX": true, "XXXXXXXXXXXB": true, "XXXXXXA": false, "STARTTLS": false,
		"XEXCH50XX": false, "XXXXXXX1": false, "": false, "X": false, "X-EXPS": false,
	} {
		if masked(word) != want {
			t.Errorf("masked(%q) = %t", word, !want)
		}
	}
	for line, want := range map[string]string{
		"starttls": "STARTTLS", "STARTTLS now": "STARTTLS", "AUTH=LOGIN": "AUTH", " STARTTLS": "STARTTLS", "STARTTLSX": "STARTTLSX", "": "",
	} {
		if got := keyword(line); got != want {
			t.Errorf("keyword(%q) = %q, want %q", line, got, want)
		}
	}
}

// TestProbePort465: there TLS comes before the banner, and what speaks SMTP at once has no TLS to show.
func TestProbePort465(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), 0, 0)
	for _, c := range []struct {
		name   string
		tls    bool
		banner string
		want   policy.Outcome
		stage  policy.Stage
		heard  string
	}{
		{"tls", true, "220 mx.test", policy.SawTLS, policy.StageQuit, "EHLO probe.test\r\nQUIT\r\n"},
		{"no service", true, "554 not here", policy.SawUnreachable, policy.StageBanner, "QUIT\r\n"},
		{"plain", false, "220 mx.test", policy.SawBroken, policy.StageHandshake, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			heard := make(chan string, 1)
			go func() {
				defer close(heard)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if c.tls {
						conn = tls.Server(conn, config)
					}
					conn.Write([]byte(c.banner + "\r\n"))
					in, text := bufio.NewReader(conn), ""
					for line := ""; err == nil && line != "QUIT\r\n"; text += line {
						if line, err = in.ReadString('\n'); err == nil {
							conn.Write([]byte("250 mx.test\r\n"))
						}
					}
					conn.Close()
					if c.tls {
						heard <- text
					}
				}
			}()
			p := Prober{HELO: "probe.test", Timeout: patience, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
			}}
			o := p.Probe(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:465"), Name: "mx.test"})
			l.Close()
			if o.Outcome != c.want || o.Stage != c.stage {
				t.Errorf("got %s at %s (%s), want %s at %s", o.Outcome, o.Stage, o.Detail, c.want, c.stage)
			}
			if text := <-heard; text != c.heard {
				t.Errorf("the probe said %q over TLS", text)
			}
			if c.want == policy.SawTLS && (o.Version != policy.TLS13 || o.Banner != "mx.test" || len(o.Chain) == 0) {
				t.Errorf("got %+v", o)
			}
		})
	}
}
