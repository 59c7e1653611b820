package received

import (
	"crypto/tls"
	"strings"
	"testing"
)

// The names of OpenSSL, each kind of them, and of GnuTLS.
const suiteNames = `ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-RSA-AES128-GCM-SHA256 ECDHE-ECDSA-CHACHA20-POLY1305
 DHE-RSA-CHACHA20-POLY1305 DHE-DSS-AES256-GCM-SHA384 DHE-RSA-AES256-CCM8 ECDHE-ECDSA-AES128-CCM ECDHE-ARIA256-GCM-SHA384
 ADH-AES256-GCM-SHA384 AECDH-AES256-SHA ECDHE-RSA-CAMELLIA256-SHA384 DHE-DSS-CAMELLIA128-SHA ADH-CAMELLIA256-SHA256
 RSA-PSK-CHACHA20-POLY1305 ECDHE-PSK-AES256-CBC-SHA384 PSK-AES128-CCM8 SRP-RSA-AES-256-CBC-SHA AES256-GCM-SHA384
 AES128-SHA CAMELLIA256-SHA SEED-SHA DES-CBC3-SHA EDH-RSA-DES-CBC3-SHA RC4-SHA RC4-MD5 ECDHE-RSA-RC4-SHA EXP-RC4-MD5
 DHE-RSA-SEED-SHA IDEA-CBC-SHA AEAD-AES256-GCM-SHA384 AEAD-CHACHA20-POLY1305
 ECDHE_RSA_AES_256_GCM_SHA384 ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM RSA_CAMELLIA_128_CBC_SHA1`

// A line that names a suite, in whatever words, is never called one that tells
// nothing; and one whose suite encrypts nothing is never called encrypted.
func TestSuites(t *testing.T) {
	names := strings.Fields(suiteNames)
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		names = append(names, s.Name)
	}
	places := []string{
		"by mx.b.example with ESMTP/TLS/SUITE", "by mx.b.example with SMTP/TLS/SUITE id 1", "by mx.b.example with SUITE encrypted SMTP",
		"by mx.b.example with (SUITE encrypted) SMTP", "by mx.b.example with ESMTP (SUITE encrypted)", "by mx.b.example (Gateway) with ESMTP (SUITE) id 1",
		"by mx.b.example (using TLS: TLSv1.2, SUITE) id <1>", "by mx.b.example (Cipher TLSv1:SUITE:128) with ESMTP", "by mx.b.example with Gateway (cipher: SUITE)",
		"by mx.b.example with ESMTP id 1 (TLS SUITE)", "(TLSv1.2, SUITE) by mx.b.example with ESMTP id 1", "by mx.b.example with ESMTP id 1 tls SUITE group x25519",
		"by mx.b.example id 1 [protocol] (encrypted with SUITE/128)", "by mx.b.example via Gateway (SUITE) for <u@b.example>",
	}
	const from, date = "from mail.a.example (mail.a.example [192.0.2.1]) ", "; Mon, 23 Nov 2026 17:00:00 +0000"
	for _, place := range places {
		for _, name := range names {
			line := from + strings.ReplaceAll(place, "SUITE", name) + date
			if h := Parse(line); h.Security != Encrypted || h.Cipher != name {
				t.Fatalf("%s: %s by %q, %s", line, h.Security, h.Cipher, h.Known)
			}
		}
		for _, name := range []string{"NULL-SHA256", "ECDHE-RSA-NULL-SHA", "TLS_RSA_WITH_NULL_SHA256", "TLS_ECDH_anon_WITH_NULL_SHA"} {
			line := from + strings.ReplaceAll(place, "SUITE", name) + date
			if h := Parse(line); h.Security != Clear {
				t.Fatalf("%s: %s by %q, %s", line, h.Security, h.Cipher, h.Known)
			}
		}
	}
	for _, no := range []string{"", "TLS", "Postfix", "HELO", "ESMTP-1", "A-B-SHA256", "x_AES_128", "AES", "SHA256", "mail-RC4", "TLS_FALLBACK"} {
		if suite(no) {
			t.Errorf("%q is a suite", no)
		}
	}
}

func TestDenies(t *testing.T) {
	for _, yes := range []string{"no TLS", "not using TLSv1.2", "without any SSL", "TLS not offered", "TLS wasn't offered", "STARTTLS failed", "TLS=none", "TLS: off", "unencrypted", "plain text", "non-TLS", "encryption disabled"} {
		if !denies(yes) {
			t.Errorf("%q", yes)
		}
	}
	for _, no := range []string{"", "TLS", "using TLSv1.2 with cipher X, peer not verified", "No client certificate requested", "version=TLSv1.2 verify=NONE", "notls"} {
		if denies(no) {
			t.Errorf("%q", no)
		}
	}
}
