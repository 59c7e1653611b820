package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/testnet"
)

// wellResolved makes a DNS validate as doctor wants to see it.
func wellResolved(d *testnet.DNS) {
	d.SetSecure(signedName)
	d.SetFault(bogusName, 0, testnet.DNSServFail)
}

func startDNS(t *testing.T, listen string) *testnet.DNS {
	t.Helper()
	d, err := testnet.StartDNS(listen, bogusName+". 60 IN MX 0 .\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// findings returns what doctor finds of the resolver that the configuration names, one a line.
func findings(c *config.Config, forPostfix bool) (levels, text string) {
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	for _, f := range p.doctorResolver(context.Background(), c, forPostfix) {
		levels += " " + string(f.Severity)
		text += f.Text + " -> " + f.Remedy + "\n"
		if f.Check != "resolver" || f.Severity != mta.OK && f.Remedy == "" {
			text += "no remedy, or another check\n"
		}
	}
	return strings.TrimSpace(levels), text
}

func TestDoctorResolver(t *testing.T) {
	for _, c := range []struct {
		name   string
		dnssec string
		make   func(*testnet.DNS)
		levels string
		text   string
	}{
		{"well", "auto", wellResolved, "ok", "validates DNSSEC"},
		{"well, and wanted", "on", wellResolved, "ok", "validates DNSSEC"},
		{"off", "off", func(d *testnet.DNS) { d.SetFault("", 0, testnet.DNSServFail) }, "ok", "DANE is not used"},
		{"not validating", "auto", func(*testnet.DNS) {}, "warning", "no AD bit"},
		{"forged answers", "auto", func(d *testnet.DNS) { d.SetSecure(signedName) }, "hole", "one for " + bogusName},
		{"forged answers, said to be good", "auto", func(d *testnet.DNS) { d.SetSecure(".") }, "hole", "one for " + bogusName},
		{"the second isn't answered", "auto", func(d *testnet.DNS) {
			d.SetSecure(signedName)
			d.SetFault(bogusName, 0, testnet.DNSRefused)
		}, "warning", "forged answers: MX of " + bogusName + ": REFUSED"},
		{"the second isn't there", "auto", func(d *testnet.DNS) {
			d.SetSecure(signedName)
			d.SetFault(bogusName, 0, testnet.DNSNXDomain)
		}, "warning", "is not known whether it refuses forged answers: it says that " + bogusName},
		{"nothing is answered", "auto", func(d *testnet.DNS) { d.SetFault("", 0, testnet.DNSServFail) }, "warning", "can't be judged"},
	} {
		d := startDNS(t, "127.0.0.1:0")
		c.make(d)
		conf := config.Default()
		conf.DNS.Resolver, conf.DNS.DNSSEC = d.Addr(), c.dnssec
		if levels, text := findings(conf, false); levels != c.levels || !strings.Contains(text, c.text) || strings.Contains(text, "no remedy") {
			t.Errorf("%s: %q, want %q and %q:\n%s", c.name, levels, c.levels, c.text, text)
		}
	}
}

// The resolver of others, and Postfix's own, which may be another one.
func TestMTADoctorResolver(t *testing.T) {
	isolated(t)
	own, system := startDNS(t, "127.0.0.1:0"), startDNS(t, "127.0.0.1:53") // that of /etc/resolv.conf here
	wellResolved(own)
	conf := config.Default()
	conf.DNS.Resolver = own.Addr()
	if levels, text := findings(conf, true); levels != "ok warning" || !strings.Contains(text, "Postfix uses another resolver") {
		t.Errorf("Postfix's doesn't validate: %q\n%s", levels, text)
	}
	if levels, text := findings(conf, false); levels != "ok" {
		t.Errorf("Sendmail, which knows no DANE: %q\n%s", levels, text)
	}
	wellResolved(system)
	if levels, text := findings(conf, true); levels != "ok" {
		t.Errorf("both validate: %q\n%s", levels, text)
	}
	conf.DNS.Resolver = "192.0.2.1:53" // no way leads there from here
	if levels, text := findings(conf, true); levels != "warning warning" || !strings.Contains(text, "isn't on this host") {
		t.Errorf("elsewhere: %q\n%s", levels, text)
	}
	conf.DNS.TrustResolver = true
	if levels, text := findings(conf, true); levels != "warning" || strings.Contains(text, "isn't on this host") {
		t.Errorf("elsewhere, and trusted: %q\n%s", levels, text)
	}
	conf.DNS.TrustResolver, conf.DNS.DNSSEC = false, "on"
	if levels, text := findings(conf, true); levels != "broken" || !strings.Contains(text, "the daemon can't start") {
		t.Errorf("elsewhere, not trusted, and wanted: %q\n%s", levels, text)
	}
}

// What a probe's acceptance has left is taken back, once or twice, and it's told when that can't be done.
func TestRelease(t *testing.T) {
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	conf := config.Default()
	conf.Store.URL = "sqlite://" + filepath.Join(t.TempDir(), "tlsonly.db")
	d := addr.MustDestination("[127.25.0.1]")
	if err := p.release(t.Context(), conf, d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no store: %v", err)
	}
	s, err := store.Open(t.Context(), store.Config{URL: conf.Store.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := p.release(t.Context(), conf, d); err != nil {
		t.Errorf("nothing known of it: %v", err)
	}
	if _, err := s.RaiseDemand(t.Context(), d, store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(t.Context(), d, "rule:clinic"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.release(t.Context(), conf, d); err != nil {
			t.Error(err)
		}
		if e, err := s.Get(t.Context(), d); err != nil || e.Pin != nil || e.Demand.Level != "" {
			t.Errorf("left: %+v, %v", e, err)
		}
	}
}
