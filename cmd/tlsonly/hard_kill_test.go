package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tlsonly/internal/testnet"
)

// "make soak" sets TLSONLY_SOAK: the tests of this file take their full counts then.
func soak(small, full int) int {
	if os.Getenv("TLSONLY_SOAK") != "" {
		return full
	}
	return small
}

// load is mail of the clinic through Postfix: of three messages two are for destinations with TLS, the third for one without.
type load struct {
	world                       *testnet.World
	accepted, refused, deferred atomic.Int64
	slowest                     atomic.Int64 // message, in nanoseconds
	end                         func()
	wg                          sync.WaitGroup
}

// startLoad begins so many sessions, which go on until check.
func startLoad(t *testing.T, world *testnet.World, address string, sessions int) *load {
	t.Helper()
	end := make(chan struct{})
	l := &load{world: world, end: sync.OnceFunc(func() { close(end) })}
	t.Cleanup(func() { l.end(); l.wg.Wait() })
	for s := range sessions {
		l.wg.Go(func() {
			err := func() error {
				c, err := dialQuietly(address)
				if err != nil {
					return err
				}
				defer func() { c.conn.Close() }()
				for i := 0; ; i++ {
					select {
					case <-end:
						return nil
					default:
					}
					to := []string{"u@good.example", "u@self.example", "u@none.example"}[i%3]
					start := time.Now()
					got, err := c.message("doctor@clinic.example", to, fmt.Sprintf("load-%d-%d", s, i))
					if took := int64(time.Since(start)); took > l.slowest.Load() {
						l.slowest.Store(took) // of two at a time one is enough
					}
					switch {
					case err != nil:
						return err
					case strings.HasPrefix(got, "250") && i%3 != 2:
						l.accepted.Add(1)
						if i%40 != 39 { // Postfix ends a session after so many
							continue
						}
					case strings.HasPrefix(got, "550 5.7.10 ") && i%3 == 2:
						l.refused.Add(1)
						if i%40 != 39 {
							continue
						}
					case strings.HasPrefix(got, "4"):
						l.deferred.Add(1)
					default:
						return fmt.Errorf("to %s: %s", to, got)
					}
					// Postfix asks no milter again in a session that lost it.
					c.conn.Close()
					if c, err = dialQuietly(address); err != nil {
						return err
					}
				}
			}()
			if err != nil {
				t.Error(err)
			}
		})
	}
	return l
}

// goesOn waits until more was accepted and refused from now on.
func (l *load) goesOn(t *testing.T, when string) {
	t.Helper()
	accepted, refused := l.accepted.Load(), l.refused.Load()
	waitFor(t, "messages accepted and refused "+when, func() bool { return l.accepted.Load() >= accepted+10 && l.refused.Load() >= refused+5 })
}

// check ends the load: whatever was accepted was judged, and arrived over TLS, all of it and nothing else.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.end()
	l.wg.Wait()
	arrived := func() int { return len(l.world.Messages("good.example")) + len(l.world.Messages("self.example")) }
	waitFor(t, "all that was accepted to arrive", func() bool { return arrived() >= int(l.accepted.Load()) })
	if n := arrived(); n != int(l.accepted.Load()) {
		t.Errorf("%d accepted, %d arrived", l.accepted.Load(), n)
	}
	for _, domain := range []string{"good.example", "self.example"} {
		for _, message := range l.world.Messages(domain) {
			if tags := named(headerOf(t, message), "TLS-Only"); len(tags) != 1 || !strings.HasPrefix(tags[0], "TLS-Only: pass;") || !message.TLS {
				t.Fatalf("not judged: tags %q, TLS %t", tags, message.TLS)
			}
		}
	}
	if n := len(l.world.Messages("none.example")); n != 0 {
		t.Errorf("%d messages reached none.example", n)
	}
	if l.accepted.Load() == 0 || l.refused.Load() == 0 {
		t.Errorf("%d accepted, %d refused: the load was none", l.accepted.Load(), l.refused.Load())
	}
}

func (l *load) String() string {
	return fmt.Sprintf("%d accepted and all delivered over TLS with the tag, %d refused, %d got 4xx, the slowest took %s",
		l.accepted.Load(), l.refused.Load(), l.deferred.Load(), time.Duration(l.slowest.Load()).Round(time.Millisecond))
}

// The daemon is killed at random moments, again and again, with Postfix in front of it under load: no message is accepted that
// wasn't judged, none that was accepted is lost, and its store opens every time.
func TestMTAHardKills(t *testing.T) {
	isolated(t)
	world := newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, nil, nil)

	kills := soak(4, 200)
	mail := startLoad(t, world, m.address, 8)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		time.Sleep(time.Duration(random.IntN(250)) * time.Millisecond) // the moment is what is tried, nothing is waited for
		d.stop(syscall.SIGKILL)
		d.start()
	}
	mail.goesOn(t, "after the last kill")
	mail.check(t)
	t.Logf("%d kills: %s", kills, mail)
}

// answer has one recipient of the clinic judged and returns the answer: "c", or "y" with the reply.
func answer(to string) (string, error) {
	m, err := testnet.DialMilter(milterAddress)
	if err != nil {
		return "", err
	}
	defer m.Close()
	return m.Ask("doctor@clinic.example", to)
}

