package postfix

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
)

// facts makes Facts of a version, the site's main.cf and more services.
func facts(t *testing.T, version string, main map[string]string, services ...string) Facts {
	t.Helper()
	all := map[string]string{
		"mail_version": version, "config_directory": "/etc/postfix", "queue_directory": "/var/spool/postfix", "compatibility_level": "3.6",
		"smtpd_milters": "", "non_smtpd_milters": "", "sender_dependent_default_transport_maps": "", "smtp_tls_policy_maps": "",
		"smtp_delivery_status_filter": "$default_delivery_status_filter", "default_delivery_status_filter": "", "smtp_header_checks": "",
		"multi_instance_name": "",
	}
	lines := func(m map[string]string) string {
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(m)) {
			b.WriteString(k + " = " + m[k] + "\n")
		}
		return b.String()
	}
	p := Postconf{All: lines(all), Set: lines(main)}
	for _, s := range append([]string{"smtp inet n - y - - smtpd", "cleanup unix n - y - 0 cleanup", "rewrite unix - - y - - trivial-rewrite", "smtp unix - - y - - smtp"}, services...) {
		line, options, _ := strings.Cut(s, " -o ")
		p.Services += line + "\n"
		f := strings.Fields(line)
		if options == "" {
			continue
		}
		for o := range strings.SplitSeq(options, " -o ") {
			name, value, _ := strings.Cut(o, "=")
			p.Options += f[0] + "/" + f[1] + "/" + name + " = " + value + "\n"
		}
	}
	f, err := p.Facts()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func inet() Settings {
	return Settings{Milter: "inet:127.0.0.1:8689", Socketmap: "inet:127.0.0.1:8690", Classes: []Class{{Number: 1}}}
}

// change finds what a plan makes of something.
func change(setup Setup, name string) (string, bool) {
	for _, c := range setup.Changes {
		if c.Name == name {
			return c.New, true
		}
	}
	return "", false
}

