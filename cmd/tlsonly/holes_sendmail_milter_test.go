package main

import (
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// sendmailChanger runs a milter that changes the sender, and returns where
// Sendmail finds it.
func sendmailChanger(t *testing.T, to string) (endpoint string) {
	t.Helper()
	at, _ := startChangerAt(t, "127.0.0.1:0", func(string) string { return to })
	host, port, _ := strings.Cut(at, ":")
	return "inet:" + port + "@" + host
}

// What a milter before ours made of the sender stays, and the message is held
// all the same.
func TestMTAHolesSendmailOtherMilter(t *testing.T) {
	for _, to := range []string{"SRS0=abcd=XY=clinic.example=doctor@other.example", "prvs=1234@clinic.example", ""} {
		c := sendmailCase{name: "<" + to + ">", mc: func(dir string) []string {
			return append(queueOnly(dir), "INPUT_MAIL_FILTER(`changer', `S="+sendmailChanger(t, to)+", F=T, T=R:30s')dnl")
		}, send: func(w *wire) {
			w.message(doctor, []string{"u@good.example"}, nil)
			w.fault("good.example", testnet.NoSTARTTLS)
		}, check: func(w *wire) {
			refusedFor("u@good.example")(w)
			w.fault("good.example", testnet.NoFault)
			w.anyRun()
			w.delivered("good.example", 1)
			for _, m := range w.world.Messages("good.example") {
				if m.From != to {
					w.t.Errorf("the sender is %q, want %q", m.From, to)
				}
			}
		}}
		runSendmailReports(t, []sendmailCase{c})
	}
}
