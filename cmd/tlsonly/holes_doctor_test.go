package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// plant is something at a site that doctor must find, and what ends it.
type plant struct {
	name   string
	file   string   // more of the daemon's file
	rules  string   // instead of the clinic's
	calls  []string // of postconf, or another command, arguments separated by |; DIR is the case's directory
	level  string   // "" for hole
	code   string
	where  string // the place, or its end
	remedy []string
	mended string // the daemon's file then, "" for the same
}

// milterEntry is what setup writes into lists of milters.
const milterEntry = "{ inet:127.0.0.1:8689, command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }"

// postconf makes one call, with DIR filled in, and MILTER as setup writes it.
func (w *wire) postconf(call string) {
	w.t.Helper()
	call = strings.ReplaceAll(call, "MILTER", milterEntry)
	args := strings.Split(strings.ReplaceAll(call, "DIR", w.dir), "|")
	if strings.HasPrefix(args[0], "-") {
		args = append([]string{"postconf"}, args...)
	}
	w.run(args[0], args[1:]...)
}

// rules makes the daemon read its file.
func (w *wire) rules(t *testing.T) {
	t.Helper()
	said := func() int { return strings.Count(w.daemon.log(), "msg=reloaded") }
	before := said()
	if err := w.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the daemon to read its file", func() bool { return said() > before })
}

