package main

import (
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// A recipient that waits for TLS is not given back because a host has refused
// another one of the same message.
func TestMTAHolesSendmailRefusedBeside(t *testing.T) {
	isolated(t)
	refuses := func(string) string { return "550 5.1.1 no such user" }
	sites := []testnet.Site{
		{Domain: "aaa.example", Hosts: []testnet.Host{{Reject: refuses}}},
		{Domain: "zzz.example", Hosts: []testnet.Host{{Reject: refuses}}},
	}
	for _, c := range []sendmailCase{{name: "at once"}, {name: "in a queue run", mc: queueOnly}} {
		t.Run(c.name, func(t *testing.T) {
			c.sites = sites
			w := newReportWire(t, c, true)
			w.message(doctor, []string{"u@zzz.example", "u@good.example", "u@aaa.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			waitFor(t, "both refusals", func() bool {
				if c.mc != nil {
					if err := w.sendmail.QueueRun(patient(t)); err != nil && !strings.Contains(err.Error(), "exit status") {
						t.Fatal(err)
					}
				}
				return len(w.sendmail.LogLines("to=<u@aaa.example>")) > 0 && len(w.sendmail.LogLines("to=<u@zzz.example>")) > 0 &&
					len(w.sendmail.LogLines("to=<u@good.example>")) > 0
			})
			w.fault("good.example", testnet.NoFault)
			for range 2 {
				w.anyRun()
			}
			w.delivered("good.example", 1)
		})
	}
}
