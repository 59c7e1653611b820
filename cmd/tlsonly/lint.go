package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"tlsonly/internal/config"
)

func (p *program) lint(_ context.Context, args []string) int {
	fs := flag.NewFlagSet("lint", flag.ContinueOnError)
	file := configFlag(fs)
	asJSON := fs.Bool("json", false, "answer in JSON: {file, faults, warnings}")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) > 0 {
		return p.fail("lint takes no arguments; -c FILE names the file")
	}

	answer := struct {
		File     string         `json:"file"`
		Rules    int            `json:"rules"`
		Inbound  int            `json:"inbound"`
		Faults   []config.Fault `json:"faults"`
		Warnings []config.Fault `json:"warnings"`
	}{File: *file, Faults: []config.Fault{}, Warnings: []config.Fault{}}
	code = exitOK
	c, err := config.Load(*file)
	var faults *config.Error
	switch {
	case errors.As(err, &faults):
		answer.Faults, code = faults.Faults, exitUsage
	case err != nil:
		return p.fail("%v", err)
	default:
		answer.Rules, answer.Inbound = len(c.Rules.Rules()), len(c.Inbound.Rules())
		answer.Warnings = append(answer.Warnings, config.Warnings(c, time.Now())...)
		if c.Forwarding.Postconf != "" {
			if err := postfixAt(c.Forwarding, "").Check(); err != nil {
				answer.Warnings = append(answer.Warnings, config.Fault{File: *file, Line: 1, Text: err.Error()})
			}
		}
	}
	if *asJSON {
		_ = p.answer(answer)
		return code
	}
	for _, f := range answer.Faults {
		fmt.Fprintln(p.stderr, f)
	}
	if n := len(answer.Faults); n > 0 {
		fmt.Fprintf(p.stderr, "%s: %s: the daemon would not start with this file\n", *file, plural(n, "fault"))
	}
	for _, f := range answer.Warnings {
		fmt.Fprintf(p.stdout, "%s (warning)\n", f)
	}
	if code == exitOK {
		inbound := ""
		if answer.Inbound > 0 {
			inbound = ", " + plural(answer.Inbound, "inbound rule")
		}
		fmt.Fprintf(p.stdout, "%s: ok, %s%s\n", *file, plural(answer.Rules, "rule"), inbound)
	}
	return code
}

// plural is "1 rule", "2 rules".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
