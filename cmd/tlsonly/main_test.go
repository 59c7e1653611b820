package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// TestMain makes this binary three things: the tests; the program, when it is called tlsonly; and itself again inside
// namespaces of its own, where real MTAs can run.
func TestMain(m *testing.M) {
	// A program with the race detector sleeps a second at its end otherwise.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if filepath.Base(os.Args[0]) != "tlsonly" && os.Geteuid() == 0 {
		if err := rig.FetchSendmail(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		switch inside, code, err := rig.Isolate(); {
		case err == nil && !inside:
			os.Exit(code)
		case err != nil && !errors.Is(err, rig.ErrNotIsolated):
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"tlsonly": main})
}

// TestScript runs the command line against a small internet. In the scripts, "config FILE" writes the DNS server and the
// port of the mail hosts into a configuration file.
func TestScript(t *testing.T) {
	port, err := rig.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseUint(port[strings.LastIndexByte(port, ':')+1:], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	world, err := testnet.StartWorld("127.0.0.1:0", uint16(number), testnet.Sites())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	world.DNS.SetFault("servfail.example", 0, testnet.DNSServFail)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"config": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: config FILE")
				}
				text := ts.ReadFile(args[0])
				text = strings.NewReplacer("$DNS", world.DNS.Addr(), "$PORT", strconv.FormatUint(number, 10)).Replace(text)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
			},
			"status": status,
		},
	})
}

// status runs a command and compares its exit status: status 3 tlsonly check x.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [args]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit interface{ ExitCode() int }
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
