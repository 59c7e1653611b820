package postfix

import (
	"testing"

	"tlsonly/internal/mta"
)

func TestCertificates(t *testing.T) {
	for _, c := range []struct {
		name    string
		main    map[string]string
		service string
		want    mta.Severity
	}{
		{"nothing set", nil, "", mta.Warning},
		{"asked, not verified", map[string]string{"smtpd_tls_ask_ccert": "yes"}, "", mta.Warning},
		{"verified, not asked", map[string]string{"smtpd_tls_CAfile": "/ca.pem"}, "", mta.Warning},
		{"both", map[string]string{"smtpd_tls_ask_ccert": "yes", "smtpd_tls_CAfile": "/ca.pem"}, "", mta.OK},
		{"demanded, a directory", map[string]string{"smtpd_tls_req_ccert": "yes", "smtpd_tls_CApath": "/ca"}, "", mta.OK},
		{"the system's", map[string]string{"smtpd_tls_ask_ccert": "yes", "tls_append_default_CA": "yes"}, "", mta.OK},
		{"by one service", nil, "26 inet n - y - - smtpd -o smtpd_tls_ask_ccert=yes -o smtpd_tls_CAfile=/ca.pem", mta.OK},
		{"one asks, another could verify", map[string]string{"smtpd_tls_ask_ccert": "yes"}, "26 inet n - y - - smtpd -o smtpd_tls_ask_ccert=no -o smtpd_tls_CAfile=/ca.pem", mta.Warning},
		{"no mail server's", nil, "26 inet n - y - - other -o smtpd_tls_ask_ccert=yes -o smtpd_tls_CAfile=/ca.pem", mta.Warning},
	} {
		var services []string
		if c.service != "" {
			services = append(services, c.service)
		}
		d := doctor{Facts: facts(t, "3.7.11", c.main, services...)}
		d.certificates()
		if len(d.findings) != 1 || d.findings[0].Severity != c.want || d.findings[0].Severity != mta.OK && d.findings[0].Remedy == "" {
			t.Errorf("%s: %+v, want %s", c.name, d.findings, c.want)
		}
	}
}
