package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/owner"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// slowTests take longest, so they start first.
var slowTests = []string{"TestMTAHolesDoctorRoutes", "TestMTAHolesBounces", "TestMTAMatrix", "TestMTAForwardMatrixPostfix",
	"TestMTAForwardMatrixSendmail", "TestMTAHolesNotices", "TestMTAHolesProbesOfAddresses"}

// long begins each test that go test -short leaves out.
var long = rig.Long

// TestMain makes this binary three things: the tests; the program, when it is called tlsonly; and itself again inside
// namespaces of its own, where real MTAs can run.
func TestMain(m *testing.M) {
	// A program with the race detector sleeps a second at its end otherwise.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if filepath.Base(os.Args[0]) != "tlsonly" && os.Geteuid() == 0 {
		if err := errors.Join(rig.FetchSendmail(context.Background()), rig.FetchUnbound(context.Background())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		// Half a minute, once. Without it only its own tests can't run, and say so.
		if err := rig.FetchPostfix310(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		// Tables of a database, of which suites have many; likewise.
		if err := rig.FetchTools(context.Background(), "postfix-sqlite", "postfix-sqlite"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if code, done := rig.Spread(slowTests...); done {
			os.Exit(code)
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
	for _, kind := range []string{owner.OpenPGP, owner.SMIME} {
		name, err := owner.Name(addr.MustAddress("unsure@none.example"), kind)
		if err != nil {
			t.Fatal(err)
		}
		world.DNS.SetFault(name.String(), 0, testnet.DNSServFail)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", os.Getenv("GORACE"))
			forms, err := filepath.Abs("../../testdata/logs/forms")
			if err != nil {
				return err
			}
			env.Setenv("FORMS", forms)
			return os.WriteFile(filepath.Join(env.WorkDir, "ca.pem"), world.CA.PEM(), 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"config": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: config FILE")
				}
				text := ts.ReadFile(args[0])
				text = strings.NewReplacer("$DNS", world.DNS.Addr(), "$PORT", strconv.FormatUint(number, 10), "$WORK", ts.Getenv("WORK")).Replace(text)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
			},
			"known":  known,
			"status": status,
		},
	})
}

// known makes a store with a few destinations in it: known FILE.
func known(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: known FILE")
	}
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{URL: "sqlite://" + ts.MkAbs(args[0])})
	ts.Check(err)
	defer func() { ts.Check(s.Close()) }()
	now := time.Now()
	look := func(name string, outcome policy.Outcome, ok bool, times int) {
		d := addr.MustDestination(name)
		host := policy.Host{Name: addr.MustDomain("mx." + d.Host().String()), Preference: 10, Observations: []policy.Observation{{
			Address: netip.MustParseAddrPort("127.0.1.1:25"), Outcome: outcome, Version: policy.TLS13, Bits: 128, When: now}}}
		for range times {
			_, err := s.RecordAssessment(ctx, store.Result{Destination: d, When: now, OK: ok, Next: now.Add(time.Hour), Assessment: &store.Assessment{
				Assessment: policy.Assessment{Destination: d, Hosts: []policy.Host{host}, When: now, Until: now.Add(time.Hour)}, Port: 25}})
			ts.Check(err)
		}
	}
	look("good.example", policy.SawTLS, true, 1)
	look("gone.example", policy.SawNoSTARTTLS, false, 3)
	_, err = s.RaiseDemand(ctx, addr.MustDestination("good.example"), store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128})
	ts.Check(err)
	_, err = s.Pin(ctx, addr.MustDestination("good.example"), "rule:clinic")
	ts.Check(err)
	ts.Check(s.Touch(ctx, map[addr.Destination]time.Time{addr.MustDestination("[relay.example]:587"): now}))
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
