package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where Debian, and every distribution known to us, puts Postfix; main.cf can't tell before there is one.
const (
	postfixMaster = "/usr/share/postfix/master.cf.dist" // services as shipped, no site's changes
	postfixPath   = "/usr/sbin:/usr/lib/postfix/sbin:/usr/libexec/postfix"
)

// PostfixConfig says what Postfix is to be like. The zero value listens on a free port of 127.0.0.1, relays for
// 127.0.0.0/8 by MX to port 25, and has no milter.
type PostfixConfig struct {
	Listen string            // address of the SMTP server, 127.0.0.1:PORT; default: a free port
	Root   string            // where its file system begins, as Postfix310 returns it; default: the installed Postfix
	Base   string            // existing directory, searchable by all and in Root too, to put its own one into; default: see TempDir
	Main   map[string]string // main.cf parameters, over the defaults of this package
	Master []string          // lines put at the end of master.cf
	Syslog bool              // it logs to the one /dev/log, as most do; default: to a file
	Logins map[string]string // SASL users and passwords; not empty: AUTH PLAIN is offered, without TLS too
}

// Postfix is a running Postfix.
type Postfix struct {
	journal
	Addr string // address of the SMTP server
	Dir  string // its own directory: etc, queue, data, log
	Etc  string // its configuration directory, for -c and MAIL_CONFIG
	Root string // as configured; Dir has the same path inside

	master *process
	logins *loginServer // nil without Logins
	syslog *syslog      // nil without Syslog
}

// StartPostfix starts Postfix and returns when its SMTP server listens. It works only where Isolated is nil. The caller must
// Stop it.
func StartPostfix(ctx context.Context, cfg PostfixConfig) (*Postfix, error) {
	p, err := startPostfix(ctx, cfg)
	if err == nil {
		return p, nil
	}
	if p != nil {
		err = fmt.Errorf("%w\n%s", err, tail(p.Log()))
		err = errors.Join(err, p.Stop())
	}
	return nil, fmt.Errorf("start postfix: %w", err)
}

// startPostfix returns what there is to stop also with an error.
func startPostfix(ctx context.Context, cfg PostfixConfig) (*Postfix, error) {
	// Outside it would deliver to the real network.
	if err := Isolated(); err != nil {
		return nil, err
	}
	dir, err := postfixDir(cfg.Base)
	if err != nil {
		return nil, err
	}
	p := &Postfix{Addr: cfg.Listen, Dir: dir, Etc: filepath.Join(dir, "etc"), Root: cfg.Root}
	log := filepath.Join(dir, "log")
	p.journal = journal{func() string {
		b, _ := os.ReadFile(log) // not there: nothing logged yet
		return string(b)
	}}
	if cfg.Syslog {
		if p.syslog, err = listenSyslog("/dev/log"); err != nil {
			return p, err
		}
		p.journal = journal{p.syslog.text}
	}
	if p.Addr == "" {
		if p.Addr, err = FreePort(); err != nil {
			return p, err
		}
	}
	if err := p.configure(cfg, log); err != nil {
		return p, err
	}
	// Makes the queue's directories, and finds what would only be seen as a hanging start.
	check, err := p.Command(ctx, "postfix", "-c", p.Etc, "check")
	if err != nil {
		return p, err
	}
	if _, err := run(check); err != nil {
		// The postfix command tells its reason to a terminal or to syslog only; postmap trips over the same settings aloud.
		_, reason := p.Run(ctx, "", "postmap", "-q", "x", "static:x")
		return p, errors.Join(err, reason)
	}
	if len(cfg.Logins) > 0 {
		if p.logins, err = listenLogins(filepath.Join(dir, "queue", "private", "auth"), cfg.Logins); err != nil {
			return p, err
		}
	}
	// Not `postfix start`: that detaches, and then only a pid file tells which process is ours.
	master, err := p.Command(context.WithoutCancel(ctx), "master", "-c", p.Etc, "-d")
	if err != nil {
		return p, err
	}
	if p.master, err = start(master, filepath.Join(dir, "master.out")); err != nil {
		return p, err
	}
	return p, p.master.waitPort(ctx, p.Addr)
}

