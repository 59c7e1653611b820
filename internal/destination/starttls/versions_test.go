package starttls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
	"tlsonly/internal/testnet"
)

// ask asks a host for its versions and checks what always holds: one connection at a time, each ended. before is called
// with the number of each connection, from 1, before it is made.
func ask(t *testing.T, address netip.AddrPort, before func(int) error) (Versions, int) {
	t.Helper()
	var dials int
	var open atomic.Int32
	p := Prober{HELO: "probe.test", Timeout: patience, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dials++
		if n := open.Load(); n != 0 {
			t.Errorf("%d connections open before number %d", n, dials)
		}
		if before != nil {
			if err := before(dials); err != nil {
				return nil, err
			}
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address.String())
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &counted{conn, &open}, nil
	}}
	v := p.Versions(t.Context(), Target{Address: address, Name: "mx.test"})
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections left open", n)
	}
	if (v.Detail == "") != (len(v.Unknown) == 0) {
		t.Errorf("detail %q with %v unknown", v.Detail, v.Unknown)
	}
	return v, dials
}

type counted struct {
	net.Conn
	open *atomic.Int32
}

func (c *counted) Close() error {
	c.open.Add(-1)
	return c.Conn.Close()
}

func TestVersions(t *testing.T) {
	cert := issue(t, testnet.CertSpec{Names: []string{"mx.test"}})
	rsa := issue(t, testnet.CertSpec{Names: []string{"mx.test"}, RSA: true})
	odd := issue(t, testnet.CertSpec{Names: []string{"mx.test"}, NegativeSerial: true})
	any10 := testnet.ServerTLS(cert, tls.VersionTLS10, 0)
	for _, c := range []struct {
		name        string
		config      *tls.Config
		fault       testnet.Fault
		accepted    string
		unknown     string
		detail      string // contained
		connections int
	}{
		{"1.0 to 1.3", any10, "", "[1.0 1.1 1.2 1.3]", "[]", "", 4},
		{"1.2 and 1.3", testnet.ServerTLS(cert, tls.VersionTLS12, 0), "", "[1.2 1.3]", "[]", "", 4},
		{"1.3 only", testnet.ServerTLS(cert, tls.VersionTLS13, 0), "", "[1.3]", "[]", "", 4},
		{"1.2 only", testnet.ServerTLS(cert, tls.VersionTLS12, tls.VersionTLS12), "", "[1.2]", "[]", "", 4},
		{"1.0 only", testnet.ServerTLS(cert, tls.VersionTLS10, tls.VersionTLS10), "", "[1.0]", "[]", "", 4},
		{"1.0 only, RSA and 3DES", testnet.ServerTLS(rsa, tls.VersionTLS10, tls.VersionTLS10, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA), "", "[1.0]", "[]", "", 4},
		{"1.0 to 1.2, but no suite below 1.2", testnet.ServerTLS(cert, tls.VersionTLS10, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), "",
			"[1.2]", "[]", "", 6}, // handshake_failure may be our doing, so a hello of our own is tried
		{"a certificate we can't read", testnet.ServerTLS(odd, tls.VersionTLS12, 0), "", "[1.2 1.3]", "[]", "", 6},
		{"no STARTTLS", nil, "", "[]", "[1.0 1.1 1.2 1.3]", "250 mx.test", 1},
		{"STARTTLS refused", any10, testnet.STARTTLS454, "[]", "[1.0 1.1 1.2 1.3]", "454 4.7.0", 1},
		{"EHLO overwritten", any10, testnet.EHLOMangled, "[]", "[1.0 1.1 1.2 1.3]", "XXXXXXXA", 1},
		{"going down", any10, testnet.Banner421, "[]", "[1.0 1.1 1.2 1.3]", "421 4.3.2", 1},
		{"text after the 220", any10, testnet.InjectAfter, "[1.0 1.1 1.2 1.3]", "[]", "", 4},
		{"an alert to every hello", any10, testnet.HandshakeAlert, "[]", "[]", "", 8},
		{"a reset for every hello", any10, testnet.ResetAfter, "[]", "[]", "", 8},
		{"the end for every hello", any10, testnet.CloseAfter, "[]", "[]", "", 8},
		{"slow", any10, testnet.BannerSlow, "[1.0 1.1 1.2 1.3]", "[]", "", 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start(t, testnet.SMTPConfig{TLS: c.config, Fault: c.fault})
			v, dials := ask(t, h.Address(), nil)
			if fmt.Sprint(v.Accepted) != c.accepted || fmt.Sprint(v.Unknown) != c.unknown || !strings.Contains(v.Detail, c.detail) {
				t.Errorf("%v, unknown %v (%s); want %s, unknown %s (%s)", v.Accepted, v.Unknown, v.Detail, c.accepted, c.unknown, c.detail)
			}
			if dials != c.connections || h.Connections() != c.connections {
				t.Errorf("%d connections, the host saw %d, want %d", dials, h.Connections(), c.connections)
			}
			for _, line := range h.Commands() {
				if !slices.Contains([]string{"EHLO probe.test", "STARTTLS", "QUIT"}, line) {
					t.Errorf("said %q", line)
				}
			}
		})
	}
}

