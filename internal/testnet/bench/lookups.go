package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tlsonly/internal/testnet"
)

// netstring is a question or an answer as it is sent.
func netstring(text string) string { return strconv.Itoa(len(text)) + ":" + text + "," }

// readNetstring reads one answer.
func readNetstring(conn net.Conn, buf []byte) (string, error) {
	n := 0
	for {
		m, err := conn.Read(buf[n:])
		if err != nil {
			return "", err
		}
		n += m
		length, rest, ok := strings.Cut(string(buf[:n]), ":")
		if !ok {
			continue
		}
		want, err := strconv.Atoi(length)
		if err != nil || want > len(buf)-8 {
			return "", fmt.Errorf("answer %q", buf[:n])
		}
		if len(rest) > want {
			return rest[:want], nil
		}
	}
}

// constantAnswer is what the server answers that looks at nothing.
const constantAnswer = "OK secure match=mx1.sts.example servername=hostname"

// serveConstant answers every question alike, however it reads, until it can't.
func serveConstant(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			buf, answer := make([]byte, 4096), []byte(netstring(constantAnswer))
			for {
				if _, err := conn.Read(buf); err != nil {
					return
				}
				if _, err := conn.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// server is one that is asked.
type server struct {
	name, address, question, begins string
}

// lookups asks the daemon's maps, Debian's resolver of MTA-STS policies and a server that always says the same, in turn.
func lookups(ctx context.Context, b *bench) (err error) {
	var stops []func() error
	defer func() {
		for i := range stops {
			err = errors.Join(err, stops[len(stops)-1-i]())
		}
	}()
	sites := []testnet.Site{{Domain: "sts.example", Hosts: []testnet.Host{{}}}}
	world, err := testnet.StartWorld("127.0.0.1:53", 25, sites)
	if err != nil {
		return err
	}
	stops = append(stops, world.Close)
	sts, err := testnet.StartSTS("127.0.0.1:443", world.CA)
	if err != nil {
		return err
	}
	stops = append(stops, sts.Close)
	sts.SetPolicy("sts.example", "version: STSv1\nmode: enforce\nmx: mx1.sts.example\nmax_age: 604800\n")
	if err := world.AddRecords("_mta-sts.sts.example. 60 IN TXT \"v=STSv1; id=1\"\nmta-sts.sts.example. 60 IN A 127.0.0.1\n"); err != nil {
		return err
	}
	root, settings := filepath.Join(b.dir, "ca.pem"), filepath.Join(b.dir, "mta-sts.yml")
	text := "host: 127.0.0.1\nport: 8461\ncache:\n  type: internal\n  options:\n    cache_size: 10000\n" +
		"default_zone:\n  strict_testing: false\n  timeout: 4\n"
	if err := errors.Join(os.WriteFile(root, world.CA.PEM(), 0o644), os.WriteFile(settings, []byte(text), 0o644)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	constant, err := b.start(ctx, exec.Command(self, "constant", "127.0.0.1:8462"), "127.0.0.1:8462")
	if err != nil {
		return err
	}
	stops = append(stops, constant.stop)
	resolver := exec.Command("/usr/bin/python3", filepath.Join(b.tools, "usr/bin/mta-sts-daemon"), "-c", settings)
	resolver.Env = append(b.env, "SSL_CERT_FILE="+root)
	debian, err := b.start(ctx, resolver, "127.0.0.1:8461")
	if err != nil {
		return err
	}
	stops = append(stops, debian.stop)
	config := configuration("inet:127.0.0.1:8689", "", "inet:127.0.0.1:8690", "off") + fmt.Sprintf("[probe]\nca_file = %q\n", root)
	daemon, err := b.daemon(ctx, "lookups", config, "127.0.0.1:8690")
	if err != nil {
		return err
	}
	stops = append(stops, daemon.stop)

	servers := []server{
		{"constant server in Go", "127.0.0.1:8462", "policy sts.example", "OK secure"},
		{"postfix-mta-sts-resolver", "127.0.0.1:8461", "postfix sts.example", "OK secure"},
		{"tlsonly, forced1", "127.0.0.1:8690", "forced1 sts.example", "OK secure"},
		{"tlsonly, policy", "127.0.0.1:8690", "policy sts.example", "OK secure"},
		{"tlsonly, sender", "127.0.0.1:8690", "sender " + protected, "OK tlsonly1:"},
	}
	for _, connections := range []int{1, 64} {
		rates := make([][]float64, len(servers))
		for round := range b.rounds + 1 {
			for i, s := range servers {
				limit := time.Duration(2 * b.scale * float64(time.Second))
				if round == 0 {
					limit /= 10
				}
				rate, err := ask(s, connections, limit)
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				if round > 0 {
					rates[i] = append(rates[i], rate)
				}
			}
		}
		for i, s := range servers {
			r := row{part: "lookups", what: fmt.Sprintf("%s, %d connections", s.name, connections),
				figure: fmt.Sprintf("%.0f answers/s (%s)", median(rates[i]), spread(rates[i]))}
			if i > 0 {
				ratio := median(rates[i]) / median(rates[0])
				r.against, r.ratio = fmt.Sprintf("constant: %.0f", median(rates[0])), fmt.Sprintf("%.2f", ratio)
				if i > 1 {
					r.goal, r.missed = "at least 0.90", ratio < 0.9
				}
			}
			b.report.add(r)
		}
		b.report.add(row{part: "lookups", what: fmt.Sprintf("tlsonly, policy, %d connections", connections),
			figure:  fmt.Sprintf("%.0f answers/s", median(rates[3])),
			against: fmt.Sprintf("%s: %.0f", servers[1].name, median(rates[1])), ratio: fmt.Sprintf("%.1f", median(rates[3])/median(rates[1]))})
	}
	return nil
}

// ask puts one question after the other over each connection until the time is over, and returns the answers a second.
func ask(s server, connections int, limit time.Duration) (float64, error) {
	conns := make([]net.Conn, connections)
	question := []byte(netstring(s.question))
	for i := range conns {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(limit + time.Minute)); err != nil {
			return 0, err
		}
		conns[i] = conn
		if _, err := conn.Write(question); err != nil {
			return 0, err
		}
		answer, err := readNetstring(conn, make([]byte, 512))
		if err != nil {
			return 0, err
		}
		if !strings.HasPrefix(answer, s.begins) {
			return 0, fmt.Errorf("%s: answer %q, want %q …", s.question, answer, s.begins)
		}
	}
	var answers atomic.Int64
	errs := make(chan error, connections)
	var group sync.WaitGroup
	start := time.Now()
	for _, conn := range conns {
		group.Go(func() {
			n, buf := 0, make([]byte, 512)
			defer func() { answers.Add(int64(n)) }()
			for time.Since(start) < limit {
				if _, err := conn.Write(question); err != nil {
					errs <- err
					return
				}
				got, err := conn.Read(buf)
				// Answers are shorter than a segment, and come whole.
				if err == nil && buf[got-1] != ',' {
					err = io.ErrUnexpectedEOF
				}
				if err != nil {
					errs <- err
					return
				}
				n++
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	close(errs)
	return float64(answers.Load()) / took.Seconds(), errors.Join(<-errs)
}
