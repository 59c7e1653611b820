package starttls

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
	"tlsonly/internal/testnet"
)

// The scripted parts of a server's flight.

func record(kind byte, body ...byte) []byte {
	return append([]byte{kind, 3, 3}, vector(2, body)...)
}

func message(kind byte, body ...byte) []byte { return append([]byte{kind}, vector(3, body)...) }

func serverHelloMessage(version, id uint16, random string, extensions ...byte) []byte {
	body := append(numbers(version), (random + strings.Repeat("r", 32-len(random)))...)
	body = append(body, vector(1, nil)...)
	body = append(append(body, numbers(id)...), 0)
	if extensions != nil {
		body = append(body, vector(2, extensions)...)
	}
	return message(msgServerHello, body...)
}

// version13 is the supported_versions extension that chooses TLS 1.3, keyShare one that chooses a group.
func version13() []byte {
	return append(numbers(extSupportedVersions), vector(2, numbers(tls.VersionTLS13))...)
}

func keyShare(group uint16) []byte { return append(numbers(extKeyShare), vector(2, numbers(group))...) }

func certificates(ders ...[]byte) []byte {
	var list []byte
	for _, der := range ders {
		list = append(list, vector(3, der)...)
	}
	return message(msgCertificate, vector(3, list)...)
}

// dheFlight is the whole flight of a TLS 1.2 server that speaks DHE with a prime of 1024 bits only.
func dheFlight(ders ...[]byte) []byte {
	prime := append([]byte{0, 0x80}, make([]byte, 127)...)
	exchange := append(vector(2, prime), 0, 1, 2, 0, 1, 5)
	return slices.Concat(
		record(recordHandshake, serverHelloMessage(tls.VersionTLS12, 0x009f, "")...),
		record(recordHandshake, certificates(ders...)...),
		record(recordHandshake, slices.Concat(message(msgServerKeyExchange, exchange...), message(msgServerHelloDone))...),
	)
}

type flight struct {
	name  string
	want  string // version and key exchange
	bytes []byte
}

func goodFlights() []flight {
	hello12 := serverHelloMessage(tls.VersionTLS12, 0xc030, "")
	done := message(msgServerHelloDone)
	hello13 := serverHelloMessage(tls.VersionTLS12, 0x1302, "", append(version13(), keyShare(29)...)...)
	split := record(recordHandshake, hello12...)
	return []flight{
		{"1.2 DHE 1024", "1.2 DHE 1024", dheFlight([]byte("not a certificate"))},
		{"plain", "1.2 ", slices.Concat(split, record(recordHandshake, done...))},
		{"one record", "1.2 ", record(recordHandshake, slices.Concat(hello12, done)...)},
		{"in pieces", "1.2 ", slices.Concat(record(recordHandshake, hello12[:3]...), record(recordHandshake, hello12[3:20]...), record(recordHandshake, slices.Concat(hello12[20:], done)...))},
		{"after a warning", "1.2 ", slices.Concat(record(recordAlert, 1, 112), split, record(recordHandshake, done...))}, // unrecognized_name
		{"1.2 X448", "1.2 X448", slices.Concat(split, record(recordHandshake, slices.Concat(
			message(msgServerKeyExchange, 3, 0, 30, 1, 4), done)...))},
		{"explicit curve", "1.2 ", slices.Concat(split, record(recordHandshake, slices.Concat(message(msgServerKeyExchange, 1, 0, 30), done)...))},
		{"SSL 3.0 RSA", "SSL 3.0 RSA", record(recordHandshake, slices.Concat(serverHelloMessage(0x0300, 0x0005, ""), done)...)},
		{"1.0 RSA", "1.0 RSA", record(recordHandshake, slices.Concat(serverHelloMessage(tls.VersionTLS10, 0x000a, ""), done)...)},
		{"1.2 DH anonymous", "1.2 DH anonymous", record(recordHandshake, slices.Concat(serverHelloMessage(tls.VersionTLS12, 0x00a7, ""), done)...)},
		{"1.3 X25519", "1.3 X25519", slices.Concat(record(recordHandshake, hello13...), record(recordChangeCipher, 1), record(recordData, 1, 2, 3))},
		{"1.3 brainpoolP384r1", "1.3 brainpoolP384r1", record(recordHandshake, serverHelloMessage(tls.VersionTLS12, 0x1301, retryRandom,
			append(version13(), keyShare(27)...)...)...)}, // a HelloRetryRequest: the choice is made
	}
}

