package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/testnet"
)

const (
	coldDomains = 10_000
	coldHosts   = 50
	oneWay      = 20 * time.Millisecond
	// coldSessions ask at the same time, as that many SMTP sessions would.
	coldSessions = 200
)

// cold asks for many domains of which nothing is known, on few mail hosts. A round trip takes 40 ms: name servers answer after
// one, and mail hosts are behind links that hold every octet back on both ways.
func cold(ctx context.Context, b *bench) error {
	var took, memory, floor []float64
	var queries, connections int
	domains := b.count(coldDomains)
	for round := range b.rounds {
		err := func() (err error) {
			w, err := newFarWorld(domains, coldHosts)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.close()) }()
			socket := b.dir + "/cold.sock" // the MTA is near
			config := configuration("unix:"+socket, "deadline = \"25s\"", "", "off")
			daemon, err := b.daemon(ctx, fmt.Sprintf("cold%d", round), config, socket)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, daemon.stop()) }()
			start := time.Now()
			if err := askAll(socket, domains); err != nil {
				return fmt.Errorf("%w\n%s", err, daemon.said())
			}
			took = append(took, time.Since(start).Seconds())
			// Each session asks for its domains one after the other, so one can't take less than so many round trips.
			floor = append(floor, (time.Duration((domains+coldSessions-1)/coldSessions)*2*oneWay + alone).Seconds())
			peak, err := daemon.status("VmHWM")
			if err != nil {
				return err
			}
			memory = append(memory, peak/1000)
			connections, queries = w.connections(), w.dns.Queries("", 0)
			return nil
		}()
		if err != nil {
			return err
		}
	}
	b.report.add(
		row{part: "cold", what: fmt.Sprintf("%d domains on %d hosts, %d sessions: probes", domains, coldHosts, coldSessions),
			figure: fmt.Sprint(connections), goal: fmt.Sprint(min(coldHosts, domains)), missed: connections != min(coldHosts, domains)},
		row{part: "cold", what: "time", figure: fmt.Sprintf("%.1f s, %d DNS queries", median(took), queries),
			against: fmt.Sprintf("round trips alone: %.1f s", median(floor)), ratio: fmt.Sprintf("%.2f", median(took)/median(floor))},
		row{part: "cold", what: "peak memory", figure: fmt.Sprintf("%.0f MB", median(memory))},
	)
	return nil
}

// farWorld is DNS and mail hosts a round trip away.
type farWorld struct {
	dns   *testnet.DNS
	hosts []*testnet.SMTP
	links []*link
}

func newFarWorld(domains, hosts int) (*farWorld, error) {
	w := &farWorld{}
	var zone strings.Builder
	for i := range domains {
		fmt.Fprintf(&zone, "d%d.example. 3600 IN MX 10 mx%d.provider.example.\n", i, i%hosts)
	}
	ca, err := testnet.NewCA()
	if err != nil {
		return nil, err
	}
	for i := range hosts {
		name := fmt.Sprintf("mx%d.provider.example", i)
		cert, err := ca.Issue(testnet.CertSpec{Names: []string{name}})
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		host, err := testnet.StartSMTP(testnet.SMTPConfig{Name: name, TLS: testnet.ServerTLS(cert, 0, 0)})
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.hosts = append(w.hosts, host)
		at := fmt.Sprintf("127.0.3.%d", i+1)
		l, err := newLink(at+":25", host.Address().String(), oneWay)
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.links = append(w.links, l)
		fmt.Fprintf(&zone, "%s. 3600 IN A %s\n", name, at)
	}
	if w.dns, err = testnet.StartDNS("127.0.0.1:53", zone.String()); err != nil {
		return nil, errors.Join(err, w.close())
	}
	w.dns.SetDelay("", 0, 2*oneWay)
	return w, nil
}

func (w *farWorld) close() error {
	var errs []error
	for _, l := range w.links {
		errs = append(errs, l.close())
	}
	for _, h := range w.hosts {
		errs = append(errs, h.Close())
	}
	if w.dns != nil {
		errs = append(errs, w.dns.Close())
	}
	return errors.Join(errs...)
}

func (w *farWorld) connections() int {
	n := 0
	for _, h := range w.hosts {
		n += h.Connections()
	}
	return n
}

// alone is how long the round trips of one host last: its address, and a dialogue of connection, banner, EHLO, STARTTLS,
// handshake, EHLO and QUIT.
const alone = 8 * 2 * oneWay

// askAll asks the milter for each domain once, over many sessions at the same time.
func askAll(socket string, domains int) error {
	next := make(chan int)
	errs := make(chan error, coldSessions)
	var group sync.WaitGroup
	for range min(coldSessions, domains) {
		group.Go(func() {
			m, err := testnet.DialMilter(socket)
			if err == nil {
				defer m.Close()
			}
			for i := range next {
				if err != nil {
					continue
				}
				var answer string
				if answer, err = m.Ask(protected, fmt.Sprintf("user@d%d.example", i)); err == nil && answer != "c" {
					err = fmt.Errorf("d%d.example: answer %q", i, answer)
				}
			}
			errs <- err
		})
	}
	for i := range domains {
		next <- i
	}
	close(next)
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
