package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	pointers "unsafe" // the name is taken here

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/testnet"
)

// cgroup is a control group whose memory is limited; the names of its files are the version's.
type cgroup struct {
	t   *testing.T
	dir string
	// Of version 2, else of version 1.
	max, swap, peak, events, anonymous string
}

// newCgroup makes a control group for as long as the test, or skips it where there can be none.
func newCgroup(t *testing.T) *cgroup {
	t.Helper()
	g := &cgroup{t: t, max: "memory.max", swap: "memory.swap.max", peak: "memory.peak", events: "memory.events", anonymous: "anon"}
	parent, v2, err := cgroupParent()
	if err != nil {
		t.Skipf("no control group with a limit of memory: %v", err)
	}
	if !v2 {
		g.max, g.swap, g.peak = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max_usage_in_bytes"
		g.events, g.anonymous = "memory.oom_control", "rss"
	}
	if g.dir, err = os.MkdirTemp(parent, "tlsonly-test-"); err != nil {
		t.Skipf("no control group with a limit of memory: %v", err)
	}
	t.Cleanup(func() { // a process that has ended is in it for a moment yet
		waitFor(t, "the control group to be empty", func() bool { err = syscall.Rmdir(g.dir); return !errors.Is(err, syscall.EBUSY) })
		if err != nil {
			t.Errorf("%s stays: %v", g.dir, err)
		}
	})
	for _, name := range []string{g.max, g.peak, g.events} {
		if _, err := os.Stat(filepath.Join(g.dir, name)); err != nil {
			t.Skipf("no control group with a limit of memory: %v", err)
		}
	}
	return g
}

// cgroupParent finds a control group that may have children with limits of memory: this process's own, or, in version 2, where
// a group with processes hands on nothing, the nearest above it that does.
func cgroupParent() (dir string, v2 bool, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false, err
	}
	err = errors.New("/proc/self/mountinfo names no file system of control groups")
	for line := range strings.Lines(string(mounts)) {
		where, what, _ := strings.Cut(line, " - ")
		place, kind := strings.Fields(where), strings.Fields(what)
		if len(place) < 5 || len(kind) < 3 || !strings.HasPrefix(kind[0], "cgroup") {
			continue
		}
		root, point := place[3], place[4]
		v2 := kind[0] == "cgroup2"
		if !v2 && !slices.Contains(strings.Split(kind[2], ","), "memory") {
			continue
		}
		own := point
		for line := range strings.Lines(string(groups)) {
			part := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(part) == 3 && (v2 && part[1] == "" || !v2 && slices.Contains(strings.Split(part[1], ","), "memory")) {
				if rest, ok := strings.CutPrefix(part[2], strings.TrimSuffix(root, "/")); ok && !strings.Contains(rest, "..") {
					own = filepath.Join(point, rest)
				}
			}
		}
		if !v2 {
			return own, false, nil
		}
		for dir := own; strings.HasPrefix(dir, point); dir = filepath.Dir(dir) {
			handed, e := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
			if e == nil && slices.Contains(strings.Fields(string(handed)), "memory") {
				return dir, true, nil
			}
		}
		err = fmt.Errorf("no cgroup.subtree_control from %s up to %s has memory in it", own, point)
	}
	return "", false, err
}

// take puts a process into the group.
func (g *cgroup) take(pid int) {
	g.t.Helper()
	g.set("cgroup.procs", int64(pid))
}

// limit sets the most memory the group may have. No swap is to be had beside it.
func (g *cgroup) limit(n int64) {
	g.t.Helper()
	g.set(g.max, n)
	if _, err := os.Stat(filepath.Join(g.dir, g.swap)); errors.Is(err, fs.ErrNotExist) {
		return // nor anywhere
	}
	if g.swap == "memory.swap.max" {
		n = 0 // of swap alone, where the other counts both
	}
	g.set(g.swap, n)
}

func (g *cgroup) set(name string, n int64) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(strconv.FormatInt(n, 10)), 0); err != nil {
		g.t.Fatal(err)
	}
}

// get reads a number, of the line that begins with key where there are several.
func (g *cgroup) get(name, key string) int64 {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); key == "" || f[0] == key {
			n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return n
		}
	}
	g.t.Fatalf("%s has no %q", name, key)
	return 0
}

// kills returns how many processes the kernel killed for want of memory.
func (g *cgroup) kills() int64 { return g.get(g.events, "oom_kill") }

