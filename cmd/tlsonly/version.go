package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the build: go build -ldflags "-X main.version=1.2.3".
var version string

// buildVersion is the version the build was given, else what the Go tool recorded of the source.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (p *program) version(_ context.Context, args []string) int {
	fs := flag.NewFlagSet("version", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) > 0 {
		return p.fail("version takes no arguments")
	}
	if *asJSON {
		_ = json.NewEncoder(p.stdout).Encode(map[string]string{"version": buildVersion(), "go": runtime.Version()})
		return exitOK
	}
	fmt.Fprintf(p.stdout, "tlsonly %s (%s)\n", buildVersion(), runtime.Version())
	return exitOK
}
