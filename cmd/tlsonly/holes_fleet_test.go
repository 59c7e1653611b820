package main

import (
	"strings"
	"syscall"
	"testing"

	"tlsonly/internal/store/storetest"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// other is where the second daemon of a fleet listens.
var other = strings.NewReplacer(milterAddress, "127.0.0.1:8789")

const otherPorts = "[socketmap]\nlisten = \"inet:127.0.0.1:8790\"\n[http]\nlisten = \"127.0.0.1:8791\"\n"

// joins starts another Postfix with a daemon of its own on the store of w.
func (w *wire) joins(bound bool, main map[string]string) *wire {
	w.t.Helper()
	dir, err := rig.TempDir()
	if err != nil {
		w.t.Fatal(err)
	}
	b := &wire{t: w.t, bound: bound, world: w.world, marker: w.marker, dir: dir}
	b.daemon = startDaemonOn(w.t, other.Replace(daemonHead+otherPorts)+clinicRule, w.daemon.url)
	waitFor(w.t, "the second daemon", func() bool { return strings.Contains(b.daemon.log(), "msg=ready") })
	main["smtpd_milters"], main["non_smtpd_milters"] = "inet:127.0.0.1:8789", "inet:127.0.0.1:8789"
	main["minimal_backoff_time"], main["maximal_backoff_time"] = "1h", "1h"
	b.postfix, _ = startPostfixWith(w.t, rig.PostfixConfig{Main: main})
	b.address = b.postfix.Addr
	if bound {
		b.setup()
		b.reload()
	}
	return b
}

// Two Postfix with a daemon each on one store, which is PostgreSQL: two daemons
// never share a file. The file changes on one of them
// first, and setup runs there only: what waits with the other one, and what it
// accepts, is no less held.
func TestMTAHolesFleet(t *testing.T) {
	long(t)
	isolated(t)
	for name, bound := range map[string]bool{"bound": true, "unbound": false} {
		t.Run(name, func(t *testing.T) {
			a := newFleet(t, bound, storetest.StartPostgres(t).URL(t))
			b := a.joins(bound, deferred(""))
			b.message(doctor, []string{"u@good.example"}, nil)
			b.settle()
			// Another class comes first in the file, and an exception, by A's word.
			const first = `
[[rule]]
name = "open"
from = ["@open.example"]
tls = "may"
[[rule]]
name = "bank"
from = ["@bank.example"]
tls = "encrypt"
`
			a.hup(first+clinicRule, "msg=reloaded")
			if bound {
				a.setup()
				a.reload()
			}
			// B's file knows nothing of the bank, A's does.
			if bound {
				waitFor(t, "B to hear of A's rules", func() bool {
					answer, _ := b.postfix.Run(patient(t), "", "postmap", "-q", "x@bank.example", "socketmap:inet:127.0.0.1:8790:sender1")
					return strings.TrimSpace(answer) == "tlsonly:"
				})
			}
			b.message("x@bank.example", []string{"v@good.example"}, nil)
			b.settle()
			// Then the clinic's rule goes, by A's word.
			a.hup(first, "msg=reloaded")
			b.fault("good.example", testnet.NoSTARTTLS)
			if err := b.postfix.Set(patient(t), map[string]string{"defer_transports": ""}); err != nil {
				t.Fatal(err)
			}
			b.run("postqueue", "-f")
			if !bound {
				waitFor(t, "the marker to be seen in the clear", func() bool { host, _ := b.leak(); return host != "" })
				return
			}
			b.waits("u@good.example", noOffer)
			b.waits("v@good.example", noOffer)
			if host, at := b.leak(); host != "" {
				t.Errorf("%s saw the message in the clear: …%q…", host, at)
			}
			// With TLS back it goes.
			b.fault("good.example", testnet.NoFault)
			b.retry("status=sent")
			b.delivered("good.example", 2)
		})
	}
}

// newFleet starts the first of them.
func newFleet(t *testing.T, bound bool, url string) *wire {
	t.Helper()
	w := newWire(t, wireCase{setup: true}, bound)
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.url = url
	w.daemon.write(daemonHead + clinicRule)
	w.daemon.start()
	return w
}
