package main

import (
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/testnet"
)

// srsOf is a stranger's sender as a site that forwards rewrites it.
func srsOf(from, site string) string {
	local, domain, _ := strings.Cut(from, "@")
	return "SRS0=HHH=TT=" + domain + "=" + local + "@" + site
}

const (
	srsMatch  = "[senders]\nsrs = \"match\"\n"
	srsIgnore = "[senders]\nsrs = \"ignore\"\n"
)

// refused checks that each sender is refused a recipient without TLS.
func (w *wire) refused(senders ...string) {
	w.t.Helper()
	for _, from := range senders {
		c := dial(w.t, w.address)
		c.expect("MAIL FROM:<"+from+">", "250")
		c.expect("RCPT TO:<u@none.example>", "550")
		c.expect("QUIT", "221")
	}
}

// A protected sender with something put around it is refused as without, and
// what is accepted of it is held at delivery.
func TestMTAWireForms(t *testing.T) {
	long(t)
	only := strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1)
	forms := []string{
		batv(doctor), "prvs=doctor=1234abcdef@clinic.example", "btv1==059ab0cf7e4==" + doctor, "PRVS=1234ABCDEF=Doctor@Clinic.Example",
		srs0(doctor), srs1(doctor), srs0(batv(doctor)), "SRS0+HHH=TT=clinic.example=doctor@other.example",
		"doctor+news@clinic.example", "doctor-u=far.example@clinic.example", "doctor+u=far.example@clinic.example",
		"prvs=x=" + doctor, // a tag of nobody's
	}
	var cases []wireCase
	for _, form := range forms {
		cases = append(cases, wireCase{name: form, setup: true, rules: only,
			send: func(w *wire) {
				if w.bound {
					w.refused(form)
				}
				w.message(form, []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			},
			check: func(w *wire) { w.waits("u@good.example", noOffer) }})
	}
	runWire(t, cases)
}

// Others whose senders only look alike aren't protected.
func TestMTAWireFormsOfOthers(t *testing.T) {
	isolated(t)
	only := strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1)
	w := newWire(t, wireCase{setup: true, rules: only}, true)
	for _, from := range []string{"prvs=1234abcdef=nurse@clinic.example", "SRS0=HHH=TT=stranger.example=doctor@clinic.example", "doctor-news@clinic.example"} {
		w.message(from, []string{"u@none.example"}, nil)
	}
	if err := w.world.Hosts("none.example")[0].WaitMessages(patient(t), 3); err != nil {
		t.Fatal(err)
	}
}

// Whose mail of a rewritten sender is, is the site's to say, and the same at RCPT
// and at delivery.
func TestMTAWireSRS(t *testing.T) {
	long(t)
	isolated(t)
	const stranger = "joe@stranger.example"
	rewritten := srsOf(stranger, "clinic.example")
	other := map[string]string{"smtpd_milters": "inet:" + otherMilter}
	for _, match := range []bool{false, true} {
		t.Run(map[bool]string{false: "ignore", true: "match"}[match], func(t *testing.T) {
			tables := srsIgnore
			if match {
				tables = srsMatch
			}
			w := newWire(t, wireCase{setup: true, tables: tables, main: func(string) map[string]string { return other }}, true)
			startChanger(t, func(string) string { return rewritten }) // after it was judged, as postsrsd does
			w.refused(doctor, srsOf("doctor@clinic.example", "other.example"))
			if match {
				w.refused(rewritten)
			} else {
				w.message(rewritten, []string{"u@none.example"}, nil)
			}
			w.message(stranger, []string{"u@none.example"}, nil)
			if match {
				w.waits("u@none.example", noOffer)
				if host, at := w.leak(); host != "" {
					t.Errorf("%s saw the message in the clear: %q", host, at)
				}
				return
			}
			if err := w.world.Hosts("none.example")[0].WaitMessages(patient(t), 2); err != nil {
				t.Fatal(err)
			}
			// Going from ignore to match binds at once. What was accepted so may
			// still wait on the way back, so for as long nothing else holds.
			w.hup(srsMatch+clinicRule, "msg=reloaded")
			w.refused(rewritten)
			w.hup(srsIgnore+clinicRule, "msg=reloaded")
			w.refused(rewritten)
		})
	}
}

// The MTA's own delimiter of address extensions is read from it.
func TestMTAWireDelimiter(t *testing.T) {
	long(t)
	isolated(t)
	only := strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1)
	w := newWire(t, wireCase{setup: true, rules: only, tables: "[senders]\ndelimiter = \"\"\n", main: func(string) map[string]string {
		return map[string]string{"recipient_delimiter": "+-"}
	}}, true)
	w.refused("doctor+news@clinic.example")
	w.message("doctor-news@clinic.example", []string{"u@none.example"}, nil)
	w.doctorSays(exitOK, "warning", "sender-delimiter")
	for _, text := range []string{"[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + only, "[senders]\ndelimiter = \"-\"\n" + only} {
		w.daemon.stop(syscall.SIGTERM)
		w.daemon.write(daemonHead + text)
		w.daemon.start()
		w.refused("doctor-news@clinic.example", "prvs=1234abcdef=doctor-news@clinic.example")
		w.doctorSays(exitOK, "", "sender-delimiter")
		w.message("doctor-news@clinic.example", []string{"u@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
		w.waits("u@good.example", noOffer)
		w.fault("good.example", testnet.NoFault)
	}
}

// Doctor tells a site that rewrites senders which setting is in force.
func TestMTAWireSRSDoctor(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{setup: true, main: func(string) map[string]string {
		return map[string]string{"sender_canonical_maps": "tcp:127.0.0.1:10001", "sender_canonical_classes": "envelope_sender"}
	}}, true)
	w.doctorSays(exitOK, "ok", "sender-srs")
	w.hup(srsMatch+clinicRule, "msg=reloaded")
	w.doctorSays(exitOK, "warning", "sender-srs")
	w.hup(srsMatch+strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1), "msg=reloaded")
	w.doctorSays(exitOK, "ok", "sender-srs")
}

// Sendmail's delivery knows the forms, too.
func TestMTAWireFormsSendmail(t *testing.T) {
	isolated(t)
	only := strings.Replace(clinicRule, "@clinic", doctor[:6]+"@clinic", 1)
	for _, from := range []string{batv(doctor), srs0(doctor), "doctor-u=far.example@clinic.example"} {
		t.Run(from, func(t *testing.T) {
			w := newSendmailWire(t, sendmailCase{mc: queueOnly}, true)
			w.daemon.stop(syscall.SIGTERM)
			w.daemon.write(daemonHead + only)
			w.daemon.start()
			w.refused(from)
			w.message(from, []string{"u@good.example"}, nil)
			w.fault("good.example", testnet.NoSTARTTLS)
			refusedFor("u@good.example")(w)
			if host, at := w.leak(); host != "" {
				t.Errorf("%s saw the message in the clear: %q", host, at)
			}
		})
	}
	t.Run("a stranger's, forwarded", func(t *testing.T) {
		w := newSendmailWire(t, sendmailCase{}, true)
		w.refused(doctor)
		w.message(srsOf("joe@stranger.example", "clinic.example"), []string{"u@none.example"}, nil)
		if err := w.world.Hosts("none.example")[0].WaitMessages(patient(t), 1); err != nil {
			t.Fatal(err)
		}
	})
}
