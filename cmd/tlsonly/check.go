package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// checked is the answer for one destination, and a line of check --json.
type checked struct {
	Destination string             `json:"destination"`
	Level       policy.Level       `json:"level"`            // the highest that is reached
	Asked       policy.Level       `json:"asked"`            // --tls
	Satisfied   bool               `json:"satisfied"`        // whether Asked is
	Reason      policy.Reason      `json:"reason,omitempty"` // why not
	Assessment  *policy.Assessment `json:"assessment,omitempty"`
	Error       string             `json:"error,omitempty"` // the destination can't be read
}

func (p *program) check(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	file := configFlag(fs)
	asJSON := fs.Bool("json", false, "answer in JSON, an object a line and destination")
	level := fs.String("tls", "encrypt", "`LEVEL` that decides the exit status: none, may or encrypt")
	minVersion := fs.String("min-version", "1.2", "lowest TLS `VERSION` that counts: 1.0 to 1.3")
	minBits := fs.Int("min-bits", 128, "lowest strength of the cipher that counts, in `BITS`")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) == 0 {
		return p.fail("check needs a destination: a domain, [host], either with :port, or - to read a list")
	}
	demand := policy.Demand{MinBits: *minBits}
	var err error
	if demand.Level, err = policy.ParseLevel(*level); err != nil {
		return p.fail("--tls: %v", err)
	}
	if demand.Level.Rank() > policy.LevelEncrypt.Rank() {
		return p.fail("--tls: level %q is not supported in this version", *level)
	}
	if demand.MinVersion, err = policy.ParseVersion(*minVersion); err != nil {
		return p.fail("--min-version: %v", err)
	}
	names, err := p.destinations(rest)
	if err != nil {
		return p.fail("%v", err)
	}
	c, ok := p.load(*file, true)
	if !ok {
		return exitUsage
	}
	assessor, err := newAssessor(c, slog.New(slog.DiscardHandler), func(d *destination.Config) { d.AllAddresses = true })
	if err != nil {
		return p.fail("%v", err)
	}
	defer assessor.Close()

	one := func(name string) checked {
		d, err := addr.ParseDestination(name)
		if err != nil {
			return checked{Destination: name, Asked: demand.Level, Error: err.Error()}
		}
		a := assessor.Assess(ctx, d, nil)
		return judge(a, demand)
	}
	print := func(r checked) { r.print(p.stdout, terminal(p.stdout)) }
	if *asJSON {
		enc := json.NewEncoder(p.stdout)
		print = func(r checked) { _ = enc.Encode(r) }
	}
	return p.inOrder(ctx, names, one, print)
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

// judge finds the highest level that a destination reaches, and whether that is enough.
func judge(a policy.Assessment, demand policy.Demand) checked {
	r := checked{Destination: a.Destination.String(), Asked: demand.Level, Assessment: &a, Level: policy.LevelMay}
	atLeast := demand
	atLeast.Level = policy.LevelEncrypt
	if rules.Judge(atLeast, a) == "" {
		r.Level = policy.LevelEncrypt
	} else if a.Problem.Permanent() {
		r.Level = policy.LevelNone
	}
	r.Reason = rules.Judge(demand, a)
	r.Satisfied = r.Reason == ""
	return r
}

// print shows the answer to people.
func (c checked) print(w io.Writer, colour bool) {
	if c.Error != "" {
		fmt.Fprintf(w, "%s: %s\n", c.Destination, paint(colour, red, c.Error))
		return
	}
	a := c.Assessment
	verdict := paint(colour, green, string(c.Level))
	if !c.Satisfied {
		hue := red
		if c.Reason.Unknown() {
			hue = yellow
		}
		verdict = paint(colour, hue, string(c.Reason))
	}
	fmt.Fprintf(w, "%s: %s\n", c.Destination, verdict)
	if a.Detail != "" {
		fmt.Fprintf(w, "  %s\n", a.Detail)
	}
	for _, h := range a.Hosts {
		what := fmt.Sprintf("MX %d", h.Preference)
		switch {
		case a.Destination.Direct():
			what = "host"
		case h.Implicit:
			what = "no MX, the domain itself"
		}
		line := fmt.Sprintf("  %s %s", what, h.Name)
		if !h.Alias.IsZero() {
			line += fmt.Sprintf(" (an alias of %s)", h.Alias)
		}
		fmt.Fprintln(w, line)
		if h.Detail != "" {
			fmt.Fprintf(w, "    %s\n", h.Detail)
		}
		for _, o := range h.Observations {
			fmt.Fprintf(w, "    %-24s %s\n", o.Address, describe(o))
			if len(o.Chain) > 0 {
				leaf := o.Chain[0]
				fmt.Fprintf(w, "    %-24s certificate of %s, by %s, until %s, %s\n", "", subject(leaf), orNone(leaf.Issuer),
					leaf.NotAfter.Format("2006-01-02"), leaf.Key)
			}
		}
	}
}

// describe says in words what an address did.
func describe(o policy.Observation) string {
	switch o.Outcome {
	case policy.SawTLS:
		s := fmt.Sprintf("TLS %s %s, %d bits", o.Version, o.Cipher, o.Bits)
		if o.Exchange != "" {
			s += ", " + o.Exchange
		}
		if o.HelloOnly {
			s += " (as far as our own TLS goes)"
		}
		return s
	case policy.SawNoSTARTTLS:
		return "does not offer STARTTLS"
	}
	s := fmt.Sprintf("%s at %s", o.Outcome, o.Stage)
	if o.Detail != "" {
		s += ": " + o.Detail
	}
	return s
}

func subject(c policy.Certificate) string {
	if len(c.Names) > 0 {
		return strings.Join(c.Names, " ")
	}
	return orNone(c.Subject)
}

func orNone(s string) string {
	if s == "" {
		return "nobody named"
	}
	return s
}
