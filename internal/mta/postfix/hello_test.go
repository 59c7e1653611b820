package postfix

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/policy"
)

// The versions of a list are those that Postfix speaks with it.
func TestVersions(t *testing.T) {
	for list, want := range map[string]string{
		"":                              "1.0 1.1 1.2 1.3",
		"!SSLv2, !SSLv3":                "1.0 1.1 1.2 1.3",
		">=TLSv1.2":                     "1.2 1.3",
		">=TLSv1.2, <=TLSv1.2":          "1.2",
		"!SSLv2:!SSLv3:!TLSv1,!TLSv1.1": "1.2 1.3",
		"!TLSv1.3":                      "1.0 1.1 1.2",
		"<=SSLv3":                       "",
	} {
		var got []string
		for _, v := range versions(list) {
			got = append(got, v.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", list, got, want)
		}
	}
}

// posttls-finger is told what our transports have, once for those that are alike.
func TestFinger(t *testing.T) {
	const main = "config_directory = /etc/postfix\nmail_version = 3.7.11\ndefault_transport = smtp\nsmtp_tls_exclude_ciphers = RC4, $no\nno = kRSA\n" +
		"smtp_tls_mandatory_exclude_ciphers = DES\ntls_medium_cipherlist = HIGH:MEDIUM\nsmtp_tls_mandatory_protocols = >=TLSv1\n" +
		"smtp_tls_wrappermode = no\nimport_environment = MAIL_CONFIG TZ OPENSSL_CONF=/etc/x.cnf { A=b c }\n"
	services := "smtp unix - - n - - smtp\n"
	f, err := Postconf{All: main, Services: services}.Facts()
	if err != nil {
		t.Fatal(err)
	}
	all := func(f Facts) (text string) {
		for _, s := range f.clients() {
			text += strings.Join(f.fingerArgs(s), " ") + "\n"
		}
		return text
	}
	if got := all(f); strings.Count(got, "\n") != 1 || !strings.Contains(got, "tls_medium_cipherlist=HIGH:MEDIUM:!RC4:!kRSA:!DES\n") || !strings.Contains(got, "-p >=TLSv1 ") {
		t.Errorf("unbound: %s", got)
	}
	if f.wraps() || !slices.Equal(f.settled(), []policy.Version{policy.TLS10, policy.TLS11, policy.TLS12, policy.TLS13}) {
		t.Errorf("wraps %t, speaks %v", f.wraps(), f.settled())
	}
	if env := fmt.Sprint(f.environment()); !strings.Contains(env, "MAIL_CONFIG=/etc/postfix") || !strings.Contains(env, "OPENSSL_CONF=/etc/x.cnf") || strings.Contains(env, "TZ") {
		t.Errorf("environment %s", env)
	}
	services += "tlsonly unix - - n - - smtp\ntlsonly1 unix - - n - - smtp\nodd unix - - n - - smtp\n"
	options := "tlsonly/unix/smtp_tls_mandatory_protocols = >=TLSv1.2\ntlsonly1/unix/smtp_tls_mandatory_protocols = >=TLSv1.3\n" +
		"tlsonly1/unix/tls_eecdh_auto_curves = X25519\nodd/unix/smtp_tls_wrappermode = yes\n"
	if f, err = (Postconf{All: main, Services: services, Options: options}).Facts(); err != nil {
		t.Fatal(err)
	}
	if got := all(f); strings.Count(got, "\n") != 2 || !strings.Contains(got, "-p >=TLSv1.2 ") || !strings.Contains(got, "-p >=TLSv1.3 ") ||
		strings.Count(got, "-o tls_eecdh_auto_curves=X25519") != 1 {
		t.Errorf("bound: %s", got)
	}
	if !f.wraps() || !slices.Equal(f.settled(), []policy.Version{policy.TLS12, policy.TLS13}) {
		t.Errorf("wraps %t, speaks %v", f.wraps(), f.settled())
	}
}

// What the client can't be asked for is assumed, and said to be; the versions are
// those of the settings. With a client it is what that says.
func TestProfileOffers(t *testing.T) {
	dir := t.TempDir()
	program := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program("postconf", `case "$1" in
-x) printf 'mail_version = 3.7.11\nconfig_directory = /etc/postfix\nmyhostname = mta.test\ndefault_transport = smtp\ninet_interfaces = 127.0.0.1\n'
    printf 'smtp_tls_mandatory_protocols = >=TLSv1.2\ntls_medium_cipherlist = HIGH\nimport_environment = A=b\n' ;;
-M) echo 'smtp unix - - n - - smtp' ;;
esac
`)
	i := Instance{Commands: dir}
	m, err := i.Profile(t.Context())
	if err != nil || !strings.Contains(m.TLS.Assumed, finger) || m.TLS.Suites != nil || !slices.Equal(m.TLS.Versions, []policy.Version{policy.TLS12, policy.TLS13}) {
		t.Errorf("without a client: %+v, %v", m.TLS, err)
	}
	if !m.Assumed().TLS.Takes(0xc02f) || m.Assumed().TLS.Speaks(policy.TLS11) {
		t.Errorf("assumed: %+v", m.Assumed().TLS)
	}
	program(finger, "echo no such option >&2; exit 1\n")
	if m, err = i.Profile(t.Context()); err != nil || !strings.Contains(m.TLS.Assumed, "no such option") {
		t.Errorf("with one that fails: %+v, %v", m.TLS, err)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: \"./deps.sh crypto\" installs it")
	}
	program(finger, `[ "$A" = b ] || exit 1
for last; do :; done
host=${last#[}
exec openssl s_client -starttls smtp -tls1_2 -cipher AES128-SHA256 -connect "${host%%]*}${last#*]}" </dev/null
`)
	if m, err = i.Profile(t.Context()); err != nil || m.TLS.Assumed != "" || !slices.Equal(m.TLS.Suites, []uint16{0x003c}) || m.Version != "3.7.11" {
		t.Errorf("with one: %+v, %v", m.TLS, err)
	}
}
