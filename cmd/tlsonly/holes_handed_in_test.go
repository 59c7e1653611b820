package main

import (
	"testing"

	"tlsonly/internal/testnet"
)

// handedIn gives a message to sendmail(1).
func (w *wire) handedIn(from, to string) {
	w.t.Helper()
	if _, err := w.postfix.Run(patient(w.t), w.text(), "sendmail", "-i", "-f", from, to); err != nil {
		w.t.Fatal(err)
	}
}

// What programs of this host hand in is held at delivery: also where pickup
// asks no milter, and what answers by itself, with the null sender.
func TestMTAHolesHandedIn(t *testing.T) {
	long(t)
	runWire(t, []wireCase{
		{name: "pickup without milters", setup: true, send: func(w *wire) {
			w.run("postconf", "-P", "pickup/unix/receive_override_options=no_milters")
			w.run("postfix", "-c", w.postfix.Etc, "reload")
			w.fault("good.example", testnet.NoSTARTTLS)
			w.handedIn(doctor, "u@good.example")
			waitFor(w.t, "a try", func() bool { return len(w.postfix.LogLines("status=")) > 0 })
		}, check: func(w *wire) { w.waits("u@good.example", noOffer) }},
		{name: "an answer of a vacation program", setup: true, send: func(w *wire) {
			w.handedIn("<>", "u@none.example")
			waitFor(w.t, "a try", func() bool { return len(w.postfix.LogLines("status=")) > 0 })
		}, check: func(w *wire) { w.waits("u@none.example", noOffer) }},
	})
}
