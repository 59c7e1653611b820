package main

import (
	"context"
	"encoding/json"
	"errors"
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
	probe := fs.Bool("probe", false, "postfix: also send one real message to a host of its own on loopback that takes TLS away, and see that it stays")
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
	if *probe && which != "postfix" {
		return p.fail("--probe is for postfix")
	}
	found, err := examine(ctx, c, which, *directory)
	if err == nil && *probe {
		var probed mta.Finding
		if probed, err = sendProbe(ctx, c, *directory); err == nil {
			found = append(found, probed)
		}
	}
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
		return postfix.Doctor(ctx, postfixSettings(c), postfix.Instance{Dir: directory})
	}
	settings, err := sendmailSettings(c)
	if err != nil {
		return nil, err
	}
	return sendmail.Installation{}.Doctor(ctx, settings)
}

// sendProbe sends a message of a protected sender.
func sendProbe(ctx context.Context, c *config.Config, directory string) (mta.Finding, error) {
	settings := postfixSettings(c)
	if len(settings.Protected) == 0 {
		return mta.Finding{}, errors.New("--probe: no rule names a protected sender")
	}
	return postfix.Probe(ctx, settings, postfix.Instance{Dir: directory}, settings.Protected[0])
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