func postfixDir(base string) (string, error) {
	if base == "" {
		return TempDir()
	}
	dir, err := os.MkdirTemp(base, "postfix-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// configure writes main.cf and master.cf and makes the directories they name.
func (p *Postfix) configure(cfg PostfixConfig, log string) error {
	uid, err := p.owner()
	if err != nil {
		return fmt.Errorf("postfix isn't installed: %w", err)
	}
	for _, d := range []string{"etc", "queue", "data"} {
		if err := os.Mkdir(filepath.Join(p.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(p.Dir, "data"), uid, -1); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		return err
	}
	main := map[string]string{
		"compatibility_level":      "3.6",
		"queue_directory":          filepath.Join(p.Dir, "queue"),
		"data_directory":           filepath.Join(p.Dir, "data"),
		"maillog_file":             log,
		"maillog_file_prefixes":    p.Dir,
		"inet_interfaces":          host,
		"inet_protocols":           "ipv4",
		"myhostname":               "mta.test",
		"mydestination":            "mta.test",
		"mynetworks":               "127.0.0.0/8",
		"alias_maps":               "",
		"alias_database":           "",
		"local_recipient_maps":     "",
		"append_dot_mydomain":      "no",
		"biff":                     "no",
		"smtpd_peername_lookup":    "no", // no PTR query in the way of a test that has no DNS
		"smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
	}
	if len(cfg.Logins) > 0 {
		main["smtpd_sasl_auth_enable"] = "yes"
		main["smtpd_sasl_type"] = "dovecot"
		main["smtpd_sasl_path"] = "private/auth"
	}
	if cfg.Syslog {
		delete(main, "maillog_file")
		delete(main, "maillog_file_prefixes")
	}
	maps.Copy(main, cfg.Main)
	var text bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(main)) {
		fmt.Fprintf(&text, "%s = %s\n", k, main[k])
	}
	if err := writeBackdated(filepath.Join(p.Etc, "main.cf"), text.Bytes()); err != nil {
		return err
	}
	shipped, err := os.ReadFile(filepath.Join(p.Root, postfixMaster))
	if err != nil {
		return err
	}
	services := masterServices(string(shipped), net.JoinHostPort(host, port), cfg.Master)
	return writeBackdated(filepath.Join(p.Etc, "master.cf"), []byte(services))
}

// owner returns the number of the user that Postfix runs as.
func (p *Postfix) owner() (int, error) {
	if p.Root == "" {
		owner, err := user.Lookup("postfix")
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(owner.Uid)
	}
	users, err := os.ReadFile(filepath.Join(p.Root, "etc", "passwd"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(users)) {
		if f := strings.Split(line, ":"); f[0] == "postfix" && len(f) > 2 {
			return strconv.Atoi(f[2])
		}
	}
	return 0, user.UnknownUserError("postfix")
}

// masterServices returns the shipped services with the SMTP server at listen, none in a chroot (sockets and files of the
// test lie outside it), and the caller's lines at the end.
func masterServices(shipped, listen string, more []string) string {
	var b strings.Builder
	for line := range strings.Lines(shipped) {
		f := strings.Fields(line)
		switch {
		case line[0] == '#', len(f) == 0:
			continue
		case line[0] == ' ' || line[0] == '\t': // continues the line above
			b.WriteString(line)
			continue
		}
		if f[0] == "smtp" && f[1] == "inet" {
			f[0] = listen
		}
		f[4] = "n"
		b.WriteString(strings.Join(f, " ") + "\n")
	}
	for _, line := range more {
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}

// writeBackdated writes a configuration file as if it had been there for a while: Postfix waits two seconds for one
// that is younger than that to settle.
func writeBackdated(path string, text []byte) error {
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	then := time.Now().Add(-time.Minute)
	return os.Chtimes(path, then, then)
}

// Command prepares one of Postfix's commands (postqueue, postsuper, postconf, postmap, sendmail …) for this instance.
func (p *Postfix) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	for dir := range strings.SplitSeq(postfixPath, ":") {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(filepath.Join(p.Root, path)); err == nil {
			cmd := exec.CommandContext(ctx, path, args...)
			p.Within(cmd)
			return cmd, nil
		}
	}
	return nil, fmt.Errorf("postfix's %s: not in %s", name, postfixPath)
}

// Within makes a command that isn't started yet see this instance as Postfix's own commands do: its root directory, and its
// configuration in MAIL_CONFIG.
func (p *Postfix) Within(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Environ(), "MAIL_CONFIG="+p.Etc)
	if p.Root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.Root}
		cmd.Dir = "/"
	}
}

// Run runs one of Postfix's commands with the given standard input and returns its standard output; the error carries what it
// printed.
func (p *Postfix) Run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd, err := p.Command(ctx, name, args...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := run(cmd)
	return string(out), err
}

// Set changes main.cf parameters of the running Postfix and makes it read them.
func (p *Postfix) Set(ctx context.Context, parameters map[string]string) error {
	var args []string
	for _, k := range slices.Sorted(maps.Keys(parameters)) {
		args = append(args, k+" = "+parameters[k])
	}
	if _, err := p.Run(ctx, "", "postconf", append([]string{"-e"}, args...)...); err != nil {
		return err
	}
	file := filepath.Join(p.Etc, "main.cf")
	then := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, then, then); err != nil {
		return err
	}
	_, err := p.Run(ctx, "", "postfix", "-c", p.Etc, "reload")
	return err
}

// A QueuedMessage is one line of `postqueue -j`.
type QueuedMessage struct {
	Queue      string            `json:"queue_name"` // active, deferred, hold, incoming, maildrop
	ID         string            `json:"queue_id"`
	Arrival    int64             `json:"arrival_time"` // seconds since 1970
	Size       int64             `json:"message_size"`
	Sender     string            `json:"sender"` // "MAILER-DAEMON" for the empty one
	Recipients []QueuedRecipient `json:"recipients"`
}

// A QueuedRecipient is a recipient that hasn't got the message yet.
type QueuedRecipient struct {
	Address string `json:"address"`
	Reason  string `json:"delay_reason"` // empty before the first try
}

// Queue returns the messages in the queue.
func (p *Postfix) Queue(ctx context.Context) ([]QueuedMessage, error) {
	out, err := p.Run(ctx, "", "postqueue", "-j")
	if err != nil {
		return nil, err
	}
	var queue []QueuedMessage
	d := json.NewDecoder(strings.NewReader(out))
	for {
		var m QueuedMessage
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return queue, nil
		case err != nil:
			return nil, fmt.Errorf("output of postqueue: %w", err)
		}
		queue = append(queue, m)
	}
}

// Stop ends Postfix, waits until its processes are gone and removes its directory. The log can still be read; a
// second Stop does nothing.
func (p *Postfix) Stop() error {
	var errs []error
	if p.master != nil {
		errs = append(errs, p.master.stop())
		p.master = nil
	}
	if p.logins != nil {
		errs = append(errs, p.logins.Close())
		p.logins = nil
	}
	log := p.Log()
	p.journal = journal{func() string { return log }}
	if p.syslog != nil {
		errs = append(errs, p.syslog.Close())
		p.syslog = nil
	}
	return errors.Join(append(errs, os.RemoveAll(p.Dir))...)
}
