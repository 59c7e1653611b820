package postfix

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
	"tlsonly/internal/testnet/rig"
)

// Each hole is planted by itself into an instance that is well otherwise, and must be found by itself.
func TestDoctorFinds(t *testing.T) {
	rig.Long(t)
	t.Parallel()
	ctx := patient(t)
	smap := startAnswers(t, "tcp", "127.0.0.1:0", map[string]string{
		"sender alice@sender.test": "OK tlsonly1:", "sender1 alice@sender.test": "OK tlsonly1:", "sender1 owner-good@mta.test": "OK tlsonly1:", "sender1 bad@sender.test": "OK smtp:", "sender1 late@sender.test": "OK tlsonly9:",
		"sender1 temp@sender.test": "TEMP later", "forced1 dane.test": "OK dane", "forced1 may.test": "OK may", "forced temp.test": "TEMP later",
		"forced1 secure.test": "OK secure match=nexthop",
	})
	s := Settings{
		Milter: "inet:" + startMilter(t, "tcp", "127.0.0.1:0"), Socketmap: "inet:" + smap.listener.Addr().String(),
		Classes: []Class{{Number: 1}}, Protected: []addr.Address{addr.MustAddress("alice@sender.test")}, Destinations: []string{"secure.test"},
		Patience: time.Millisecond,
	}
	p := startPostfix(t, ctx, rig.PostfixConfig{Main: map[string]string{"smtp_tls_security_level": "may", "smtpd_sasl_auth_enable": "no"}})
	i := Instance{Dir: p.Etc}
	aliases := filepath.Join(p.Etc, "aliases")
	if err := os.WriteFile(aliases, []byte("owner-bad bob\nowner-good bob\nlist-of-owner-x bob\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	apply(t, ctx, i, s, time.Now())
	backdate(t, p)
	if found, err := Doctor(ctx, s, i); err != nil || !slices.ContainsFunc(found, func(f mta.Finding) bool { return f.Remedy == "postfix -c "+p.Etc+" reload" }) {
		t.Errorf("before the reload: %q, %v", found, err)
	}
	settle(t, ctx, p)
	if err := waitSocket(ctx, filepath.Join(p.Dir, "queue", "private", "tlsonly1")); err != nil {
		t.Fatal(err)
	}
	check := func(s Settings) []mta.Finding {
		t.Helper()
		found, err := Doctor(ctx, s, i)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	// What is planted isn't loaded: that is a hole each time, which another test looks at.
	planted := func(s Settings) []mta.Finding {
		t.Helper()
		found := check(s)
		stale := func(f mta.Finding) bool { return f.Code == "not-reloaded" }
		if !slices.ContainsFunc(found, stale) {
			t.Errorf("the running postfix isn't known to be older: %q", found)
		}
		return slices.DeleteFunc(found, stale)
	}
	if found := bad(check(s)); len(found) > 0 {
		t.Fatalf("before anything is planted: %q", found)
	}
	saved := make(map[string][]byte)
	for _, name := range []string{"main.cf", "master.cf"} {
		b, err := os.ReadFile(filepath.Join(p.Etc, name))
		if err != nil {
			t.Fatal(err)
		}
		saved[name] = b
	}
	host := smtpdOf(t, ctx, p)
	entry := "{ " + s.Milter + ", command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }"
	senders, policies := "socketmap:"+s.Socketmap+":sender1", "socketmap:"+s.Socketmap+":policy"
	for _, c := range []struct {
		plant string // arguments of postconf, separated by |
		level mta.Severity
		check string
		want  string // in the finding
	}{
		{"-X|smtpd_milters", mta.Hole, "milter", "smtpd_milters (" + host + "): our milter isn't asked"},
		{"-P|" + host + "/smtpd_milters=", mta.Hole, "milter", host + " in master.cf: smtpd_milters"},
		{"-P|" + host + "/receive_override_options=no_milters", mta.Hole, "milter", "no_milters"},
		{"-X|non_smtpd_milters", mta.Hole, "milter", "non_smtpd_milters (cleanup/unix)"},
		{"-P|cleanup/unix/non_smtpd_milters=inet:127.0.0.1:1", mta.Hole, "milter", "cleanup/unix in master.cf"},
		{"-e|smtpd_milters=inet:127.0.0.1:1 " + entry, mta.Warning, "milter", "inet:127.0.0.1:1 comes before ours and may change the sender"},
		{"-e|smtpd_milters=" + entry + " inet:127.0.0.1:1", mta.Warning, "milter", "change the sender at the end of a message: inet:127.0.0.1:1"},
		{"-e|smtpd_milters=" + s.Milter + "|milter_default_action=accept", mta.Hole, "milter", "default_action=accept"},
		{"-e|smtpd_milters={ " + s.Milter + ", default_action=accept }", mta.Hole, "milter", "default_action=accept"},
		{"-e|smtpd_milters={ " + s.Milter + ", command_timeout=20s }", mta.Warning, "milter", "command_timeout=20s"},
		{"-e|smtpd_milters={ " + s.Milter + ", content_timeout=5 }", mta.Warning, "milter", "content_timeout=5 "},
		{"-e|smtpd_milter_maps=cidr:{{127.0.0.0/8 DISABLE}}", mta.Hole, "milter", "smtpd_milter_maps"},
		{"-P|" + host + "/smtpd_proxy_filter=127.0.0.1:1", mta.Warning, "milter", "smtpd_proxy_filter"},
		{"-M|-e|127.0.0.1:9/inet=127.0.0.1:9 inet n - n - - smtpd -o content_filter=smtp:[127.0.0.1]:8 -o smtpd_milters=", mta.Warning, "milter", "127.0.0.1:9/inet in master.cf"},
		{"-M|-e|127.0.0.1:9/inet=127.0.0.1:9 inet n - n - - smtpd -o smtpd_milters=", mta.Hole, "milter", "127.0.0.1:9/inet in master.cf"},
		{"-e|smtp_tls_security_level=dane", mta.Warning, "transport", "doesn't apply to our transports"},
		{"-e|internal_mail_filter_classes=bounce", mta.Warning, "milter", "internal_mail_filter_classes"},

		{"-M|-X|tlsonly1/unix", mta.Broken, "transport", "tlsonly1 isn't in master.cf"},
		{"-P|tlsonly1/unix/smtp_tls_security_level=may", mta.Hole, "transport", "smtp_tls_security_level = may"},
		{"-P|tlsonly1/unix/smtp_tls_security_level=secure", mta.Warning, "transport", "waits where a destination is not authenticated"},
		{"-P|tlsonly1/unix/smtp_tls_security_level=dane", mta.Hole, "transport", "smtp_tls_security_level = dane"},
		{"-P|-X|tlsonly1/unix/smtp_tls_policy_maps", mta.Hole, "transport", "site's smtp_tls_policy_maps"},
		{"-P|tlsonly1/unix/smtp_tls_policy_maps=socketmap:" + s.Socketmap + ":policy", mta.Hole, "transport", "forced1 alone"},
		{"-P|tlsonly1/unix/smtp_tls_mandatory_protocols=>=TLSv1", mta.Hole, "transport", "takes TLS below 1.2"},
		{"-P|tlsonly/unix/smtp_delivery_status_filter=regexp:" + p.Etc + "/tlsonly_on_lost.regexp", mta.Warning, "transport", "on_lost"},
		{"-F|tlsonly/unix/command=error", mta.Hole, "transport", "error isn't the smtp client"},

		{"-X|sender_dependent_default_transport_maps", mta.Hole, "sender-map", "no sender is protected"},
		{"-P|rewrite/unix/sender_dependent_default_transport_maps=", mta.Hole, "sender-map", "no sender is protected"},
		{"-e|sender_dependent_default_transport_maps=inline:{alice@sender.test=smtp:}, " + senders, mta.Hole, "sender-map", `mail of alice@sender.test uses "smtp:", according to inline`},
		{"-e|sender_dependent_default_transport_maps=inline:{x@sender.test=smtp:}, " + senders, mta.Warning, "sender-map", "we are not asked about senders"},
		{"-X|smtp_tls_policy_maps", mta.Hole, "policy", "doesn't name"},
		{"-e|smtp_tls_policy_maps=inline:{x.test=may}, " + policies, mta.Warning, "policy", `"x.test may"`},
		{"-e|smtp_tls_policy_maps=" + policies + ", inline:{{y.test=secure match=z.test}}", mta.Warning, "policy", `"y.test secure match=z.test"`},
		{"-e|smtp_tls_policy_maps=socketmap:inet:127.0.0.1:1:QUERY, " + policies, mta.Warning, "policy", "QUERY isn't asked"},
		{"-e|sender_dependent_default_transport_maps=socketmap:" + s.Socketmap + ":sender", mta.Warning, "sender-map", "doesn't know which transports there are"},
		{"-P|tlsonly1/unix/smtp_tls_CAfile=/nowhere.pem", mta.Warning, "verify", "tlsonly1: smtp_tls_CAfile: open /nowhere.pem"},
		{"-P|tlsonly1/unix/smtp_tls_CAfile=/etc/hostname", mta.Warning, "verify", "no certificate in it"},
		{"-P|tlsonly1/unix/smtp_tls_CAfile=", mta.Warning, "verify", "tlsonly1: no smtp_tls_CAfile"},
		{"-P|tlsonly1/unix/smtp_tls_CAfile=|tlsonly1/unix/smtp_tls_CApath=/nowhere", mta.Warning, "verify", "there is no /nowhere"},
		{"-P|smtp/unix/smtp_tls_CAfile=", mta.Warning, "verify", "smtp/unix: no smtp_tls_CAfile"},

		{"-e|transport_maps=inline:{x.test=smtp:[192.0.2.1]}", mta.Warning, "route", `"x.test smtp:[192.0.2.1]"`},
		{"-e|transport_maps=inline:{x.test=smtp:}|smtp_tls_policy_maps=", mta.Hole, "route", `"x.test smtp:"`},
		{"-e|transport_maps=tcp:127.0.0.1:1", mta.Warning, "route", "can only be queried"},
		{"-e|relay_domains=relayed.test mta.test", mta.Warning, "route", "relay_domains = relayed.test,"},
		{"-e|virtual_transport=smtp:[192.0.2.1]", mta.Warning, "route", "virtual_transport"},
		{"-e|mailbox_transport_maps=inline:{x=smtp:}", mta.Warning, "route", "mailbox_transport_maps"},
		{"-e|content_filter=smtp:[192.0.2.1]:10025", mta.Hole, "route", "content_filter"},
		{"-e|smtp_fallback_relay=relay.test", mta.Hole, "transport", "smtp_fallback_relay = relay.test"},
		{"-e|relayhost=relay.test", mta.Warning, "relay", "relay.test is treated as a mail domain"},
		{"-e|relayhost=[192.0.2.1]", mta.Warning, "relay", "judged by MX"},
		{"-e|default_transport=smtp:[192.0.2.1]", mta.Warning, "twin", "by MX or relayhost"},
		{"-e|sender_canonical_maps=inline:{a@sender.test=alice@sender.test}", mta.Hole, "sender", "becomes alice@sender.test"},
		{"-e|recipient_delimiter=-", mta.Warning, "sender", "recipient_delimiter = -"},
		{"-e|virtual_mailbox_domains=box.test", mta.Warning, "local", "box.test is judged as if it left"},
		{"-e|relay_domains=sender.test", mta.Warning, "local", "is a protected sender's"},
		{"-P|relay/unix/smtp_tls_security_level=none", mta.Warning, "client", "relay/unix in master.cf lowers"},
		{"-P|relay/unix/smtp_tls_policy_maps=", mta.Warning, "client", "relay/unix in master.cf has its own policy maps"},
		{"-e|alias_maps=texthash:" + aliases, mta.Hole, "aliases", "owner-bad@mta.test"},
	} {
		args := strings.Split(c.plant, "|")
		if _, err := p.Run(ctx, "", "postconf", args...); err != nil {
			t.Errorf("%s: %v", c.plant, err)
		}
		backdate(t, p)
		found := planted(s)
		one := false
		for _, f := range found {
			if f.Severity == c.level && f.Check == c.check && strings.Contains(f.Text, c.want) {
				one = true
				if f.Remedy == "" || f.Code == "" || strings.Contains(f.Where, " ") || strings.ContainsAny(f.Text+f.Remedy, "\n") {
					t.Errorf("%s: without a remedy, or of several lines: %q", c.plant, f)
				}
			} else if f.Severity == mta.Hole && c.level != mta.Hole {
				t.Errorf("%s: besides %q", c.plant, f)
			}
		}
		if !one {
			t.Errorf("%s: no %s %s %q in %q", c.plant, c.level, c.check, c.want, bad(found))
		}
		for name, b := range saved {
			if err := os.WriteFile(filepath.Join(p.Etc, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		backdate(t, p)
	}
	if found := bad(planted(s)); len(found) > 0 {
		t.Errorf("after everything was taken out: %q", found)
	}

	// The other side of the settings.
	for _, c := range []struct {
		change func(*Settings)
		level  mta.Severity
		check  string
		want   string
	}{
		{func(s *Settings) { s.Milter = "inet:127.0.0.1:1" }, mta.Down, "daemon", "connection refused"},
		{func(s *Settings) { s.Milter = "unix:/run/nowhere.sock" }, mta.Down, "daemon", "no such file"},
		{func(s *Settings) { s.Socketmap = "inet:127.0.0.1:1" }, mta.Down, "daemon", "connection refused"},
		{func(s *Settings) { s.Classes = append(s.Classes, Class{Number: 2}) }, mta.Warning, "transport", "tlsonly2"},
		{func(s *Settings) { s.Classes[0].MinVersion = 0x0304 }, mta.Hole, "transport", "below 1.3"},
		{func(s *Settings) { s.Protected = []addr.Address{addr.MustAddress("bad@sender.test")} }, mta.Hole, "sender-map", `uses "smtp:"`},
		{func(s *Settings) { s.Protected = []addr.Address{addr.MustAddress("late@sender.test")} }, mta.Broken, "sender-map", `"tlsonly9:", which isn't in master.cf`},
		{func(s *Settings) { s.Protected = []addr.Address{addr.MustAddress("temp@sender.test")} }, mta.Broken, "sender-map", "can't find the transport"},
		{func(s *Settings) { s.Protected = []addr.Address{{}} }, mta.Hole, "sender-map", "<> is protected, but the answer"},
		{func(s *Settings) { s.Destinations = []string{"dane.test"} }, mta.Hole, "policy", "dane for dane.test"},
		{func(s *Settings) { s.Destinations = []string{"may.test"} }, mta.Warning, "policy", "mail of class 1 to may.test"},
		{func(s *Settings) { s.Destinations = []string{"temp.test"} }, mta.Warning, "policy", "is not known now"},
		{func(s *Settings) { s.Deadline = 30 * time.Second }, mta.Warning, "milter", "command_timeout=30s"},
		{func(s *Settings) { s.OnLost = contract.OnLostBounce }, mta.Warning, "transport", `on_lost = "bounce"`},
		{func(s *Settings) { s.Senders = contract.SendersTable }, mta.Hole, "sender-map", "doesn't name regexp:"},
		{func(s *Settings) { s.UserRules = true }, mta.Warning, "logins", "no smtpd_sender_login_maps"},
		{func(s *Settings) { s.Classes = nil }, mta.Warning, "sender-map", ":sender1, not socketmap:"},
		{func(s *Settings) { s.DANE = true }, mta.Warning, "verify", "tlsonly1: smtp_dns_support_level isn't dnssec"},
		{func(s *Settings) { s.DANE = true }, mta.Warning, "verify", "smtp/unix: smtp_dns_support_level isn't dnssec"},
		{func(s *Settings) { s.CAFile = "/etc/other.pem" }, mta.Warning, "verify", "tlsonly1: smtp_tls_CAfile isn't only [probe] ca_file"},
	} {
		changed := s
		changed.Classes = append([]Class(nil), s.Classes...)
		c.change(&changed)
		found := check(changed)
		one := false
		for _, f := range found {
			one = one || f.Severity == c.level && f.Check == c.check && strings.Contains(f.Text, c.want)
		}
		if !one {
			t.Errorf("no %s %s %q in %q", c.level, c.check, c.want, bad(found))
		}
	}
}

// smtpdOf returns the service that listens for SMTP.
func smtpdOf(t *testing.T, ctx context.Context, p *rig.Postfix) string {
	t.Helper()
	f, err := Read(ctx, Instance{Dir: p.Etc})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Services, func(s Service) bool { return s.Command == "smtpd" })
	return f.Services[i].ID()
}

// waitSocket waits until the master has made a service's socket; the reload command doesn't.
func waitSocket(ctx context.Context, path string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// In the chroot and outside, sockets below the queue directory are reached by relative paths.
func TestChroot(t *testing.T) {
	t.Parallel()
	ctx := patient(t)
	plain := host(t, "127.0.1.3", false)
	p := startPostfix(t, ctx, rig.PostfixConfig{Main: map[string]string{"smtp_tls_security_level": "may"}})
	i := Instance{Dir: p.Etc}
	if _, err := p.Run(ctx, "", "postconf", "-F", "*/inet/chroot=y", "*/unix/chroot=y", "proxymap/unix/chroot=n", "local/unix/chroot=n", "virtual/unix/chroot=n"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(p.Dir, "queue", "tlsonly")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	startMilter(t, "unix", filepath.Join(dir, "milter.sock"))
	startAnswers(t, "unix", filepath.Join(dir, "map.sock"), map[string]string{"sender1 alice@sender.test": "OK tlsonly1:"})
	s := Settings{
		Milter: "unix:" + filepath.Join(dir, "milter.sock"), Socketmap: "unix:" + filepath.Join(dir, "map.sock"),
		Classes: []Class{{Number: 1}}, Protected: []addr.Address{addr.MustAddress("alice@sender.test")},
	}
	for _, name := range []string{"milter.sock", "map.sock"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	backdate(t, p)
	apply(t, ctx, i, s, time.Now())
	settle(t, ctx, p)
	if err := waitSocket(ctx, filepath.Join(p.Dir, "queue", "private", "tlsonly1")); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Run(ctx, "", "postconf", "-h", "sender_dependent_default_transport_maps"); err != nil || out != "socketmap:unix:tlsonly/map.sock:sender1\n" {
		t.Errorf("sender_dependent_default_transport_maps %q, %v", out, err)
	}
	if found, err := Doctor(ctx, s, i); err != nil || len(bad(found)) > 0 {
		t.Errorf("%q, %v", bad(found), err)
	}
	send(t, p, "alice@sender.test", "u1@[127.0.1.3]")
	if line, err := p.WaitLog(ctx, "to=<u1@[127.0.1.3]>"); err != nil || !strings.Contains(line, "dsn=4.7.4, status=deferred") {
		t.Errorf("alice to a host without TLS: %q, %v", line, err)
	}
	send(t, p, "dave@sender.test", "u2@[127.0.1.3]")
	if err := plain.WaitMessages(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"milter.sock", "map.sock"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := Doctor(ctx, s, i)
		if err != nil || !slices.ContainsFunc(found, func(f mta.Finding) bool {
			return f.Severity == mta.Broken && strings.Contains(f.Text, "user postfix can't use "+dir)
		}) {
			t.Errorf("%s for root alone: %q, %v", name, bad(found), err)
		}
	}
	s.Milter = "unix:" + filepath.Join(p.Dir, "outside.sock")
	if found, err := Doctor(ctx, s, i); err != nil || !slices.ContainsFunc(found, func(f mta.Finding) bool { return strings.Contains(f.Text, "runs chrooted") }) {
		t.Errorf("a socket outside the chroot: %q, %v", bad(found), err)
	}
}

// What Postfix can't live with is put back.
func TestApplyPutsBack(t *testing.T) {
	rig.Long(t)
	t.Parallel()
	ctx := patient(t)
	p := startPostfix(t, ctx, rig.PostfixConfig{})
	before := read(t, p)
	backdate(t, p)
	file := filepath.Join(p.Etc, lostFile)
	for _, c := range []struct {
		change Change
		want   string
	}{
		{Change{KindParameter, "nobodys", "", "nobody refers to it"}, "unused parameter"},
		{Change{KindParameter, "maillog_file", "", "relative"}, "check: exit status"},
		{Change{KindService, "tlsonly1/unix", "", "tlsonly1 unix - - n - - smtp   -o biff=no"}, "as it was set"},
	} {
		f, err := Read(ctx, Instance{Dir: p.Etc})
		if err != nil {
			t.Fatal(err)
		}
		c.change.Old = f.Set[c.change.Name]
		setup := Setup{Dir: p.Etc, Changes: []Change{c.change, {KindFile, file, "", "text\n"}}}
		copies, err := setup.Apply(ctx, Instance{Dir: p.Etc}, time.Now())
		if err == nil || !strings.Contains(err.Error(), c.want) || len(copies) > 0 {
			t.Errorf("%s: %v, copies %q", c.change.Name, err, copies)
		}
		if after := read(t, p); after != before {
			t.Errorf("%s: it wasn't put back:\n%s", c.change.Name, after)
		}
		if left := setupLeft(t, p.Etc); len(left) > 0 {
			t.Errorf("%s: still there: %q", c.change.Name, left)
		}
		backdate(t, p)
	}
}

// setupLeft returns what setup has put beside main.cf.
func setupLeft(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{"tlsonly*", "*.tlsonly-*", ".*tlsonly*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

// What only some versions of Postfix have.
func TestDoctorByVersion(t *testing.T) {
	const transport = "tlsonly unix - - y - - smtp -o smtp_tls_security_level=encrypt -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced -o smtp_tls_mandatory_protocols=>=TLSv1.2"
	for _, c := range []struct {
		version, service string
		main             map[string]string
		want             int
	}{
		{"3.7.11", transport, nil, 0},
		{"3.10.13", transport, nil, 1},
		{"3.10.13", transport + " -o tls_required_enable=no", nil, 0},
		{"3.10.13", transport, map[string]string{"tls_required_enable": "no"}, 0},
		{"3.10.13", transport + " -o tls_required_enable=yes", map[string]string{"tls_required_enable": "no"}, 1},
		{"3.4.2", strings.Replace(transport, ">=TLSv1.2", "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1", 1), nil, 0},
		{"3.4.2", strings.Replace(transport, ">=TLSv1.2", "!SSLv2,!SSLv3", 1), nil, 1},
	} {
		service := c.service + " -o tls_append_default_CA=yes -o smtp_mx_address_limit=0"
		d := doctor{Settings: Settings{}.withDefaults(), Facts: facts(t, c.version, c.main, service), smap: "inet:127.0.0.1:8690", stopped: true}
		d.Facts.all["queue_directory"] = t.TempDir()
		d.transports(t.Context())
		if found := bad(d.findings); len(found) != c.want {
			t.Errorf("%s %s %q: %q", c.version, c.service, c.main, found)
		}
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	ctx := patient(t)
	smap := startAnswers(t, "tcp", "127.0.0.1:0", map[string]string{"sender1 alice@sender.test": "OK tlsonly1:"})
	s := Settings{Milter: "inet:" + startMilter(t, "tcp", "127.0.0.1:0"), Socketmap: "inet:" + smap.listener.Addr().String(), Classes: []Class{{Number: 1}}}
	p := startPostfix(t, ctx, rig.PostfixConfig{Main: map[string]string{"smtp_tls_security_level": "may", "smtpd_sender_restrictions": "check_sender_access inline:{mallory@sender.test=REJECT}"}})
	i := Instance{Dir: p.Etc}
	backdate(t, p)
	apply(t, ctx, i, s, time.Now())
	settle(t, ctx, p)
	if err := waitSocket(ctx, filepath.Join(p.Dir, "queue", "private", "tlsonly1")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from string
		want mta.Severity
		text string
	}{
		{"alice@sender.test", mta.OK, "stayed here"},
		{"bob@sender.test", mta.Hole, "sent in the clear"}, // whom the map doesn't name
		{"mallory@sender.test", mta.Warning, "was refused"},
	} {
		found, err := Probe(ctx, s, i, addr.MustAddress(c.from))
		if err != nil || found.Severity != c.want || !strings.Contains(found.Text, c.text) {
			t.Errorf("%s: %q, %v; log:\n%s", c.from, found, err, p.Log())
		}
	}
	if queue, err := p.Queue(ctx); err != nil || len(queue) > 0 {
		t.Errorf("left in the queue: %+v, %v", queue, err)
	}
	if bounces := p.LogLines("from=<>"); len(bounces) > 0 {
		t.Errorf("bounces: %q", bounces)
	}
}