func TestPlanParameters(t *testing.T) {
	const entry = "{ inet:127.0.0.1:8689, command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }"
	for _, c := range []struct {
		name, have string // a parameter of the site
		of, want   string // what becomes of a parameter; "-": stays
		change     func(*Settings)
	}{
		{"", "", "smtpd_milters", entry, nil},
		{"", "", "non_smtpd_milters", entry, nil},
		{"smtpd_milters", "", "smtpd_milters", entry, nil},
		{"smtpd_milters", "inet:localhost:11332", "smtpd_milters", entry + ", inet:localhost:11332", nil},
		{"smtpd_milters", "inet:localhost:11332", "non_smtpd_milters", entry, nil},
		{"smtpd_milters", "inet:127.0.0.1:8690", "smtpd_milters", entry + ", inet:127.0.0.1:8690", nil},
		{"smtpd_milters", "inet:127.0.0.1:86892, inet:a:1", "smtpd_milters", entry + ", inet:127.0.0.1:86892, inet:a:1", nil},
		{"smtpd_milters", "inet:a:1, " + entry, "smtpd_milters", "-", nil}, // the admin's order
		{"smtpd_milters", "inet:a:1, " + unblanked(entry), "smtpd_milters", "-", nil},
		{"smtpd_milters", "inet:a:1, " + strings.Replace(entry, "30s", "66s", 1) + " inet:b:2", "smtpd_milters", "inet:a:1, " + entry + " inet:b:2", nil}, // the deadline was changed
		{"smtpd_milters", entry + " inet:a:1, " + entry, "smtpd_milters", entry + " inet:a:1", nil},                                                       // asked twice it would answer twice
		{"non_smtpd_milters", "$smtpd_milters", "non_smtpd_milters", "-", nil},                                                                            // the same
		{"non_smtpd_milters", "${smtpd_milters}", "non_smtpd_milters", "-", nil},
		{"non_smtpd_milters", "unix:a.sock", "non_smtpd_milters", entry + ", unix:a.sock", nil},
		{"", "", "smtpd_milters", strings.Replace(strings.Replace(entry, "30s", "400s", 1), "300s", "400s", 1), func(s *Settings) { s.Deadline = 390 * time.Second }},
		{"", "", "smtpd_milters", strings.Replace(entry, "30s", "36s", 1), func(s *Settings) { s.Deadline = 25500 * time.Millisecond }},
		{"", "", "smtpd_milters", strings.Replace(entry, "inet:127.0.0.1:8689", "unix:tlsonly/m.sock", 1), func(s *Settings) { s.Milter = "unix:/var/spool/postfix/tlsonly/m.sock" }},

		// References, as setup wrote them once, become what they refer to, where they stand.
		{"smtpd_milters", "$tlsonly_milter, inet:localhost:11332", "smtpd_milters", entry + ", inet:localhost:11332", nil},
		{"smtpd_milters", "inet:a:1 ${tlsonly_milter}", "smtpd_milters", "inet:a:1 " + entry, nil},
		{"tlsonly_milter", entry, "tlsonly_milter", "", nil},
		{"mua_milters", "inet:a:1, $(tlsonly_milter)", "mua_milters", "inet:a:1, " + entry, nil},
		{"sender_dependent_default_transport_maps", "$tlsonly_sender_map", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1", nil},
		{"smtp_tls_policy_maps", "hash:p, $tlsonly_policy_map", "smtp_tls_policy_maps", "hash:p, socketmap:inet:127.0.0.1:8690:policy", nil},

		{"", "", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1", nil},
		{"sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender2",
			func(s *Settings) { s.Classes = append(s.Classes, Class{Number: 2}) }},
		{"", "", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender0", func(s *Settings) { s.Classes = nil }},
		{"", "", "sender_dependent_default_transport_maps", "regexp:/etc/postfix/tlsonly_senders.regexp", func(s *Settings) { s.Senders = contract.SendersTable }},
		{"sender_dependent_default_transport_maps", "regexp:/etc/postfix/tlsonly_senders.regexp hash:a", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1 hash:a", nil},
		{"sender_dependent_default_transport_maps", "hash:/etc/postfix/out, hash:b", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1, hash:/etc/postfix/out, hash:b", nil},
		{"sender_dependent_default_transport_maps", "hash:a   hash:b", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1, hash:a   hash:b", nil}, // several lines come as one
		{"sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender12", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1", nil},
		{"sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender", "sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:sender1", nil},
		{"sender_dependent_default_transport_maps", "socketmap:inet:127.0.0.1:8690:senders", "sender_dependent_default_transport_maps",
			"socketmap:inet:127.0.0.1:8690:sender1, socketmap:inet:127.0.0.1:8690:senders", nil}, // somebody else's

		{"", "", "smtp_tls_policy_maps", "socketmap:unix:tlsonly/map:policy", func(s *Settings) { s.Socketmap = "unix:tlsonly/map" }},
		{"smtp_tls_policy_maps", "hash:p", "smtp_tls_policy_maps", "hash:p, socketmap:inet:127.0.0.1:8690:policy", nil},
		{"smtp_tls_policy_maps", "hash:p", "smtp_tls_policy_maps", "-", func(s *Settings) { s.Others = contract.OthersOff }},
		{"smtp_tls_policy_maps", "hash:p, socketmap:inet:127.0.0.1:8690:policy", "smtp_tls_policy_maps", "hash:p", func(s *Settings) { s.Others = contract.OthersOff }},
		{"smtp_tls_policy_maps", "hash:p, $tlsonly_policy_map", "smtp_tls_policy_maps", "hash:p", func(s *Settings) { s.Others = contract.OthersOff }},
		{"tlsonly_policy_map", "x", "tlsonly_policy_map", "", func(s *Settings) { s.Others = contract.OthersOff }},
		{"smtp_fallback_relay", "relay.test", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_fallback_relay= -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2 " +
			"-o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced1 -o smtp_tls_security_level=encrypt -o syslog_name=postfix/tlsonly1", nil},
		// Postfix 3.10 and later, which heed TLS-Required.
		{"3.7.11", "", "tls_required_enable", "-", nil},
		{"3.10.13", "", "tls_required_enable", "no", nil},
		{"3.10.13", "", "tls_required_enable", "-", func(s *Settings) { s.Others = contract.OthersOff }},
	} {
		s := inet()
		if c.change != nil {
			c.change(&s)
		}
		version, main := "3.7.11", map[string]string{}
		if strings.HasPrefix(c.name, "3.") {
			version = c.name
			main["tls_required_enable"] = "yes"
		} else if c.name != "" {
			main[c.name] = c.have
		}
		setup, err := Plan(s, facts(t, version, main))
		if err != nil {
			t.Errorf("%s = %s: %v", c.name, c.have, err)
			continue
		}
		if got, ok := change(setup, c.of); ok != (c.want != "-") || ok && got != c.want {
			t.Errorf("%s = %s: %s becomes %q (%v), want %q", c.name, c.have, c.of, got, ok, c.want)
		}
	}
}

func TestPlanServices(t *testing.T) {
	const common = " -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced1 -o smtp_tls_security_level=encrypt -o syslog_name=postfix/tlsonly1"
	bounce := func(s *Settings) { s.OnLost = contract.OnLostBounce }
	hide := func(s *Settings) { s.HideHeader = true }
	for _, c := range []struct {
		version, service, of, want string
		change                     func(*Settings)
	}{
		{"3.7.11", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, nil},
		{"3.6.0", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.3" + common, func(s *Settings) { s.Classes[0].MinVersion = policy.TLS13 }},
		{"3.4.7", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=!SSLv2,!SSLv3,!TLSv1,!TLSv1.1" + common, nil},
		{"3.4.7", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=!SSLv2,!SSLv3" + common, func(s *Settings) { s.Classes[0].MinVersion = policy.TLS10 }},
		{"3.10.13", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common + " -o tls_required_enable=no", nil},
		{"3.11-20250717", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common + " -o tls_required_enable=no", nil},
		// The strict transport: the strictest of all.
		{"3.7.11", "", "tlsonly/unix", "tlsonly unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.3 -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced -o smtp_tls_security_level=encrypt -o syslog_name=postfix/tlsonly",
			func(s *Settings) { s.Classes = []Class{{1, policy.TLS10}, {2, policy.TLS13}} }},
		{"3.7.11", "", "tlsonly/unix", "tlsonly unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2 -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced -o smtp_tls_security_level=encrypt -o syslog_name=postfix/tlsonly",
			func(s *Settings) { s.Classes = []Class{{1, policy.TLS10}} }},
		{"3.7.11", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_delivery_status_filter=regexp:/etc/postfix/tlsonly_on_lost.regexp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, bounce},
		{"3.7.11", "", "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_header_checks=regexp:/etc/postfix/tlsonly_header.regexp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, hide},
		// What the site's own transport has beside TLS is ours, too.
		{"3.7.11", "smtp unix - - n - 7 smtp -o smtp_bind_address=192.0.2.1 -o smtp_header_checks=regexp:h -o smtp_tls_security_level=may -o syslog_name=out", "tlsonly1/unix",
			"tlsonly1 unix - - n - 7 smtp -o smtp_bind_address=192.0.2.1 -o { smtp_header_checks=regexp:/etc/postfix/tlsonly_header.regexp, regexp:h } -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, hide},
		// Where the site is stricter, ours is.
		{"3.7.11", "smtp unix - - n - - smtp -o smtp_tls_security_level=secure -o smtp_tls_mandatory_protocols=TLSv1.3", "tlsonly1/unix",
			"tlsonly1 unix - - n - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.3" +
				strings.NewReplacer("=encrypt", "=secure", ":forced1", ":forced1/secure").Replace(common), nil},
		{"3.7.11", "smtp unix - - n - - smtp -o smtp_tls_security_level=dane -o smtp_tls_mandatory_protocols=>=TLSv1", "tlsonly1/unix",
			"tlsonly1 unix - - n - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, nil},
		{"3.7.11", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, "tlsonly1/unix", "-", nil},
		{"3.7.11", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + strings.Replace(common, "=encrypt", "=may", 1), "tlsonly1/unix", "tlsonly1 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + common, nil},
		{"3.7.11", "tlsonly3 unix - - y - - smtp", "tlsonly3/unix", // a class less: it stays, as strict as any
			"tlsonly3 unix - - y - - smtp -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2" + strings.ReplaceAll(strings.ReplaceAll(common, "forced1", "forced3"), "tlsonly1", "tlsonly3"), nil},
		{"3.7.11", "tlsonlyish unix - - y - - smtp", "tlsonlyish/unix", "-", nil},
	} {
		s := inet()
		if c.change != nil {
			c.change(&s)
		}
		f := facts(t, c.version, nil)
		if c.service != "" {
			f = facts(t, c.version, nil, c.service)
			if strings.HasPrefix(c.service, "smtp ") {
				f.Services = slices.DeleteFunc(f.Services, func(s Service) bool { return s.ID() == "smtp/unix" && s.Columns[2] == "y" })
			}
		}
		setup, err := Plan(s, f)
		if err != nil {
			t.Errorf("%s %s: %v", c.version, c.service, err)
			continue
		}
		if got, ok := change(setup, c.of); ok != (c.want != "-") || ok && got != c.want {
			t.Errorf("%s %s: %s becomes\n%q (%v), want\n%q", c.version, c.service, c.of, got, ok, c.want)
		}
	}
}

// What the policies answered need besides: authorities, and DNSSEC. The site's own stay.
func TestPlanVerifies(t *testing.T) {
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	dane := func(s *Settings) { s.DANE = true }
	for _, c := range []struct {
		main, service string // of the site
		of, want      string // what becomes of a parameter or an option of tlsonly1; "-": stays, or isn't there
		change        func(*Settings)
	}{
		{"", "", "smtp_tls_CAfile", bundle, nil},
		{"", "", "tlsonly1/smtp_tls_CAfile", bundle, nil},
		{"", "", "smtp_tls_CAfile", "/etc/own.pem", func(s *Settings) { s.CAFile = "/etc/own.pem" }},
		{"", "", "tlsonly1/smtp_tls_CAfile", "/etc/own.pem", func(s *Settings) { s.CAFile = "/etc/own.pem" }},
		{"smtp_tls_CAfile=$tlsonly_ca_file tlsonly_ca_file=/etc/own.pem", "", "tlsonly1/smtp_tls_CAfile", bundle, nil}, // it was taken out of the file
		{"smtp_tls_CAfile=$tlsonly_ca_file tlsonly_ca_file=/etc/own.pem", "", "smtp_tls_CAfile", bundle, nil},
		{"smtp_tls_CAfile=$tlsonly_ca_file tlsonly_ca_file=" + bundle, "", "tlsonly_ca_file", "", nil},
		{"smtp_tls_CAfile=$tlsonly_ca_file tlsonly_ca_file=" + bundle, "", "smtp_tls_CAfile", "", func(s *Settings) { s.Others = contract.OthersOff }},
		{"smtp_tls_CAfile=/site.pem", "", "smtp_tls_CAfile", "-", nil},
		{"smtp_tls_CAfile=/site.pem", "", "tlsonly_ca_file", "-", nil},
		{"smtp_tls_CAfile=/site.pem", "", "tlsonly1/smtp_tls_CAfile", "/site.pem", nil},
		{"", "smtp unix - - n - - smtp -o smtp_tls_CAfile=/smtp.pem", "tlsonly1/smtp_tls_CAfile", "/smtp.pem", nil},
		{"smtp_tls_CApath=/etc/ssl/certs", "", "smtp_tls_CAfile", "-", nil},
		{"smtp_tls_CApath=/etc/ssl/certs", "", "tlsonly1/smtp_tls_CApath", "/etc/ssl/certs", nil},
		{"smtp_tls_CApath=/etc/ssl/certs", "", "tlsonly1/smtp_tls_CApath", "", func(s *Settings) { s.CAFile = "/etc/own.pem" }},
		{"tls_append_default_CA=yes", "", "tlsonly1/tls_append_default_CA", "no", func(s *Settings) { s.CAFile = "/etc/own.pem" }},
		{"smtp_tls_CApath=/etc/ssl/certs", "", "tlsonly1/smtp_tls_CAfile", "/etc/own.pem", func(s *Settings) { s.CAFile = "/etc/own.pem" }},
		{"tls_append_default_CA=yes", "", "smtp_tls_CAfile", "-", nil},
		{"tls_append_default_CA=yes", "", "tlsonly1/smtp_tls_CAfile", "-", nil},

		{"", "", "smtp_dns_support_level", "-", nil},
		{"", "", "smtp_dns_support_level", "dnssec", dane},
		{"", "", "tlsonly1/smtp_dns_support_level", "dnssec", dane},
		{"smtp_dns_support_level=$tlsonly_dns_support tlsonly_dns_support=dnssec", "", "smtp_dns_support_level", "dnssec", dane},
		{"smtp_dns_support_level=$tlsonly_dns_support tlsonly_dns_support=dnssec", "", "smtp_dns_support_level", "", nil},
		{"smtp_dns_support_level=$tlsonly_dns_support tlsonly_dns_support=dnssec", "", "tlsonly_dns_support", "", nil},
		{"smtp_dns_support_level=dnssec", "", "smtp_dns_support_level", "-", dane},
		{"smtp_dns_support_level=enabled", "", "smtp_dns_support_level", "-", dane},
		{"smtp_dns_support_level=enabled", "", "tlsonly1/smtp_dns_support_level", "dnssec", dane},
		{"smtp_dns_support_level=disabled", "", "smtp_dns_support_level", "-", dane},
		{"smtp_dns_support_level=disabled", "", "tlsonly1/smtp_dns_support_level", "-", dane},
		{"disable_dns_lookups=yes", "", "tlsonly1/smtp_dns_support_level", "-", dane},
	} {
		s := inet()
		if c.change != nil {
			c.change(&s)
		}
		main := map[string]string{}
		for _, word := range strings.Fields(c.main) {
			name, value, _ := strings.Cut(word, "=")
			main[name] = value
		}
		f := facts(t, "3.7.11", main)
		if c.service != "" {
			f = facts(t, "3.7.11", main, c.service)
			f.Services = slices.DeleteFunc(f.Services, func(s Service) bool { return s.ID() == "smtp/unix" && s.Columns[2] == "y" })
		}
		f.Bundle = bundle
		setup, err := Plan(s, f)
		if err != nil {
			t.Errorf("%s %s: %v", c.main, c.service, err)
			continue
		}
		got, ok := change(setup, c.of)
		if transport, option, is := strings.Cut(c.of, "/"); is {
			line, _ := change(setup, transport+"/unix")
			_, got, ok = strings.Cut(line, " -o "+option+"=")
			got, _, _ = strings.Cut(got, " ")
		}
		if ok != (c.want != "-") || ok && got != c.want {
			t.Errorf("%s %s: %s becomes %q (%v), want %q", c.main, c.service, c.of, got, ok, c.want)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, c := range []struct {
		version, milter, socketmap string
		want                       string // in the error; "": no error
		services                   []string
	}{
		{"2.11.3", "inet:127.0.0.1:1", "inet:127.0.0.1:2", "3.0 or later", nil},
		{"3.7.11", "unix:/run/m", "inet:127.0.0.1:2", "unix:/run/m: smtpd (smtp/inet) runs chrooted to /var/spool/postfix", nil},
		{"3.7.11", "inet:127.0.0.1:1", "unix:/run/s", "trivial-rewrite (rewrite/unix) runs chrooted", nil},
		{"3.7.11", "unix:/var/spool/postfix/m", "unix:s", "", nil},
		{"3.7.11", "unix:/var/spool/postfixm", "unix:s", "runs chrooted", nil},
		{"3.7.11", "unix:a b", "unix:s", "no path with a blank", nil},
		{"3.7.11", "8689", "unix:s", "want \"inet:host:port\"", nil},
		{"3.7.11", "inet:8689", "unix:s", "want \"inet:host:port\"", nil},
	} {
		_, err := Plan(Settings{Milter: c.milter, Socketmap: c.socketmap}, facts(t, c.version, nil, c.services...))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %s %s: %v, want %q", c.version, c.milter, c.socketmap, err, c.want)
		}
	}
	// Outside the chroot any path will do.
	f := facts(t, "3.7.11", nil)
	for i := range f.Services {
		f.Services[i].Columns[2] = "-"
	}
	if _, err := Plan(Settings{Milter: "unix:/run/m", Socketmap: "unix:/run/s"}, f); err != nil {
		t.Errorf("no chroot: %v", err)
	}
	f.all["compatibility_level"], f.Set["compatibility_level"] = "0", "0"
	if _, err := Plan(Settings{Milter: "unix:/run/m", Socketmap: "unix:/run/s"}, f); err == nil {
		t.Error("chroot by an old default: no error")
	}
}

func TestPlanNotesAndUndo(t *testing.T) {
	f := facts(t, "3.7.11", map[string]string{"smtpd_milters": "$tlsonly_milter, inet:a:1", "non_smtpd_milters": "$tlsonly_milter",
		"sender_dependent_default_transport_maps": "$tlsonly_sender_map, hash:b", "tlsonly_milter": "x", "smtp_tls_policy_maps": "hash:p"},
		"tlsonly unix - - y - - smtp", "tlsonly1 unix - - y - - smtp", "submission inet n - y - - smtpd -o smtpd_milters=inet:a:1",
		"587 inet n - y - - smtpd -o smtpd_milters=inet:a:1,$tlsonly_milter")
	f.Files["/etc/postfix/tlsonly_header.regexp"] = "x"
	setup, err := Plan(inet(), f)
	if err != nil {
		t.Fatal(err)
	}
	if len(setup.Notes) != 2 || !strings.HasPrefix(setup.Notes[1], "your tables in smtp_tls_policy_maps") ||
		!strings.Contains(setup.Notes[0], "(sender_dependent_default_transport_maps = hash:b)") {
		t.Errorf("notes %q", setup.Notes)
	}
	undo := PlanUndo(inet(), f)
	want := []Change{
		{KindParameter, "smtpd_milters", "$tlsonly_milter, inet:a:1", "inet:a:1"},
		{KindParameter, "non_smtpd_milters", "$tlsonly_milter", ""},
		{KindParameter, "sender_dependent_default_transport_maps", "$tlsonly_sender_map, hash:b", "hash:b"},
		{KindParameter, "tlsonly_milter", "x", ""},
		{KindService, "tlsonly/unix", "tlsonly unix - - y - - smtp", ""},
		{KindService, "tlsonly1/unix", "tlsonly1 unix - - y - - smtp", ""},
		{KindOption, "587/inet/smtpd_milters", "inet:a:1,$tlsonly_milter", "inet:a:1"},
		{KindFile, "/etc/postfix/tlsonly_header.regexp", "x", ""},
	}
	if !slices.Equal(undo.Changes, want) {
		t.Errorf("undo %q,\nwant %q", undo.Changes, want)
	}
	if len(undo.Notes) > 0 {
		t.Errorf("notes of undo %q", undo.Notes)
	}
	if again := PlanUndo(inet(), facts(t, "3.7.11", map[string]string{"smtpd_milters": "inet:a:1"})); !again.Empty() {
		t.Errorf("undo of nothing: %q", again.Changes)
	}
}

func TestPrint(t *testing.T) {
	s := inet()
	s.OnLost, s.HideHeader = contract.OnLostBounce, true
	setup, err := Plan(s, facts(t, "3.10.2", map[string]string{"smtpd_milters": "inet:a:1"}, "tlsonly2 unix - - y - - smtp"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := setup.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# main.cf smtpd_milters was: inet:a:1\n",
		"cat >/etc/postfix/tlsonly_header.regexp <<'END'\n" + comment + "/^TLS-Only:/ IGNORE\nEND\n",
		"/^4\\.7\\.4 (TLS is required, but was not offered by host .*)$/ 5.7.10 $1\n",
		"postconf -c /etc/postfix -M -e \\\n    'tlsonly/unix=tlsonly unix - - y - - smtp -o",
		"    'smtpd_milters={ inet:127.0.0.1:8689, command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }, inet:a:1' \\\n",
		"# master.cf tlsonly2/unix was: tlsonly2 unix - - y - - smtp\n", // more than there are classes: as strict as any
		"    'tlsonly2/unix=tlsonly2 unix - - y - - smtp -o",
		"note: 1 of our transports not needed",
		"postfix -c /etc/postfix reload\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("without %q:\n%s", want, b.String())
		}
	}
}

func TestSmallParsers(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, " , ": nil, "a, b c": {"a", "b", "c"}, "{ a, b=c } d": {"{ a, b=c }", "d"}, "a,{b {c d}},": {"a", "{b {c d}}"}, "a}b": {"a}b"},
	} {
		if got := splitList(in); !slices.Equal(got, want) {
			t.Errorf("splitList(%q) = %q", in, got)
		}
	}
	for in, want := range map[string]policy.Version{
		">=TLSv1.2": policy.TLS12, ">=TLSv1": policy.TLS10, "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1": policy.TLS12, "!SSLv2, !SSLv3": policy.TLS10,
		"TLSv1.2 TLSv1.3": policy.TLS12, "": policy.SSL30 - 1, "!SSLv2": policy.SSL30, ">=TLSv1.2, <=TLSv1.3": policy.TLS12, "TLSv1.3": policy.TLS13,
	} {
		if got := lowestProtocol(in); got != want {
			t.Errorf("lowestProtocol(%q) = %v, want %v", in, got, want)
		}
	}
	for in, want := range map[string]time.Duration{"30s": 30 * time.Second, "5": 5 * time.Second, "2m": 2 * time.Minute, "": -1, "x": -1, "s": -1, "-1s": -1} {
		if got, err := parseTime(in); err != nil && want != -1 || err == nil && got != want {
			t.Errorf("parseTime(%q) = %v, %v", in, got, err)
		}
	}
	for in, want := range map[string][]int{"3.7.11": {3, 7}, "3.11-20250717": {3, 11}, "4.0": {4, 0}, "": nil, "x.y": nil, "3": nil} {
		major, minor, err := parseVersion(in)
		if (err == nil) != (want != nil) || err == nil && !slices.Equal([]int{major, minor}, want) {
			t.Errorf("parseVersion(%q) = %d %d %v", in, major, minor, err)
		}
	}
	if _, err := (Postconf{All: "mail_version = 3.7.1\n", Services: "smtp inet n\n"}).Facts(); err == nil {
		t.Error("short line of master.cf: no error")
	}
}

func FuzzWithout(f *testing.F) {
	f.Add("inet:a:1, { inet:b:2, x=y } inet:c:3")
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		items := splitList(value)
		if strings.Contains(value, "$") {
			return
		}
		for _, first := range []bool{true, false} {
			joined := joinLists(first, value, "$tlsonly_milter")
			if !slices.Contains(splitList(joined), "$tlsonly_milter") {
				continue // unbalanced braces swallow it
			}
			if got := splitList(without(joined, "$tlsonly_milter")); !slices.Equal(got, items) {
				t.Errorf("%q joined and taken out again: %q, want %q", value, got, items)
			}
		}
	})
}

// What TLS reports need is told to a Postfix that knows it, and to no other.
func TestReports(t *testing.T) {
	for _, c := range []struct {
		version, enabled string
		told             bool
		note             string
		warned           bool
	}{
		{"3.7.11", "", false, "", false},
		{"3.7.11", "", true, `this is postfix 3.7, which doesn't understand`, true},
		{"3.9.1", "", true, `set it to "3.9"`, true},
		{"3.10.5", "yes", true, "", false},
		{"3.10.5", "yes", false, `with [socketmap] postfix = "3.10" they name`, false},
		{"3.10.5", "no", false, "", false}, // nothing to gain
		{"3.11.0", "yes", true, "", false},
	} {
		main := map[string]string{}
		if c.enabled != "" {
			main["smtp_tlsrpt_enable"] = c.enabled
		}
		f := facts(t, c.version, main)
		s := inet()
		s.Reports = c.told
		setup, err := Plan(s, f)
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Join(slices.DeleteFunc(setup.Notes, func(n string) bool { return !strings.Contains(n, "3.10") }), "\n")
		if (found != "") != (c.note != "") || !strings.Contains(found, c.note) {
			t.Errorf("%+v: notes %q", c, found)
		}
		d := doctor{Settings: s, Facts: f}
		d.version()
		if warned := len(d.findings) == 1 && d.findings[0].Severity == mta.Warning; warned != c.warned || len(d.findings) > 1 || mta.Holes(d.findings) {
			t.Errorf("%+v: %q", c, d.findings)
		}
	}
}

// Our transports are the site's client but for what sets the level.
func TestPlanInherits(t *testing.T) {
	for _, c := range []struct {
		main       map[string]string
		services   []string
		has, lacks string
	}{
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_wrappermode=yes"}, "-o smtp_tls_wrappermode=yes", ""},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_cert_file=/c.pem -o smtp_tls_key_file=/k.pem"}, "-o smtp_tls_cert_file=/c.pem -o smtp_tls_key_file=/k.pem", ""},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_chain_files=/c.pem"}, "-o smtp_tls_chain_files=/c.pem", ""},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_mandatory_ciphers=high"}, "-o smtp_tls_mandatory_ciphers=high", ""},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_mandatory_exclude_ciphers=aNULL"}, "-o smtp_tls_mandatory_exclude_ciphers=aNULL", ""},
		{nil, []string{"smtp unix - - n - - smtp -o tls_high_cipherlist=X"}, "-o tls_high_cipherlist=X", ""},
		{nil, []string{"smtp unix - - n - - smtp -o tls_append_default_CA=yes"}, "-o tls_append_default_CA=yes", ""},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_dns_support_level=disabled"}, "-o smtp_dns_support_level=disabled", ""},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_policy_maps=hash:p -o smtp_use_tls=no"}, "", "hash:p"},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_tls_security_level=none"}, "smtp_tls_security_level=encrypt", "none"},
		{nil, []string{"smtp unix - - n - - smtp -o smtp_fallback_relay=[r.test]"}, "-o smtp_fallback_relay= ", "r.test"},
		{map[string]string{"fb": "[r.test]"}, []string{"smtp unix - - n - - smtp -o smtp_fallback_relay=$fb"}, "-o smtp_fallback_relay= ", "$fb"},
		{map[string]string{"default_transport": "out"}, []string{"out unix - - n - 3 smtp -o smtp_bind_address=192.0.2.1"}, "tlsonly1 unix - - n - 3 smtp -o smtp_bind_address=192.0.2.1", ""},
		{map[string]string{"default_transport": "out:[r.test]"}, []string{"out unix - - n - - smtp -o smtp_tls_wrappermode=yes"}, "-o smtp_tls_wrappermode=yes", ""},
		{map[string]string{"default_transport": "error:no"}, nil, "tlsonly1 unix - - y - - smtp", ""},
	} {
		f := facts(t, "3.7.11", c.main, c.services...)
		if len(c.services) > 0 && strings.HasPrefix(c.services[0], "smtp unix") {
			f.Services = slices.DeleteFunc(f.Services, func(s Service) bool { return s.ID() == "smtp/unix" && s.Columns[2] == "y" })
		}
		setup, err := Plan(inet(), f)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := change(setup, "tlsonly1/unix")
		if !strings.Contains(got+" ", c.has) || c.lacks != "" && strings.Contains(got, c.lacks) {
			t.Errorf("%q %q: %s, want %q and not %q", c.main, c.services, got, c.has, c.lacks)
		}
	}
}

// What the site has written itself for our milter's address stays: where it is
// this daemon and as it must be, else setup says what is to be done, and plans
// nothing.
func TestPlanHandWritten(t *testing.T) {
	ours := func(string) (bool, error) { return true, nil }
	theirs := func(string) (bool, error) { return false, nil }
	nobody := func(string) (bool, error) { return false, errors.New("nobody listens") }
	const full = "{ inet:127.0.0.1:8689, command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }"
	for _, c := range []struct {
		value string
		more  string // "name=value" of main.cf
		whose func(string) (bool, error)
		want  string // in the error; "": the list stays; "+": ours is added
	}{
		{"inet:127.0.0.1:8689", "", ours, ""},
		{"inet:a:1, inet:localhost:8689", "", ours, ""},
		{"{ inet:127.0.0.1:8689, default_action=reject } inet:a:1", "milter_default_action=accept", ours, ""},
		{"$mua", "mua=inet:LOCALHOST:8689", ours, ""},
		{"inet:127.0.0.1:8689", "milter_default_action=accept", ours, "with default_action=accept mail is taken unseen while it is down: make it " + full},
		{"{ inet:127.0.0.1:8689, default_action=accept }", "", ours, "default_action=accept"},
		{"inet:[::1]:8689", "", ours, "+"}, // an address that the daemon doesn't listen at
		{"inet:127.0.0.1:8689", "milter_command_timeout=5s", ours, "command_timeout=5s isn't above the deadline of 20s"},
		{"inet:127.0.0.1:8689", "milter_content_timeout=20s", ours, "content_timeout=20s isn't above"},
		{"inet:127.0.0.1:8689, inet:a:1", "", theirs, "inet:127.0.0.1:8689 is another program's"},
		{"inet:a:1 inet:localhost:8689", "", theirs, "inet:localhost:8689 is another program's, and [milter] listen is the same address: give [milter] listen another port"},
		{"{ inet:localhost:8689, default_action=accept }", "", theirs, "another program's"},
		{"inet:localhost:8689", "", nobody, "whose that is can't be told: nobody listens"},
		{"inet:localhost:8689", "", nil, "start tlsonly serve and try again"},
		{"inet:127.0.0.2:8689", "", theirs, "+"},
		{"inet:localhost:86890", "", theirs, "+"},
		{"unix:tlsonly", "", theirs, "+"},
		{full, "", theirs, ""}, // setup's own, whoever is there now: doctor looks at that
	} {
		for _, where := range []string{"main.cf", "master.cf"} {
			main := map[string]string{"milter_default_action": "tempfail", "milter_command_timeout": "30s", "milter_content_timeout": "300s"}
			if name, value, ok := strings.Cut(c.more, "="); ok {
				main[name] = value
			}
			name, services := "submission/inet/smtpd_milters", []string{"submission inet n - y - - smtpd -o smtpd_milters=" + c.value}
			if where == "main.cf" {
				name, services = "smtpd_milters", nil
				main["smtpd_milters"] = c.value
			}
			s := inet()
			s.Whose = c.whose
			setup, err := Plan(s, facts(t, "3.7.11", main, services...))
			got, changed := change(setup, name)
			switch c.want {
			case "":
				if err != nil || changed {
					t.Errorf("%s %s %s: becomes %q, %v", where, c.value, c.more, got, err)
				}
			case "+":
				if err != nil || !strings.HasPrefix(unblanked(got), unblanked(full)) {
					t.Errorf("%s %s %s: becomes %q, %v", where, c.value, c.more, got, err)
				}
			default:
				if err == nil || !strings.Contains(err.Error(), c.want) || len(setup.Changes) > 0 {
					t.Errorf("%s %s %s: %v, want %q", where, c.value, c.more, err, c.want)
				}
			}
		}
	}
}

// Services with milters of their own get ours, but where a content filter gives mail back.
func TestPlanOptions(t *testing.T) {
	const entry = "{inet:127.0.0.1:8689,command_timeout=30s,content_timeout=300s,default_action=tempfail,protocol=6}"
	for _, c := range []struct {
		service string
		option  string // of it
		want    string // "-": stays
		note    string
	}{
		{"587 inet n - y - - smtpd -o smtpd_milters=inet:a:1", "smtpd_milters", entry + ",inet:a:1", ""},
		{"587 inet n - y - - smtpd -o smtpd_milters=", "smtpd_milters", entry, ""},
		{"587 inet n - y - - smtpd -o smtpd_milters=$mua", "smtpd_milters", entry + ",$mua", ""},
		{"587 inet n - y - - smtpd -o smtpd_milters=$mua -o mua=" + entry, "smtpd_milters", "-", ""},
		{"587 inet n - y - - smtpd -o smtpd_milters=inet:a:1,$tlsonly_milter", "smtpd_milters", "inet:a:1," + entry, ""},
		{"587 inet n - y - - smtpd -o syslog_name=x", "smtpd_milters", "-", ""}, // that of main.cf
		{"192.0.2.1:587 inet n - y - - smtpd -o content_filter= -o smtpd_milters=", "smtpd_milters", entry, ""},
		{"127.0.0.1:10025 inet n - y - - smtpd -o content_filter= -o smtpd_milters=inet:a:1", "smtpd_milters", "-", "127.0.0.1:10025/inet listens on loopback and has content_filter="},
		{"127.0.0.1:10025 inet n - y - - smtpd -o smtpd_milters=", "smtpd_milters", "-", "has smtpd_milters="},
		{"[::1]:10025 inet n - y - - smtpd -o receive_override_options=no_milters -o smtpd_milters=inet:a:1", "smtpd_milters", "-", "no_milters"},
		{"localhost:10025 inet n - y - - smtpd -o smtpd_milters=inet:a:1", "smtpd_milters", entry + ",inet:a:1", ""}, // for programs here
		{"127.0.0.1:10025 inet n - y - - smtpd -o content_filter= -o smtpd_milters=" + entry, "smtpd_milters", "-", ""},
		{"pre unix n - y - 0 cleanup -o non_smtpd_milters=", "non_smtpd_milters", "-", ""}, // nothing comes in there
		{"relay unix - - y - - smtp -o smtp_tls_policy_maps=hash:p,$tlsonly_policy_map", "smtp_tls_policy_maps", "hash:p,socketmap:inet:127.0.0.1:8690:policy", ""},
		{"relay unix - - y - - smtp -o smtp_tls_policy_maps=hash:p", "smtp_tls_policy_maps", "-", ""},
	} {
		f := facts(t, "3.7.11", map[string]string{"mua": "inet:a:1"}, c.service)
		setup, err := Plan(inet(), f)
		if err != nil {
			t.Errorf("%s: %v", c.service, err)
			continue
		}
		words := strings.Fields(c.service)
		id := words[0] + "/" + words[1]
		if got, ok := change(setup, id+"/"+c.option); ok != (c.want != "-") || ok && got != c.want {
			t.Errorf("%s: becomes %q (%v), want %q", c.service, got, ok, c.want)
		}
		if notes := strings.Join(setup.Notes, "\n"); (notes != "") != (c.note != "") || !strings.Contains(notes, c.note) {
			t.Errorf("%s: notes %q", c.service, notes)
		}
	}
}

// A parameter of a former setup that a table refers to from within stays, with today's value.
func TestPlanReferenceFromWithin(t *testing.T) {
	f := facts(t, "3.7.11", map[string]string{"tlsonly_milter": "inet:127.0.0.1:7777", "smtpd_milters": "$tlsonly_milter",
		"smtpd_milter_maps": "cidr:{ {192.0.2.0/24 $$tlsonly_milter} }"})
	setup, err := Plan(inet(), f)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := change(setup, "tlsonly_milter"); !strings.HasPrefix(got, "{ inet:127.0.0.1:8689,") {
		t.Errorf("tlsonly_milter becomes %q", got)
	}
	if len(setup.Notes) != 1 || !strings.HasPrefix(setup.Notes[0], "smtpd_milter_maps refers to $tlsonly_milter") {
		t.Errorf("notes %q", setup.Notes)
	}
}

// The transports log their TLS sessions, as much as the site's own client or more.
func TestPlanLogs(t *testing.T) {
	for _, c := range []struct{ global, option, want string }{
		{"", "", "1"}, {"0", "", "1"}, {"1", "", ""}, {"2", "", ""}, {"", "0", "1"}, {"", "3", "3"}, {"2", "0", "1"}, {"$level", "", "1"},
	} {
		main := map[string]string{}
		if c.global != "" {
			main[logLevel] = c.global
		}
		f := facts(t, "3.7.11", main)
		for i := range f.Services {
			if f.Services[i].ID() == "smtp/unix" && c.option != "" {
				f.Services[i].Options = map[string]string{logLevel: c.option}
			}
		}
		setup, err := Plan(inet(), f)
		if err != nil {
			t.Fatal(err)
		}
		line, _ := change(setup, "tlsonly1/unix")
		_, got, _ := strings.Cut(line, " -o "+logLevel+"=")
		if got, _, _ = strings.Cut(got, " "); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
