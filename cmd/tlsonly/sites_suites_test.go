package main

import (
	"os/exec"
	"strings"
	"testing"
)

// Suites that write Postfix's files anew at each start, or every few minutes.
func TestMTASitesSuites(t *testing.T) {
	long(t)
	runSites(t, []deployment{mailcow, dockerMailserver, mailu, proxmox, zimbra})
}

// Suites that ask a database about everything.
func TestMTASitesDatabase(t *testing.T) {
	long(t)
	runSites(t, []deployment{iRedMail, ispConfig})
}

// anew writes both files from the templates: nothing of ours is in them.
func anew(r *siteRun) { r.render() }

// inMain keeps the parameters where the suite appends them to main.cf, and the
// services where a script of the site's adds them.
func inMain(r *siteRun, parameters, services []string) {
	r.mainMore = "\n" + strings.Join(parameters, "\n") + "\n"
	// postconf -M is what such a script calls.
	r.services = "\n" + strings.Join(services, "\n") + "\n"
}

// mailcow: main.cf is cut at a line at each start, and extra.cf appended;
// master.cf is from the image.
var mailcow = deployment{
	name: "mailcow", signers: []string{"127.0.0.1:9900"}, warnings: []string{"milter-other", "forwards-unlisted", "policy-site-asked"}, local: "nurse@clinic.example", alias: "team@clinic.example",
	sql: mailSQL,
	files: map[string]string{
		"mysql_virtual_mailbox_maps.cf": mailboxQuery, "mysql_virtual_alias_maps.cf": aliasQuery, "mysql_virtual_domains_maps.cf": domainQuery,
		"mysql_tls_policy_override_maps.cf":                noQuery,
		"mysql_sender_dependent_default_transport_maps.cf": "dbpath = DIR/db\nquery = SELECT transport FROM relay WHERE sender = '%s'\n",
	},
	main: `
# mailcow
biff = no
append_dot_mydomain = no
smtpd_tls_security_level = may
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
smtp_tls_loglevel = 1
smtp_tls_policy_maps = proxy:sqlite:DIR/mysql_tls_policy_override_maps.cf
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache
mydestination = localhost.localdomain, localhost
virtual_mailbox_domains = proxy:sqlite:DIR/mysql_virtual_domains_maps.cf
virtual_mailbox_maps = proxy:sqlite:DIR/mysql_virtual_mailbox_maps.cf
virtual_alias_maps = proxy:sqlite:DIR/mysql_virtual_alias_maps.cf
virtual_transport = lmtp:unix:private/lmtp
sender_dependent_default_transport_maps = proxy:sqlite:DIR/mysql_sender_dependent_default_transport_maps.cf
proxy_read_maps = $virtual_mailbox_domains, $virtual_mailbox_maps, $virtual_alias_maps, $smtp_tls_policy_maps, $sender_dependent_default_transport_maps
smtpd_milters = inet:localhost:9900
non_smtpd_milters = inet:localhost:9900
milter_default_action = tempfail
milter_protocol = 6
minimal_backoff_time = 1h
maximal_backoff_time = 1h
# Overrides #
`,
	master: `
smtp_via_transport_maps unix - - n - - smtp
  -o smtp_bind_address=127.0.0.10
127.0.0.1:589 inet n - n - - smtpd
  -o smtpd_client_restrictions=permit_mynetworks,reject
  -o syslog_name=postfix/source
127.0.0.1:590 inet n - n - - smtpd
  -o smtpd_client_restrictions=permit_mynetworks,reject
  -o syslog_name=postfix/sogo
`,
	ports:      []string{"127.0.0.1:589", "127.0.0.1:590"},
	source:     "127.0.0.10",
	regenerate: anew, override: inMain,
}

// docker-mailserver: main.cf is rendered, postfix-main.cf appended to it, and
// what stands twice is expected.
var dockerMailserver = deployment{
	name: "docker-mailserver", signers: []string{"127.0.0.1:8891"}, warnings: []string{"milter-other", "forwards-unlisted"},
	main: `
smtpd_banner = $myhostname ESMTP
smtpd_tls_security_level = may
smtp_tls_security_level = may
smtp_tls_loglevel = 1
smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt
recipient_delimiter = +
milter_protocol = 6
milter_default_action = accept
dkim_milter = inet:localhost:8891
smtpd_milters = $dkim_milter
non_smtpd_milters = $dkim_milter
sender_canonical_maps = tcp:localhost:10001
sender_canonical_classes = envelope_sender
recipient_canonical_maps = tcp:localhost:10002
recipient_canonical_classes = envelope_recipient,header_recipient
# postfix-main.cf
smtp_tls_loglevel = 2
smtp_tls_loglevel = 1
`,
	setup:      func(r *siteRun) { startCanonical(r.t, "127.0.0.1:10001"); startCanonical(r.t, "127.0.0.1:10002") },
	regenerate: anew, override: inMain,
}