// anon returns the memory that can't be taken back.
func (g *cgroup) anon() int64 { return g.get("memory.stat", g.anonymous) }

// hog connects and has the daemon hold as much as one connection can make it hold: the longest packet it takes, but for its end.
func hog() (net.Conn, error) {
	c, err := net.Dial("tcp", milterAddress)
	if err != nil {
		return nil, err
	}
	if err := c.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.Close()
		return nil, err
	}
	const longest = 1 << 20
	text := "\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff" + "\x00\x10\x00\x00L" + strings.Repeat("x", longest-2)
	if _, err := c.Write([]byte(text)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// raced reports whether the race detector is in this program: it takes memory of its own.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// In a control group with a limit that it can live with the daemon serves all along; where there isn't enough it is killed in
// the middle of its work, and then no message is accepted that wasn't judged, none that was accepted is lost, and its store opens.
func TestMTAHardCgroup(t *testing.T) {
	long(t)
	isolated(t)
	// All before the daemon, which has to be gone first in the end.
	roomy, kills := newCgroup(t), soak(1, 20)
	var tight []*cgroup
	for range kills {
		tight = append(tight, newCgroup(t))
	}
	world := newWorld(t)
	var records strings.Builder
	connections, destinations, hogs := soak(100, 1000), soak(50, 1000), 4
	for i := range destinations {
		fmt.Fprintf(&records, "d%d.example. 60 IN MX 10 mx1.good.example.\n", i)
	}
	if err := world.AddRecords(records.String()); err != nil {
		t.Fatal(err)
	}
	d := startDaemonWith(t, daemonHead+clinicRule, "", roomy.take)
	_, m := startPostfix(t, nil, nil)

	mail := startLoad(t, world, m.address, 4)
	mail.goesOn(t, "without a limit")
	// So much is enough for what comes.
	room := int64(24<<20 + connections*(32<<10) + destinations*(8<<10) + hogs*(4<<20))
	if raced() {
		room *= 3
	}
	limit := roomy.anon() + room
	roomy.limit(limit)
	pid, deferred := d.cmd.Process.Pid, mail.deferred.Load()
	for range connections { // connections that have asked and say nothing more
		c, err := testnet.DialMilter(milterAddress)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got, err := c.Ask("doctor@clinic.example", "u@good.example"); err != nil || got != "c" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	for i := range destinations {
		to := fmt.Sprintf("u@d%d.example", i)
		d.wait("acceptance for "+to, func() bool { got, err := answer(to); return err == nil && got == "c" })
	}
	for range hogs {
		c, err := hog()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	mail.goesOn(t, "within the limit")
	peak := roomy.get(roomy.peak, "")
	t.Logf("within %d MB, %d connections, %d destinations, %d packets: at most %d MB", limit>>20, connections, destinations, hogs, peak>>20)
	if n := roomy.kills(); n != 0 || d.cmd.Process.Pid != pid || mail.deferred.Load() != deferred || peak >= limit {
		t.Errorf("killed %d times, %d messages got 4xx, %d of %d octets taken", n, mail.deferred.Load()-deferred, peak, limit)
	}

	for _, tight := range tight {
		d.stop(syscall.SIGKILL)
		d.began = tight.take
		d.start()
		mail.goesOn(t, "before the limit")
		tight.limit(tight.anon() + 16<<20)
		ended := make(chan error, 1)
		go func() { ended <- d.cmd.Wait() }()
		var held []net.Conn
		var err error
		for alive, end := true, time.Now().Add(30*time.Second); alive; {
			select {
			case err = <-ended:
				alive = false
			default:
				if len(held) == 200 || time.Now().After(end) {
					t.Fatalf("%d packets, %d MB: not killed", len(held), tight.anon()>>20)
				}
				if c, err := hog(); err == nil { // else it is about to die
					held = append(held, c)
				}
			}
		}
		for _, c := range held {
			c.Close()
		}
		if state := d.cmd.ProcessState.Sys().(syscall.WaitStatus); state.Signal() != syscall.SIGKILL || tight.kills() != 1 {
			t.Errorf("the daemon: %v, the kernel killed %d", err, tight.kills())
		}
		before := mail.deferred.Load()
		waitFor(t, "a message deferred without the daemon", func() bool { return mail.deferred.Load() > before })
		d.cmd, d.began = nil, roomy.take
		d.start()
		mail.goesOn(t, "after the kill")
	}
	mail.check(t)
	if list := d.command("domains"); !strings.Contains(list, "good.example") || !strings.Contains(list, fmt.Sprintf("d%d.example", destinations-1)) {
		t.Errorf("after %d kills: %s", kills, list)
	}
	t.Logf("%d kills by the kernel: %s", kills, mail)
}

// jumpy is a clock that jumps.
type jumpy struct {
	by   atomic.Int64 // nanoseconds it is ahead
	bare atomic.Bool  // without Go's second reading, by which durations are measured: as times are that come from the store
}

func (j *jumpy) now() time.Time {
	by := time.Duration(j.by.Load())
	if j.bare.Load() {
		return time.Now().Add(by).Round(0)
	}
	return jumped(time.Now(), by)
}

// jumped is what time.Now returns when the host's clock was set: the time of day jumps, the second reading goes on. A time.Time
// that has both begins with a word of a flag, 33 bits of seconds and 30 of nanoseconds.
func jumped(now time.Time, by time.Duration) time.Time {
	word := (*uint64)(pointers.Pointer(&now))
	*word += uint64(by/time.Second) << 30
	return now
}

// The host's clock jumps to and fro under load: what offers TLS is accepted all along, what doesn't never is, what was seen on a
// wrong clock isn't believed on the right one, pins and demands stay, and the monitor doesn't make haste.
func TestMTAHardClock(t *testing.T) {
	long(t)
	isolated(t)
	const hour, month = time.Hour, 30 * 24 * time.Hour
	if now := time.Now(); jumped(now, -hour).Sub(now) != 0 || !jumped(now, -hour).Round(0).Equal(now.Add(-hour).Round(0)) {
		t.Fatal("time.Time isn't what it was")
	}
	good := []testnet.Host{{}}
	world := newWorld(t, testnet.Site{Domain: "past.example", Hosts: good}, testnet.Site{Domain: "future.example", Hosts: good},
		testnet.Site{Domain: "many.example", Hosts: good})
	shared := world.Hosts("many.example")[0]
	// These lose TLS at a jump, and have it again in the end. What was good on the clock before is then long ago, or from the future.
	fading := map[string]int{"past.example": 2, "future.example": 1}
	dir := t.TempDir()
	url := "sqlite://" + filepath.Join(dir, "tlsonly.db")

	// What the monitor looks after: there is no mail for it.
	const known = 300
	var records strings.Builder
	var quiet []addr.Destination
	for i := range known {
		quiet = append(quiet, addr.MustDestination(fmt.Sprintf("d%d.example", i)))
		fmt.Fprintf(&records, "%s. 60 IN MX 10 mx1.many.example.\n", quiet[i])
	}
	if err := world.AddRecords(records.String()); err != nil {
		t.Fatal(err)
	}
	ctx := patient(t)
	s, err := store.Open(ctx, store.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range quiet {
		_, err := s.RaiseDemand(ctx, to, store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128})
		if err == nil {
			_, err = s.Pin(ctx, to, "rule:clinic")
		}
		if err == nil {
			_, err = s.RecordAssessment(ctx, store.Result{Destination: to, When: time.Now(), OK: true, Next: time.Now().Add(hour / 2)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	var clock jumpy
	d, stop := serveHere(t, dir, daemonHead+"[socketmap]\nlisten = \"inet:127.0.0.1:8690\"\n[monitor]\nevery = \"1m\"\n"+clinicRule, url, clock.now)
	_, m := startPostfix(t, map[string]string{"smtp_tls_policy_maps": "socketmap:inet:127.0.0.1:8690:policy"}, nil)
	accepted := func(to, when string) {
		t.Helper()
		waitFor(t, "acceptance for "+to+" "+when, func() bool { got, err := answer(to); return err == nil && got == "c" })
	}
	for domain := range fading {
		accepted("u@"+domain, "at first")
	}
	// The monitor takes four times what keeps pace with all that is known, at each tick.
	const tick, batch, mx = 5 * time.Second, 4*(known+10)*5/60 + 1, 15
	monitored := func() (n int) {
		for _, to := range quiet {
			n += world.DNS.Queries(to.Host().String(), mx)
		}
		return n
	}
	mail := startLoad(t, world, m.address, 4)
	start, jumps := time.Now(), 0
	for round := range soak(2, 12) {
		// Every other round all times are bare, so that nothing in memory is measured but by the clock that jumps.
		bare := round%2 == 1
		// Each jump goes further than those before: what was seen in one is from the past or the future in the next.
		hours := time.Duration(round+1) * hour
		for i, by := range []time.Duration{hours, -hours, month + hours, -month - hours, 0} {
			right := by == 0
			for domain, from := range fading {
				if right {
					world.Hosts(domain)[0].SetFault(testnet.NoFault)
				} else if bare && i == from {
					world.Hosts(domain)[0].SetFault(testnet.NoSTARTTLS)
				}
			}
			began, looks := time.Now(), monitored()
			clock.by.Store(int64(by))
			clock.bare.Store(bare)
			jumps++
			when := fmt.Sprintf("with the clock %s ahead, bare %t", by, bare)
			mail.goesOn(t, when)
			for domain, from := range fading {
				if right {
					accepted("u@"+domain, when)
				} else if bare && i >= from {
					if got, err := answer("u@" + domain); err != nil || got[0] != 'y' {
						t.Errorf("%s: an answer for %s, which lost TLS: %q, %v", when, domain, got, err)
					}
				}
			}
			if bare && i == 3 { // the last one in which they have none
				waitFor(t, "a loss of TLS to be stored "+when, func() bool {
					for domain := range fading {
						_, _ = answer("u@" + domain) // it may take two probes
					}
					return d.ledger.Stats().Events[store.LostTLS] > 0
				})
			}
			if bare && i == 2 { // all are due
				waitFor(t, "looks by the monitor "+when, func() bool { return monitored() >= looks+batch*9/10 })
				if n := monitored() - looks; n > batch*(1+int(time.Since(began)/tick)) {
					t.Errorf("%s: %d looks by the monitor in %s", when, n, time.Since(began))
				}
			}
		}
	}
	mail.check(t)
	probes := 0
	for _, command := range world.Hosts("good.example")[0].Commands() {
		if command == "EHLO mail.clinic.example" { // nobody else's name
			probes++
		}
	}
	most := 2*jumps + int(time.Since(start)/(10*time.Second))
	t.Logf("%d jumps in %s: %s; %d looks at the host of good.example; by the monitor %d at %d destinations, for which %d at their host did",
		jumps, time.Since(start).Round(time.Millisecond), mail, probes, monitored(), known, shared.Connections())
	if probes > most || shared.Connections() > most || probes < 2 || shared.Connections() == 0 {
		t.Errorf("more than %d looks at a host, or none", most)
	}
	if n := monitored(); n > batch*(1+int(time.Since(start)/tick)) {
		t.Errorf("%d looks by the monitor in %s", n, time.Since(start))
	}
	if slowest := time.Duration(mail.slowest.Load()); slowest > 15*time.Second {
		t.Errorf("an answer took %s", slowest)
	}
	if n := d.server.Stats().Panics + d.maps.Stats().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
	events := d.ledger.Stats().Events
	stop()

	ctx = patient(t)
	if s, err = store.Open(ctx, store.Config{URL: url}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, to := range append(quiet, addr.MustDestination("good.example"), addr.MustDestination("self.example"),
		addr.MustDestination("past.example"), addr.MustDestination("future.example")) {
		if e, err := s.Get(ctx, to); err != nil || e.Pin == nil || e.Demand.Level != policy.LevelEncrypt || !d.ledger.Pinned(to) {
			t.Errorf("%s: %v, pin %v, demand %v", to, err, e.Pin, e.Demand)
		}
	}
	if events[store.Unpinned] != 0 || events[store.LostTLS] == 0 {
		t.Errorf("changes seen: %v", events)
	}
}

// serveHere runs the daemon in this process, by a clock of the test's, until stop or the end of the test.
func serveHere(t *testing.T, dir, text, url string, now func() time.Time) (d *service, stop func()) {
	t.Helper()
	file := filepath.Join(dir, "tlsonly.toml")
	if err := os.WriteFile(file, []byte(text+fmt.Sprintf("\n[store]\nurl = %q\n", url)), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if d, err = newService(ctx, file, c, newLog(out, c.Log, new(slog.LevelVar)), now); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		out.Close()
		log, err := os.ReadFile(out.Name())
		if err != nil || strings.Contains(string(log), "panic") {
			t.Errorf("the daemon's log says panic, or nothing: %v", err)
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", log)
		}
	})
	t.Cleanup(stop)
	waitFor(t, "the daemon to listen", func() bool {
		conn, err := net.Dial("tcp", milterAddress)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return d, stop
}
