package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

//go:embed libmilter/nullmilter.c
var nullMilter string

const (
	protected   = "doctor@clinic.example"
	unprotected = "news@shop.example"
	recipient   = "user@good.example"
)

// way is one way for Postfix to take mail.
type way struct {
	name string
	from string
	runs *process // the milter; nil: none
}

// accept lets Postfix take mail with one milter after the other in front of it, and throw it away. The transport that throws it
// away bears the name of a forced one, so that the daemon decides about the destination as it would for one.
func accept(ctx context.Context, b *bench) (err error) {
	var stops []func() error
	defer func() {
		for i := range stops {
			err = errors.Join(err, stops[len(stops)-1-i]())
		}
	}()
	world, err := testnet.StartWorld("127.0.0.1:53", 25, []testnet.Site{{Domain: "good.example", Hosts: []testnet.Host{{}}}})
	if err != nil {
		return err
	}
	stops = append(stops, world.Close)
	program, err := b.compileNull(ctx)
	if err != nil {
		return err
	}
	sockets, err := socketDir(b.dir)
	if err != nil {
		return err
	}
	dkim := filepath.Join(b.dir, "opendkim.conf")
	text := fmt.Sprintf("Mode v\nSyslog no\nUserID root\nUMask 000\nNameservers 127.0.0.1\nSocket local:%s/dkim\n"+
		"TemporaryDirectory %s\n", sockets, b.dir)
	if err := os.WriteFile(dkim, []byte(text), 0o644); err != nil {
		return err
	}
	near := filepath.Join(sockets, "tlsonly")
	milters := []string{"", "all", "envelope", "edits", "dkim", "tlsonly", "tlsonly", "inet:127.0.0.1:8883", "inet:127.0.0.1:8689", "mail"}
	// Postfix's own smtpd isn't used; master.cf has one more for each way.
	services := []string{"tlsonly1 unix - - n - - discard"}
	for i, m := range milters {
		options := ""
		switch {
		case strings.HasPrefix(m, "inet:"):
			options = " -o smtpd_milters=" + m
		case m != "":
			options = " -o smtpd_milters=unix:" + filepath.Join(sockets, m)
		}
		services = append(services, fmt.Sprintf("127.0.0.1:%d inet n - n - 40 smtpd%s", firstPort+i, options))
	}
	postfix, err := rig.StartPostfix(ctx, rig.PostfixConfig{Master: services, Main: map[string]string{
		"default_transport":                   "tlsonly1:",
		"milter_default_action":               "tempfail",
		"smtpd_client_connection_count_limit": "0",
		"in_flow_delay":                       "0",
	}})
	if err != nil {
		return err
	}
	stops = append(stops, postfix.Stop)

	var failed error
	started := func(p *process, err error) *process {
		if err == nil {
			stops = append(stops, p.stop)
		}
		failed = errors.Join(failed, err)
		return p
	}
	run := func(address, name string, args ...string) *process {
		cmd := exec.Command(name, args...)
		cmd.Env = b.env
		return started(b.start(ctx, cmd, address))
	}
	serve := func(name, listen, address string) *process {
		return started(b.daemon(ctx, name, configuration(listen, "", "", postfix.Etc), address))
	}
	null := func(mode string) *process {
		socket := filepath.Join(sockets, mode)
		return run(socket, program, mode, "unix:"+socket)
	}
	daemon := serve("near", "unix:"+near, near)
	ways := []way{
		{"no milter", protected, nil},
		{"C milter, every event", protected, null("all")},
		{"C milter, MAIL RCPT end", protected, null("envelope")},
		{"C milter, the same events and edits", protected, null("edits")},
		{"opendkim, verifying", protected, run(sockets+"/dkim", filepath.Join(b.tools, "usr/sbin/opendkim"), "-f", "-x", dkim)},
		{"tlsonly, unprotected sender", unprotected, daemon},
		{"tlsonly, protected sender", protected, daemon},
		{"C milter, MAIL RCPT end, TCP", protected, run("127.0.0.1:8883", program, "envelope", "inet:8883@127.0.0.1")},
		{"tlsonly, protected sender, TCP", protected, serve("far", "inet:127.0.0.1:8689", "127.0.0.1:8689")},
		{"C milter, MAIL only, which lets go", unprotected, null("mail")},
	}
	if failed != nil {
		return failed
	}
	for _, l := range []load{{1, false}, {20, false}, {20, true}} {
		if err := b.acceptWith(ctx, postfix, ways, l); err != nil {
			return err
		}
	}
	if n := len(world.Messages("good.example")); n != 0 {
		return fmt.Errorf("%d messages were delivered", n)
	}
	if n := world.Hosts("good.example")[0].Connections(); n == 0 {
		return errors.New("the daemon looked at nothing")
	}
	return nil
}

// slowWay is the one that waits 40 ms for each answer, for libmilter writes in pieces and leaves Nagle's algorithm on.
const slowWay = 7

// firstPort is that of the smtpd for the first way.
const firstPort = 2501

