package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Files say what Postfix will be, its processes what it is. What a reload has
// taken out of master.cf keeps its socket file, and what was put in since isn't
// known, so nothing is "ok" here that the processes haven't said.

// running looks whether Postfix runs, and whether it runs with the files as
// they are.
func (d *doctor) running(ctx context.Context) {
	if !d.core {
		d.logged()
	}
	path := d.masterPID()
	pid, err := lockHolder(path)
	if d.core && errors.Is(err, fs.ErrPermission) {
		d.runningSeen(ctx)
		return
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.stopped = true
		d.warn("not-looked-at", path, "run as root",
			"it is not known whether postfix runs with these settings: run as root")
		return
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		d.stopped = true
		d.warn("not-looked-at", path, "find out why it can't be read",
			"it is not known whether postfix runs: %v", err)
		return
	case pid == 0:
		d.stopped = true
		d.down("postfix-down", path, d.start(),
			"postfix doesn't run, so no mail is accepted and none leaves")
		return
	}
	d.reloaded(ctx, pid)
	d.alive(ctx, pid)
}

// lockHolder returns the process that holds the lock on the file of master(8), 0
// for none.
func lockHolder(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// SECURITY: master(8) takes it for itself at its start and fails without,
	// so it is given back at once.
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); {
	case err == nil:
		return 0, syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	case !errors.Is(err, syscall.EWOULDBLOCK):
		return 0, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return pid, nil
}

// reloaded compares the files with the start of qmgr, which a reload starts
// anew.
func (d *doctor) reloaded(ctx context.Context, master int) {
	var stale []string
	var unknown error
	d.within(ctx, func() bool {
		var started time.Time
		if started, unknown = qmgrStart(master); unknown != nil {
			return false
		}
		stale = d.changedSince(started)
		return len(stale) == 0
	})
	switch {
	case unknown != nil:
		d.warn("not-looked-at", "qmgr", d.reload()+", to be sure",
			"it is not known whether postfix has read its settings: %v", unknown)
	case len(stale) > 0:
		d.hole("not-reloaded", stale[0], d.reload(),
			"%s changed after postfix read it, so postfix doesn't do what its files say",
			strings.Join(stale, ", "))
	default:
		d.ok("postfix-running", "", "postfix runs, with its settings as they are in the files")
	}
}

// within asks until the answer is yes, as long as a reload may take that was
// asked for just before doctor began.
func (d *doctor) within(ctx context.Context, yes func() bool) {
	for !yes() && time.Now().Before(d.until) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// changedSince names the files that a process that started then can't know. The
// time of the inode counts: a copy that is put back keeps the time of its text.
func (d *doctor) changedSince(started time.Time) []string {
	var stale []string
	files := []string{"main.cf", "master.cf"}
	for _, name := range ourFiles() {
		if _, ok := d.Files[filepath.Join(d.Dir, name)]; ok {
			files = append(files, name)
		}
	}
	for _, name := range files {
		path := filepath.Join(d.Dir, name)
		if info, err := os.Stat(path); err == nil && changed(info).After(started.Add(clockGrain)) {
			stale = append(stale, path)
		}
	}
	return stale
}

// clockGrain is how exactly the start of a process is known.
const clockGrain = 30 * time.Millisecond

// qmgrStart returns when the queue manager of a master process started:
// proc(5).
func qmgrStart(master int) (time.Time, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(names) == 0 {
		return time.Time{}, errors.New("there is no /proc")
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
		if open < 0 || end < open {
			continue
		}
		fields := strings.Fields(string(text[end+1:])) // from field 3, the state
		if program := string(text[open+1 : end]); program != "qmgr" && program != "nqmgr" ||
			len(fields) < 20 || fields[1] != strconv.Itoa(master) {
			continue
		}
		ticks, err := strconv.ParseInt(fields[19], 10, 64) // field 22
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", name, err)
		}
		boot, err := bootTime()
		return boot.Add(time.Duration(ticks) * time.Second / userHZ), err
	}
	return time.Time{}, fmt.Errorf("process %d, the master, has no qmgr", master)
}

// userHZ is the unit of times in proc(5), on every architecture that Go knows.
const userHZ = 100

func bootTime() (time.Time, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	first, _, _ := strings.Cut(string(text), " ")
	up, err := strconv.ParseFloat(first, 64)
	return now.Add(-time.Duration(up * float64(time.Second))), err
}

// checkListening looks whether the running master listens for a transport. The file of
// its socket proves nothing: a reload leaves it.
func (d *doctor) checkListening(ctx context.Context, s Service) {
	if d.stopped || d.core {
		return // a finding by itself; or master(8) would start a process at each look
	}
	dir := "private"
	if s.Columns[0] == "n" {
		dir = "public"
	}
	path := filepath.Join(d.value("queue_directory"), dir, s.Name)
	var failed error
	d.within(ctx, func() bool {
		conn, err := net.DialTimeout("unix", path, 5*time.Second)
		if failed = err; err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	switch {
	case failed == nil:
	case errors.Is(failed, fs.ErrPermission):
		d.warn("not-looked-at", path, "run as root",
			"it is not known whether postfix knows transport %s: run as root", s.Name)
	default:
		d.hole("transport-unknown", inMaster(s), d.reload(),
			"the running postfix doesn't know transport %s (%v), so mail of its senders leaves by "+
				"another one, or waits", s.Name, failed)
	}
}
