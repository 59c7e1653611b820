package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tlsonly/internal/mta"
)

// A running Postfix reads its files at a reload. A service that has left
// master.cf needs more: its processes are killed at the reload, and the master
// waits for them in a loop. Where a unit of systemd takes CAP_KILL from it, as
// Debian 13's does, it may not kill them, so while one of them is delivering the
// master does nothing else, and no mail is taken. A restart ends them first.

// How says what makes a Postfix use its files.
type How string

// The ways, the mildest first.
const (
	NotRunning How = "not running" // it reads them when it starts
	Reload     How = "reload"
	Restart    How = "restart" // because a service has left master.cf
)

// Renewal is what makes a running Postfix use its files as they are now.
type Renewal struct {
	How     How
	Leaving []string // services that it has and master.cf hasn't, by name or port
	Silent  bool     // it didn't answer after a reload
	Command string   // for a shell; "" where only who started Postfix can restart it
	byHand  string   // what to do where there is no command
	args    []string // the same, of systemctl; nil: Postfix's own commands
}

// Renewal says how a Postfix must be told of its files. f is what they say now.
// Error: which services the master has can't be seen, as for users other than
// root; then How is Restart, which is right in any case.
func (f Facts) Renewal() (Renewal, error) {
	master, err := lockHolder(f.masterPID())
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && master == 0:
		return Renewal{How: NotRunning, Command: f.start()}, nil
	case err != nil:
		return f.restart(0), err
	}
	leaving, err := f.leaving(master)
	if err != nil || len(leaving) > 0 {
		r := f.restart(master)
		if r.Leaving = leaving; err != nil || r.Command != "" || !mayKill(master) {
			return r, err
		}
		// In the foreground, but it can end the processes of what leaves.
	}
	return Renewal{How: Reload, Command: f.command("reload")}, nil
}

func (f Facts) masterPID() string {
	return filepath.Join(f.value("queue_directory"), "pid", "master.pid")
}

func (f Facts) command(verb string) string { return "postfix -c " + quote(f.Dir) + " " + verb }

// start says how a Postfix that doesn't run is started.
func (f Facts) start() string {
	if underSystemd() && f.Dir == "/etc/postfix" {
		return "systemctl start postfix"
	}
	return f.command("start")
}

// restart says how the Postfix with that master is restarted; 0 is one that
// can't be seen.
func (f Facts) restart(master int) Renewal {
	byHand := f.command("stop") + "; " + f.command("start")
	if unit := unitOf(master); unit != "" {
		return Renewal{How: Restart, Command: "systemctl restart " + unit, args: []string{"restart", unit}}
	}
	switch {
	case master == 0 && underSystemd() && f.Dir == "/etc/postfix":
		return Renewal{How: Restart, Command: "systemctl restart postfix"}
	case master != 0 && !detached(master):
		return Renewal{How: Restart, byHand: f.foreground(master)}
	}
	return Renewal{How: Restart, Command: byHand}
}

// foreground says how a Postfix in the foreground is restarted: by whoever has
// started it, once it has ended.
func (f Facts) foreground(master int) string {
	if master == 1 {
		return "restart the container: postfix is its first process"
	}
	starter := "what has started it"
	if parent := parentOf(master); parent > 0 {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent)); err == nil {
			starter = fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(name)), parent)
		}
	}
	return fmt.Sprintf("%s, and have %s start it again; in a container, restart the container",
		f.command("stop"), starter)
}

// parentOf returns the parent of a process, 0 where that can't be seen.
func parentOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// proc(5): pid (command) state ppid; a command may have brackets.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

func underSystemd() bool {
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return err == nil
}

// unitOf returns the unit of systemd that runs a master, "" for none: cgroups(7).
// A Postfix that was started by hand is in the unit of whoever did that.
func unitOf(master int) string {
	if master == 0 || !underSystemd() {
		return ""
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", master))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 || parts[0] != "0" && parts[1] != "name=systemd" {
			continue
		}
		unit := path.Base(parts[2])
		if strings.HasPrefix(unit, "postfix") && strings.HasSuffix(unit, ".service") {
			return unit
		}
	}
	return ""
}

