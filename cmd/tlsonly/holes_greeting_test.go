package main

import (
	"maps"
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// Settings by which the site's client never sees STARTTLS, for the sake of
// hosts that break EHLO. Mail that may leave in the clear leaves so; of mail
// that was accepted for TLS none would ever leave.
func TestMTAHolesGreeting(t *testing.T) {
	long(t)
	isolated(t)
	for _, c := range []struct{ name, setting, value string }{
		{name: "words", setting: "smtp_discard_ehlo_keywords", value: "chunking, STARTTLS"},
		{name: "words of hosts", setting: "smtp_discard_ehlo_keyword_address_maps",
			value: "cidr:{ {127.0.1.0/24 chunking, starttls} }, static:starttls"},
		{name: "no EHLO", setting: "smtp_never_send_ehlo", value: "yes"},
		{name: "EHLO where the banner says so", setting: "smtp_always_send_ehlo", value: "no"},
		{name: "a firewall's greeting", setting: "smtp_pix_workarounds", value: "disable_esmtp, delay_dotcrlf"},
		{name: "a firewall's greeting, of hosts", setting: "smtp_pix_workaround_maps",
			value: "cidr:{ {127.0.1.0/24 disable_esmtp} }"},
	} {
		t.Run(c.name, func(t *testing.T) {
			site := testnet.Site{Domain: "stars.example", Hosts: []testnet.Host{{Fault: testnet.BannerMasked}}}
			main := map[string]string{"site_value": c.value, c.setting: "$site_value", "smtp_pix_workaround_threshold_time": "0s"}
			w := newWire(t, wireCase{setup: true, sites: []testnet.Site{site},
				main: func(string) map[string]string { return maps.Clone(main) }}, true)
			w.message(doctor, []string{"u@stars.example"}, nil)
			w.settle()
			w.delivered("stars.example", 1)
			if out, status := w.program("doctor", "postfix"); status != exitOK {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
			// As the site has it, the mail waits.
			for _, n := range []string{"tlsonly", "tlsonly1"} {
				w.run("postconf", "-P", n+"/unix/"+c.setting+"=$site_value")
			}
			w.reload()
			w.message(doctor, []string{"v@stars.example"}, nil)
			w.settle()
			w.waits("v@stars.example", noOffer)
			out, status := w.program("doctor", "postfix")
			if lines := found(out, "transport-differs"); status != exitNo || len(lines) < 2 || !strings.HasPrefix(lines[0], "broken") {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
			w.setup()
			w.reload()
			w.retry("status=sent")
			w.delivered("stars.example", 2)
		})
	}
}

// Mail for a domain whose best mail host is this one, by a setting that hands it
// on whatever its own policy says.
func TestMTAHolesBestMX(t *testing.T) {
	const inner = "[mx1.none.example]"
	runWire(t, []wireCase{{name: "copy", setup: true,
		sites: []testnet.Site{{Domain: "ours.example", Zone: "@ MX 10 mta.test.\nmta.test. 60 IN A 127.0.0.1"}},
		main: func(string) map[string]string {
			return map[string]string{"best_mx_transport": "smtp:" + inner, "always_bcc": "audit@ours.example"}
		},
		send: func(w *wire) { w.message(doctor, []string{"u@good.example"}, nil) },
		check: func(w *wire) {
			w.waits("audit@ours.example", noOffer)
			if out, status := w.program("doctor", "postfix"); status != exitOK {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
			w.run("postconf", "-P", "tlsonly1/unix/best_mx_transport=smtp:"+inner)
			w.reload()
			w.doctorSays(exitNo, "hole", "transport-fallback")
		}}})
}
