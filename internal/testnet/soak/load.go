package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

const (
	milterAddress = "127.0.0.1:8689"
	mapsAddress   = "127.0.0.1:8690"
	httpAddress   = "127.0.0.1:8691"

	domains  = 300
	sessions = 20
)

// configuration makes all that is known old after seconds, so that looks never end.
const configuration = `[milter]
listen = "inet:` + milterAddress + `"
deadline = "2s"
[socketmap]
listen = "inet:` + mapsAddress + `"
[http]
listen = "` + httpAddress + `"
[dns]
resolver = "127.0.0.1:53"
[probe]
helo = "mail.clinic.example"
timeout = "1s"
confirm = "100ms"
[cache]
success = "5s"
failure = "3s"
unknown = "1s"
[store]
url = "sqlite://%s"
[[rule]]
name = "clinic"
from = ["@clinic.example"]
tls = "encrypt"
`

// counts is what was done.
type counts struct {
	answers, refused, later, lookups, reloads, garbage, silent atomic.Int64
}

// figures is what the daemon says of itself.
type figures struct {
	resident, heap, goroutines, descriptors float64
}

type soak struct {
	dns    *testnet.DNS
	hosts  []*testnet.SMTP
	cmd    *exec.Cmd
	dir    string
	file   string
	done   *counts
	faults []testnet.Fault // by domain
}