func badFlights() map[string][]byte {
	hello12 := serverHelloMessage(tls.VersionTLS12, 0xc030, "")
	hello13 := serverHelloMessage(tls.VersionTLS12, 0x1302, "", version13()...)
	done := message(msgServerHelloDone)
	return map[string][]byte{
		"nothing":                 {},
		"text":                    []byte("500 what is this\r\n"),
		"alert":                   record(recordAlert, 2, 40),
		"long alert":              record(recordAlert, 1, 40, 0),
		"empty record":            record(recordHandshake),
		"choice, then gone":       record(recordHandshake, hello12...),
		"choice, then alert":      slices.Concat(record(recordHandshake, hello12...), record(recordAlert, 2, 80)),
		"1.3 choice, then alert":  slices.Concat(record(recordHandshake, hello13...), record(recordAlert, 2, 80)),
		"1.3 message in clear":    record(recordHandshake, slices.Concat(hello13, done)...),
		"1.3 half a message":      slices.Concat(record(recordHandshake, slices.Concat(hello13, done[:2])...), record(recordData, 1)),
		"1.2 with a 1.3 suite":    record(recordHandshake, slices.Concat(serverHelloMessage(tls.VersionTLS12, 0x1301, ""), done)...),
		"1.3 with a 1.2 suite":    slices.Concat(record(recordHandshake, serverHelloMessage(tls.VersionTLS12, 0xc030, "", version13()...)...), record(recordData, 1)),
		"1.3 without extension":   slices.Concat(record(recordHandshake, serverHelloMessage(tls.VersionTLS13, 0x1301, "")...), record(recordData, 1)),
		"retry below 1.3":         record(recordHandshake, serverHelloMessage(tls.VersionTLS12, 0xc030, retryRandom)...),
		"suite never offered":     record(recordHandshake, slices.Concat(serverHelloMessage(tls.VersionTLS12, 0x0001, ""), done)...), // NULL
		"version 2":               record(recordHandshake, slices.Concat(serverHelloMessage(0x0200, 0xc030, ""), done)...),
		"certificate first":       record(recordHandshake, slices.Concat(certificates(), hello12, done)...),
		"data first":              record(recordData, 1),
		"change cipher first":     record(recordChangeCipher, 1),
		"heartbeat":               record(24, 1),
		"cut server hello":        record(recordHandshake, message(msgServerHello, 3, 3)...),
		"extensions cut":          record(recordHandshake, serverHelloMessage(tls.VersionTLS12, 0xc030, "", 0, 43, 0)...),
		"text after extensions":   record(recordHandshake, message(msgServerHello, append(hello12[4:], 0, 0, 1)...)...),
		"record too long":         append([]byte{recordHandshake, 3, 3, 0xff, 0xff}, make([]byte, 0xffff)...),
		"endless certificate":     append(record(recordHandshake, hello12...), bytes.Repeat(record(recordHandshake, make([]byte, 1<<14)...), 9)...),
		"endless warnings":        bytes.Repeat(record(recordAlert, 1, 112), maxFlight),
		"compression":             record(recordHandshake, message(msgServerHello, append(hello12[4:len(hello12)-1:len(hello12)-1], 1)...)...),
		"extension of no version": record(recordHandshake, serverHelloMessage(tls.VersionTLS12, 0x1301, "", 0, 43, 0, 2, 3, 3)...),
	}
}

func TestReadServerHello(t *testing.T) {
	for _, f := range goodFlights() {
		h, err := readServerHello(bytes.NewReader(f.bytes))
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		} else if got := h.version.String() + " " + h.exchange; got != f.want {
			t.Errorf("%s: %q, want %q", f.name, got, f.want)
		}
	}
	for name, in := range badFlights() {
		if h, err := readServerHello(bytes.NewReader(in)); err == nil {
			t.Errorf("%s: taken as %+v", name, h)
		}
	}
}