// socketDir makes a directory whose sockets Postfix may connect to: they get its group.
func socketDir(parent string) (string, error) {
	dir := filepath.Join(parent, "sockets")
	group, err := user.LookupGroup("postfix")
	if err != nil {
		return "", err
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return "", err
	}
	return dir, errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, -1, gid), os.Chmod(dir, 0o755|os.ModeSetgid))
}

func (b *bench) compileNull(ctx context.Context) (string, error) {
	source, program := filepath.Join(b.dir, "nullmilter.c"), filepath.Join(b.dir, "nullmilter")
	if err := os.WriteFile(source, []byte(nullMilter), 0o644); err != nil {
		return "", err
	}
	libraries, err := filepath.Glob(filepath.Join(b.tools, "usr/lib/*-linux-gnu*"))
	if err != nil || len(libraries) == 0 {
		return "", errors.Join(errors.New("no libmilter in "+b.tools), err)
	}
	_, err = output(exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-Wextra", "-I"+filepath.Join(b.tools, "usr/include"), "-o", program, source,
		"-L"+libraries[0], "-lmilter", "-pthread"))
	return program, err
}

// load is how messages come: over so many sessions at the same time, each message in one of its own, or all one after the other.
type load struct {
	sessions int
	reuse    bool
}

func (l load) String() string {
	switch {
	case l.sessions == 1:
		return "1 session at a time"
	case l.reuse:
		return fmt.Sprintf("%d sessions of many messages", l.sessions)
	}
	return fmt.Sprintf("%d sessions at a time", l.sessions)
}

// acceptWith sends messages, each way in turn, round after round.
func (b *bench) acceptWith(ctx context.Context, postfix *rig.Postfix, ways []way, l load) error {
	sessions := l.sessions
	messages := b.count(2000)
	if sessions == 1 {
		messages = b.count(1000)
	}
	rates, costs := make([][]float64, len(ways)), make([][]float64, len(ways))
	for round := range b.rounds + 1 {
		for i, w := range ways {
			n := messages
			if round == 0 || sessions == 1 && i == slowWay {
				n = max(sessions, messages/10) // to warm up
			}
			var before, after time.Duration
			var err error
			if w.runs != nil {
				if before, err = w.runs.cpu(); err != nil {
					return fmt.Errorf("%s: %w: %s", w.name, err, w.runs.said())
				}
			}
			args := []string{"-s", strconv.Itoa(sessions), "-m", strconv.Itoa(n), "-l", "2000", "-f", w.from, "-t", recipient}
			if l.reuse {
				args = append(args, "-d")
			}
			source, err := postfix.Command(ctx, "smtp-source", append(args, net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+i)))...)
			if err != nil {
				return err
			}
			start := time.Now()
			if _, err := output(source); err != nil {
				return fmt.Errorf("%s: %w\n%s", w.name, err, strings.Join(postfix.LogLines("warning"), "\n"))
			}
			took := time.Since(start)
			if w.runs != nil {
				if after, err = w.runs.cpu(); err != nil {
					return fmt.Errorf("%s: %w: %s", w.name, err, w.runs.said())
				}
			}
			if round > 0 {
				rates[i] = append(rates[i], float64(n)/took.Seconds())
				costs[i] = append(costs[i], float64((after-before).Microseconds())/float64(n))
			}
			if err := drained(ctx, postfix); err != nil {
				return err
			}
		}
	}
	for i, w := range ways {
		r := row{part: "accept", what: fmt.Sprintf("%s, %s", w.name, l),
			figure: fmt.Sprintf("%.0f messages/s (%s)", median(rates[i]), spread(rates[i]))}
		if w.runs != nil {
			r.figure += fmt.Sprintf(", %.0f µs CPU each", median(costs[i]))
		}
		b.report.add(r)
	}
	compare := func(what string, one, other int, goal float64) {
		var ratios []float64
		for round := range b.rounds {
			ratios = append(ratios, rates[one][round]/rates[other][round])
		}
		r := row{part: "accept", what: fmt.Sprintf("%s, %s", what, l), figure: fmt.Sprintf("%.0f messages/s", median(rates[one])),
			against: fmt.Sprintf("%s: %.0f", ways[other].name, median(rates[other])), ratio: fmt.Sprintf("%.2f", median(ratios))}
		if goal > 0 {
			r.goal, r.missed = fmt.Sprintf("at least %.2f", goal), median(ratios) < goal
		}
		b.report.add(r)
	}
	compare("protected", 6, 2, 0.97)
	compare("protected", 6, 3, 0)
	compare("protected", 6, 1, 1.2)
	compare("protected, TCP", 8, 7, 0)
	compare("protected", 6, 4, 0)
	compare("unprotected", 5, 0, 0.9)
	compare("unprotected", 5, 9, 0)
	compare("C milter, MAIL only", 9, 0, 0)
	compare("C milter, the same events and edits", 3, 2, 0)
	return nil
}

// drained waits until Postfix has thrown away what it took, so that the next does not pay for it.
func drained(ctx context.Context, postfix *rig.Postfix) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		left := 0
		for _, queue := range []string{"incoming", "active"} {
			err := filepath.WalkDir(filepath.Join(postfix.Dir, "queue", queue), func(_ string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					left++
				}
				return nil // one that was there is gone
			})
			if err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d messages stay in the queue", left)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
