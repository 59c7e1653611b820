package main

import "testing"

// Distributions' own Postfix, and suites that write plain files once.
func TestMTASitesPlain(t *testing.T) {
	long(t)
	runSites(t, []deployment{
		{name: "Debian", main: debianMain},
		{name: "Debian, OpenDKIM at a unix socket", signers: []string{"unix:DIR/opendkim.sock"}, main: debianMain + `
smtpd_milters = unix:DIR/opendkim.sock
non_smtpd_milters = $smtpd_milters
milter_default_action = accept
`, warnings: otherMilters},
		{name: "Debian, OpenDKIM at port 8891", signers: []string{"127.0.0.1:8891"}, main: debianMain + `
# OpenDKIM
milter_protocol = 6
milter_default_action = accept
smtpd_milters = inet:localhost:8891
non_smtpd_milters = inet:localhost:8891
`, warnings: otherMilters},
		{name: "Red Hat", main: redHatMain, files: map[string]string{"aliases": "postmaster: root\n"}, setup: func(r *siteRun) {
			r.run("postalias", "hash:"+r.dir+"/aliases")
			write(r.dir, "ca-bundle.crt", readFileOf(r.t, "/etc/ssl/certs/ca-certificates.crt"))
		}},
		{name: "Mail-in-a-Box", signers: []string{"127.0.0.1:8891", "127.0.0.1:8893"}, ports: []string{"127.0.0.1:465", "127.0.0.1:587"}, warnings: otherMilters,
			main: `
myhostname=box.mta.test
smtpd_banner=$myhostname ESMTP Hi, I'm a Mail-in-a-Box (Ubuntu/Postfix)
mydestination=localhost
smtp_tls_security_level=dane
smtp_dns_support_level=dnssec
smtp_tls_mandatory_protocols=!SSLv2,!SSLv3
smtp_tls_CAfile=/etc/ssl/certs/ca-certificates.crt
smtp_tls_loglevel=2
delay_warning_time=3h
maximal_queue_lifetime=2d
smtpd_milters=inet:127.0.0.1:8891 inet:127.0.0.1:8893
non_smtpd_milters=$smtpd_milters
milter_default_action=accept
header_checks=
`, master: `
127.0.0.1:465 inet n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_milters=inet:127.0.0.1:8891
  -o cleanup_service_name=authclean
127.0.0.1:587 inet n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_milters=inet:127.0.0.1:8891
  -o cleanup_service_name=authclean
authclean unix n - n - 0 cleanup
  -o header_checks=pcre:DIR/outgoing_mail_header_filters
  -o nested_header_checks=
`, files: map[string]string{"outgoing_mail_header_filters": "/^\\s*X-Originating-IP:/ IGNORE\n"}},
		{name: "behind Exchange, through a smarthost", smarthost: true, from: "prvs=1234abcdef=" + doctor, warnings: []string{"route-explicit"}, tables: "local = [\"clinic.example\"]\n", main: debianMain[:len(debianMain)-len("relayhost =\n")] + `
relayhost = [mx1.good.example]
mydestination =
mynetworks = 127.0.0.0/8
relay_domains = clinic.example
transport_maps = inline:{ {clinic.example = discard:} }
`},
	})
}

// otherMilters is what doctor says where other milters are asked, too.
var otherMilters = []string{"milter-other"}

const redHatMain = `
compatibility_level = 2
mail_owner = postfix
mydestination = $myhostname, localhost.$mydomain, localhost
unknown_local_recipient_reject_code = 550
alias_maps = hash:DIR/aliases
alias_database = hash:DIR/aliases
debug_peer_level = 2
smtpd_tls_security_level = may
smtp_tls_CApath = DIR
smtp_tls_CAfile = DIR/ca-bundle.crt
smtp_tls_security_level = may
meta_directory = /etc/postfix
shlib_directory = /usr/lib/postfix
`

const debianMain = `
# TLS parameters
smtpd_tls_security_level=may
smtp_tls_CApath=/etc/ssl/certs
smtp_tls_security_level=may
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache

smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
mailbox_size_limit = 0
recipient_delimiter = +
relayhost =
`