// Unit returns the unit of systemd that runs this Postfix, "" for none, and
// where it doesn't run.
func (f Facts) Unit() string {
	master, err := lockHolder(f.masterPID())
	if err != nil {
		return ""
	}
	return unitOf(master)
}

// detached reports whether `postfix start` has started a master, so that it can
// be started again. One in the foreground, as in containers, belongs to its
// supervisor: master(8), options -i and -s, and -d of older ones.
func detached(master int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", master))
	return err == nil && slices.Contains(strings.Split(string(text), "\x00"), "-w")
}

const capKill = 5 // CAP_KILL: capabilities(7)

// mayKill reports whether a process may signal those of other users.
func mayKill(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && set&(1<<capKill) != 0
		}
	}
	return false
}

// leaving names what a master listens for and master.cf has no more. A service
// for a port is known by the number alone, so that an address may change.
func (f Facts) leaving(master int) ([]string, error) {
	sockets, err := socketsOf(master)
	if err != nil {
		return nil, err
	}
	var found []string
	known := make(map[string]bool)
	for _, s := range f.Services {
		if s.Type == "inet" {
			known[portOf(s.Name)] = true
		} else {
			known[s.Name] = true
		}
	}
	add := func(name string) {
		if !known[name] && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	for _, protocol := range []string{"tcp", "tcp6"} {
		err = errors.Join(err, procNet(master, protocol, 10, func(fields []string) {
			const listening = "0A"
			_, hex, _ := strings.Cut(fields[1], ":")
			port, bad := strconv.ParseUint(hex, 16, 16)
			if sockets[fields[9]] && fields[3] == listening && bad == nil {
				add(strconv.FormatUint(port, 10))
			}
		}))
	}
	err = errors.Join(err, procNet(master, "unix", 8, func(fields []string) {
		// Below the queue directory, where the master is: private/smtp.
		if dir := path.Base(path.Dir(fields[7])); sockets[fields[6]] && (dir == "private" || dir == "public") {
			add(path.Base(fields[7]))
		}
	}))
	slices.Sort(found)
	return found, err
}

// portOf returns the number of the port that a service of type inet is for.
func portOf(name string) string {
	port := name
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		port = name[i+1:]
	}
	if number, err := net.LookupPort("tcp", port); err == nil {
		return strconv.Itoa(number)
	}
	return port
}

// socketsOf returns the inodes of a process's sockets: proc(5).
func socketsOf(pid int) (map[string]bool, error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err == nil && len(names) == 0 {
		_, err = os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)) // which says why
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, name := range names {
		target, err := os.Readlink(name)
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			found[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return found, nil
}

// procNet calls do with the fields of each line of a table of sockets, as the
// process sees them, that has at least so many.
func procNet(pid int, table string, least int, do func(fields []string)) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= least {
			do(fields)
		}
	}
	return err
}

// renewTime is how long a restart may take, answerTime how long a reload may keep
// Postfix from answering, and settleTime until it has read its files on a machine
// that is busy.
const (
	renewTime  = time.Minute
	answerTime = 10 * time.Second
	settleTime = 30 * time.Second
)

// Renew makes the running Postfix of the instance use its files, and returns
// when it answers again: by a reload, by a restart where a service has left
// master.cf or where it doesn't answer after the reload. It starts none that
// doesn't run. Error: it doesn't answer, its files aren't fit for a reload, or
// this must be done by hand.
func (i Instance) Renew(ctx context.Context) (Renewal, error) {
	f, err := readSettings(ctx, i)
	if err != nil {
		return Renewal{}, err
	}
	r, err := f.Renewal()
	if err != nil {
		return r, fmt.Errorf("it can't be seen which services postfix has: %w", err)
	}
	i.Dir = f.Dir
	if r.How == NotRunning {
		return r, nil
	}
	if err := f.Renewable(); err != nil {
		return r, err
	}
	if r.How == Reload {
		limited, cancel := context.WithTimeout(ctx, renewTime)
		_, _, err := i.run(limited, "", "postfix", "reload")
		late := limited.Err() != nil
		cancel()
		if err != nil && (!late || ctx.Err() != nil) {
			return r, err
		}
		if err == nil && f.answersWithin(ctx, answerTime) == nil {
			return r, nil
		}
		master, err := lockHolder(f.masterPID())
		if err != nil {
			return r, err
		}
		r = f.restart(master)
		r.Silent = true
	}
	if r.Command == "" {
		return r, fmt.Errorf("postfix runs in the foreground, and %s", r.Why())
	}
	if err := f.doRestart(ctx, i, r); err != nil {
		return r, err
	}
	return r, f.answersWithin(ctx, renewTime)
}

