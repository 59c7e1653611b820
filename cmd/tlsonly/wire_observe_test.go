package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/observe"
	"tlsonly/internal/testnet"
)

const watchedRule = clinicRule + "mode = \"observe\"\n"

// observed asks the program what was observed, until it says what is wanted.
func (w *wire) observed(what string, status int, good func(observe.Summary) bool) {
	w.t.Helper()
	var out string
	waitFor(w.t, what, func() bool {
		var code int
		out, code = w.program("observe", "--since", "1d", "--json")
		var s observe.Summary
		return json.Unmarshal([]byte(out), &s) == nil && code == status && good(s)
	})
}

// services returns the transports of ours in master.cf.
func (w *wire) services() string {
	w.t.Helper()
	out, err := w.postfix.Run(patient(w.t), "", "postconf", "-M")
	if err != nil {
		w.t.Fatal(err)
	}
	var ours []string
	for _, line := range strings.Split(out, "\n") {
		if strings.HasPrefix(line, "tlsonly") {
			ours = append(ours, line)
		}
	}
	maps, err := w.postfix.Run(patient(w.t), "", "postconf", "-x", "sender_dependent_default_transport_maps")
	if err != nil {
		w.t.Fatal(err)
	}
	return maps + strings.Join(ours, "\n")
}

// A site observes, reads what enforcing would have done, and enforces by a reload
// of the daemon alone.
func TestMTAObserveThenEnforce(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true, rules: watchedRule}, true)
	before := w.services()
	if !strings.Contains(before, "tlsonly1") || !strings.Contains(before, "sender1") {
		t.Fatalf("no transport is reserved:\n%s", before)
	}
	w.doctorSays(exitOK, "warning", "rules-observe")

	// Nobody is held, and nobody waits: the answer comes before the destination is
	// known, and is told when it is.
	w.message(doctor, []string{"u@none.example"}, nil)
	if err := w.world.Hosts("none.example")[0].WaitMessages(patient(t), 1); err != nil {
		t.Fatal(err)
	}
	c := dial(t, w.address)
	c.expect("MAIL FROM:<"+doctor+">", "250")
	c.expect("RCPT TO:<u@silent.example>", "250")
	if strings.Contains(w.daemon.log(), "rcpt=u@silent.example") {
		t.Error("the sender waited for what the destination does")
	}
	c.expect("RSET", "250")
	c.expect("QUIT", "221")
	w.daemon.waitDecision("rcpt=u@silent.example", "verdict=accept", "would=defer")

	w.observed("what would have been refused", exitNo, func(s observe.Summary) bool {
		i := slices.IndexFunc(s.Destinations, func(d observe.Destination) bool { return d.Destination.String() == "none.example" })
		return !s.Ready && i >= 0 && len(s.Rules) == 1 && s.Rules[0].Refused == 1 && s.Rules[0].Deferred == 1 && s.Rules[0].Judged == 2 &&
			s.Destinations[i].Now == observe.Fails && s.Destinations[i].Times == 1 && s.Destinations[i].Senders == 1 &&
			s.Destinations[i].Postmaster == "postmaster@none.example" && slices.Contains(s.Destinations[i].Hosts, "mx1.none.example") &&
			slices.ContainsFunc(s.Destinations[i].Advice, func(text string) bool { return strings.Contains(text, "offer STARTTLS") })
	})
	if out, status := w.program("observe"); status != exitNo || !strings.Contains(out, "ready to enforce: no\n") ||
		!strings.Contains(out, "write to    postmaster@none.example") {
		t.Errorf("status %d:\n%s", status, out)
	}
	if out, _ := w.program("report", filepath.Join(w.postfix.Dir, "log")); !strings.Contains(out, "observing: 1 rule only observes, so it protects nobody: of 2 recipients since") ||
		!strings.Contains(out, "1 for none.example: no-starttls, rule clinic") {
		t.Errorf("report:\n%s", out)
	}
	if out, status := w.program("lint"); status != exitOK || !strings.Contains(out, "1 rule only observes, so it protects nobody") {
		t.Errorf("lint: status %d:\n%s", status, out)
	}

	// Exceptions make it ready.
	const legacy = "[[rule]]\nname = \"legacy\"\nfrom = [\"@clinic.example\"]\nto = [\"@none.example\", \"@silent.example\"]\ntls = \"may\"\n"
	w.hup(legacy+watchedRule, "msg=reloaded")
	w.message(doctor, []string{"u@good.example"}, nil)
	w.observed("ready", exitOK, func(s observe.Summary) bool {
		return s.Ready && slices.ContainsFunc(s.Destinations, func(d observe.Destination) bool {
			return d.Now == observe.Excepted && d.By == "legacy"
		})
	})

	// One reload, and nothing else, enforces.
	w.hup(clinicRule, "msg=reloaded")
	if after := w.services(); after != before {
		t.Errorf("the MTA was changed:\n%s\n%s", before, after)
	}
	w.refused(doctor)
	w.marker += "-enforced"
	w.message("nurse@clinic.example", []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
	w.waits("u@good.example", noOffer)
	if host, at := w.leak(); host != "" {
		t.Errorf("%s saw the message in the clear: %q", host, at)
	}
	w.doctorSays(exitOK, "", "rules-observe")
	w.observed("nothing to make ready", exitOK, func(s observe.Summary) bool { return s.Ready && len(s.Observing) == 0 })
}

// Mail that comes without a client isn't kept waiting either, nor held.
func TestMTAObserveHandedIn(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, rules: watchedRule}, true)
	w.handedIn(doctor, "u@none.example")
	if err := w.world.Hosts("none.example")[0].WaitMessages(patient(t), 1); err != nil {
		t.Fatal(err)
	}
	w.daemon.waitDecision("rcpt=u@none.example", "verdict=accept", "would=reject")
	w.observed("what would have been refused", exitNo, func(s observe.Summary) bool {
		return len(s.Rules) == 1 && s.Rules[0].Refused == 1
	})
}
