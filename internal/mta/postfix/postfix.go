// Package postfix answers what a Postfix must be told so that mail of protected
// senders leaves it over TLS only, tells it so, takes it back, and finds out
// whether it is still so: Read, Plan, Setup.Apply, PlanUndo, Doctor, Probe.
//
// Plan is pure: the settings and what postconf(1) says of the running instance
// give a Setup, a list of changes to main.cf, master.cf and files of our own
// beside them. What is ours is told apart by its shape: entries of lists as
// setup writes them, with the sockets of the daemon, the transports tlsonly,
// tlsonly1 and so on, and files that begin with tlsonly_. A record of what was
// written, and of what stood there before, is kept beside main.cf: it makes
// undo exact, and knows entries with sockets that are no more. Whatever else
// stands in those lists stays where it is. It knows Postfix 3.0 and later:
// postconf(5), master(5), socketmap_table(5).
//
// It decides neither who is protected nor what is asked of a destination: it
// binds Postfix to whoever answers at the socket map. Renew makes the running
// Postfix use what Apply has written. Apply needs root, Doctor what it is to
// look at: without root it can't ask as the user that Postfix is.
package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/instance"
	"tlsonly/internal/policy"
)

// Settings is what Postfix is to be bound to.
type Settings struct {
	// Milter and Socketmap are where the daemon listens: "inet:host:port", or "unix:path", relative to Postfix's queue
	// directory or absolute.
	Milter, Socketmap string
	Deadline          time.Duration    // a recipient is answered by then; 0: 20 s
	Classes           []Class          // one numbered transport each
	Senders           contract.Senders // "": contract.SendersMap
	Table             []Entry          // the static table, for SendersTable
	Others            contract.Others  // "": contract.OthersPinned
	Bounces           contract.Bounces // "": contract.BouncesEncrypt
	OnLost            contract.OnLost  // "": contract.OnLostDefer
	Gateway           Gateway          // zero: none
	Enforces          bool             // some rule does, whoever the sender is: such mail is held then
	HideHeader        bool             // take the header TLS-Only off protected mail when it leaves
	DANE              bool             // policies answered may ask for DANE
	CAFile            string           // authorities for them; "": the site's, or the system's
	Ends              []string         // rules that end, and when, for SendersTable
	Reports           bool             // policies answered have what TLS reports need, which Postfix knows since 3.10
	Local             []string         // domains that the daemon takes as delivered here
	Homes             []Home           // next hops to protected senders, which the daemon holds
	Forwarding        Forwarding       // what bounces are sent on to; nil: nobody can tell
	Read              string           // the directory of the configuration that the daemon reads itself, "" for none

	// Whose says whether it is this daemon that answers at an endpoint; nil:
	// nobody can tell. It is asked of milters that the site has written into its
	// lists itself.
	Whose func(endpoint string) (ours bool, err error)

	// What only Doctor looks at.
	Daemon       instance.Identity // who is to answer; zero: any daemon of this kind
	Relays       []string          // next hops that it knows as relays, as Postfix writes them
	Former       [][]Entry         // what Table was before rules of the file ended
	UserRules    bool              // some rule names senders by their login
	Verified     bool              // some rule wants mail to come in with a verified certificate
	Protected    []addr.Address    // senders of whom the binding is to be proved, with at least one of each class
	Destinations []string          // next hops of which the level is to be proved, as Postfix writes them
	Keep         time.Duration     // how long what binds accepted mail lasts; 0: 6 days
	Patience     time.Duration     // how long a reload may take before its effect is missed; 0: 2 s

	Forms        addr.Forms // in which senders come
	WholeDomains bool       // some rule protects all senders of a domain

	// Protects says how many of the senders that a pattern selects are
	// protected; nil: those in Protected.
	Protects func(addr.Pattern) Share
	// Excepts reports whether a rule exempts mail to a domain; nil: none does.
	Excepts func(addr.Domain) bool
}

// Share is a part of something.
type Share int

// The shares.
const (
	None Share = iota
	Some
	All
)