// FuzzReadServerHello: what is taken for a choice is one that was offered, and a bounded part of the input made it.
func FuzzReadServerHello(f *testing.F) {
	for _, in := range goodFlights() {
		f.Add(in.bytes)
	}
	for _, in := range badFlights() {
		if len(in) < 1<<15 {
			f.Add(in)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := readServerHello(r)
		if used := len(in) - r.Len(); used > maxFlight+maxRecord {
			t.Fatalf("%d octets read", used)
		}
		if (h == nil) != (err != nil) {
			t.Fatalf("%v, %v", h, err)
		}
		if err != nil {
			return
		}
		if s, ok := suiteOf(h.suite.id); !ok || s != h.suite || h.version < policy.SSL30 || h.version > policy.TLS13 ||
			(h.suite.id>>8 == 0x13) != (h.version == policy.TLS13) {
			t.Fatalf("%+v", h)
		}
		if chain := h.chain(); len(chain) != len(h.certs) || h.version == policy.TLS13 && len(chain) > 0 {
			t.Fatalf("%d certificates of %d", len(chain), len(h.certs))
		}
	})
}

// TestClientHello has crypto/tls read what was written, and answer it in every version.
func TestClientHello(t *testing.T) {
	ecdsa := issue(t, testnet.CertSpec{Names: []string{"mx.test"}, Intermediates: 1})
	rsa := issue(t, testnet.CertSpec{Names: []string{"mx.test"}, RSA: true})
	retry := testnet.ServerTLS(ecdsa, 0, 0)
	retry.CurvePreferences = []tls.CurveID{tls.CurveP384}
	for _, c := range []struct {
		config   *tls.Config
		version  policy.Version
		exchange string
		certs    int
	}{
		{testnet.ServerTLS(ecdsa, 0, 0), policy.TLS13, "X25519", 0},
		{retry, policy.TLS13, "CurveP384", 0},
		{testnet.ServerTLS(ecdsa, 0, tls.VersionTLS12), policy.TLS12, "X25519", 2},
		{testnet.ServerTLS(rsa, tls.VersionTLS11, tls.VersionTLS11), policy.TLS11, "X25519", 1},
		{testnet.ServerTLS(rsa, tls.VersionTLS10, tls.VersionTLS10, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA), policy.TLS10, "RSA", 1},
	} {
		var info *tls.ClientHelloInfo
		config := c.config.Clone()
		config.GetConfigForClient = func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			info = i
			return nil, nil
		}
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			tls.Server(theirs, config).Handshake() // ends with an error: we go no further than its first flight
			theirs.Close()
		}()
		ours.SetDeadline(time.Now().Add(patience))
		hello, err := clientHello(offerOf("mx.test.", profile.TLS{}, versions()...))
		if err != nil {
			t.Fatal(err)
		}
		ours.Write(hello)
		h, err := readServerHello(bufio.NewReader(ours))
		ours.Close()
		<-done
		if err != nil {
			t.Errorf("%s %s: %v", c.version, c.exchange, err)
			continue
		}
		if h.version != c.version || h.exchange != c.exchange || len(h.certs) != c.certs {
			t.Errorf("%s %s, %d certificates, want %s %s, %d", h.version, h.exchange, len(h.certs), c.version, c.exchange, c.certs)
		}
		if info.ServerName != "mx.test" || len(info.CipherSuites) != len(suites())+1 || len(info.SupportedVersions) != 4 ||
			len(info.SupportedCurves) != len(groups()) || len(info.SignatureSchemes) < 15 {
			t.Errorf("the server read %+v", info)
		}
	}
}

// scripted is a mail host whose answer to a ClientHello is a fixed text.
func scripted(t *testing.T, flight []byte) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, "220 old.test\r\n")
			r := bufio.NewReader(conn)
			for line := ""; err == nil && !strings.HasPrefix(line, "STARTTLS"); line, err = r.ReadString('\n') {
				if strings.HasPrefix(line, "EHLO") {
					io.WriteString(conn, "250-old.test\r\n250 STARTTLS\r\n")
				}
			}
			io.WriteString(conn, "220 go\r\n")
			if _, err := r.Peek(5); err == nil {
				conn.Write(flight)
			}
			io.Copy(io.Discard, r)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// TestProbeHelloOnly: hosts that crypto/tls can't or won't speak with, and that other stacks can.
