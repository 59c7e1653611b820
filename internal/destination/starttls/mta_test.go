package starttls

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
	"tlsonly/internal/testnet"
)

// at starts a host of a row and returns where it listens.
func at(t *testing.T, ca *testnet.CA, row testnet.Row) (*testnet.Scripted, netip.AddrPort) {
	t.Helper()
	script, err := row.Script(testnet.RowHost{Name: "mx.test", CA: ca, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	host, err := testnet.StartScript("127.0.0.1:0", "mx.test", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host, netip.MustParseAddrPort(host.Addr())
}

// probeAs probes for an MTA. A host that falls silent is waited for only where it isn't meant to.
func probeAs(t *testing.T, d profile.Dialect, to Target, meant bool) policy.Observation {
	t.Helper()
	timeout := 6 * impatience
	if meant {
		timeout = 3 * patience
	}
	p := Prober{HELO: "probe.test", Timeout: timeout, MTA: func() profile.MTA { return profile.For(d) }}
	return p.Probe(t.Context(), to)
}

// TestProbeRows: a probe sees TLS where the MTA that it is for delivers over it,
// and nowhere else. What the MTAs do was seen with real ones, by the test of the
// same rows in package rig.
func TestProbeRows(t *testing.T) {
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	rows := testnet.Dialects()
	if _, err := exec.LookPath("openssl"); err == nil && !testing.Short() {
		rows = append(rows, testnet.Stacks()...)
	}
	for _, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			t.Parallel()
			host, address := at(t, ca, row)
			for d, want := range map[profile.Dialect]bool{profile.Postfix: row.Postfix, profile.Sendmail: row.Sendmail} {
				o := probeAs(t, d, Target{Address: address, Name: "mx.test"}, want)
				if got := o.Outcome == policy.SawTLS; got != want && !row.Untold || row.Untold && o.Outcome != policy.SawUnreachable {
					t.Errorf("for %s: %s at %s: %q, %v", d, o.Outcome, o.Stage, o.Detail, host.Errors())
				}
				if o.Outcome != policy.SawTLS && o.Detail == "" {
					t.Errorf("for %s: %s without a word", d, o.Outcome)
				}
			}
			// Of an MTA that isn't known less counts, not more. Its TLS has no limits, though.
			o := probeAs(t, profile.AnyDialect, Target{Address: address, Name: "mx.test"}, row.Postfix && row.Sendmail)
			if i := slices.IndexFunc(testnet.Dialects(), func(r testnet.Row) bool { return r.Name == row.Name }); i >= 0 &&
				o.Outcome == policy.SawTLS && !(row.Postfix && row.Sendmail) {
				t.Errorf("for any: %s", o.Outcome)
			}
			for _, c := range host.Commands() {
				if c = strings.TrimPrefix(c, "TLS "); !slices.Contains([]string{"EHLO probe.test", "HELO probe.test", "STARTTLS", "QUIT"}, c) {
					t.Errorf("the probe said %q", c)
				}
			}
		})
	}
}

// row finds a row by its name.
func row(t *testing.T, name string) testnet.Row {
	t.Helper()
	for _, r := range append(testnet.Dialects(), testnet.Stacks()...) {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no row %q", name)
	return testnet.Row{}
}

// TestProbeWords: what is wrong is said.
func TestProbeWords(t *testing.T) {
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		row     string
		mta     profile.Dialect
		outcome policy.Outcome
		stage   policy.Stage
		words   string
	}{
		{"a client certificate demanded, TLS 1.3", profile.Postfix, policy.SawBroken, policy.StageSecure, "asks for a client certificate and ends TLS without"},
		{"a client certificate demanded, TLS 1.2", profile.Sendmail, policy.SawBroken, policy.StageHandshake, "asks for a client certificate and ends TLS without"},
		{"hangs up after the handshake", profile.Postfix, policy.SawBroken, policy.StageSecure, "connection closed"},
		{"EHLO over TLS 421", profile.Postfix, policy.SawUnreachable, policy.StageSecure, "421 go away"},
		{"EHLO over TLS 451", profile.Sendmail, policy.SawUnreachable, policy.StageSecure, "451 later"},
		{"aborts when it is not named", profile.Sendmail, policy.SawBroken, policy.StageHandshake, "wants its name in the hello (SNI)"},
		{"TLS 1.0", profile.Sendmail, policy.SawBroken, policy.StageHandshake, "signatures are made with SHA-1"},
		{"a lone tab after the code", profile.Postfix, policy.SawTimeout, policy.StageBanner, "not an SMTP reply"},
	} {
		_, address := at(t, ca, row(t, c.row))
		p := Prober{HELO: "probe.test", Timeout: patience, MTA: func() profile.MTA { return profile.For(c.mta) }}
		if c.outcome == policy.SawTimeout {
			p.Timeout = impatience
		}
		o := p.Probe(t.Context(), Target{Address: address, Name: "mx.test"})
		if o.Outcome != c.outcome || o.Stage != c.stage || !strings.Contains(o.Detail, c.words) {
			t.Errorf("%s: %s at %s: %q, want %s at %s: %q", c.row, o.Outcome, o.Stage, o.Detail, c.outcome, c.stage, c.words)
		}
	}
}

