package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// awayAddress is a client's address that isn't a loopback one; the namespaces have it on their only interface.
const awayAddress = "192.0.2.10"

const inboundRules = `
[[inbound]]
name = "gateway"
from = ["@insurer.example"]
tls = "verified"
cert = ["gw.insurer.example"]
[[inbound]]
name = "partner"
from = ["@partner.example"]
tls = "verified"
[[inbound]]
name = "strong"
to = ["vip@good.example"]
tls = "encrypt"
min_version = "1.3"
on_fail = "defer"
[[inbound]]
name = "watched"
to = ["watched@good.example"]
tls = "encrypt"
mode = "observe"
[[inbound]]
name = "held"
to = ["held@good.example"]
tls = "encrypt"
on_fail = "hold"
[[inbound]]
name = "free"
to = ["free@good.example"]
tls = "may"
[[inbound]]
name = "proxy"
client = ["127.0.0.9"]
tls = "encrypt"
[[inbound]]
name = "named"
client = ["@.named.example"]
tls = "encrypt"
[[inbound]]
name = "patients"
to = ["@good.example", "@local.example"]
tls = "encrypt"
`

func inboundHead(header bool) string {
	return strings.Replace(daemonHead, "[dns]", fmt.Sprintf("inbound_header = %v\n[dns]", header), 1)
}

