package main

import (
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// Settings that only doctor knows as holes, and what doctor proposes: with it
// the mail is bound, without it the marker is seen.
func TestMTAHolesRemedied(t *testing.T) {
	long(t)
	both := strings.Replace(clinicRule, `"]`, `", "@inside.example"]`, 1)
	lost := func(from string) func(w *wire) {
		return func(w *wire) {
			w.message(from, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		}
	}
	copied := func(w *wire) { w.message(doctor, []string{"u@good.example"}, nil) }
	waits := func(rcpt string) func(w *wire) { return func(w *wire) { w.waits(rcpt, noOffer) } }
	const generic = "inline:{ {doctor@inside.example = doctor@clinic.example} }"
	main := func(lines ...string) func(string) map[string]string {
		return func(string) map[string]string {
			m := map[string]string{}
			for i := 0; i < len(lines); i += 2 {
				m[lines[i]] = lines[i+1]
			}
			return m
		}
	}
	remedied := func(send func(w *wire), calls ...string) func(w *wire) {
		return func(w *wire) {
			if w.bound {
				for _, call := range calls {
					w.postconf(call)
				}
				w.reload()
			}
			send(w)
		}
	}
	relay := []string{"-P|relay/unix/smtp_tls_security_level=encrypt", "-P|relay/unix/smtp_tls_policy_maps="}
	runWire(t, []wireCase{
		{name: "generic maps, both forms in the rule", setup: true, rules: both, main: main("smtp_generic_maps", generic),
			send: lost("doctor@inside.example"), check: waits("u@good.example")},
		{name: "generic maps of one client, both forms in the rule", setup: true, rules: both,
			main: main(), send: remedied(lost("doctor@inside.example"), "-P|smtp/unix/smtp_generic_maps=inline:{doctor@inside.example=doctor@clinic.example}"), check: waits("u@good.example")},
		{name: "a copy to a relay domain, its transport with TLS only", setup: true,
			main: main("relay_domains", "none.example", "always_bcc", "audit@none.example"),
			send: remedied(copied, relay...), check: waits("audit@none.example")},
		{name: "a copy by a route of its own, by our transport", setup: true,
			main: main("transport_maps", "inline:{ {none.example = smtp:} }", "sender_bcc_maps", "inline:{ {@clinic.example = audit@none.example} }"),
			send: remedied(copied, "-e|transport_maps=inline:{ {none.example = tlsonly:} }"), check: waits("audit@none.example")},
	})
}

// The same without the remedy: the binding alone does not hold it, as doctor
// says.
func TestMTAHolesUnremedied(t *testing.T) {
	long(t)
	isolated(t)
	for _, c := range []struct {
		name, from, code string
		main             map[string]string
	}{
		{"generic maps", "doctor@inside.example", "sender-rewritten",
			map[string]string{"smtp_generic_maps": "inline:{ {doctor@inside.example = doctor@clinic.example} }"}},
		{"a copy to a relay domain", doctor, "route-explicit",
			map[string]string{"relay_domains": "none.example", "always_bcc": "audit@none.example"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t, wireCase{setup: true, main: func(string) map[string]string { return c.main }}, true)
			if out, status := w.program("doctor", "postfix"); status != exitNo || len(found(out, c.code)) == 0 {
				t.Errorf("exit status %d, want %s in\n%s", status, c.code, out)
			}
			w.message(c.from, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			waitFor(t, "the marker to be seen in the clear", func() bool { host, _ := w.leak(); return host != "" })
		})
	}
}
