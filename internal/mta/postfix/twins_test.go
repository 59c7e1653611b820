package postfix

import (
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
)

// reading are settings of a daemon that reads this Postfix.
func reading() Settings {
	s := inet()
	s.Read = "/etc/postfix/"
	return s
}

// planned returns the transports of a plan by their names, and its parameters.
func planned(t *testing.T, s Settings, f Facts) (transports []string, lines map[string]string) {
	t.Helper()
	setup, err := Plan(s, f)
	if err != nil {
		t.Fatal(err)
	}
	lines = make(map[string]string)
	for _, c := range setup.Changes {
		lines[c.Name] = c.New
		if c.Kind == KindService && c.New != "" {
			transports = append(transports, strings.TrimSuffix(c.Name, "/unix"))
		}
	}
	return transports, lines
}

var clients = []string{
	"slow unix - - n - 2 smtp -o smtp_bind_address=192.0.2.1 -o syslog_name=postfix/slow -o smtp_tls_security_level=may -o smtp_fallback_relay=[x]",
	"smtps unix - - n - - smtp -o smtp_tls_wrappermode=yes -o smtp_tls_security_level=secure -o smtp_tls_secure_cert_match=relay.example",
	"relay unix - - n - - smtp", "lmtp unix - - n - - lmtp", "uucp unix - n n - - pipe", "inside inet n - n - - smtp",
}

func TestPlanTwins(t *testing.T) {
	const maps = "sender_dependent_default_transport_maps"
	of := func(main map[string]string, senders SiteSenders) Facts {
		f := facts(t, "3.7.11", main, clients...)
		f.SiteSenders = senders
		return f
	}
	slow := of(map[string]string{maps: "hash:/s", "slow_destination_rate_delay": "1s", "slow_destination_concurrency_limit": "2",
		"smtp_destination_recipient_limit": "5", "slow_nonsense": "1"}, SiteSenders{Transports: []string{"slow", "lmtp", "uucp", "nosuch", "smtp"}})
	transports, lines := planned(t, reading(), slow)
	if want := []string{"tlsonly", "tlsonly1", "tlsonly-slow", "tlsonly1-slow"}; !slices.Equal(transports, want) {
		t.Errorf("transports %q, want %q", transports, want)
	}
	for _, want := range []string{"tlsonly1-slow unix - - n - 2 smtp ", "-o smtp_bind_address=192.0.2.1", "-o syslog_name=postfix/tlsonly1-slow", "-o smtp_tls_security_level=encrypt",
		"-o smtp_fallback_relay=", "-o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced1 "} {
		if got := lines["tlsonly1-slow/unix"] + " "; !strings.Contains(got, want) || strings.Contains(got, "[x]") {
			t.Errorf("%s, want %q", got, want)
		}
	}
	for name, want := range map[string]string{
		"sender_dependent_default_transport_maps":     "socketmap:inet:127.0.0.1:8690:sender1/+site, hash:/s",
		"tlsonly-slow_destination_rate_delay":         "1s",
		"tlsonly1-slow_destination_concurrency_limit": "2",
		"tlsonly1_destination_recipient_limit":        "5",
		"tlsonly_destination_recipient_limit":         "5",
		"tlsonly1-slow_destination_recipient_limit":   "",
		"tlsonly1-slow_nonsense":                      "",
	} {
		if lines[name] != want {
			t.Errorf("%s = %q, want %q", name, lines[name], want)
		}
	}

	// A client with a stricter level of its own keeps it, also where a policy is
	// answered, and one that takes TLS at once does.
	classes := reading()
	classes.Classes = []Class{{Number: 1}, {Number: 2, MinVersion: policy.TLS13}}
	transports, lines = planned(t, classes, of(map[string]string{maps: "proxy:mysql:/s"}, SiteSenders{Unlisted: []string{"proxy:mysql:/s"}}))
	if len(transports) != 3*4 || !slices.Contains(transports, "tlsonly2-relay") || slices.Contains(transports, "tlsonly1-lmtp") {
		t.Errorf("transports %q", transports)
	}
	for _, want := range []string{"-o smtp_tls_wrappermode=yes", "-o smtp_tls_secure_cert_match=relay.example", "-o smtp_tls_security_level=secure", ":forced2/secure ", ">=TLSv1.3"} {
		if !strings.Contains(lines["tlsonly2-smtps/unix"]+" ", want) {
			t.Errorf("%s, want %q", lines["tlsonly2-smtps/unix"], want)
		}
	}

	// A next hop, or no client at all, for all mail.
	for _, v := range []string{"smtp:[relay.example]:26", "slow:[relay.example]", "error:none"} {
		_, lines = planned(t, reading(), of(map[string]string{"default_transport": v}, SiteSenders{}))
		if !strings.HasSuffix(lines[maps], "/+site") {
			t.Errorf("%s: %s", v, lines[maps])
		}
	}
	if got := lines["tlsonly1/unix"]; !strings.Contains(got, "tlsonly1 unix - - y") {
		t.Errorf("by what the others have: %s", got)
	}
	_, lines = planned(t, reading(), of(map[string]string{"default_transport": "slow"}, SiteSenders{}))
	if got := lines["tlsonly1/unix"]; !strings.Contains(got, "192.0.2.1") || strings.Contains(lines[maps], "+site") {
		t.Errorf("after the default: %s, %s", got, lines[maps])
	}

	// What nobody asks for isn't made.
	elsewhere := reading()
	elsewhere.Read = "/etc/postfix-out"
	for name, s := range map[string]Settings{"elsewhere": elsewhere, "not at all": inet()} {
		setup, err := Plan(s, slow)
		if err != nil {
			t.Fatal(err)
		}
		transports, lines := planned(t, s, slow)
		if len(transports) != 2 || strings.Contains(lines[maps], "+site") || !slices.ContainsFunc(setup.Notes, func(n string) bool { return strings.Contains(n, "hash:/s") }) {
			t.Errorf("%s: %q, %q", name, transports, setup.Notes)
		}
	}
	_, lines = planned(t, reading(), of(nil, SiteSenders{}))
	if got := lines[maps]; strings.Contains(got, "+site") {
		t.Errorf("a site without: %s", got)
	}
}

