package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/config"
	"tlsonly/internal/destination"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// checked is the answer for one destination, and a line of check --json.
// tlsonly-check(8) documents every field, down to the last.
type checked struct {
	Destination string `json:"destination"`
	judge.Report
	// Resolver says why nothing can be seen of DNSSEC, and so of DANE, from here.
	Resolver   string             `json:"resolver_problem,omitempty"`
	Assessment *policy.Assessment `json:"assessment,omitempty"`
	Error      string             `json:"error,omitempty"` // the destination can't be read
	// Of an address: whose it is, and which methods can encrypt to it without TLS.
	Recipient string          `json:"recipient,omitempty"`
	Methods   []checkedMethod `json:"methods,omitempty"`
}

func (p *program) check(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	file := configFlag(fs)
	asJSON := fs.Bool("json", false, "answer in JSON, one object a line for each destination")
	level := fs.String("tls", "encrypt", "`LEVEL` that the exit status is about: none, may, encrypt, secure or dane")
	minVersion := fs.String("min-version", "1.2", "lowest TLS `VERSION` that counts: 1.0 to 1.3")
	minBits := fs.Int("min-bits", 128, "weakest cipher that counts, in `BITS`")
	watch := fs.Bool("watch", false, "probe again until interrupted, and show what is new")
	every := fs.Duration("every", 30*time.Second, "time between two rounds of --watch")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) == 0 {
		return p.fail("check needs a destination: a domain, [host], either with :port, an address, or - to read a list")
	}
	demand := policy.DefaultDemand()
	demand.MinBits = *minBits
	var err error
	if demand.Level, err = policy.ParseLevel(*level); err != nil {
		return p.fail("--tls: %v", err)
	}
	if demand.MinVersion, err = policy.ParseVersion(*minVersion); err != nil {
		return p.fail("--min-version: %v", err)
	}
	if *every < time.Second {
		return p.fail("--every %s: want a second or more", *every)
	}
	names, err := p.destinations(rest)
	if err != nil {
		return p.fail("%v", err)
	}
	c, ok := p.load(*file, true)
	if !ok {
		return exitUsage
	}
	if code, done := p.asDaemon(ctx, c, *file, append([]string{"check"}, args...)...); done {
		return code
	}
	assessor, err := newEngine(c, slog.New(slog.DiscardHandler), nil, func(e *engine, d *destination.Config) {
		d.AllAddresses, d.Versions, d.Confirm = true, e.prober.Versions, 0
	})
	if err != nil {
		return p.fail("%v", err)
	}
	defer assessor.Close()
	keyed, stop, err := keyLookups(ctx, c, names)
	if err != nil {
		return p.fail("%v", err)
	}
	defer stop()

	one := func(name string, resolver func() string) checked {
		d, to, err := asked(c, name)
		if err != nil {
			return checked{Destination: name, Report: judge.Report{Demanded: demand.Level}, Error: err.Error()}
		}
		methods := keyed(to)
		a := assessor.Refresh(ctx, d, 0)
		problem := ""
		if !d.Host().IsLiteral() {
			problem = resolver()
		}
		r := checkedAs(a, demand, problem)
		if !to.IsNull() {
			r.Recipient, r.Methods = to.String(), methods()
		}
		return r
	}
	told := "" // of the resolver, which is the same for all
	print := func(r checked) {
		if r.Resolver != "" && told != r.Resolver {
			told = r.Resolver
			fmt.Fprintf(p.stdout, "our resolver: %s\n",
				paint(terminal(p.stdout), yellow, clean(told)+"; so DNSSEC and DANE can't be seen from here"))
		}
		r.print(page{w: p.stdout, colour: terminal(p.stdout), now: time.Now()})
	}
	if *asJSON {
		enc := json.NewEncoder(p.stdout)
		print = func(r checked) { _ = enc.Encode(r) }
	}
	look := func(print func(checked)) int {
		resolver := askResolver(ctx, c)
		return p.inOrder(ctx, names, func(name string) checked { return one(name, resolver) }, print)
	}
	if !*watch {
		return look(print)
	}
	tell := news(func(r checked) {
		if !*asJSON {
			fmt.Fprintln(p.stdout, time.Now().Format(time.DateTime))
		}
		print(r)
	})
	return p.watch(ctx, *every, func() int { return look(tell) })
}

