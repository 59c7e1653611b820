package postfix

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/mta"
	"tlsonly/internal/place"
)

// CheckBinding is the core of Doctor: what of the instance's own settings binds it, and
// whether it runs with them. The daemon looks so every few minutes, as its own
// user: it needs no privileges, says what it can't see, sends no mail, and asks
// neither the daemon nor the site's databases. Routes, relays, clients, senders
// and aliases, which tables of the site decide, are left to Doctor.
//
// The files are known even where there is an error, which is for a Postfix
// whose settings can't be read.
func CheckBinding(ctx context.Context, s Settings, i Instance) (mta.Inspection, error) {
	dir := i.Dir
	if dir == "" {
		dir = place.Postfix
	}
	look := mta.Inspection{Files: []string{filepath.Join(dir, "main.cf"), filepath.Join(dir, "master.cf")}}
	f, err := readSettings(ctx, i)
	if err != nil {
		return look, err
	}
	s = s.withDefaults()
	// Nobody is asked for them.
	s.Protected, s.Destinations = nil, nil
	d := doctor{Settings: s, Facts: f, instance: i, away: true, core: true, until: time.Now()}
	look.Files = d.readFiles()
	if d.milter, err = f.socket(s.Milter); err != nil {
		return look, err
	}
	if d.smap, err = f.socket(s.Socketmap); err != nil {
		return look, err
	}
	d.milters(ctx)
	if mta.Fails(d.findings) {
		// A service without our milter may be where a content filter gives mail
		// back; that a FILTER action leads to one is seen in tables only.
		d.findings = nil
		d.filters(ctx)
		d.findings = nil
		d.milters(ctx)
	}
	d.version()
	d.running(ctx)
	d.transports(ctx)
	d.senderMap(ctx)
	d.policies(ctx)
	look.Findings = d.findings
	return look, nil
}

// readFiles are those on which what CheckBinding finds rests.
func (d *doctor) readFiles() []string {
	files := []string{filepath.Join(d.Dir, "main.cf"), filepath.Join(d.Dir, "master.cf"),
		filepath.Join(d.value("queue_directory"), "pid", "master.pid")}
	for _, name := range ourFiles() {
		files = append(files, filepath.Join(d.Dir, name))
	}
	var tables []string
	for _, name := range []string{senderMaps, policyMaps, "smtpd_milter_maps"} {
		for _, at := range d.settings(name, "trivial-rewrite", "smtp", "smtpd") {
			tables = append(tables, splitList(at.value)...)
		}
	}
	files = append(files, tableFiles(tables)...)
	slices.Sort(files)
	return slices.Compact(files)
}

// PlanFiles are the files on which what setup writes rests, in their order: those
// that it writes itself, and the site's tables of routes, as far as they are
// files.
func (f Facts) PlanFiles() []string {
	files := []string{filepath.Join(f.Dir, "main.cf"), filepath.Join(f.Dir, "master.cf"), RecordPath(f.Dir)}
	for _, name := range ourFiles() {
		files = append(files, filepath.Join(f.Dir, name))
	}
	for _, name := range []string{senderMaps, "transport_maps"} {
		files = append(files, tableFiles(splitList(f.value(name)))...)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// tableFiles are the files of tables: what is asked, and the text beside it.
func tableFiles(tables []string) []string {
	var files []string
	for _, table := range tables {
		kind, path, _ := strings.Cut(strings.TrimPrefix(table, "proxy:"), ":")
		if !filepath.IsAbs(path) || slices.Contains(queriedTypes, kind) {
			continue
		}
		files = append(files, path)
		if suffix := map[string]string{"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}[kind]; suffix != "" {
			files = append(files, path+suffix)
		}
	}
	return files
}

// runningSeen is running for who can't read the file of master(8): master
// listens for these as long as it runs, and postdrop(1) wakes the first in the
// same way. A site may do without one of them.
func (d *doctor) runningSeen(ctx context.Context) {
	var path string
	var master int
	var err error
	for _, name := range []string{"pickup", "qmgr", "cleanup"} {
		path = filepath.Join(d.value("queue_directory"), "public", name)
		if master, err = listener(ctx, path); err == nil || errors.Is(err, fs.ErrPermission) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.warn("not-looked-at", path, "make the daemon's user a member of the group "+d.value("setgid_group"),
			"whether postfix runs cannot be looked into: %v", err)
	case err != nil:
		d.stopped = true
		d.down("postfix-down", filepath.Dir(path), "postfix start",
			"postfix doesn't run, so no mail is accepted and none leaves (%v)", err)
	default:
		d.ok("postfix-running", "", "postfix runs")
		if _, err := qmgrStart(master); err != nil {
			d.warn("not-looked-at", "qmgr", "tlsonly doctor, as root",
				"it cannot be looked into whether postfix has read its files, because this user can't see its processes")
			return
		}
		d.reloaded(ctx, master)
	}
}

// listener returns the process that listens at a socket, 0 where that can't be
// seen.
func listener(ctx context.Context, path string) (int, error) {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return peer(conn.(*net.UnixConn)), nil
}
