package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// workersVar says how many processes Spread runs at once: "1" is none besides
// this one.
const workersVar = "TLSONLY_TEST_WORKERS"

// workersPerProcessor: tests with real MTAs wait most of their time.
const workersPerProcessor = 2

// Spread runs the tests of this test binary in several processes at once, each
// test in one of its own, as if each had been asked for by -test.run. With
// Isolate each has its own namespaces, too. It is for a TestMain that calls it
// before everything else:
//
//	if code, done := rig.Spread("TestSlowest"); done {
//		os.Exit(code)
//	}
//
// slow names the tests that start first, so that the run doesn't end with one
// process that is busy. Output comes a test at a time, in the order in which
// they end, with one PASS or FAIL at the end. done is false where spreading
// gains nothing or can't be done: for one who isn't root, for a single test or
// a subtest, for benchmarks, profiles, coverage and fuzzing. TLSONLY_TEST_WORKERS
// is the number of processes; without it there are two a processor.
func Spread(slow ...string) (code int, done bool) {
	workers := workersPerProcessor * runtime.NumCPU()
	if text := os.Getenv(workersVar); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "%s=%s: want a number from 1 on\n", workersVar, text)
			return 2, true
		}
		workers = n
	}
	exe, err := os.Executable()
	if err != nil || workers == 1 || os.Geteuid() != 0 || os.Getenv(stageVar) != "" || os.Getenv(workerVar) != "" {
		return 0, false
	}
	args, pattern, skip, ok := spreadable(os.Args[1:])
	if !ok {
		return 0, false
	}
	names, err := listed(exe, pattern, skip)
	if err != nil || len(names) < 2 {
		return 0, false
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(slow, a) - rank(slow, b) })
	return spread(exe, args, names, min(workers, len(names))), true
}

// workerVar is set in the processes that Spread starts.
const workerVar = "TLSONLY_TEST_WORKER"

// spreadable returns the flags for each process, without -test.run and
// -test.skip, and what those two ask for. ok is false with flags that concern
// the run as a whole.
func spreadable(given []string) (args []string, pattern, skip string, ok bool) {
	for _, arg := range given {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch name {
		case "test.run":
			pattern = value
		case "test.skip":
			skip = value
		case "test.testlogfile": // without it the go command doesn't keep the result, which no file explains
		case "test.v", "test.timeout", "test.paniconexit0", "test.count", "test.short", "test.failfast", "test.parallel", "test.cpu":
			args = append(args, arg)
		default:
			return nil, "", "", false
		}
		if strings.HasPrefix(name, "test.") && !strings.Contains(arg, "=") && !slices.Contains([]string{"test.v", "test.paniconexit0", "test.short", "test.failfast"}, name) {
			return nil, "", "", false // the value is the next word
		}
	}
	return args, pattern, skip, !strings.Contains(pattern+skip, "/")
}

// listed returns the names of the tests, fuzz tests and examples that -test.run
// with pattern and -test.skip with skip leave, "" being all and none.
func listed(exe, pattern, skip string) ([]string, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	skipped, err := regexp.Compile(skip)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "-test.list=.")
	cmd.Env = append(os.Environ(), workerVar+"=list")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(out))
	return slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(name, "Benchmark") || !match.MatchString(name) || skip != "" && skipped.MatchString(name)
	}), nil
}

// rank orders the slow ones before all others.
func rank(slow []string, name string) int {
	if i := slices.Index(slow, name); i >= 0 {
		return i
	}
	return len(slow)
}

// spread runs each test in a process of its own, workers at a time.
func spread(exe string, args, names []string, workers int) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), passedOn()...)
	defer stop()
	queue := make(chan string, len(names))
	for _, name := range names {
		queue <- name
	}
	close(queue)
	var wg sync.WaitGroup
	var mu sync.Mutex // for code and standard output
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			// Isolate's processes end with the thread that started them.
			runtime.LockOSThread()
			for name := range queue {
				if ctx.Err() != nil {
					return
				}
				out, err := runOne(ctx, exe, args, name)
				mu.Lock()
				_, _ = os.Stdout.Write(out) // the exit status says the rest
				if err != nil {
					code = 1
					if ended := (*exec.ExitError)(nil); !errors.As(err, &ended) || ended.ExitCode() != 1 {
						fmt.Printf("--- FAIL: %s (0.00s)\n    %v\n", name, err)
					}
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if ctx.Err() != nil {
		code = 1
	}
	verdict := "PASS"
	if code != 0 {
		verdict = "FAIL"
	}
	fmt.Println(verdict)
	return code
}

// runOne runs one test and returns what it printed, without the last verdict.
// A process that dies without a word about its test has an error that isn't the
// exit status 1.
func runOne(ctx context.Context, exe string, args []string, name string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, exe, append(slices.Clone(args), "-test.run=^"+regexp.QuoteMeta(name)+"$")...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), workerVar+"="+name)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	text := bytes.TrimSuffix(bytes.TrimSuffix(out.Bytes(), []byte("PASS\n")), []byte("FAIL\n"))
	return text, err
}
