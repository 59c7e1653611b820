package web

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"tlsonly/internal/policy"
)

func scrape(t *testing.T, s *Server) string {
	t.Helper()
	w := ask(s, "GET", "/metrics", "")
	status(t, w, 200)
	return w.Body.String()
}

// Names and help follow the conventions, and every metric that is declared comes.
func TestMetricsLint(t *testing.T) {
	text := scrape(t, newTest(t, populated(), nil))
	problems, err := promlint.New(bytes.NewReader([]byte(text))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "tlsonly_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, m := range metrics() {
		if !strings.Contains(text, "\n# TYPE tlsonly_"+m.name+" ") {
			t.Errorf("tlsonly_%s doesn't come", m.name)
		}
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "tlsonly_decision_duration_seconds_bucket"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s doesn't come", name)
		}
	}
	for line := range strings.Lines(text) {
		if m := regexp.MustCompile(`^tlsonly_[a-z_]+`).FindString(line); m == "" && strings.HasPrefix(line, "tlsonly") {
			t.Error(line)
		}
	}
}

func TestMetricsValues(t *testing.T) {
	w := populated()
	s := newTest(t, w, nil)
	s.c.Meter.Reloaded(noon, errors.New("wrong"))
	text := scrape(t, s)
	for _, line := range []string{
		`tlsonly_decisions_total{mode="enforce",reason="no-starttls",rule="clinic",verdict="reject"} 37`,
		`tlsonly_decisions_total{mode="enforce",reason="",rule="lab results",verdict="accept"} 240`,
		`tlsonly_decision_duration_seconds_count 2227`,
		`tlsonly_inbound_decisions_total{mode="enforce",reason="no-tls",rule="insurer",verdict="reject"} 5`,
		`tlsonly_probe_duration_seconds_count{outcome="tls"} 1`,
		`tlsonly_assessment_duration_seconds_count{level="none"} 1`,
		`tlsonly_destinations{level="dane"} 13`, `tlsonly_destinations{level="unknown"} 2`, `tlsonly_destinations_lost_tls 1`, `tlsonly_destinations_failing 3`, `tlsonly_destinations_unreachable 1`, `tlsonly_destinations_pinned 64`,
		`tlsonly_forwards_failing 2`, `tlsonly_own_network_suspect 0`,
		`tlsonly_store_up 1`, `tlsonly_monitor_lag_seconds 90`,
		`tlsonly_config_reloads_total{result="failed"} 1`, `tlsonly_config_last_reload_successful 0`,
		`tlsonly_socketmap_requests_total{answer="temp",map="forced"} 1`,
		`tlsonly_panics_total{part="milter"} 0`, `tlsonly_unbound_recipients_total 0`, `tlsonly_milter_malformed_packets_total 1`,
		`tlsonly_config_last_reload_timestamp_seconds 1.7954352e+09`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	w.away = errors.New("disk full")
	if text := scrape(t, s); !strings.Contains(text, "\ntlsonly_store_up 0\n") || strings.Contains(text, "\ntlsonly_monitor_lag") {
		t.Error("the store is away, and the metrics don't say so")
	}
}

// However many destinations are known, and whatever they are called, there are as many series, and none names one.
func TestMetricsCardinality(t *testing.T) {
	series := func(n int) []string {
		w := newWorld()
		for i := range n {
			w.add(seen(fmt.Sprintf("customer%d.example", i), noon, policy.SawTLS, withDANE), nil)
		}
		s := newTest(t, w, nil)
		for i := range n {
			s.c.Meter.Decided(Decision{"clinic", policy.Accept, policy.Reasons()[i%len(policy.Reasons())], policy.Enforce}, time.Second)
			s.c.Meter.Assessed(w.entries[seen(fmt.Sprintf("customer%d.example", i), noon, policy.SawTLS, nil).Destination].Assessment, time.Second)
		}
		text := scrape(t, s)
		if strings.Contains(text, "example") {
			t.Error("a metric names a domain")
		}
		var names []string
		for line := range strings.Lines(text) {
			if name, _, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(line, "tlsonly_") {
				names = append(names, name)
			}
		}
		return names
	}
	few, many := series(50), series(1000)
	if len(few) < 50 || !slices.Equal(few, many) {
		t.Errorf("%d series of 50 destinations, %d of 1000", len(few), len(many))
	}
}
