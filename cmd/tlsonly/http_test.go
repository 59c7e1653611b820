package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/internal/store"
	"tlsonly/internal/testnet"
	"tlsonly/rules"
)

// What the daemon knows and does is what it serves: the parts are wired, over a real socket.
func TestHTTP(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dns, err := testnet.StartDNS("127.0.0.1:0", "localhost. 60 IN A 127.0.0.1\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	text := fmt.Sprintf(`[http]
listen = %q
[socketmap]
listen = "inet:127.0.0.1:0"
[dns]
resolver = %q
[store]
url = "sqlite://%s/tlsonly.db"
[forwarding]
postfix = "off"
sendmail = "off"
aliases = []
forward = []
[[rule]]
name = "clinic"
from = ["@clinic.example"]
tls = "encrypt"
[[inbound]]
name = "insurer"
from = ["@insurer.example"]
tls = "verified"
`, ln.Addr(), dns.Addr(), dir)
	file := filepath.Join(dir, "tlsonly.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	known := addr.MustDestination("lab.example")
	filled, err := store.Open(ctx, store.Config{URL: c.Store.URL})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	look := policy.Assessment{Destination: known, When: now, Until: now.Add(time.Hour), Hosts: []policy.Host{{Name: addr.MustDomain("mx.lab.example"),
		Observations: []policy.Observation{{Address: netip.MustParseAddrPort("192.0.2.1:25"), Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, When: now}}}}}
	if err := filled.Put(ctx, store.Assessment{Assessment: look, Port: 25}); err != nil {
		t.Fatal(err)
	}
	if _, err := filled.Pin(ctx, known, store.ByAdmin); err != nil {
		t.Fatal(err)
	}
	if err := filled.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := newService(ctx, file, c, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	stopping := false
	s, err := newWeb(d, c, func() error {
		if stopping {
			return context.Canceled
		}
		return nil
	}, func() string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string, want int) string {
		t.Helper()
		r := httptest.NewRequestWithContext(ctx, method, "http://localhost"+path, strings.NewReader(body))
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("Content-Type", "application/json")
		if !strings.HasPrefix(path, "/v1/") {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	has := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("no %q in %s", p, text)
			}
		}
	}
	has(ask("GET", "/readyz", "", 200), "store: ok\nresolver: ok\nforwards: ok\nsessions: ok\n")
	has(ask("GET", "/", "", 200), "The MTA isn’t watched here, so it isn’t known whether it is bound.", "clinic", "insurer", "not suspected")
	d.stats.observeInbound(&inbound.Rule{Name: "insurer", Mode: policy.Enforce}, policy.Reject, inbound.NoTLS)
	has(ask("GET", "/metrics", "", 200), `tlsonly_inbound_decisions_total{mode="enforce",reason="no-tls",rule="insurer",verdict="reject"} 1`, "tlsonly_own_network_suspect 0")
	if !postfixSettings(c, rules.Alone(c.Rules)).Verified {
		t.Error("doctor isn't told that certificates must be verified")
	}
	has(ask("GET", "/destinations/lab.example", "", 200), "mx.lab.example", "by admin", "sign the zone of lab.example")
	has(ask("GET", "/v1/destinations?pinned=true", "", 200), `"destination": "lab.example"`, `"level": "encrypt"`)
	before := d.ledger.Demand(known)
	explained := ask("POST", "/v1/explain", `{"from":"a@clinic.example","to":"b@lab.example"}`, 200)
	has(explained, `"rule": "clinic"`, `"verdict": "accept"`)
	if d.ledger.Demand(known) != before {
		t.Error("explaining has promised something")
	}
	// The page says what the interface says, and every step of it.
	for path, question := range map[string]struct{ json, form string }{
		"acceptance": {explained, "from=a@clinic.example&to=b@lab.example"},
		"delivery":   {ask("POST", "/v1/explain", `{"delivery":"lab.example","from":"a@clinic.example"}`, 200), "delivery=lab.example&from=a@clinic.example"},
	} {
		var e struct {
			Trace   policy.Trace
			Answers []socketmap.Told
		}
		if err := json.Unmarshal([]byte(question.json), &e); err != nil {
			t.Fatal(err)
		}
		steps := e.Trace
		for _, told := range e.Answers {
			steps = append(steps, told.Trace...)
		}
		page := html.UnescapeString(ask("POST", "/explain", question.form, 200))
		has(page, "the running daemon")
		for _, step := range steps {
			has(page, step.Text)
		}
		if len(steps) < 3 {
			t.Errorf("%s: steps %q", path, steps)
		}
	}
	if d.ledger.Demand(known) != before {
		t.Error("explaining on the page has promised something")
	}
	has(ask("GET", "/destinations/lab.example", "", 200), `href="/explain?delivery=lab.example"`)
	has(ask("POST", "/v1/forwards/test", `{"owner":"a@clinic.example","target":"b@lab.example"}`, 200), `"findings"`)
	has(ask("GET", "/v1/forwards", "", 200), `"forwards": []`)
	has(ask("PUT", "/v1/log-level", `{"level":"debug"}`, 200), "debug")
	if d.stats.level.Level() != slog.LevelDebug {
		t.Error("the level of the log is", d.stats.level.Level())
	}
	var checked struct{ Assessment policy.Assessment }
	if err := json.Unmarshal([]byte(ask("POST", "/v1/check", `{"destination":"lab.example"}`, 200)), &checked); err != nil || checked.Assessment.When.Before(now) {
		t.Error(checked, err)
	}
	has(ask("GET", "/metrics", "", 200), `tlsonly_destinations{level="encrypt"} 1`, "tlsonly_destinations_pinned 1", "tlsonly_store_up 1",
		`tlsonly_cache_lookups_total{answer="memory"}`, `tlsonly_socketmap_requests_total{answer="ok",map="sender"} 0`, "tlsonly_assessment_duration_seconds_count")
	stopping = true
	has(ask("GET", "/readyz", "", 503), "sessions: context canceled")
	stopping = false
	dns.Close()
	has(ask("GET", "/readyz", "", 503), "resolver: ")

	// And over a socket, one that systemd might have passed.
	running, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	end, err := d.serveHTTP(running, &sockets{map[string][]net.Listener{"http": {ln}}}, served)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + ln.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	stop()
	end()
	select {
	case err := <-served:
		t.Error(err)
	default:
	}
}
