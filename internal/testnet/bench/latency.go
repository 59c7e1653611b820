package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/testnet"
)

// Of so many destinations every twentieth hangs: each at a mail host of its own that takes the connection and says nothing.
const (
	latencyDestinations = 1000
	hangs               = 20
)

// latency sends messages at a fixed rate, whatever becomes of those before, and shows how long their recipients waited for an
// answer while some destinations hang. An answer counts from the moment it should have been asked for.
func latency(ctx context.Context, b *bench) (err error) {
	w, err := newHangingWorld()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	config := configuration("inet:127.0.0.1:8689", "deadline = \"3s\"", "", "off") +
		"[probe]\ntimeout = \"10s\"\nconcurrency = 256\n[cache]\nunknown = \"1s\"\n"
	daemon, err := b.daemon(ctx, "latency", config, "127.0.0.1:8689")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.stop()) }()
	if _, err := sendAt("127.0.0.1:8689", 200, latencyDestinations, 1); err != nil { // every destination once: the good ones are known then
		return err
	}
	for _, rate := range []int{200, 1000} {
		calm, err := sendAt("127.0.0.1:8689", rate, b.count(10*rate), 0)
		if err != nil {
			return err
		}
		for _, every := range []int{0, 1} {
			what, got := "all well", calm
			if every == 1 {
				what = "5 % hang"
				if got, err = sendAt("127.0.0.1:8689", rate, b.count(10*rate), 1); err != nil {
					return fmt.Errorf("%w\n%s", err, daemon.said())
				}
			}
			r := row{part: "latency", what: fmt.Sprintf("answers to RCPT, %d messages/s, %s", rate, what),
				figure: "p50 " + quantile(got.well, 0.5) + ", p99 " + quantile(got.well, 0.99) + ", p99.9 " + quantile(got.well, 0.999)}
			if every == 1 {
				r.against = "all well: p99 " + quantile(calm.well, 0.99)
				r.figure += fmt.Sprintf("; %d that hang: at most %s", len(got.hung), quantile(got.hung, 1))
				r.goal = "hanging: by the deadline, 3 s"
				r.missed = len(got.hung) > 0 && slices.Max(got.hung) > 3500*time.Millisecond
			}
			b.report.add(r)
		}
	}
	return nil
}

func quantile(times []time.Duration, q float64) string {
	if len(times) == 0 {
		return "-"
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(10 * time.Microsecond).String()
}

func newHangingWorld() (*farWorld, error) {
	w := &farWorld{}
	ca, err := testnet.NewCA()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.provider.example"}})
	if err != nil {
		return nil, err
	}
	good, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "127.0.4.1:25", Name: "mx.provider.example", TLS: testnet.ServerTLS(cert, 0, 0)})
	if err != nil {
		return nil, err
	}
	w.hosts = append(w.hosts, good)
	var zone strings.Builder
	zone.WriteString("mx.provider.example. 3600 IN A 127.0.4.1\n")
	for i := range latencyDestinations {
		name := fmt.Sprintf("d%d.example", i)
		if i%hangs != 0 {
			fmt.Fprintf(&zone, "%s. 3600 IN MX 10 mx.provider.example.\n", name)
			continue
		}
		at := fmt.Sprintf("127.0.5.%d", i/hangs+1)
		host, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: at + ":25", Name: "mx." + name, Fault: testnet.HangConnect})
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.hosts = append(w.hosts, host)
		fmt.Fprintf(&zone, "%s. 3600 IN MX 10 mx.%s.\nmx.%s. 3600 IN A %s\n", name, name, name, at)
	}
	if w.dns, err = testnet.StartDNS("127.0.0.1:53", zone.String()); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// answers are how long recipients waited, where the destination is well and where it hangs.
type answers struct {
	well, hung []time.Duration
}

// sendAt sends n messages to all destinations in turn, rate a second. With bad 0 those that hang are left out.
func sendAt(address string, rate, n, bad int) (answers, error) {
	var mu sync.Mutex
	var got answers
	var failed error
	var idle []*testnet.MTA
	defer func() {
		for _, m := range idle {
			m.Close()
		}
	}()
	var group sync.WaitGroup
	start := time.Now()
	for i := range n {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		to := i % latencyDestinations
		hang := to%hangs == 0
		if hang && bad == 0 {
			to, hang = to+1, false
		}
		group.Go(func() {
			mu.Lock()
			var m *testnet.MTA
			if len(idle) > 0 {
				m, idle = idle[len(idle)-1], idle[:len(idle)-1]
			}
			mu.Unlock()
			var err error
			if m == nil {
				m, err = testnet.DialMilter(address)
			}
			var answer string
			if err == nil {
				answer, err = m.Ask(protected, fmt.Sprintf("user@d%d.example", to))
			}
			if err == nil && (answer == "c") == hang {
				err = fmt.Errorf("d%d.example: answer %q", to, answer)
			}
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failed = err
				if m != nil {
					m.Close()
				}
				return
			case hang:
				got.hung = append(got.hung, took)
			default:
				got.well = append(got.well, took)
			}
			idle = append(idle, m)
		})
	}
	group.Wait()
	return got, failed
}