// TestProbeNamed: the host is named as the MTA names it, and the other way is
// tried where that decides.
func TestProbeNamed(t *testing.T) {
	cert := issue(t, testnet.CertSpec{Names: []string{"mx.test"}})
	aborting := func(named bool) func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if (hello.ServerName != "") == named {
				return nil, errors.New("not like that")
			}
			return nil, nil
		}
	}
	for _, c := range []struct {
		name            string
		hello           func(*tls.ClientHelloInfo) (*tls.Config, error)
		mta             profile.MTA
		to              Target
		tls             bool
		unnamed, unsent bool
	}{
		{"Postfix, any host", nil, profile.For(profile.Postfix), Target{}, true, false, false},
		{"Postfix, not to be named", aborting(true), profile.For(profile.Postfix), Target{}, true, true, false},
		{"Postfix, to be named", aborting(false), profile.For(profile.Postfix), Target{}, true, false, false},
		{"Postfix with DANE, not to be named", aborting(true), profile.For(profile.Postfix), Target{Fixed: true}, false, false, false},
		{"Sendmail, any host", nil, profile.For(profile.Sendmail), Target{}, true, false, true},
		{"Sendmail, not to be named", aborting(true), profile.For(profile.Sendmail), Target{}, true, false, true},
		{"Sendmail, to be named", aborting(false), profile.For(profile.Sendmail), Target{}, false, false, true},
		{"Sendmail, named by force", aborting(false), profile.For(profile.Sendmail), Target{Forced: true}, true, false, false},
	} {
		config := testnet.ServerTLS(cert, 0, 0)
		config.GetConfigForClient = c.hello
		h := start(t, testnet.SMTPConfig{TLS: config})
		p := Prober{Timeout: patience, MTA: func() profile.MTA { return c.mta }}
		c.to.Address, c.to.Name = h.Address(), "mx.test"
		o := p.Probe(t.Context(), c.to)
		if (o.Outcome == policy.SawTLS) != c.tls || o.Unnamed != c.unnamed || o.Unsent != c.unsent {
			t.Errorf("%s: %s (%s), unnamed %t, unsent %t", c.name, o.Outcome, o.Detail, o.Unnamed, o.Unsent)
		}
	}
}

// TestProbeClientCertificate: an MTA that has a certificate may get through where
// a probe, which has none, does not.
func TestProbeClientCertificate(t *testing.T) {
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), 0, 0)
	config.ClientAuth = tls.RequireAnyClientCert
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := config.Clone()
		config.MaxVersion = version
		h := start(t, testnet.SMTPConfig{TLS: config})
		for has, want := range map[bool]policy.Outcome{false: policy.SawBroken, true: policy.SawUnreachable} {
			mta := profile.For(profile.Postfix)
			mta.TLS.Certificate = has
			p := Prober{Timeout: patience, MTA: func() profile.MTA { return mta }}
			o := p.Probe(t.Context(), Target{Address: h.Address(), Name: "mx.test"})
			if o.Outcome != want || !strings.Contains(o.Detail, "client certificate") {
				t.Errorf("%x, the MTA has one %t: %s: %s", version, has, o.Outcome, o.Detail)
			}
		}
	}
}