// Mailu: both files are rendered; overrides go through a shell to postconf -e.
var mailu = deployment{
	name: "Mailu", signers: []string{"127.0.0.1:11332"}, warnings: []string{"milter-other"},
	main: `
mydestination =
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
smtp_tls_mandatory_protocols = >=TLSv1.2
smtp_tls_CApath = /etc/ssl/certs
smtpd_tls_security_level = none
recipient_delimiter = +
smtpd_milters = inet:127.0.0.1:11332
milter_protocol = 6
milter_mail_macros = i {mail_addr} {client_addr} {client_name} {auth_authen}
milter_default_action = tempfail
`,
	regenerate: anew,
	override: func(r *siteRun, parameters, services []string) {
		r.services = "\n" + strings.Join(services, "\n") + "\n"
		r.s.regenerate = func(r *siteRun) {
			r.render()
			for _, p := range parameters {
				// A shell reads the line, so it expands what is there to expand.
				cmd := exec.Command("sh", "-c", `postconf -c `+r.postfix.Etc+` -e "`+p+`"`)
				if out, err := cmd.CombinedOutput(); err != nil {
					r.t.Fatalf("%v: %s", err, out)
				}
			}
			r.reloaded()
		}
	},
}

// Proxmox Mail Gateway: templates, with a smarthost in default_transport.
var proxmox = deployment{
	name: "Proxmox Mail Gateway", smarthost: true,
	main: `
# auto-generated by proxmox
smtpd_banner=$myhostname ESMTP
default_transport=smtp:[mx1.good.example]:25
smtp_tls_security_level=may
smtpd_tls_security_level=may
smtpd_tls_loglevel=1
smtp_tls_loglevel=1
message_size_limit=10485760
`,
	regenerate: anew, override: inMain,
}

// Zimbra: its commands are in a directory of its own, and a daemon writes the
// settings every two minutes from LDAP.
var zimbra = deployment{
	name: "Zimbra",
	main: `
mydestination = localhost
smtpd_tls_security_level = may
smtp_tls_security_level = may
smtpd_milters =
non_smtpd_milters =
milter_default_action = tempfail
sender_canonical_maps =
virtual_alias_expansion_limit = 10000
smtpd_sasl_authenticated_header = no
`,
	tables: "postconf = \"/usr/sbin\"\n",
	setup:  zmconfigd, regenerate: zmconfigd,
}

// zmconfigd writes what LDAP says of each attribute, in one call.
func zmconfigd(r *siteRun) {
	r.run("postconf", "-e", "smtpd_milters=", "non_smtpd_milters=", "milter_default_action=tempfail", "smtp_tls_security_level=may", "sender_canonical_maps=")
	r.reloaded()
}

const (
	mailSQL = `CREATE TABLE mailbox(address, home); INSERT INTO mailbox VALUES('nurse@clinic.example','clinic.example/nurse/');
CREATE TABLE alias(address, target); INSERT INTO alias VALUES('team@clinic.example','u@none.example');
CREATE TABLE domain(domain); INSERT INTO domain VALUES('clinic.example');
CREATE TABLE relay(sender, transport); INSERT INTO relay VALUES('doctor@clinic.example','smtp_via_transport_maps:');
CREATE TABLE tlspolicy(dest, policy);`
	mailboxQuery = "dbpath = DIR/db\nquery = SELECT home FROM mailbox WHERE address = '%s'\n"
	aliasQuery   = "dbpath = DIR/db\nquery = SELECT target FROM alias WHERE address = '%s'\n"
	domainQuery  = "dbpath = DIR/db\nquery = SELECT domain FROM domain WHERE domain = '%s'\n"
	noQuery      = "dbpath = DIR/db\nquery = SELECT policy FROM tlspolicy WHERE dest = '%s'\n"
)