// TestVersionsOldStack: what crypto/tls can't finish counts, and a choice of another version than the one asked for doesn't.
func TestVersionsOldStack(t *testing.T) {
	v, dials := ask(t, scripted(t, dheFlight([]byte("not a certificate"))), nil)
	if fmt.Sprint(v.Accepted) != "[1.2]" || len(v.Unknown) != 0 || dials != 8 {
		t.Errorf("%+v, %d connections", v, dials)
	}
}

// TestVersionsAway: a host that changes in the middle.
func TestVersionsAway(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), tls.VersionTLS10, 0)
	for _, c := range []struct {
		name     string
		script   map[int]string // what happens before a connection: a fault, or "gone"
		accepted string
		unknown  string
		dials    int
	}{
		{"gone before the first", map[int]string{1: "gone"}, "[]", "[1.0 1.1 1.2 1.3]", 1},
		{"gone before the second", map[int]string{2: "gone"}, "[1.3]", "[1.0 1.1 1.2]", 2},
		{"gone before the last", map[int]string{4: "gone"}, "[1.1 1.2 1.3]", "[1.0]", 4},
		{"a reset, then gone", map[int]string{2: string(testnet.ResetAfter), 3: "gone"}, "[1.3]", "[1.0 1.1 1.2]", 3},
		{"a reset, then shutting down", map[int]string{2: string(testnet.ResetAfter), 3: string(testnet.Banner421)}, "[1.3]", "[1.0 1.1 1.2]", 3},
		{"a reset, then well", map[int]string{2: string(testnet.ResetAfter), 3: ""}, "[1.0 1.1 1.2 1.3]", "[]", 5},
		{"resets for 1.1 only", map[int]string{3: string(testnet.ResetAfter), 5: ""}, "[1.0 1.2 1.3]", "[]", 5},
		{"no STARTTLS any more", map[int]string{3: string(testnet.NoSTARTTLS)}, "[1.2 1.3]", "[1.0 1.1]", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start(t, testnet.SMTPConfig{TLS: config})
			v, dials := ask(t, h.Address(), func(n int) error {
				switch what, ok := c.script[n]; {
				case ok && what == "gone":
					return h.Close()
				case ok:
					h.SetFault(testnet.Fault(what))
				}
				return nil
			})
			if fmt.Sprint(v.Accepted) != c.accepted || fmt.Sprint(v.Unknown) != c.unknown || dials != c.dials {
				t.Errorf("%v, unknown %v (%s), %d dials; want %s, unknown %s, %d", v.Accepted, v.Unknown, v.Detail, dials, c.accepted, c.unknown, c.dials)
			}
		})
	}
}

// TestVersionsTime: silence, an ended context and a dialer's error are unknown, and end it.
func TestVersionsTime(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), tls.VersionTLS10, 0)
	h := start(t, testnet.SMTPConfig{TLS: config, Fault: testnet.HangHandshake})
	p := Prober{Timeout: impatience}
	if v := p.Versions(t.Context(), Target{Address: h.Address()}); len(v.Accepted) != 0 || len(v.Unknown) != 4 || v.Detail == "" || h.Connections() != 1 {
		t.Errorf("silent host: %+v, %d connections", v, h.Connections())
	}
	h.SetFault("")
	ctx, cancel := context.WithCancel(t.Context())
	dials := 0
	p = Prober{Timeout: patience, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; dials == 3 {
			cancel()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	if v := p.Versions(ctx, Target{Address: h.Address()}); fmt.Sprint(v.Accepted, v.Unknown) != "[1.2 1.3] [1.0 1.1]" || dials != 3 {
		t.Errorf("context ended: %+v, %d dials", v, dials)
	}
	v, dials := ask(t, h.Address(), func(int) error { return errors.New("no \x00 route") })
	if len(v.Unknown) != 4 || v.Detail != "no ? route" || dials != 1 {
		t.Errorf("no connection: %+v, %d dials", v, dials)
	}
}

// TestVersionsPort465: there the handshake comes before the banner.
func TestVersionsPort465(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), tls.VersionTLS12, 0)
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
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
			conn.Write([]byte("220 mx.test\r\n"))
			conn.Read(make([]byte, 6))
			conn.Close()
		}
	}()
	p := Prober{Timeout: patience, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	}}
	v := p.Versions(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:465")})
	l.Close()
	<-done
	if fmt.Sprint(v.Accepted) != "[1.2 1.3]" || len(v.Unknown) != 0 {
		t.Errorf("%+v", v)
	}
}

// TestClientHelloVersions: a hello for one version offers no other, to servers that know the extension and to those that don't.
func TestClientHelloVersions(t *testing.T) {
	for _, v := range versions() {
		record, err := clientHello(offerOf("mx.test", profile.TLS{}, v))
		if err != nil {
			t.Fatal(err)
		}
		if got := policy.Version(record[9])<<8 | policy.Version(record[10]); got != min(v, policy.TLS12) {
			t.Errorf("%s: the old field says %s", v, got)
		}
		var offered []uint16
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			tls.Server(theirs, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
				offered = i.SupportedVersions
				return nil, errors.New("enough")
			}}).Handshake()
			theirs.Close()
		}()
		ours.Write(record)
		ours.Read(make([]byte, 64))
		ours.Close()
		<-done
		if !slices.Equal(offered, []uint16{uint16(v)}) {
			t.Errorf("%s: offers %x", v, offered)
		}
	}
}