func (f Facts) doRestart(ctx context.Context, i Instance, r Renewal) error {
	ctx, cancel := context.WithTimeout(ctx, 2*renewTime)
	defer cancel()
	if r.args != nil {
		systemctl, err := Instance{}.find("systemctl")
		if err != nil {
			return err
		}
		_, _, err = output(exec.CommandContext(ctx, systemctl, r.args...)) // #nosec G204 -- of a unit that runs
		return err
	}
	if _, _, err := i.run(ctx, "", "postfix", "stop"); err != nil {
		return err
	}
	// The command may return while the master is still ending.
	err := poll(ctx, renewTime, func() error {
		pid, err := lockHolder(f.masterPID())
		if err == nil && pid != 0 {
			err = fmt.Errorf("process %d, the master, has not ended", pid)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, _, err = i.run(ctx, "", "postfix", "start")
	return err
}

// answersWithin waits until Postfix answers.
func (f Facts) answersWithin(ctx context.Context, limit time.Duration) error {
	return poll(ctx, limit, func() error { return f.answers(ctx, limit) })
}

// poll asks until there is no error, or returns the last one after some time.
func poll(ctx context.Context, limit time.Duration, ask func() error) error {
	for end := time.Now().Add(limit); ; {
		err := ask()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers asks showq(8), which the master starts for whoever connects: one that
// does nothing any more takes the connection, and nobody answers.
func (f Facts) answers(ctx context.Context, limit time.Duration) error {
	s, ok := f.service(f.value("showq_service_name"), "unix")
	if !ok {
		return nil // nobody can be asked
	}
	dir := "private"
	if s.Columns[0] == "n" {
		dir = "public"
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(f.value("queue_directory"), dir, s.Name))
	if err != nil {
		return err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	_ = conn.SetDeadline(end)
	var first [1]byte
	if _, err = conn.Read(first[:]); err != nil {
		return fmt.Errorf("the master starts no process for clients: %w", err)
	}
	return nil
}

// alive looks whether the master does its work.
func (d *doctor) alive(ctx context.Context, master int) {
	err := d.answersWithin(ctx, answerTime)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EACCES):
		d.warn("not-looked-at", "showq", "run as root", "it is not known whether postfix answers: %v", err)
	default:
		d.down("postfix-silent", d.masterPID(), d.restart(master).Words(),
			"postfix runs, but doesn't answer, so no mail is accepted: %v", err)
	}
}

// reload says what makes the running Postfix use its files.
func (d *doctor) reload() string {
	r, err := d.Renewal()
	if err == nil && r.How == Restart {
		return r.Words() + "; not a reload, because " + r.Why()
	}
	return r.Words()
}

// Words is the command, or who has to do it.
func (r Renewal) Words() string {
	if r.Command == "" {
		return r.byHand
	}
	return r.Command
}

// Why says why a restart is needed.
func (r Renewal) Why() string {
	if r.Silent {
		return "it didn't answer after a reload"
	}
	return "these services have left master.cf: " + strings.Join(r.Leaving, " ")
}

// Running reports whether Postfix runs, answers, uses its files as they are
// and, unless it is unbound, knows the transports: what Doctor says of that.
func Running(ctx context.Context, s Settings, i Instance, bound bool) ([]mta.Finding, error) {
	f, err := readSettings(ctx, i)
	if err != nil {
		return nil, err
	}
	d := doctor{Settings: s.withDefaults(), Facts: f, instance: i, postfix: f.owner()}
	d.until = time.Now().Add(s.Patience)
	if s.Patience == 0 {
		d.until = time.Now().Add(settleTime)
	}
	d.running(ctx)
	for _, name := range d.Settings.transports() {
		if service, ok := d.service(name, "unix"); ok && bound {
			d.checkListening(ctx, service)
		}
	}
	return d.findings, nil
}