// haveAway gives the namespaces awayAddress.
func haveAway(t *testing.T) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo:away")
	if err == nil {
		err = lo.SetInet4Addr(net.ParseIP(awayAddress).To4())
	}
	if err == nil {
		err = unix.IoctlIfreq(s, unix.SIOCSIFADDR, lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// inboundMTAs runs a test with MTAs that take TLS and ask clients for certificates of ca.
func inboundMTAs(t *testing.T, test func(t *testing.T, ca *testnet.CA, start func() realMTA)) {
	isolated(t)
	haveAway(t)
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	files := func(t *testing.T) (cert, key, roots string) {
		dir, err := rig.TempDir()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		c := issue(t, ca, testnet.CertSpec{Names: []string{"mta.test"}})
		der, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		cert, key, roots = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
		for path, text := range map[string][]byte{
			cert:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
			key:   pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
			roots: ca.PEM(),
		} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return cert, key, roots
	}
	t.Run("postfix", func(t *testing.T) {
		test(t, ca, func() realMTA {
			cert, key, roots := files(t)
			_, m := startPostfix(t, map[string]string{
				"mynetworks":                     "127.0.0.0/8, 192.0.2.0/24",
				"smtpd_tls_security_level":       "may",
				"smtpd_tls_chain_files":          key + ", " + cert,
				"smtpd_tls_ask_ccert":            "yes",
				"smtpd_tls_CAfile":               roots,
				"smtpd_tls_protocols":            ">=TLSv1",
				"tls_medium_cipherlist":          "DEFAULT@SECLEVEL=0",
				"smtpd_authorized_xclient_hosts": "127.0.0.0/8",
			}, map[string]string{"alice": "secret"})
			return m
		})
	})
	t.Run("sendmail", func(t *testing.T) {
		test(t, ca, func() realMTA {
			cert, key, roots := files(t)
			_, m := startSendmail(t, "RELAY_DOMAIN(`"+awayAddress+"')dnl", "RELAY_DOMAIN(`127.0.0.9')dnl",
				"define(`confSERVER_CERT', `"+cert+"')dnl", "define(`confSERVER_KEY', `"+key+"')dnl",
				"define(`confCACERT', `"+roots+"')dnl", "define(`confCACERT_PATH', `"+filepath.Dir(roots)+"')dnl")
			return m
		})
	})
}

func issue(t *testing.T, ca *testnet.CA, spec testnet.CertSpec) tls.Certificate {
	t.Helper()
	c, err := ca.Issue(spec)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect is dial from an address, with STARTTLS where there is a configuration.
func connect(t *testing.T, m realMTA, from string, config *tls.Config) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	raw, err := d.DialContext(t.Context(), "tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, conn: textproto.NewConn(raw)}
	if got, err := c.reply(); err != nil || !strings.HasPrefix(got, "220") {
		t.Fatalf("greeting: %s, %v", got, err)
	}
	c.expect("EHLO client.example", "250")
	if config == nil {
		return c
	}
	c.expect("STARTTLS", "220")
	config = config.Clone()
	config.InsecureSkipVerify = true // the server is known
	inTLS := tls.Client(raw, config)
	if err := inTLS.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.conn = textproto.NewConn(inTLS)
	c.expect("EHLO client.example", "250")
	return c
}

// tlsOf is a client's configuration: one version, and the certificate it shows, if any.
func tlsOf(version uint16, certs ...tls.Certificate) *tls.Config {
	c := &tls.Config{MinVersion: version, MaxVersion: version}
	if len(certs) > 0 {
		// Not Certificates: Go would keep one back that the server's list of authorities doesn't have.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	return c
}

// What the rules make of each way to come in, as a real MTA tells it.
func TestMTAInbound(t *testing.T) {
	inboundMTAs(t, func(t *testing.T, ca *testnet.CA, start func() realMTA) {
		newWorld(t)
		d := startDaemon(t, inboundHead(false)+inboundRules)
		m := start()
		stranger, err := testnet.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		gateway := testnet.CertSpec{Names: []string{"gw.insurer.example"}, Client: true}
		good := issue(t, ca, gateway)
		forServers := issue(t, ca, testnet.CertSpec{Names: []string{"gw.insurer.example"}})
		other := issue(t, ca, testnet.CertSpec{CommonName: "Other Gateway+1", Client: true})
		unknown := issue(t, stranger, gateway)
		expired := issue(t, ca, testnet.CertSpec{Names: gateway.Names, Client: true, NotBefore: time.Now().AddDate(0, -1, 0), NotAfter: time.Now().AddDate(0, 0, -1)})

		const mustTLS = "550 5.7.10 TLS required: STARTTLS must come first"
		const needCert = "550 5.7.10 TLS required: a client certificate that this site can verify"
		const otherCert = "550 5.7.10 TLS required: the client certificate agreed on"
		for i, c := range []struct {
			address  string
			config   *tls.Config
			from, to string
			want     string
		}{
			{awayAddress, nil, "x@other.example", "u@good.example", mustTLS},
			{awayAddress, nil, "x@other.example", "free@good.example", "250"},
			{awayAddress, nil, "x@other.example", "watched@good.example", "250"},
			{awayAddress, nil, "x@other.example", "u@none.example", "250"},
			{awayAddress, nil, "", "u@good.example", mustTLS},
			{awayAddress, tlsOf(tls.VersionTLS12), "x@other.example", "u@good.example", "250"},
			{awayAddress, tlsOf(tls.VersionTLS12), "x@other.example", "vip@good.example", "451 4.7.10 TLS required: TLS 1.3 or later"},
			{awayAddress, tlsOf(tls.VersionTLS13), "x@other.example", "vip@good.example", "250"},
			{awayAddress, nil, "x@insurer.example", "u@none.example", mustTLS},
			{awayAddress, tlsOf(tls.VersionTLS13), "x@insurer.example", "u@none.example", needCert},
			{awayAddress, tlsOf(tls.VersionTLS13, unknown), "x@insurer.example", "u@none.example", needCert},
			{awayAddress, tlsOf(tls.VersionTLS13, expired), "x@insurer.example", "u@none.example", needCert},
			{awayAddress, tlsOf(tls.VersionTLS13, forServers), "x@insurer.example", "u@none.example", needCert},
			{awayAddress, tlsOf(tls.VersionTLS13, other), "x@insurer.example", "u@none.example", otherCert},
			{awayAddress, tlsOf(tls.VersionTLS13, good), "x@insurer.example", "u@none.example", "250"},
			{awayAddress, tlsOf(tls.VersionTLS12, good), "x@insurer.example", "u@none.example", "250"},
			{awayAddress, tlsOf(tls.VersionTLS13, other), "x@partner.example", "u@none.example", "250"},
			{"127.0.0.1", nil, "x@insurer.example", "vip@good.example", "250"}, // from this host
			{"127.0.0.9", nil, "x@other.example", "u@none.example", mustTLS},   // a proxy that is named
			{"127.0.0.9", tlsOf(tls.VersionTLS13), "x@other.example", "u@none.example", "250"},
		} {
			s := connect(t, m, c.address, c.config)
			s.expect("MAIL FROM:<"+c.from+">", "250")
			want := c.want
			if want[:3] == "550" { // Sendmail puts the recipient before the text with this code
				want = want[:11] + m.prefix(c.to) + want[11:]
			}
			got, err := s.say("RCPT TO:<" + c.to + ">")
			if err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("%d: %s to %s: got %q, %v; want %q", i, c.from, c.to, got, err, want)
			}
			s.conn.Close()
		}
		d.wait("the log to name the certificate", func() bool {
			return strings.Contains(d.log(), `reason=wrong-certificate tls_version=1.3 bits=256 cert="Other Gateway+1"`) ||
				strings.Contains(d.log(), `reason=wrong-certificate tls_version=1.3 bits=128 cert="Other Gateway+1"`)
		})
		if !strings.Contains(d.log(), "msg=inbound") || !strings.Contains(d.log(), "["+awayAddress+"] from=x@other.example rcpt=u@good.example rule=patients verdict=reject reason=no-tls") {
			t.Errorf("the log says:\n%s", d.log())
		}

		// The session's TLS counts for each of its messages, and one refused recipient leaves the others.
		s := connect(t, m, awayAddress, tlsOf(tls.VersionTLS12))
		for range 3 {
			s.expect("MAIL FROM:<x@other.example>", "250")
			s.expect("RCPT TO:<vip@good.example>", "451")
			s.expect("RCPT TO:<u@good.example>", "250")
			s.data("250", "Subject: several")
			s.expect("MAIL FROM:<x@other.example>", "250")
			s.expect("RSET", "250")
		}
		s = connect(t, m, awayAddress, nil)
		s.expect("MAIL FROM:<doctor@clinic.example>", "250")
		s.expect("RCPT TO:<held@good.example>", "250")
		s.data("250", "Subject: held", "From: doctor@clinic.example")
		d.wait("the line of the held message", func() bool { return strings.Contains(d.log(), "rule=held verdict=hold reason=no-tls") })
		waitFor(t, "a message in quarantine", func() bool { return m.held() == 1 })
	})
}

// The header says how mail came in and stands first; forged ones go, mail from this host is left alone.
func TestMTAInboundHeader(t *testing.T) {
	inboundMTAs(t, func(t *testing.T, ca *testnet.CA, start func() realMTA) {
		world := newWorld(t)
		startDaemon(t, inboundHead(true)+inboundRules)
		m := start()
		cert := issue(t, ca, testnet.CertSpec{Names: []string{"gw.insurer.example"}, Client: true})
		for i, c := range []struct {
			address  string
			config   *tls.Config
			from, to string
			want     []string // the header has all these; none: it is as it came
		}{
			{awayAddress, nil, "x@other.example", "free@good.example", []string{`TLS-Only-Inbound: pass; version=none; rule="free"`}},
			{awayAddress, nil, "x@other.example", "watched@good.example", []string{"TLS-Only-Inbound: observe; version=none;", `rule="watched"; reason=no-tls; would=reject`}},
			{awayAddress, tlsOf(tls.VersionTLS12), "x@other.example", "u@good.example", []string{"TLS-Only-Inbound: pass; version=TLSv1.2; cipher=ECDHE-ECDSA-", "; bits=", `rule="patients"`}},
			{awayAddress, tlsOf(tls.VersionTLS13, cert), "x@insurer.example", "u@good.example",
				[]string{"TLS-Only-Inbound: pass; version=TLSv1.3; cipher=TLS_", `; cert="gw.insurer.example";`, `rule="gateway"`}},
			{awayAddress, tlsOf(tls.VersionTLS13), "x@other.example", "u@self.example", []string{"TLS-Only-Inbound: none; version=TLSv1.3; cipher=TLS_"}},
			{"127.0.0.1", nil, "x@other.example", "u@good.example", nil},
		} {
			domain := c.to[strings.IndexByte(c.to, '@')+1:]
			before := len(world.Messages(domain))
			s := connect(t, m, c.address, c.config)
			s.expect("MAIL FROM:<"+c.from+">", "250")
			s.expect("RCPT TO:<"+c.to+">", "250")
			s.data("250", "TLS-Only-Inbound: pass; forged=1", "Subject: header", "tls-only-inbound: forged=2", "From: x@other.example", "TLS-ONLY-INBOUND: pass;", " forged=3")
			fields := headerOf(t, waitMessages(t, world, domain, before+1)[before])
			got := named(fields, "TLS-Only-Inbound")
			if c.want == nil {
				if len(got) != 3 {
					t.Errorf("%d: mail from this host was touched: %q", i, got)
				}
				continue
			}
			if len(got) != 1 || got[0] != fields[0] {
				t.Errorf("%d: got %q, first field %q", i, got, fields[0])
				continue
			}
			for _, w := range c.want {
				if !strings.Contains(got[0], w) {
					t.Errorf("%d: %q lacks %q", i, got[0], w)
				}
			}
			s.conn.Close()
		}
	})
}

// TLS 1.1, a client's name, and a login, with the MTA that can be made to show them.
func TestMTAInboundPostfix(t *testing.T) {
	inboundMTAs(t, func(t *testing.T, ca *testnet.CA, start func() realMTA) {
		if !strings.HasSuffix(t.Name(), "/postfix") {
			t.Skip("Postfix's own")
		}
		newWorld(t)
		d := startDaemon(t, inboundHead(false)+inboundRules)
		m := start()
		s := connect(t, m, awayAddress, tlsOf(tls.VersionTLS11))
		s.expect("MAIL FROM:<x@other.example>", "250")
		s.expect("RCPT TO:<u@good.example>", "550 5.7.10 TLS required: TLS 1.2 or later for mail to u@good.example")

		// XCLIENT: a proxy tells whose mail it is, and that client counts.
		s = connect(t, m, "127.0.0.1", nil)
		s.expect("XCLIENT NAME=mail.named.example ADDR="+awayAddress, "220")
		s.expect("EHLO client.example", "250")
		s.expect("MAIL FROM:<x@other.example>", "250")
		s.expect("RCPT TO:<u@none.example>", "550 5.7.10 TLS required: STARTTLS must come first for mail to u@none.example")
		d.wait("the client's name in the log", func() bool { return strings.Contains(d.log(), "client=mail.named.example["+awayAddress+"]") })
		s = connect(t, m, "127.0.0.1", nil)
		s.expect("XCLIENT NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE]", "220")
		s.expect("EHLO client.example", "250")
		s.expect("MAIL FROM:<x@other.example>", "250")
		s.expect("RCPT TO:<u@local.example>", "550 5.7.10 TLS required: STARTTLS") // of whom nothing is known is not this host

		// A login is asked for TLS, and stands for a certificate, not for its name.
		for _, c := range []struct {
			config     *tls.Config
			from, want string
		}{
			{nil, "x@partner.example", "550 5.7.10 TLS required: STARTTLS"},
			{tlsOf(tls.VersionTLS13), "x@partner.example", "250"},
			{tlsOf(tls.VersionTLS13), "x@insurer.example", "550 5.7.10 TLS required: a client certificate"},
		} {
			s := connect(t, m, awayAddress, c.config)
			s.login("alice", "secret")
			s.expect("MAIL FROM:<"+c.from+">", "250")
			s.expect("RCPT TO:<u@none.example>", c.want)
		}
	})
}

// sendmail(1) hands mail in on this host: no rule asks anything of it, and its recipients can't be refused.
func TestMTAInboundPickup(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	d := startDaemon(t, inboundHead(true)+strings.Replace(inboundRules, "127.0.0.9", "127.0.0.0/8", 1))
	p, m := startPostfix(t, nil, nil)
	if _, err := p.Run(patient(t), "Subject: pickup\nTLS-Only-Inbound: kept\n\nHello.\n", "sendmail", "-i", "-f", "x@insurer.example", "u@good.example"); err != nil {
		t.Fatal(err)
	}
	got := named(headerOf(t, waitMessages(t, world, "good.example", 1)[0]), "TLS-Only-Inbound")
	if len(got) != 1 || got[0] != "TLS-Only-Inbound: kept" {
		t.Errorf("%q", got)
	}
	d.wait("the line of the message", func() bool { return strings.Contains(d.log(), "rule=gateway verdict=accept") })
	if bad := m.logs("milter configuration error"); len(bad) > 0 {
		t.Errorf("%q", bad)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}

	s, _ := startSendmail(t)
	c := onStandardInput(t, s)
	c.expect("EHLO client.example", "250")
	c.expect("MAIL FROM:<x@insurer.example>", "250")
	c.expect("RCPT TO:<v@good.example>", "250")
	c.data("250", "Subject: standard input", "TLS-Only-Inbound: kept")
	c.expect("QUIT", "221")
	got = named(headerOf(t, waitMessages(t, world, "good.example", 2)[1]), "TLS-Only-Inbound")
	if len(got) != 1 || got[0] != "TLS-Only-Inbound: kept" {
		t.Errorf("%q", got)
	}
}

// onStandardInput is a client of sendmail -bs.
func onStandardInput(t *testing.T, s *rig.Sendmail) *client {
	t.Helper()
	cmd := s.Command(patient(t), "sendmail", "-C", s.Cf, "-bs")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	c := &client{t: t, conn: textproto.NewConn(struct {
		io.Reader
		io.WriteCloser
	}{out, in})}
	if got, err := c.reply(); err != nil || !strings.HasPrefix(got, "220") {
		t.Fatalf("greeting: %s, %v", got, err)
	}
	return c
}
