// Command soak puts an hour's load on the daemon in ten minutes and says whether it has grown: resident memory, goroutines,
// descriptors, before and after, each when nothing is asked.
//
// The load is messages of protected and other senders to destinations good, faulty and hanging, of which all are looked at
// again every few seconds; questions to the maps; reloads with good files and bad; connections that send garbage and
// connections that say nothing. Everything runs in namespaces of its own and is gone when it ends. Exit status 1: it has grown,
// or has answered wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tlsonly/internal/testnet/rig"
)

func main() {
	binary := flag.String("tlsonly", "bin/tlsonly", "the daemon's `FILE`")
	length := flag.Duration("time", 10*time.Minute, "how long the load lasts")
	flag.Parse()
	inside, code, err := rig.Isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	if !inside {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *length); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run warms the daemon up, measures it, puts the load on it, and measures it again.
func run(ctx context.Context, binary string, length time.Duration) (err error) {
	s, err := newSoak(ctx, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.load(ctx, min(length/4, time.Minute)); err != nil {
		return fmt.Errorf("%w\n%s", err, s.said())
	}
	before, err := s.rest(ctx)
	if err != nil {
		return err
	}
	s.done = &counts{}
	if err := s.load(ctx, length); err != nil {
		return fmt.Errorf("%w\n%s", err, s.said())
	}
	after, err := s.rest(ctx)
	if err != nil {
		return err
	}
	c := s.done
	fmt.Printf("%s of load: %d recipients answered (%d refused, %d not now), %d lookups, %d reloads, %d connections with garbage, %d silent\n",
		length, c.answers.Load(), c.refused.Load(), c.later.Load(), c.lookups.Load(), c.reloads.Load(), c.garbage.Load(), c.silent.Load())
	fmt.Printf("%-12s %10s %10s\n", "", "before", "after")
	fmt.Printf("%-12s %9.1fM %9.1fM\n", "resident", before.resident/1e6, after.resident/1e6)
	fmt.Printf("%-12s %9.1fM %9.1fM\n", "heap", before.heap/1e6, after.heap/1e6)
	fmt.Printf("%-12s %10.0f %10.0f\n", "goroutines", before.goroutines, after.goroutines)
	fmt.Printf("%-12s %10.0f %10.0f\n", "descriptors", before.descriptors, after.descriptors)
	return grown(before, after)
}

// grown says what is more than chance.
func grown(before, after figures) error {
	var errs []error
	check := func(what string, before, after, factor, more float64) {
		if after > before*factor+more {
			errs = append(errs, fmt.Errorf("%s grew from %.0f to %.0f", what, before, after))
		}
	}
	check("resident memory", before.resident, after.resident, 1.25, 10e6)
	check("heap", before.heap, after.heap, 1.25, 5e6)
	check("goroutines", before.goroutines, after.goroutines, 1, 20)
	check("descriptors", before.descriptors, after.descriptors, 1, 20)
	return errors.Join(errs...)
}
