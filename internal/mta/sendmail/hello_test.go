package sendmail

import "testing"

// Of sendmail.cf the lines that decide what TLS offers are taken over, and no other.
func TestTLSSettings(t *testing.T) {
	c := parseConf("O QueueDirectory=/x\nO CipherList=HIGH\nO ClientSSLOptions=+SSL_OP_NO_TLSv1\nO ServerSSLOptions=x\nO ClientKeyFile=/etc/key\n" +
		"EOPENSSL_CONF=/etc/mail/ossl\nETZ=x\nO cipherlist = LOW\nR$*\t$@ O CipherList=x\n")
	const want = "O CipherList=HIGH\nO ClientSSLOptions=+SSL_OP_NO_TLSv1\nEOPENSSL_CONF=/etc/mail/ossl\nO cipherlist = LOW\n"
	if got := c.tlsSettings(); got != want {
		t.Errorf("%q", got)
	}
	if found := parseConf("Stls_clt_features\nSother\nR$*\t$@ x\n").features(); len(found) != 0 {
		t.Errorf("without rules: %+v", found)
	}
	if found := parseConf("Sother\nStls_clt_features\nR$*\t$@ x\n").features(); len(found) != 1 || found[0].Code != "sendmail-tls-features" || found[0].Where != "sendmail.cf:2" {
		t.Errorf("with rules: %+v", found)
	}
}
