package rig

import (
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// spreadVar makes this test binary a small one whose tests are spread: the
// four below, which do nothing otherwise.
const spreadVar = "TLSONLY_RIG_SPREAD"

func TestSpreadOnePasses(t *testing.T) {
	if os.Getenv(spreadVar) != "" {
		t.Log("process", os.Getpid())
	}
}

func TestSpreadOneFails(t *testing.T) {
	if os.Getenv(spreadVar) != "" {
		t.Error("as it should")
	}
}

func TestSpreadOneDies(*testing.T) {
	if os.Getenv(spreadVar) != "" {
		os.Exit(3)
	}
}

func TestSpreadOneSkippedBySpread(t *testing.T) {
	if os.Getenv(spreadVar) != "" {
		t.Error("it runs although -test.skip names it")
	}
}

func TestSpread(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(workers, pattern string) (string, int) {
		cmd := exec.Command(exe, "-test.v=true", "-test.run="+pattern, "-test.skip=SkippedBySpread")
		for _, v := range os.Environ() {
			if name, _, _ := strings.Cut(v, "="); name != stageVar && name != workersVar && name != workerVar {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, spreadVar+"=yes", workersVar+"="+workers)
		out, _ := cmd.CombinedOutput() // the exit status is looked at
		return string(out), cmd.ProcessState.ExitCode()
	}
	if os.Geteuid() != 0 {
		t.Skip("only root's tests are spread")
	}
	for _, c := range []struct {
		pattern string
		code    int
		want    []string // and each once
	}{
		{"TestSpreadOne(Passes|Fails|Skipped)", 1, []string{"--- PASS: TestSpreadOnePasses", "--- FAIL: TestSpreadOneFails", "as it should", "\nFAIL\n"}},
		{"TestSpreadOne(Passes|Dies)", 1, []string{"--- PASS: TestSpreadOnePasses", "--- FAIL: TestSpreadOneDies", "exit status 3", "\nFAIL\n"}},
		{"TestSpreadOnePasses|TestSpreadable", 0, []string{"--- PASS: TestSpreadOnePasses", "--- PASS: TestSpreadable", "\nPASS\n"}},
		{"TestSpreadOnePasses/x", 0, []string{"\nPASS\n"}},
	} {
		out, code := run("2", c.pattern)
		if code != c.code {
			t.Errorf("%s: exit status %d, want %d\n%s", c.pattern, code, c.code, out)
		}
		for _, want := range c.want {
			if n := strings.Count(out, want); n != 1 {
				t.Errorf("%s: %q %d times in:\n%s", c.pattern, want, n, out)
			}
		}
	}
	if out, code := run("none", "."); code != 2 || !strings.Contains(out, workersVar+"=none") {
		t.Errorf("%d, %s", code, out)
	}
}

func TestSpreadable(t *testing.T) {
	for _, c := range []struct {
		given, args   []string
		pattern, skip string
		ok            bool
	}{
		{nil, nil, "", "", true},
		{[]string{"-test.paniconexit0", "-test.timeout=1h0m0s", "-test.run=A|B"}, []string{"-test.paniconexit0", "-test.timeout=1h0m0s"}, "A|B", "", true},
		{[]string{"-test.testlogfile=x", "-test.v=true"}, []string{"-test.v=true"}, "", "", true},
		{[]string{"-test.skip=C", "-test.run=A"}, nil, "A", "C", true},
		{[]string{"-test.skip=C/d"}, nil, "", "", false},
		{[]string{"-test.run=A/b"}, nil, "", "", false},
		{[]string{"-test.run", "A"}, nil, "", "", false},
		{[]string{"-test.bench=."}, nil, "", "", false},
		{[]string{"-test.coverprofile=c"}, nil, "", "", false},
		{[]string{"-test.list=."}, nil, "", "", false},
		{[]string{"-test.fuzz=F"}, nil, "", "", false},
		{[]string{"word"}, nil, "", "", false},
	} {
		args, pattern, skip, ok := spreadable(c.given)
		if ok != c.ok || ok && (!reflect.DeepEqual(args, c.args) || pattern != c.pattern || skip != c.skip) {
			t.Errorf("%q: %q, %q, %q, %t", c.given, args, pattern, skip, ok)
		}
	}
}
