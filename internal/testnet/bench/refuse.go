package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"tlsonly/internal/testnet"
)

// refuseHosts are so many of each kind, and refuseConfirm is the time between the two
// probes that a refusal takes.
const (
	refuseHosts   = 20
	refuseConfirm = time.Second
)

// The least number of round trips: questions for MX and address, connection with
// banner, EHLO, and of good hosts STARTTLS, two flights of the handshake, and EHLO
// again. QUIT keeps nobody waiting. A refusal takes the dialogue twice, and MX again.
const (
	tripsGood    = 2 + 2 + 1 + 1 + 2 + 1
	tripsRefused = 2 + 2*(2+1) + 1
)

// refuse asks for domains of which nothing is known, one after the other, each on a
// mail host of its own, good ones and ones without TLS. A round trip takes 40 ms.
func refuse(ctx context.Context, b *bench) (err error) {
	w := &farWorld{}
	defer func() { err = errors.Join(err, w.close()) }()
	ca, err := testnet.NewCA()
	if err != nil {
		return err
	}
	var zone strings.Builder
	hosts := b.count(refuseHosts)
	for i := range 2 * hosts {
		domain := fmt.Sprintf("d%d.example", i)
		config := testnet.SMTPConfig{Name: "mx." + domain}
		if i < hosts {
			cert, err := ca.Issue(testnet.CertSpec{Names: []string{config.Name}})
			if err != nil {
				return err
			}
			config.TLS = testnet.ServerTLS(cert, 0, 0)
		}
		host, err := testnet.StartSMTP(config)
		if err != nil {
			return err
		}
		w.hosts = append(w.hosts, host)
		at := fmt.Sprintf("127.0.3.%d", i+1)
		l, err := newLink(at+":25", host.Address().String(), oneWay)
		if err != nil {
			return err
		}
		w.links = append(w.links, l)
		fmt.Fprintf(&zone, "%s. 3600 IN MX 10 mx.%s.\nmx.%s. 3600 IN A %s\n", domain, domain, domain, at)
	}
	if w.dns, err = testnet.StartDNS("127.0.0.1:53", zone.String()); err != nil {
		return err
	}
	w.dns.SetDelay("", 0, 2*oneWay)
	socket := b.dir + "/refuse.sock" // the MTA is near
	config := configuration("unix:"+socket, "deadline = \"25s\"", "", "off") + fmt.Sprintf("[probe]\nconfirm = %q\n", refuseConfirm)
	daemon, err := b.daemon(ctx, "refuse", config, socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.stop()) }()
	m, err := testnet.DialMilter(socket)
	if err != nil {
		return err
	}
	defer m.Close()
	var good, bad []float64
	for i := range 2 * hosts {
		start := time.Now()
		answer, err := m.Ask(protected, fmt.Sprintf("user@d%d.example", i))
		took := float64(time.Since(start).Milliseconds())
		switch refused := strings.HasPrefix(answer, "y550 "); {
		case err != nil || refused != (i >= hosts) || !refused && answer != "c":
			return fmt.Errorf("d%d.example: %q, %w\n%s", i, answer, err, daemon.said())
		case refused:
			bad = append(bad, took)
		default:
			good = append(good, took)
		}
	}
	floor := func(trips int, more time.Duration) float64 {
		return float64((time.Duration(trips)*2*oneWay + more).Milliseconds())
	}
	add := func(what string, took []float64, least float64) {
		b.report.add(row{part: "refuse", what: what, figure: fmt.Sprintf("%.0f ms", median(took)),
			against: fmt.Sprintf("round trips alone: %.0f ms", least), ratio: fmt.Sprintf("%.2f", median(took)/least)})
	}
	add("a cold recipient, good TLS", good, floor(tripsGood, 0))
	add(fmt.Sprintf("a cold recipient, no TLS: two probes, %s apart", refuseConfirm), bad, floor(tripsRefused, refuseConfirm))
	return nil
}