// found returns doctor's lines with a code.
func found(out, code string) (lines []string) {
	for line := range strings.Lines(out) {
		for _, level := range []string{"ok", "accepted", "warning", "broken", "not running", "hole"} {
			if rest, ok := strings.CutPrefix(line, level+" "); ok && strings.HasPrefix(strings.TrimSpace(rest)+" ", code) &&
				strings.ContainsAny(strings.TrimPrefix(strings.TrimSpace(rest), code)[:1], " :") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return lines
}

// runPlants has doctor find each of them, and after its remedy not any more.
func runPlants(t *testing.T, plants []plant) {
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	for name, text := range map[string]string{
		"senders":  "# who\nother.example   OK\n\nclinic.example  FILTER smtp:[mx1.none.example]\n",
		"headers":  "# some\n/^Received:/ IGNORE\n/^Subject: (x|y) z/i\n  FILTER smtp:[mx1.none.example]\n",
		"relayed":  "none.example  x\ngood.example  x\n",
		"aliases":  "list: u@none.example\nowner-list: boss@none.example\n",
		"later":    "clinic.example  check_recipient_access regexp:DIR/headers2\n",
		"generic":  "/^(.*)@inside\\.example$/  $1@clinic.example\n",
		"headers2": "if /./\n/^/ FILTER smtp:\nendif\n",
	} {
		write(w.dir, name, strings.ReplaceAll(text, "DIR", w.dir))
	}
	w.run("postmap", "hash:"+filepath.Join(w.dir, "senders"))
	w.run("postmap", "hash:"+filepath.Join(w.dir, "relayed"))
	saved := make(map[string][]byte)
	for _, name := range []string{"main.cf", "master.cf"} {
		text, err := os.ReadFile(filepath.Join(w.postfix.Etc, name))
		if err != nil {
			t.Fatal(err)
		}
		saved[name] = text
	}
	if out, status := w.program("doctor", "postfix"); status != exitOK {
		t.Fatalf("before anything is planted: exit status %d\n%s", status, out)
	}
	for _, c := range plants {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			for name, text := range saved {
				if err := os.WriteFile(filepath.Join(w.postfix.Etc, name), text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			rules := c.rules
			if rules == "" {
				rules = clinicRule
			}
			w.daemon.write(daemonHead + c.file + rules)
			w.rules(t)
			for _, call := range c.calls {
				w.postconf(call)
			}
			w.reload()
			out, status := w.program("doctor", "postfix")
			level, want := c.level, exitNo
			if level == "" {
				level = "hole"
			} else if level == "warning" {
				want = exitOK
			}
			lines := found(out, c.code)
			where := strings.ReplaceAll(c.where, "DIR", w.dir)
			if status != want || len(lines) == 0 || !strings.HasPrefix(lines[0], level) || !strings.Contains(lines[0], where+": ") {
				t.Errorf("exit status %d, want %d, %s %s at %s:\n%s", status, want, level, c.code, where, out)
			} else {
				t.Log(lines[0])
			}
			for _, call := range c.remedy {
				if call == "setup" {
					w.setup()
				} else {
					w.postconf(call)
				}
			}
			if c.mended != "" {
				w.daemon.write(daemonHead + c.mended)
			}
			w.rules(t)
			w.reload()
			out, status = w.program("doctor", "postfix")
			left := slices.ContainsFunc(found(out, c.code), func(line string) bool { return strings.HasPrefix(line, level) })
			if status != exitOK || left {
				t.Errorf("after the remedy: exit status %d\n%s", status, out)
			}
		})
	}
}

const exception = `
[[rule]]
name = "exception"
to = ["@good.example"]
tls = "may"
from = ["*"]
`

const wider = `
[[rule]]
name = "clinic"
from = ["@clinic.example", "@inside.example", "@.clinic.example"]
tls = "encrypt"
`

const login = `
[[rule]]
name = "login"
user = ["alice"]
tls = "encrypt"
`

// FILTER actions, wherever they stand.
func TestMTAHolesDoctorFilter(t *testing.T) {
	long(t)
	const to = "FILTER smtp:[mx1.none.example]"
	out := func(parameter string) []string { return []string{"-X|" + parameter} }
	runPlants(t, []plant{
		{name: "sender access", code: "filter-access", where: "main.cf:smtpd_sender_restrictions",
			calls:  []string{"-e|smtpd_sender_restrictions=check_sender_access inline:{ {clinic.example = " + to + "} }"},
			remedy: []string{"-e|smtpd_sender_restrictions=check_sender_access inline:{ {clinic.example = FILTER tlsonly:[mx1.none.example]} }"}},
		{name: "header checks", code: "filter-header", where: "DIR/headers:3",
			calls: []string{"-e|header_checks=regexp:DIR/headers"}, remedy: out("header_checks")},
		// Neighbours.
		{name: "a compiled table has lines", code: "filter-access", where: "DIR/senders:4",
			calls: []string{"-e|smtpd_client_restrictions=check_sender_access hash:DIR/senders"}, remedy: out("smtpd_client_restrictions")},
		{name: "restriction class", code: "filter-access", where: "main.cf:special",
			calls: []string{"-e|smtpd_restriction_classes=special|special=check_client_access static:{filter smtp:}|" +
				"smtpd_relay_restrictions=check_client_access inline:{127.0.0.1=special}, permit_mynetworks, reject"},
			remedy: []string{"-X|special|smtpd_restriction_classes", "-e|smtpd_relay_restrictions=permit_mynetworks, reject"}},
		{name: "another table from a table", code: "filter-access", where: "DIR/headers2:2",
			calls:  []string{"-e|smtpd_data_restrictions=check_sender_access texthash:DIR/later"},
			remedy: out("smtpd_data_restrictions")},
		{name: "joined tables", code: "filter-access", where: "main.cf:smtpd_end_of_data_restrictions",
			calls:  []string{"-e|smtpd_end_of_data_restrictions=check_recipient_access unionmap:{inline:{x@y.example=OK},pipemap:{static:x,inline:{ {x = " + to + "} }}}"},
			remedy: out("smtpd_end_of_data_restrictions")},
		{name: "an old form without check_", code: "filter-access", where: "main.cf:smtpd_client_restrictions",
			calls: []string{"-e|smtpd_client_restrictions=cidr:{ {127.0.0.0/8 " + to + "} }"}, remedy: out("smtpd_client_restrictions")},
		{name: "for one service", code: "filter-access", where: "/smtpd_recipient_restrictions",
			calls:  []string{"-M|-e|127.0.0.9:26/inet=127.0.0.9:26 inet n - n - - smtpd -o { smtpd_recipient_restrictions = check_helo_access pcre:{ {/./ " + to + "} }, permit_mynetworks, reject }"},
			remedy: []string{"-M|-X|127.0.0.9:26/inet"}},
		{name: "by a parameter of the site's own", code: "filter-access", where: "/smtpd_client_restrictions",
			calls: []string{"-e|mua_client_restrictions=check_sasl_access inline:{ {x = " + to + "} }, permit_mynetworks, reject",
				"-M|-e|127.0.0.9:587/inet=127.0.0.9:587 inet n - n - - smtpd -o smtpd_client_restrictions=$mua_client_restrictions"},
			remedy: []string{"-e|mua_client_restrictions=permit_mynetworks, reject"}},
		{name: "body checks", code: "filter-header", where: "main.cf:body_checks",
			calls: []string{"-e|body_checks=regexp:{ {/x/ " + to + "} }"}, remedy: out("body_checks")},
		{name: "milter header checks", code: "filter-header", where: "main.cf:milter_header_checks",
			calls: []string{"-e|milter_header_checks=pcre:{ {/^X-Spam: yes/i " + to + "} }"}, remedy: out("milter_header_checks")},
		{name: "header checks of another cleanup", code: "filter-header", where: "master.cf:cleanup2/unix/header_checks",
			calls:  []string{"-M|-e|cleanup2/unix=cleanup2 unix n - n - 0 cleanup -o { header_checks = regexp:{ {/^Subject:/ " + to + "} } }"},
			remedy: []string{"-M|-X|cleanup2/unix"}},
		{name: "policy service", level: "warning", code: "filter-asked", where: "main.cf:smtpd_recipient_restrictions",
			calls:  []string{"-e|smtpd_recipient_restrictions=permit_mynetworks, check_policy_service { inet:127.0.0.1:9999, timeout=1s, default_action=DUNNO }, reject"},
			remedy: out("smtpd_recipient_restrictions")},
		{name: "a table that can only be asked", level: "warning", code: "filter-asked", where: "main.cf:smtpd_sender_restrictions",
			calls: []string{"-e|smtpd_sender_restrictions=check_sender_access unix:passwd.byname"}, remedy: out("smtpd_sender_restrictions")},
	})
}

// Other people's senders aren't filtered by, and REDIRECT is no other route.
func TestMTADoctorFilterElse(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{
			"smtpd_sender_restrictions": "check_sender_access inline:{ {other.example = FILTER smtp:[mx1.none.example]}, {x@other.example = REDIRECT y@other.example} }",
			"header_checks":             "regexp:{ {/^Subject: FILTER/ REDIRECT y@other.example} }",
			"content_filter":            "",
		}
	}}, true)
	if out, status := w.program("doctor", "postfix"); status != exitOK || len(found(out, "filter-none")) != 1 {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// The remedy holds on the wire what the action let out.
func TestMTAHolesDoctorWireFilter(t *testing.T) {
	lost := func(rcpt string) func(w *wire) { return func(w *wire) { w.waits(rcpt, noOffer) } }
	sends := func(w *wire) { w.message(doctor, []string{"u@good.example"}, nil) }
	access := func(transport string) map[string]string {
		return map[string]string{"smtpd_sender_restrictions": "check_sender_access inline:{ {clinic.example = FILTER " + transport + ":[mx1.none.example]} }"}
	}
	headers := func(transport string) map[string]string {
		return map[string]string{"header_checks": "regexp:{ {/^Subject:/ FILTER " + transport + ":[mx1.none.example]} }"}
	}
	runWire(t, []wireCase{
		{name: "access", setup: true, main: func(string) map[string]string { return access("tlsonly") }, free: access("smtp"), send: sends, check: lost("u@good.example")},
		{name: "header_checks", setup: true, main: func(string) map[string]string { return headers("tlsonly") }, free: headers("smtp"), send: sends, check: lost("u@good.example")},
	})
}

// Senders that are others at delivery.
func TestMTAHolesDoctorSenders(t *testing.T) {
	long(t)
	runPlants(t, []plant{
		{name: "generic", code: "sender-rewritten", where: "main.cf:smtp_generic_maps",
			calls: []string{"-e|smtp_generic_maps=inline:{ {doctor@inside.example = doctor@clinic.example} }"}, mended: wider},
		{name: "generic of one client", code: "sender-rewritten", where: "master.cf:smtp/unix/smtp_generic_maps",
			calls:  []string{"-P|smtp/unix/smtp_generic_maps=inline:{@inside.example=@clinic.example}"},
			remedy: []string{"setup"}, mended: wider},
		// Neighbours.
		{name: "generic by pattern", code: "sender-rewritten", where: "DIR/generic:1",
			calls: []string{"-e|smtp_generic_maps=regexp:DIR/generic"}, mended: wider},
		{name: "generic of a bare name", code: "sender-rewritten", where: "main.cf:smtp_generic_maps",
			calls: []string{"-e|smtp_generic_maps=inline:{ {root = doctor@clinic.example} }"}, remedy: []string{"-X|smtp_generic_maps"}},
		{name: "canonical, no longer protected", code: "sender-rewritten", where: "main.cf:sender_canonical_maps",
			calls:  []string{"-e|sender_canonical_maps=inline:{ {@clinic.example = @other.example} }"},
			remedy: []string{"-e|sender_canonical_classes=header_sender"}},
		{name: "canonical, for everybody", code: "sender-rewritten", where: "main.cf:canonical_maps",
			calls:  []string{"-e|canonical_maps=static:doctor@clinic.example"},
			remedy: []string{"-e|canonical_classes=envelope_recipient, header_recipient"}},
		{name: "canonical of another cleanup", code: "sender-rewritten", where: "master.cf:cleanup/unix/sender_canonical_maps",
			calls:  []string{"-P|cleanup/unix/sender_canonical_maps=static:doctor@clinic.example"},
			remedy: []string{"-P|-X|cleanup/unix/sender_canonical_maps"}},
		{name: "masquerading", code: "sender-rewritten", where: "main.cf:masquerade_domains",
			calls: []string{"-e|masquerade_domains=clinic.example"}, mended: wider},
		{name: "a table that can only be asked", level: "warning", code: "sender-asked", where: "main.cf:smtp_generic_maps",
			calls: []string{"-e|smtp_generic_maps=unix:passwd.byname"}, remedy: []string{"-X|smtp_generic_maps"}},
	})
}

// Routes, relays and copies.
func TestMTAHolesDoctorRoutes(t *testing.T) {
	long(t)
	runPlants(t, []plant{
		{name: "relay by sender", rules: exception + clinicRule, code: "relay-excepted", where: "main.cf:sender_dependent_relayhost_maps",
			calls:  []string{"-e|sender_dependent_relayhost_maps=inline:{ {@clinic.example = good.example} }"},
			remedy: []string{"-e|sender_dependent_relayhost_maps=inline:{ {@clinic.example = [mx1.good.example]} }"}},
		{name: "home by a transport", code: "route-home", where: "main.cf:transport_maps",
			calls:  []string{"-e|relay_domains=clinic.example|transport_maps=inline:{ {clinic.example = relay:[mx1.none.example]} }"},
			remedy: []string{"-e|transport_maps=inline:{ {clinic.example = tlsonly:[mx1.none.example]} }"}},
		{name: "copy to a relay domain", code: "route-explicit", where: "main.cf:relay_domains",
			calls:  []string{"-e|relay_domains=none.example|always_bcc=audit@none.example"},
			remedy: []string{"-P|relay/unix/smtp_tls_security_level=encrypt", "-P|relay/unix/smtp_tls_policy_maps="}},
		{name: "copies and logins", file: sendersTable, rules: clinicRule + login, code: "logins-copies", where: "main.cf:always_bcc",
			calls: []string{"-e|always_bcc=audit@none.example"}, mended: clinicRule},
		// Neighbours.
		{name: "relayhost has the exception's name", rules: exception + clinicRule, code: "relay-excepted", where: "main.cf:relayhost",
			calls: []string{"-e|relayhost=good.example"}, remedy: []string{"-e|relayhost=[good.example]"}},
		{name: "a next hop has it", rules: exception + clinicRule, code: "relay-excepted", where: "main.cf:transport_maps",
			calls: []string{"-e|transport_maps=inline:{ {partner.example = :good.example} }"}, remedy: []string{"-X|transport_maps"}},
		{name: "home by relay_transport", code: "route-home", where: "main.cf:relay_domains",
			calls:  []string{"-e|relay_domains=clinic.example|relay_transport=relay:[mx1.none.example]"},
			remedy: []string{"-e|relay_transport=tlsonly:[mx1.none.example]"}},
		{name: "home by a pattern", code: "route-home", where: "main.cf:transport_maps",
			calls:  []string{"-e|transport_maps=pcre:{ {/@clinic\\.example$$/ smtp:[mx1.none.example]} }"},
			remedy: []string{"-X|transport_maps"}},
		{name: "home by another host, bounces free", file: "[binding]\nbounces = \"others\"\n", code: "route-home", where: "main.cf:transport_maps",
			calls:  []string{"-e|transport_maps=inline:{ {clinic.example = :[mx1.none.example]} }"},
			mended: clinicRule},
		{name: "copies by recipient, domains in a table", code: "route-explicit", where: "DIR/relayed:1",
			calls:  []string{"-e|relay_domains=hash:DIR/relayed|recipient_bcc_maps=inline:{ {u@good.example = audit@none.example} }"},
			remedy: []string{"-X|recipient_bcc_maps"}},
		{name: "copies by sender, to all", code: "route-explicit", where: "main.cf:transport_maps",
			calls:  []string{"-e|transport_maps=inline:{ {* = smtp:[mx1.good.example]} }|sender_bcc_maps=inline:{ {@clinic.example = audit@none.example} }"},
			remedy: []string{"-e|sender_bcc_maps=inline:{ {@other.example = audit@none.example} }"}},
		{name: "copies nobody knows of", code: "route-explicit", where: "main.cf:relay_domains",
			calls:  []string{"-e|relay_domains=none.example|recipient_bcc_maps=unix:passwd.byname"},
			remedy: []string{"-X|recipient_bcc_maps"}},
		{name: "owner", code: "aliases-owner", where: "DIR/aliases:2",
			calls: []string{"-e|alias_maps=texthash:DIR/aliases"}, mended: strings.Replace(clinicRule, `"]`, `", "@mta.test"]`, 1), remedy: []string{"-e|alias_maps="}},
		{name: "an earlier table of senders", code: "sender-map-overruled", where: "main.cf:sender_dependent_default_transport_maps",
			calls:  []string{"-e|sender_dependent_default_transport_maps=inline:{ {boss@clinic.example = smtp:} }, socketmap:inet:127.0.0.1:8690:sender1"},
			remedy: []string{"-e|sender_dependent_default_transport_maps=socketmap:inet:127.0.0.1:8690:sender1"}},
		{name: "what local mail falls back to", code: "route-explicit", where: "main.cf:fallback_transport",
			calls: []string{"-e|fallback_transport=smtp:[mx1.none.example]"}, remedy: []string{"-e|fallback_transport=tlsonly:[mx1.none.example]"}},
		{name: "copies to virtual mailboxes elsewhere", code: "route-explicit", where: "main.cf:virtual_transport",
			calls:  []string{"-e|virtual_mailbox_domains=box.example|virtual_transport=smtp:[mx1.none.example]|always_bcc=audit@box.example"},
			remedy: []string{"-e|virtual_transport=tlsonly:[mx1.none.example]"}},
		{name: "a route of the resolver's own", code: "route-home", where: "master.cf:rewrite/unix/transport_maps",
			calls:  []string{"-P|rewrite/unix/transport_maps=inline:{clinic.example=smtp:[mx1.none.example]}"},
			remedy: []string{"-P|-X|rewrite/unix/transport_maps"}},
		{name: "a fallback of the delivery agent's own", code: "route-explicit", where: "master.cf:local/unix/fallback_transport",
			calls:  []string{"-P|local/unix/fallback_transport=smtp:[mx1.none.example]"},
			remedy: []string{"-P|local/unix/fallback_transport=tlsonly:[mx1.none.example]"}},
		{name: "mailboxes elsewhere, by the resolver's own", code: "route-explicit", where: "master.cf:rewrite/unix/virtual_transport",
			calls: []string{"-e|virtual_mailbox_domains=box.example|always_bcc=audit@box.example",
				"-P|rewrite/unix/virtual_transport=smtp:[mx1.none.example]"},
			remedy: []string{"-P|-X|rewrite/unix/virtual_transport"}},
		{name: "a port by name", level: "broken", code: "relay-form", where: "main.cf:relayhost",
			calls: []string{"-e|relayhost=[mx1.good.example]:nobodys-service"}, remedy: []string{"-e|relayhost=[mx1.good.example]:540"}},
		{name: "deferred", level: "broken", code: "transport-deferred", where: "main.cf:defer_transports",
			calls: []string{"-e|defer_transports=smtp tlsonly1"}, remedy: []string{"-X|defer_transports"}},
		{name: "queue", level: "warning", code: "queue-lifetime", where: "main.cf:maximal_queue_lifetime",
			calls: []string{"-e|maximal_queue_lifetime=10"}, mended: "[binding]\nkeep = \"12d\"\n" + clinicRule},
	})
}

// Ways in on which our milter isn't asked.
func TestMTAHolesDoctorIn(t *testing.T) {
	long(t)
	const back = "127.0.0.1:10025 inet n - n - - smtpd -o content_filter= -o smtpd_milters="
	runPlants(t, []plant{
		{name: "pickup", code: "milter-overridden", where: "master.cf:pickup/unix/receive_override_options",
			calls: []string{"-P|pickup/unix/receive_override_options=no_milters"}, remedy: []string{"-P|-X|pickup/unix/receive_override_options"}},
		{name: "content filter, bounces free", file: "[binding]\nbounces = \"others\"\n", code: "milter-reinjected", where: "master.cf:127.0.0.1:10025/inet/smtpd_milters",
			calls:  []string{"-e|content_filter=smtp:[127.0.0.1]:10024", "-M|-e|127.0.0.1:10025/inet=" + back},
			remedy: []string{"-X|content_filter", "-M|-X|127.0.0.1:10025/inet"}},
		// Neighbours.
		{name: "all of them", code: "milter-overridden", where: "main.cf:receive_override_options",
			calls: []string{"-e|receive_override_options=no_address_mappings,no_milters"}, remedy: []string{"-X|receive_override_options"}},
		{name: "qmqpd", code: "milter-overridden", where: "master.cf:628/inet/receive_override_options",
			calls: []string{"-M|-e|628/inet=628 inet n - n - - qmqpd -o receive_override_options=no_milters"}, remedy: []string{"-M|-X|628/inet"}},
		{name: "content filter by an action", level: "warning", code: "milter-reinjected", where: "master.cf:127.0.0.1:10025/inet/smtpd_milters",
			calls:  []string{"-e|smtpd_client_restrictions=check_client_access static:{FILTER smtp:[127.0.0.1]:10024}", "-M|-e|127.0.0.1:10025/inet=" + back},
			remedy: []string{"-P|127.0.0.1:10025/inet/smtpd_milters={inet:127.0.0.1:8689,default_action=tempfail}"}},
		{name: "another cleanup", code: "milter-missing", where: "master.cf:pre/unix/non_smtpd_milters",
			calls:  []string{"-M|-e|pre/unix=pre unix n - n - 0 cleanup -o non_smtpd_milters=", "-P|pickup/unix/cleanup_service_name=pre"},
			remedy: []string{"-P|-X|pickup/unix/cleanup_service_name"}},
		{name: "clients with other milters", code: "milter-maps", where: "main.cf:smtpd_milter_maps",
			calls:  []string{"-e|smtpd_milter_maps=cidr:{ {192.0.2.0/24 inet:127.0.0.1:9} }"},
			remedy: []string{"-e|smtpd_milter_maps=cidr:{ {192.0.2.0/24 $$smtpd_milters} }"}},
		{name: "milters of which nobody knows", level: "warning", code: "milter-maps", where: "main.cf:smtpd_milter_maps",
			calls: []string{"-e|smtpd_milter_maps=unix:passwd.byname"}, remedy: []string{"-X|smtpd_milter_maps"}},
		{name: "a milter before ours", level: "warning", code: "milter-other", where: "main.cf:smtpd_milters",
			calls: []string{"-e|smtpd_milters=inet:127.0.0.1:9, MILTER"}, remedy: []string{"-e|smtpd_milters=MILTER"}},
	})
}

// What setup takes over, and the remedies that are a setup.
func TestMTAHolesDoctorSetup(t *testing.T) {
	long(t)
	runPlants(t, []plant{
		{name: "fallback relay of the client", code: "transport-fallback", where: "master.cf:tlsonly/unix/smtp_fallback_relay",
			calls: []string{"-P|smtp/unix/smtp_fallback_relay=[mx1.none.example]", "-P|tlsonly/unix/smtp_fallback_relay=[mx1.none.example]"}, remedy: []string{"setup"}},
		{name: "fallback relay of all", code: "transport-fallback", where: "master.cf:tlsonly1/unix/smtp_fallback_relay",
			calls: []string{"-e|smtp_fallback_relay=[mx1.none.example]", "-P|tlsonly/unix/smtp_fallback_relay="}, remedy: []string{"setup"}},
		{name: "TLS at once", level: "broken", code: "transport-differs", where: "master.cf:tlsonly/unix/smtp_tls_wrappermode",
			calls: []string{"-P|smtp/unix/smtp_tls_wrappermode=yes", "-P|smtp/unix/smtp_tls_security_level=encrypt"}, remedy: []string{"setup"}},
		{name: "client certificate", level: "warning", code: "transport-differs", where: "master.cf:tlsonly/unix/smtp_tls_chain_files",
			calls: []string{"-P|smtp/unix/smtp_tls_chain_files=/etc/own.pem"}, remedy: []string{"setup"}},
		{name: "transport gone", level: "broken", code: "transport-missing", where: "master.cf:tlsonly/unix",
			calls: []string{"-M|-X|tlsonly/unix"}, remedy: []string{"setup"}},
	})
}