// iRedMail and Modoboa: fourteen tables, and Amavis takes and gives back all.
var iRedMail = deployment{
	name: "iRedMail, Modoboa", warnings: []string{"forwards-unlisted", "route-asked", "relay-asked"},
	// Who has domains in that table sees to its route instead.
	tables: "[doctor]\naccept = [\"route-explicit:main.cf:relay_domains nothing is relayed here\"]\n",
	local:  "nurse@clinic.example", alias: "team@clinic.example", sql: mailSQL,
	files: map[string]string{
		"virtual_mailbox_domains.cf": domainQuery, "virtual_mailbox_maps.cf": mailboxQuery, "virtual_alias_maps.cf": aliasQuery,
		"transport_maps_user.cf": noQuery, "transport_maps_domain.cf": noQuery, "relay_domains.cf": noQuery, "domain_alias_maps.cf": noQuery,
		"catchall_maps.cf": noQuery, "domain_alias_catchall_maps.cf": noQuery, "sender_bcc_maps_user.cf": noQuery, "sender_bcc_maps_domain.cf": noQuery,
		"recipient_bcc_maps_user.cf": noQuery, "recipient_bcc_maps_domain.cf": noQuery, "sender_dependent_relayhost_maps.cf": noQuery,
	},
	main: `
mydestination = localhost
smtpd_tls_security_level = may
smtp_tls_security_level = may
recipient_delimiter = +
transport_maps = proxy:sqlite:DIR/transport_maps_user.cf proxy:sqlite:DIR/transport_maps_domain.cf
sender_dependent_relayhost_maps = proxy:sqlite:DIR/sender_dependent_relayhost_maps.cf
relay_domains = $mydestination proxy:sqlite:DIR/relay_domains.cf
virtual_mailbox_domains = proxy:sqlite:DIR/virtual_mailbox_domains.cf
virtual_alias_maps = proxy:sqlite:DIR/virtual_alias_maps.cf proxy:sqlite:DIR/domain_alias_maps.cf proxy:sqlite:DIR/catchall_maps.cf proxy:sqlite:DIR/domain_alias_catchall_maps.cf
virtual_mailbox_maps = proxy:sqlite:DIR/virtual_mailbox_maps.cf
sender_bcc_maps = proxy:sqlite:DIR/sender_bcc_maps_user.cf proxy:sqlite:DIR/sender_bcc_maps_domain.cf
recipient_bcc_maps = proxy:sqlite:DIR/recipient_bcc_maps_user.cf proxy:sqlite:DIR/recipient_bcc_maps_domain.cf
proxy_read_maps = $transport_maps $relay_domains $virtual_mailbox_domains $virtual_alias_maps $virtual_mailbox_maps $sender_bcc_maps $recipient_bcc_maps $sender_dependent_relayhost_maps
virtual_transport = lmtp:unix:private/dovecot-lmtp
content_filter = smtp-amavis:[127.0.0.1]:10024
`,
	master: amavisMaster,
	setup:  func(r *siteRun) { startGivingBack(r.t, "127.0.0.1:10024", "127.0.0.1:10025") },
}

const amavisMaster = `
smtp-amavis unix - - n - 2 smtp
  -o smtp_data_done_timeout=1200
  -o smtp_send_xforward_command=yes
  -o disable_dns_lookups=yes
  -o max_use=20
127.0.0.1:10025 inet n - n - - smtpd
  -o content_filter=
  -o mynetworks_style=host
  -o mynetworks=127.0.0.0/8
  -o local_recipient_maps=
  -o relay_recipient_maps=
  -o strict_rfc821_envelopes=yes
  -o smtp_tls_security_level=none
  -o smtpd_tls_security_level=none
  -o smtpd_client_restrictions=permit_mynetworks,reject
  -o receive_override_options=no_unknown_recipient_checks,no_address_mappings
`

// ISPConfig: like these, with rspamd as a milter, or Amavis.
var ispConfig = deployment{
	name: "ISPConfig", signers: []string{"127.0.0.1:11332"}, warnings: []string{"milter-other", "forwards-unlisted", "route-asked"}, sql: mailSQL,
	local: "nurse@clinic.example", alias: "team@clinic.example",
	files: map[string]string{
		"mysql-virtual_domains.cf": domainQuery, "mysql-virtual_mailboxes.cf": mailboxQuery, "mysql-virtual_forwardings.cf": aliasQuery,
		"mysql-virtual_outgoing_bcc.cf": noQuery, "mysql-virtual_transports.cf": noQuery, "mysql-virtual_sender.cf": noQuery,
	},
	main: `
mydestination = localhost
smtpd_tls_security_level = may
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
virtual_alias_domains =
virtual_alias_maps = proxy:sqlite:DIR/mysql-virtual_forwardings.cf
virtual_mailbox_domains = proxy:sqlite:DIR/mysql-virtual_domains.cf
virtual_mailbox_maps = proxy:sqlite:DIR/mysql-virtual_mailboxes.cf
virtual_transport = lmtp:unix:private/dovecot-lmtp
transport_maps = proxy:sqlite:DIR/mysql-virtual_transports.cf
sender_bcc_maps = proxy:sqlite:DIR/mysql-virtual_outgoing_bcc.cf
smtpd_sender_login_maps = proxy:sqlite:DIR/mysql-virtual_sender.cf
proxy_read_maps = $virtual_alias_maps $virtual_mailbox_domains $virtual_mailbox_maps $transport_maps $sender_bcc_maps $smtpd_sender_login_maps
header_checks = regexp:DIR/header_checks
smtpd_milters = inet:localhost:11332
non_smtpd_milters = inet:localhost:11332
milter_protocol = 6
milter_default_action = accept
`,
	setup: func(r *siteRun) { write(r.dir, "header_checks", "/^X-Spam-Flag:/ IGNORE\n") },
}