// Without a descriptor left the daemon refuses nothing it had taken, waits, and serves when there are some again.
func TestMTAHardDescriptors(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	if got, err := answer("u@good.example"); err != nil || got != "c" {
		t.Fatalf("%q, %v", got, err)
	}
	served, err := testnet.DialMilter(milterAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Prlimit(d.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(len(open) + 20), Max: was.Max}
	if err := unix.Prlimit(d.cmd.Process.Pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	var many []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", milterAddress)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, c)
	}
	d.wait("the daemon to say that it is short of descriptors", func() bool { return strings.Contains(d.log(), "too many open files") })
	// Who is connected is served, as far as that takes no new descriptor; a look does, so its answer is "not now", never "fine".
	if got, err := served.Mail("doctor@clinic.example"); err != nil || got != "c" {
		t.Fatalf("MAIL: %q, %v", got, err)
	}
	if got, err := served.Rcpt("u@good.example"); err != nil || got != "c" {
		t.Errorf("a known destination: %q, %v", got, err)
	}
	if got, err := served.Rcpt("u@none.example"); err != nil || !strings.HasPrefix(got, "y4") {
		t.Errorf("an unknown destination: %q, %v", got, err)
	}
	for _, c := range many {
		c.Close()
	}
	if err := unix.Prlimit(d.cmd.Process.Pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
		t.Fatal(err)
	}
	d.wait("service for others", func() bool { got, err := answer("u@self.example"); return err == nil && got == "c" })
}

// With the disk full nothing is accepted that would have to be remembered, what is known is served, and all heals by itself.
func TestMTAHardDiskFull(t *testing.T) {
	isolated(t)
	newWorld(t)
	dir := t.TempDir()
	if err := unix.Mount("tlsonly-test", dir, "tmpfs", 0, "size=4m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	d := startDaemonOn(t, daemonHead+clinicRule, "sqlite://"+filepath.Join(dir, "state", "tlsonly.db"))
	defer d.stop(syscall.SIGTERM) // before its disk goes
	if got, err := answer("u@good.example"); err != nil || got != "c" {
		t.Fatalf("%q, %v", got, err)
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if got, err := answer("u@good.example"); err != nil || got != "c" {
		t.Errorf("what was demanded before: %q, %v", got, err)
	}
	if got, err := answer("u@self.example"); err != nil || !strings.HasPrefix(got, "y451") {
		t.Errorf("accepted with nothing remembered: %q, %v", got, err)
	}
	if got, err := answer("u@none.example"); err != nil || !strings.HasPrefix(got, "y550") {
		t.Errorf("a refusal needs no disk: %q, %v", got, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	d.wait("acceptance with room again", func() bool { got, err := answer("u@self.example"); return err == nil && got == "c" })
	d.stop(syscall.SIGKILL)
	d.start()
	if list := d.command("domains"); !strings.Contains(list, "self.example") {
		t.Errorf("after a restart: %s", list)
	}
}

// The configuration is read again and again under load, good files and bad ones in turn: every recipient is judged by one of
// the good ones, and the last one is in force in the end.
func TestMTAHardReloads(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	if got, err := answer("u@good.example"); err != nil || got != "c" {
		t.Fatalf("%q, %v", got, err)
	}
	end := make(chan struct{})
	var answers atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				got, err := answer("u@good.example")
				if err != nil || got != "c" {
					t.Errorf("good.example: %q, %v", got, err)
					return
				}
				if got, err = answer("u@none.example"); err != nil || !strings.HasPrefix(got, "y550") && !strings.HasPrefix(got, "y451") {
					t.Errorf("none.example: %q, %v", got, err)
					return
				}
				answers.Add(2)
			}
		})
	}
	n := soak(30, 1000)
	text := func(i int) string {
		switch i % 3 {
		case 0:
			return daemonHead + clinicRule
		case 1:
			return daemonHead + clinicRule + "on_fail = \"defer\"\n"
		}
		return daemonHead + clinicRule + "on_fail = \"rejct\"\n[[rule]\n"
	}
	replace := func(text string) { // as a program does that knows its trade: whole or not at all
		file := d.file
		d.file = file + ".new"
		d.write(text)
		d.file = file
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	seen := func() int { return strings.Count(d.log(), "msg=reloaded") + strings.Count(d.log(), "reload refused") }
	for i := range n {
		replace(text(i))
		before := seen()
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 || i == n-1 {
			d.wait("the last file to be read", func() bool { return seen() > before })
		}
	}
	if err := os.Truncate(d.file, 0); err != nil { // as an editor leaves it for a moment
		t.Fatal(err)
	}
	before := seen()
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.wait("the empty file to be refused", func() bool { return seen() > before && strings.Contains(d.log(), "no rule is left") })
	replace(text(1))
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.wait("the last rules", func() bool { got, err := answer("u@none.example"); return err == nil && strings.HasPrefix(got, "y451") })
	close(end)
	wg.Wait()
	refused := strings.Count(d.log(), "reload refused")
	if refused == 0 || answers.Load() == 0 {
		t.Errorf("%d bad files refused, %d answers", refused, answers.Load())
	}
	t.Logf("%d reloads, %d bad files refused, %d answers meanwhile", n, refused, answers.Load())
}

// Within a memory limit the daemon goes on, slower at worst.
func TestMTAHardMemoryLimit(t *testing.T) {
	isolated(t)
	newWorld(t)
	t.Setenv("GOMEMLIMIT", "48MiB")
	d := startDaemon(t, daemonHead+clinicRule)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range soak(50, 1000) {
				if got, err := answer("u@good.example"); err != nil || got != "c" {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kB resident", kb)
	if kb > 200_000 { // the limit counts neither the program's own pages nor the race detector's
		t.Errorf("%d kB resident", kb)
	}
}