// newSoak starts a world in which every fault of a mail host is met, half of it well, and the daemon.
func newSoak(ctx context.Context, binary string) (_ *soak, err error) {
	s := &soak{done: &counts{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	ca, err := testnet.NewCA()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Issue(testnet.CertSpec{Names: []string{"mx.provider.example"}})
	if err != nil {
		return nil, err
	}
	faults := testnet.Faults()
	var zone strings.Builder
	for i := range 2 * len(faults) {
		fault := testnet.NoFault
		if i%2 == 1 {
			fault = faults[i/2]
		}
		at := fmt.Sprintf("127.0.7.%d", i+1)
		host, err := testnet.StartSMTP(testnet.SMTPConfig{
			Listen: at + ":25", Name: "mx.provider.example", TLS: testnet.ServerTLS(cert, 0, 0), Fault: fault,
		})
		if err != nil {
			return nil, err
		}
		s.hosts, s.faults = append(s.hosts, host), append(s.faults, fault)
		fmt.Fprintf(&zone, "mx%d.provider.example. 60 IN A %s\n", i, at)
	}
	for i := range domains {
		fmt.Fprintf(&zone, "d%d.example. 60 IN MX 10 mx%d.provider.example.\n", i, i%len(s.hosts))
	}
	if s.dns, err = testnet.StartDNS("127.0.0.1:53", zone.String()); err != nil {
		return nil, err
	}
	if s.dir, err = rig.TempDir(); err != nil {
		return nil, err
	}
	s.file = filepath.Join(s.dir, "tlsonly.toml")
	if err := s.write(""); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, "serve", "-c", s.file)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.cmd = cmd
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if _, err = s.figures(ctx); err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w\n%s", err, s.said())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// write replaces the configuration, with more at its end.
func (s *soak) write(more string) error {
	text := fmt.Sprintf(configuration, filepath.Join(s.dir, "state", "tlsonly.db")) + more
	if err := os.WriteFile(s.file+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(s.file+".new", s.file)
}

// said is the end of the daemon's log.
func (s *soak) said() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log")) // unreadable: then it said nothing we can tell
	return string(text[max(0, len(text)-3000):])
}

func (s *soak) close() error {
	var errs []error
	if s.cmd != nil {
		errs = append(errs, s.cmd.Process.Signal(syscall.SIGTERM), s.cmd.Wait())
	}
	if s.dns != nil {
		errs = append(errs, s.dns.Close())
	}
	for _, h := range s.hosts {
		errs = append(errs, h.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// figures asks the daemon's metrics.
func (s *soak) figures(ctx context.Context) (figures, error) {
	var f figures
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+httpAddress+"/metrics", nil)
	if err != nil {
		return f, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return f, err
	}
	defer resp.Body.Close()
	wanted := map[string]*float64{"process_resident_memory_bytes": &f.resident, "go_memstats_heap_inuse_bytes": &f.heap,
		"go_goroutines": &f.goroutines, "process_open_fds": &f.descriptors}
	found := 0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if to := wanted[name]; to != nil {
			if *to, err = strconv.ParseFloat(value, 64); err != nil {
				return f, err
			}
			found++
		}
	}
	if err := lines.Err(); err != nil {
		return f, err
	}
	if found != len(wanted) {
		return f, fmt.Errorf("%d of %d figures in the metrics, status %s", found, len(wanted), resp.Status)
	}
	return f, nil
}

// rest returns the figures when the daemon has come to rest: looks under way have ended and idle connections are gone. It is over
// when nothing has become less for a while.
func (s *soak) rest(ctx context.Context) (figures, error) {
	best, err := s.figures(ctx)
	for calm := 0; err == nil && calm < 10; calm++ {
		select {
		case <-ctx.Done():
			return best, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		var now figures
		if now, err = s.figures(ctx); now.goroutines < best.goroutines || now.descriptors < best.descriptors || now.heap < 0.95*best.heap {
			calm = 0
		}
		best = figures{min(best.resident, now.resident), min(best.heap, now.heap), min(best.goroutines, now.goroutines),
			min(best.descriptors, now.descriptors)}
	}
	return best, err
}

// load lasts so long. The first wrong answer ends it.
func (s *soak) load(ctx context.Context, length time.Duration) error {
	over, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	errs := make(chan error, 2*sessions+4)
	var group sync.WaitGroup
	every := func(pause time.Duration, f func() error) {
		group.Go(func() {
			for over.Err() == nil {
				if err := f(); err != nil {
					errs <- err
					cancel()
					return
				}
				select {
				case <-over.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	for range sessions {
		every(20*time.Millisecond, s.messages)
	}
	for range 4 {
		every(20*time.Millisecond, s.questions)
	}
	reloads := 0
	every(time.Second, func() error {
		reloads++
		more := ""
		if reloads%3 == 2 {
			more = "[[rule]\n"
		}
		s.done.reloads.Add(1)
		return errors.Join(s.write(more), s.cmd.Process.Signal(syscall.SIGHUP))
	})
	every(50*time.Millisecond, s.garbage)
	var silent []net.Conn
	every(100*time.Millisecond, func() error {
		conn, err := net.Dial("tcp", milterAddress)
		if err == nil {
			s.done.silent.Add(1)
			silent = append(silent, conn)
		}
		if len(silent) > 100 {
			silent[0].Close()
			silent = silent[1:]
		}
		return err
	})
	group.Wait()
	for _, conn := range silent {
		conn.Close()
	}
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// messages sends some over one connection.
func (s *soak) messages() error {
	m, err := testnet.DialMilter(milterAddress)
	if err != nil {
		return err
	}
	defer m.Close()
	for range 1 + rand.IntN(10) {
		if rand.IntN(4) == 0 {
			if got, err := m.Mail("news@shop.example"); err != nil || got != "a" {
				return fmt.Errorf("an unprotected sender: %q, %w", got, err)
			}
			continue
		}
		if got, err := m.Mail("doctor@clinic.example"); err != nil || got != "c" {
			return fmt.Errorf("a protected sender: %q, %w", got, err)
		}
		for range 1 + rand.IntN(3) {
			n := rand.IntN(domains)
			fault := s.faults[n%len(s.hosts)]
			if quick := rand.IntN(10) > 0; quick && fault != testnet.NoFault {
				n -= n%len(s.hosts) - n%len(s.hosts)/2*2 // the good host beside it
				fault = s.faults[n%len(s.hosts)]
			}
			got, err := m.Rcpt(fmt.Sprintf("u%d@d%d.example", rand.IntN(1000), n))
			switch {
			case err != nil:
				return fmt.Errorf("a recipient: %w", err)
			case strings.HasPrefix(got, "y5"):
				s.done.refused.Add(1)
			case strings.HasPrefix(got, "y4"):
				s.done.later.Add(1)
			case got != "c":
				return fmt.Errorf("a recipient: %q", got)
			}
			if fault == testnet.NoSTARTTLS && got == "c" || fault == testnet.NoFault && strings.HasPrefix(got, "y5") {
				return fmt.Errorf("a host with fault %q: %q", fault, got)
			}
			s.done.answers.Add(1)
		}
		if rand.IntN(2) == 0 {
			continue // given up before its end
		}
		got, err := m.Say('E', "")
		if err != nil {
			return fmt.Errorf("end of a message: %w", err)
		}
		if got[0] != 'a' && got[0] != 't' && got[0] != 'y' && strings.IndexByte("hmeiq+2", got[0]) < 0 {
			return fmt.Errorf("end of a message: %q", got)
		}
		return nil // more answers may follow, which nobody reads
	}
	return nil
}

// questions asks the maps over one connection.
func (s *soak) questions() error {
	conn, err := net.Dial("tcp", mapsAddress)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	for range 20 {
		n := rand.IntN(domains)
		questions := []string{"sender doctor@clinic.example", "sender news@shop.example", fmt.Sprintf("forced1 d%d.example", n),
			fmt.Sprintf("policy d%d.example", n)}
		question := questions[rand.IntN(len(questions))]
		if _, err := fmt.Fprintf(conn, "%d:%s,", len(question), question); err != nil {
			return err
		}
		length, err := in.ReadString(':')
		if err != nil {
			return fmt.Errorf("%s: %w", question, err)
		}
		size, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
		if err != nil {
			return fmt.Errorf("%s: %w", question, err)
		}
		text := make([]byte, size+1)
		if _, err := io.ReadFull(in, text); err != nil {
			return fmt.Errorf("%s: %w", question, err)
		}
		if answer := string(text[:size]); strings.HasPrefix(question, "sender doctor") && answer != "OK tlsonly1:" {
			return fmt.Errorf("%s: %q", question, answer)
		}
		s.done.lookups.Add(1)
	}
	return nil
}

// garbage sends what is no packet and no question.
func (s *soak) garbage() error {
	for _, address := range []string{milterAddress, mapsAddress} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		junk := make([]byte, 1+rand.IntN(500))
		for i := range junk {
			junk[i] = byte(rand.Uint32())
		}
		_, _ = conn.Write(junk) // may be cut in the middle
		conn.Close()
		s.done.garbage.Add(1)
	}
	return nil
}
