package web

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The dashboard and the alerts ask for metrics that there are, by labels that these have, and leave none out that tells of trouble.
func TestPackaging(t *testing.T) {
	text := scrape(t, newTest(t, populated(), nil))
	labels := map[string][]string{} // by metric
	for line := range strings.Lines(text) {
		m := regexp.MustCompile(`^(tlsonly_[a-z_]+)(?:\{([^}]*)\})? `).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		labels[m[1]] = []string{"job", "instance"} // a scrape adds these
		for _, l := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(m[2], -1) {
			labels[m[1]] = append(labels[m[1]], l[1])
		}
	}
	used := map[string]bool{}
	check := func(where, expr string) {
		t.Helper()
		for _, m := range regexp.MustCompile(`(tlsonly_[a-z_]+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(expr, -1) {
			used[m[1]] = true
			known, ok := labels[m[1]]
			if !ok {
				t.Errorf("%s: %s isn't a metric", where, m[1])
			}
			for _, l := range regexp.MustCompile(`([a-z]+)(?:=|!)`).FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(known, l[1]) {
					t.Errorf("%s: %s has no label %s", where, m[1], l[1])
				}
			}
			for _, l := range regexp.MustCompile(`by \(([a-z, ]+)\)`).FindAllStringSubmatch(expr, -1) {
				for name := range strings.SplitSeq(l[1], ", ") {
					if !slices.Contains(known, name) {
						t.Errorf("%s: %s has no label %s", where, m[1], name)
					}
				}
			}
		}
	}
	data, err := os.ReadFile("../../packaging/grafana/tlsonly.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID    string
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			check(p.Title, target.Expr)
		}
	}
	rules, err := os.ReadFile("../../packaging/prometheus/tlsonly.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := strings.Split(string(rules), "- alert: ")[1:]
	for _, alert := range alerts {
		name, rest, _ := strings.Cut(alert, "\n")
		_, expr, ok := strings.Cut(rest, "expr: ")
		expr, _, ok2 := strings.Cut(expr, "labels:")
		if !ok || !ok2 || !strings.Contains(alert, "severity: ") || !strings.Contains(alert, "summary: ") || !strings.Contains(alert, "description: ") {
			t.Errorf("%s lacks a part", name)
		}
		check(name, expr)
	}
	if len(alerts) < 10 || len(dashboard.Panels) < 15 {
		t.Errorf("%d alerts, %d panels", len(alerts), len(dashboard.Panels))
	}
	for _, m := range metrics() {
		if name := "tlsonly_" + m.name; !used[name] && !slices.Contains([]string{"cache_entries", "milter_connections_total", "config_last_reload_timestamp_seconds"}, m.name) {
			t.Errorf("%s is nowhere shown", name)
		}
	}
}