// Class is a set of senders with a transport of its own.
type Class struct {
	Number     int            // of the transport and its map, from 1
	MinVersion policy.Version // lowest TLS version its rules take; 0: 1.2
}

// Entry gives the senders that a pattern selects a transport, "tlsonly1" for one; "" exempts them. Of several patterns the
// nearest counts, in whatever order they come.
type Entry struct {
	Pattern   addr.Pattern
	Transport string
}

func (s Settings) withDefaults() Settings {
	if s.Deadline == 0 {
		s.Deadline = 20 * time.Second
	}
	if s.Senders == "" {
		s.Senders = contract.SendersMap
	}
	if s.Others == "" {
		s.Others = contract.OthersPinned
	}
	if s.Bounces == "" {
		s.Bounces = contract.BouncesEncrypt
	}
	if s.OnLost == "" {
		s.OnLost = contract.OnLostDefer
	}
	if s.Keep == 0 {
		s.Keep = 6 * 24 * time.Hour
	}
	if s.Patience == 0 {
		s.Patience = reloadTime
	}
	if s.Protects == nil {
		s.Protects = func(p addr.Pattern) Share {
			share := None
			for _, a := range s.Protected {
				switch {
				case p.Kind() == addr.Exact && p.Match(a):
					return All
				case p.Match(a):
					share = Some
				}
			}
			return share
		}
	}
	if s.Excepts == nil {
		s.Excepts = func(addr.Domain) bool { return false }
	}
	return s
}

// transports returns the names of our transports: the strict one, then one a class.
func (s Settings) transports() []string {
	names := []string{transportPrefix}
	for _, c := range s.Classes {
		names = append(names, contract.Transport(c.Number, ""))
	}
	return names
}

// An Instance is one Postfix, by its configuration directory. The zero value is the one that Postfix's own commands take:
// that of MAIL_CONFIG, or the system's.
type Instance struct {
	Dir      string
	Commands string // the directory of Postfix's commands, or postconf itself; "": where they are found
}

// run runs one of Postfix's commands for the instance, in dir ("": anywhere), and returns what it wrote to both streams.
func (i Instance) run(ctx context.Context, dir, name string, args ...string) (stdout, stderr string, err error) {
	cmd, err := i.command(ctx, name, args...)
	if err != nil {
		return "", "", err
	}
	cmd.Dir = dir
	if name == "postfix" {
		return control(ctx, cmd)
	}
	return output(cmd)
}

// controlTime is how long postfix(1) may take: its check goes through the whole
// queue.
const controlTime = 5 * time.Minute

// control runs postfix(1). A reload leaves a postsuper(1) behind that goes through
// the queue and keeps the streams: they are a file, so that nobody waits for it.
// A command that takes too long is ended with what it has started.
func control(ctx context.Context, cmd *exec.Cmd) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	said, err := scratch("tlsonly-postfix")
	if err != nil {
		return "", "", err
	}
	defer said.Close()
	limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...) // #nosec G204 -- one of Postfix's commands, no shell
	limited.Dir, limited.Stdout, limited.Stderr = cmd.Dir, said, said
	limited.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	limited.Cancel = func() error { return syscall.Kill(-limited.Process.Pid, syscall.SIGKILL) }
	err = limited.Run()
	// Its own offset: the other's moves with each write.
	text, unread := io.ReadAll(io.NewSectionReader(said, 0, 1<<20))
	if err = errors.Join(err, unread); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		err = fmt.Errorf("%s: %w: %s", strings.Join(limited.Args, " "), err, bytes.TrimSpace(text))
	}
	return string(text), string(text), err
}

func (i Instance) command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path, err := i.find(name)
	if err != nil {
		return nil, err
	}
	if i.Dir != "" {
		dir, err := filepath.Abs(i.Dir)
		if err != nil {
			return nil, err
		}
		args = append([]string{"-c", dir}, args...)
	}
	cmd := exec.CommandContext(ctx, path, args...) // #nosec G204 -- one of Postfix's commands, no shell
	cmd.WaitDelay = time.Second
	return cmd, nil
}

