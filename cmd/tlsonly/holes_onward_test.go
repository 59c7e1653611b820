package main

import (
	"maps"
	"strings"
	"syscall"
	"testing"
)

// startedReading restarts the daemon with the settings of the Postfix of the test.
func (w *wire) startedReading(tables, rules string) {
	w.t.Helper()
	if rules == "" {
		rules = clinicRule
	}
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + tables + "[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + rules)
	w.daemon.start()
}

// toInner are main.cf's lines for an inner host that mail goes to whoever sends.
func toInner(more ...string) map[string]string {
	main := map[string]string{"relay_domains": "inner.example",
		"transport_maps": "inline:{ {inner.example = relay:[mx1.none.example]} }"}
	for i := 0; i < len(more); i += 2 {
		main[more[i]] = more[i+1]
	}
	return main
}

// Bounces and notices that are sent on to a host by a route that doesn't depend
// on who sends.
func TestMTAHolesOnward(t *testing.T) {
	long(t)
	const x = "x@inner.example"
	here := func(more ...string) map[string]string {
		return toInner(append(more, "mydestination", "local.example, clinic.example", "alias_maps", "texthash:DIR/aliases")...)
	}
	var cases []wireCase
	for _, b := range []bouncing{
		{name: "virtual alias", report: x, main: toInner("virtual_alias_domains", "clinic.example",
			"virtual_alias_maps", "inline:{ {doctor@clinic.example = x@inner.example} }")},
		{name: "of all in the domain", report: x, main: toInner("virtual_alias_domains", "clinic.example",
			"virtual_alias_maps", "inline:{ {@clinic.example = x@inner.example} }")},
		{name: "one after the other", report: x, main: toInner("virtual_alias_domains", "clinic.example",
			"virtual_alias_maps", "inline:{ {doctor@clinic.example = y@local.example}, {y@local.example = x@inner.example} }")},
		{name: "local alias", report: x, main: here(), files: map[string]string{"aliases": "doctor x@inner.example\n"}},
		{name: ".forward", report: x, main: here("forward_path", "DIR/$user.forward"),
			files: map[string]string{"aliases": "doctor nobody@local.example\n", "nobody.forward": x + "\n"}},
		{name: "canonical", report: x, main: toInner("recipient_canonical_maps", "inline:{ {doctor@clinic.example = x@inner.example} }")},
		{name: "notice of a bounce", report: x, main: toInner("notify_classes", "bounce", "bounce_notice_recipient", x)},
		{name: "notice by an alias", report: x, main: here("notify_classes", "bounce", "bounce_notice_recipient", "postmaster@local.example"),
			files: map[string]string{"aliases": "postmaster x@inner.example\n"}},
		{name: "others published", report: x, tables: othersAre("published"), main: toInner("virtual_alias_domains", "clinic.example",
			"virtual_alias_maps", "inline:{ {doctor@clinic.example = x@inner.example} }")},
	} {
		c := b.wireCase()
		send := c.send
		c.send = func(w *wire) {
			if w.bound {
				w.startedReading(b.tables, b.rules)
			}
			send(w)
		}
		cases = append(cases, c)
	}
	runWire(t, cases)
}

// What goes there besides waits, too, unless the site says that it stays there,
// and doctor says so; mail of others by other routes leaves as before.
func TestMTAHolesOnwardOthers(t *testing.T) {
	long(t)
	isolated(t)
	main := toInner("virtual_alias_domains", "clinic.example, shop.example",
		"virtual_alias_maps", "inline:{ {doctor@clinic.example = x@inner.example}, {boss@shop.example = boss@other-inner.example} }")
	main["relay_domains"] += ", other-inner.example"
	main["transport_maps"] = "inline:{ {inner.example = relay:[mx1.none.example]}, {other-inner.example = relay:[mx1.mixed.example]} }"
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string { return maps.Clone(main) }}, true)
	if out := w.doctorSays(exitNo, "hole", "route-home"); !strings.Contains(out, "relay:[mx1.none.example] for inner.example") {
		t.Errorf("doctor:\n%s", out)
	}
	w.startedReading("", "")
	w.doctorSays(exitOK, "warning", "route-home-held")
	if out, _ := w.program("setup", "postfix"); !strings.Contains(out, "all mail to inner.example, incoming mail too, waits unless [mx1.none.example]") ||
		strings.Contains(out, "other-inner") {
		t.Errorf("setup:\n%s", out)
	}
	w.message("y@other.example", []string{"doctor@clinic.example"}, nil)
	w.waits("x@inner.example", noOffer)
	w.message("y@other.example", []string{"boss@shop.example"}, nil)
	waitMessages(t, w.world, "mixed.example", 1)
	w.run("postsuper", "-d", "ALL")
	w.hup("[forwarding]\npostfix = \""+w.postfix.Etc+"\"\nlocal = [\"inner.example\"]\n"+clinicRule, "msg=reloaded")
	w.message("y@other.example", []string{"doctor@clinic.example"}, nil)
	waitMessages(t, w.world, "none.example", 1)
	if out, status := w.program("doctor", "postfix"); status != exitOK || strings.Contains(out, "route-home") {
		t.Errorf("doctor: exit status %d\n%s", status, out)
	}
}