// A plan leaves the twins that nobody needs any more, as strict as any, and the
// undo takes them out with their limits.
func TestPlanTwinsSurplus(t *testing.T) {
	const own = " -o smtp_mx_address_limit=0 -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.3" +
		" -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced"
	const level = " -o smtp_tls_security_level=encrypt -o syslog_name=postfix/"
	s := reading()
	s.Classes = []Class{{Number: 1}, {Number: 2, MinVersion: policy.TLS13}}
	s.HideHeader, s.OnLost = true, contract.OnLostBounce
	f := facts(t, "3.7.11", map[string]string{
		"tlsonly1-gone_destination_rate_delay": "1s", "gone_destination_rate_delay": "1s",
		"tlsonly-slow_recipient_limit": "3", "slow_recipient_limit": "4", "tlsonlyx_recipient_limit": "3",
	}, "slow unix - - n - 2 smtp -o smtp_bind_address=192.0.2.1",
		"tlsonly1-gone unix - - n - 3 smtp -o smtp_bind_address=192.0.2.9 -o smtp_tls_security_level=may"+
			" -o smtp_header_checks=regexp:/etc/postfix/tlsonly_header.regexp,regexp:/h"+
			" -o smtp_delivery_status_filter=regexp:/etc/postfix/tlsonly_on_lost.regexp",
		"tlsonly-slow unix - - n - - smtp", "tlsonly9-slow unix - - n - - smtp", "tlsonlyx unix - - n - - smtp")
	f.record = &record{Limits: true, Parameters: map[string]written{
		"tlsonly1-gone_destination_rate_delay": {After: "1s"}, "tlsonly-slow_recipient_limit": {After: "3"},
	}}
	plan := must(t, s, f)
	for name, want := range map[string]string{
		"tlsonly1-gone/unix": "tlsonly1-gone unix - - n - 3 smtp -o smtp_bind_address=192.0.2.9" +
			" -o smtp_delivery_status_filter=regexp:/etc/postfix/tlsonly_on_lost.regexp" +
			" -o { smtp_header_checks=regexp:/etc/postfix/tlsonly_header.regexp, regexp:/h }" + own + "1" + level + "tlsonly1-gone",
		"tlsonly9-slow/unix": "tlsonly9-slow unix - - n - 2 smtp -o smtp_bind_address=192.0.2.1" +
			" -o smtp_delivery_status_filter=regexp:/etc/postfix/tlsonly_on_lost.regexp" +
			" -o smtp_header_checks=regexp:/etc/postfix/tlsonly_header.regexp" + own + "9" + level + "tlsonly9-slow",
		"tlsonly-slow_recipient_limit": "4",
	} {
		if got, ok := change(plan, name); !ok || got != want {
			t.Errorf("%s\n%s, want\n%s", name, got, want)
		}
	}
	if _, ok := change(plan, "tlsonly1-gone_destination_rate_delay"); ok {
		t.Error("the limit of a transport that stays changes")
	}
	if !slices.ContainsFunc(plan.Notes, func(n string) bool { return strings.HasPrefix(n, "3 of our transports") }) {
		t.Errorf("notes %q", plan.Notes)
	}
	for _, c := range plan.Changes {
		if c.Kind == KindService && c.New == "" {
			t.Errorf("%s goes", c.Name)
		}
	}

	undo := PlanUndo(s, f)
	for _, gone := range []string{"tlsonly1-gone/unix", "tlsonly-slow/unix", "tlsonly9-slow/unix",
		"tlsonly1-gone_destination_rate_delay", "tlsonly-slow_recipient_limit"} {
		if got, ok := change(undo, gone); !ok || got != "" {
			t.Errorf("undo: %s = %q, %t", gone, got, ok)
		}
	}
	for _, stays := range []string{"tlsonlyx/unix", "tlsonlyx_recipient_limit", "slow_recipient_limit", "slow/unix"} {
		for what, setup := range map[string]Setup{"plan": plan, "undo": undo} {
			if _, ok := change(setup, stays); ok {
				t.Errorf("%s: %s changes", what, stays)
			}
		}
	}
}