func output(cmd *exec.Cmd) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		err = fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, said)
	}
	return out.String(), errs.String(), err
}

// Installed reports whether the instance's commands are on this host.
func (i Instance) Installed() bool { return i.Check() == nil }

// Check says why the instance's commands aren't found.
func (i Instance) Check() error {
	_, err := i.find("postconf")
	return err
}

// Directory returns the instance's configuration directory, as postconf(1) says it.
func (i Instance) Directory(ctx context.Context) (string, error) {
	out, _, err := i.run(ctx, "", "postconf", "-h", "config_directory")
	return strings.TrimSpace(out), err
}

// usualCommands are where Postfix puts its commands.
func usualCommands() []string {
	return []string{"/usr/sbin", "/usr/local/sbin", "/opt/postfix/usr/sbin"}
}

// find looks for a command of Postfix, also where they aren't in the path, as
// for users other than root.
func (i Instance) find(name string) (string, error) {
	if i.Commands != "" {
		dir := i.Commands
		if filepath.Base(dir) == "postconf" {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				dir = filepath.Dir(dir)
			}
		}
		path, err := exec.LookPath(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("find postfix's command %s where [forwarding] postconf says: %w", name, err)
		}
		return path, nil
	}
	path, err := exec.LookPath(name)
	for _, dir := range usualCommands() {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	if err != nil {
		return "", fmt.Errorf("find postfix's command %s: it is neither in PATH nor in %s: where it is elsewhere, say so in [forwarding] postconf: %w",
			name, strings.Join(usualCommands(), ", "), exec.ErrNotFound)
	}
	return path, nil
}

// Read asks postconf(1) for all that Plan and Doctor need to know, and lists the
// site's tables of senders.
func Read(ctx context.Context, i Instance) (Facts, error) {
	f, err := readSettings(ctx, i)
	if err == nil {
		f.SiteSenders = f.readSenders(ctx, i)
	}
	return f, err
}

// readSettings is Read but for the tables of senders: by postconf(1) alone.
func readSettings(ctx context.Context, i Instance) (Facts, error) {
	var text Postconf
	for _, ask := range []struct {
		flag string
		to   *string
	}{{"", &text.All}, {"-x", &text.Expanded}, {"-n", &text.Set}, {"-M", &text.Services}, {"-P", &text.Options}} {
		var args []string
		if ask.flag != "" {
			args = []string{ask.flag}
		}
		out, warnings, err := i.run(ctx, "", "postconf", args...)
		if err != nil {
			return Facts{}, fmt.Errorf("read the settings of postfix: %w", err)
		}
		*ask.to = out
		text.Warnings += warnings
	}
	f, err := text.Facts()
	if err != nil {
		return Facts{}, fmt.Errorf("read the settings of postfix: %w", err)
	}
	f.Bundle = systemBundle()
	for name, text := range map[string]*string{"main.cf": &f.main, "master.cf": &f.master} {
		b, err := os.ReadFile(f.path(name))
		if err != nil {
			return Facts{}, err
		}
		*text = string(b)
	}
	if f.record, err = readRecord(f.path(recordFile)); err != nil {
		return Facts{}, err
	}
	// A parameter of ours that nothing refers to any more is unknown to postconf -n.
	for _, b := range blocks(f.main) {
		name, _, ok := strings.Cut(f.main[b.from:b.to], "=")
		if name = strings.TrimSpace(name); !ok || !isOurParameter(name) {
			continue
		}
		if _, known := f.Set[name]; !known {
			f.Set[name] = ""
		}
	}
	for _, name := range append(ourFiles(), recordFile) {
		path := filepath.Join(f.Dir, name)
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return Facts{}, err
		}
		f.Files[path] = string(text)
	}
	return f, nil
}

// Queue returns what postqueue -j says: an object a line for each message.
func (i Instance) Queue(ctx context.Context) ([]byte, error) {
	out, _, err := i.run(ctx, "", "postqueue", "-j")
	return []byte(out), err
}