// resolverGrace is how long a look that is over waits for what our resolver is worth, which was asked at the same time.
const resolverGrace = time.Second

// askResolver asks what our resolver's word on DNSSEC is worth, and returns a function that says it: why it's worth nothing, ""
// where it is worth something or that isn't known in time.
func askResolver(ctx context.Context, c *config.Config) func() string {
	if c.DNS.DNSSEC == "off" {
		return func() string { return `[dns] dnssec is "off"` }
	}
	ctx, cancel := context.WithCancel(ctx)
	said := make(chan string, 1)
	go func() {
		problem := disbelief(ctx, c, seesSigned)
		if ctx.Err() != nil {
			problem = ""
		}
		said <- problem
	}()
	return sync.OnceValue(func() string {
		defer cancel()
		late := time.AfterFunc(resolverGrace, cancel)
		defer late.Stop()
		return <-said
	})
}

// watch looks again and again until ctx ends, and returns the exit status of the last look that was finished.
func (p *program) watch(ctx context.Context, every time.Duration, look func() int) int {
	tick := time.NewTicker(every)
	defer tick.Stop()
	code := look()
	for {
		select {
		case <-ctx.Done():
			return code
		case <-tick.C:
			if last := look(); ctx.Err() == nil {
				code = last
			}
		}
	}
}

// destinations gives the arguments, with "-" replaced by the lines of standard input.
func (p *program) destinations(args []string) ([]string, error) {
	var names []string
	for _, arg := range args {
		if arg != "-" {
			names = append(names, arg)
			continue
		}
		in := bufio.NewScanner(p.stdin)
		for in.Scan() {
			line, _, _ := strings.Cut(in.Text(), "#")
			names = append(names, strings.Fields(line)...)
		}
		if err := in.Err(); err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
	}
	return names, nil
}

// checkers is how many destinations are assessed at the same time; what is probed at once is limited by [probe].
const checkers = 256

// inOrder works on all names at the same time, prints the answers in the order given and returns the exit status.
func (p *program) inOrder(ctx context.Context, names []string, one func(string) checked, print func(checked)) int {
	results := make([]chan checked, len(names))
	for i := range results {
		results[i] = make(chan checked, 1)
	}
	progress := newProgress(p.stderr, len(names), terminal(p.stderr) && len(names) > 1)
	work := make(chan int)
	var wg sync.WaitGroup
	for range min(checkers, len(names)) {
		wg.Go(func() {
			for i := range work {
				results[i] <- one(names[i])
				progress.step()
			}
		})
	}
	go func() {
		defer close(work)
		for i := range names {
			select {
			case work <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer wg.Wait()

	code := exitOK
	for i := range names {
		select {
		case r := <-results[i]:
			if ctx.Err() != nil {
				return exitUnknown // what was found out at the end was not found out
			}
			progress.pause(func() { print(r) })
			code = worse(code, r.exit())
		case <-ctx.Done():
			return exitUnknown
		}
	}
	progress.clear()
	return code
}

// worse orders exit statuses: usage, then no, then not known, then ok.
func worse(a, b int) int {
	for _, code := range []int{exitUsage, exitNo, exitUnknown} {
		if a == code || b == code {
			return code
		}
	}
	return exitOK
}

func (c checked) exit() int {
	switch {
	case c.Error != "":
		return exitUsage
	case c.Satisfied:
		return exitOK
	case c.Reason.Unknown():
		return exitUnknown
	}
	return exitNo
}

// checkedAs is the answer for an assessment. resolver says why nothing can be
// said of DNSSEC from here, "" where it can.
func checkedAs(a policy.Assessment, demand policy.Demand, resolver string) checked {
	return checked{Destination: a.Destination.String(), Report: judge.ReportOn(demand, a, resolver != ""),
		Resolver: resolver, Assessment: &a}
}
