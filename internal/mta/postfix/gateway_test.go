package postfix

import (
	"strings"
	"testing"

	"tlsonly/internal/contract"
)

func falling() Settings {
	s := inet()
	s.Gateway = Gateway{Listen: "127.0.0.1:8692", Reinject: "127.0.0.1:8694"}
	return s
}

func wants(t *testing.T, setup Setup, name string, parts ...string) {
	t.Helper()
	got, ok := change(setup, name)
	for _, part := range parts {
		if !ok || !strings.Contains(got+" ", part+" ") {
			t.Errorf("%s: %q has not %q", name, got, part)
		}
	}
}

// With the gateway all our transports end there, and what is for copies is closed.
func TestPlanGateway(t *testing.T) {
	site := map[string]string{"relayhost": "[relay.example]:587", "smtpd_milters": "inet:127.0.0.1:8891", "smtp_tls_policy_maps": "hash:p"}
	setup, err := Plan(falling(), facts(t, "3.7.11", site))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tlsonly/unix", "tlsonly1/unix"} {
		wants(t, setup, name, "-o smtp_fallback_relay=[127.0.0.1]:8692", "-o smtp_connection_cache_on_demand=no",
			"-o smtp_tls_fingerprint_digest=sha256", "-o smtp_data_done_timeout=1800s")
	}
	wants(t, setup, "127.0.0.1:8694/inet", "smtpd", "-o milter_macro_daemon_name="+contract.ReinjectName, "-o content_filter=tlsonly_open:[relay.example]:587",
		"-o smtpd_authorized_xclient_hosts=", "-o smtpd_milter_maps=", "-o cleanup_service_name=tlsonly_cleanup", "-o message_size_limit=0",
		"-o { smtpd_milters={inet:127.0.0.1:8689,command_timeout=30s,content_timeout=300s,default_action=tempfail,protocol=6},inet:127.0.0.1:8891 }")
	wants(t, setup, "tlsonly_cleanup/unix", "cleanup", "-o message_size_limit=0", "-o milter_header_checks=")
	wants(t, setup, "tlsonly_open/unix", "smtp", "-o smtp_tls_policy_maps=hash:p", "-o smtp_tls_security_level=may")
	if s, _ := change(setup, "tlsonly_open/unix"); strings.Contains(s, "fallback") {
		t.Errorf("copies fall back: %s", s)
	}
	old, err := Plan(falling(), facts(t, "3.1.0", site))
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := change(old, "127.0.0.1:8694/inet"); strings.Contains(s, "smtpd_milter_maps") {
		t.Errorf("3.1 doesn't know it: %s", s)
	}
	without, err := Plan(inet(), facts(t, "3.7.11", site))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"127.0.0.1:8694/inet", "tlsonly_cleanup/unix", "tlsonly_open/unix"} {
		if _, ok := change(without, name); ok {
			t.Errorf("%s without a gateway", name)
		}
	}
}

// on_lost = "bounce" is the gateway's to say, where there is one.
func TestPlanGatewayLost(t *testing.T) {
	s := falling()
	s.OnLost = contract.OnLostBounce
	setup, err := Plan(s, facts(t, "3.7.11", nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := change(setup, "tlsonly1/unix"); strings.Contains(got, lostFile) {
		t.Error(got)
	}
}

// What is there for the gateway is none of the site's services, and goes with it.
func TestGatewayServices(t *testing.T) {
	ours := []string{"127.0.0.1:8694 inet n - n - - smtpd -o milter_macro_daemon_name=tlsonly_copies", "tlsonly_open unix - - y - - smtp", "tlsonly_cleanup unix n - y - 0 cleanup"}
	f := facts(t, "3.7.11", nil, append([]string{"127.0.0.1:10025 inet n - n - - smtpd -o milter_macro_daemon_name=other"}, ours...)...)
	if len(f.forGateway) != 3 || len(f.Services) != 5 {
		t.Fatalf("%v, %v", f.forGateway, f.Services)
	}
	setup, err := Plan(inet(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"127.0.0.1:8694/inet", "tlsonly_cleanup/unix", "tlsonly_open/unix"} {
		if got, ok := change(setup, name); !ok || got != "" {
			t.Errorf("%s stays: %q", name, got)
		}
		if got, ok := change(PlanUndo(falling(), f), name); !ok || got != "" {
			t.Errorf("%s stays after undo: %q", name, got)
		}
	}
	if contract.IsTransport(contract.OpenTransport) || contract.IsTransport(contract.ReinjectCleanup) {
		t.Error("a transport for copies counts as one for protected mail")
	}
	if got := (Gateway{Listen: "[::1]:8692"}).hop(); got != "[ipv6:::1]:8692" {
		t.Error(got)
	}
}