func must(t *testing.T, s Settings, f Facts) Setup {
	t.Helper()
	setup, err := Plan(s, f)
	if err != nil {
		t.Fatal(err)
	}
	return setup
}

func TestHoldingOf(t *testing.T) {
	for _, c := range []struct {
		program, hop string
		want         Enforcement
	}{
		{"smtp", "", ByTwin}, {"smtp", "[127.0.0.1]:25", ByTwin}, {"", "", ByTwin}, {"error", "5.7.1 no", AsItIs}, {"pipe", "x", AsItIs},
		{"lmtp", "unix:private/lmtp", AsItIs}, {"lmtp", "inet:127.0.0.1:24", AsItIs}, {"lmtp", "inet:mail.example:24", Unenforceable}, {"lmtp", "", Unenforceable},
		{"qmqpd", "", Unenforceable},
	} {
		if got := EnforcementOf(c.program, c.hop); got != c.want {
			t.Errorf("%s %s: %d", c.program, c.hop, got)
		}
	}
}

// A table of senders is refused where the site says anything of protected
// senders, with the place; doctor, where it was written before, calls it a hole.
func TestPlanTableSite(t *testing.T) {
	s := reading()
	s.Senders = contract.SendersTable
	s.Protected = []addr.Address{addr.MustAddress("doctor@clinic.example")}
	of := func(key, value string) SiteSenders {
		return SiteSenders{entries: []entry{{key: key, value: value, where: "/s:7", pattern: key[0] == '^'}}}
	}
	for _, c := range []struct {
		name, transport string
		senders         SiteSenders
		want            string // "": it is written
	}{
		{"a protected sender", "smtp", of("doctor@clinic.example", "slow:"), "/s:7: doctor@clinic.example uses slow:"},
		{"a protected domain", "smtp", of("@clinic.example", "slow:[relay.example]"), "/s:7: @clinic.example"},
		{"everybody", "smtp", of("*", "slow:"), "/s:7: * uses"},
		{"an expression", "smtp", of("^a@", "slow:"), "/s:7: ^a@"},
		{"what can only be asked", "smtp", SiteSenders{Unlisted: []string{"mysql:/m"}},
			"main.cf:sender_dependent_default_transport_maps: mysql:/m can name any"},
		{"a smarthost for all", "smtp:[relay.example]", SiteSenders{}, "main.cf:default_transport: all mail"},
		{"no smtp client", "uucp", SiteSenders{}, "main.cf:default_transport: all mail"},
		{"a client of its own for all", "slow", SiteSenders{}, ""},
		{"others", "smtp", of("@other.example", "slow:"), ""},
		{"nothing", "smtp", of("doctor@clinic.example", "DUNNO"), ""},
		{"ours", "smtp", of("doctor@clinic.example", "tlsonly1:"), ""},
	} {
		f := facts(t, "3.7.11", map[string]string{
			"sender_dependent_default_transport_maps": "hash:/s", "default_transport": c.transport,
		}, clients...)
		f.SiteSenders = c.senders
		_, err := Plan(s, f)
		d := doctor{Settings: s.withDefaults(), Facts: f}
		d.unaskedRoutes(d.planner())
		if c.want == "" {
			if err != nil || len(d.findings) > 0 {
				t.Errorf("%s: %v, %q", c.name, err, d.findings)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), `senders = "map"`) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		where, text, _ := strings.Cut(c.want, ": ")
		if len(d.findings) != 1 || d.findings[0].Severity != mta.Hole || d.findings[0].Where != where ||
			!strings.HasPrefix(d.findings[0].Text, text) {
			t.Errorf("%s: doctor says %q", c.name, d.findings)
		}
	}
}
