package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// row is one figure. Goal is what it must reach, "" where nothing was promised.
type row struct {
	part, what, figure, against, ratio, goal string
	missed                                   bool
}

type report struct {
	machine string
	rows    []row
}

func (r *report) add(rows ...row) {
	r.rows = append(r.rows, rows...)
	for _, row := range rows {
		fmt.Fprintf(os.Stderr, "%s: %s: %s  %s  %s\n", row.part, row.what, row.figure, row.against, row.ratio)
	}
}

// cells are a row's columns.
func (r row) cells() []string {
	goal := r.goal
	if r.missed {
		goal += " MISSED"
	}
	return []string{r.part, r.what, r.figure, r.against, r.ratio, goal}
}

func header() []string { return []string{"part", "what", "figure", "against", "ratio", "goal"} }

func (r *report) text() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n", r.machine)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cells := range append([][]string{header()}, r.cells()...) {
		fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	w.Flush()
	return b.String()
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| %s |\n|%s\n", r.machine, strings.Join(header(), " | "), strings.Repeat("---|", len(header())))
	for _, cells := range r.cells() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

func (r *report) cells() [][]string {
	var all [][]string
	for _, row := range r.rows {
		all = append(all, row.cells())
	}
	return all
}

// machine names what this ran on.
func machine(b *bench) string {
	cpu := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo") // unreadable: then it stays unknown
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	kernel := "?"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	load, _ := os.ReadFile("/proc/loadavg")
	busy, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, %s; load at the start %s; medians of %d, counts times %g",
		cpu, runtime.NumCPU(), kernel, runtime.Version(), time.Now().Format(time.DateOnly), busy, b.rounds, b.scale)
}

// times are what the processors did since the start of the host, in ticks: all, and what its own host gave to others.
type times struct{ all, stolen float64 }

// processors is zero where Linux doesn't tell.
func processors() times {
	var t times
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 { // the name, and guests, which are counted before
			continue
		}
		if t.all += n; i == 8 {
			t.stolen = n
		}
	}
	return t
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

// spread is the lowest and the highest of the rounds.
func spread(values []float64) string {
	return fmt.Sprintf("%.0f…%.0f", slices.Min(values), slices.Max(values))
}
