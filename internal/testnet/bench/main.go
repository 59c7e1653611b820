// Command bench measures what the daemon costs, each figure against its counterpart in the same run, the two taking turns, and
// prints one table; bin/bench.md has it as Markdown, with the machine named. A figure is the median of the rounds; one alone says
// little, two from different machines nothing.
//
// It measures the program as it is built: by its configuration file and its sockets. Everything runs in namespaces of their
// own, and the counterparts are Debian's: a C milter on libmilter that does nothing, opendkim, postfix-mta-sts-resolver,
// unpacked and not installed. Nothing is left behind but the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"tlsonly/internal/testnet/rig"
)

// toolsName is what the counterparts are called in the cache.
const toolsName = "bench"

// bench is one run.
type bench struct {
	binary string // the daemon
	dir    string // ours alone, removed at the end
	tools  string // root directory of the unpacked counterparts
	env    []string
	rounds int
	scale  float64 // of all counts and times
	report *report
}

// part is one of the things measured.
type part struct {
	name string
	run  func(context.Context, *bench) error
}

func parts() []part {
	return []part{{"accept", accept}, {"decide", decide}, {"lookups", lookups}, {"start", startUp}, {"cold", cold}, {"refuse", refuse}, {"latency", latency}}
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "constant" {
		fmt.Fprintln(os.Stderr, serveConstant(os.Args[2]))
		os.Exit(1)
	}
	b := &bench{}
	flag.StringVar(&b.binary, "tlsonly", "bin/tlsonly", "the daemon's `FILE`")
	flag.IntVar(&b.rounds, "rounds", 5, "`N` of each figure, of which the median is told")
	flag.Float64Var(&b.scale, "scale", 1, "`FACTOR` of all counts")
	out := flag.String("o", "bin/bench.md", "`FILE` for the table")
	only := flag.String("only", "", "`PARTS` to measure, with commas between; default: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rig.FetchTools(ctx, toolsName, "libmilter-dev", "opendkim", "postfix-mta-sts-resolver"); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	inside, code, err := rig.Isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if !inside {
		os.Exit(code)
	}
	if err := b.run(ctx, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only, out string) (err error) {
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.tools, b.env, err = rig.Tools(toolsName); err != nil {
		return err
	}
	if b.dir, err = rig.TempDir(); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.report = &report{machine: machine(b)}
	before := processors()
	var wanted []string
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(parts(), func(p part) bool { return p.name == name }) {
			return fmt.Errorf("part %q: there is none of that name", name)
		}
	}
	var failed []error
	for _, p := range parts() {
		if len(wanted) > 0 && !slices.Contains(wanted, p.name) {
			continue
		}
		if err := p.run(ctx, b); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if now := processors(); now.all > before.all {
		b.report.machine += fmt.Sprintf("; other guests of its host had %.0f %% of its processors",
			100*(now.stolen-before.stolen)/(now.all-before.all))
	}
	fmt.Print(b.report.text())
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	failed = append(failed, os.WriteFile(out, []byte(b.report.markdown()), 0o644))
	return errors.Join(failed...)
}

// count is n at the scale of this run, at least 1.
func (b *bench) count(n int) int { return max(1, int(float64(n)*b.scale)) }

// output runs a command to its end.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
