package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tlsonly/internal/config"
	"tlsonly/internal/mta"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/mta/sendmail"
)

// doctor looks whether the running MTA is really bound.
func (p *program) doctor(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("doctor", flag.ContinueOnError)
	file := configFlag(fs)
	directory := fs.String("config-directory", "", "postfix: its configuration `DIR`; default: that of MAIL_CONFIG, or the system's")
	asJSON := fs.Bool("json", false, "answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	which := ""
	switch {
	case len(rest) == 0:
		which = installed(*directory)
	case len(rest) == 1:
		which = rest[0]
	}
	if which != "postfix" && which != "sendmail" {
		return p.fail("doctor needs to know the MTA: postfix or sendmail")
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	found, err := examine(ctx, c, which, *directory)
	if *asJSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(map[string]any{"mta": which, "findings": found})
	} else {
		p.printFindings(found)
	}
	switch {
	case err != nil:
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitUnknown
	case mta.Holes(found):
		return exitNo
	}
	return exitOK
}

// installed says which MTA is on this host: the one with a configuration.
func installed(directory string) string {
	if directory != "" || os.Getenv("MAIL_CONFIG") != "" {
		return "postfix"
	}
	for which, path := range map[string]string{"postfix": "/etc/postfix/main.cf", "sendmail": "/etc/mail/sendmail.cf"} {
		if _, err := os.Stat(filepath.FromSlash(path)); err == nil {
			return which
		}
	}
	return ""
}

func examine(ctx context.Context, c *config.Config, which, directory string) ([]mta.Finding, error) {
	if c.Socketmap.Listen == (config.Endpoint{}) {
		return []mta.Finding{{Level: mta.Hole, Check: "socketmap", Text: "[socketmap] listen is off: nothing binds the MTA at delivery",
			Remedy: `set [socketmap] listen = "inet:127.0.0.1:8892"`}}, nil
	}
	if which == "postfix" {
		found, err := postfix.Doctor(ctx, postfixSettings(c), postfix.Instance{Dir: directory})
		same := make([]mta.Finding, len(found))
		for i, f := range found {
			same[i] = mta.Finding{Level: mta.Level(f.Level), Check: f.Check, Text: f.Text, Remedy: f.Remedy}
		}
		return same, err
	}
	settings, err := sendmailSettings(c)
	if err != nil {
		return nil, err
	}
	return sendmail.Installation{}.Doctor(ctx, settings)
}

// printFindings shows one finding a line, and what to do about it below.
func (p *program) printFindings(found []mta.Finding) {
	colours := map[mta.Level]string{mta.OK: green, mta.Warning: yellow, mta.Hole: red}
	count := map[mta.Level]int{}
	for _, f := range found {
		count[f.Level]++
		fmt.Fprintf(p.stdout, "%s  %s: %s\n", paint(terminal(p.stdout), colours[f.Level], fmt.Sprintf("%-7s", f.Level)), f.Check,
			strings.ReplaceAll(f.Text, "\n", " "))
		if f.Remedy != "" && f.Level != mta.OK {
			fmt.Fprintf(p.stdout, "         -> %s\n", f.Remedy)
		}
	}
	fmt.Fprintf(p.stdout, "%d ok, %s, %s\n", count[mta.OK], plural(count[mta.Warning], "warning"), plural(count[mta.Hole], "hole"))
}
