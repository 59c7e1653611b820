package web

import (
	"strings"
	"testing"
	"time"

	"tlsonly/internal/mta"
)

// unbound is a binding with a hole and something less.
func unbound() Binding {
	return Binding{MTA: "postfix", Known: true, Since: noon.Add(-time.Hour), Checks: map[string]bool{"milter": false, "policy": true},
		Text: "hole: milter-missing main.cf:smtpd_milters: not asked; and one more finding",
		Findings: []mta.Finding{
			{Severity: mta.Hole, Code: "milter-missing", Where: "main.cf:smtpd_milters", Check: "milter", Text: "<b>not</b> asked", Remedy: "tlsonly setup"},
			{Severity: mta.Broken, Code: "transport-missing", Check: "transport", Text: "waits"},
		}}
}

// Each state of the binding on the first line of the page, at /readyz and in the
// metrics.
func TestBinding(t *testing.T) {
	down := mta.Finding{Severity: mta.Down, Code: "postfix-down", Check: "running", Text: "doesn't run"}
	for name, c := range map[string]struct {
		b       Binding
		watched bool
		ready   string // the line; "": none
		status  int
		page    []string
		metrics []string // none: no line of tlsonly_bound
	}{
		"bound": {Binding{MTA: "postfix", Known: true, OK: true, Since: noon, Checks: map[string]bool{"milter": true}}, true,
			"binding: ok", 200, []string{"leaves over TLS or not at all"}, []string{`tlsonly_bound{check="milter"} 1`}},
		"unbound": {unbound(), true, "binding: postfix isn't bound: hole: milter-missing main.cf:smtpd_milters: not asked; and one more finding", 503,
			[]string{"<strong>Protected mail may leave without TLS: postfix isn’t bound.</strong>", "hole: milter-missing main.cf:smtpd_milters: &lt;b&gt;not&lt;/b&gt; asked; tlsonly setup",
				"broken: transport-missing: waits", "1 h ago"},
			[]string{`tlsonly_bound{check="milter"} 0`, `tlsonly_bound{check="policy"} 1`}},
		"down": {Binding{MTA: "postfix", Known: true, OK: true, Checks: map[string]bool{"running": false}, Findings: []mta.Finding{down}}, true,
			"binding: ok", 200, []string{"<strong>postfix isn’t running: no mail is accepted, and none leaves.</strong>"}, []string{`tlsonly_bound{check="running"} 0`}},
		"unbound and down": {Binding{MTA: "postfix", Known: true, Text: "hole", Findings: append(unbound().Findings, down)}, true,
			"binding: postfix isn't bound: hole", 503, []string{"postfix isn’t bound. It isn’t running now.", "not running: postfix-down"}, nil},
		"not known yet":  {Binding{MTA: "postfix"}, true, "", 200, []string{"It isn’t known yet whether postfix is bound."}, nil},
		"not to be seen": {Binding{MTA: "postfix", Problem: "permission denied"}, true, "", 200, []string{"It isn’t known whether postfix is bound: permission denied."}, nil},
		"not watched":    {Binding{}, false, "", 200, []string{"The MTA isn’t watched here, so it isn’t known whether it is bound."}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTest(t, populated(), func(conf *Config) { conf.Binding = func() (Binding, bool) { return c.b, c.watched } })
			ready := ask(s, "GET", "/readyz", "")
			status(t, ready, c.status)
			line := ""
			for l := range strings.Lines(ready.Body.String()) {
				if strings.HasPrefix(l, "binding") {
					line = strings.TrimSpace(l)
				}
			}
			if line != c.ready {
				t.Errorf("/readyz says %q, want %q", line, c.ready)
			}
			page := ask(s, "GET", "/", "").Body.String()
			_, first, _ := strings.Cut(page, "</h1>")
			for _, part := range c.page {
				if !strings.Contains(page, part) {
					t.Errorf("the page lacks %q: %.600s", part, first)
				}
			}
			well := c.watched && c.b.Known && c.b.OK
			if promises := strings.Contains(page, "leaves over TLS or not at all"); promises != well {
				t.Errorf("the page promises that mail leaves over TLS: %v, want %v: %.600s", promises, well, first)
			}
			text := scrape(t, s)
			for _, m := range c.metrics {
				if !strings.Contains(text, m+"\n") {
					t.Errorf("no %s", m)
				}
			}
			if c.metrics == nil && strings.Contains(text, "tlsonly_bound{") {
				t.Error("a metric of what isn't known")
			}
			if want := "tlsonly_last_asked_timestamp_seconds{interface=\"milter\"} "; !strings.Contains(text, want) {
				t.Errorf("no %s", want)
			}
		})
	}
}
