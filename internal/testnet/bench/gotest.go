package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// result is one line of a Go benchmark.
type result struct {
	name   string
	values map[string]float64 // by unit
}

// goBench runs benchmarks of the repository and returns what each printed.
func goBench(ctx context.Context, pkg, pattern string, args ...string) ([]result, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-run", "^$", "-bench", pattern, "-benchmem"}, append(args, pkg)...)...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly")
	out, err := output(cmd)
	if err != nil {
		return nil, err
	}
	var all []result
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		r := result{name: f[0], values: map[string]float64{}}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			r.values[f[i+1]] = v
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no benchmark of the name %s", pkg, pattern)
	}
	return all, nil
}

// byName joins the rounds of each benchmark, in the order of the first.
func byName(all []result) (names []string, values map[string]map[string][]float64) {
	values = map[string]map[string][]float64{}
	for _, r := range all {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.name, "Benchmark"), "-")
		if values[name] == nil {
			names = append(names, name)
			values[name] = map[string][]float64{}
		}
		for unit, v := range r.values {
			values[name][unit] = append(values[name][unit], v)
		}
	}
	return names, values
}

// decide shows what one decision in memory costs, however much is known and however many rules there are.
func decide(ctx context.Context, b *bench) error {
	all, err := goBench(ctx, "./milter", "^BenchmarkHardDecide$", "-count", strconv.Itoa(b.rounds), "-benchtime", fmt.Sprintf("%dms", b.count(300)))
	if err != nil {
		return err
	}
	names, values := byName(all)
	least := 0.0
	for i, name := range names {
		v := values[name]
		ns, allocations := median(v["ns/op"]), median(v["allocs/op"])
		if i == 0 {
			least = allocations
		}
		b.report.add(row{part: "decide", what: name, figure: fmt.Sprintf("%.0f ns, %.0f allocations", ns, allocations),
			against: fmt.Sprintf("%s: %.0f allocations", names[0], least),
			goal:    "< 20 µs, no more allocations", missed: ns >= 20_000 || allocations > least})
	}
	return nil
}

// startUp shows what 100,000 known destinations cost at the start.
func startUp(ctx context.Context, b *bench) error {
	all, err := goBench(ctx, "./cmd/tlsonly", "^BenchmarkStart$", "-count", strconv.Itoa(b.rounds), "-benchtime", "1x", "-timeout", "20m")
	if err != nil {
		return err
	}
	names, values := byName(all)
	for _, name := range names {
		v := values[name]
		ready, memory := median(v["s-ready"]), median(v["MB-resident"])
		b.report.add(row{part: "start", what: "100,000 destinations, " + name,
			figure: fmt.Sprintf("ready after %.2f s, %.0f MB resident", ready, memory),
			goal:   "< 3 s, < 150 MB", missed: ready >= 3 || memory >= 150})
	}
	return nil
}
