package main

import (
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// restriction is a site's setting that keeps its MTA from some hosts.
type restriction struct {
	name     string
	main     map[string]string // for Postfix
	mc       []string          // for Sendmail
	openssl  string            // for both: lines of [system_default_sect]
	excluded []string          // the hosts that are refused by it, and without it aren't
}

// restrictedHosts have what some site excludes, and nothing else.
func restrictedHosts() []agreeCase {
	list := []agreeCase{{name: "good", zone: mxs("{good}")}}
	for _, r := range testnet.Stacks() {
		if slices.Contains([]string{"P-384", "CBC with SHA-256", "TLS 1.2, RSA key exchange", "X448, TLS 1.3", "X448, TLS 1.2", "DHE 2048", "DHE 1024",
			"CAMELLIA", "TLS 1.3 with CHACHA20", "Ed25519"}, r.Name) {
			list = append(list, agreeCase{name: r.Name, row: &r})
		}
	}
	return list
}

// A site that restricts what its MTA offers gets probes that offer just that, and
// what then can't be delivered isn't accepted.
func TestMTAAgreementRestricted(t *testing.T) {
	long(t)
	isolated(t)
	w := newAgreeWorld(t, restrictedHosts())
	run := func(t *testing.T, which string, r restriction, accepted map[string]bool) {
		if r.openssl != "" {
			over(t, "/etc/ssl/openssl.cnf", "openssl_conf = default_conf\n[default_conf]\nssl_conf = ssl_sect\n[ssl_sect]\nsystem_default = system_default_sect\n"+
				"[system_default_sect]\n"+r.openssl)
		}
		if which == onPostfix {
			w.postfix(t, "", r.main)
		} else {
			w.sendmail(t, r.mc...)
		}
		for _, l := range w.lines {
			excluded := slices.Contains(r.excluded, l.name)
			switch accepts := strings.HasPrefix(l.ours, "c"); {
			case r.name == "":
				accepted[l.name] = accepts
			case excluded && (!accepted[l.name] || accepts):
				t.Errorf("%s: without the setting accepted: %t, with it: %s", l.name, accepted[l.name], l.ours)
			case excluded && (!strings.HasPrefix(l.ours, "y550 5.7.") || !strings.Contains(l.ours, "handshake")):
				t.Errorf("%s: refused with %q", l.name, l.ours)
			case !excluded && accepted[l.name] && !accepts:
				t.Errorf("%s: without the setting accepted: %t, with it: %s", l.name, accepted[l.name], l.ours)
			}
		}
	}
	for _, which := range []struct {
		name         string
		restrictions []restriction
	}{
		{onPostfix, []restriction{
			{},
			{name: "suites excluded", main: map[string]string{"smtp_tls_exclude_ciphers": "SHA256, kRSA", "smtp_tls_mandatory_exclude_ciphers": "CAMELLIA"},
				excluded: []string{"CBC with SHA-256", "TLS 1.2, RSA key exchange", "CAMELLIA"}},
			{name: "curves", main: map[string]string{"tls_eecdh_auto_curves": "X25519, prime256v1"}, excluded: []string{"P-384", "X448, TLS 1.3", "X448, TLS 1.2"}},
			{name: "not DHE", main: map[string]string{"tls_medium_cipherlist": "HIGH:!DHE:!aNULL"},
				excluded: []string{"DHE 2048", "DHE 1024"}},
			{name: "openssl.cnf, signatures and suites of TLS 1.3", openssl: "SignatureAlgorithms = RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA256\nCiphersuites = TLS_AES_128_GCM_SHA256\n",
				excluded: []string{"Ed25519", "TLS 1.3 with CHACHA20"}},
		}},
		{onSendmail, []restriction{
			{},
			{name: "CipherList", mc: []string{"define(`confCIPHER_LIST', `HIGH:!kRSA:!DHE')dnl"},
				excluded: []string{"CBC with SHA-256", "TLS 1.2, RSA key exchange", "DHE 2048"}},
			{name: "openssl.cnf, groups", openssl: "CipherString = DEFAULT@SECLEVEL=2\nGroups = X25519:P-256\n", excluded: []string{"P-384", "X448, TLS 1.3", "X448, TLS 1.2"}},
			{name: "ClientSSLOptions and MinProtocol", mc: []string{"define(`confCLIENT_SSL_OPTIONS', `+SSL_OP_NO_TLSv1_2')dnl"}, openssl: "CipherString = DEFAULT@SECLEVEL=2\nMinProtocol = TLSv1.2\n",
				excluded: []string{"CBC with SHA-256", "TLS 1.2, RSA key exchange", "X448, TLS 1.2", "DHE 2048"}},
		}},
	} {
		accepted := map[string]bool{}
		for _, r := range which.restrictions {
			name := which.name
			if r.name != "" {
				name += ", " + r.name
			}
			t.Run(name, func(t *testing.T) { run(t, which.name, r, accepted) })
		}
	}
}