func TestProbeHelloOnly(t *testing.T) {
	cert := issue(t, testnet.CertSpec{Names: []string{"old.test"}})
	odd := issue(t, testnet.CertSpec{Names: []string{"mx.test"}, NegativeSerial: true})
	t.Run("DHE only", func(t *testing.T) {
		p := Prober{Timeout: patience}
		o := p.Probe(t.Context(), Target{Address: scripted(t, dheFlight(cert.Certificate[0])), Name: "old.test"})
		if o.Outcome != policy.SawTLS || !o.HelloOnly || o.Version != policy.TLS12 || o.Bits != 256 ||
			o.Cipher != "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384" || o.Exchange != "DHE 1024" {
			t.Errorf("%+v", o)
		}
		if len(o.Chain) != 1 || !slices.Equal(o.Chain[0].Names, []string{"old.test"}) {
			t.Errorf("chain %+v", o.Chain)
		}
		if o.Stage != policy.StageHandshake || o.Detail == "" || o.Banner != "old.test" {
			t.Errorf("stage %s, detail %q, banner %q", o.Stage, o.Detail, o.Banner)
		}
	})
	t.Run("chooses, then gives up", func(t *testing.T) {
		p := Prober{Timeout: patience}
		o := p.Probe(t.Context(), Target{Address: scripted(t, badFlights()["choice, then alert"])})
		if o.Outcome != policy.SawBroken || o.HelloOnly || o.Version != 0 {
			t.Errorf("%+v", o)
		}
	})
	for version, chain := range map[policy.Version]int{policy.TLS12: 1, policy.TLS13: 0} {
		t.Run("negative serial "+version.String(), func(t *testing.T) {
			h := start(t, testnet.SMTPConfig{TLS: testnet.ServerTLS(odd, 0, uint16(version))})
			o := probe(t, h, patience, "")
			if o.Outcome != policy.SawTLS || !o.HelloOnly || o.Version != version || o.Bits < 128 || !strings.Contains(o.Detail, "serial") {
				t.Errorf("%+v", o)
			}
			if len(o.Chain) != chain {
				t.Fatalf("%d certificates", len(o.Chain))
			}
			if chain > 0 && (!bytes.Equal(o.Chain[0].Raw, odd.Certificate[0]) || o.Chain[0].Fingerprint == "" || o.Chain[0].Subject != "") {
				t.Errorf("chain %+v", o.Chain)
			}
		})
	}
}

// TestProbeSecondLook: when the second connection shows nothing, what the first one saw stands.
func TestProbeSecondLook(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{}), 0, 0)
	h := start(t, testnet.SMTPConfig{TLS: config, Fault: testnet.HandshakeAlert})
	var dials int
	p := Prober{Timeout: patience, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; dials > 1 {
			return nil, errors.New("one connection a day")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	o := p.Probe(t.Context(), Target{Address: h.Address(), Name: "mx.test"})
	if o.Outcome != policy.SawBroken || o.Stage != policy.StageHandshake || !strings.Contains(o.Detail, "internal error") || dials != 3 {
		t.Errorf("%d dials: %+v", dials, o)
	}
}

func TestSuites(t *testing.T) {
	seen := map[uint16]bool{}
	for _, s := range suites() {
		if seen[s.id] {
			t.Errorf("%s twice", s.name)
		}
		seen[s.id] = true
		var bits int
		switch {
		case strings.Contains(s.name, "3DES"):
			bits = 112
		case strings.Contains(s.name, "_DES_"):
			bits = 56
		case strings.Contains(s.name, "256_") || strings.Contains(s.name, "CHACHA20"):
			bits = 256
		default:
			bits = 128
		}
		if s.bits != bits {
			t.Errorf("%s: %d bits", s.name, s.bits)
		}
	}
	// Whatever crypto/tls can agree on has an entry, under the name it uses.
	for _, c := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if s, ok := suiteOf(c.ID); !ok || s.name != c.Name {
			t.Errorf("%s (0x%04x): %v", c.Name, c.ID, s)
		}
		isRSA := strings.HasPrefix(c.Name, "TLS_RSA_")
		if s, _ := suiteOf(c.ID); (s.exchange == "RSA") != isRSA {
			t.Errorf("%s: exchange %q", c.Name, s.exchange)
		}
	}
}
