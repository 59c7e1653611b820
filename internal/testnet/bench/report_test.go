package main

import (
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{7, 1, 100, 2, 3}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

// Rounds of one benchmark are joined, whatever number of processors Go puts behind the name.
func TestByName(t *testing.T) {
	names, values := byName([]result{
		{"BenchmarkX/n=1-2", map[string]float64{"ns/op": 5}},
		{"BenchmarkX/n=2-2", map[string]float64{"ns/op": 7}},
		{"BenchmarkX/n=1-2", map[string]float64{"ns/op": 6, "allocs/op": 1}},
	})
	if strings.Join(names, " ") != "X/n=1 X/n=2" || len(values["X/n=1"]["ns/op"]) != 2 || len(values["X/n=1"]["allocs/op"]) != 1 {
		t.Errorf("%v, %v", names, values)
	}
}

// Both forms of the table name the machine, and say what was missed.
func TestReport(t *testing.T) {
	r := report{machine: "a machine", rows: []row{
		{part: "accept", what: "x", figure: "1", goal: "at least 2", missed: true},
		{part: "cold", what: "y", figure: "50", goal: "50"},
	}}
	for form, text := range map[string]string{"text": r.text(), "markdown": r.markdown()} {
		if !strings.HasPrefix(text, "a machine\n") || strings.Count(text, "MISSED") != 1 || !strings.Contains(text, "at least 2 MISSED") {
			t.Errorf("%s: %s", form, text)
		}
	}
	if table := r.markdown(); strings.Count(table, "\n|") != 4 {
		t.Errorf("markdown: %s", table)
	}
}
